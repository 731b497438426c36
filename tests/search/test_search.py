from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokay.search.bm25 import BM25, tokenize
from tokay.search.dense import top_k
from tokay.search.hybrid import choose_weight, fuse, reciprocal_rank_fusion


@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 60), st.integers(1, 12), st.integers(1, 30))
def test_blocks_do_not_matter(seed: int, queries: int, passages: int, k: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    q = rng.integers(-2, 3, (queries, 3)).astype(np.float32)  # small integers: many ties
    p = rng.integers(-2, 3, (passages, 3)).astype(np.float32)
    indices, scores = top_k(q, p, k, block=block)
    exact = q @ p.T
    for row in range(queries):
        order = sorted(range(passages), key=lambda i: (-exact[row, i], i))[:k]
        assert indices[row].tolist() == order + [-1] * (k - len(order))
        np.testing.assert_array_equal(scores[row, : len(order)], exact[row, order])


def test_bm25_equals_the_formula() -> None:
    texts = ["alpha beta beta", "beta gamma", "delta delta delta alpha", ""]
    index = BM25(texts, k1=1.2, b=0.75)
    indices, scores = index.search(["alpha beta", "nothing here", ""], 4)
    tokens = [t.split() for t in texts]
    mean = sum(map(len, tokens)) / 4

    def score(words: list[str]) -> float:
        total = 0.0
        for term in ("alpha", "beta"):
            df = sum(term in t for t in tokens)
            tf = words.count(term)
            idf = np.log(1 + (4 - df + 0.5) / (df + 0.5))
            total += idf * tf / (tf + 1.2 * (1 - 0.75 + 0.75 * len(words) / mean))
        return total

    expected = sorted(((score(t), -i) for i, t in enumerate(tokens) if score(t) > 0), reverse=True)
    assert indices[0].tolist() == [-i for _, i in expected] + [-1]
    np.testing.assert_allclose(scores[0, :3], [s for s, _ in expected], rtol=1e-5)
    assert (indices[1:] == -1).all()


@pytest.mark.parametrize("texts", [["alpha beta", "beta größe", "delta", ""], ["", "the"], []])
def test_bm25_is_the_same_after_it_was_saved(texts: list[str], tmp_path: Path) -> None:
    queries = ["alpha beta", "größe", "unknown", ""]
    made = BM25(texts)
    made.save(tmp_path / "bm25")
    for was, now in zip(made.search(queries, 3), BM25.load(tmp_path / "bm25").search(queries, 3), strict=True):
        np.testing.assert_array_equal(was, now)


@given(st.lists(st.sampled_from(["alpha", "alpha beta", "beta", "gamma"]), min_size=1), st.data())
def test_bm25_among_some_is_what_is_left_of_all(texts: list[str], data: st.DataObject) -> None:
    among = sorted(data.draw(st.sets(st.integers(0, len(texts) - 1))))
    index = BM25(texts)
    whole, _ = index.search(["alpha beta"], len(texts))
    some, _ = index.search(["alpha beta"], len(texts), among=np.array(among, np.int64))
    assert [i for i in some[0].tolist() if i >= 0] == [i for i in whole[0].tolist() if i in among]


def test_identifiers_are_found_whole_and_in_parts() -> None:
    assert list(tokenize("The os.path.join of snake_case, camelCase and HTTPServer2")) == [
        *("os.path.join", "os", "path", "join"),
        *("snake_case", "snake", "case"),
        *("camelcase", "camel", "case"),
        *("httpserver2", "http", "server", "2"),
    ]
    index = BM25(["os.path.join joins paths", "str.join joins strings", "other"])
    assert index.search(["os.path.join"], 2)[0][0, 0] == 0
    assert set(index.search(["joining"], 3)[0][0].tolist()) == {0, 1, -1}  # stemmed


def test_bm25_of_nothing() -> None:
    assert (BM25(["", "!"]).search(["word"], 3)[0] == -1).all()


@given(
    st.lists(
        st.permutations("abcdef").flatmap(lambda p: st.integers(1, 6).map(lambda n: p[:n])), min_size=1, max_size=4
    ),
    st.randoms(),
)
def test_fusion_does_not_see_the_order_of_rankings(rankings: list[list[str]], random) -> None:  # type: ignore[no-untyped-def]
    fused = reciprocal_rank_fusion(rankings)
    assert set(fused) == {item for ranking in rankings for item in ranking}
    random.shuffle(rankings)
    assert reciprocal_rank_fusion(rankings) == fused
    assert reciprocal_rank_fusion([rankings[0]]) == list(rankings[0])


def ranking(*rows: dict[int, float], depth: int = 4) -> tuple[np.ndarray, np.ndarray]:
    indices, scores = np.full((len(rows), depth), -1, np.int64), np.zeros((len(rows), depth), np.float32)
    for r, row in enumerate(rows):
        indices[r, : len(row)], scores[r, : len(row)] = list(row), list(row.values())
    return indices, scores


def test_fusion_by_hand_and_at_its_ends() -> None:
    dense, bm25 = ranking({7: 0.9, 8: 0.8, 9: 0.5}), ranking({9: 12.0, 4: 6.0, 8: 2.0})
    indices, scores = fuse(dense, bm25, 0.25)
    assert indices[0].tolist() == [7, 8, 9, 4]
    np.testing.assert_allclose(scores[0], [0.75, 0.75 * 0.75, 0.25, 0.25 * 0.4], rtol=1e-6)
    assert fuse(dense, bm25, 0.0)[0][0].tolist()[:3] == [7, 8, 9]
    assert fuse(dense, bm25, 1.0)[0][0].tolist()[:2] == [9, 4]
    assert fuse(ranking({}), ranking({}), 0.5)[0].tolist() == [[-1] * 4]


def test_the_weight_is_the_one_that_helps() -> None:
    ids = list("abcdefgh")
    dense, bm25 = ranking({0: 0.9, 1: 0.8, 2: 0.1}), ranking({1: 5.0, 3: 1.0})
    grid = (0.5, 0.0, 0.2)
    assert choose_weight(dense, bm25, ids=ids, qrels={"q": {"b": 1}}, weights=grid) == 0.2
    assert choose_weight(dense, bm25, ids=ids, qrels={"q": {"a": 1}}, weights=grid) == 0.0


@pytest.mark.parametrize(
    "module", ["tokay", "tokay.cli", "tokay.search.bm25", "tokay.evaluate.verdict", "tokay.corpus"]
)
def test_importing_loads_no_torch(module: str) -> None:
    code = (
        f"import sys, {module}; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'datasets', 'jax')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.integers(0, 1000), st.integers(1, 90))
def test_blocks_do_not_matter_where_products_are_rounded(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    q, p = rng.normal(size=(4, 384)).astype(np.float32), rng.normal(size=(90, 384)).astype(np.float32)
    p[[40, 89]] = p[3]  # the same passage three times, in different places of a block
    q[0] = p[3]
    whole, cut = top_k(q, p, 12), top_k(q, p, 12, block=block)
    assert whole[0][0, :3].tolist() == [3, 40, 89]
    for part in (0, 1):
        np.testing.assert_array_equal(whole[part], cut[part])
        np.testing.assert_array_equal(top_k(q[1:2], p, 12)[part][0], whole[part][1])  # alone and among others
    exact = (p.astype(np.float64)[None] * q[:, None]).sum(-1).astype(np.float32)
    np.testing.assert_array_equal(whole[0], np.argsort(-exact, axis=1, kind="stable")[:, :12])


def test_a_vector_of_zeros_ties_with_everything() -> None:
    indices, scores = top_k(np.zeros((1, 4), np.float32), np.ones((9, 4), np.float32), 3, block=2)
    assert (indices.tolist(), scores.tolist()) == ([[0, 1, 2]], [[0.0, 0.0, 0.0]])


def test_names_with_outer_underscores_and_words_beyond_ascii() -> None:
    assert list(tokenize("__init__ _private")) == ["__init__", "init", "_private", "private"]
    assert list(tokenize("ÉCOLE Über größe_2")) == ["école", "über", "größe_2", "größe", "2"]
    assert BM25(["def __init__(self)", "other"]).search(["init"], 1)[0].tolist() == [[0]]


def test_bm25_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    BM25(["one text", "two texts"]).search(["text"], 2)
    assert capfd.readouterr() == ("", "")
