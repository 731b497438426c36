"""A fingerprint of what vectors follow from, and of nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tiny import tiny_base
from tokay.errors import TokayError
from tokay.models.folder import write_config
from tokay.models.format import InputFormat
from tokay.models.locate import find_model
from tokay.models.space import vector_space
from tokay.models.torch_embedder import TorchEmbedder


def test_saving_again_and_what_lies_beside_do_not_matter(tmp_path: Path) -> None:
    for name, folder in (("tiny", tiny_base()), ("minilm", find_model("minilm"))):
        before = vector_space(folder)
        TorchEmbedder.load(folder).save(tmp_path / name)
        assert vector_space(tmp_path / name) == before
        (tmp_path / name / "README.md").write_text("a card")
        (tmp_path / name / "onnx").mkdir()
        (tmp_path / name / "onnx" / "model.onnx").write_bytes(b"graph")
        assert vector_space(tmp_path / name) == before


def test_weights_prompts_pooling_and_vocabulary_do(tmp_path: Path) -> None:
    prints = {vector_space(tiny_base()), vector_space(tiny_base(seed=1)), vector_space(tiny_base("cls"))}
    prints.add(vector_space(tiny_base(prompts=("", "say: "))))
    shutil.copytree(tiny_base(), tmp_path / "words")
    tokenizer = json.loads((tmp_path / "words" / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["more"] = 1
    (tmp_path / "words" / "tokenizer.json").write_text(json.dumps(tokenizer))
    prints.add(vector_space(tmp_path / "words"))
    assert len(prints) == 5


def test_the_cut_does_not(tmp_path: Path) -> None:
    shutil.copytree(tiny_base(), tmp_path / "cut")
    embedder = TorchEmbedder.load(tmp_path / "cut")
    object.__setattr__(embedder.config, "max_tokens", 9)
    write_config(tmp_path / "cut", embedder.config, width=32)
    assert embedder.config.prompts == InputFormat("", "")
    assert vector_space(tmp_path / "cut") == vector_space(tiny_base())


def test_a_folder_without_weights_says_of_which_model_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    alone = vector_space(tmp_path)
    (tmp_path / "export.json").write_text(json.dumps({"vector_space": "abc", "forms": {}}))
    assert vector_space(tmp_path) == "abc" != alone


def test_weights_that_are_cut_short_are_told(tmp_path: Path) -> None:
    shutil.copytree(tiny_base(), tmp_path / "short")
    path = tmp_path / "short" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TokayError, match=r"model.safetensors is no safetensors file, or damaged; fetch or save"):
        vector_space(tmp_path / "short")


def test_a_runs_model(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(TokayError, match=r"is a run that has no model yet; finish it with tokay distill"):
        find_model(tmp_path)
    shutil.copytree(tiny_base(), tmp_path / "model")
    assert find_model(tmp_path) == tmp_path / "model"
