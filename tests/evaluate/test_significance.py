from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokay.errors import TokayError
from tokay.evaluate.significance import SPREAD, compare, forecast, sentence

values = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=30)


@given(values, st.randoms())
def test_query_order_does_not_matter(pairs: list[tuple[float, float]], random) -> None:  # type: ignore[no-untyped-def]
    first = compare(*zip(*pairs, strict=True), resamples=300)  # type: ignore[arg-type]
    random.shuffle(pairs)
    again = compare(*zip(*pairs, strict=True), resamples=300)  # type: ignore[arg-type]
    assert again.p_value == first.p_value
    assert (again.low, again.high) == pytest.approx((first.low, first.high))


@given(values)
def test_swapping_the_systems_changes_the_sign(pairs: list[tuple[float, float]]) -> None:
    a, b = zip(*pairs, strict=True)
    one, other = compare(a, b, resamples=300), compare(b, a, resamples=300)
    assert one.difference == pytest.approx(-other.difference)
    assert one.detectable == pytest.approx(other.detectable)


def test_the_same_system_twice() -> None:
    c = compare([0.1, 0.5, 0.9], [0.1, 0.5, 0.9])
    assert (c.difference, c.p_value, c.low, c.high) == (0, 1, 0, 0)
    assert "not distinguishable" in sentence(c, "tuned")


def test_false_positives_and_coverage_under_the_null() -> None:
    rng = np.random.default_rng(0)
    rejected = covered = 0
    trials = 400
    for trial in range(trials):
        differences = rng.normal(0, 0.3, 60)
        c = compare(differences, np.zeros(60), resamples=400, seed=trial)
        rejected += c.p_value < 0.05
        covered += c.low <= 0 <= c.high
    assert 0.02 <= rejected / trials <= 0.08
    assert 0.91 <= covered / trials <= 0.98


def test_groups_count_as_one() -> None:
    rng = np.random.default_rng(0)
    once = rng.normal(0.05, 0.3, 50)
    repeated = np.repeat(once, 4)
    honest = compare(repeated, np.zeros(200), groups=np.repeat(np.arange(50), 4).tolist())
    alone = compare(once, np.zeros(50))
    assert (honest.low, honest.high) == pytest.approx((alone.low, alone.high), abs=1e-9)
    assert honest.p_value == alone.p_value
    assert honest.detectable == pytest.approx(alone.detectable)
    assert compare(repeated, np.zeros(200)).detectable < 0.6 * honest.detectable


def test_detectable_difference_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(0)
    detectable = compare(rng.normal(0, 0.3, 2000), np.zeros(2000), resamples=200).detectable * np.sqrt(2000 / 80)
    found = sum(
        compare(rng.normal(detectable, 0.3, 80), np.zeros(80), resamples=300, seed=t).p_value < 0.05 for t in range(200)
    )
    assert 0.7 <= found / 200 <= 0.9


def test_sentences() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(300) / 2
    better = sentence(compare(base + 0.1 + rng.normal(0, 0.1, 300), base), "tuned")
    assert better.startswith("tuned is better than the base by 0.1")
    assert "p < 0.001" in better
    assert sentence(compare(base - 0.1, base), "tuned").startswith("tuned is worse than the base by 0.100 ± 0.000")


def test_too_little_to_compare() -> None:
    with pytest.raises(TokayError, match=r"2 and 1 values; expected two lists of the same length"):
        compare([1, 2], [1])
    with pytest.raises(TokayError, match=r"at least 1"):
        compare([], [])
    one = compare([0.5], [0.1], resamples=100)
    assert (one.detectable, one.p_value) == (1.0, 1.0)


@given(values, st.lists(st.integers(0, 5), min_size=30, max_size=30))
def test_swapping_the_systems_changes_nothing_but_the_sign(pairs: list[tuple[float, float]], groups: list[int]) -> None:
    a, b = zip(*pairs, strict=True)
    one = compare(a, b, groups=groups[: len(a)], resamples=200)
    other = compare(b, a, groups=groups[: len(a)], resamples=200)
    assert (one.p_value, one.difference) == (other.p_value, -other.difference)
    if one.difference and one.low > -1:
        assert (one.low, one.high) == (-other.high, -other.low)


def test_one_group_says_nothing_about_others() -> None:
    c = compare([0.9, 0.8, 0.7], [0.1, 0.1, 0.1], groups=["p", "p", "p"], resamples=200)
    assert (c.low, c.high, c.p_value, c.detectable) == (-1.0, 1.0, 1.0, 1.0)
    assert "not distinguishable" in sentence(c, "tuned")


def test_a_value_that_is_not_a_number() -> None:
    with pytest.raises(TokayError, match=r"1 of 4 values are not finite"):
        compare([0.5, float("nan")], [0.1, 0.2])


def test_the_forecast_is_what_such_queries_turn_out_to_show() -> None:
    values = np.random.default_rng(0).normal(0, SPREAD, 900)
    assert forecast(900) == pytest.approx(compare(values, np.zeros(900), resamples=200).detectable, rel=0.1)
    assert forecast(658) == pytest.approx(0.0284, abs=1e-4)  # what the manual's verdict had
    assert (forecast(0), forecast(1)) == (1.0, pytest.approx(2.802 * SPREAD))
