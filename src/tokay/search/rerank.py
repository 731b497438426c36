"""Reranking: a cross-encoder reads the first candidates of a ranking with the query, and both scores decide.

``f = (1 - w) h + w p``, where h is the candidate's score in the ranking that is reranked, scaled to [0, 1] over that
ranking, and p = 1 / (1 + e^-x) of the cross-encoder's logit x. Fewer than ``depth`` are read where the margin allows:
candidates come in the order of h, so no later one can pass ``(1 - w) h + w ceiling``, and when ``top`` of those that
were read stand above that, the rest is left alone. With a ceiling of 1 the result is the same as of reading all.

Letters: Q queries, k candidates of a query.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

STEP = 5
"""Candidates that are read at a time, between two looks at the margin."""
Scorer = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Logits of some candidates of one query, by index."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a reranker is used; all of it is chosen on dev queries.

    Attributes:
        weight: w, of the reranker beside the ranking; 1: it alone orders what it reads.
        depth: candidates that are read at most.
        ceiling: the highest p that a candidate which was not read yet is expected to have; 1: any.
        top: results for which the order shall be right.
    """

    weight: float = 1.0
    depth: int = 20
    ceiling: float = 1.0
    top: int = 10


@dataclasses.dataclass(frozen=True)
class Reranked:
    """One query's result.

    Attributes:
        indices: all candidates, best first.
        scores: f of those that were read, and of the rest what keeps them below, in their order.
        read: how many were read.
    """

    indices: NDArray[np.int64]
    scores: NDArray[np.float32]
    read: int


def probability(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """1 / (1 + e^-x), without overflow."""
    x = np.asarray(logits, np.float64)
    return np.asarray(0.5 * (1 + np.tanh(x / 2)), np.float32)


def scaled(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """One ranking's scores, best first, as h: min-max over the ranking; equal ones are all 1."""
    low, high = (float(scores[-1]), float(scores[0])) if len(scores) else (0.0, 0.0)
    wide = np.asarray(scores, np.float64)
    return np.ones(len(scores)) if high == low else (wide - low) / (high - low)


def mixed(h: NDArray[np.float64], p: NDArray[np.floating], weight: float) -> NDArray[np.float64]:
    """F of candidates."""
    return (1 - weight) * h + weight * np.asarray(p, np.float64)


def rerank(indices: NDArray[np.int64], scores: NDArray[np.float32], scorer: Scorer, rule: Rule) -> Reranked:
    """Rerank one query's candidates.

    Args:
        indices: (k,) best first, without -1.
        scores: (k,) theirs.
        scorer: reads candidates.
        rule: how.
    """
    h = scaled(scores)
    depth = min(rule.depth, len(indices))
    f: NDArray[np.float64] = np.zeros(0)
    while len(f) < depth and not is_settled(f, h, rule):
        some = slice(len(f), min(depth, len(f) + STEP))
        f = np.concatenate([f, mixed(h[some], probability(scorer(indices[some])), rule.weight)])
    return ordered(indices, h, f)


def is_settled(f: NDArray[np.float64], h: NDArray[np.float64], rule: Rule) -> bool:
    """Whether no candidate that was not read yet can plausibly enter the first ``top``."""
    if len(f) < rule.top or len(f) >= len(h):
        return len(f) >= len(h)
    worst_kept = np.partition(f, -rule.top)[-rule.top]
    return bool(worst_kept >= mixed(h[len(f) :][:1], np.array([rule.ceiling]), rule.weight)[0])


def ordered(indices: NDArray[np.int64], h: NDArray[np.float64], f: NDArray[np.float64]) -> Reranked:
    """Those that were read by f, equal ones in the order of the ranking; then the rest, as it stood."""
    read = len(f)
    order = np.argsort(-f, kind="stable")
    low = float(f.min()) if read else 1.0
    rest = np.minimum(low, 0.0) - 1 + h[read:] if read else h[read:]
    scores = np.concatenate([f[order], rest]).astype(np.float32)
    return Reranked(np.concatenate([indices[:read][order], indices[read:]]), scores, read)
