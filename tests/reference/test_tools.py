"""The snippets of docs/encode.md, as they stand there, where their packages are installed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export_data import material
from tiny import tiny_base
from tokay.export.write import export_model
from tokay.models.embedder import Embedder
from tokay.models.torch_embedder import TorchEmbedder

pytestmark = pytest.mark.reference
PAGE = Path(__file__).parents[2] / "docs" / "encode.md"
QUERY, PASSAGES = "open a file", ["the stone river", "open the file and read a line"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tools")
    model = TorchEmbedder.load(tiny_base(prompts=("query: ", "passage: ")), device="cpu")
    export_model(model, ["onnx"], out, material(), keep=True)
    return out


def snippet(package: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """The page's code that imports a package, for this folder; and its names once its imports and classes are run."""
    pytest.importorskip(package)
    [code] = [c for c in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if f"from {package}" in c]
    code = code.replace("runs/demo/export", str(folder))
    names: dict[str, Any] = {}
    exec(code, names)
    return code, names


def made(package: str, folder: Path) -> Any:
    """What the snippet's last expression makes."""
    code, names = snippet(package, folder)
    start = re.search(r"^[A-Z]\w+\(", code, re.M)
    assert start is not None
    return eval(code[start.start() :], names)


def check(query: Sequence[float], passages: Sequence[Sequence[float]], folder: Path) -> None:
    ours = Embedder.load(folder)
    np.testing.assert_allclose(query, ours.encode([QUERY], kind="query")[0], atol=3e-6)
    np.testing.assert_allclose(passages, ours.encode(PASSAGES), atol=3e-6)


def test_langchain(folder: Path) -> None:
    tool = made("langchain_huggingface", folder)
    check(tool.embed_query(QUERY), tool.embed_documents(PASSAGES), folder)


def test_llama_index(folder: Path) -> None:
    tool = made("llama_index.embeddings.huggingface", folder)
    check(tool.get_query_embedding(QUERY), tool.get_text_embedding_batch(PASSAGES), folder)


def test_txtai(folder: Path) -> None:
    tool = made("txtai", folder)
    tool.index(PASSAGES)
    assert {found["text"] for found in tool.search(QUERY, 2)} == set(PASSAGES)


def test_chroma(folder: Path) -> None:
    chromadb = pytest.importorskip("chromadb")
    tool = snippet("chromadb", folder)[1]["Tokay"](str(folder))
    check(tool.embed_query([QUERY])[0], tool(PASSAGES), folder)
    collection = chromadb.EphemeralClient().create_collection("texts", embedding_function=tool)
    collection.add(ids=["a", "b"], documents=PASSAGES)
    assert set(collection.query(query_texts=[QUERY], n_results=2)["ids"][0]) == {"a", "b"}
