"""Many systems at once: every pair compared, with p-values and intervals that hold for all pairs together.

The more pairs one looks at, the more differ by chance. Corrected are p-values and intervals by the distribution of the
largest statistic over all pairs (max-T; Westfall and Young 1993). Holm's correction, which knows nothing of how pairs
depend on each other, takes more than is needed: the widths and exports of one model rank almost alike, so their
comparisons are nearly one. And max-T gives intervals that say the same as the p-values, which Holm's does not.

Letters: G groups of queries, S systems, P pairs, R resamples.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tokay.errors import TokayError
from tokay.evaluate.significance import Comparison, portions, widening

_POWER = 0.842
"""Standard errors above the critical value that are found with 80 % power: quantile 0.8 of the normal distribution."""
Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two systems over the same queries.

    ``comparison`` holds for the whole family: p-value and 95 % interval are corrected. ``p_alone`` is the p-value of
    this pair as if nothing else had been looked at.
    """

    a: str
    b: str
    comparison: Comparison
    p_alone: float


def compare_all(
    values: Mapping[str, Sequence[float]],
    *,
    groups: Sequence[Hashable] | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[Pair]:
    """Compare per-query values of several systems, all pairs of them or those that are named.

    The statistic of a pair is the sum of its groups' differences over the root of their squares, t. In each resample a
    group's sign is flipped, the same for all pairs; p is the share, (1 + n) / (1 + R), of resamples in which the
    largest abs(t) of all pairs is at least the one observed. Under flips the root does not change, so with one pair
    this is the paired randomisation test of ``significance.compare``.

    The interval is difference ± c standard errors, with c the 95 % quantile over bootstrap resamples of groups of the
    largest distance from the observed difference, in standard errors, of all pairs, moved out by
    ``significance.widening``: all intervals have the truth in them together in 95 % of cases. ``detectable`` is
    (c + 0.842) standard errors.

    Neither the order of systems nor of queries changes the result.

    Args:
        values: system -> values by query, in one order.
        groups: what makes queries dependent; None: each stands alone.
        pairs: the family; None: all pairs, the one that stands first being ``a``.
        resamples: of both test and bootstrap.
        seed: same seed, same result.

    Raises:
        TokayError: no queries, lists of different length, or a value that is not a finite number.
    """
    names = sorted(values)
    lengths = {len(values[name]) for name in names}
    if len(lengths) != 1 or 0 in lengths:
        raise TokayError(f"systems have {sorted(lengths)} values; expected as many for each, at least 1")
    table = np.array([values[name] for name in names], np.float64)  # (S, Q)
    if bad := int((~np.isfinite(table)).sum()):
        raise TokayError(f"{bad} of {table.size} values are not finite; expected a number for each query and system")
    family = list(itertools.combinations(values, 2)) if pairs is None else list(pairs)
    if not family:
        return []
    place = {name: i for i, name in enumerate(names)}
    left, right = (np.array([place[pair[side]] for pair in family]) for side in (0, 1))
    sums, sizes = _by_group(table, groups)
    found = _Family(sums, sizes, left, right)
    rng = np.random.default_rng(seed)
    alone, together = found.p_values(resamples, rng)
    critical = found.critical(resamples, rng) if len(sizes) > 1 else math.inf
    means = table.mean(1)
    result = []
    for p, (a, b) in enumerate(family):
        difference, error = float(found.differences[p]), float(found.errors[p])
        reach = critical * error if error else 0.0
        few = len(sizes) < 2
        comparison = Comparison(
            mean_a=float(means[place[a]]),
            mean_b=float(means[place[b]]),
            difference=difference,
            low=-1.0 if few else difference - reach,
            high=1.0 if few else difference + reach,
            p_value=float(together[p]),
            detectable=1.0 if few else min(1.0, reach + _POWER * error),
            queries=table.shape[1],
        )
        result.append(Pair(a, b, comparison, float(alone[p])))
    return result


class _Family:
    """The pairs' statistics.

    Args:
        sums: of each system's values by group, (G, S).
        sizes: queries of each group, (G,).
        left: column of each pair's first system, (P,).
        right: of its second.
    """

    def __init__(self, sums: Floats, sizes: Floats, left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
        self.sums, self.sizes, self.left, self.right = sums, sizes, left, right
        each = sums[:, left] - sums[:, right]  # (G, P)
        groups = len(sizes)
        self.totals = np.array([math.fsum(column) for column in each.T])
        self.differences = self.totals / sizes.sum()
        self.roots = np.sqrt((each**2).sum(0))
        self.slack = 1e-12 * np.maximum(1.0, np.abs(each).sum(0))
        rest = each - self.differences * sizes[:, None]
        scale = groups / (groups - 1) if groups > 1 else 1.0
        self.errors = np.sqrt(scale * (rest**2).sum(0)) / sizes.sum()
        self.errors[np.abs(each).max(0) == 0] = 0.0

    def _pairs(self, systems: Floats) -> Floats:
        """Of values by system (R, S), the differences by pair (R, P)."""
        return systems[:, self.left] - systems[:, self.right]

    def p_values(self, resamples: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Of each pair alone, and of all together."""
        roots = np.where(self.roots > 0, self.roots, 1.0)
        observed = (np.abs(self.totals) - self.slack) / roots
        alone, together = np.ones(len(observed)), np.ones(len(observed))
        for count in portions(resamples, max(len(self.sizes), len(observed))):
            signs = 2.0 * rng.integers(0, 2, size=(count, len(self.sizes)), dtype=np.int8) - 1.0
            flipped = np.abs(self._pairs(signs @ self.sums)) / roots  # (R, P)
            alone += (flipped >= observed).sum(0)
            together += (flipped.max(1)[:, None] >= observed).sum(0)
        return alone / (1 + resamples), together / (1 + resamples)

    def critical(self, resamples: int, rng: np.random.Generator) -> float:
        """How many standard errors an interval reaches."""
        errors = np.where(self.errors > 0, self.errors, 1.0)
        groups, largest = len(self.sizes), []
        for count in portions(resamples, max(groups, len(errors))):
            drawn = rng.integers(0, groups, size=(count, groups)) + groups * np.arange(count)[:, None]
            times = np.bincount(drawn.ravel(), minlength=count * groups).reshape(count, groups).astype(np.float64)
            resampled = self._pairs(times @ self.sums) / (times @ self.sizes)[:, None]
            distances = np.abs(resampled - self.differences) / errors
            largest.append(np.where(self.errors > 0, distances, 0.0).max(1))
        return widening(groups) * float(np.quantile(np.concatenate(largest), 0.95))


def _by_group(table: Floats, groups: Sequence[Hashable] | None) -> tuple[Floats, Floats]:
    """Sums (G, S) and sizes (G,), in an order that depends on nothing but them."""
    columns: dict[Hashable, list[int]] = {}
    for query, group in enumerate(range(table.shape[1]) if groups is None else groups):
        columns.setdefault(group, []).append(query)
    sums = np.array([[math.fsum(row[members]) for row in table] for members in columns.values()])
    sizes = np.array([float(len(members)) for members in columns.values()])
    order = np.lexsort((sizes, *sums.T))
    return sums[order], sizes[order]
