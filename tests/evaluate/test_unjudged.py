from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokay.evaluate.metrics import evaluate_run, ndcg, rank_order
from tokay.evaluate.unjudged import at_best, condensed, pool, tops_of, unjudged_in

IDS = [f"p{i}" for i in range(12)]
grades = st.dictionaries(st.sampled_from(IDS), st.sampled_from([0, 2, 3]), min_size=1, max_size=6).filter(
    lambda found: any(found.values())
)
orders = st.lists(st.sampled_from(IDS), min_size=1, max_size=12, unique=True)


@given(grades, orders)
def test_at_best_is_the_highest_over_all_gains_of_what_was_not_judged(known: dict[str, int], order: list[str]) -> None:
    order = order[:7]  # of more there are too many cases
    judged, unknown = {"q": set(known)}, [p for p in order if p not in known]
    found = at_best({"q": known, "other": {"x": 3, "y": 2}}, {"q": order}, judged)["q"]
    cases = itertools.product((0, 2, 3), repeat=len(unknown))
    highest = 0.0
    for case in cases:
        full = known | dict(zip(unknown, case, strict=True))
        highest = max(highest, ndcg([full[p] for p in order], list(full.values()), k=10))
    assert found == pytest.approx(highest)
    assert found >= ndcg([known.get(p, 0) for p in order], list(known.values()), k=10) - 1e-12


@given(grades, orders)
def test_condensed_is_the_ranking_of_what_was_judged(known: dict[str, int], order: list[str]) -> None:
    run = {p: -float(rank) for rank, p in enumerate(order) if p in known}
    expected = evaluate_run({"q": known}, {"q": run})["ndcg@10"]
    assert condensed({"q": known}, {"q": order}, {"q": set(known)}) == pytest.approx(expected)


def test_all_relevant_is_not_the_best_case() -> None:
    order = ["right", *(f"u{i}" for i in range(9))]
    best = at_best({"q": {"right": 3}}, {"q": order}, {"q": {"right"}})
    assert best == {"q": 1.0}
    everything = ndcg([3] * 9 + [3], [3] * 10, k=10)
    only_the_last = ndcg([3, *[0] * 8, 3], [3, 3], k=10)
    assert everything == 1.0
    assert only_the_last < 0.8


@given(st.lists(orders, min_size=1, max_size=4), st.sets(st.sampled_from(IDS)), st.randoms(use_true_random=False))
def test_the_pool_does_not_show_who_found_what(rankings: list[list[str]], seen: set[str], random: object) -> None:
    tops = [{"q": order} for order in rankings]
    found = pool(tops, {"q": seen}, ["q", "nobody"])
    random.shuffle(tops)  # type: ignore[attr-defined]
    assert pool([*tops, tops[0]], {"q": seen}, ["q", "nobody"]) == found
    everything = {p for order in rankings for p in order} - seen
    assert set(found.get("q", [])) == everything
    assert len(found.get("q", [])) == len(everything)
    first = {p: min(order.index(p) for order in rankings if p in order) for p in everything}
    assert [first[p] for p in found.get("q", [])] == sorted(first.values())


def test_counts() -> None:
    runs = {"q": {f"p{i}": float(-i) for i in range(12)}, "left out": {"p0": 1.0}}
    tops = tops_of({q: rank_order(scores) for q, scores in runs.items()}, ["q"])
    assert tops == {"q": [f"p{i}" for i in range(10)]}
    assert unjudged_in(tops, {"q": {"p0", "p1", "p11"}}) == 8
