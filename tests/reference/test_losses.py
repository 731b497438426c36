"""Every loss that sentence-transformers has too: equal values, equal gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tiny import tiny_base
from tokay.train.losses import contrastive, embedding_match, graded_kl, margin_mse, matryoshka, spread_out

pytestmark = pytest.mark.reference
SEEDS = st.integers(0, 10_000)
ROWS, WIDTH = 6, 16


class Given(nn.Module):
    """Stands for a model: the features of a column are its vectors."""

    tokenizer: Any = None
    max_seq_length = 8

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": features["vectors"]}

    def __getitem__(self, module: int) -> nn.Module:
        return self

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


def listed(seed: int, many: int) -> tuple[Tensor, Tensor]:
    """Candidates of each row, one of each block of columns, and their grades."""
    g = torch.Generator().manual_seed(seed)
    return torch.arange(many * ROWS).view(many, ROWS).T, torch.randint(4, (ROWS, many), generator=g).float()


def features(columns: tuple[Tensor, ...]) -> list[dict[str, Tensor]]:
    return [{"vectors": v} for v in columns]


def in_batch(q: Tensor, *columns: Tensor, punished: str = "hard_negatives", t: float = 0.05, **options: Any) -> Tensor:
    """Every row sees every positive and every negative, as there; ``punished`` says what ``hardness`` is for."""
    p = torch.cat(columns)
    own = torch.eye(ROWS, dtype=torch.bool)
    own_negatives = torch.cat([torch.zeros_like(own), *[own] * (len(columns) - 1)], dim=1)
    others = ~torch.cat([own] * len(columns), dim=1)
    hard = {
        "hard_negatives": own_negatives,
        "in_batch_negatives": others,
        "all_negatives": own_negatives | others,
    }[punished]
    seen = torch.ones(ROWS, len(p), dtype=torch.bool)
    return contrastive(q, p, target=torch.arange(ROWS), allowed=seen, hard=hard, temperature=t, **options)


@given(SEEDS, st.integers(1, 3), st.sampled_from([0.02, 0.05, 1.0]))
def test_contrastive_is_multiple_negatives_ranking(seed: int, columns: int, t: float) -> None:
    loss = their("MultipleNegativesRankingLoss", scale=1 / t)
    inputs = vectors(seed, *[ROWS] * (1 + columns))
    ours = functools.partial(in_batch, t=t)
    agree(ours, lambda *v: loss.compute_loss_from_embeddings(list(v), None), inputs)


@given(SEEDS, st.integers(1, ROWS), st.integers(1, 2))
def test_contrastive_is_its_cached_form(seed: int, chunk: int, columns: int) -> None:
    found = []
    cached = their("CachedMultipleNegativesRankingLoss", mini_batch_size=chunk)
    for loss in (in_batch, lambda *v: cached(features(v), None)):
        inputs = vectors(seed, *[ROWS] * (1 + columns))
        value = loss(*inputs)
        value.backward()
        found.append([value.detach(), *(v.grad for v in inputs)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@given(SEEDS)
def test_same_tower_is_its_query_to_query_direction(seed: int) -> None:
    loss = their("MultipleNegativesRankingLoss", directions=("query_to_doc", "query_to_query"))
    others = ~torch.eye(ROWS, dtype=torch.bool)
    ours = functools.partial(in_batch, allowed_queries=others)
    agree(ours, lambda *v: loss.compute_loss_from_embeddings(list(v), None), vectors(seed, ROWS, ROWS, ROWS))


@given(SEEDS, st.sampled_from(["hard_negatives", "in_batch_negatives", "all_negatives"]))
def test_hardness_is_its_penalty(seed: int, punished: str) -> None:
    loss = their("MultipleNegativesRankingLoss", hardness_mode=punished, hardness_strength=5.0)
    ours = functools.partial(in_batch, punished=punished, hardness=5.0)
    agree(ours, lambda *v: loss.compute_loss_from_embeddings(list(v), None), vectors(seed, ROWS, ROWS, ROWS))


@functools.cache
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_base())


@given(SEEDS, st.sampled_from([0.0, 0.1, 0.3]))
def test_the_margin_is_that_of_a_model_that_guides_itself(seed: int, margin: float) -> None:
    from sentence_transformers.sentence_transformer.losses import GISTEmbedLoss

    model = Given()
    model.tokenizer = tokenizer()
    theirs: Any = GISTEmbedLoss(model, model, temperature=0.05, margin=-margin, contrast_positives=False)  # type: ignore[arg-type]
    inputs = vectors(seed, ROWS, ROWS, ROWS)
    # a query itself is never seen here; there it is, unless its cosine of 1 is beyond the margin
    assume((F.cosine_similarity(inputs[0], inputs[1]) < 1 - margin - 1e-3).all())
    others = ~torch.eye(ROWS, dtype=torch.bool)
    # margin 0 is off here, so the smallest is taken
    ours = functools.partial(in_batch, allowed_queries=others, margin=margin or 1e-9)
    agree(ours, lambda *v: theirs(features(v), None), inputs)


@given(SEEDS)
def test_matryoshka_is_theirs_over_the_sum_of_weights(seed: int) -> None:
    dims, weights = [16, 8, 4], [1.0, 0.5, 2.0]
    loss = their("MultipleNegativesRankingLoss")
    theirs = their("MatryoshkaLoss", loss, dims, weights)
    theirs.model = loss.model  # one model, as for users

    ours = functools.partial(matryoshka, in_batch, dims=dims, weights=weights)
    agree(ours, lambda *v: theirs(features(v), None), vectors(seed, ROWS, ROWS), factor=sum(weights))


@given(SEEDS, st.integers(1, 3))
def test_margin_mse_is_theirs_with_cosine(seed: int, negatives: int) -> None:
    from sentence_transformers.util import pairwise_cos_sim

    columns, grades = listed(seed, 1 + negatives)
    loss = their("MarginMSELoss", similarity_fct=pairwise_cos_sim)

    def ours(q: Tensor, *passages: Tensor) -> Tensor:
        p = torch.cat(passages)
        return margin_mse(q, p, target=torch.arange(ROWS), columns=columns, grades=grades, scale=1 / 3)

    inputs = vectors(seed, *[ROWS] * (2 + negatives))
    agree(ours, lambda *v: loss.compute_loss_from_embeddings(list(v), grades / 3), inputs)


@given(SEEDS, st.integers(2, 4), st.sampled_from([0.05, 0.3]), st.sampled_from([0.5, 1.0, 2.0]))
def test_graded_kl_is_theirs_without_the_squared_temperature(seed: int, many: int, t: float, softness: float) -> None:
    from sentence_transformers.util import pairwise_cos_sim

    columns, grades = listed(seed, many)

    def ours(q: Tensor, *passages: Tensor) -> Tensor:
        p = torch.cat(passages)
        return graded_kl(q, p, columns=columns, grades=grades, temperature=t, teacher_temperature=softness)

    # one temperature for both sides there, so the grades are scaled to have theirs
    loss = their("DistillKLDivLoss", similarity_fct=pairwise_cos_sim, temperature=t)
    labels = grades * t / softness
    inputs = vectors(seed, *[ROWS] * (1 + many))
    agree(ours, lambda *v: loss.compute_loss_from_embeddings(list(v), labels), inputs, factor=t * t)


@given(SEEDS, st.integers(2, 40))
def test_spread_out_is_their_second_moment_above_its_floor(seed: int, n: int) -> None:
    loss = their("GlobalOrthogonalRegularizationLoss", mean_weight=0.0, aggregation="sum")
    inputs = [(v + 3).detach().requires_grad_() for v in vectors(seed, n, n)]  # far from spread out
    assert all(spread_out(v) > 1 / WIDTH for v in inputs)
    agree(
        lambda a, b: spread_out(a) + spread_out(b) - 2 / WIDTH,
        lambda *v: loss.compute_loss_from_embeddings(list(v))["gor_second_moment"],
        inputs,
    )


@given(SEEDS, st.integers(1, 3))
def test_matching_is_their_cosine_distillation(seed: int, columns: int) -> None:
    loss = their("EmbedDistillLoss", distance_metric="cosine")
    teacher = [v.detach() for v in vectors(seed + 1, *[ROWS] * columns)]
    agree(
        lambda *v: embedding_match(torch.cat(v), torch.cat(teacher)),
        lambda *v: loss.compute_loss_from_embeddings(list(v), teacher),
        vectors(seed, *[ROWS] * columns),
    )
