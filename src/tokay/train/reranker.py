"""Training a cross-encoder: lists of graded candidates in, steps out; and what the loop asks of it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokay.errors import TokayError
from tokay.models.attention import float32_attention
from tokay.models.layers import embeddings_of
from tokay.models.torch_cross_encoder import TorchCrossEncoder
from tokay.progress import Progress
from tokay.settings import RerankSettings
from tokay.train.adapters import set_dropout
from tokay.train.checkpoints import Checkpoints, need_room
from tokay.train.engine import Engine
from tokay.train.gradcache import backward
from tokay.train.lists import HIGHEST, ListBatch, ListMaker
from tokay.train.loop import Schedule, Step, train
from tokay.train.losses import listwise, pointwise
from tokay.train.trainee import Cut, Work, cut_of
from tokay.train.tune import close_log, follow

LOSSES: dict[str, Callable[..., Tensor]] = {"listwise": listwise, "pointwise": pointwise}


class RerankerTrainee:
    """What ``loop.train`` asks of what it trains.

    Args:
        model: on the engine's device.
        settings: of the reranker.
        engine: precision and processes.
    """

    def __init__(self, model: TorchCrossEncoder, settings: RerankSettings, engine: Engine) -> None:
        self.model = model
        self.module: nn.Module = model
        self.settings = settings
        self.engine = engine
        self.work = Work()

    def loss(self, scores: Tensor, grades: Tensor, listed: Tensor) -> Tensor:
        """The chosen loss of logits (B, K)."""
        if self.settings.loss == "listwise":
            return listwise(scores, grades, listed, teacher_temperature=self.settings.temperature)
        return pointwise(scores, grades, listed, highest=HIGHEST)

    def backward(self, batch: ListBatch) -> float:
        """Add this process's part of the gradients of the batch's loss; return the loss."""
        device, cut = self.engine.device, self.cut(batch)
        place = torch.tensor([i for chunk in cut.chunks for i in chunk], device=device).argsort()
        listed, grades = batch.listed.to(device), batch.grades.to(device)

        def loss(logits: Tensor) -> Tensor:
            scores = logits.new_zeros(listed.shape).masked_scatter(listed, logits[place, 0])
            return self.loss(scores, grades, listed)

        return backward(
            lambda chunk: self.encode(cut, chunk), cut.chunks, loss, kept=cut.kept.__getitem__, engine=self.engine
        )

    def cut(self, batch: ListBatch) -> Cut:
        """Tokenise the pairs, put those of like length together, and count them."""
        ids = self.model.tokenize(batch.pairs)
        kept = self.settings.tokens_kept
        return cut_of(ids, self.engine, tokens_kept=kept, work=self.work, setting="rerank.batch_size")

    def encode(self, cut: Cut, chunk: Sequence[int]) -> Tensor:
        """Logits of a chunk's n pairs, (n, 1)."""
        return self.model([cut.ids[i] for i in chunk])  # type: ignore[no-any-return]

    def kind(self, batch: ListBatch) -> str:
        """Losses of easy lists are lower than those of hard ones."""
        return "easy" if batch.easy else "hard"

    def describe(self, batch: ListBatch) -> Mapping[str, Any]:
        """The batch's lists."""
        rows = [
            {"query_id": one.query_id, "query": one.query, "passages": {p: one.judged.get(p) for p in ids}}
            for one, ids in batch.rows
        ]
        return {"rows": rows, "pairs": [list(pair) for pair in batch.pairs]}


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training did; ``seconds`` are of its steps, also of those before it was cut, and of no look."""

    lists: int
    steps: int
    planned: int
    seconds: float
    pairs: int
    tokens: int
    loss: float | None
    looks: list[tuple[int, float]]
    layers: int
    parameters: int
    precision: str


def train_reranker(
    model: TorchCrossEncoder,
    maker: ListMaker,
    settings: RerankSettings,
    *,
    engine: Engine | None = None,
    checkpoints: Checkpoints | None = None,
    look: Callable[[], float] | None = None,
    work: Work | None = None,
) -> Iterator[Step]:
    """Train in place, yielding after every step.

    Args:
        model: a cross-encoder, on any device.
        maker: the lists.
        settings: of the reranker.
        engine: device, precision, processes; None: by the settings.
        checkpoints: an unfinished training there goes on.
        look: the dev queries' figure, for early stopping.
        work: counts what is computed.
    """
    engine = engine or Engine(precision=settings.precision)
    trainee = RerankerTrainee(model, settings, engine)
    trainee.work = work or Work()
    schedule = Schedule(
        steps=maker.steps(),
        learning_rate=settings.learning_rate,
        warmup=settings.warmup,
        weight_decay=settings.weight_decay,
        patience=settings.patience if look else 0,
        look_every=-(-maker.steps() // settings.looks),
        seed=settings.seed,
    )
    with ready_reranker(model, engine, settings):
        yield from train(trainee, maker.batches, schedule, engine=engine, checkpoints=checkpoints, look=look)


@contextlib.contextmanager
def ready_reranker(model: TorchCrossEncoder, engine: Engine, settings: RerankSettings) -> Iterator[None]:
    """On the device, with dropout, and with gradients of what is trained."""
    model.to(engine.device)
    model.requires_grad_(True)
    if settings.freeze_embeddings:
        for parameter in embeddings_of(model.backbone):
            parameter.requires_grad_(False)
    set_dropout(model, settings.dropout)
    on_cpu = engine.precision == "bf16" and engine.device.type == "cpu"
    with float32_attention(model) if on_cpu else contextlib.nullcontext():
        yield
    model.requires_grad_(False)


def tune_reranker(
    model: TorchCrossEncoder,
    maker: ListMaker,
    settings: RerankSettings,
    *,
    logs: Path,
    checkpoints: Path | None,
    base_print: str,
    progress: Progress,
    look: Callable[[], float] | None = None,
) -> Trained:
    """A whole training, with its log: ``metrics.jsonl`` has a line a step.

    Args:
        model: trained in place.
        maker: the lists.
        settings: of the reranker.
        logs: a folder.
        checkpoints: where an unfinished training is kept, and a finished one, until the caller removes it. None:
            nowhere.
        base_print: fingerprint of what it begins with, for the checkpoints.
        progress: where to report.
        look: the dev queries' figure, for early stopping.

    Raises:
        TokayError: there is too little to learn from, the disk is full, or the loss diverges.
    """
    if len(maker.lists) < 2:
        raise TokayError(
            f"{len(maker.lists)} queries with a passage that answers them are in the training part; expected at "
            "least 2: write more queries (generate.passages)"
        )
    engine, work = Engine(precision=settings.precision), Work()
    size = 4 * sum(p.numel() for p in model.parameters())
    need_room(logs, size + (7 * size if checkpoints and settings.checkpoint_minutes else 0))
    logs.mkdir(parents=True, exist_ok=True)
    kept = None
    if checkpoints is not None:
        identity = identity_of(base_print, maker, settings)
        kept = Checkpoints(checkpoints, identity=identity, minutes=settings.checkpoint_minutes, drop_others=True)
    journal = (checkpoints or logs) / "metrics.jsonl"
    progress.start("training the reranker", maker.steps())
    if kept is not None and (found := kept.newest()):
        progress.say(f"training goes on from step {found.step:,} of {maker.steps():,}")
        progress.advance(found.step)
    steps = train_reranker(model, maker, settings, engine=engine, checkpoints=kept, look=look, work=work)
    follow(steps, journal, run=0, engine=engine, progress=progress, work=work)
    lines = close_log(journal, 1)
    if checkpoints is not None:
        shutil.copyfile(journal, logs / journal.name)
    return Trained(
        lists=len(maker.lists),
        steps=len(lines),
        planned=maker.steps(),
        seconds=sum(line["seconds"] for line in lines),
        pairs=sum(line["texts"] for line in lines),
        tokens=sum(line["tokens"] for line in lines),
        loss=float(lines[-1]["loss"]) if lines else None,
        looks=[(line["step"] + 1, float(line["dev"])) for line in lines if "dev" in line],
        layers=model.layers,
        parameters=sum(p.numel() for p in model.parameters()),
        precision=engine.precision,
    )


def identity_of(base_print: str, maker: ListMaker, settings: RerankSettings) -> str:
    """What is trained on what, by which settings."""
    texts = [(p, *maker.texts[p]) for p in maker.ids]
    rows = [(one.query_id, one.query, sorted(one.judged.items()), list(one.near)) for one in maker.lists]
    said = settings.model_dump_json(include=_TRAINING)
    return hashlib.sha256(json.dumps([base_print, said, rows, texts]).encode("utf-8", "surrogatepass")).hexdigest()


_TRAINING = {
    "layers",
    "max_tokens",
    "loss",
    "temperature",
    "candidates",
    "easy_negatives",
    "easy_first",
    "epochs",
    "batch_size",
    "learning_rate",
    "warmup",
    "weight_decay",
    "freeze_embeddings",
    "dropout",
    "precision",
    "seed",
}
"""Settings that change what is trained."""
