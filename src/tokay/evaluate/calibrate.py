"""Does a verdict on written queries say what people's queries say?

Where a corpus has both kinds, every pair of systems has two differences: one on the written queries, with the interval
that a verdict would give, and one on people's. The pairs say how often the claimed sign is right, how often people's
difference lies inside the interval, and whether both rank the systems alike.

Letters: S systems, Q queries, P = S (S - 1) / 2 pairs.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokay.errors import TokayError
from tokay.evaluate.significance import POWER, Comparison, compare, widened

WRITTEN, PEOPLE = "written", "people's"
LEAST_SYSTEMS = 3
LEAST_QUERIES = 20
"""Of each kind: with fewer, every interval holds nearly everything."""
CLOSE = 0.05
"""A difference that is hard to get right, as those of one recipe from another are."""

_FARTHEST = 4.0


@dataclasses.dataclass(frozen=True)
class Population:
    """Systems measured on one kind of queries.

    Attributes:
        values: a metric of each system and query, (S, Q).
        groups: what makes queries dependent, (Q,); empty: each stands alone.
        overlap: share of a query's words that its relevant passage has (``traits.overlap_of``), (Q,); empty: not known.
        shares: how often each query counts (``search.learn.shares_like``), (Q,); empty: once.
    """

    values: NDArray[np.float64]
    groups: Sequence[Hashable] = ()
    overlap: Sequence[float] = ()
    shares: Sequence[float] = ()

    def take(self, kept: NDArray[np.intp]) -> Population:
        """Only the queries with these indices."""
        groups, overlap, shares = (
            [part[i] for i in kept.tolist()] if len(part) else () for part in (self.groups, self.overlap, self.shares)
        )
        return Population(self.values[:, kept], groups, overlap, shares)

    def means(self) -> tuple[float, ...]:
        """Of each system, weighted by ``shares``."""
        weights = self.shares if len(self.shares) else None
        return tuple(np.average(self.values, axis=1, weights=weights).tolist())

    def compare(self, a: int, b: int, *, resamples: int, seed: int) -> Comparison:
        """System ``a`` against ``b``."""
        return compare(
            self.values[a].tolist(),
            self.values[b].tolist(),
            groups=self.groups if len(self.groups) else None,
            shares=self.shares if len(self.shares) else None,
            resamples=resamples,
            seed=seed,
        )


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two systems, compared on written queries and on people's; ``low`` and ``high`` are the verdict's interval."""

    a: str
    b: str
    written: Comparison
    people: Comparison
    low: float
    high: float

    @property
    def claimed(self) -> bool:
        """Whether the verdict calls one of them better."""
        return self.written.p_value < 0.05 and (self.low > 0 or self.high < 0)

    @property
    def agrees(self) -> bool:
        """Whether people's queries have the same sign."""
        return self.written.difference * self.people.difference > 0

    @property
    def contradicted(self) -> bool:
        """Whether the verdict makes a claim and people's queries, by their own interval, say the opposite."""
        return self.claimed and not self.agrees and (self.people.low > 0 or self.people.high < 0)

    @property
    def inside(self) -> bool:
        """Whether people's difference, as measured, lies inside the verdict's interval."""
        return self.low <= self.people.difference <= self.high

    @property
    def compatible(self) -> bool:
        """Whether both differences can be one: 0 is in the 95 % interval of their difference.

        The interval of a difference of two independent estimates, from the interval of each: a side's squared width is
        the sum of theirs (Zou and Donner 2008).
        """
        gap = self.written.difference - self.people.difference
        if gap > 0:
            room = math.hypot(self.written.difference - self.low, self.people.high - self.people.difference)
        else:
            room = math.hypot(self.high - self.written.difference, self.people.difference - self.people.low)
        return abs(gap) <= room


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What P pairs of systems say of a verdict.

    Attributes:
        systems: names, S.
        written: means on the written queries, (S,).
        people: on people's queries, (S,).
        pairs: all P.
        between: by which the verdict's intervals were widened (``significance.widened``).
        tau: Kendall's tau-b of both means.
        queries: written ones and people's.
    """

    systems: tuple[str, ...]
    written: tuple[float, ...]
    people: tuple[float, ...]
    pairs: tuple[Pair, ...]
    between: float
    tau: float
    queries: tuple[int, int]

    @property
    def claims(self) -> int:
        """Pairs of which the verdict calls one better."""
        return sum(pair.claimed for pair in self.pairs)

    @property
    def agreement(self) -> float:
        """Share of the claims with the sign that people's queries have; NaN without a claim."""
        return sum(pair.claimed and pair.agrees for pair in self.pairs) / self.claims if self.claims else math.nan

    @property
    def close(self) -> tuple[int, int]:
        """Claims of a difference below ``CLOSE``, and how many of them have people's sign."""
        calls = [pair.agrees for pair in self.pairs if pair.claimed and abs(pair.written.difference) < CLOSE]
        return len(calls), sum(calls)

    @property
    def contradicted(self) -> int:
        """Claims that people's queries refute, rather than leave open."""
        return sum(pair.contradicted for pair in self.pairs)

    @property
    def coverage(self) -> float:
        """Share of people's differences inside the verdict's interval, their own noise counted against it."""
        return sum(pair.inside for pair in self.pairs) / len(self.pairs)

    @property
    def compatible(self) -> float:
        """The same with the noise of people's queries in the interval: nominally 0.95 where nothing is biased."""
        return sum(pair.compatible for pair in self.pairs) / len(self.pairs)

    def widened(self, between: float) -> Calibration:
        """The same pairs with intervals widened otherwise."""
        pairs = []
        for pair in self.pairs:
            low, high = widened(pair.written, between)
            pairs.append(dataclasses.replace(pair, low=low, high=high))
        return dataclasses.replace(self, pairs=tuple(pairs), between=between)

    def figures(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "systems": len(self.systems),
            "pairs": len(self.pairs),
            "queries": dict(zip((WRITTEN, PEOPLE), self.queries, strict=True)),
            "between": self.between,
            "claims": self.claims,
            "agreement": None if math.isnan(self.agreement) else self.agreement,
            "close": dict(zip(("claims", "right"), self.close, strict=True)),
            "contradicted": self.contradicted,
            "coverage": self.coverage,
            "compatible": self.compatible,
            "tau": None if math.isnan(self.tau) else self.tau,
        }


def calibrate(
    systems: Sequence[str],
    written: Population,
    people: Population,
    *,
    between: float = 0.0,
    resamples: int = 2_000,
    seed: int = 0,
) -> Calibration:
    """Hold every pair's difference on written queries against that on people's.

    Args:
        systems: names, in the order of both ``values``.
        written: the verdict's queries.
        people: the others, with people's labels.
        between: by which the verdict's intervals are widened.
        resamples: of each comparison.
        seed: of these.

    Raises:
        TokayError: fewer than three systems, or fewer than twenty queries of either kind.
    """
    for kind, population in ((WRITTEN, written), (PEOPLE, people)):
        if len(population.values) != len(systems):
            raise TokayError(f"{len(population.values)} systems have {kind} queries, and {len(systems)} are named")
    check_sizes(len(systems), written.values.shape[1], people.values.shape[1])
    pairs = []
    for a, b in itertools.combinations(range(len(systems)), 2):
        ours, theirs = (one.compare(a, b, resamples=resamples, seed=seed) for one in (written, people))
        pairs.append(Pair(systems[a], systems[b], ours, theirs, *widened(ours, between)))
    means = written.means(), people.means()
    queries = written.values.shape[1], people.values.shape[1]
    return Calibration(tuple(systems), *means, tuple(pairs), between, kendall_tau(*means), queries)


def check_sizes(systems: int, written: int, people: int) -> None:
    """Refuse what would say nothing, before anything is ranked.

    Raises:
        TokayError: fewer than three systems, or fewer than twenty queries of either kind.
    """
    for kind, queries in ((WRITTEN, written), (PEOPLE, people)):
        if queries < LEAST_QUERIES:
            raise TokayError(
                f"{queries} {kind} queries are too few to check a verdict by; expected at least {LEAST_QUERIES}"
            )
    if systems < LEAST_SYSTEMS:
        raise TokayError(
            f"{systems} systems make {math.comb(systems, 2)} pairs, which says nothing of a verdict; name at least "
            f"{LEAST_SYSTEMS} systems"
        )


def between_of(pairs: Sequence[Pair]) -> float:
    """How far the difference on people's queries is from that on written ones, beyond both samples' noise.

    In standard deviations of a query's difference, so that pairs of unlike size can share it: the b with which the mean
    over pairs of ``gap^2 / (error_written^2 + error_people^2 + b^2 spread^2)`` is 1 (Paule and Mandel 1982; the same of
    a random-effects meta-analysis). 0 where noise explains the gaps, at most ``_FARTHEST``.

    Args:
        pairs: pairs that never differ are left out.
    """
    some = [(p.written, p.people) for p in pairs if p.written.spread > 0 and p.people.spread > 0]
    if not some:
        return 0.0
    gaps = np.array([(w.difference - h.difference) ** 2 for w, h in some])
    noise = np.array([(w.detectable / POWER) ** 2 + (h.detectable / POWER) ** 2 for w, h in some])
    spreads = np.array([w.spread**2 for w, _ in some])
    low, high = 0.0, _FARTHEST
    if (gaps / noise).mean() <= 1:
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if (gaps / (noise + middle**2 * spreads)).mean() > 1 else (low, middle)
    return high


def unseen_coverage(calibration: Calibration) -> float:
    """Coverage of each system's pairs, with intervals widened by what the pairs without that system say; the mean."""
    found = []
    for system in calibration.systems:
        between = between_of([pair for pair in calibration.pairs if system not in (pair.a, pair.b)])
        for pair in calibration.pairs:
            if system in (pair.a, pair.b):
                low, high = widened(pair.written, between)
                found.append(low <= pair.people.difference <= high)
    return sum(found) / len(found)


def by_overlap(
    systems: Sequence[str],
    written: Population,
    people: Population,
    *,
    slices: int = 3,
    between: float = 0.0,
    resamples: int = 2_000,
    seed: int = 0,
) -> list[tuple[float, float, Calibration | None]]:
    """The same for the queries of each slice of lexical overlap; the slices have equal numbers of people's queries.

    Returns:
        Lowest and highest overlap of a slice, and its calibration; None where it has too few queries of either kind.
    """
    theirs, ours = np.asarray(people.overlap, np.float64), np.asarray(written.overlap, np.float64)
    edges = [0.0, *np.quantile(theirs, np.arange(1, slices) / slices).tolist(), 1.0]
    found: list[tuple[float, float, Calibration | None]] = []
    for at, (low, high) in enumerate(itertools.pairwise(edges)):
        last = at == slices - 1
        kept = [np.flatnonzero((x >= low) & ((x < high) | last)) for x in (ours, theirs)]
        one = None
        if min(map(len, kept)) >= LEAST_QUERIES:
            one = calibrate(
                systems,
                written.take(kept[0]),
                people.take(kept[1]),
                between=between,
                resamples=resamples,
                seed=seed,
            )
        found.append((low, high, one))
    return found


def kendall_tau(x: Sequence[float], y: Sequence[float]) -> float:
    """Kendall's tau-b: (concordant - discordant) / sqrt(pairs untied in x * pairs untied in y); NaN where all tie."""
    a, b = (np.sign(np.subtract.outer(one, one)) for one in (np.asarray(x, np.float64), np.asarray(y, np.float64)))
    untied = float((a != 0).sum()) * float((b != 0).sum())
    return float((a * b).sum()) / math.sqrt(untied) if untied else math.nan
