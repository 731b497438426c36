"""Dense and BM25 together: the sum by its formula, and weights that are learned where they are known."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokay.errors import TokayError
from tokay.search.bm25 import BM25
from tokay.search.dense import top_k, unit
from tokay.search.hybrid import FEATURES, PRIOR, Feature, Hybrid, Pool, pools_of, spread_of
from tokay.search.learn import GRID, Judged, learn, like_the_log, quality_by_weight

WORDS = "alpha beta gamma delta epsilon zeta".split()


def corpus(seed: int, count: int) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 6))) for _ in range(count)]
    return texts, unit(rng.integers(-2, 3, (count, 3)).astype(np.float32) + np.float32(0.1))


@given(st.integers(0, 999), st.integers(1, 30), st.integers(1, 8), st.floats(0, 3))
def test_the_sum_is_the_formula(seed: int, count: int, k: int, weight: float) -> None:
    texts, passages = corpus(seed, count)
    queries, vectors = ["alpha beta beta", "zeta", "nothing"], corpus(seed + 1, 3)[1]
    bm25 = BM25(texts)
    dense = top_k(vectors, passages, k)
    pools = list(pools_of(dense, bm25, queries, vectors, passages, depth=k))
    indices, scores = Hybrid(weight).rank(pools, 2 * k)
    for row, (query, terms) in enumerate(zip(queries, (2, 1, 1), strict=True)):
        words = bm25.scores(query)
        near = [i for i in dense[0][row].tolist() if i >= 0]
        found = [i for i in bm25.search([query], k)[0][0].tolist() if i >= 0]
        wanted = {
            i: math.fsum(float(a) * float(b) for a, b in zip(vectors[row], passages[i], strict=True))
            + weight * float(words[i]) / math.sqrt(terms)
            for i in {*near, *found}
        }
        got = indices[row][indices[row] >= 0].tolist()
        assert sorted(got) == sorted(wanted)
        np.testing.assert_allclose(scores[row, : len(got)], [wanted[i] for i in got], rtol=1e-5, atol=1e-6)
        assert (np.diff(scores[row, : len(got)]) <= 0).all()


def test_what_is_left_out_is_no_candidate() -> None:
    texts, passages = corpus(0, 20)
    among = np.array([2, 3, 11], np.int64)
    dense = (np.tile(among, (1, 1)), np.ones((1, 3), np.float32))
    (pool,) = pools_of(dense, BM25(texts), ["alpha"], passages[:1], passages, among=among)
    assert pool.indices.tolist() == among.tolist()


def test_no_weight_is_the_dense_ranking_and_much_is_bm25() -> None:
    texts, passages = corpus(3, 40)
    queries = passages[:5]
    bm25, dense = BM25(texts), top_k(queries, passages, 40)
    asked = ["alpha gamma", "beta", "delta zeta", "epsilon", "alpha"]
    pools = list(pools_of(dense, bm25, asked, queries, passages))
    np.testing.assert_array_equal(Hybrid(0.0).rank(pools, 10)[0], dense[0][:, :10])
    for row, found in enumerate(bm25.search(asked, 3)[1].tolist()):
        hits = [bm25.scores(asked[row])[i] for i in Hybrid(1000.0).rank(pools, 3)[0][row]]
        np.testing.assert_allclose(hits, found)


def test_traits_are_what_they_say() -> None:
    bm25 = BM25(["alpha beta", "alpha", *["gamma"] * 98])
    pool = Pool(np.array([0, 1, 2]), np.array([0.9, 0.5, 0.1]), np.array([0.0, 2.0, 1.0]), "beta os.path", bm25)
    traits = pool.traits
    assert set(traits) == set(FEATURES)
    assert traits["terms"] == pytest.approx(math.log(5))  # beta, os.path, os, path
    assert traits["identifier"] == 1
    assert traits["dense margin"] == pytest.approx(0.8)
    assert traits["word margin"] == pytest.approx(1.0)
    assert traits["rare"] == pytest.approx(3 / 4)  # one passage of a hundred has "beta", none the rest
    idf = math.log(1 + 99.5 / 1.5) + 3 * math.log(1 + 100.5 / 0.5)
    assert traits["overlap"] == pytest.approx(2.0 * 2 / idf)


def test_features_bend_the_weight_within_bounds() -> None:
    hybrid = Hybrid(0.1, {"terms": Feature(0.5, 1.0, 2.0)})
    assert hybrid.weight_of({"terms": 1.0}) == pytest.approx(0.1)
    assert hybrid.weight_of({"terms": 3.0}) == pytest.approx(0.1 * math.exp(0.5))
    assert hybrid.weight_of({"terms": 1e9}) == pytest.approx(0.1 * math.exp(0.5 * 2))
    assert Hybrid.from_json(json.loads(json.dumps(dataclasses.asdict(hybrid)))) == hybrid


def judged(weight: float, count: int, *, noise: float = 0.3, seed: int = 0) -> list[Judged]:
    """Queries whose relevant passage is, but for noise, first at one weight."""
    rng = np.random.default_rng(seed)
    bm25 = BM25(["text"])
    made = []
    for i in range(count):
        dense, words = rng.normal(0, 0.1, 50), rng.exponential(2.0, 50)
        truth = dense + weight * words + rng.normal(0, noise * weight, 50)
        made.append(Judged(Pool(np.arange(50), dense, words, f"query {i % 7}", bm25), {int(truth.argmax()): 1}, i))
    return made


@pytest.mark.parametrize("weight", [0.02, 0.05, 0.3])
def test_the_weight_that_made_the_labels_is_learned(weight: float) -> None:
    queries = judged(weight, 1000)
    hybrid, seen = learn(queries, 0.1)
    assert hybrid.learned
    assert hybrid.features == {}
    got, best = quality_by_weight(queries, [hybrid.weight]).mean(), quality_by_weight(queries, GRID * 0.1).mean(1).max()
    dense = seen["ndcg@10"]["dense"]
    assert (got - dense) / (best - dense) > 0.8


def test_few_queries_stay_near_what_is_usual() -> None:
    usual = PRIOR * 0.1
    few, many = learn(judged(0.5, 5), 0.1)[0].weight, learn(judged(0.5, 800), 0.1)[0].weight
    assert usual < few < 1.5 * usual
    assert many > 3 * usual


def test_a_side_that_is_better_alone_is_taken_alone() -> None:
    rng = np.random.default_rng(0)
    bm25 = BM25(["text"])
    useless = [
        Judged(
            Pool(np.arange(20), (dense := rng.normal(0, 0.1, 20)), rng.exponential(2, 20), "q", bm25),
            {int(dense.argmax()): 1},
            i,
        )
        for i in range(300)
    ]
    assert learn(useless, 0.1)[0].weight == 0
    for i, one in enumerate(useless):
        useless[i] = dataclasses.replace(one, gains={int(one.pool.words.argmax()): 1})
    hybrid, seen = learn(useless, 0.1)
    assert seen["ndcg@10"]["bm25"] == 1
    assert quality_by_weight(useless, [hybrid.weight]).mean() == pytest.approx(1, abs=0.01)


def test_a_trait_that_decides_is_kept() -> None:
    """Long queries want words, short ones the vectors: one weight cannot serve both."""
    rng = np.random.default_rng(0)
    bm25 = BM25(["text"])
    queries = []
    for i in range(400):
        dense, words = rng.normal(0, 0.1, 30), rng.exponential(2.0, 30)
        long = i % 2 == 0
        truth = dense + (0.5 if long else 0.002) * words
        text = " ".join(f"w{j}" for j in range(12)) if long else "one"
        queries.append(Judged(Pool(np.arange(30), dense, words, text, bm25), {int(truth.argmax()): 1}, i))
    hybrid, seen = learn(queries, 0.1)
    assert set(hybrid.features) == set(FEATURES)
    assert seen["out of fold"]["features"] > seen["out of fold"]["one weight"] + 0.05


@settings(max_examples=20)
@given(st.integers(0, 99))
def test_the_order_of_queries_hardly_matters(seed: int) -> None:
    queries = judged(0.05, 60, seed=seed)
    there, back = learn(queries, 0.1)[0], learn(queries[::-1], 0.1)[0]
    assert math.log(there.weight / back.weight) == pytest.approx(0, abs=0.35)


def test_written_queries_count_as_the_log_is() -> None:
    bm25 = BM25(["alpha beta gamma delta", "epsilon"])

    def pool(query: str) -> Pool:
        scores = bm25.scores(query).astype(np.float64)
        return Pool(np.arange(2), np.zeros(2), scores / math.sqrt(max(1, len(bm25.terms(query)))), query, bm25)

    low, high = "alpha one two three four five", "alpha beta gamma"
    queries = [Judged(pool(text), {0: 1}, i) for i, text in enumerate([low] * 8 + [high] * 2)]
    shares = [one.share for one in like_the_log(queries, [pool(high)] * 10)]
    assert shares[0] == pytest.approx(0.2)
    assert shares[-1] > 1
    assert [one.share for one in like_the_log(queries, [])] == [1.0] * 10


def test_a_models_scale() -> None:
    rng = np.random.default_rng(0)
    vectors = unit(rng.standard_normal((3000, 64)).astype(np.float32))
    assert spread_of(vectors[:600], vectors) == pytest.approx(1 / 8, rel=0.03)
    assert Hybrid.usual(0.1, BM25(["text"], k1=1.2)) == Hybrid(PRIOR * 0.1, {}, 1.2)


@pytest.mark.parametrize(
    "damage", [{"weight": -1}, {"weight": "x"}, {"features": 3}, {"wieght": 1}, {"features": {"terms": {}}}]
)
def test_what_is_written_wrong_is_refused(damage: dict[str, object]) -> None:
    right = dataclasses.asdict(Hybrid(0.2))
    assert Hybrid.from_json(right) == Hybrid(0.2)
    with pytest.raises(TokayError, match="BM25's weight is damaged"):
        Hybrid.from_json(right | damage)
