"""An embedder as the loop sees it: a batch of texts in, gradients out."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokay.errors import TokayError
from tokay.models.batching import by_token_budget
from tokay.models.torch_embedder import TorchEmbedder
from tokay.train.batches import Batch
from tokay.train.engine import Engine
from tokay.train.gradcache import backward
from tokay.train.objective import Objective

TOKENS_PER_CHUNK = {"cpu": 1024, "cuda": 32_768}
"""Padded tokens of one forward pass: on a CPU its activations stay in the cache, a GPU has to be filled."""


@dataclasses.dataclass
class Work:
    """What has been computed so far: texts, their tokens, and with padding; ``twice`` are tokens encoded again."""

    texts: int = 0
    tokens: int = 0
    padded: int = 0
    twice: int = 0

    @property
    def useful(self) -> float:
        """Share of the computed tokens that are no padding."""
        return self.tokens / self.padded if self.padded else 1.0


@dataclasses.dataclass(frozen=True)
class Cut:
    """A batch's texts in micro-batches.

    Attributes:
        ids: token ids of the T texts.
        chunks: of all processes; which texts are in each.
        sizes: padded tokens of this process's chunks.
        kept: of each, whether its activations stay in memory.
    """

    ids: Sequence[list[int]]
    chunks: list[list[int]]
    sizes: list[int]
    kept: list[bool]


class EmbedderTrainee:
    """What ``loop.train`` asks of what it trains.

    Args:
        embedder: on the engine's device.
        objective: the loss of a batch's vectors.
        engine: precision and processes.
        tokens_kept: padded tokens whose activations stay in memory; the rest is computed twice.
        teacher: whose vectors ``matched`` texts shall keep; needed by batches that have some.
    """

    def __init__(
        self,
        embedder: TorchEmbedder,
        objective: Objective,
        engine: Engine,
        *,
        tokens_kept: int,
        teacher: TorchEmbedder | None = None,
    ) -> None:
        self.embedder = embedder
        self.module: nn.Module = embedder
        self.objective = objective
        self.engine = engine
        self.tokens_kept = tokens_kept
        self.teacher = teacher
        self.work = Work()

    def backward(self, batch: Batch) -> float:
        """Add this process's part of the gradients of the batch's loss; return the loss."""
        cut = self.cut(batch.texts)
        there = batch.to(self.engine.device)
        place = torch.tensor([i for chunk in cut.chunks for i in chunk], device=self.engine.device).argsort()
        teacher = self._taught(batch, cut.ids)
        return backward(
            lambda chunk: self.encode(cut, chunk),
            cut.chunks,
            lambda vectors: self.objective(vectors[place], there, teacher),
            kept=cut.kept.__getitem__,
            engine=self.engine,
        )

    def encode(self, cut: Cut, chunk: Sequence[int]) -> Tensor:
        """Vectors of a chunk's n texts, (n, D)."""
        return self.embedder([cut.ids[i] for i in chunk])  # type: ignore[no-any-return]

    def cut(self, texts: Sequence[str]) -> Cut:
        """Tokenise texts, put those of like length together, and count them."""
        ids = self.embedder.tokenize(texts)
        return cut_of(ids, self.engine, tokens_kept=self.tokens_kept, work=self.work, setting="train.batch_size")

    def kind(self, batch: Batch) -> str | None:
        """The sources of its rows; texts that shall stay begin with no loss at all, so theirs may rise."""
        names = {source.name for source, _ in batch.rows if not source.matched}
        return " ".join(sorted(names)) if names else None

    def describe(self, batch: Batch) -> Mapping[str, Any]:
        """The batch's rows with their texts."""
        rows = [
            {
                "source": source.name,
                "query_id": e.query_id,
                "query": e.query,
                "positive_id": e.positive_id,
                "positive": source.texts[e.positive_id],
                "negative_ids": e.negative_ids,
            }
            for source, e in batch.rows
        ]
        return {"rows": rows, "texts": batch.texts}

    def _taught(self, batch: Batch, ids: Sequence[Sequence[int]]) -> Tensor | None:
        """The teacher's vectors of the matched texts, (M, D)."""
        if not len(batch.matched):
            return None
        assert self.teacher is not None  # made with one where a source is matched
        with torch.no_grad(), self.engine.autocast():
            texts = [ids[int(i)] for i in batch.matched]
            budget = TOKENS_PER_CHUNK.get(self.engine.device.type, TOKENS_PER_CHUNK["cuda"])
            return self.teacher.forward_by_length(texts, tokens_per_batch=budget).float()


def cut_of(ids: Sequence[list[int]], engine: Engine, *, tokens_kept: int, work: Work, setting: str) -> Cut:
    """Put texts of like length together, decide whose activations are kept, and count them.

    Raises:
        TokayError: there are fewer texts than processes; ``setting`` is what to raise.
    """
    chunks = _chunks(ids, engine, setting)
    padded = [len(chunk) * max(len(ids[i]) for i in chunk) for chunk in chunks]
    sizes = engine.share(padded)
    kept = [there <= tokens_kept for there in itertools.accumulate(sizes)]
    work.texts += len(ids)
    work.tokens += sum(len(row) for row in ids)
    work.padded += sum(padded)
    work.twice += sum(size for size, keep in zip(sizes, kept, strict=True) if not keep)
    return Cut(ids, chunks, sizes, kept)


def _chunks(ids: Sequence[Sequence[int]], engine: Engine, setting: str) -> list[list[int]]:
    """Texts of like length together, at least one chunk for each process."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    budget = TOKENS_PER_CHUNK.get(engine.device.type, TOKENS_PER_CHUNK["cuda"])
    while len(chunks := by_token_budget(order, ids, budget)) < engine.processes:
        if len(chunks) == len(ids):
            raise TokayError(
                f"a batch of {len(ids)} texts cannot be shared by {engine.processes} processes; raise {setting}"
            )
        budget //= 2
    return chunks
