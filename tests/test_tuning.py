"""tokay train: a mixture to a model and its plan, through the command line; whatever a user gets wrong before it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from command import call
from tiny import WORDS, tiny_base
from tokay.models.torch_embedder import TorchEmbedder
from tokay.progress import Silent
from tokay.settings import TrainSettings
from tokay.store import Run
from tokay.train.plan import plan_training
from tokay.train.tune import tune
from train_data import base, settings, source

FAST = (
    "--set",
    "train.epochs=2",
    "--set",
    "train.batch_size=8",
    "--set",
    "train.learning_rate=0.002",
    "--set",
    "train.dims=[16]",
)


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    """Forty pairs, and a BEIR folder of the same beside them."""
    pairs = [(f"{WORDS[i + 2]} {WORDS[i]}", " ".join(WORDS[i : i + 4])) for i in range(40)]
    lines = [json.dumps({"query": query, "positive": text}) for query, text in pairs]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    (tmp_path / "mixture.toml").write_text('[[source]]\nname = "own"\nkind = "pairs"\npath = "pairs.jsonl"\n')
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    (beir / "corpus.jsonl").write_text(
        "\n".join(json.dumps({"_id": f"d{i}", "text": t}) for i, (_, t) in enumerate(pairs))
    )
    (beir / "queries.jsonl").write_text(
        "\n".join(json.dumps({"_id": f"q{i}", "text": q}) for i, (q, _) in enumerate(pairs))
    )
    (beir / "qrels" / "dev.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td{i}\t1\n" for i in range(10))
    )
    return tmp_path / "mixture.toml"


def train(mixture: Path, *words: object) -> int:
    return call("train", mixture, "--base", tiny_base(), *FAST, *words)


def test_a_mixture_becomes_a_model_with_its_card(
    mixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert train(mixture, "--out", out, "--dev", tmp_path / "beir", "--soup", "auto", "--set", "train.patience=3") == 0
    said = capsys.readouterr().out
    assert "dev queries: nDCG@10" in said
    assert TorchEmbedder.load(out).config.dims == (32, 16)
    story = json.loads((out / "training" / "tuned.json").read_text())
    lines = [json.loads(line) for line in (out / "training" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == story["steps"] == 10
    assert story["loss"] == lines[-1]["loss"] < lines[0]["loss"]
    assert set(story["dev"]) == {f"{w:g}" for w in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)}
    card = (out / "README.md").read_text()
    assert "80 rows planned" in card
    assert story["settings"] in card
    measured = json.loads((out / "training" / "dev.json").read_text())
    assert measured["tuned"] > measured["base"]
    assert not (out / "training" / "checkpoints").exists()


def test_losses_of_other_sources_are_no_divergence(mixture: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(" ".join(WORDS[i : i + 6]) for i in range(40)))
    beside = '[[source]]\nname = "general"\nkind = "texts"\npath = "texts.txt"\nshare = 0.3\n'
    mixture.write_text(mixture.read_text() + beside)
    assert train(mixture, "--out", tmp_path / "model", "--set", "train.epochs=6") == 0
    lines = [json.loads(line) for line in (tmp_path / "model" / "training" / "metrics.jsonl").read_text().splitlines()]
    assert max(line["loss"] for line in lines) > 10 * min(line["loss"] for line in lines)


def test_learning_nothing_is_said(mixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.dumps({"query": f"{WORDS[i]} {WORDS[i + 1]}", "positive": "one text for all"}) for i in range(20)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    assert train(mixture, "--out", tmp_path / "model") == 0
    assert "nothing was learned" in capsys.readouterr().err


def test_lora_leaves_a_merged_model_and_its_matrices(mixture: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    assert train(mixture, "--out", out, "--adapter", "lora") == 0
    texts = [" ".join(WORDS[i : i + 5]) for i in range(9)]
    merged, adapted = TorchEmbedder.load(out), TorchEmbedder.load(out / "training" / "adapter")
    np.testing.assert_allclose(merged.encode(texts), adapted.encode(texts), atol=1e-5)
    assert not np.allclose(merged.encode(texts), TorchEmbedder.load(tiny_base()).encode(texts), atol=1e-3)


def test_a_plan_trains_nothing_and_counts_what_training_does(
    mixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert train(mixture, "--plan") == 0
    said = capsys.readouterr().out
    assert "own: 40 rows, 80 drawn" in said
    assert "10 steps of up to 8 rows" in said
    assert "of memory at the peak" in said
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("changes", [{}, {"tokens_kept": 40}, {"adapter": "lora"}, {"runs": 2, "soup": "auto"}])
def test_what_is_planned_is_what_is_done(changes: dict[str, object], tmp_path: Path) -> None:
    chosen = settings(**changes, soup=1.0) if "soup" not in changes else settings(**{**changes, "soup": 0.5})
    plan = plan_training(base(), [source()], chosen)
    done = tune(base(), [source()], chosen, model=tmp_path / "m", logs=tmp_path, checkpoints=None, progress=Silent())
    assert (plan.steps, plan.runs, plan.rows["run"][1]) == (done.steps, done.runs, done.sources["run"])
    assert plan.tokens * plan.runs == pytest.approx(done.tokens, rel=0.1)
    assert plan.useful == pytest.approx(done.useful, rel=0.05)
    assert (plan.savings.trainable, plan.precision) == (done.trainable, done.precision)
    assert (plan.twice > 0) == ("tokens_kept" in changes)
    assert plan.seconds > 0
    assert plan.memory > 12 * plan.savings.trainable


def test_planning_leaves_the_base_alone() -> None:
    model = base()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan_training(model, [source()], TrainSettings(batch_size=8, precision="fp32"))
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("{m}",), "there is no --out"),
        (("{t}", "--plan"), "neither a run folder"),
        (("{t}/none.toml", "--plan"), "cannot be read"),
        (("{m}", "--plan", "--soup", "much"), "expected a number above 0"),
        (("{m}", "--plan", "--soup", "2"), "expected a number above 0"),
        (("{m}", "--plan", "--adapter", "lorra"), "'full', 'lora', 'loreft' or 'direft'"),
        (("{m}", "--plan", "--set", "train.epoch=2"), "unknown setting 'train.epoch'"),
        (("{m}", "--plan", "--base", "{t}"), "without config.json"),
        (("{m}", "--plan", "--dev", "{t}/none"), "expected a BEIR folder"),
        (
            ("{m}", "--plan", "--dev", "{t}/beir", "--dev-split", "tset"),
            "--dev-split is 'tset', and {t}/beir has labels of the splits dev; ",
        ),
        (("{t}/none", "--out", "{t}"), "neither a run folder"),  # the source before the folder that is taken
        (("{t}/none.toml", "--out", "{t}"), "cannot be read: No such file"),
        (("{t}/empty.toml", "--out", "{t}"), "names no source"),
        (("{t}/unfinished", "--out", "{t}"), "has no examples/examples.parquet; run 'tokay distill"),
        (("{m}", "--out", "{m}"), "is a file"),
        (("{m}", "--out", "{t}"), "holds other files"),
        (("{m}", "--out", "{m}/x"), "x cannot be written: nothing can be made in"),
        (("{m}", "--out", "{t}/x", "--soup", "auto"), "need dev queries"),
        (("{m}", "--out", "{t}/x", "--set", "train.precision=fp16"), "needs a GPU"),
        (("{m}", "--out", "{t}/x", "--set", "train.freeze_layers=2"), "leave at least one"),
        (("{m}", "--out", "{t}/x", "--set", "train.dim_weights=[1]"), "give one for each"),
        (("{m}", "--out", "{t}/x", "--set", "train.track=trackio"), "not installed"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    words: Sequence[str], message: str, mixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.toml").touch()
    Run(tmp_path / "unfinished", writable=True).close()
    filled = [word.format(m=mixture, t=tmp_path) for word in words]
    assert call("train", filled[0], "--base", tiny_base(), *FAST, *filled[1:]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert message.replace("{t}", str(tmp_path)) in said
    assert not (tmp_path / "x" / "modules.json").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write anywhere")
def test_a_folder_of_another_user_is_refused(mixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "closed").mkdir(mode=0o000)
    assert train(mixture, "--out", tmp_path / "closed" / "x") == 1
    assert "x cannot be written: nothing can be made in" in capsys.readouterr().err


def test_a_model_is_not_written_over(mixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model"
    assert train(mixture, "--out", out) == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert train(mixture, "--out", out) == 1
    assert "holds a model already" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_a_training_that_was_cut_goes_on_and_one_of_other_rows_is_refused(
    mixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    often = ("--set", "train.checkpoint_minutes=0.0000001", "--set", "train.precision=fp32")
    assert train(mixture, "--out", whole, *often) == 0
    with monkeypatch.context() as patch:
        patch.setattr("tokay.train.tune._write", stop)
        assert train(mixture, "--out", cut, *often) == 130
    assert any((cut / "training" / "checkpoints").rglob("step-*"))
    assert train(mixture, "--out", cut, *often, "--set", "train.epochs=3") == 1
    assert "a checkpoint of another training" in capsys.readouterr().err
    moved = shutil.copytree(cut, tmp_path / "moved")
    for out in (cut, moved):
        assert train(mixture, "--out", out, *often) == 0
        assert "training goes on from step 10 of 10" in capsys.readouterr().err
    weights = [TorchEmbedder.load(out).state_dict() for out in (whole, cut, moved)]
    assert all(weights[0][name].equal(other[name]) for other in weights[1:] for name in weights[0])


def stop(*_: object) -> None:
    raise KeyboardInterrupt
