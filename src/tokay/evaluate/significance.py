"""Is a difference more than noise? Paired test, interval, and the smallest difference that could be seen.

Queries that were written from one passage are alike, so they count as one: whole groups are flipped and resampled.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from tokay.errors import TokayError

SPREAD = 0.26
"""Standard deviation of a query's difference in nDCG@10 between a base and its tuned copy, queries of one passage being
alike: on Python's manual, 658 queries had a standard error of 0.0101 (docs/log.md)."""
SIDE = 1.960
"""Standard errors on either side of a 95 % interval: the normal distribution's quantile 0.975."""
POWER = SIDE + 0.842
"""Standard errors that are found at 5 % with 80 % power: quantiles 0.975 and 0.8 of the normal distribution."""
NORMAL = statistics.NormalDist()
_OUT_OF_REACH = 10
"""Times that a difference may be below what can be seen to be worth a figure: that takes 100 times the queries."""
_CELLS = 4_000_000
"""Random numbers held at a time."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Means of two systems over the same queries, and what can be said of their difference ``mean_a - mean_b``.

    ``low`` and ``high`` are the bootstrap 95 % interval, ``p_value`` is two-sided, ``detectable`` the difference
    that this number of queries shows with 80 % power at 5 %, ``spread`` the standard deviation of a query's difference.
    """

    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p_value: float
    detectable: float
    queries: int
    spread: float = 0.0


def widened(comparison: Comparison, between: float) -> tuple[float, float]:
    """The 95 % interval for the queries of another population, such as people's where the queries were written.

    Each side's width is the root of its square and ``(1.960 * between * spread)`` squared: the difference of the
    population's own means varies around this one with a standard deviation of ``between`` times a query's. So
    written queries never count for more than ``1 / between**2`` of people's, however many there are.

    Args:
        comparison: of written queries.
        between: ``evaluate.calibrate.between_of``; 0 leaves the interval as it is.
    """
    c = comparison
    more = SIDE * between * c.spread
    return c.difference - math.hypot(c.difference - c.low, more), c.difference + math.hypot(c.high - c.difference, more)


def compare(
    a: Sequence[float],
    b: Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    shares: Sequence[float] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare per-query values of two systems.

    The p-value is Fisher's paired randomisation test: the share, (1 + n) / (1 + resamples), of random sign flips of
    the groups' summed differences that are at least as large as the one observed (Smucker, Allan and Carterette,
    CIKM 2007). The interval is the percentile bootstrap over groups of sum of differences / number of queries, its
    percentiles moved out by ``widening``.
    ``detectable`` is (1.960 + 0.842) standard errors, the error being that of the ratio of sums over groups.

    Neither the order of the queries nor which system is called ``a`` changes the result, its sign aside. A single
    group says nothing about others: interval and ``detectable`` are then the whole range of a metric, -1 to 1 and 1.

    Args:
        a: values of the one system, by query.
        b: of the other, in the same order.
        groups: what makes queries dependent; None: each stands alone.
        shares: how often each query counts (``search.learn.shares_like``); None: once. Means and the difference are
            then weighted, and the test flips the groups' weighted sums.
        resamples: of both test and bootstrap.
        seed: same seed, same result.

    Raises:
        TokayError: no queries, lists of different length, or a value that is not a finite number.
    """
    if len(a) != len(b) or not len(a):
        raise TokayError(f"{len(a)} and {len(b)} values; expected two lists of the same length, at least 1")
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if bad := int((~np.isfinite(x)).sum() + (~np.isfinite(y)).sum()):
        raise TokayError(f"{bad} of {2 * len(x)} values are not finite; expected a number for each query")
    weights = np.ones(len(x)) if shares is None else np.asarray(shares, np.float64)
    sums, sizes = _by_group(x - y, weights, groups)
    n = len(sums)
    total = math.fsum(sums)  # correctly rounded, so that order does not matter
    difference = total / float(sizes.sum())
    rng = np.random.default_rng(seed)
    flips = _flipped(np.abs(sums), resamples, rng)
    extreme = int((np.abs(flips) >= abs(total) - 1e-12 * max(1.0, float(np.abs(sums).sum()))).sum())
    low, high = _interval(sums, sizes, resamples, rng) if n > 1 else (-1.0, 1.0)
    residual = sums - difference * sizes
    error = math.sqrt(n / (n - 1) * float(residual @ residual)) / float(sizes.sum()) if n > 1 else math.inf
    return Comparison(
        mean_a=float(np.average(x, weights=weights)),
        mean_b=float(np.average(y, weights=weights)),
        difference=difference,
        low=low,
        high=high,
        p_value=(1 + extreme) / (1 + resamples),
        detectable=POWER * error if n > 1 else 1.0,
        queries=len(x),
        spread=math.sqrt(float(np.average((x - y - difference) ** 2, weights=weights))),
    )


def sentence(comparison: Comparison, name: str, *, against: str = "the base", end: str = "") -> str:
    """The verdict in words: better, worse, or not distinguishable and what would be (``end``, or ``can_show``)."""
    c = comparison
    p = "p < 0.001" if c.p_value < 0.001 else f"p = {c.p_value:.3f}"
    interval = f"95 % interval {c.low:+.3f} to {c.high:+.3f}"
    half = (c.high - c.low) / 2
    if c.p_value < 0.05 and (c.low > 0 or c.high < 0):
        word = "better" if c.difference > 0 else "worse"
        return (
            f"{name} is {word} than {against} by {abs(c.difference):.3f} ± {half:.3f} nDCG@10 ({c.mean_b:.3f} to "
            f"{c.mean_a:.3f}; {interval}; {p})"
        )
    return (
        f"{name} is not distinguishable from {against}: {c.difference:+.3f} nDCG@10 ({interval}; {p}); "
        f"{end or can_show(c)}"
    )


def forecast(queries: int) -> float:
    """The difference in nDCG@10 that so many queries will show: ``POWER * SPREAD / sqrt(queries)``, at most 1."""
    return min(1.0, POWER * SPREAD / math.sqrt(queries)) if queries else 1.0


def can_show(comparison: Comparison) -> str:
    """The smallest difference that these queries can show, in words."""
    if not comparison.detectable:
        return f"both rank all {comparison.queries} queries alike"
    return f"{comparison.queries} queries can show a difference of {comparison.detectable:.3f}"


def needed(comparison: Comparison, difference: float) -> int:
    """About how many queries like these would show a difference with 80 % power: the error falls with their root."""
    return math.ceil(comparison.queries * (comparison.detectable / difference) ** 2) if difference else 0


def cannot_see(comparison: Comparison) -> str:
    """What these queries are too few for, and how many would show what they hint at, in words."""
    c, size = comparison, abs(comparison.difference)
    if not c.detectable:
        return can_show(c)
    said = f"with {c.queries:,} queries a difference under {c.detectable:.3f} cannot be seen"
    if c.detectable >= 1:
        return f"{said}: write queries for more passages"
    if not round(size, 3):  # a difference of 0.000 says nothing
        return said
    if size < c.detectable / _OUT_OF_REACH:
        return f"{said}, and one of {size:.3f} not with {_OUT_OF_REACH**2} times as many"
    return f"{said}: about {needed(c, size):,} would show one of {size:.3f}" if size < c.detectable else said


def _by_group(
    differences: NDArray[np.float64], weights: NDArray[np.float64], groups: Sequence[Hashable] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of differences and of weights of each group, by size of the sum so that order does not matter."""
    members: dict[Hashable, list[tuple[float, float]]] = {}
    named = range(len(differences)) if groups is None else groups
    for group, *pair in zip(named, (differences * weights).tolist(), weights.tolist(), strict=True):
        members.setdefault(group, []).append((pair[0], pair[1]))
    sums = np.array([math.fsum(value for value, _ in pairs) for pairs in members.values()])
    sizes = np.array([math.fsum(weight for _, weight in pairs) for pairs in members.values()])
    order = np.lexsort((sums, sizes, np.abs(sums)))
    return sums[order], sizes[order]


def _flipped(sums: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    parts = []
    for count in portions(resamples, len(sums)):
        signs = rng.integers(0, 2, size=(count, len(sums)), dtype=np.int8)
        parts.append((2.0 * signs - 1.0) @ sums)
    return np.concatenate(parts)


def _interval(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Widened percentiles of resampled mean differences, as if the difference were positive: swapping negates them."""
    if math.fsum(sums) < 0:
        low, high = _interval(-sums, sizes, resamples, rng)
        return -high, -low
    order = np.lexsort((sizes, sums))
    tail = NORMAL.cdf(NORMAL.inv_cdf(0.025) * widening(len(sums)))
    low, high = np.quantile(_resampled(sums[order], sizes[order], resamples, rng), [tail, 1 - tail])
    return float(low), float(high)


def _resampled(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    parts = []
    for count in portions(resamples, len(sums)):
        drawn = rng.integers(0, len(sums), size=(count, len(sums)))
        parts.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    return np.concatenate(parts)


def widening(groups: int) -> float:
    """How much wider than the bootstrap's an interval over so many groups has to be: sqrt(n / (n - 1)) t / z.

    A resample varies less than a new sample does, and its error is itself an estimate; t is Student's 97.5 % quantile
    with n - 1 degrees of freedom, by its expansion in 1 / (n - 1) (Abramowitz and Stegun, 26.7.5), and z the normal
    one (Hesterberg, The American Statistician 2015, section 4.3: the expanded percentile interval).
    """
    z, v = NORMAL.inv_cdf(0.975), groups - 1
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    return math.sqrt(groups / v) * t / z


def portions(resamples: int, width: int) -> list[int]:
    """Resamples in parts that fit into memory, each with ``width`` random numbers."""
    size = max(1, _CELLS // max(1, width))
    return [min(size, resamples - start) for start in range(0, resamples, size)]
