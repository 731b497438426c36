"""Runs beside each other, through the command line; runs are laid out by hand, as the store keeps them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command import call
from tokay.comparing import compare_runs, find_runs
from tokay.errors import TokayError
from tokay.evaluate.qrels import write_beir
from tokay.records import Example, Passage, Query, Score
from tokay.settings import resolve, to_toml
from tokay.store import Run, StageOutput

PASSAGES = [Passage(f"p{i}", f"d{i}", "", f"text {i}", "", "") for i in range(60)]


def make_run(
    path: Path,
    *,
    gain: float = 0.0,
    seed: int = 0,
    ids: range = range(60),
    done: bool = True,
    overrides: tuple[str, ...] = (),
) -> Path:
    """A run whose tuned model is better than its base by ``gain``; its base is the same for all."""
    rng, queries = (
        np.random.default_rng(seed),
        [Query(f"q{i}", f"p{i}", "", f"query {i}", "test", True, "", "") for i in ids],
    )
    base = {q.query_id: float(v) for q, v in zip(queries, np.random.default_rng(9).random(60)[list(ids)], strict=True)}
    tuned = {q: v + gain + float(rng.normal(0, 0.05)) for q, v in base.items()}
    systems = {("BM25", 0): base, ("base", 32): base, ("tuned", 32): tuned, ("tuned", 16): tuned}
    scores = [Score(*system, q, "ndcg@10", v) for system, values in systems.items() for q, v in values.items()]

    def work(name: str, out: StageOutput) -> None:
        if name == "corpus":
            out.write("passages", Passage, PASSAGES)
        elif name == "generate":
            out.write("queries", Query, queries)
        elif name == "examples":
            out.write("examples", Example, ())
        else:
            out.write("scores", Score, scores)
            primary = {"difference": gain, "low": gain - 0.01, "high": gain + 0.01, "p_value": 0.01}
            out.write_json("verdict", {"sentence": f"tuned is better by {gain}", "primary": primary})
            texts = {q.query_id: q.text for q in queries}
            write_beir(out.path / "beir", PASSAGES, texts, {q.query_id: {q.seed_id: 3} for q in queries}, split="test")

    with Run(path, writable=True) as store:
        store.write_settings(to_toml(resolve({"documents": "docs"}, overrides=overrides)))
        for name in ("corpus", "generate", "examples", *(["evaluate"] if done else [])):
            store.stage(name, lambda out, name=name: work(name, out), settings={})  # type: ignore[misc]
    return path


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    capsys.readouterr()
    assert call(*arguments) == code
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def test_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = make_run(tmp_path / "a", gain=0.05)
    b = make_run(tmp_path / "b", gain=0.15, seed=1, overrides=("train.epochs=7", "base=other"))
    found = compare_runs(a, b)
    assert [(row["name"], row["a"], row["b"]) for row in found.settings] == [
        ("base", "minilm", "other"),
        ("train.epochs", 3, 7),
    ]
    rows = {row["label"]: row["comparison"] for row in found.common["systems"]}
    assert list(rows) == ["BM25", "base @ 32", "tuned @ 32", "tuned @ 16"]
    assert rows["base @ 32"]["p_value"] == 1.0
    assert rows["tuned @ 32"]["difference"] == pytest.approx(0.1, abs=0.03)
    assert rows["tuned @ 32"]["low"] > 0
    assert found.common["sentence"].startswith("tuned of b is better than tuned of a by")
    assert found.common["notes"] == []
    assert found.a.cost == "nothing"
    shown = said(capsys, "compare", a, b)
    for words in ("Settings that differ", "train.epochs 3 7", "On 60 queries that both have", "corrected for all rows"):
        assert words in shown
    again: dict[str, Any] = json.loads(said(capsys, "compare", a, b, "--json"))
    assert again["common"]["queries"] == 60


def test_only_queries_of_the_same_text_are_compared(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", gain=0.1), make_run(tmp_path / "b", ids=range(20, 60))
    assert compare_runs(a, b).common["queries"] == 40
    folder = b / "evaluate" / "beir"
    shutil.rmtree(folder)
    kept = {f"q{i}": {f"p{i}": 3 if i % 2 else 2} for i in range(20, 60)}
    write_beir(folder, PASSAGES, {q: "text" for q in kept}, kept, split="test")
    assert compare_runs(a, b).common["notes"] == [
        "20 of these queries have other grades in the two runs, so figures differ by that, too"
    ]
    few = make_run(tmp_path / "few", ids=range(59, 60))
    assert compare_runs(a, few).common == {"reason": "1 held-out queries are in both, and at least 2 are needed"}


def test_a_run_that_is_not_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, half = make_run(tmp_path / "a"), make_run(tmp_path / "half", done=False)
    shown = said(capsys, "compare", a, half)
    assert "half: not finished (done: corpus, examples, generate)" in shown
    assert f"No paired comparison: {half} has not come to its verdict." in shown


def test_the_index_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "x" / "one", gain=0.1)
    make_run(tmp_path / "two", done=False)
    broken = tmp_path / "x" / "y" / "broken"
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text("{")
    old = make_run(tmp_path / "old")
    (old / "run.toml").unlink()
    make_run(tmp_path / "two" / "inside")  # not looked for in a run
    make_run(tmp_path / "a" / "b" / "c" / "d" / "e")  # too deep
    found = {one.name: one for one in find_runs(tmp_path)}
    assert set(found) == {"x/one", "two", "x/y/broken", "old"}
    assert (found["x/one"].passages, found["x/one"].queries, found["x/one"].state) == (60, 60, "finished")
    assert found["x/one"].primary is not None
    assert found["two"].state == "not finished (done: corpus, examples, generate)"
    assert "cannot be read:" in found["x/y/broken"].state
    assert "is damaged" in found["x/y/broken"].state
    assert "has no run.toml" in found["old"].state
    assert [one.name for one in find_runs(tmp_path / "x" / "one")] == ["one"]
    assert "+0.100 (+0.090 to +0.110)" in said(capsys, "runs", tmp_path)
    assert {row["name"] for row in json.loads(said(capsys, "runs", tmp_path, "--json"))} == set(found)


def test_folders_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = make_run(tmp_path / "run")
    assert "has no run in it, 4 folders deep" in said(capsys, "runs", tmp_path / "run" / "corpus", code=1)
    assert "is no folder" in said(capsys, "runs", tmp_path / "nothing", code=1)
    assert "is not a run folder" in said(capsys, "compare", a, tmp_path, code=1)
    assert "are the same run; name two" in said(capsys, "compare", a, a, code=1)
    (tmp_path / "link").symlink_to(a)
    with pytest.raises(TokayError, match="are the same run"):
        compare_runs(a, tmp_path / "link")
