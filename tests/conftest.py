from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing in these tests may ask the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent))

settings.register_profile("tokay", deadline=None, derandomize=True)
settings.load_profile("tokay")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)
