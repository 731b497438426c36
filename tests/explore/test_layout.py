"""The map: neighbours beside each other, and two maps that lie upon each other."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tokay.explore.layout import aligned, kept_neighbours, layout, nearest, pca
from tokay.search.dense import top_k, unit


def clusters(each: int = 30, kinds: int = 6, width: int = 16) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    drawn = np.random.default_rng(0)
    centres = drawn.normal(size=(kinds, width))
    kind = np.repeat(np.arange(kinds), each)
    return unit((centres[kind] + drawn.normal(size=(len(kind), width)) * 0.25).astype(np.float32)), kind


def shares(places: NDArray[np.float32], kind: NDArray[np.int64]) -> float:
    """Of each point's ten nearest on the plane, those of its own kind."""
    gap = ((places[:, None] - places[None]) ** 2).sum(-1)
    np.fill_diagonal(gap, np.inf)
    return float((kind[np.argsort(gap, 1)[:, :10]] == kind[:, None]).mean())


def test_neighbours_stand_beside_each_other() -> None:
    vectors, kind = clusters()
    places = layout(vectors)
    assert places.shape == (180, 2)
    assert np.isfinite(places).all()
    assert shares(places, kind) > 0.95
    assert shares(places, kind) > shares(pca(vectors, 2), kind)
    np.testing.assert_array_equal(places, layout(vectors))


def test_nearest_are_those_of_the_exact_search() -> None:
    vectors, _ = clusters()
    exact = top_k(vectors, vectors, 6)[0][:, 1:]
    np.testing.assert_array_equal(nearest(vectors, 5), exact)


def test_pca_is_numpys_decomposition() -> None:
    vectors, _ = clusters()
    centred = vectors - vectors.mean(0)
    spread = np.linalg.svd(centred, compute_uv=False)[:3] ** 2
    found = pca(vectors, 3)
    np.testing.assert_allclose((found**2).sum(0), spread, rtol=1e-3)
    np.testing.assert_allclose(found.T @ found, np.diag(spread), atol=1e-2)


def test_maps_are_laid_upon_each_other() -> None:
    drawn = np.random.default_rng(1)
    places = drawn.normal(size=(50, 2)).astype(np.float32)
    turn = np.array([[np.cos(2), np.sin(2)], [np.sin(2), -np.cos(2)]])  # and mirrored
    moved = (3 * places @ turn + [5, -7]).astype(np.float32)
    np.testing.assert_allclose(aligned(moved, places), places, atol=1e-4)


def test_a_map_that_begins_at_another_stays_near_it() -> None:
    vectors, _ = clusters()
    first = layout(vectors)
    drawn = np.random.default_rng(2)
    near = unit(vectors + drawn.normal(size=vectors.shape).astype(np.float32) * 0.02)
    second = aligned(layout(near, start=first), first)
    apart = aligned(layout(near, seed=5, start=drawn.normal(size=first.shape).astype(np.float32)), first)
    assert np.linalg.norm(second - first, axis=1).mean() < np.linalg.norm(apart - first, axis=1).mean() / 2


def test_how_many_neighbours_are_kept() -> None:
    vectors, _ = clusters()
    assert (kept_neighbours(vectors, vectors) == 10).all()
    assert kept_neighbours(vectors, vectors[::-1].copy()).mean() < 5


@pytest.mark.parametrize("count", range(8))
def test_few_points_have_places(count: int) -> None:
    vectors = unit(np.ones((count, 3), np.float32))
    assert layout(vectors).shape == (count, 2)
    assert aligned(layout(vectors), layout(vectors)).shape == (count, 2)
    assert kept_neighbours(vectors, vectors).shape == (count,)
