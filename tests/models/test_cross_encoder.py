"""Folders that are no rerankers are told apart in one sentence each, and no folder's code is run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiny import tiny_base
from tokay.errors import TokayError
from tokay.models.cross_encoder import CrossEncoder, written
from tokay.models.tokens import PairIds
from tokay.models.torch_cross_encoder import TorchCrossEncoder, is_cross_encoder
from tokay.models.torch_embedder import TorchEmbedder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "reranker"
    TorchCrossEncoder.on_top_of(TorchEmbedder.load(tiny_base(), device="cpu"), max_tokens=24).save(folder)
    return folder


def changed(saved: Path, to: Path, **changes: Any) -> Path:
    """A copy whose config.json says something else."""
    shutil.copytree(saved, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, **changes}))
    return to


def test_a_saved_one_is_one(saved: Path) -> None:
    assert is_cross_encoder(saved)
    assert not is_cross_encoder(tiny_base())
    assert not list(saved.glob("*.bin"))
    loaded = CrossEncoder.load(saved, device="cpu")
    assert loaded.max_tokens == 24
    assert loaded.score([]).shape == (0,)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"id2label": {"0": "NO", "1": "YES"}}, "it has 2 outputs; expected a cross-encoder with one"),
        ({"architectures": ["BertModel"]}, "its config.json has BertModel; expected a sequence classifier"),
        ({"architectures": None}, "its config.json has no architecture; expected a sequence classifier"),
    ],
)
def test_other_kinds_are_told_apart(saved: Path, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    folder = changed(saved, tmp_path / "other", **changes)
    with pytest.raises(TokayError, match=says):
        CrossEncoder.load(folder)


def test_an_embedder_is_none() -> None:
    with pytest.raises(TokayError, match="is no reranker but an embedder"):
        CrossEncoder.load(tiny_base())


def test_weights_that_would_be_unpickled_are_not_read(saved: Path, tmp_path: Path) -> None:
    import torch

    shutil.copytree(saved, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(TokayError, match="cannot be loaded as a cross-encoder"):
        CrossEncoder.load(tmp_path / "pickled")


def test_a_folders_code_is_not_run(saved: Path, tmp_path: Path) -> None:
    code = {"auto_map": {"AutoModelForSequenceClassification": "evil.Model"}, "model_type": "unheard-of"}
    folder = changed(saved, tmp_path / "evil", **code)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: ...\n")
    with pytest.raises(TokayError, match="cannot be loaded as a cross-encoder"):
        CrossEncoder.load(folder)
    assert not (tmp_path / "ran").exists()


def test_a_form_that_was_not_exported_and_one_that_is_none(saved: Path) -> None:
    with pytest.raises(TokayError, match=r"has no onnx/model_qint8.onnx"):
        CrossEncoder.load(saved, backend="onnx-int8")
    with pytest.raises(TokayError, match="backend of a reranker is 'static'; expected one of torch, onnx, onnx-int8"):
        CrossEncoder.load(saved, backend="static")  # type: ignore[arg-type]


def test_bfloat16_is_near(saved: Path) -> None:
    pairs = [("open a file", "read it"), ("zip", "stone river")]
    exact = CrossEncoder.load(saved, device="cpu").score(pairs)
    near = TorchCrossEncoder.load(saved, device="cpu", dtype="bfloat16").score(pairs)
    np.testing.assert_allclose(near, exact, atol=0.05)


def test_pairs_travel_between_processes() -> None:
    import pickle

    ids = pickle.loads(pickle.dumps(PairIds([1, 2, 3], 2)))
    assert (list(ids), ids.second) == ([1, 2, 3], 2)
    assert written("text", "title") == "title text"
    assert written("text") == "text"


def test_odd_texts(saved: Path) -> None:
    loaded = CrossEncoder.load(saved, device="cpu")
    assert np.isfinite(loaded.score([("", ""), ("\ud800", "\udfff x"), ("a " * 500, "b " * 500)])).all()


def test_a_cross_encoder_is_no_embedder(saved: Path) -> None:
    with pytest.raises(TokayError, match=r"is a classifier or a cross-encoder \(\w+ForSequenceClassification\)"):
        TorchEmbedder.load(saved)
