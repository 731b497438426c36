"""What nobody judged: how much of each ranking it is, what it could change, and which pairs a judge should see.

A passage without a judgment counts as not relevant, which favours the system whose results were judged. So beside
nDCG@10 stand two figures of the same ranking: condensed, as if the passages that nobody judged were not there (Sakai,
SIGIR 2007), and at best, as if they were as relevant as suits the system most.

Letters: u unjudged passages in a top k.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tokay.evaluate.metrics import Orders, Qrels, ndcg

TOP = 10
"""Of each ranking, what is counted, and what a judge is shown."""


def tops_of(orders: Orders, query_ids: Iterable[str], *, k: int = TOP) -> dict[str, Sequence[str]]:
    """Query id -> the first k passages, best first."""
    return {query_id: orders.get(query_id, ())[:k] for query_id in query_ids}


def unjudged_in(tops: Orders, judged: Mapping[str, set[str]]) -> int:
    """How many passages of the top k were not judged for their query."""
    return sum(passage_id not in judged.get(q, ()) for q, top in tops.items() for passage_id in top)


def pool(tops: Sequence[Orders], judged: Mapping[str, set[str]], query_ids: Sequence[str]) -> dict[str, list[str]]:
    """Query id -> passages of any system's top k that were not judged, in the order of their best rank, then of id.

    No order of systems, and no number of them that found a passage, changes it: a judge sees nothing of who found what.
    """
    found: dict[str, list[str]] = {}
    for query_id in query_ids:
        best: dict[str, int] = {}
        for top in tops:
            for rank, passage_id in enumerate(top.get(query_id, ())):
                best[passage_id] = min(rank, best.get(passage_id, rank))
        new = [p for p in best if p not in judged.get(query_id, ())]
        if new:
            found[query_id] = sorted(new, key=lambda p: (best[p], p))
    return found


def condensed(qrels: Qrels, orders: Orders, judged: Mapping[str, set[str]]) -> dict[str, float]:
    """NDCG@10 of each query, of the ranking without what was not judged."""
    values = {}
    for query_id, grades in qrels.items():
        known = judged.get(query_id, set())
        ranked = [p for p in orders.get(query_id, ()) if p in known]
        values[query_id] = ndcg([grades.get(p, 0) for p in ranked], list(grades.values()), k=TOP)
    return values


def at_best(qrels: Qrels, tops: Orders, judged: Mapping[str, set[str]]) -> dict[str, float]:
    """The highest nDCG@10 that a query could have, whatever the gains of what was not judged in its top 10.

    Gains that occur in ``qrels`` are tried. That all are relevant is not the best case: it raises the ideal, too. For
    any number of passages of each gain it is best that higher gains rank first, so few cases are left.
    """
    levels = tuple(sorted({gain for grades in qrels.values() for gain in grades.values() if gain > 0}, reverse=True))
    values = {}
    for query_id, grades in qrels.items():
        top = tops.get(query_id, ())
        known = judged.get(query_id, set())
        gains = [grades.get(p, 0) for p in top]
        open_ranks = [rank for rank, p in enumerate(top) if p not in known]
        if not open_ranks:
            values[query_id] = ndcg(gains, list(grades.values()), k=TOP)
            continue
        values[query_id] = _best(gains, open_ranks, [g for g in grades.values() if g > 0], levels)
    return values


def _best(gains: Sequence[int], open_ranks: Sequence[int], relevant: Sequence[int], levels: tuple[int, ...]) -> float:
    cases = _cases(len(open_ranks), levels)  # (C, u)
    discounts = 1 / np.log2(np.arange(2, TOP + 2))
    filled = np.repeat(np.maximum([gains], 0), len(cases), 0).astype(np.float64)
    filled[:, open_ranks] = cases
    known = np.repeat([list(relevant)], len(cases), 0).astype(np.float64).reshape(len(cases), -1)
    ideal = -np.sort(-np.concatenate([known, cases], 1), 1)[:, :TOP]
    best = ideal @ discounts[: ideal.shape[1]]
    found = filled @ discounts[: filled.shape[1]]
    return float(np.divide(found, best, out=np.zeros_like(found), where=best > 0).max())


@functools.cache
def _cases(count: int, levels: tuple[int, ...]) -> NDArray[np.float64]:
    """Every way to give ``count`` passages gains that fall with their rank, 0 among them: (C, count)."""
    return np.array(list(itertools.combinations_with_replacement((*levels, 0), count)), np.float64)
