"""What proposes candidates: against plain formulas, and what must not matter."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tokay.errors import MissingExtra
from tokay.search.ann import Hnsw
from tokay.search.dense import rescored, top_k, unit
from tokay.search.quantised import Binary, Int8, Proposer

EVERY: list[type[Proposer]] = [Int8, Binary, Hnsw]


def vectors_of(seed: int, count: int, width: int) -> NDArray[np.float32]:
    """Unit vectors around a few centres, some of them twice."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((5, width)) + 0.5
    made = centres[rng.integers(0, 5, count)] + 0.5 * rng.standard_normal((count, width))
    return unit(np.round(made, 1).astype(np.float32))


def proposer(kind: type[Proposer], vectors: NDArray[np.floating]) -> Proposer:
    folder = Path(tempfile.mkdtemp())
    kind.write(vectors, folder)
    return kind.open(folder)


@pytest.mark.parametrize("kind", EVERY)
@given(seed=st.integers(0, 99), count=st.integers(1, 60), width=st.integers(2, 70), k=st.integers(1, 9))
def test_with_all_passages_as_candidates_the_result_is_the_exact_one(
    kind: type[Proposer], seed: int, count: int, width: int, k: int
) -> None:
    if kind is Hnsw and seed > 9:
        return  # a graph costs more to build
    vectors, queries = vectors_of(seed, count, width), vectors_of(seed + 1, 3, width)
    candidates = proposer(kind, vectors).propose(queries, count)
    assert [rows.tolist() for rows in candidates] == [list(range(count))] * 3
    for found, exact in zip(rescored(queries, vectors, candidates, k), top_k(queries, vectors, k), strict=True):
        np.testing.assert_array_equal(found, exact)


@given(st.integers(0, 99), st.integers(1, 200), st.integers(1, 130), st.integers(1, 40), st.integers(1, 70))
def test_binary_proposes_the_nearest_signs(seed: int, count: int, width: int, depth: int, rows: int) -> None:
    vectors, queries = vectors_of(seed, count, width), vectors_of(seed + 1, 20, width)
    binary = proposer(Binary, vectors)
    binary.rows = rows  # type: ignore[misc]  # how many are read at a time does not matter
    centre = (vectors.sum(0, dtype=np.float64) / count).astype(np.float32)
    differing = ((queries - centre > 0)[:, None] != (vectors - centre > 0)).sum(2)
    for distances, found in zip(differing, binary.propose(queries, depth), strict=True):
        assert found.tolist() == sorted(np.argsort(distances, kind="stable")[:depth].tolist())


@given(st.integers(0, 99), st.integers(1, 200), st.integers(2, 130), st.integers(1, 40))
def test_int8_proposes_by_the_codes_values(seed: int, count: int, width: int, depth: int) -> None:
    vectors, queries = vectors_of(seed, count, width), vectors_of(seed + 1, 3, width)
    int8 = proposer(Int8, vectors)
    low, high = vectors.min(0), vectors.max(0)
    values = low + (int8.codes.astype(np.float64) + 128.5) * (high - low) / 255  # type: ignore[attr-defined]
    assert np.abs(values - vectors).max() <= (high - low).max() / 255
    exact = queries.astype(np.float64) @ values.T
    for scores, found in zip(exact, int8.propose(queries, depth), strict=True):
        assert len(found) == min(depth, count)
        assert (np.diff(found) > 0).all()
        left = np.delete(scores, found)
        assert not len(left) or scores[found].min() >= left.max() - 1e-5


@pytest.mark.parametrize(("kind", "least"), [(Int8, 0.99), (Binary, 0.99), (Hnsw, 0.95)])
def test_the_usual_depth_finds_what_the_exact_search_finds(kind: type[Proposer], least: float) -> None:
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((24, 128))  # embeddings have fewer directions than numbers
    made = rng.standard_normal((5020, 24)) @ basis + rng.standard_normal((5020, 128)) + 1
    vectors, queries = np.split(unit(made.astype(np.float32)), [5000])
    exact, _ = top_k(queries, vectors, 10)
    found, _ = rescored(queries, vectors, proposer(kind, vectors).propose(queries, 10 * kind.rescore), 10)
    assert np.mean([len({*a} & {*b}) / 10 for a, b in zip(exact.tolist(), found.tolist(), strict=True)]) >= least


@pytest.mark.parametrize("kind", [Int8, Binary])
def test_a_query_finds_the_same_alone_and_among_others(kind: type[Proposer]) -> None:
    vectors, queries = vectors_of(0, 3000, 64), vectors_of(1, 70, 64)
    made = proposer(kind, vectors)
    together = rescored(queries, vectors, made.propose(queries, 200), 10)
    for row in range(0, 70, 13):
        alone = rescored(queries[row : row + 1], vectors, made.propose(queries[row : row + 1], 200), 10)
        np.testing.assert_array_equal(alone[0][0], together[0][row])


def test_half_precision_is_searched_as_it_is_stored() -> None:
    vectors, queries = vectors_of(0, 500, 32).astype(np.float16), vectors_of(1, 5, 32)
    for kind in EVERY:
        found = rescored(queries, vectors, proposer(kind, vectors).propose(queries, 500), 5)
        np.testing.assert_array_equal(found[0], top_k(queries, vectors.astype(np.float32), 5)[0])


def test_a_graph_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(MissingExtra, match=r"search by hnsw needs the package 'usearch': pip install 'tokay\[index\]'"):
        Hnsw.check()
