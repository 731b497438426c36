"""Candidates: which passages might answer a query (Gecko 3.3, step 1).

An annotator with lists of its own (a recorded one) proposes them; otherwise they are the fused top of the retrievers
that the settings name. The seed is always among them, and so are passages that a user's labels name. Every rank and
score is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tokay.records import Candidate, Query
from tokay.search.hybrid import Ranking, reciprocal_rank_fusion
from tokay.settings import MineSettings

DEPTH = 100
"""How deep ranks are recorded; a candidate below has rank 0."""

NOWHERE = (0, 0.0)


def mine(
    queries: Sequence[Query],
    ids: Sequence[str],
    rankings: Mapping[str, Ranking],
    settings: MineSettings,
    *,
    proposed: Mapping[str, Sequence[str]],
    known: Mapping[str, Sequence[str]],
) -> Iterator[Candidate]:
    """Ranked candidates of each query.

    Args:
        queries: Q queries.
        ids: passage ids, by index.
        rankings: by retriever, ``base``, ``initial`` or ``bm25``: indices and scores (Q, DEPTH), index -1 where there
            is none. Those that ``settings.retrievers`` names are fused; the others are recorded.
        settings: of the mine stage.
        proposed: query id -> the annotator's own list; a query without an entry is mined.
        known: query id -> passages that must be among the candidates, beside the seed.
    """
    there = set(ids)
    for at, query in enumerate(queries):
        places = {name: _places(ranking[0][at], ranking[1][at], ids) for name, ranking in rankings.items()}
        order = reciprocal_rank_fusion([list(places[name]) for name in settings.retrievers], k=settings.rrf_k)
        place = {passage_id: rank for rank, passage_id in enumerate(order)}
        wanted = [p for p in dict.fromkeys([query.seed_id, *known.get(query.query_id, ())]) if p in there]
        own = proposed.get(query.query_id)
        others = [p for p in (order if own is None else own) if p in there and p not in wanted]
        chosen = [*wanted, *(others[: max(0, settings.candidates - len(wanted))] if own is None else others)]
        chosen.sort(key=lambda passage_id: (place.get(passage_id, len(order)), passage_id))
        for rank, passage_id in enumerate(chosen, 1):
            base, initial, bm25 = (places.get(n, {}).get(passage_id, NOWHERE) for n in ("base", "initial", "bm25"))
            yield Candidate(query.query_id, passage_id, rank, *base, *initial, *bm25)


def _places(row: NDArray[np.int64], scores: NDArray[np.float32], ids: Sequence[str]) -> dict[str, tuple[int, float]]:
    """Passage id -> rank and score, best first."""
    found = enumerate(zip(row.tolist(), scores.tolist(), strict=True), 1)
    return {ids[i]: (rank, score) for rank, (i, score) in found if i >= 0}
