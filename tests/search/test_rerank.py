"""How deep is read, what is left alone, and which form a budget chooses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tokay.errors import TokayError
from tokay.search.rerank import Rule, mixed, probability, rerank, scaled
from tokay.search.reranker import About, Form, Pace, choose


def drawn(seed: int, count: int = 30) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Candidates, their scores in order, and logits by index."""
    random = np.random.default_rng(seed)
    return (
        random.permutation(count).astype(np.int64),
        np.sort(random.random(count).astype(np.float32))[::-1],
        random.normal(0, 3, count).astype(np.float32),
    )


@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.2, 0.5, 0.9]), st.integers(1, 12))
def test_a_ceiling_of_one_changes_nothing_of_the_first(seed: int, weight: float, top: int) -> None:
    indices, scores, logits = drawn(seed)
    rule = Rule(weight, len(indices), 1.0, top)
    found = rerank(indices, scores, lambda some: logits[some], rule)
    f = mixed(scaled(scores), probability(logits[indices]), weight)
    expected = indices[np.argsort(-f, kind="stable")]
    assert found.indices[:top].tolist() == expected[:top].tolist()
    assert sorted(found.indices.tolist()) == sorted(indices.tolist())
    assert (np.diff(found.scores) <= 1e-6).all()


def test_it_stops_when_nothing_that_is_left_can_enter() -> None:
    indices, scores = np.arange(30), np.linspace(1, 0, 30).astype(np.float32)
    seen: list[int] = []

    def scorer(some: NDArray[np.int64]) -> NDArray[np.float32]:
        seen.extend(some.tolist())
        return np.where(some < 3, 5.0, -5.0).astype(np.float32)

    found = rerank(indices, scores, scorer, Rule(0.5, 30, 0.2, 3))
    assert found.read == len(seen) == 5
    assert found.indices.tolist() == list(range(30))
    seen.clear()
    assert rerank(indices, scores, scorer, Rule(0.5, 12, 1.0, 10)).read == len(seen) == 12


def test_the_rest_stands_below_in_its_order() -> None:
    indices, scores, logits = drawn(0)
    found = rerank(indices, scores, lambda some: logits[some], Rule(1.0, 7, 1.0, 10))
    assert found.read == 7
    assert set(found.indices[:7].tolist()) == set(indices[:7].tolist())
    assert found.indices[7:].tolist() == indices[7:].tolist()
    assert found.scores[7:].max() < found.scores[:7].min()


def test_few_candidates_and_none() -> None:
    nothing = rerank(np.zeros(0, np.int64), np.zeros(0, np.float32), lambda some: some.astype(np.float32), Rule())
    assert (nothing.indices.tolist(), nothing.read) == ([], 0)
    one = rerank(np.array([4]), np.array([0.5], np.float32), lambda some: np.array([2.0], np.float32), Rule())
    assert one.indices.tolist() == [4]


def test_equal_scores_keep_the_rankings_order() -> None:
    indices, scores, _ = drawn(3)
    found = rerank(indices, scores, lambda some: np.zeros(len(some), np.float32), Rule(1.0, 30, 1.0, 10))
    assert found.indices.tolist() == indices.tolist()


def about(*forms: tuple[int, dict[int, float]]) -> About:
    made = [
        Form(folder=f"layers-{n}", backend="onnx-int8", layers=n, weight=0.5, ceiling=1.0, quality=quality)
        for n, quality in forms
    ]
    return About(use=True, sentence="", depth=20, top=10, pair_tokens=100, forms=made)


SIX = (6, {5: 0.60, 10: 0.62, 20: 0.63})
THREE = (3, {5: 0.58, 10: 0.61, 20: 0.615})
PACES = {0: Pace(5.0, 10.0), 1: Pace(3.0, 5.0)}


@pytest.mark.parametrize(
    ("budget", "form", "depth"), [(1000, 0, 20), (204, 0, 10), (105, 0, 10), (104, 1, 20), (55, 1, 10), (30, 1, 5)]
)
def test_a_budget_takes_the_best_that_fits(budget: float, form: int, depth: int) -> None:
    assert choose(about(SIX, THREE), PACES, budget) == (form, depth)


def test_of_equal_quality_the_fastest() -> None:
    assert choose(about((6, {10: 0.6, 20: 0.6}), (3, {10: 0.6})), PACES, 1000) == (1, 10)


def test_a_budget_that_nothing_meets_is_told() -> None:
    with pytest.raises(TokayError, match="reranking takes 28 ms at the least on this machine, and the budget is 9 ms"):
        choose(about(SIX, THREE), PACES, 9)
