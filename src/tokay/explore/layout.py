"""Vectors on a plane, neighbours beside each other: plain numpy.

Letters: N points, D width, K neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]

NEIGHBOURS = 15
EPOCHS = 200
_FAR_SAMPLES = 5
"""Points that each one is pushed from in an epoch."""
_STEP = 0.25
_CLIP = 4.0
_WIDTH = 10.0
"""Standard deviation of the start."""


def pca(vectors: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """The first principal components, (N, width) or fewer; signs are set so that the largest loading is positive."""
    centred = np.asarray(vectors, np.float32) - vectors.mean(0, dtype=np.float64).astype(np.float32)
    _, _, axes = np.linalg.svd(centred.T @ centred, hermitian=True)
    axes = axes[: min(width, *centred.shape)]
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    return np.asarray(centred @ (axes * np.where(signs == 0, 1, signs)[:, None]).T, np.float32)


def nearest(vectors: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Each point's ``k`` nearest others by dot product, best first: (N, k)."""
    k = max(0, min(k, len(vectors) - 1))
    found = np.empty((len(vectors), k), np.int64)
    for start in range(0, len(vectors), 1024):
        scores = vectors[start : start + 1024] @ vectors.T
        rows = np.arange(len(scores))
        scores[rows, start + rows] = -np.inf
        top = np.argpartition(scores, -k, axis=1)[:, -k:] if k else np.empty((len(scores), 0), np.int64)
        order = np.argsort(-np.take_along_axis(scores, top, 1), axis=1, kind="stable")
        found[start : start + 1024] = np.take_along_axis(top, order, 1)
    return found


def layout(vectors: NDArray[np.float32], *, start: Plane | None = None, epochs: int = EPOCHS, seed: int = 0) -> Plane:
    """Places where neighbours in the space are near and others are not: (N, 2).

    As in LargeVis (1602.00370) and UMAP (1802.03426): edges between near points pull with the gradient of
    log 1 / (1 + d^2), points drawn at random push with that of log (1 - 1 / (1 + d^2)), a step shrinks to nothing. All
    edges of an epoch are taken together, which needs no compiled loop.

    Args:
        vectors: (N, D), rows of length 1.
        start: where the points begin, (N, 2); None: the first two principal components.
        epochs: rounds over all edges.
        seed: of what is drawn.
    """
    count = len(vectors)
    if count < 4:
        return np.array([[1, 0], [-1, 0], [0, 1]], np.float32)[:count]
    near = nearest(vectors, NEIGHBOURS)
    heads, tails = np.repeat(np.arange(count), near.shape[1]), near.ravel()
    ends = np.concatenate([heads, tails])
    degree = np.bincount(ends, minlength=count)[:, None].astype(np.float32)
    places = pca(vectors, 2) if start is None else np.asarray(start, np.float32)
    if places.shape[1] < 2:
        places = np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
    places = (places - places.mean(0)) / max(float(places.std()), 1e-9) * (_WIDTH / 2)
    drawn = np.random.default_rng(seed)
    places = places + drawn.normal(0, 1e-3, places.shape).astype(np.float32)  # points of one place must part
    for epoch in range(epochs):
        step = np.float32(_STEP * (1 - epoch / epochs))
        gap = places[heads] - places[tails]
        pull = -2 * gap / (1 + _square(gap))
        moves = _sum(np.concatenate([pull, -pull]), ends, count) * (4 / degree)
        for _ in range(_FAR_SAMPLES):
            gap = places - places[drawn.integers(0, count, count)]
            square = _square(gap)
            moves += np.clip(2 * gap / ((0.01 + square) * (1 + square)), -_CLIP, _CLIP)
        places = places + step * np.clip(moves, -_CLIP, _CLIP)
    return np.asarray(places, np.float32)


def aligned(places: Plane, to: Plane) -> Plane:
    """Turned, mirrored, scaled and moved to lie as near to other places of the same points as it can (Procrustes)."""
    if not len(places):
        return places
    ours, theirs = places - places.mean(0), to - to.mean(0)
    left, sizes, right = np.linalg.svd(ours.T @ theirs)
    scale = sizes.sum() / max(float((ours**2).sum()), 1e-12)
    return np.asarray(scale * ours @ (left @ right) + to.mean(0), np.float32)


def kept_neighbours(before: NDArray[np.float32], after: NDArray[np.float32], k: int = 10) -> NDArray[np.int64]:
    """How many of each point's ``k`` nearest others are the same in both spaces: (N,)."""
    ours, theirs = nearest(before, k), nearest(after, k)
    return np.array([len({*a} & {*b}) for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)], np.int64)


def _square(gap: Plane) -> Plane:
    return np.asarray((gap * gap).sum(1, keepdims=True), np.float32)


def _sum(values: Plane, ends: NDArray[np.int64], count: int) -> Plane:
    sums = [np.bincount(ends, values[:, axis], count) for axis in (0, 1)]
    return np.stack(sums, 1).astype(np.float32)
