"""Choices on dev queries: a weight that helps, a margin that costs nothing, logits as probabilities."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tokay.evaluate.rerank import MAY_LOSE, Read, calibration, choose_rule, ndcg_of
from tokay.search.rerank import Rule


def read(*, good: bool, queries: int = 60, seed: int = 0) -> Read:
    """Twenty candidates of each query, one of which answers; a good reranker's logits know which."""
    random = np.random.default_rng(seed)
    ids = [f"p{i:03d}" for i in range(200)]
    indices = np.stack([random.permutation(200)[:20] for _ in range(queries)]).astype(np.int64)
    scores = np.sort(random.random((queries, 20)).astype(np.float32), 1)[:, ::-1]
    answer = random.integers(0, 8, queries)
    qrels = {f"q{n}": {ids[indices[n, a]]: 3, ids[indices[n, a - 1]]: 0} for n, a in enumerate(answer)}
    logits = random.normal(-2, 1, (queries, 20)).astype(np.float32)
    logits[np.arange(queries), answer] += 4 if good else -2
    return Read(qrels, ids, (indices, scores), logits)


def test_a_good_reranker_gets_weight_and_a_bad_one_none() -> None:
    assert choose_rule(read(good=True), depth=20).weight > 0.3
    assert choose_rule(read(good=False), depth=20).weight == 0.0


def test_the_margin_costs_next_to_nothing_and_reads_less() -> None:
    found = read(good=True)
    rule = choose_rule(found, depth=20)
    whole = dataclasses.replace(rule, ceiling=1.0)
    assert found.quality(rule).mean() >= found.quality(whole).mean() - MAY_LOSE
    assert sum(one.read for one in found.reranked(rule)) <= sum(one.read for one in found.reranked(whole))


def test_weight_zero_is_the_ranking_as_it_stands() -> None:
    found = read(good=True)
    plain = found.reranked(Rule(0.0, 20))
    assert all((one.indices == row).all() for one, row in zip(plain, found.ranking[0], strict=True))
    assert ndcg_of(found.qrels, found.ids, plain).shape == (60,)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.3, -1.0), (2.0, 1.5)])
def test_calibration_finds_the_share(scale: float, shift: float) -> None:
    random = np.random.default_rng(1)
    x = random.normal(0, 3, 40_000).astype(np.float32)
    relevant = random.random(len(x)) < 1 / (1 + np.exp(-(scale * x + shift)))
    found = calibration(x, relevant)
    assert found == pytest.approx((scale, shift), abs=0.06)


def test_calibration_keeps_the_order_whatever_comes() -> None:
    x = np.array([1.0, 2.0, 3.0], np.float32)
    assert calibration(x, np.array([True, True, True])) == (1.0, 0.0)
    assert calibration(np.linspace(-5, 5, 100).astype(np.float32), np.linspace(-5, 5, 100) < 0) == (1.0, 0.0)
    assert calibration(np.zeros(0, np.float32), np.zeros(0, bool)) == (1.0, 0.0)
