"""A teacher's scores in place of grades: a cross-encoder reads what the base finds for each training query."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tokay.models.cross_encoder import CrossEncoder, written
from tokay.models.torch_embedder import TorchEmbedder
from tokay.progress import Progress
from tokay.search.dense import top_k, unit
from tokay.train.mixture import Source

_QUERIES = 64
"""Queries whose pairs are scored at a time."""


def taught(
    source: Source,
    teacher: CrossEncoder,
    base: TorchEmbedder,
    vectors: NDArray[np.floating],
    passages: Mapping[str, tuple[str, str]],
    depth: int,
    progress: Progress,
) -> Source:
    """The source with the teacher's scores of every row's candidates.

    Candidates are the positive, what was judged, and the first ``depth`` that the base finds. So rows that no judge
    saw are taught too, and what the judge overlooked.

    Args:
        source: of a run, whose queries the base reads.
        teacher: that scores (query, passage) pairs.
        base: that made ``vectors``.
        vectors: (N, D), of ``passages`` in their order.
        passages: id -> (title, text), those that training may see.
        depth: passages that the base finds.
        progress: counts queries.
    """
    ids = list(passages)
    queries = unit(base.encode([row.query for row in source.rows], kind="query"))
    found = top_k(queries, vectors, depth)[0]
    progress.start("scores by the teacher", len(source.rows))
    scores: dict[str, dict[str, float]] = {}
    for start in range(0, len(source.rows), _QUERIES):
        pairs: list[tuple[str, str]] = []
        for row, near in zip(source.rows[start : start + _QUERIES], found[start : start + _QUERIES], strict=True):
            own = [row.positive_id, *row.candidate_ids, *(ids[i] for i in near if i >= 0)]
            pairs += [(row.query_id, one) for one in dict.fromkeys(own) if one in passages]
        words = {row.query_id: row.query for row in source.rows[start : start + _QUERIES]}
        given = teacher.score([(words[q], written(passages[p][1], passages[p][0])) for q, p in pairs])
        for (query_id, passage_id), score in zip(pairs, given.tolist(), strict=True):
            scores.setdefault(query_id, {})[passage_id] = score
        progress.advance(len(words))
    needed = {p for own in scores.values() for p in own}
    texts = {**source.texts, **{p: passages[p] for p in needed}}
    return dataclasses.replace(source, texts=texts, taught=scores)
