"""Queries to train against passage vectors that do not change: what counts as an answer, and the one loss.

Letters: Q queries, C columns (the passages that training may see), D width of the query's own vectors, W width of the
passages'.
"""

from __future__ import annotations

import dataclasses
import hashlib
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
MOST_CELLS = 30_000_000
"""Queries times columns: 120 MB of cosines."""
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
    """What each query should find among the columns.

    Attributes:
        rows: of the queries that some open passage answers, (Q,).
        vectors: of the columns, (C, W).
        columns: (Q, K) int64, those that are wanted; filled up with 0.
        shares: (Q, K), how much each is wanted: at least 0, 1 in all for each query.
    """

    rows: Tensor
    vectors: Tensor
    columns: Tensor
    shares: Tensor

    def some(self, which: Sequence[int]) -> Targets:
        """The targets of some of the queries."""
        at = torch.tensor(which, dtype=torch.int64)
        return dataclasses.replace(self, rows=self.rows[at], columns=self.columns[at], shares=self.shares[at])

    def to(self, device: torch.device) -> Targets:
        """The same on a device."""
        moved = {field.name: getattr(self, field.name).to(device) for field in dataclasses.fields(self)}
        return Targets(**moved)


def targets_of(asked: Sequence[Asked], frozen: Frozen) -> Targets:
    """The best answers are wanted, lesser ones half as much; all other columns are negatives.

    Columns are all open passages, or, of a large corpus, those that were judged for a query and as many others, by a
    hash of their ids, as ``MOST_CELLS`` allows. A query that nothing open answers is left out: it would teach noise.
    """
    chosen = _columns(asked, frozen)
    at = {frozen.ids[i]: column for column, i in enumerate(chosen)}
    rows, wanted = [], []
    for row, one in enumerate(asked):
        gains = {at[p]: gain for p, gain in one.gains.items() if gain > 0 and p in at}
        if not gains:
            continue
        best = max(gains.values())
        shares = {column: 1.0 if gain == best else HALF for column, gain in gains.items()}
        rows.append(row)
        wanted.append({column: share / sum(shares.values()) for column, share in shares.items()})
    widest = max(map(len, wanted), default=1)
    columns, weights = torch.zeros(len(rows), widest, dtype=torch.int64), torch.zeros(len(rows), widest)
    for row, found in enumerate(wanted):
        columns[row, : len(found)] = torch.tensor(list(found))
        weights[row, : len(found)] = torch.tensor(list(found.values()))
    vectors = torch.from_numpy(np.asarray(frozen.vectors[chosen], np.float32))
    return Targets(torch.tensor(rows, dtype=torch.int64), vectors, columns, weights)


def _columns(asked: Sequence[Asked], frozen: Frozen) -> list[int]:
    """Indices of the passages that are columns, in ascending order."""
    there: list[int] = np.flatnonzero(frozen.open).tolist()
    most = MOST_CELLS // max(1, len(asked))
    if len(there) <= most:
        return there
    judged = {p for one in asked for p in one.gains}
    order = sorted(there, key=lambda i: (frozen.ids[i] not in judged, _digest(frozen.ids[i])))
    return sorted(order[: max(most, sum(frozen.ids[i] in judged for i in there))])


def ranking_loss(queries: Tensor, targets: Targets, *, temperature: float = TEMPERATURE) -> Tensor:
    """Cross-entropy of what is wanted and the softmax over all columns: InfoNCE with every passage in it.

    Args:
        queries: (Q, W), those of ``targets.rows``, in its order, of any length.
        targets: what they should find.
        temperature: divides cosines.
    """
    cosines = torch.nn.functional.normalize(queries.float(), dim=1) @ targets.vectors.T  # (Q, C)
    logits = cosines / temperature
    return (logits.logsumexp(1) - (targets.shares * logits.gather(1, targets.columns)).sum(1)).mean()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
