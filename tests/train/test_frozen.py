"""Queries against passage vectors that stay: what is wanted, and the loss against a plain softmax."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tokay.train import frozen as module
from tokay.train.frozen import Asked, Frozen, ranking_loss, targets_of
from tokay.train.query_map import ridge_prior, train_map
from tokay.train.query_table import spans_of


def passages(count: int = 30, width: int = 8) -> Frozen:
    vectors = np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"p{i}" for i in range(count)]
    return Frozen(ids, [f"d{i // 3}" for i in range(count)], vectors, np.arange(count) < count - 6)


def asked(count: int = 20) -> list[Asked]:
    return [Asked(f"q{i}", "", f"d{i // 3}", {f"p{i}": 3, f"p{i + 1}": 2, f"p{i + 2}": 0}) for i in range(count)]


def test_the_loss_is_the_cross_entropy_over_all_open_passages() -> None:
    found, some = passages(), asked()
    targets = targets_of(some, found)
    queries = torch.randn(len(some), 8, generator=torch.Generator().manual_seed(0))
    wanted = torch.zeros(len(some), 24)
    for row in range(len(some)):
        wanted[row, row], wanted[row, row + 1] = 2 / 3, 1 / 3
    logits = torch.nn.functional.normalize(queries, dim=1) @ torch.from_numpy(found.vectors[:24]).T / 0.05
    expected = torch.nn.functional.cross_entropy(logits, wanted)
    torch.testing.assert_close(ranking_loss(queries, targets), expected)
    halves = [ranking_loss(queries[part], targets.some(part)) for part in (range(10), range(10, 20))]
    torch.testing.assert_close(sum(halves) / 2, expected)


def test_what_nothing_open_answers_is_left_out() -> None:
    found = passages().without({"d0"})
    targets = targets_of([*asked(4), Asked("q", "", "d9", {"p29": 3}), Asked("none", "", "d1", {"p4": 0})], found)
    assert targets.rows.tolist() == [2, 3]
    assert len(targets.vectors) == 21
    assert targets.shares[0].tolist() == [1.0, 0.0]  # p2 is closed, and p3 is the best that is open


def test_of_a_large_corpus_what_was_judged_is_kept_and_others_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    found, some = passages(), asked(4)
    monkeypatch.setattr(module, "MOST_CELLS", 40)
    targets = targets_of(some, found)
    assert len(targets.vectors) == 10
    for i in range(6):
        assert (targets.vectors == torch.from_numpy(found.vectors[i])).all(1).any()
    monkeypatch.setattr(module, "MOST_CELLS", 4)
    assert len(targets_of(some, found).vectors) == 6


def test_a_strong_map_is_the_prior_and_a_weak_one_learns() -> None:
    found, some = passages(60, 16), asked(40)
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))
    queries = np.asarray(found.vectors[:40] @ turn, np.float32)
    strong = train_map(some, queries, found, strengths=(1e4,))
    np.testing.assert_allclose(strong.matrix, np.eye(16), atol=1e-3)
    weak = train_map(some, queries, found, strengths=(0.3, 0.03, 0.003))
    assert found.quality(some, queries @ weak.matrix.T).mean() > found.quality(some, queries).mean() + 0.2
    assert [one.strength for one in weak.tried] == [np.inf, 0.3, 0.03, 0.003]


def test_the_way_between_two_spaces_is_found() -> None:
    here = passages(200, 8).vectors
    way = np.random.default_rng(2).normal(size=(5, 8)).astype(np.float32)
    np.testing.assert_allclose(ridge_prior(here, here @ way.T), way, atol=0.1)


def test_spans_depend_on_nothing_but_the_texts() -> None:
    texts = [("A title of it", "One sentence here. Another one, longer than that.\nA third line follows")] * 2
    texts.append(("x", "alpha " * 40))
    spans = spans_of(texts, 100)
    assert {"A title of it", "One sentence here.", "Another one, longer than that."} <= set(spans)
    assert spans == spans_of(reversed(texts), 100)
    assert spans[:3] == spans_of(texts, 3)
    assert all(2 <= len(span.split()) <= 20 for span in spans)
