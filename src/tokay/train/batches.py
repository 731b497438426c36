"""Batches of contrastive training: which texts, which columns a row may see.

A batch holds each distinct text once: a query with several positives has several rows and one vector. Which passages
may stand as negatives of which row is a mask, so nothing has to be thrown away.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from tokay.records import Example


@dataclasses.dataclass(frozen=True)
class Batch:
    """Indices and masks of one step; letters as in ``losses``: B rows, C distinct passages, and Q distinct queries.

    ``query`` (B,) is each row's place among ``query_ids`` (Q).
    """

    query_ids: tuple[str, ...]
    passage_ids: tuple[str, ...]
    query: Tensor
    target: Tensor
    allowed: Tensor
    allowed_queries: Tensor


def epochs(examples: Sequence[Example], *, batch_size: int, epochs: int, seed: int) -> Iterator[list[Example]]:
    """Shuffled rows of each epoch in batches of ``batch_size``.

    The last short batch of an epoch is filled up with the first rows of the next shuffle's order, so that every
    batch has the same number of in-batch negatives; with fewer rows than one batch, all of them are the batch.
    """
    size = min(batch_size, len(examples))
    generator = np.random.default_rng(seed)
    for _ in range(epochs):
        order = generator.permutation(len(examples))
        short = -len(order) % size
        order = np.concatenate([order, generator.permutation(len(examples))[:short]])
        for start in range(0, len(order), size):
            rows = {(examples[i].query_id, examples[i].positive_id): examples[i] for i in order[start : start + size]}
            yield list(rows.values())


def steps_of(rows: int, *, batch_size: int, epochs: int) -> int:
    """Number of batches that ``epochs`` yields."""
    return epochs * -(-rows // min(batch_size, rows)) if rows else 0


def make_batch(rows: Sequence[Example], *, mask_false_negatives: bool) -> Batch:
    """Masks of Gecko's loss for these rows.

    A row sees every row's positive and its own hard negatives. With ``mask_false_negatives`` it does not see
    passages that were judged to answer it (grade >= 2), nor, in the same tower, queries whose positive answers it. It
    never sees the positives of another row of the same query.
    """
    positives_of: dict[str, set[str]] = {}
    for row in rows:
        positives_of.setdefault(row.query, set()).add(row.positive_id)
    query_ids = list(dict.fromkeys(row.query_id for row in rows))
    place = {query_id: at for at, query_id in enumerate(query_ids)}
    passage_ids = list(dict.fromkeys([*(r.positive_id for r in rows), *(n for r in rows for n in r.negative_ids)]))
    column = {passage_id: c for c, passage_id in enumerate(passage_ids)}
    positives = [column[row.positive_id] for row in rows]
    allowed = np.zeros((len(rows), len(passage_ids)), bool)
    allowed[:, positives] = True
    allowed_queries = ~np.eye(len(rows), dtype=bool)
    for i, row in enumerate(rows):
        allowed[i, [column[n] for n in row.negative_ids]] = True
        answers = positives_of[row.query] | {*(row.relevant_ids if mask_false_negatives else ())}
        allowed[i, [column[p] for p in answers if p in column]] = False
        allowed_queries[i, [j for j, other in enumerate(rows) if other.positive_id in answers]] = False
    allowed[np.arange(len(rows)), positives] = True
    return Batch(
        query_ids=tuple(query_ids),
        passage_ids=tuple(passage_ids),
        query=torch.tensor([place[row.query_id] for row in rows]),
        target=torch.tensor(positives),
        allowed=torch.from_numpy(allowed),
        allowed_queries=torch.from_numpy(allowed_queries),
    )
