from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokay
from fake_llm import FakeLLM
from test_pipeline import call
from tiny import WORDS, tiny_base
from tokay.evaluate.qrels import read_labels
from tokay.records import Candidate, Change, Judgment
from tokay.relabel import changes_of, relabelled, summary_of
from tokay.settings import RelabelSettings

LABELS = {"q1": {"a": 1, "b": 2, "c": 0}, "q2": {"a": 1}}
JUDGED = {"q1": {"a": 3, "b": 1, "c": 2, "d": 3, "e": 0}}


def changes() -> list[Change]:
    judgments = [Judgment(q, p, g, float(g), False, "", "") for q, grades in JUDGED.items() for p, g in grades.items()]
    return list(changes_of(LABELS, judgments))


def test_every_kind_of_change() -> None:
    assert [(c.query_id, c.passage_id, c.label, c.grade, c.change) for c in changes()] == [
        ("q1", "a", 1, 3, "confirmed"),
        ("q1", "b", 2, 1, "doubted"),
        ("q1", "c", 0, 2, "found"),
        ("q1", "d", -1, 3, "found"),
        ("q2", "a", 1, -1, "unjudged"),
    ]
    assert summary_of(changes()) == {
        "queries": 2,
        "confirmed": 1,
        "found": 2,
        "doubted": 1,
        "unjudged": 1,
        "queries with a false negative": 1,
        "queries with a doubted label": 1,
    }


def test_what_becomes_of_them() -> None:
    assert relabelled(changes(), RelabelSettings()) == {"q1": {"a": 1, "b": 2, "c": 1, "d": 1}, "q2": {"a": 1}}
    strict = RelabelSettings(found="drop", doubted="drop")
    assert relabelled(changes(), strict) == {"q1": {"a": 1}, "q2": {"a": 1}}


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(-1, 3)),
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3)),
)
def test_a_judge_that_agrees_changes_nothing(labels: dict[str, int], judged: dict[str, int]) -> None:
    agreeing = {p: 3 if labels.get(p, 0) > 0 else min(judged.get(p, 0), 1) for p in {*labels, *judged}}
    judgments = [Judgment("q", p, g, 0.0, False, "", "") for p, g in agreeing.items()]
    found = list(changes_of({"q": labels}, judgments))
    assert {c.change for c in found} <= {"confirmed"}
    kept = relabelled(found, RelabelSettings(doubted="drop"))
    assert kept.get("q", {}) == {p: g for p, g in labels.items() if g > 0}


def test_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    texts = {f"p{i}": " ".join(rng.choice(WORDS, 12, replace=False)) for i in range(20)}
    (tmp_path / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": i, "title": i, "text": text}) + "\n" for i, text in texts.items())
    )
    queries = {f"q{n}": " ".join(text.split()[:6]) for n, text in enumerate(texts.values())}
    rows = [json.dumps({"_id": q, "text": text}) for q, text in queries.items()]
    (tmp_path / "queries.jsonl").write_text("\n".join(rows))
    wrong = {0: "p5", 1: "p9"}  # the judge will find p0 and p1, and doubt these
    labels = "".join(f"q{n}\t{wrong.get(n, f'p{n}')}\t1\n" for n in range(20))
    (tmp_path / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + labels)
    arguments = (
        "relabel",
        tmp_path / "corpus.jsonl",
        *("--queries", tmp_path / "queries.jsonl", "--qrels", tmp_path / "train.tsv"),
        *("--llm", "openai:fake", "--base", tiny_base(), "--out", tmp_path / "run"),
    )
    with FakeLLM() as server:
        assert call(*arguments, "--llm-url", server.url) == 1
        assert not server.asked
        assert "20 queries of your own" in capsys.readouterr().err
        assert call(*arguments, "--llm-url", server.url, "--yes") == 0
        asked = sum(server.asked.values())
        assert asked == 40  # two turns a query
        assert call(*arguments, "--llm-url", server.url, "--yes", "--set", "relabel.doubted=drop") == 0
        assert sum(server.asked.values()) == asked
    said = capsys.readouterr().out
    assert "18 confirmed" in said
    assert "2 queries with a false negative" in said
    run = tokay.open_run(tmp_path / "run")
    candidates = {(c.query_id, c.passage_id) for c in run.table("mine", "candidates", Candidate)}
    assert {("q0", "p5"), ("q1", "p9")} <= candidates
    beir = tmp_path / "run" / "relabel" / "beir"
    after = read_labels(str(beir / "queries.jsonl"), str(beir / "qrels" / "train.tsv"), known_ids=set(texts)).qrels
    assert (after["q0"], after["q2"]) == ({"p0": 1}, {"p2": 1})
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Found: right answers without a label" in page
    assert queries["q0"] in page


def test_what_a_user_can_mend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.jsonl").write_text('{"_id": "a", "text": "one two three"}\n')
    (tmp_path / "q.tsv").write_text("q\tone\n")
    (tmp_path / "r.tsv").write_text("q\ta\t1\n")
    files = (tmp_path / "c.jsonl", "--queries", tmp_path / "q.tsv", "--base", tiny_base(), "--out", tmp_path / "run")
    assert call("relabel", *files, "--qrels", tmp_path / "r.tsv", "--llm", "recorded") == 1
    assert "relabelling needs an LLM that judges now" in capsys.readouterr().err
    assert call("relabel", *files, "--qrels", tmp_path / "no.tsv", "--llm", "openai:m") == 1
    assert "there is no such file" in capsys.readouterr().err
