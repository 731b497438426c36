"""``tokay benchmark`` as a user calls it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from command import call
from made_tasks import TASKS, folder_of
from tiny import tiny_base


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, suffix in (("STS", ".tsv"), ("classification", ".parquet"), ("retrieval", ".jsonl")):
        folder_of(TASKS[name], folder / name, suffix)
    (folder / "STS").rename(folder / "stsb")
    return folder


def test_results_are_printed_and_written_in_mtebs_layout(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "my model"
    shutil.copytree(tiny_base(), model)
    named = [word for one in ("stsb", "classification", "retrieval") for word in ("--tasks", data / one)]
    assert call("benchmark", model, tiny_base(seed=1), *named, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert "texts are read to 64 tokens" in printed.err
    for said in ("STSBenchmark", "cosine_spearman", "passages", "classes", "1 of 10", "gecko-1b-768"):
        assert said in printed.out
    assert "cannot be compared" in " ".join(printed.out.split())
    (revision,) = (tmp_path / "out" / "results" / "tokay__my-model").iterdir()
    assert {file.name for file in revision.iterdir()} == {
        "STSBenchmark.json",
        "classification.json",
        "retrieval.json",
        "model_meta.json",
    }
    found = json.loads((revision / "classification.json").read_text())
    (entry,) = found["scores"]["test"]
    assert entry["main_score"] == entry["accuracy"] > 1 / 3
    assert len(entry["scores_per_experiment"]) == 10
    assert found["dataset_revision"]
    meta = json.loads((revision / "model_meta.json").read_text())
    assert (meta["name"], meta["revision"], meta["embed_dim"]) == ("tokay/my-model", revision.name, 32)
    assert len(list((tmp_path / "out" / "results").iterdir())) == 2


def test_other_settings_have_results_of_their_own(data: Path, tmp_path: Path) -> None:
    arguments = ("benchmark", tiny_base(), "--tasks", data / "stsb", "--out", tmp_path)
    assert call(*arguments, "--dim", 8, "--max-tokens", 16) == 0
    assert [str(f.relative_to(tmp_path)).split("/")[3:] for f in tmp_path.rglob("STSBenchmark.json")] == [
        ["experiments", "embed_dim_8__max_tokens_16", "STSBenchmark.json"]
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tasks", "{data}/nothing"), "there is no folder or file"),
        (("--tasks", "{data}/stsb", "--dim", "99"), "--dim is 99;"),
        (("--tasks", "{data}/stsb", "--max-tokens", "512"), "--max-tokens is 512;"),
        (("--tasks", "{data}/stsb", "--backend", "torhc"), "did you mean 'torch'"),
        (("--tasks", "{data}/stsb", "--tasks", "sts:{data}/stsb"), "are both called STSBenchmark; rename a folder"),
        (("--tasks", "{data}/retrieval", "--split", "tset"), "--split is 'tset', and"),
    ],
)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...], message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("benchmark", tiny_base(), *(word.format(data=data) for word in arguments)) == 1
    printed = " ".join(capsys.readouterr().err.split())
    assert message in printed
    assert "Traceback" not in printed


def test_a_set_of_mteb_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mteb")
    assert call("benchmark", tiny_base(), "--tasks", "mteb:SciFactt") == 1
    assert "mteb has no task or benchmark 'SciFactt'; did you mean 'SciFact'?" in capsys.readouterr().err
    assert call("benchmark", tiny_base(), "--tasks", "mteb:STSBenchmark") == 1
    printed = " ".join(capsys.readouterr().err.split())
    assert "mteb:STSBenchmark could not be run" in printed
    assert "check the network, or name a local folder" in printed
    assert "Traceback" not in printed
