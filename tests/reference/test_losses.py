"""Every loss that sentence-transformers has too: equal values, equal gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tokay.train.losses import contrastive, embedding_match, graded_kl, margin_mse, matryoshka, spread_out

pytestmark = pytest.mark.reference
SEEDS = st.integers(0, 10_000)
ROWS, WIDTH = 6, 16


class Given(nn.Module):
    """Stands for a model: the features of a column are its vectors."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": features["vectors"]}

    def get_embedding_dimension(self) -> int:
        return WIDTH


def vectors(seed: int, *sizes: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, WIDTH, generator=g).requires_grad_() for n in sizes]


def agree(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], inputs: list[Tensor], factor: float = 1) -> None:
    """``theirs`` is ``factor`` times ``ours``, in value and in the gradient of every input."""
    values, gradients = [], []
    for loss in (ours, theirs):
        value = loss(*inputs)
        values.append(value.detach())
        gradients.append(torch.autograd.grad(value, inputs, allow_unused=True))
    torch.testing.assert_close(factor * values[0], values[1], rtol=1e-5, atol=1e-5)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(factor * a, b, rtol=1e-4, atol=1e-5)


def their(name: str, *arguments: Any, **options: Any) -> Any:
    from sentence_transformers.sentence_transformer import losses

    return getattr(losses, name)(Given(), *arguments, **options)


def in_batch(q: Tensor, *columns: Tensor, **options: Any) -> Tensor:
    """Every row sees every positive and every negative, as there."""
    p = torch.cat(columns)
    own = torch.eye(ROWS, dtype=torch.bool)
    hard = torch.cat([torch.zeros_like(own), *[own] * (len(columns) - 1)], dim=1)
    seen = torch.ones(ROWS, len(p), dtype=torch.bool)
    return contrastive(q, p, target=torch.arange(ROWS), allowed=seen, hard=hard, temperature=0.05, **options)


@given(SEEDS, st.integers(1, 3))
def test_contrastive_is_multiple_negatives_ranking(seed: int, columns: int) -> None:
    loss = their("MultipleNegativesRankingLoss", scale=20.0)
    inputs = vectors(seed, *[ROWS] * (1 + columns))
    agree(in_batch, lambda *v: loss.compute_loss_from_embeddings(list(v), None), inputs)


@given(SEEDS)
def test_same_tower_is_its_query_to_query_direction(seed: int) -> None:
    loss = their("MultipleNegativesRankingLoss", directions=("query_to_doc", "query_to_query"))
    others = ~torch.eye(ROWS, dtype=torch.bool)
    ours = functools.partial(in_batch, allowed_queries=others)
    agree(ours, lambda *v: loss.compute_loss_from_embeddings(list(v), None), vectors(seed, ROWS, ROWS, ROWS))


@given(SEEDS)
def test_hardness_is_its_penalty_of_hard_negatives(seed: int) -> None:
    loss = their("MultipleNegativesRankingLoss", hardness_mode="hard_negatives", hardness_strength=5.0)
    ours = functools.partial(in_batch, hardness=5.0)
    agree(ours, lambda *v: loss.compute_loss_from_embeddings(list(v), None), vectors(seed, ROWS, ROWS, ROWS))


@given(SEEDS)
def test_matryoshka_is_theirs_over_the_sum_of_weights(seed: int) -> None:
    dims, weights = [16, 8, 4], [1.0, 0.5, 2.0]
    loss = their("MultipleNegativesRankingLoss")
    theirs = their("MatryoshkaLoss", loss, dims, weights)
    theirs.model = loss.model  # one model, as for users

    def apply(*columns: Tensor) -> Tensor:
        value: Tensor = theirs([{"vectors": v} for v in columns], None)
        return value

    ours = functools.partial(matryoshka, in_batch, dims=dims, weights=weights)
    agree(ours, apply, vectors(seed, ROWS, ROWS), factor=sum(weights))


@given(SEEDS)
def test_margin_mse_is_theirs_with_cosine(seed: int) -> None:
    from sentence_transformers.util import pairwise_cos_sim

    g = torch.Generator().manual_seed(seed)
    grades = torch.randint(4, (ROWS, 2), generator=g).float()
    loss = their("MarginMSELoss", similarity_fct=pairwise_cos_sim)
    columns = torch.stack([torch.arange(ROWS), torch.arange(ROWS) + ROWS], dim=1)

    def ours(q: Tensor, p: Tensor, n: Tensor) -> Tensor:
        return margin_mse(q, torch.cat([p, n]), target=torch.arange(ROWS), columns=columns, grades=grades, scale=1 / 3)

    labels = (grades[:, 0] - grades[:, 1]) / 3
    agree(ours, lambda *v: loss.compute_loss_from_embeddings(list(v), labels), vectors(seed, ROWS, ROWS, ROWS))


@given(SEEDS)
def test_graded_kl_is_theirs_without_the_squared_temperature(seed: int) -> None:
    from sentence_transformers.util import pairwise_cos_sim

    g = torch.Generator().manual_seed(seed)
    grades = torch.randint(4, (ROWS, 3), generator=g).float()
    t = 0.05
    columns = torch.arange(3 * ROWS).view(3, ROWS).T

    def ours(q: Tensor, *passages: Tensor) -> Tensor:
        return graded_kl(q, torch.cat(passages), columns=columns, grades=grades, temperature=t, teacher_temperature=1.0)

    # one temperature for both sides there, and t² before: the teacher's scores are scaled so that it is 1 for them
    loss = their("DistillKLDivLoss", similarity_fct=pairwise_cos_sim, temperature=t)
    inputs = vectors(seed, *[ROWS] * 4)
    agree(ours, lambda *v: loss.compute_loss_from_embeddings(list(v), t * grades), inputs, factor=t * t)


@given(SEEDS, st.integers(2, 40))
def test_spread_out_is_their_second_moment_above_its_floor(seed: int, n: int) -> None:
    options = {"mean_weight": 0.0, "aggregation": "sum"}
    loss = their("GlobalOrthogonalRegularizationLoss", **options)
    inputs = [(v + 3).detach().requires_grad_() for v in vectors(seed, n, n)]  # far from spread out
    assert all(spread_out(v) > 1 / WIDTH for v in inputs)
    agree(
        lambda a, b: spread_out(a) + spread_out(b) - 2 / WIDTH,
        lambda *v: loss.compute_loss_from_embeddings(list(v))["gor_second_moment"],
        inputs,
    )


@given(SEEDS)
def test_matching_is_their_cosine_distillation(seed: int) -> None:
    loss = their("EmbedDistillLoss", distance_metric="cosine")
    teacher = vectors(seed + 1, ROWS)[0].detach()
    agree(
        lambda v: embedding_match(v, teacher),
        lambda v: loss.compute_loss_from_embeddings([v], [teacher]),
        vectors(seed, ROWS),
    )
