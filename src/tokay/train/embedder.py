"""Training an embedder on examples: what the loop is given."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokay.models.embedder import Embedder
from tokay.models.format import choose_format
from tokay.progress import Progress
from tokay.records import Example
from tokay.settings import TrainSettings
from tokay.train.batches import Batch, epochs, make_batch, steps_of
from tokay.train.loop import Step, train
from tokay.train.losses import contrastive, matryoshka

TOKENS_PER_MICRO_BATCH = 1024
"""Padded tokens of one forward pass; texts of a batch are sorted by length first. Small ones stay in the cache."""


def matryoshka_dims(wanted: Sequence[int], width: int) -> tuple[int, ...]:
    """The widths to train and report: those below the model's, and the model's own, largest first."""
    return tuple(sorted({d for d in wanted if d < width} | {width}, reverse=True))


def train_embedder(
    embedder: Embedder,
    examples: Sequence[Example],
    titled: Mapping[str, tuple[str, str]],
    settings: TrainSettings,
) -> Iterator[Step]:
    """Train in place, yielding after every step.

    Args:
        embedder: its config says format, cut and Matryoshka widths.
        examples: at least two rows.
        titled: id -> (title, text) of every positive and negative.
        settings: of the train stage.
    """
    prompts = embedder.config.prompts
    freeze(embedder, embeddings=settings.freeze_embeddings)
    set_dropout(embedder, settings.dropout)
    written = {
        e.query_id: prompts.write_query(e.query, e.task) if prompts.is_gecko else prompts.write_query(e.query)
        for e in examples
    }
    used = dict.fromkeys(p for e in examples for p in (e.positive_id, *e.negative_ids))
    texts = {p: prompts.write_passage(titled[p][1], titled[p][0]) for p in used}
    tokens = dict(
        zip(
            [("q", i) for i in written] + [("p", i) for i in texts],
            embedder.tokenize([*written.values(), *texts.values()]),
            strict=True,
        )
    )

    def loss_of(batch: Batch) -> Tensor:
        ids = [tokens["q", i] for i in batch.query_ids] + [tokens["p", i] for i in batch.passage_ids]
        vectors = embedder.forward_by_length(ids, tokens_per_batch=TOKENS_PER_MICRO_BATCH)  # (Q + C, D)
        queries, passages = vectors[: len(batch.query_ids)][batch.query], vectors[len(batch.query_ids) :]
        loss = functools.partial(
            contrastive,
            target=batch.target.to(vectors.device),
            allowed=batch.allowed.to(vectors.device),
            allowed_queries=batch.allowed_queries.to(vectors.device) if settings.same_tower == "always" else None,
            temperature=settings.temperature,
        )
        return matryoshka(loss, queries, passages, dims=embedder.config.dims or (embedder.width,))

    batches = (
        make_batch(rows, mask_false_negatives=settings.mask_false_negatives)
        for rows in epochs(examples, batch_size=settings.batch_size, epochs=settings.epochs, seed=settings.seed)
    )
    yield from train(
        embedder,
        loss_of,
        batches,
        steps=steps_of(len(examples), batch_size=settings.batch_size, epochs=settings.epochs),
        learning_rate=settings.learning_rate,
        warmup=settings.warmup,
        weight_decay=settings.weight_decay,
        seed=settings.seed,
    )


def freeze(embedder: Embedder, *, embeddings: bool) -> None:
    """Leave the token, position and type tables alone; everything else is trained."""
    for parameter in embedder.parameters():
        parameter.requires_grad_(True)
    if embeddings:
        for name, parameter in embedder.backbone.named_parameters():
            if ("embed" in name and parameter.ndim == 2) or "embeddings." in name:
                parameter.requires_grad_(False)


def set_dropout(module: nn.Module, share: float) -> None:
    """Set every dropout of a model, attention's included (transformers keeps that one as a number)."""
    child: Any
    for child in module.modules():
        if isinstance(child, nn.Dropout):
            child.p = share
        elif isinstance(getattr(child, "attention_dropout", None), float):
            child.attention_dropout = share


@torch.no_grad()
def interpolate(tuned: Embedder, base: Embedder, weight: float) -> None:
    """Set ``tuned`` to ``weight * tuned + (1 - weight) * base``, weight by weight (Wortsman et al. 2022, WiSE-FT)."""
    for mine, other in zip(tuned.parameters(), base.parameters(), strict=True):
        mine.lerp_(other.to(mine.device), 1 - weight)


def distil_base(
    base: Embedder,
    examples: Sequence[Example],
    passages: Mapping[str, tuple[str, str]],
    settings: TrainSettings,
    *,
    folder: Path,
    log: Path,
    progress: Progress,
) -> None:
    """Train a copy of ``base`` and save it as a sentence-transformers folder; the log has one JSON line a step."""
    tuned = base.clone()
    tuned.config = dataclasses.replace(
        base.config,
        normalize=True,  # trained with cosine, so that a dot product is one
        prompts=choose_format(settings.format, base.config.prompts),
        dims=matryoshka_dims(settings.dims, base.width),
    )
    steps = steps_of(len(examples), batch_size=settings.batch_size, epochs=settings.epochs)
    progress.start("training", steps)
    seen, began, average = 0, time.perf_counter(), 0.0
    with log.open("w", encoding="utf-8") as file:
        for step in train_embedder(tuned, examples, passages, settings):
            seen += settings.batch_size
            average = step.loss if not step.step else 0.9 * average + 0.1 * step.loss
            file.write(json.dumps({"step": step.step, "loss": step.loss, "learning_rate": step.learning_rate}) + "\n")
            progress.advance(note=f"loss {average:.3f}, {seen / (time.perf_counter() - began):.0f} examples/s")
    interpolate(tuned, base, 1.0 if settings.soup == "auto" else settings.soup)
    tuned.save(folder)
