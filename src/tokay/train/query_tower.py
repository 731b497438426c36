"""The query side of an embedder trained against passage vectors that stay as they are.

Passages cost nothing, as their vectors are there: every query sees all open passages as negatives, its judged ones
among them. Two towers that part from one are EmbedDistill's case (2301.12005); the loss here is on judgments, not on a
teacher.

Letters: B queries of a batch, C columns, D width of the backbone, W width of the passages' vectors.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tokay.models.torch_embedder import TorchEmbedder
from tokay.progress import Progress, Silent
from tokay.search.hybrid import within_one_error
from tokay.settings import TrainSettings
from tokay.train.adapters import adapter_of, set_dropout
from tokay.train.embedder import ready_to_train
from tokay.train.engine import Engine
from tokay.train.frozen import Asked, Frozen, Targets, ranking_loss, targets_of
from tokay.train.loop import Schedule, train
from tokay.train.soup import interpolate

BATCH, EPOCHS, RATE = 64, 4, 1e-4
"""Queries a step, rounds over all of them, and learning rate (docs/log.md)."""
WEIGHTS = (0.3, 0.5, 0.7, 1.0)
"""Of the trained tower against its start: what is learned by heart of seen documents is lost on others."""
UNTRIED = 0.5
"""The weight where no query is there to choose it on; our choice."""
TOKENS_PER_FORWARD = 1024


@dataclasses.dataclass(frozen=True)
class Tower:
    """A trained query side.

    Attributes:
        embedder: reads the queries.
        matrix: (W, D), behind it; None: there is none.
        weight: of what was trained against the start.
        tried: weight -> mean nDCG@10 of the queries that it was chosen on.
        steps: of training.
        seconds: that it took.
    """

    embedder: TorchEmbedder
    matrix: NDArray[np.float32] | None
    weight: float
    tried: Mapping[float, float]
    steps: int
    seconds: float


class _Trainee:
    """What the loop sees: a batch is rows of the targets."""

    def __init__(self, tower: _Tower, ids: Sequence[Sequence[int]], targets: Targets, engine: Engine) -> None:
        self.module: nn.Module = tower
        self.tower, self.ids, self.targets, self.engine = tower, ids, targets, engine

    def backward(self, batch: Sequence[int]) -> float:
        """As ``loop.Trainee``."""
        with self.engine.autocast():
            vectors = self.tower([self.ids[i] for i in batch])
        loss = ranking_loss(vectors, self.targets.some(batch))
        self.engine.backward(loss)
        return float(loss.detach())

    def kind(self, batch: Sequence[int]) -> str | None:
        """All batches are of one kind."""
        return "queries"

    def describe(self, batch: Sequence[int]) -> Mapping[str, Any]:
        """Token ids of the queries."""
        return {"ids": [list(self.ids[i]) for i in batch]}


class _Tower(nn.Module):
    """The embedder, and a linear layer where its vectors are to be in another space."""

    def __init__(self, embedder: TorchEmbedder, prior: NDArray[np.float32] | None) -> None:
        super().__init__()
        self.embedder = embedder
        self.head = None if prior is None else nn.Linear(prior.shape[1], prior.shape[0], bias=False)
        if self.head is not None:
            self.head.weight.data = torch.from_numpy(np.array(prior, np.float32))

    def forward(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Vectors (N, W)."""
        vectors: Tensor = self.embedder.forward_by_length(ids, tokens_per_batch=TOKENS_PER_FORWARD).float()
        return vectors if self.head is None else self.head(nn.functional.normalize(vectors, dim=1))

    @property
    def matrix(self) -> NDArray[np.float32] | None:
        """Of the linear layer, (W, D)."""
        return None if self.head is None else self.head.weight.detach().cpu().numpy()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of queries, (N, W)."""
        found = self.embedder.encode(texts, kind="query")
        return found if self.matrix is None else found @ self.matrix.T


def steps_of(queries: int) -> int:
    """Steps of a training on so many queries that some open passage answers."""
    return EPOCHS * -(-queries // BATCH)


def train_tower(
    base: TorchEmbedder,
    asked: Sequence[Asked],
    frozen: Frozen,
    settings: TrainSettings,
    *,
    choice: Sequence[Asked] = (),
    prior: NDArray[np.float32] | None = None,
    most_steps: int | None = None,
    progress: Progress | None = None,
) -> Tower:
    """Train a copy of the base to put queries near the passages that answer them.

    Args:
        base: left as it is.
        asked: training-side queries.
        frozen: the passages.
        settings: of the train stage, of which precision, adapter, freezing and seed matter.
        choice: dev queries, of documents that training does not see: the smallest weight of the trained tower within
            one standard error of the best on them is taken (WiSE-FT, 2109.01903).
        prior: (W, D), from the base's space to the passages'; None: they are one.
        most_steps: end after so many, to see what they take.
        progress: advanced by steps.
    """
    progress = progress or Silent()
    engine = Engine(precision=settings.precision)
    embedder = base.clone()
    embedder.config = dataclasses.replace(base.config, normalize=True, dims=())
    set_dropout(embedder, settings.dropout)
    adapter = adapter_of(settings)
    torch.manual_seed(settings.seed)
    adapter.attach(embedder)
    tower = _Tower(embedder, prior).to(engine.device)
    targets = targets_of(asked, frozen)
    written = embedder.write([asked[i].text for i in targets.rows.tolist()], kind="query")
    ids = embedder.tokenize(written)
    count = len(ids)
    per_epoch = -(-count // BATCH)
    planned = min(steps_of(count), most_steps or steps_of(count))

    def batches(start: int) -> Iterator[list[int]]:
        for step in range(start, planned):
            order = np.random.default_rng([settings.seed, step // per_epoch]).permutation(count)
            yield order[step % per_epoch :: per_epoch].tolist()

    schedule = Schedule(steps=planned, learning_rate=RATE, seed=settings.seed)
    progress.start("query tower", schedule.steps)
    began, steps = time.perf_counter(), 0
    with ready_to_train(embedder, engine, settings):
        for step in train(_Trainee(tower, ids, targets.to(engine.device), engine), batches, schedule, engine=engine):
            progress.advance(note=f"loss {step.loss:.3f}")
            steps += 1
    adapter.merge(embedder)
    tower.eval()
    before = _Tower(base, prior).to(engine.device)
    weight, found = UNTRIED, dict[float, NDArray[np.float64]]()
    if len(choice) > 1:
        progress.start("query tower: its weight", len(WEIGHTS))
        for one in WEIGHTS:
            mixed = copy.deepcopy(tower)
            interpolate(mixed, before, one)
            found[one] = frozen.quality(choice, mixed.encode([each.text for each in choice]))
            progress.advance()
        weight = within_one_error(found)
    interpolate(tower, before, weight)
    return Tower(
        embedder=tower.embedder,
        matrix=tower.matrix,
        weight=weight,
        tried={one: float(values.mean()) for one, values in found.items()},
        steps=steps,
        seconds=time.perf_counter() - began,
    )
