from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokay.errors import TokayError
from tokay.search.bm25 import BM25, best_of, tokenize
from tokay.search.dense import top_k
from tokay.search.hybrid import reciprocal_rank_fusion


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


def test_words_of_a_language_are_stemmed_by_it() -> None:
    german = BM25(["Die Häuser der Städte", "ein Fluss"], language="german")
    assert german.search(["Haus", "Stadt", "der"], 1)[0].tolist() == [[0], [0], [-1]]
    assert BM25(["houses"], language="none").search(["house", "houses"], 1)[0].tolist() == [[-1], [0]]


def test_a_language_without_stems_is_told() -> None:
    with pytest.raises(TokayError, match=r"no stems for the language 'germn'; did you mean 'german'\?; expected one"):
        BM25(["text"], language="germn")


def test_text_without_blanks_is_found_by_pairs_of_characters() -> None:
    assert list(tokenize("東京都の天気 API2")) == ["東京", "京都", "都の", "の天", "天気", "api2", "api", "2"]
    index = BM25(["東京都の天気", "大阪の料理"], language="none")
    assert index.search(["東京", "料理"], 2)[0].tolist() == [[0, -1], [1, -1]]


def test_idf_is_lucenes() -> None:
    index = BM25(["alpha beta", "alpha", "gamma"])
    assert index.idf("alpha") == pytest.approx(np.log(1 + 1.5 / 2.5))
    assert index.idf("unknown") == pytest.approx(np.log(1 + 3.5 / 0.5))


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, 9), st.sets(st.integers(0, 59)))
def test_the_best_of_scores(values: list[int], k: int, some: set[int]) -> None:
    scores = np.array(values, np.float32)
    among = np.array(sorted(i for i in some if i < len(values)), np.int64)
    for rows in (None, among):
        kept = range(len(values)) if rows is None else rows.tolist()
        wanted = sorted((i for i in kept if values[i] > 0), key=lambda i: (-values[i], i))[:k]
        assert best_of(scores, k, among=rows).tolist() == wanted
