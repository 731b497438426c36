"""Queries to train against passage vectors that do not change: what counts as an answer, and the one loss.

Letters: Q queries, C columns (the passages that training may see), D width of the query's own vectors, W width of the
passages'.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokay.evaluate.metrics import evaluate_run
from tokay.search.dense import top_k, unit
from tokay.search.hybrid import as_run

TEMPERATURE = 0.05
"""Divides cosines, as in ``train.temperature``."""
HALF = 0.5
"""Share of an answer whose gain is below the best one's: it is right too, but no match for the best."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """One training-side query: what it asks, its document, and passage id -> gain of what was judged."""

    query_id: str
    text: str
    document_id: str
    gains: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Passages with vectors that stay as they are.

    Attributes:
        ids: of the N passages.
        documents: of each passage, its document.
        vectors: (N, W), at length 1.
        open: (N,) bool, the passages that training may see: none of a held-out document.
    """

    ids: Sequence[str]
    documents: Sequence[str]
    vectors: NDArray[np.float32]
    open: NDArray[np.bool_]

    def without(self, documents: Collection[str]) -> Frozen:
        """The same with some documents kept from training too."""
        kept = np.array([document not in documents for document in self.documents])
        return dataclasses.replace(self, open=self.open & kept)

    def quality(self, asked: Sequence[Asked], queries: NDArray[np.float32]) -> NDArray[np.float64]:
        """nDCG@10 of each query among all passages, for query vectors (Q, W)."""
        qrels = {one.query_id: dict(one.gains) for one in asked}
        run = as_run(top_k(unit(queries), self.vectors, 10), qrels, self.ids)
        values = evaluate_run(qrels, run)["ndcg@10"]
        return np.array([values[query_id] for query_id in qrels])


@dataclasses.dataclass(frozen=True)
class Targets:
    """What each query should find.

    Attributes:
        rows: of the queries that some open passage answers, (Q,).
        vectors: of the open passages, (C, W).
        wanted: (Q, C), each row a distribution.
    """

    rows: Tensor
    vectors: Tensor
    wanted: Tensor


def targets_of(asked: Sequence[Asked], frozen: Frozen) -> Targets:
    """Every open passage is a column: the best answers are wanted, lesser ones half as much, all others are negatives.

    Where nothing open answers a query it is left out, since such a query would teach noise.
    """
    at = {frozen.ids[i]: column for column, i in enumerate(np.flatnonzero(frozen.open).tolist())}
    rows, wanted = [], []
    for row, one in enumerate(asked):
        gains = {at[p]: gain for p, gain in one.gains.items() if gain > 0 and p in at}
        if not gains:
            continue
        best = max(gains.values())
        shares = {column: 1.0 if gain == best else HALF for column, gain in gains.items()}
        rows.append(row)
        wanted.append({column: share / sum(shares.values()) for column, share in shares.items()})
    target = torch.zeros(len(rows), len(at))
    for row, shares in enumerate(wanted):
        target[row, list(shares)] = torch.tensor(list(shares.values()))
    vectors = torch.from_numpy(np.ascontiguousarray(frozen.vectors[frozen.open]))
    return Targets(torch.tensor(rows, dtype=torch.int64), vectors, target)


def ranking_loss(queries: Tensor, targets: Targets, *, temperature: float = TEMPERATURE) -> Tensor:
    """Cross-entropy of the wanted distribution and the softmax over all columns: InfoNCE with every passage in it.

    Args:
        queries: (Q, W), those of ``targets.rows``, in its order, of any length.
        targets: what they should find.
        temperature: divides cosines.
    """
    cosines = torch.nn.functional.normalize(queries.float(), dim=1) @ targets.vectors.T  # (Q, C)
    return -(targets.wanted * (cosines / temperature).log_softmax(1)).sum(1).mean()
