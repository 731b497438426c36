"""Training an embedder in place: sources of rows in, steps out."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tokay.errors import TokayError
from tokay.models.attention import float32_attention
from tokay.models.format import choose_format
from tokay.models.torch_embedder import TorchEmbedder
from tokay.settings import TrainSettings
from tokay.train.adapters import set_dropout
from tokay.train.batches import Batch, BatchMaker, Draw
from tokay.train.checkpoints import Checkpoints
from tokay.train.dev import DevSet
from tokay.train.engine import Engine
from tokay.train.loop import Schedule, Step, train
from tokay.train.mixture import Source
from tokay.train.objective import Objective
from tokay.train.rates import find_rate
from tokay.train.trainee import EmbedderTrainee, Work


def matryoshka_dims(wanted: Sequence[int], width: int) -> tuple[int, ...]:
    """The widths to train and report: those below the model's, and the model's own, largest first."""
    return tuple(sorted({d for d in wanted if d < width} | {width}, reverse=True))


def draw_of(sources: Sequence[Source], settings: TrainSettings) -> Draw:
    """Which rows a training sees, in what order.

    Raises:
        TokayError: there is nothing to contrast, or weights do not fit the widths.
    """
    for source in sources:
        least = 1 if source.matched else 2
        if len(source.rows) < least:
            raise TokayError(f"source {source.name!r} has {len(source.rows)} training rows; expected at least {least}")
    return Draw(tuple(sources), settings.batch_size, settings.epochs, settings.batching, settings.seed)


def maker_of(embedder: TorchEmbedder, settings: TrainSettings) -> BatchMaker:
    """How rows become batches for this embedder."""
    return BatchMaker(
        embedder.config.prompts,
        same_tower=settings.same_tower,
        mask_false_negatives=settings.mask_false_negatives,
        all_negatives=settings.all_negatives,
        candidates=settings.distil_candidates if settings.distil != "none" else 0,
        seed=settings.seed,
    )


def prepared(base: TorchEmbedder, settings: TrainSettings) -> TorchEmbedder:
    """A copy of the base that is about to be trained: format, widths and dropout as the settings have them."""
    tuned = base.clone()
    tuned.config = dataclasses.replace(
        base.config,
        normalize=True,  # trained with cosine, so that a dot product is one
        prompts=choose_format(settings.format, base.config.prompts),
        dims=matryoshka_dims(settings.dims, base.width),
    )
    if settings.dim_weights and len(settings.dim_weights) != len(tuned.config.dims):
        raise TokayError(
            f"train.dim_weights has {len(settings.dim_weights)} weights for the {len(tuned.config.dims)} widths "
            f"{', '.join(map(str, tuned.config.dims))}; give one for each, or none"
        )
    set_dropout(tuned, settings.dropout)
    return tuned


@contextlib.contextmanager
def ready_to_train(tuned: TorchEmbedder, engine: Engine, settings: TrainSettings) -> Iterator[None]:
    """The embedder on its device, in the state that training needs; afterwards as it was."""
    tuned.to(engine.device)
    if settings.gradient_checkpointing:
        _checkpointing(tuned.backbone, on=True)
    on_cpu = engine.precision == "bf16" and engine.device.type == "cpu"
    with float32_attention(tuned) if on_cpu else contextlib.nullcontext():
        yield
    if settings.gradient_checkpointing:
        _checkpointing(tuned.backbone, on=False)


def _checkpointing(backbone: Any, *, on: bool) -> None:
    """Gradient checkpointing by the name that transformers gives it: another since 5.24, which warns of the old one."""
    word = "activation" if hasattr(backbone, "activation_checkpointing_enable") else "gradient"
    if on:
        enable = getattr(backbone, f"{word}_checkpointing_enable")
        enable(**{f"{word}_checkpointing_kwargs": {"use_reentrant": False}})
    else:
        getattr(backbone, f"{word}_checkpointing_disable")()


def train_embedder(
    tuned: TorchEmbedder,
    sources: Sequence[Source],
    settings: TrainSettings,
    *,
    teacher: TorchEmbedder | None = None,
    engine: Engine | None = None,
    checkpoints: Checkpoints | None = None,
    dev: DevSet | None = None,
    work: Work | None = None,
) -> Iterator[Step]:
    """Train in place what the adapter made trainable, yielding after every step.

    Args:
        tuned: its config says format, cut and Matryoshka widths.
        sources: each with at least two rows.
        settings: of the train stage.
        teacher: for sources of matched texts: whose vectors they keep.
        engine: device, precision, processes; None: by the settings.
        checkpoints: an unfinished training there goes on.
        dev: for early stopping.
        work: counts what is computed.
    """
    engine = engine or Engine(precision=settings.precision)
    draw, maker = draw_of(sources, settings), maker_of(tuned, settings)
    trainee = EmbedderTrainee(
        tuned,
        Objective(settings, tuned.config.dims or (tuned.width,)),
        engine,
        tokens_kept=settings.tokens_kept,
        teacher=teacher,
    )
    trainee.work = work or Work()

    def batches(start: int) -> Iterator[Batch]:
        return (maker.make(rows, step) for step, rows in enumerate(draw.batches(start), start))

    schedule = Schedule(
        steps=draw.steps(),
        learning_rate=settings.learning_rate,
        warmup=settings.warmup,
        weight_decay=settings.weight_decay,
        patience=settings.patience,
        look_every=settings.look_every,
        seed=settings.seed,
    )
    look: Callable[[], float] | None = None
    if dev is not None and settings.patience:
        seen = dev

        def look() -> float:
            return float(seen.measure(tuned).mean())

    with ready_to_train(tuned, engine, settings):
        if settings.find_rate:
            schedule = dataclasses.replace(schedule, learning_rate=find_rate(trainee, batches, schedule, engine=engine))
        yield from train(trainee, batches, schedule, engine=engine, checkpoints=checkpoints, look=look)
