from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from tokay.errors import TokayError
from tokay.evaluate.calibrate import (
    Calibration,
    Population,
    between_of,
    by_overlap,
    calibrate,
    kendall_tau,
    unseen_coverage,
)
from tokay.evaluate.people import effective
from tokay.evaluate.significance import compare, widened
from tokay.search.learn import shares_like

NAMES = ("a", "b", "c", "d", "e")


def world(
    rng: np.random.Generator, *, between: float = 0.0, bias: float = 0.0, written: int = 120, people: int = 300
) -> tuple[Population, Population]:
    """Five systems on two kinds of queries, whose true means differ by ``between`` standard deviations of a query.

    On written queries the last system is better by ``bias`` than on people's.
    """
    quality = np.linspace(0.3, 0.5, len(NAMES))
    noise = 0.3 / np.sqrt(2)  # of one system, so that a difference of two has 0.3
    shift = rng.normal(0, between * noise, len(NAMES))
    shift[-1] += bias

    def draw(means: NDArray[np.float64], queries: int) -> NDArray[np.float64]:
        hard = rng.normal(0, 0.3, queries)  # a query is hard for all
        return means[:, None] + hard + rng.normal(0, noise, (len(NAMES), queries))

    return Population(draw(quality + shift, written)), Population(draw(quality, people))


def worlds(count: int, **how: float) -> list[Calibration]:
    rng = np.random.default_rng(0)
    return [calibrate(NAMES, *world(rng, **how), resamples=200) for _ in range(count)]  # type: ignore[arg-type]


def test_without_a_bias_coverage_is_nominal() -> None:
    found = worlds(60)
    assert 0.92 <= np.mean([one.compatible for one in found]) <= 0.98
    # people's noise is not in the verdict's interval: P(|Z| < 1.96 / sqrt(1 + 120 / 300)) = 0.90
    assert 0.86 <= np.mean([one.coverage for one in found]) <= 0.94
    assert np.mean([between_of(one.pairs) for one in found]) < 0.06
    assert sum(one.contradicted for one in found) <= 0.01 * sum(one.claims for one in found)


def test_a_planted_difference_between_the_kinds_is_found_and_covered() -> None:
    found = worlds(60, between=0.2)
    assert np.mean([one.compatible for one in found]) < 0.75
    between = float(np.sqrt(np.mean([between_of(one.pairs) ** 2 for one in found])))
    assert between == pytest.approx(0.2, abs=0.03)
    wide = [one.widened(0.2) for one in found]
    assert 0.9 <= np.mean([one.compatible for one in wide]) <= 0.98
    assert sum(one.claims for one in wide) < sum(one.claims for one in found)
    assert np.mean([one.agreement for one in wide if one.claims]) > 0.98


def test_a_biased_system_is_contradicted() -> None:
    honest, biased = worlds(20), worlds(20, bias=-0.3)
    assert np.mean([one.agreement for one in honest]) > 0.98
    assert np.mean([one.agreement for one in biased]) < 0.8
    assert all(one.contradicted >= 2 for one in biased)
    wrong = {pair.a if pair.a == "e" else pair.b for one in biased for pair in one.pairs if pair.contradicted}
    assert wrong == {"e"}
    calls, right = np.sum([one.close for one in honest], axis=0)
    assert right <= calls < sum(one.claims for one in honest)
    assert np.mean([one.tau for one in biased]) < np.mean([one.tau for one in honest]) - 0.4


def test_intervals_widened_by_other_systems_cover_a_system_that_was_not_seen() -> None:
    found = worlds(40, between=0.2)
    plain, unseen = (np.mean([f(one) for one in found]) for f in (lambda one: one.coverage, unseen_coverage))
    assert plain < 0.75
    assert unseen > 0.8


def test_no_widening_leaves_the_interval_and_more_queries_reach_an_end() -> None:
    rng = np.random.default_rng(0)
    few, many = (compare(rng.normal(0.1, 0.3, n).tolist(), [0.0] * n, resamples=400) for n in (50, 20_000))
    assert widened(few, 0) == pytest.approx((few.low, few.high))
    low, high = widened(many, 0.1)
    assert (high - low) / 2 == pytest.approx(1.96 * 0.1 * many.spread, rel=0.02)


def test_shares_make_our_queries_like_theirs() -> None:
    rng = np.random.default_rng(0)
    easy, hard = rng.random(2000), rng.random(2000) ** 2
    shares = shares_like(easy, hard)
    assert np.average(easy, weights=shares) == pytest.approx(hard.mean(), abs=0.02)
    assert shares_like(easy, easy) == pytest.approx(np.ones(2000))
    assert effective(np.ones(7).tolist()) == pytest.approx(7)
    assert effective(shares.tolist()) < 2000


def test_a_bias_of_easy_queries_goes_when_they_are_weighed() -> None:
    """System b is the better the easier a query is, and the written queries are the easier ones."""
    rng = np.random.default_rng(0)

    def kind(ease: NDArray[np.float64]) -> Population:
        values = np.stack([0.4 + 0 * ease, 0.15 + 0.5 * ease, 0.1 + 0 * ease])
        return Population(values + rng.normal(0, 0.1, values.shape))

    ours, theirs = rng.random(600) ** 0.6, rng.random(600) ** 1.6
    written, people = kind(ours), kind(theirs)
    assert calibrate("abc", written, people, resamples=200).contradicted == 1
    weighed = dataclasses.replace(written, shares=shares_like(ours, theirs).tolist())
    found = calibrate("abc", weighed, people, resamples=200)
    assert found.contradicted == 0
    assert found.tau == 1


def test_shares_that_are_whole_numbers_repeat_a_query() -> None:
    rng = np.random.default_rng(0)
    values, shares = rng.random((3, 40)), rng.integers(1, 4, 40)
    weighed = Population(values, shares=shares.tolist())
    repeated = Population(np.repeat(values, shares, axis=1), groups=np.repeat(np.arange(40), shares).tolist())
    assert weighed.means() == pytest.approx(repeated.means())
    a, b = (one.compare(0, 1, resamples=300, seed=0) for one in (weighed, repeated))
    assert dataclasses.astuple(a)[:7] == pytest.approx(dataclasses.astuple(b)[:7])
    assert a.spread == pytest.approx(b.spread)


def test_slices_are_cut_by_peoples_overlap() -> None:
    rng = np.random.default_rng(0)
    written, people = world(rng)
    ours, theirs = rng.random(120) / 2 + 0.5, rng.random(300)
    found = by_overlap(
        NAMES,
        dataclasses.replace(written, overlap=ours.tolist()),
        dataclasses.replace(people, overlap=theirs.tolist()),
        resamples=200,
    )
    assert [low for low, _, _ in found] == pytest.approx([0, 1 / 3, 2 / 3], abs=0.05)
    assert found[0][2] is None  # no written query has so little
    assert found[2][2] is not None
    assert found[2][2].queries == (int((ours >= found[2][0]).sum()), int((theirs >= found[2][0]).sum()))


def test_taking_all_queries_changes_nothing() -> None:
    population, _ = world(np.random.default_rng(0))
    one = dataclasses.replace(population, groups=["x"] * 120, overlap=[0.5] * 120, shares=[2.0] * 120)
    taken = one.take(np.arange(120))
    assert (taken.values == one.values).all()
    assert (taken.groups, taken.overlap, taken.shares) == (one.groups, one.overlap, one.shares)


@pytest.mark.parametrize(
    ("systems", "written", "people", "said"),
    [
        (2, 100, 100, "2 systems make 1 pairs, which says nothing of a verdict; name at least 3 systems"),
        (3, 19, 100, "19 written queries are too few to check a verdict by; expected at least 20"),
        (3, 100, 5, "5 people's queries are too few"),
    ],
)
def test_too_little(systems: int, written: int, people: int, said: str) -> None:
    sides = (Population(np.random.default_rng(0).random((systems, n))) for n in (written, people))
    with pytest.raises(TokayError, match=said):
        calibrate(NAMES[:systems], *sides)
    with pytest.raises(TokayError, match=r"3 systems have written queries, and 4 are named"):
        calibrate(NAMES[:4], Population(np.zeros((3, 30))), Population(np.zeros((4, 30))))


def test_tau_of_ties() -> None:
    assert np.isnan(kendall_tau([1, 1, 1], [1, 2, 3]))
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1
