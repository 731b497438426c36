"""Exact nearest neighbours: blocked matrix products, no index.

Letters: Q queries, N passages, D width, k results.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ROWS = 1024
"""Queries scored at a time."""
_FEW = 2
"""Queries that are scored on one core."""
_PAIRS = 8192
"""Pairs rescored at a time."""
_CANDIDATES = 1024
"""Candidates of one query scored at a time: few enough that BLAS calls no other core for them, which on a machine
that has other things to do takes milliseconds."""


def unit(vectors: NDArray[np.float32], dim: int | None = None) -> NDArray[np.float32]:
    """The first ``dim`` numbers of each row, at length 1; a zero row stays zero."""
    kept = vectors[:, :dim]
    lengths = np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12)
    return np.asarray(kept / lengths, np.float32)


def top_k(
    queries: NDArray[np.float32],
    passages: NDArray[np.floating],
    k: int,
    *,
    dim: int | None = None,
    block: int = 8192,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k passages of largest dot product for each query, equal scores by index.

    A float32 matrix product depends in its last bits on the shape of the block, so it only proposes: whatever could be
    among the best, by the bound on its rounding error, is scored again in float64. Hence equal passages have equal
    scores, and a query has the same ranking alone and among others.

    Memory is bounded by one block of scores, ``1024 x block`` float32; ``passages`` may be a memory map.

    Args:
        queries: (Q, D), or (Q, dim).
        passages: (N, D), float32 or float16.
        dim: of the passages take the first ``dim`` numbers at length 1, block by block; None: all, as they are.
        k: results a query; with fewer passages, the rest is index -1 and score 0.
        block: passages scored at a time; it does not change the result.

    Returns:
        Indices int64 and scores (dot products rounded once, to float32), both (Q, k), best first.
    """
    indices = np.full((len(queries), k), -1, np.int64)
    scores = np.zeros((len(queries), k), np.float32)
    for start in range(0, len(queries), _ROWS):
        row, index, score = _best(np.asarray(queries[start : start + _ROWS], np.float32), passages, k, dim, block)
        place = _place(row)
        indices[start + row, place] = index
        scores[start + row, place] = score
    return indices, scores


def rescored(
    queries: NDArray[np.float32], passages: NDArray[np.floating], candidates: Sequence[NDArray[np.int64]], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k best of each query's own candidates: what ``top_k`` gives when it sees no other passage.

    Args:
        queries: (Q, D).
        passages: (N, D), float32 or float16; may be a memory map, of which only the candidates are read.
        candidates: for each query, indices in ascending order.
        k: results a query.

    Returns:
        As ``top_k``.
    """
    indices = np.full((len(queries), k), -1, np.int64)
    scores = np.zeros((len(queries), k), np.float32)
    for row, among in enumerate(candidates):
        found, score = top_k(queries[row : row + 1], passages[among], k, block=_CANDIDATES)
        there = found[0] >= 0
        indices[row, there] = among[found[0, there]]
        scores[row] = score[0]
    return indices, scores


def _best(
    queries: NDArray[np.float32], passages: NDArray[np.floating], k: int, dim: int | None, block: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Row, index and score of every hit: by row, then score descending, then index."""
    row, index, score = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    lowest = np.full(len(queries), -np.inf)  # (Q,) the k-th score so far
    lengths = np.linalg.norm(queries, axis=1)  # (Q,)
    for start in range(0, len(passages), block):
        part = np.asarray(passages[start : start + block], np.float32)
        part = part if dim is None else unit(part, dim)
        # BLAS would call other cores for one query, and these then stand in the way of the next query's encoder
        rough = queries @ part.T if len(queries) > _FEW else np.einsum("qd,nd->qn", queries, part)  # (Q, block)
        # Higham 2002, eq. 3.5: at most D u |q| |p| with u = 2^-24; doubled and + 4 for the roundings of this bound
        longest = np.sqrt(np.vecdot(part, part).max())
        error = (queries.shape[1] + 4) * 2.0**-23 * lengths * longest
        bar = lowest - error
        if k < rough.shape[1] and np.isneginf(lowest).any():
            bar = np.maximum(bar, np.partition(rough, -k, axis=1)[:, -k] - 2 * error)
        r, c = np.nonzero(rough >= bar.astype(np.float32)[:, None])
        row, index = np.concatenate([row, r]), np.concatenate([index, start + c])
        score = np.concatenate([score, _dots(queries, part, r, c)])
        order = np.lexsort((index, -score, row))
        order = order[_place(row[order]) < k]
        row, index, score = row[order], index[order], score[order]
        last = _place(row) == k - 1
        lowest[row[last]] = score[last]
    return row, index, score


def _dots(
    queries: NDArray[np.float32], passages: NDArray[np.float32], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Dot products of single pairs, the same wherever a pair stands: exact products, summed in one fixed order."""
    dots = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _PAIRS):
        some = slice(start, start + _PAIRS)
        dots[some] = (passages[columns[some]].astype(np.float64) * queries[rows[some]]).sum(1)
    return dots


def _place(row: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position of each entry among those of its row; ``row`` is sorted."""
    return np.arange(len(row)) - np.searchsorted(row, row)
