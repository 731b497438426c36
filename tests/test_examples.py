from __future__ import annotations

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
    judgments = [Judgment("q", p, g, p == best, "", "") for p, g in grades.items()]
    candidates = [Candidate("q", p, rank, 0, 0.0, 0, 0.0) for rank, p in enumerate(grades, 1)]
    return list(make_examples([query], candidates, judgments, everything, ExampleSettings.model_validate(settings)))


def test_the_best_grade_wins_over_the_seed() -> None:
    [row] = build({"seed": 2, "a": 3, "b": 0, "c": 1}, negatives=2)
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
    assert build(grades, negatives=9, negative_max_grade=0)[0].negative_ids == ["d", "a"]
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
