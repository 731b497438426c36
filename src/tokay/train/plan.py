"""What a training will take, an embedder's or a reranker's, before its first step: rows, steps, tokens, memory, time.

Counts are those of some of the training's own batches. Time and memory come from a few of their micro-batches, which
are computed for it; weights are left as they are.
"""

from __future__ import annotations

import dataclasses
import itertools
import resource
import sys
import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tokay.models.torch_cross_encoder import TorchCrossEncoder
from tokay.models.torch_embedder import TorchEmbedder
from tokay.settings import RerankSettings, TrainSettings
from tokay.train.adapters import ADAM, Savings, adapter_of, savings_of
from tokay.train.embedder import draw_of, maker_of, prepared, ready_to_train
from tokay.train.engine import Engine
from tokay.train.lists import ListMaker
from tokay.train.mixture import Source
from tokay.train.objective import Objective
from tokay.train.reranker import RerankerTrainee, ready_reranker
from tokay.train.trainee import Cut, EmbedderTrainee

BATCHES = 12
"""Batches whose texts are counted."""

CHUNKS = 6
"""Micro-batches that are computed."""

SQUARES = 6
"""Float32 copies of a batch's score matrices that a loss and its gradient hold at a time, for each width."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training in numbers; ``seconds`` and ``memory`` are estimates.

    Attributes:
        rows: source -> its rows, and how many of them are drawn in a run.
        steps: of one run.
        tokens: of one run, padding left out.
        useful: share of the computed tokens that are no padding.
        twice: share of the computed tokens that are encoded again (GradCache).
        seconds: of all runs, looks at dev queries left out.
        memory: bytes at the peak: of the process on a CPU, of the device on a GPU.
        writes: bytes that lie on the disk at most.
    """

    rows: dict[str, tuple[int, int]]
    batch_size: int
    steps: int
    runs: int
    tokens: int
    useful: float
    twice: float
    seconds: float
    memory: int
    writes: int
    savings: Savings
    precision: str
    device: str
    processes: int

    def lines(self) -> list[str]:
        """In words."""
        runs = f"{self.runs} runs of " if self.runs > 1 else ""
        shared = f", shared by {self.processes} processes" if self.processes > 1 else ""
        again = f"; {self.twice:.0%} are encoded twice to save memory (train.tokens_kept)" if self.twice else ""
        return [
            *(f"{name}: {count:,} rows, {drawn:,} drawn" for name, (count, drawn) in self.rows.items()),
            f"{runs}{self.steps:,} steps of up to {self.batch_size:,} rows{shared}",
            f"about {self.tokens:,} tokens a run, {self.useful:.0%} of the computed ones (the rest is padding){again}",
            self.savings.line(),
            f"about {_duration(self.seconds)} in {self.precision} on {self.device}, at the speed of {CHUNKS} "
            "micro-batches that were computed now",
            f"about {self.memory / 1e9:.1f} GB of memory at the peak, up to {self.writes / 1e6:,.0f} MB on the disk",
        ]


def plan_training(
    base: TorchEmbedder, sources: Sequence[Source], settings: TrainSettings, *, engine: Engine | None = None
) -> Plan:
    """Count and measure.

    Args:
        base: left as it is.
        sources: rows to train on.
        settings: of the train stage.
        engine: device and precision; None: by the settings.

    Raises:
        TokayError: what the training itself would say before its first step.
    """
    engine = engine or Engine(precision=settings.precision)
    draw = draw_of(sources, settings)
    tuned, adapter = prepared(base, settings), adapter_of(settings)
    adapter.attach(tuned)
    savings = savings_of(tuned, base)
    maker = maker_of(tuned, settings)
    objective = Objective(settings, tuned.config.dims)
    trainee = EmbedderTrainee(tuned, objective, engine, tokens_kept=settings.tokens_kept)
    cuts, squares = list[Cut](), 0
    for step, rows in enumerate(itertools.islice(draw.batches(), BATCHES)):
        batch = maker.make(rows, step)
        cuts.append(trainee.cut(batch.texts))
        squares = max(squares, batch.allowed.numel() + len(batch.query) ** 2 * (batch.allowed_queries is not None))
    share, steps, work = draw.steps() / max(1, len(cuts)), draw.steps(), trainee.work
    forward = backward = activations = 0.0
    before = _memory(engine)
    if cuts:
        with ready_to_train(tuned, engine, settings):
            tuned.train()
            forward, backward, activations = _measure(trainee, _middle(cuts), engine)
    kept = max((sum(s for s, k in zip(c.sizes, c.kept, strict=True) if k) + max(c.sizes) for c in cuts), default=0)
    per_token = (forward + backward) * work.padded + forward * work.twice * engine.processes
    weights = 4 * sum(p.numel() for p in base.parameters())
    copies = (settings.runs > 1) + (settings.soup == "auto")
    memory = before + (4 + ADAM) * savings.trainable + activations * kept + copies * weights
    memory += SQUARES * 4 * squares * len(tuned.config.dims) + (4 * savings.trainable if settings.patience else 0)
    return Plan(
        rows={s.name: (len(s.rows), drawn) for s, drawn in zip(sources, draw.rows(), strict=True)},
        batch_size=settings.batch_size,
        steps=steps,
        runs=settings.runs,
        tokens=round(work.tokens * share),
        useful=work.useful,
        twice=work.twice * engine.processes / work.padded if work.padded else 0.0,
        seconds=settings.runs * per_token * share / engine.processes,
        memory=round(memory),
        writes=weights * (8 if settings.checkpoint_minutes else 1),
        savings=savings,
        precision=engine.precision,
        device=str(engine.device),
        processes=engine.processes,
    )


@dataclasses.dataclass(frozen=True)
class RerankerPlan:
    """A reranker's training in numbers; ``seconds`` and ``memory`` are estimates, looks at dev queries left out."""

    layers: int
    lists: int
    steps: int
    batch_size: int
    pairs: int
    tokens: int
    useful: float
    seconds: float
    memory: int
    trainable: int
    precision: str
    device: str

    def lines(self) -> list[str]:
        """In words."""
        return [
            f"{self.layers} layers, {self.trainable:,} parameters are trained",
            f"{self.steps:,} steps of up to {self.batch_size} lists, of {self.lists:,} queries that have one",
            f"about {self.pairs:,} pairs of a query and a passage, {self.tokens:,} tokens, {self.useful:.0%} of the "
            "computed ones",
            f"about {_duration(self.seconds)} in {self.precision} on {self.device}, at the speed of {CHUNKS} "
            "micro-batches that were computed now; looks at dev queries and the export come on top",
            f"about {self.memory / 1e9:.1f} GB of memory at the peak",
        ]


def plan_reranker(model: TorchCrossEncoder, maker: ListMaker, settings: RerankSettings) -> RerankerPlan:
    """Count and measure.

    Args:
        model: before its training; its weights are left as they are.
        maker: the lists.
        settings: of the reranker.
    """
    engine = Engine(precision=settings.precision)
    trainee = RerankerTrainee(model, settings, engine)
    steps, before = maker.steps(), _memory(engine)
    places = np.unique(np.linspace(0, steps - 1, BATCHES).round().astype(int)).tolist() if steps else []
    batches = [next(maker.batches(place)) for place in places]  # easy lists come first, and are not like hard ones
    cuts = [trainee.cut(batch) for batch in batches]
    share, work = steps / max(1, len(cuts)), trainee.work
    with ready_reranker(model, engine, settings):
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        forward, backward, activations = _measure(trainee, _middle(cuts), engine) if cuts else (0.0, 0.0, 0.0)
    kept = max((sum(s for s, k in zip(c.sizes, c.kept, strict=True) if k) + max(c.sizes) for c in cuts), default=0)
    return RerankerPlan(
        layers=model.layers,
        lists=len(maker.lists),
        steps=steps,
        batch_size=settings.batch_size,
        pairs=round(work.texts * share),
        tokens=round(work.tokens * share),
        useful=work.useful,
        seconds=((forward + backward) * work.padded + forward * work.twice) * share,
        memory=round(before + (4 + ADAM) * trainable + activations * kept),
        trainable=trainable,
        precision=engine.precision,
        device=str(engine.device),
    )


class _Trainee(Protocol):
    """What encodes micro-batches."""

    module: torch.nn.Module

    def encode(self, cut: Cut, chunk: Sequence[int]) -> Tensor: ...


def _middle(cuts: Sequence[Cut]) -> Cut:
    """The batch of middling size."""
    return sorted(cuts, key=lambda cut: sum(cut.sizes))[len(cuts) // 2]


def _measure(trainee: _Trainee, cut: Cut, engine: Engine) -> tuple[float, float, float]:
    """Seconds forward, seconds backward and bytes of activations, each for a padded token."""
    places = np.linspace(0, len(cut.chunks) - 1, CHUNKS).round().astype(int).tolist()
    chunks = [cut.chunks[places[-1]], *(cut.chunks[p] for p in places)]  # the first one warms up
    forward = backward = 0.0
    tokens, stored = 0, _Stored(trainee.module)
    for number, chunk in enumerate(chunks):
        _wait(engine)
        began = time.perf_counter()
        with engine.autocast(), stored if number == 0 else torch.enable_grad():
            vectors = trainee.encode(cut, chunk)
        _wait(engine)
        half = time.perf_counter()
        vectors.float().square().mean().backward()  # type: ignore[no-untyped-call]
        _wait(engine)
        size = len(chunk) * max(len(cut.ids[i]) for i in chunk)
        if number:
            forward, backward = forward + half - began, backward + time.perf_counter() - half
            tokens += size
        else:
            stored.tokens = size
    trainee.module.zero_grad(set_to_none=True)
    return forward / tokens, backward / tokens, stored.bytes / stored.tokens


class _Stored(torch.autograd.graph.saved_tensors_hooks):
    """Counts what a graph keeps, each piece of memory once, weights left out."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.tokens = 1
        self.pieces: dict[int, int] = {}
        weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
        held: list[Tensor] = []

        def keep(value: Tensor) -> Tensor:
            place = value.untyped_storage().data_ptr()
            if place not in weights and not (value.ndim == 2 and value.shape in shapes):
                self.pieces[place] = value.untyped_storage().nbytes()
                held.append(value)  # so that its place is not given to another
            return value

        shapes = {tuple(s) for p in module.parameters() if p.ndim == 2 for s in (p.shape, p.shape[::-1])}  # their casts
        super().__init__(keep, lambda value: value)

    @property
    def bytes(self) -> int:
        """Of everything that was kept."""
        return sum(self.pieces.values())


def _wait(engine: Engine) -> None:
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)


def _memory(engine: Engine) -> int:
    """Bytes that this process, or its share of a GPU, has taken at the most so far."""
    if engine.device.type == "cuda":
        return torch.cuda.max_memory_allocated(engine.device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _duration(seconds: float) -> str:
    if seconds < 150:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
