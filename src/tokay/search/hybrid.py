"""Dense and BM25 together.

Rankings are pairs of indices (Q, k) int64, -1 where there is nothing, and scores (Q, k) float32, best first.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tokay.evaluate.metrics import evaluate_run

Ranking = tuple[NDArray[np.int64], NDArray[np.float32]]
T = TypeVar("T", bound=Hashable)


def as_run(ranking: Ranking, query_ids: Iterable[str], ids: Sequence[str]) -> dict[str, dict[str, float]]:
    """A ranking as query id -> passage id -> score."""
    return {
        query_id: {ids[i]: score for i, score in zip(row, found, strict=True) if i >= 0}
        for query_id, row, found in zip(query_ids, ranking[0].tolist(), ranking[1].tolist(), strict=True)
    }


def fused_ranks(rankings: Sequence[Sequence[T]], *, k: int) -> dict[T, float]:
    """``sum_r 1 / (k + rank_r)`` of every item, ranks from 1 (Cormack, Clarke and Büttcher, SIGIR 2009).

    Gecko has k = 0 (2403.20327, appendix A), Cormack et al. 60. The order of ``rankings`` does not matter.
    """
    parts: dict[T, list[float]] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, 1):
            parts.setdefault(item, []).append(1 / (k + rank))
    return {item: sum(sorted(shares)) for item, shares in parts.items()}


def reciprocal_rank_fusion(rankings: Sequence[Sequence[T]], *, k: int = 60) -> list[T]:
    """Items by ``fused_ranks``; equal sums are in order of the best rank, then of ``str(item)``."""
    sums = fused_ranks(rankings, k=k)
    best: dict[T, int] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, 1):
            best[item] = min(rank, best.get(item, rank))
    return sorted(sums, key=lambda item: (-sums[item], best[item], str(item)))


def fuse(dense: Ranking, bm25: Ranking, weight: float) -> Ranking:
    """``(1 - weight) * dense + weight * bm25`` over per-query min-max normalised scores.

    Each system's scores are scaled to [0, 1] over its own list, so that its last hit counts 0, like a passage that
    it did not return. Equal sums keep the order of the dense ranking, then that of index.

    Returns:
        A ranking as deep as the dense one.
    """
    depth = dense[0].shape[1]
    indices = np.full(dense[0].shape, -1, np.int64)
    scores = np.zeros(dense[0].shape, np.float32)
    for row in range(len(indices)):
        sums: dict[int, float] = {}
        for share, (found, values) in ((1 - weight, dense), (weight, bm25)):
            there = found[row] >= 0
            for index, value in zip(found[row][there].tolist(), _scaled(values[row][there]), strict=True):
                sums[index] = sums.get(index, 0.0) + share * value
        place = {index: rank for rank, index in enumerate(dense[0][row].tolist())}
        order = sorted(sums, key=lambda index: (-sums[index], place.get(index, depth), index))[:depth]
        indices[row, : len(order)] = order
        scores[row, : len(order)] = [sums[index] for index in order]
    return indices, scores


def _scaled(scores: NDArray[np.float32]) -> list[float]:
    """Min-max; a list whose scores are all equal scales to 1."""
    if not len(scores):
        return []
    low, high = float(scores.min()), float(scores.max())
    return [1.0] * len(scores) if high == low else ((scores - low) / (high - low)).tolist()


def choose_weight(
    dense: Ranking,
    bm25: Ranking,
    *,
    ids: Sequence[str],
    qrels: Mapping[str, Mapping[str, int]],
    weights: Sequence[float],
) -> float:
    """The smallest weight of BM25 whose nDCG@10 on these queries is within one standard error of the best.

    A hundred queries show a best weight that is off by more than it gains, and a weight that is too high costs more
    than one that is too low.

    Args:
        dense: rankings of the queries of ``qrels``, in its order.
        bm25: the same queries.
        ids: passage ids, by index.
        qrels: query id -> passage id -> gain.
        weights: the grid.
    """

    def quality(weight: float) -> NDArray[np.float64]:
        run = as_run(fuse(dense, bm25, weight), qrels, ids)
        return np.array(list(evaluate_run(qrels, run)["ndcg@10"].values()))

    return within_one_error({weight: quality(weight) for weight in weights})


def within_one_error(found: Mapping[float, NDArray[np.float64]]) -> float:
    """The smallest setting whose mean is within one standard error of the best (Breiman et al. 1984, section 3.4.3).

    The error is that of the paired difference.

    Args:
        found: setting -> quality of each query, in one order.
    """
    best = max(found.values(), key=lambda values: float(values.mean()))
    short = {setting: best - values for setting, values in sorted(found.items())}
    return min(w for w, lacking in short.items() if lacking.mean() <= lacking.std() / np.sqrt(len(lacking)) + 1e-12)
