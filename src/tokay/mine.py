"""Candidates: which passages might answer a query (Gecko 3.3, step 1).

An annotator with lists of its own (a recorded one) proposes them; otherwise they are the fused top of the base
model and BM25. The seed is always among them. Every rank and score is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tokay.records import Candidate, Query
from tokay.search.hybrid import reciprocal_rank_fusion
from tokay.settings import MineSettings

DEPTH = 100
"""How deep ranks are recorded; a candidate below has rank 0."""


def mine(
    queries: Sequence[Query],
    proposed: Mapping[str, list[str]],
    ids: Sequence[str],
    dense: tuple[NDArray[np.int64], NDArray[np.float32]],
    bm25: tuple[NDArray[np.int64], NDArray[np.float32]],
    settings: MineSettings,
) -> Iterator[Candidate]:
    """Ranked candidates of each judged query.

    Args:
        queries: Q queries.
        proposed: query id -> the annotator's own list; a query without an entry is mined.
        ids: passage ids, by index.
        dense: indices and scores (Q, DEPTH) of the base model, -1 where there is none.
        bm25: the same of BM25.
        settings: of the mine stage.
    """
    known = set(ids)

    def ranks(row: NDArray[np.int64], scores: NDArray[np.float32]) -> dict[str, tuple[int, float]]:
        found = enumerate(zip(row.tolist(), scores.tolist(), strict=True), 1)
        return {ids[i]: (rank, score) for rank, (i, score) in found if i >= 0}

    for query, dense_row, dense_scores, bm25_row, bm25_scores in zip(queries, *dense, *bm25, strict=True):
        by_dense, by_bm25 = ranks(dense_row, dense_scores), ranks(bm25_row, bm25_scores)
        order = reciprocal_rank_fusion([list(by_dense), list(by_bm25)], k=settings.rrf_k)
        if query.query_id in proposed:
            chosen = [passage_id for passage_id in proposed[query.query_id] if passage_id in known]
        else:
            chosen = order[: settings.candidates]
        if query.seed_id and query.seed_id not in chosen:
            chosen = [*chosen[: settings.candidates - 1], query.seed_id]
        place = {passage_id: at for at, passage_id in enumerate(order)}
        chosen.sort(key=lambda passage_id: (place.get(passage_id, len(order)), passage_id))
        for rank, passage_id in enumerate(chosen, 1):
            dense_rank, dense_score = by_dense.get(passage_id, (0, 0.0))
            bm25_rank, bm25_score = by_bm25.get(passage_id, (0, 0.0))
            yield Candidate(query.query_id, passage_id, rank, dense_rank, dense_score, bm25_rank, bm25_score)
