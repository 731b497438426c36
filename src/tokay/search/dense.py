"""Exact nearest neighbours: blocked matrix products, no index.

Letters: Q queries, N passages, D width, k results.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def unit(vectors: NDArray[np.float32], dim: int | None = None) -> NDArray[np.float32]:
    """The first ``dim`` numbers of each row, at length 1; a zero row stays zero."""
    kept = vectors[:, :dim]
    lengths = np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12)
    return np.asarray(kept / lengths, np.float32)


def top_k(
    queries: NDArray[np.float32], passages: NDArray[np.float32], k: int, *, block: int = 8192
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k passages of largest dot product for each query, equal scores by index.

    Memory is bounded by one block of scores, ``1024 x block`` float32; ``passages`` may be a memory map.

    Args:
        queries: (Q, D).
        passages: (N, D).
        k: results a query; with fewer passages, the rest is index -1 and score 0.
        block: passages scored at a time; it does not change the result.

    Returns:
        Indices int64 and scores float32, both (Q, k), best first.
    """
    indices = np.full((len(queries), k), -1, np.int64)
    scores = np.zeros((len(queries), k), np.float32)
    for start in range(0, len(queries), 1024):
        rows = slice(start, start + 1024)
        found_i, found_s = _merge_blocks(np.asarray(queries[rows], np.float32), passages, k, block)
        indices[rows, : found_i.shape[1]] = found_i
        scores[rows, : found_s.shape[1]] = found_s
    return indices, scores


def _merge_blocks(
    queries: NDArray[np.float32], passages: NDArray[np.float32], k: int, block: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    best_i = np.zeros((len(queries), 0), np.int64)
    best_s = np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(passages), block):
        part = queries @ np.asarray(passages[start : start + block], np.float32).T  # (Q, block)
        found = np.broadcast_to(np.arange(start, start + part.shape[1]), part.shape)
        best_i, best_s = _largest(np.concatenate([best_i, found], 1), np.concatenate([best_s, part], 1), k)
    return best_i, best_s


def _largest(
    indices: NDArray[np.int64], scores: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k best columns of each row, by score and then by index; equal scores at the border need the full sort."""
    if scores.shape[1] > 4 * k:
        kth = -np.partition(-scores, k - 1, axis=1)[:, k - 1]  # (Q,)
        widest = int((scores >= kth[:, None]).sum(1).max())  # > k where scores tie with the k-th
        keep = np.argpartition(-scores, min(widest, scores.shape[1]) - 1, axis=1)[:, :widest]
        indices, scores = np.take_along_axis(indices, keep, 1), np.take_along_axis(scores, keep, 1)
    order = np.lexsort((indices, -scores), axis=1)[:, :k]
    return np.take_along_axis(indices, order, 1), np.take_along_axis(scores, order, 1)
