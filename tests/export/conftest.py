from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from export_data import material
from tiny import tiny_base
from tokay.export.write import Exported, export_model
from tokay.models.torch_embedder import TorchEmbedder


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sequence[Exported]]:
    """A tiny model in all forms."""
    folder = tmp_path_factory.mktemp("exported")
    model = TorchEmbedder.load(tiny_base(prompts=("query: ", "passage: ")), device="cpu")
    model.config = model.config.__class__("mean", True, 64, model.config.prompts, (32, 16))
    done = export_model(model, ("gguf-notes", "onnx-int8", "static", "onnx"), folder, material(), keep=True)
    return folder, done
