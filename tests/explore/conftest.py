from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from exploring import exploring, opened
from made_run import HOSTILE, made_run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 40 passages, of which some mean ill."""
    path = tmp_path_factory.mktemp("runs") / "made <b>run"
    made_run(path, texts=[*HOSTILE, "long " * 210_000])
    return path


@pytest.fixture
def client(made: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    """A browser's client of a page over a copy of it, with nothing decided yet."""
    with exploring(made, tmp_path) as address, opened(address) as found:
        yield found
