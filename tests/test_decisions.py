"""What people decide: what stands, what training and verdict make of it, and what survives."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokay.decisions import BY_HAND, Choice, Decided, by_hand, choices_of, fitting, graded
from tokay.errors import TokayError
from tokay.examples import make_examples
from tokay.records import Action, Candidate, Decision, Example, Judgment, Part, Query
from tokay.settings import ExampleSettings
from tokay.store import Run

NUMBER = iter(range(10**9))


def decide(action: Action, passage_id: str = "", grade: int = -1, undoes: str = "", query_id: str = "q") -> Decision:
    return Decision(f"d{next(NUMBER)}", query_id, "hash", action, passage_id, "", grade, undoes)


def rows_after(*decisions: Decision, parts: dict[str, Part] | None = None, **settings: object) -> list[Example]:
    """Rows of one query whose candidates are seed (3, best), a (2), b (1), c (0); d is mined and unjudged."""
    grades = {"seed": 3, "a": 2, "b": 1, "c": 0}
    judgments = [Judgment("q", p, g, float(g), p == "seed", "", "") for p, g in grades.items()]
    candidates = [Candidate("q", p, rank, rank, 1 / rank, 0, 0.0, 0, 0.0) for rank, p in enumerate([*grades, "d"], 1)]
    decided = Decided(choices_of(decisions))
    return list(
        make_examples(
            [Query("q", "seed", "task", "how?", "train", True, "", "")],
            candidates,
            graded(judgments, decided.choices),
            {p: "train" for p in [*grades, "d"]} | (parts or {}),
            ExampleSettings.model_validate({"positives": 1, "negatives": 9, **settings}),
            chosen=decided.chosen,
            rejected=decided.rejected,
        )
    )


@pytest.mark.parametrize("policy", ["graded", "gecko", "percpos"])
@pytest.mark.parametrize("passage_id", ["a", "c", "d"])
def test_a_chosen_positive_comes_before_the_policys(policy: str, passage_id: str) -> None:
    [row] = rows_after(decide("positive", passage_id), policy=policy)
    assert (row.positive_id, row.relabelled) == (passage_id, True)
    assert {"seed", "a", passage_id} <= {*row.relevant_ids}
    assert not {*row.negative_ids} & {*row.relevant_ids}


def test_it_wins_where_relabelling_is_off_and_over_a_filter() -> None:
    assert rows_after(relabel=False)[0].positive_id == "seed"
    assert rows_after(decide("positive", "a"), relabel=False)[0].positive_id == "a"
    query = [Query("q", "seed", "t", "how?", "train", True, "", "")]
    candidates = [Candidate("q", "seed", 1, 9, 0.5, 0, 0.0, 0, 0.0)]
    judged = [Judgment("q", "seed", 3, 3.0, True, "", "")]
    settings = ExampleSettings(round_trip=3)
    assert not list(make_examples(query, candidates, judged, None, settings))
    assert len(list(make_examples(query, candidates, judged, None, settings, chosen={"q": "seed"}))) == 1


def test_a_positive_of_a_held_out_document_is_not_taken_into_training() -> None:
    [row] = rows_after(decide("positive", "a"), parts={"a": "test"})
    assert row.positive_id == "seed"
    assert "a" in row.relevant_ids


def test_grades_by_hand_decide_who_may_be_negative() -> None:
    [row] = rows_after(decide("grade", "a", 0), decide("grade", "c", 2), decide("grade", "d", 1))
    assert {*row.negative_ids} == {"a", "b", "d"}
    assert row.relevant_ids == ["seed", "c"]
    assert dict(zip(row.candidate_ids, row.grades, strict=True)) == {"seed": 3, "a": 0, "b": 1, "c": 2, "d": 1}


def test_rejected_queries_make_no_row_until_they_are_taken_in_again() -> None:
    reject = decide("reject")
    assert rows_after(reject) == []
    assert rows_after(reject, decide("undo", undoes=reject.decision_id)) == rows_after()
    assert rows_after(reject, decide("accept", "seed"))[0].positive_id == "seed"
    assert rows_after(reject, decide("grade", "a", 0)) == []


def test_of_contradictions_the_later_one_stands() -> None:
    assert choices_of([decide("positive", "a"), decide("grade", "a", 1)])["q"].positive == ""
    later = choices_of([decide("grade", "a", 1), decide("positive", "a")])["q"]
    assert (later.positive, dict(later.grades)) == ("a", {})
    kept = choices_of([decide("grade", "a", 2), decide("accept", "a")])["q"]
    assert (kept.positive, kept.accepted, dict(kept.grades)) == ("a", True, {"a": 2})
    assert not choices_of([decide("positive", "a"), decide("positive", "b")])["q"].accepted


DECISIONS = st.lists(
    st.one_of(
        st.builds(lambda p: decide("positive", p), st.sampled_from("abcd")),
        st.builds(lambda p: decide("accept", p), st.sampled_from("abcd")),
        st.builds(lambda p, g: decide("grade", p, g), st.sampled_from("abcd"), st.integers(0, 3)),
        st.builds(lambda: decide("reject")),
    ),
    max_size=8,
)


@given(DECISIONS, st.sampled_from(["graded", "gecko", "percpos"]))
def test_no_row_contradicts_what_stands(decisions: list[Decision], policy: str) -> None:
    choice = choices_of(decisions).get("q", Choice())
    rows = rows_after(*decisions, policy=policy)
    assert not choice.rejected or rows == []
    for row in rows:
        assert row.positive_id == choice.positive or not choice.positive
        grades = dict(zip(row.candidate_ids, row.grades, strict=True))
        assert choice.grades.items() <= grades.items()
        assert not {p for p, g in choice.grades.items() if g >= 2} & {*row.negative_ids}


@given(DECISIONS)
def test_undoing_everything_leaves_nothing_and_no_key(decisions: list[Decision]) -> None:
    undone = [*decisions, *(decide("undo", undoes=d.decision_id) for d in decisions)]
    assert choices_of(undone) == {}
    assert Decided(choices_of(undone)).key == {}
    last = [*decisions, decide("undo", undoes=decisions[-1].decision_id)] if decisions else []
    assert choices_of(last) == choices_of(decisions[:-1])


def test_grades_of_others_are_left_as_they_were() -> None:
    others = [Judgment("other", "x", 1, 0.5, False, "p", "a"), Judgment("q", "a", 2, 0.5, True, "p", "a")]
    found = list(graded(others, choices_of([decide("grade", "b", 3)])))
    assert found[:2] == others
    assert (found[2].passage_id, found[2].grade, found[2].prompt) == ("b", 3, BY_HAND)


def test_decisions_about_other_texts_are_not_used() -> None:
    made = [decide("accept", "p"), decide("reject", query_id="gone")]
    assert fitting(made, {"q": "hash"}, {"p": ""}) == ([made[0]], 1)
    assert fitting(made, {"q": "another", "gone": "hash"}, {"p": ""}) == ([made[1]], 1)
    assert fitting(made, {"q": "hash"}, {"p": "another"})[1] == 2


def test_what_of_a_verdict_is_by_hand() -> None:
    parts: dict[str, Part] = {"t": "test", "s": "seen", "q": "train"}
    made = [
        decide("grade", "a", 1, query_id="t"),
        decide("accept", "b", query_id="t"),
        decide("reject", query_id="s"),
        decide("positive", "a"),
    ]
    assert by_hand(Decided(choices_of(made)), parts) == {"by_hand": {"grades": 1, "left_out": 1}}
    assert by_hand(Decided(choices_of(made[3:])), parts) == {}


def test_a_run_keeps_decisions_whole_and_in_order(tmp_path: Path) -> None:
    with Run(tmp_path / "run", writable=True) as run:
        assert run.decisions() == []

        def add() -> None:
            for _ in range(10):
                run.decide(lambda before: decide("grade", f"after {len(before)}\n\u2028\ud800", 1))

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [d.passage_id for d in run.decisions()] == [f"after {i}\n\u2028\ud800" for i in range(40)]
    file = tmp_path / "run" / "decisions.jsonl"
    lines = file.read_text().splitlines()
    assert json.loads(lines[0])["grade"] == 1
    file.write_text("\n".join([lines[0], lines[1][:30]]))
    with pytest.raises(TokayError, match=r"decisions\.jsonl line 2 is not a decision"):
        Run(tmp_path / "run", writable=False).decisions()
