from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokay.examples import make_examples
from tokay.records import Candidate, Example, Judgment, Part, Query
from tokay.settings import ExampleSettings


def build(
    grades: dict[str, int],
    *,
    best: str = "",
    part: Part = "train",
    parts: dict[str, Part] | None = None,
    **settings: object,
) -> list[Example]:
    query = Query("q", "seed", "task", "how?", part, bool(grades), "", "")
    everything = {p: part for p in [*grades, "seed"]} | (parts or {})
    judgments = [Judgment("q", p, g, float(g), p == best, "", "") for p, g in grades.items()]
    candidates = [Candidate("q", p, rank, rank, 1 / rank, 0, 0.0, 0, 0.0) for rank, p in enumerate(grades, 1)]
    return list(make_examples([query], candidates, judgments, everything, ExampleSettings.model_validate(settings)))


def test_the_best_grade_wins_over_the_seed() -> None:
    [row] = build({"seed": 2, "a": 3, "b": 0, "c": 1}, positives=1, negatives=2, negative_choice="last")
    assert (row.positive_id, row.relabelled, row.relevant_ids) == ("a", True, ["seed", "a"])
    assert row.negative_ids == ["c", "b"]
    assert row.grades == [2, 3, 0, 1]


def test_among_equals_the_one_marked_best_then_the_rank() -> None:
    assert build({"a": 3, "seed": 3}, best="seed")[0].positive_id == "seed"
    assert build({"a": 3, "seed": 3})[0].positive_id == "a"


def test_without_judgments_the_seed_and_no_hard_negative() -> None:
    [row] = build({}, negatives=3)
    assert (row.positive_id, row.negative_ids, row.relevant_ids) == ("seed", [], ["seed"])


def test_a_query_that_nothing_answers_makes_no_row() -> None:
    assert build({"seed": 1, "a": 0}) == []


def test_relabelling_can_be_switched_off() -> None:
    assert build({"seed": 1, "a": 3}, relabel=False)[0].positive_id == "seed"


def test_hard_negatives_are_low_grades_and_chosen_by_rank() -> None:
    grades = {"seed": 3, "a": 0, "b": 1, "c": 2, "d": 0}
    assert build(grades, negatives=1, negative_choice="last")[0].negative_ids == ["d"]
    assert build(grades, negatives=1, negative_choice="first")[0].negative_ids == ["a"]
    assert build(grades, negatives=9, negative_max_grade=0, negative_choice="last")[0].negative_ids == ["d", "a"]
    assert set(build(grades, negatives=9, negative_choice="random")[0].negative_ids) == {"a", "b", "d"}


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 3)),
    st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from(["train", "dev", "test"]), min_size=8),
    st.sampled_from(["train", "dev", "test"]),
)
def test_nothing_crosses_from_held_out_documents(grades: dict[str, int], parts: dict[str, Part], part: Part) -> None:
    for row in build({**grades, "seed": 2}, part=part, parts=parts, negatives=8):
        used = {row.positive_id, *row.negative_ids}
        where = {(parts | {"seed": part})[p] for p in used}
        assert where <= {"train": {"train"}, "dev": {"train", "dev"}, "test": {"test"}}[part]


def test_geckos_policy_takes_the_ends_of_the_order() -> None:
    judged = {"seed": 1, "a": 1, "b": 0, "c": 0}
    query = Query("q", "seed", "t", "how?", "train", True, "", "")
    scores = {"seed": 1.0, "a": 1.5, "b": 0.5, "c": 0.25}
    judgments = [Judgment("q", p, g, scores[p], p == "a", "", "") for p, g in judged.items()]
    candidates = [Candidate("q", p, rank, rank, 0.0, 0, 0.0, 0, 0.0) for rank, p in enumerate(judged, 1)]
    settings = ExampleSettings(policy="gecko", negatives=1)
    [row] = make_examples([query], candidates, judgments, None, settings)
    assert (row.positive_id, row.negative_ids, row.relabelled) == ("a", ["c"], True)


def test_percpos_leaves_out_what_scores_like_the_positive() -> None:
    query = Query("q", "seed", "t", "how?", "train", True, "", "")
    base = {"seed": 0.80, "a": 0.77, "b": 0.75, "c": 0.30}  # 0.76 is 95 % of the positive's
    judgments = [Judgment("q", p, 3 * (p == "seed"), 0.0, False, "", "") for p in base]
    candidates = [Candidate("q", p, rank, rank, s, 0, 0.0, 0, 0.0) for rank, (p, s) in enumerate(base.items(), 1)]
    settings = ExampleSettings(policy="percpos", negatives=4, negative_choice="first")
    [row] = make_examples([query], candidates, judgments, None, settings)
    assert row.negative_ids == ["b", "c"]


def test_several_positives_are_several_rows() -> None:
    rows = build({"seed": 3, "a": 2, "b": 3, "c": 1}, positives=2, negatives=1)
    assert [r.positive_id for r in rows] == ["seed", "b"]
    assert {tuple(r.negative_ids) for r in rows} == {("c",)}
    assert all(r.relevant_ids == ["seed", "a", "b"] for r in rows)
    assert len(build({"seed": 3, "a": 1}, positives=5)) == 1


def test_the_round_trip_drops_what_does_not_come_back() -> None:
    grades = {"a": 0, "b": 0, "seed": 3}  # the seed is third
    assert build(grades, round_trip=2) == []
    assert len(build(grades, round_trip=3)) == 1
    assert len(build({}, round_trip=1)) == 1  # never mined


@pytest.mark.parametrize("policy", ["graded", "gecko", "percpos"])
@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 3)), st.integers(1, 4), st.integers(0, 4))
def test_no_policy_takes_a_right_answer_as_negative(
    policy: str, grades: dict[str, int], positives: int, negatives: int
) -> None:
    for row in build({**grades, "seed": 2}, policy=policy, positives=positives, negatives=negatives):
        assert not set(row.negative_ids) & {row.positive_id, *(p for p, g in grades.items() if g >= 2), "seed"}
        assert len(set(row.negative_ids)) == len(row.negative_ids) <= negatives


def test_a_query_of_a_log_has_no_seed() -> None:
    query = Query("log#1", "", "t", "how?", "train", True, "", "")
    assert list(make_examples([query], [], [], None, ExampleSettings())) == []
    judgments = [Judgment("log#1", "a", 3, 3.0, True, "", ""), Judgment("log#1", "b", 0, 0.0, False, "", "")]
    [row] = make_examples([query], [], judgments, None, ExampleSettings())
    assert (row.positive_id, row.relabelled, row.seed_id) == ("a", False, "")
