"""What is measured of a run's data: plain values in and out.

Letters: Q queries, n candidates of a query.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tokay.evaluate.significance import compare
from tokay.search.bm25 import content_words

QUANTILE = 1.959963984540054
"""0.975 of the normal distribution: of 95 % intervals."""

READ_CHARS = 20_000
"""Of a passage, when its words are compared with a query's: a megabyte of text says nothing about copying."""

RESAMPLES = 2_000

Interval = tuple[float, float]


def mean_interval(
    values: Sequence[float], groups: Sequence[str] | None = None, *, resamples: int = RESAMPLES
) -> Interval:
    """Bootstrap 95 % interval of a mean over queries, those of one group drawn together; one group: the whole range.

    It is that of the difference from a system whose every value is zero (``significance.compare``).
    """
    found = compare(values, [0.0] * len(values), groups=groups, resamples=resamples)
    return max(0.0, found.low) if min(values) >= 0 else found.low, found.high


def wilson(successes: int, trials: int) -> Interval:
    """95 % interval of a share (Wilson 1927), 0 to 1 without trials."""
    if not trials:
        return 0.0, 1.0
    z, p = QUANTILE, successes / trials
    middle = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return (middle - half if successes else 0.0), (middle + half if successes < trials else 1.0)


# -- words ----------------------------------------------------------------------------------------------------------


def words_of(title: str, text: str) -> frozenset[str]:
    """Stems of a passage's content words."""
    return frozenset(content_words(f"{title} {text[:READ_CHARS]}"))


def copied_share(query: str, words: frozenset[str]) -> float | None:
    """The share of a query's content words that stand in a passage, too; None: the query has none."""
    asked = set(content_words(query[:READ_CHARS]))
    return len(asked & words) / len(asked) if asked else None


def longest_run(query: str, text: str) -> int:
    """The most words in a row of a query that stand in a row in a text, capitals aside."""
    asked = re.findall(r"\w+", query[:READ_CHARS].casefold())[:100]
    words = re.findall(r"\w+", text[:READ_CHARS].casefold())
    inside = f" {' '.join(words)} "
    best = 0
    for start in range(len(asked)):
        while start + best < len(asked) and f" {' '.join(asked[start : start + best + 1])} " in inside:
            best += 1
    return best


def tenths(shares: Sequence[float]) -> list[float]:
    """The part of shares that falls into each tenth; 1 counts to the last."""
    counts = Counter(min(9, int(10 * value)) for value in shares)
    return [counts[i] / len(shares) if shares else 0.0 for i in range(10)]


# -- agreement ------------------------------------------------------------------------------------------------------

Opinions = Mapping[str, Mapping[str, float]]
"""Query id -> passage id -> what one judge said."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far two judges agree: ``value`` is the mean Kendall tau-b of queries, or weighted kappa of grades.

    ``pairs`` were rated by both; ``first_same`` is the share of queries of which both put the same passage first.
    ``counts`` says how often each pair of ranks, or of grades, was given.
    """

    value: float
    low: float
    high: float
    queries: int
    pairs: int
    first_same: float
    counts: Mapping[tuple[int, int], int]


def ranks_agree(first: Opinions, second: Opinions) -> Agreement | None:
    """Two judges that order candidates: tau-b of each query over passages that both rated, its mean and interval.

    Queries with fewer than two such passages say nothing, nor do those that a judge finds all alike. None: no query
    is left.
    """
    taus: list[float] = []
    same = pairs = 0
    counts: Counter[tuple[int, int]] = Counter()
    for query_id in sorted(first.keys() & second.keys()):
        rated = sorted(first[query_id].keys() & second[query_id].keys())
        a, b = (np.array([opinions[query_id][p] for p in rated]) for opinions in (first, second))
        tau = kendall_tau(a, b) if len(rated) > 1 else None
        if tau is None:
            continue
        taus.append(tau)
        pairs += len(rated)
        same += int(a.argmax() == b.argmax())
        counts.update(zip(_ranks(a), _ranks(b), strict=True))
    if not taus:
        return None
    low, high = mean_interval(taus)
    return Agreement(float(np.mean(taus)), low, high, len(taus), pairs, same / len(taus), counts)


def grades_agree(first: Opinions, second: Opinions) -> Agreement | None:
    """Two judges that grade candidates: quadratically weighted kappa, queries drawn together for its interval.

    Expected grades are rounded, halves down. None: no pair was graded by both, or either gives one grade alone.
    """
    tables: list[NDArray[np.float64]] = []
    same = 0
    for query_id in sorted(first.keys() & second.keys()):
        rated = sorted(first[query_id].keys() & second[query_id].keys())
        if not rated:
            continue
        found = np.zeros((4, 4))
        for p in rated:
            found[_rounded(first[query_id][p]), _rounded(second[query_id][p])] += 1
        tables.append(found)
        same += _top(first[query_id], rated) == _top(second[query_id], rated)
    if not tables:
        return None
    cells = np.array(tables)  # (Q, 4, 4)
    value = weighted_kappa(cells.sum(0))
    if value is None:
        return None
    drawn = np.random.default_rng(0).integers(0, len(cells), (RESAMPLES, len(cells)))
    kappas = [k for row in drawn if (k := weighted_kappa(cells[row].sum(0))) is not None]
    low, high = np.quantile(kappas, [0.025, 0.975]).tolist() if kappas else (-1.0, 1.0)
    total = cells.sum(0)
    counts = {(i, j): int(total[i, j]) for i in range(4) for j in range(4) if total[i].any() or total[:, j].any()}
    return Agreement(value, low, high, len(tables), int(total.sum()), same / len(tables), counts)


def kendall_tau(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Kendall's tau-b of two lists of n values (Kendall 1945); None where one of them is all ties."""
    upper = np.triu_indices(len(a), 1)
    x, y = (np.sign(values[:, None] - values[None, :])[upper] for values in (a, b))
    weight = math.sqrt(float((x != 0).sum()) * float((y != 0).sum()))
    return float((x * y).sum()) / weight if weight else None


def weighted_kappa(table: NDArray[np.float64]) -> float | None:
    """Cohen's kappa with squared distances as weights (1968), of counts by two grades; None: one grade alone."""
    i, j = np.indices(table.shape)
    distance = (i - j) ** 2
    expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
    chance = float((distance * expected).sum())
    return 1.0 - float((distance * table).sum()) / chance if chance else None


def _ranks(values: NDArray[np.float64]) -> list[int]:
    """From 1, highest value first; equal ones in their order."""
    ranks = np.empty(len(values), int)
    ranks[np.argsort(-values, kind="stable")] = np.arange(1, len(values) + 1)
    return ranks.tolist()


def _top(opinions: Mapping[str, float], rated: Sequence[str]) -> str:
    return max(rated, key=lambda p: opinions[p])


def _rounded(value: float) -> int:
    return min(3, max(0, math.ceil(value - 0.5)))
