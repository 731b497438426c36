from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokay.errors import TokayError
from tokay.evaluate.family import Pair, compare_all
from tokay.evaluate.significance import cannot_see, compare, needed

table = st.integers(2, 12).flatmap(
    lambda queries: st.lists(st.lists(st.floats(0, 1), min_size=queries, max_size=queries), min_size=3, max_size=5)
)
NAMES = "abcde"


def by_pair(pairs: list[Pair]) -> dict[tuple[str, str], Pair]:
    return {(p.a, p.b): p for p in pairs}


def nulls(rng: np.random.Generator, *, systems: int, groups: int, each: int = 1) -> dict[str, list[float]]:
    """Systems that do not differ, alike by query as the widths of a model are, and by group as queries of a passage."""
    difficulty = rng.normal(0, 0.3, (1, groups, 1)) + rng.normal(0, 0.1, (1, groups, each))
    own = rng.normal(0, 0.2, (systems, groups, 1)) + rng.normal(0, 0.1, (systems, groups, each))
    own[1] = own[0] + rng.normal(0, 0.05, (groups, each))  # nearly the same system
    return {NAMES[s]: (difficulty + own)[0 if systems == 1 else s].ravel().tolist() for s in range(systems)}


@given(table, st.randoms(use_true_random=False))
def test_neither_the_order_of_systems_nor_of_queries_matters(rows: list[list[float]], random: object) -> None:
    values = dict(zip(NAMES, rows, strict=False))
    first = by_pair(compare_all(values, resamples=200))
    order, names = list(range(len(rows[0]))), list(values)
    random.shuffle(order)  # type: ignore[attr-defined]
    random.shuffle(names)  # type: ignore[attr-defined]
    again = by_pair(compare_all({name: [values[name][i] for i in order] for name in names}, resamples=200))
    for (a, b), pair in first.items():
        other = again.get((a, b)) or again[b, a]
        sign = 1 if (a, b) in again else -1
        assert (other.p_alone, other.comparison.p_value) == (pair.p_alone, pair.comparison.p_value)
        assert other.comparison.difference == pytest.approx(sign * pair.comparison.difference, abs=1e-12)
        assert other.comparison.high - other.comparison.low == pytest.approx(
            pair.comparison.high - pair.comparison.low, abs=1e-9
        )


def test_one_pair_is_the_paired_randomisation_test() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(25), 2).tolist()
    a, b = rng.normal(0.05, 0.2, 50).tolist(), rng.normal(0, 0.2, 50).tolist()
    [pair] = compare_all({"a": a, "b": b}, groups=groups, resamples=50_000)
    alone = compare(a, b, groups=groups, resamples=50_000)
    assert pair.p_alone == pair.comparison.p_value == pytest.approx(alone.p_value, abs=0.01)
    assert pair.comparison.difference == pytest.approx(alone.difference)
    assert (pair.comparison.low, pair.comparison.high) == pytest.approx((alone.low, alone.high), abs=0.01)
    assert pair.comparison.detectable == pytest.approx(alone.detectable, rel=0.05)


def test_correction_takes_more_but_less_than_holms_where_systems_are_alike() -> None:
    rng = np.random.default_rng(3)
    query = rng.random(120)
    base = query + rng.normal(0, 0.2, 120)
    tuned = query + 0.05 + rng.normal(0, 0.2, 120)
    values = {"base": base.tolist()}
    values |= {f"tuned@{width}": (tuned + rng.normal(0, 0.02, 120)).tolist() for width in (64, 128, 256, 384)}
    family = [(name, "base") for name in values if name != "base"]
    pairs = compare_all(values, pairs=family, resamples=20_000)
    for pair in pairs:
        assert pair.p_alone <= pair.comparison.p_value
    in_order = sorted(pairs, key=lambda pair: pair.p_alone)
    holm = max(len(pairs) * in_order[0].p_alone, 0.0)
    assert in_order[0].comparison.p_value < 0.6 * holm


@pytest.mark.parametrize(("groups", "each"), [(40, 1), (25, 3)])
def test_no_pair_of_equal_systems_is_found_different_more_often_than_one_time_in_twenty(groups: int, each: int) -> None:
    rng = np.random.default_rng(1)
    members = np.repeat(np.arange(groups), each).tolist()
    wrong = missed = 0
    trials = 300
    for trial in range(trials):
        pairs = compare_all(nulls(rng, systems=4, groups=groups, each=each), groups=members, resamples=300, seed=trial)
        wrong += any(p.comparison.p_value < 0.05 for p in pairs)
        missed += any(not p.comparison.low <= 0 <= p.comparison.high for p in pairs)
    assert 0.02 <= wrong / trials <= 0.08
    assert missed / trials <= 0.09


def test_a_real_difference_does_not_hide_that_others_are_equal() -> None:
    rng = np.random.default_rng(2)
    found = wrong = 0
    for trial in range(150):
        values = nulls(rng, systems=3, groups=50)
        values["worse"] = [v - 0.3 + float(rng.normal(0, 0.3)) for v in values["a"]]
        pairs = by_pair(compare_all(values, resamples=300, seed=trial))
        found += pairs["a", "worse"].comparison.p_value < 0.05
        wrong += any(pairs[pair].comparison.p_value < 0.05 for pair in itertools.combinations("abc", 2))
    assert found >= 140
    assert wrong / 150 <= 0.08


def test_equal_systems_and_too_little_to_compare() -> None:
    [same] = compare_all({"a": [0.1, 0.9], "b": [0.1, 0.9]}, resamples=100)
    assert (same.p_alone, same.comparison.p_value, same.comparison.detectable) == (1.0, 1.0, 0.0)
    assert (same.comparison.low, same.comparison.high) == (0.0, 0.0)
    [one] = compare_all({"a": [0.1, 0.2], "b": [0.9, 0.8]}, groups=["p", "p"], resamples=100)
    assert (one.comparison.low, one.comparison.high, one.comparison.detectable) == (-1.0, 1.0, 1.0)
    assert one.comparison.p_value == 1.0
    assert compare_all({"a": [0.5]}) == []
    with pytest.raises(TokayError, match=r"systems have \[1, 2\] values; expected as many for each"):
        compare_all({"a": [0.1], "b": [0.1, 0.2]})
    with pytest.raises(TokayError, match="1 of 4 values are not finite"):
        compare_all({"a": [0.1, float("nan")], "b": [0.1, 0.2]})


def test_what_cannot_be_seen_says_how_many_queries_would_show_it() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.02, 0.3, 200)
    c = compare(values, np.zeros(200), resamples=500)
    assert c.p_value > 0.05
    count = needed(c, abs(c.difference))
    assert cannot_see(c) == (
        f"with 200 queries a difference under {c.detectable:.3f} cannot be seen: about {count:,} would show one of "
        f"{abs(c.difference):.3f}"
    )
    more = compare(np.tile(values, 1 + count // 200), np.zeros(200 * (1 + count // 200)), resamples=200)
    assert more.detectable == pytest.approx(abs(c.difference), rel=0.1)
    tiny = compare(values - values.mean() + 0.001, np.zeros(200), resamples=200)
    assert "and one of 0.001 not with 100 times as many" in cannot_see(tiny)
    assert cannot_see(compare([0.5], [0.5])).startswith("with 1 queries a difference under 1.000 cannot be seen")
    assert cannot_see(compare([0.5, 0.1], [0.5, 0.1])) == "both rank all 2 queries alike"
