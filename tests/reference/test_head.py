"""Maps behind pooling against sentence-transformers: folders that it writes, and folders that it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tiny import tiny_base, with_steps
from tokay.models.dense import ACTIVATIONS, Dense
from tokay.models.embedder import Embedder
from tokay.models.space import vector_space
from tokay.models.torch_embedder import TorchEmbedder

pytestmark = pytest.mark.reference

TEXTS = ["river stone cloud", "a list of maps and an iron file", "flame", ""]
STEPS = (Dense(32, 48, True, "Tanh"), "Normalize", Dense(48, 12, False, "Identity"))


def theirs(*modules: Any, pooling: str = "mean") -> Any:
    """Their model: the tiny base with these modules behind pooling."""
    from sentence_transformers import SentenceTransformer

    whole = SentenceTransformer(str(tiny_base(pooling)), device="cpu")
    return SentenceTransformer(modules=[whole[0], whole[1], *modules], device="cpu")


def dense(inner: int, width: int, activation: str = "Identity", *, bias: bool = True) -> Any:
    from sentence_transformers.sentence_transformer.modules import Dense as Theirs

    torch.manual_seed(width)
    return Theirs(inner, width, bias=bias, activation_function=getattr(nn, activation)())


def normalize() -> Any:
    from sentence_transformers.sentence_transformer.modules import Normalize

    return Normalize()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_one_map_is_theirs(tmp_path: Path, activation: str, bias: bool) -> None:
    other = theirs(dense(32, 24, activation, bias=bias), normalize())
    other.save(str(tmp_path))
    found = Embedder.load(tmp_path, device="cpu")
    assert found.width == 24
    np.testing.assert_allclose(found.encode(TEXTS), other.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("order", ["ND", "DN", "DD", "DND", "DNDN", "NDNDD"])
def test_maps_and_norms_stand_in_their_order(tmp_path: Path, order: str, pooling: str) -> None:
    widths = iter(range(33, 99, 7))
    modules, width = [], 32
    for letter in order:
        if letter == "N":
            modules.append(normalize())
        else:
            modules.append(dense(width, wider := next(widths), "Tanh"))
            width = wider
    other = theirs(*modules, pooling=pooling)
    other.save(str(tmp_path / "theirs"))
    found = TorchEmbedder.load(tmp_path / "theirs", device="cpu")
    np.testing.assert_allclose(found.encode(TEXTS), other.encode(TEXTS), atol=1e-5)
    found.save(tmp_path / "ours")
    from sentence_transformers import SentenceTransformer

    again = SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    assert [type(module) for module in again] == [type(module) for module in other]
    np.testing.assert_allclose(again.encode(TEXTS), other.encode(TEXTS), atol=1e-5)
    assert again.get_embedding_dimension() == width


def test_the_graph_has_the_maps(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    from tokay.export.onnx import write_onnx
    from tokay.models.onnx_embedder import FILES

    base = with_steps(tmp_path / "base", STEPS)
    model = TorchEmbedder.load(base, device="cpu")
    model.save(tmp_path / "out")
    write_onnx(model, tmp_path / "out" / FILES[False])
    found = Embedder.load(tmp_path / "out", backend="onnx")
    assert found.width == 12
    np.testing.assert_allclose(found.encode(TEXTS), SentenceTransformer(str(base)).encode(TEXTS), atol=1e-5)
    assert vector_space(tmp_path / "out") == vector_space(base)
