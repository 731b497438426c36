"""``tokay calibrate`` on a small run with a two-layer base, through the command line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from command import call
from tiny import WORDS, tiny_base
from tokay import calibrating, open_run
from tokay.calibrating import ids_of, joined, population_of, rank_both, systems_of_run
from tokay.evaluate.calibrate import PEOPLE, WRITTEN
from tokay.evaluate.sets import EvaluationSet
from tokay.evaluating import set_of_run
from tokay.progress import Silent
from tokay.records import Passage, Query, sha256_text

SMALL = ["train.batch_size=8", "train.dims=[32, 16]", "split.test_share=0.5", "split.seen_share=0"]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty documents as JSONL, the recording of two queries for each, and thirty queries of people's with labels."""
    folder = tmp_path_factory.mktemp("material")
    rng = np.random.default_rng(0)
    texts = {f"p{i:02d}": " ".join(rng.choice(WORDS, 12, replace=False)) for i in range(60)}
    documents = ({"_id": i, "title": f"title {i}", "text": text} for i, text in texts.items())
    (folder / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    rows = [
        {
            "query_id": f"{i}#{k}",
            "seed_id": i,
            "seed_sha256": sha256_text(text),
            "task": "find it",
            "query": " ".join(text.split()[-3 - k :]),
            "judged": False,
        }
        for i, text in texts.items()
        for k in (0, 1)
    ]
    (folder / "recording").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "recording" / "queries.parquet")
    grades = {"query_id": pa.string(), "passage_id": pa.string(), "passage_sha256": pa.string(), "grade": pa.int64()}
    schema = pa.schema([*grades.items(), ("best", pa.bool_())])
    pq.write_table(pa.Table.from_pylist([], schema=schema), folder / "recording" / "judgments.parquet")
    asked = {i: text.split()[3:6] for i, text in list(texts.items())[:30]}
    (folder / "queries.tsv").write_text("".join(f"u{i}\t{' '.join(words)} please\n" for i, words in asked.items()))
    (folder / "qrels.tsv").write_text("".join(f"u{i} 0 {i} 1\n" for i in asked))
    return folder


@pytest.fixture(scope="module")
def run(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    llm = ("--llm", f"recorded:{material / 'recording'}")
    options = [word for one in (*SMALL, "evaluate.resamples=200") for word in ("--set", one)]
    assert call("distill", material / "docs.jsonl", *llm, "--base", tiny_base(), "--out", out, *options) == 0
    return out


def labels_of(material: Path) -> dict[str, str]:
    return {"queries": str(material / "queries.tsv"), "qrels": str(material / "qrels.tsv")}


def test_the_table_of_a_run(run: Path, material: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = labels_of(material)
    command = ("calibrate", run, "--queries", labels["queries"], "--qrels", labels["qrels"])
    assert call(*command) == 0
    said = capsys.readouterr().out
    assert "All pairs of systems" in said
    assert "The verdict, checked on" in said
    summary = json.loads((run / "compared" / "calibration.json").read_text())
    names = [row["system"] for row in summary["systems"]]
    assert {"bm25", "base", "base@16", "tuned", "tuned@16", "base+bm25", "tuned+bm25"} <= {*names}
    first, wide = summary["rows"][:2]
    assert first["pairs"] == len(names) * (len(names) - 1) / 2
    assert first["queries"][PEOPLE] == 30
    assert wide["coverage"] >= first["coverage"]
    assert wide["claims"] <= first["claims"]
    assert call(*command, "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert again == summary


def test_the_verdict_says_what_people_may_expect(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = open_run(run).read_json("evaluate", "verdict")
    people, primary = verdict["people"], verdict["primary"]
    assert people["difference"] == pytest.approx(primary["difference"])
    assert people["low"] <= primary["low"]
    assert people["high"] >= primary["high"]
    assert people["log"] == 0
    assert people["sentence"].startswith("On people's own queries expect a difference of ")
    assert "On people&#x27;s own queries" in (run / "report.html").read_text()


def test_both_kinds_are_ranked_together(run: Path, material: Path, tmp_path: Path) -> None:
    both = rank_both(
        str(run),
        [f"other={tiny_base(seed=1)}"],
        **labels_of(material),
        split="test",
        out=tmp_path / "out",
        confirm=lambda lines: False,
        progress=Silent(),
    )
    assert both.labels[-1] == "other"
    written, people = (population_of(both, kind) for kind in (WRITTEN, PEOPLE))
    assert people.values.shape == (len(both.labels), 30)
    assert len(set(written.groups)) < len(written.groups)  # two queries a passage
    assert {round(share, 2) for share in people.overlap} <= {0.0, 0.5, 0.67, 0.75}  # "please" stands in no passage
    by_name = {row["label"]: row for row in open_run(run).read_json("evaluate", "verdict")["rows"]}
    for ours, theirs in (
        ("bm25", "BM25"),
        ("base", "base @ 32"),
        ("tuned", "tuned @ 32"),
        ("base+bm25", "base+BM25 @ 32"),
    ):
        mean = written.means()[both.labels.index(ours)]
        assert mean == pytest.approx(by_name[theirs]["ndcg@10"], abs=1e-6), ours


def test_a_query_of_either_kind_keeps_its_own_answers() -> None:
    passages = [Passage(f"p{i}", "d", "", "text", "", "") for i in range(3)]

    def one(answers: dict[str, str], groups: dict[str, str]) -> EvaluationSet:
        queries = [Query(q, "", "", q, "test", True, "", "") for q in answers]
        qrels = {q: {p: 1} for q, p in answers.items()}
        return EvaluationSet("x", passages, queries, qrels, {q: {p} for q, p in answers.items()}, groups)

    on = joined(one({"a": "p0", "b": "p1"}, {"a": "s", "b": "s"}), one({"a": "p2", "c": "p1"}, {}))
    assert ids_of(on, WRITTEN) == ["written a", "written b"]
    assert ids_of(on, PEOPLE) == ["people's a", "people's c"]
    assert on.qrels["written a"] == {"p0": 1}
    assert on.qrels["people's a"] == {"p2": 1}
    assert [on.group_of(q) for q in on.qrels] == ["written s", "written s", "people's a", "people's c"]


def test_systems_that_a_run_has(run: Path) -> None:
    names = systems_of_run(open_run(run))
    assert names[:3] == ["bm25", "base", "base@16"]
    assert sum("+bm25=" in name for name in names) in (0, 2, 4, 6)  # none where the learned weight is 0


def test_what_cannot_be_calibrated(
    run: Path, material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few, strange = tmp_path / "few.tsv", tmp_path / "strange.tsv"
    few.write_text("".join(f"up{i:02d} 0 p{i:02d} 1\n" for i in range(5)))
    strange.write_text("".join(f"up{i:02d} 0 elsewhere{i} 1\n" for i in range(30)))
    queries = material / "queries.tsv"
    for arguments, said in (
        ((run, "--queries", queries, "--qrels", few), "5 people's queries are too few to check a verdict by"),
        ((run, "--queries", queries, "--qrels", strange), "0 queries have a relevant passage of this corpus"),
        ((run,), "expected people's queries and their labels"),
        ((material, "--queries", queries, "--qrels", few), "is no run folder"),
    ):
        assert call("calibrate", *arguments) == 1
        assert said in " ".join(capsys.readouterr().err.split())


def test_nothing_is_encoded_before_sizes_are_checked(
    run: Path, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tmp_path / "few.tsv"
    few.write_text("".join(f"up{i:02d} 0 p{i:02d} 1\n" for i in range(5)))
    monkeypatch.setattr(calibrating.Contenders, "rank", lambda self, spec: pytest.fail("ranked"))
    assert call("calibrate", run, "--queries", material / "queries.tsv", "--qrels", few) == 1


def test_a_set_beside_is_no_part() -> None:
    passages = [Passage("p0", "d", "", "text", "", "")]
    queries = [Query(q, "", "", q, "test", True, "", "") for q in "abc"]
    qrels = {q: {"p0": 1} for q in "abc"}
    one = EvaluationSet("x", passages, queries, qrels, {}, {}, frozenset("c"))
    assert ids_of(joined(one, dataclasses.replace(one, beside=frozenset())), WRITTEN) == ["written a", "written b"]


def test_a_run_gives_its_held_out_queries(run: Path) -> None:
    parts = {q.query_id: q.part for q in open_run(run).table("generate", "queries", Query)}
    assert {parts[q] for q in set_of_run(open_run(run)).primary} == {"test"}
