from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from tiny import WORDS, tiny_base
from tokay.errors import TokayError
from tokay.models.embedder import Embedder
from tokay.records import Example
from tokay.settings import TrainSettings
from tokay.train.embedder import interpolate, matryoshka_dims, train_embedder
from tokay.train.loop import rate_at, train

PASSAGES = {f"p{i}": (WORDS[i], " ".join(WORDS[i : i + 5])) for i in range(40)}
EXAMPLES = [
    Example(f"q{i}", "", f"{WORDS[i + 2]} {WORDS[i]}", f"p{i}", f"p{i}", [], [f"p{i}"], [], [], False, "train")
    for i in range(40)
]


def trained(**changes: object) -> tuple[Embedder, list[float]]:
    embedder = Embedder.load(tiny_base())
    embedder.config = dataclasses.replace(embedder.config, dims=(32, 16))
    settings = TrainSettings.model_validate({"epochs": 10, "batch_size": 16, "learning_rate": 2e-3, **changes})
    losses = [step.loss for step in train_embedder(embedder, EXAMPLES, PASSAGES, settings)]
    return embedder, losses


def test_training_learns_and_repeats_to_the_bit() -> None:
    (first, losses), (second, again) = trained(), trained()
    assert losses == again
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_frozen_embeddings_stay() -> None:
    base = Embedder.load(tiny_base())
    for frozen in (True, False):
        tuned, _ = trained(freeze_embeddings=frozen)
        table = tuned.backbone.embeddings.word_embeddings.weight
        assert torch.equal(table, base.backbone.embeddings.word_embeddings.weight) is frozen
        query = tuned.backbone.encoder.layer[0].attention.self.query.weight
        assert not torch.equal(query, base.backbone.encoder.layer[0].attention.self.query.weight)


def test_interpolation_ends_are_base_and_tuned() -> None:
    base = Embedder.load(tiny_base())
    tuned, _ = trained(epochs=1)
    kept = [p.clone() for p in tuned.parameters()]
    interpolate(tuned, base, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(tuned.parameters(), kept, strict=True))
    interpolate(tuned, base, 0.0)
    for a, b in zip(tuned.parameters(), base.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_rate_rises_then_falls() -> None:
    rates = [rate_at(s, steps=10, warmup=0.2) for s in range(10)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] > 0


def test_a_loss_that_is_not_finite_stops() -> None:
    layer = nn.Linear(1, 1)
    with pytest.raises(TokayError, match=r"the loss is nan at step 0; lower train.learning_rate"):
        list(
            train(
                layer,
                lambda x: layer(x).sum() * torch.nan,
                [torch.ones(1, 1)],
                steps=1,
                learning_rate=1.0,
                warmup=0,
                weight_decay=0,
                seed=0,
            )
        )


def test_dims_fit_the_width() -> None:
    assert matryoshka_dims((512, 384, 128), 384) == (384, 128)
    assert matryoshka_dims((128,), 384) == (384, 128)
