from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import serving
from tiny import tiny_base
from tokay.models.embedder import Embedder


@pytest.fixture(scope="session")
def folder() -> Path:
    """Prompts on both sides, and Matryoshka widths."""
    made = tiny_base(prompts=("query: ", "passage: "))
    config = json.loads((made / "config.json").read_text())
    config["matryoshka_dimensions"] = [8, 16]
    (made / "config.json").write_text(json.dumps(config))
    return made


@pytest.fixture(scope="session")
def embedder(folder: Path) -> Embedder:
    return Embedder.load(folder, device="cpu")


@pytest.fixture(scope="session")
def other() -> Embedder:
    """Gecko's prompts, other weights."""
    return Embedder.load(tiny_base("cls", prompts=("task: search result | query: ", "title: none | text: "), seed=1))


@pytest.fixture(scope="session")
def url(embedder: Embedder, other: Embedder) -> Iterator[str]:
    with serving({"tiny": embedder, "other": other}) as place:
        yield place
