from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokay.records import Example
from tokay.train.batches import epochs, make_batch, steps_of
from tokay.train.losses import contrastive, matryoshka


def gecko_by_hand(q: np.ndarray, p: np.ndarray, n: np.ndarray, t: float) -> float:
    """L_main as the paper prints it (appendix B), one number at a time in float64."""

    def s(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    total = 0.0
    for i in range(len(q)):
        below = sum(math.exp(s(q[i], p[j]) / t) for j in range(len(q)))
        below += sum(math.exp(s(q[i], q[j]) / t) for j in range(len(q)) if j != i)
        below += math.exp(s(q[i], n[i]) / t)
        total -= math.log(math.exp(s(q[i], p[i]) / t) / below)
    return total / len(q)


def example(i: int, positive: str, *, negatives: tuple[str, ...] = (), relevant: tuple[str, ...] = ()) -> Example:
    return Example(
        f"q{i}",
        "",
        f"query {i}",
        positive,
        positive,
        list(negatives),
        [positive, *relevant],
        [],
        [],
        False,
        "train",
    )


@given(st.integers(0, 10_000), st.integers(2, 9))
def test_contrastive_is_geckos_loss(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    q, p, n = rng.normal(size=(3, rows, 6))
    batch = make_batch([example(i, f"p{i}", negatives=(f"n{i}",)) for i in range(rows)], mask_false_negatives=True)
    assert batch.passage_ids == tuple([f"p{i}" for i in range(rows)] + [f"n{i}" for i in range(rows)])
    loss = contrastive(
        torch.tensor(q),
        torch.tensor(np.concatenate([p, n])),
        target=batch.target,
        allowed=batch.allowed,
        allowed_queries=batch.allowed_queries,
        temperature=0.2,
    )
    assert loss.item() == pytest.approx(gecko_by_hand(q, p, n, 0.2), abs=1e-10)


@given(st.integers(0, 10_000))
def test_matryoshka_at_full_width_only_is_the_loss(seed: int) -> None:
    torch.manual_seed(seed)
    q, p = torch.randn(4, 8), torch.randn(4, 8)
    loss = functools.partial(
        contrastive, target=torch.arange(4), allowed=torch.ones(4, 4, dtype=torch.bool), temperature=0.1
    )
    torch.testing.assert_close(matryoshka(loss, q, p, dims=(8,)), loss(q, p))
    torch.testing.assert_close(matryoshka(loss, q, p, dims=(8, 3)), (loss(q, p) + loss(q[:, :3], p[:, :3])) / 2)


def test_masked_columns_do_not_matter() -> None:
    rows = [example(0, "a", relevant=("b",)), example(1, "b"), example(2, "a")]
    batch = make_batch(rows, mask_false_negatives=True)
    assert batch.passage_ids == ("a", "b")  # one column a distinct passage
    assert batch.allowed.tolist() == [[True, False], [True, True], [True, True]]
    assert batch.allowed_queries.tolist() == [
        [False, False, False],
        [True, False, True],
        [False, True, False],
    ]
    q, p = torch.randn(3, 4), torch.randn(2, 4)
    args = {"target": batch.target, "allowed": batch.allowed, "temperature": 0.1}
    moved = p.clone()
    moved[1] = torch.randn(4)
    first = contrastive(q[:1], p, target=batch.target[:1], allowed=batch.allowed[:1], temperature=0.1)
    assert first == contrastive(q[:1], moved, target=batch.target[:1], allowed=batch.allowed[:1], temperature=0.1)
    assert contrastive(q, p, **args) != contrastive(q, moved, **args)  # type: ignore[arg-type]


def test_only_its_own_hard_negative() -> None:
    batch = make_batch(
        [example(0, "a", negatives=("x",)), example(1, "b", negatives=("y",))], mask_false_negatives=True
    )
    assert batch.passage_ids == ("a", "b", "x", "y")
    assert batch.allowed.tolist() == [[True, True, True, False], [True, True, False, True]]


def test_without_the_mask_a_false_negative_counts() -> None:
    rows = [example(0, "a", relevant=("b",)), example(1, "b")]
    assert make_batch(rows, mask_false_negatives=False).allowed.all()


@given(st.integers(1, 40), st.integers(2, 16), st.integers(0, 3))
def test_epochs_cover_every_row(rows: int, size: int, count: int) -> None:
    examples = [example(i, f"p{i}") for i in range(rows)]
    batches = list(epochs(examples, batch_size=size, epochs=count, seed=1))
    assert len(batches) == steps_of(rows, batch_size=size, epochs=count)
    seen = [row.query_id for batch in batches for row in batch]
    assert count == 0 or set(seen) == {e.query_id for e in examples}
    assert all(len({row.query_id for row in batch}) == len(batch) for batch in batches)


def test_rows_of_one_query_share_its_vector_and_hide_each_others_positives() -> None:
    rows = [example(0, "a"), example(0, "b"), example(1, "c")]
    batch = make_batch(rows, mask_false_negatives=False)
    assert (batch.query_ids, batch.query.tolist()) == (("q0", "q1"), [0, 0, 1])
    assert batch.allowed.int().tolist() == [[1, 0, 1], [0, 1, 1], [1, 1, 1]]
    assert [len(found) for found in epochs(rows, batch_size=3, epochs=2, seed=0)] == [3, 3]
