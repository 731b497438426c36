"""What follows from files is found out once, and again when a file was written again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from reft_models import disturb
from tiny import tiny_base
from tokay.errors import TokayError
from tokay.models import torch_embedder
from tokay.models.once import once, state_of
from tokay.models.reft_config import ReftConfig
from tokay.models.torch_embedder import TorchEmbedder
from tokay.train.adapters import Reft


def test_a_file_is_asked_again_only_where_it_changed(tmp_path: Path) -> None:
    path, asked = tmp_path / "a", list[str]()

    def find() -> str:
        asked.append(path.read_text())
        return asked[-1]

    path.write_text("one")
    assert [once("text", [path], find) for _ in range(3)] == ["one"] * 3
    assert once("another question", [path], find) == "one"
    assert len(asked) == 2
    other = tmp_path / "b"
    other.write_text("two")
    other.replace(path)
    assert [once("text", [path], find) for _ in range(2)] == ["two"] * 2
    assert len(asked) == 3
    assert [once("text", [], find) for _ in range(2)] == ["two"] * 2
    assert len(asked) == 5


def test_what_was_written_while_it_was_read_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    read = state_of([path])
    path.write_text("longer")
    assert once("text", [path], lambda: "of one", read=read) == "of one"
    assert once("text", [path], lambda: "of longer") == "of longer"


def test_a_base_is_hashed_once_for_all_its_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base(), base)
    model = TorchEmbedder.load(base, device="cpu")
    Reft(ReftConfig(rank=1)).attach(model)
    for seed in range(3):
        disturb(model.backbone, seed=seed)
        Reft(ReftConfig(rank=1)).save(model, tmp_path / str(seed), base_name=str(base))
    hashed, whole = [], torch_embedder.weights_print
    monkeypatch.setattr(torch_embedder, "weights_print", lambda module: hashed.append(1) or whole(module))
    for seed in range(3):
        loaded = TorchEmbedder.load(tmp_path / str(seed), device="cpu")
        assert loaded.backbone.base_print == json.loads((tmp_path / "0" / "tokay_adapter.json").read_text())["weights"]
    assert len(hashed) == 1
    tensors = load_file(base / "model.safetensors")
    save_file({name: value + 1 for name, value in tensors.items()}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(TokayError, match=r"is an adapter of .* with weights .*; the base that is there has weights"):
        TorchEmbedder.load(tmp_path / "1", device="cpu")
    assert len(hashed) == 2
