"""The cache says what the run's tables say."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

import tokay
from made_run import made_run
from tokay.decisions import Choice
from tokay.errors import TokayError
from tokay.explore.cache import cache_of, connect
from tokay.explore.story import material_of, rows_with, why_candidate, why_positive
from tokay.records import Candidate, Example, Judgment, Passage, Query
from tokay.settings import ExampleSettings
from tokay.trace import trace_queries


def test_a_querys_material_is_its_trace(made: Path) -> None:
    run = tokay.open_run(made)
    queries = list(run.table("generate", "queries", Query))
    traces = {t.query.query_id: t for t in trace_queries(run, [q.query_id for q in queries])}
    with contextlib.closing(connect(cache_of(run))) as db:
        for n, query in enumerate(queries):
            found = material_of(db, run, n, Choice())
            assert found is not None
            assert found.trace == traces[query.query_id]
        assert material_of(db, run, len(queries), Choice()) is None


def test_roles_and_uses_are_counted(made: Path) -> None:
    run = tokay.open_run(made)
    with contextlib.closing(connect(cache_of(run))) as db:
        passages = [p.passage_id for p in run.table("corpus", "passages", Passage)]
        assert [r[0] for r in db.execute("SELECT passage_id FROM passages ORDER BY n")] == passages
        examples = list(run.table("examples", "examples", Example))
        negatives = {(e.query_id, p) for e in examples for p in e.negative_ids}
        said = db.execute(
            "SELECT query_id, passage_id FROM pairs c JOIN queries q ON q.n = c.query JOIN passages p ON p.n = c.passage "
            "WHERE role = 'negative'"
        )
        assert {tuple(r) for r in said} == negatives
        assert db.execute("SELECT sum(negatives) FROM passages").fetchone()[0] == len(negatives)
        grades = sum(1 for _ in run.table("judge", "judgments", Judgment))
        mined = sum(1 for _ in run.table("mine", "candidates", Candidate))
        assert db.execute("SELECT count(grade), count(*) FROM pairs").fetchone()[:] == (grades, mined)


def test_it_is_made_once_and_anew_when_the_run_is_another(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", until="mine")
    first = cache_of(run)
    assert first.stat().st_mtime_ns == cache_of(run).stat().st_mtime_ns
    again = cache_of(made_run(tmp_path / "run", until="judge"))
    assert again != first
    assert [path.name for path in first.parent.iterdir()] == [again.name]


def test_a_run_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(tmp_path / "run", until="corpus")
    (tmp_path / "run" / "explore").write_text("in the way")
    with pytest.raises(TokayError, match=r"cannot be written .* copy the run"):
        cache_of(run)


SETTINGS = [
    {},
    {"policy": "gecko", "negatives": 2},
    {"policy": "percpos", "negatives": 3},
    {"negative_max_grade": 0, "negatives": 9, "negative_choice": "last"},
    {"relabel": False},
    {"round_trip": 1},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_rows_are_those_of_the_examples_stage_and_have_a_reason(tmp_path: Path, settings: dict[str, object]) -> None:
    run = made_run(tmp_path / "run", settings=settings)
    chosen = ExampleSettings.model_validate(settings)
    stored: dict[str, list[Example]] = {}
    for e in run.table("examples", "examples", Example):
        stored.setdefault(e.query_id, []).append(e)
    seen = set()
    with contextlib.closing(connect(cache_of(run))) as db:
        for n in range(20):
            found = material_of(db, run, n, Choice())
            assert found is not None
            rows = rows_with(found, chosen, Choice())
            assert rows == stored.get(found.trace.query.query_id, [])
            why = why_positive(found, rows, chosen, Choice())
            assert why.startswith("No training row") is (not rows)
            for _, passage, judgment in found.trace.candidates:
                grade = judgment.grade if judgment else None
                role = next((k for k, v in roles(rows).items() if passage.passage_id in v), "")
                said = why_candidate(passage, grade, role, found, chosen, Choice())
                seen.add(said.split(":")[0].split("(")[0].strip())
                if role == "positive":
                    assert said.startswith("Positive")
                elif rows and passage.passage_id in roles(rows)["negative"]:
                    assert said.startswith("Hard negative")
                else:
                    assert said.startswith(("Masked", "Could be", "Not a negative", "Left out", "Unjudged"))
    assert len(seen) >= 4


def roles(rows: list[Example]) -> dict[str, set[str]]:
    return {
        "positive": {e.positive_id for e in rows},
        "negative": {p for e in rows for p in e.negative_ids},
        "relevant": {p for e in rows for p in e.relevant_ids},
    }
