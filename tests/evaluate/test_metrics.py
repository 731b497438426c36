from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from tokay.evaluate.metrics import evaluate_run, judged_share, rank_order

grades = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 3), min_size=1)
scores = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 3).map(float), min_size=1)


def test_by_hand() -> None:
    values = evaluate_run({"q": {"a": 3, "b": 2, "c": 0}}, {"q": {"c": 3.0, "b": 2.0, "a": 1.0}})
    expected = (2 / math.log2(3) + 3 / math.log2(4)) / (3 / math.log2(2) + 2 / math.log2(3))
    assert math.isclose(values["ndcg@10"]["q"], expected)
    assert (values["recall@10"]["q"], values["mrr"]["q"]) == (1.0, 0.5)


def test_ties_are_broken_by_id_descending_and_scores_are_float32() -> None:
    assert rank_order({"a": 1.0, "c": 1.0 + 1e-12, "b": 1.0, "d": 2.0}) == ["d", "c", "b", "a"]


@given(grades, scores, st.randoms())
def test_order_of_the_dict_does_not_matter(grade: dict[str, int], score: dict[str, float], random) -> None:  # type: ignore[no-untyped-def]
    items = list(score.items())
    random.shuffle(items)
    assert evaluate_run({"q": grade}, {"q": dict(items)}) == evaluate_run({"q": grade}, {"q": score})


@given(grades, scores)
def test_bounds_and_the_ideal_order(grade: dict[str, int], score: dict[str, float]) -> None:
    values = evaluate_run({"q": grade}, {"q": score})
    assert all(0 <= v["q"] <= 1 + 1e-12 for v in values.values())
    if any(grade.values()):
        ideal = evaluate_run({"q": grade}, {"q": {d: float(g) for d, g in grade.items()}})
        assert math.isclose(ideal["ndcg@10"]["q"], 1)


def test_a_query_without_a_ranking_counts_as_zero() -> None:
    values = evaluate_run({"q": {"a": 1}, "r": {"a": 1}}, {"q": {"a": 1.0}})
    assert values["ndcg@10"] == {"q": 1.0, "r": 0.0}


def test_judged_share_counts_the_top_only() -> None:
    run = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}, "r": {"a": 1.0}}
    assert judged_share(run, {"q": {"a"}}, k=2) == 1 / 3
    assert judged_share({}, {}) == 0.0
