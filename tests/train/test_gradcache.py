"""GradCache: the gradients are those of one graph, whatever is cut into chunks and whatever is computed twice."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import train_data
from tokay.models.torch_embedder import TorchEmbedder
from tokay.settings import TrainSettings
from tokay.train import trainee as trainee_module
from tokay.train.batches import Batch
from tokay.train.embedder import maker_of
from tokay.train.engine import Engine
from tokay.train.gradcache import backward
from tokay.train.objective import Objective
from tokay.train.trainee import EmbedderTrainee, Work
from train_data import base, judged, ready, row, source

ENGINE = Engine(precision="fp32")


def small_model(*, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))


def entropy(vectors: Tensor) -> Tensor:
    """A loss in which every vector meets every other."""
    return (vectors @ vectors.T).logsumexp(1).mean()


def gradients(model: nn.Module) -> list[Tensor]:
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    assert found
    assert all(g.abs().sum() > 0 for g in found)
    return found


def cached(model: nn.Module, chunks: Sequence[Tensor], kept: Sequence[bool]) -> tuple[float, list[Tensor]]:
    """The loss and the gradients, with dropout of one and the same seed."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(7)
    value = backward(model, chunks, entropy, kept=kept.__getitem__, engine=ENGINE)
    return value, gradients(model)


def sizes_and_kept() -> st.SearchStrategy[tuple[list[int], list[bool]]]:
    part = st.tuples(st.integers(1, 4), st.booleans())
    return st.lists(part, min_size=1, max_size=5).map(lambda parts: ([n for n, _ in parts], [k for _, k in parts]))


# -- any function of vectors ----------------------------------------------------------------------------------------


@given(sizes_and_kept())
def test_gradients_are_those_of_one_graph(drawn: tuple[list[int], list[bool]]) -> None:
    sizes, kept = drawn
    model = small_model()
    texts = torch.randn(sum(sizes), 4)
    loss = entropy(model(texts))
    loss.backward()
    plain = gradients(model)
    value, found = cached(model, torch.split(texts, sizes), kept)
    assert value == pytest.approx(loss.item(), rel=1e-6)
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@given(sizes_and_kept())
def test_what_is_kept_does_not_matter_to_the_bit_with_dropout(drawn: tuple[list[int], list[bool]]) -> None:
    sizes, kept = drawn
    model = small_model(dropout=0.5)
    chunks = torch.split(torch.randn(sum(sizes), 4), sizes)
    value, found = cached(model, chunks, kept)
    state = torch.get_rng_state()
    other, expected = cached(model, chunks, [True] * len(sizes))
    assert value == other
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert torch.equal(state, torch.get_rng_state())  # nor to the steps that come


def test_chunks_have_masks_of_their_own() -> None:
    """Or dropout would be the same in every chunk, and the property above would hold for nothing."""
    model = small_model(dropout=0.5)
    seen = []
    model.register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    cached(model, [torch.ones(2, 4)] * 3, [False] * 3)
    first, second = seen[:3], seen[3:]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(first, 2))


def test_gradients_are_added_to_what_is_there() -> None:
    model = small_model()
    chunks = [torch.randn(3, 4), torch.randn(2, 4)]
    _, once = cached(model, chunks, [True, False])
    for p, g in zip(model.parameters(), once, strict=True):
        p.grad = g.clone()
    backward(model, chunks, entropy, kept=lambda at: False, engine=ENGINE)
    for g, twice in zip(once, gradients(model), strict=True):
        torch.testing.assert_close(twice, 2 * g)


# -- an embedder and its losses -------------------------------------------------------------------------------------

OBJECTIVES: dict[str, dict[str, Any]] = {
    "plain": {},
    "kl": {"distil": "kl"},
    "margin": {"distil": "margin", "distil_weight": 3.0},
    "hardness": {"hardness": 5.0},
    "spread out": {"spread_out": 2.0},
    "same tower": {"same_tower": "always"},
    "margin mask": {"false_negative_margin": 0.001},
    "all negatives": {"all_negatives": True},
    "widths": {"dims": (16, 8), "dim_weights": (1.0, 2.0, 4.0)},
    "matched": {},
}
"""One for each switch of the loss; "matched" has texts of a teacher in the batch."""


def setting(name: str, **changes: Any) -> TrainSettings:
    return train_data.settings(**{"freeze_embeddings": False, **OBJECTIVES[name], **changes})


def batch_of(name: str, model: TorchEmbedder, chosen: TrainSettings) -> Batch:
    judged_rows = source(rows=[judged(i) for i in range(40)])
    kept = source("kept", [row(i) for i in range(20, 30)], matched=True)
    rows = [(judged_rows, e) for e in judged_rows.rows[:12]]
    return maker_of(model, chosen).make(rows + [(kept, e) for e in kept.rows] if name == "matched" else rows, 0)


def unlike_its_teacher(chosen: TrainSettings) -> TorchEmbedder:
    tuned = ready(chosen)
    with torch.no_grad():
        tuned.backbone.encoder.layer[1].output.LayerNorm.weight.mul_(torch.linspace(0.2, 2.0, 32))
    return tuned


def stepped(name: str, *, tokens_kept: int, **changes: Any) -> tuple[float, list[Tensor], Work]:
    """Loss and gradients of one batch, from the base's weights and random numbers of one seed."""
    chosen = setting(name, **changes)
    tuned = unlike_its_teacher(chosen)
    tuned.train()
    objective = Objective(chosen, tuned.config.dims)
    trainee = EmbedderTrainee(tuned, objective, ENGINE, tokens_kept=tokens_kept, teacher=base())
    torch.manual_seed(3)
    loss = trainee.backward(batch_of(name, tuned, chosen))
    return loss, gradients(tuned), trainee.work


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainee_module, "TOKENS_PER_CHUNK", {"cpu": 48, "cuda": 48})


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_batchs_gradients_are_those_of_one_graph(name: str) -> None:
    chosen = setting(name)
    loss, found, _ = stepped(name, tokens_kept=100)
    tuned = unlike_its_teacher(chosen)
    batch = batch_of(name, tuned, chosen)
    ids = tuned.tokenize(batch.texts)
    teacher = base()([ids[i] for i in batch.matched]).detach() if len(batch.matched) else None
    plain = Objective(chosen, tuned.config.dims)(tuned(ids), batch, teacher)
    plain.backward()
    assert loss == pytest.approx(plain.item(), rel=1e-5)
    for a, b in zip(found, gradients(tuned), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", set(OBJECTIVES) - {"plain"})
def test_every_switch_changes_the_loss(name: str) -> None:
    """Or the equality above would say nothing of it."""
    assert stepped(name, tokens_kept=0)[0] != pytest.approx(stepped("plain", tokens_kept=0)[0], rel=1e-4)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("name", OBJECTIVES)
def test_tokens_kept_do_not_matter_to_the_bit(name: str) -> None:
    loss, expected, all_kept = stepped(name, tokens_kept=10**6, dropout=0.3)
    twice = [all_kept.twice]
    for tokens in (120, 50, 0):
        other, found, work = stepped(name, tokens_kept=tokens, dropout=0.3)
        assert other == loss
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        twice.append(work.twice)
    assert twice == sorted(set(twice))
    assert (twice[0], twice[-1]) == (0, all_kept.padded)


def test_teacher_and_embedder_agree_before_the_first_step() -> None:
    chosen = setting("matched")
    tuned = ready(chosen)
    kept = source("kept", [row(i) for i in range(20)], matched=True)
    batch = maker_of(tuned, chosen).make([(kept, e) for e in kept.rows], 0)
    trainee = EmbedderTrainee(tuned, Objective(chosen, (32, 16)), ENGINE, tokens_kept=0, teacher=base())
    assert trainee.backward(batch) == pytest.approx(0, abs=1e-5)


# -- what is counted ------------------------------------------------------------------------------------------------


def counted(lengths: Sequence[int], *, budget: int, tokens_kept: int) -> Work:
    """Of a batch of plain texts of so many tokens, cut into chunks of ``budget`` padded tokens."""
    texts = [" ".join("a" * (n - 2)) for n in lengths]  # with [CLS] and [SEP]
    chosen = setting("plain")
    tuned = ready(chosen)
    assert [len(ids) for ids in tuned.tokenize(texts)] == list(lengths)
    numbers = torch.arange(len(texts))
    batch = Batch(
        texts=tuple(texts),
        query=numbers,
        passage=numbers,
        target=numbers,
        allowed=torch.ones(len(texts), len(texts), dtype=torch.bool),
        allowed_queries=None,
        hard=torch.zeros(len(texts), len(texts), dtype=torch.bool),
        candidates=torch.zeros(len(texts), 0, dtype=torch.long),
        grades=torch.zeros(len(texts), 0),
        matched=numbers[:0],
        rows=(),
    )
    trainee = EmbedderTrainee(tuned, Objective(chosen, (32,)), ENGINE, tokens_kept=tokens_kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainee_module, "TOKENS_PER_CHUNK", {"cpu": budget, "cuda": budget})
        trainee.backward(batch)
    return trainee.work


def test_work_counts_tokens_and_what_was_padded() -> None:
    work = counted([9, 4, 3, 5], budget=12, tokens_kept=16)
    # chunks by length: 3 and 4 (8 padded), 5 (5), 9 (9); the first two are kept, as 8 + 5 <= 16
    assert work == Work(texts=4, tokens=21, padded=22, twice=9)
    assert work.useful == pytest.approx(21 / 22)


def test_work_of_nothing_is_all_useful() -> None:
    assert Work().useful == 1.0


@given(st.lists(st.integers(3, 12), min_size=2, max_size=8), st.integers(12, 60), st.integers(0, 100))
@settings(max_examples=25)
def test_work_is_bounded_by_what_there_is(lengths: list[int], budget: int, tokens_kept: int) -> None:
    work = counted(lengths, budget=budget, tokens_kept=tokens_kept)
    assert (work.texts, work.tokens) == (len(lengths), sum(lengths))
    assert work.tokens <= work.padded <= len(lengths) * max(lengths)
    assert max(0, work.padded - tokens_kept) <= work.twice <= work.padded


def test_work_adds_up_over_steps() -> None:
    chosen = setting("plain")
    tuned = ready(chosen)
    work = Work()
    trainee = EmbedderTrainee(tuned, Objective(chosen, (32,)), ENGINE, tokens_kept=0)
    trainee.work = work
    batch = batch_of("plain", tuned, chosen)
    trainee.backward(batch)
    once = Work(work.texts, work.tokens, work.padded, work.twice)
    trainee.backward(batch)
    assert work == Work(2 * once.texts, 2 * once.tokens, 2 * once.padded, 2 * once.twice)
    assert once.texts == len(batch.texts)


def test_a_failed_batch_is_described_with_its_texts() -> None:
    chosen = setting("plain")
    tuned = ready(chosen)
    batch = batch_of("plain", tuned, chosen)
    said = EmbedderTrainee(tuned, Objective(chosen, (32,)), ENGINE, tokens_kept=0).describe(batch)
    assert said["texts"] == batch.texts
    first: Callable[[str], Any] = said["rows"][0].__getitem__
    assert (first("source"), first("query_id"), first("positive_id")) == ("run", "q0", "p0")
    assert (first("negative_ids"), first("positive")) == (["p7"], train_data.PASSAGES["p0"])
