"""What the one loop trains beside embedders: a classifier on pooled vectors, and a language model's answers to prompts.

Both take a backbone that an adapter has made ready, or a plain one. Letters: B rows of a batch, L tokens, C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokay.errors import TokayError
from tokay.models.reft_hooks import IGNORED
from tokay.models.reft_model import ReftModel
from tokay.models.torch_embedder import TorchEmbedder
from tokay.train.engine import Engine
from tokay.train.gradcache import backward
from tokay.train.trainee import Cut, Work, cut_of

T = TypeVar("T")
Ids = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A text's token ids and its class."""

    ids: list[int]
    label: int


@dataclasses.dataclass(frozen=True)
class Answered:
    """Token ids of a prompt, and of the answer that is to follow it."""

    prompt: list[int]
    answer: list[int]


class Classifier(nn.Module):
    """A linear map behind an embedder's pooled vectors."""

    def __init__(self, embedder: TorchEmbedder, classes: int) -> None:
        super().__init__()
        self.embedder = embedder
        self.head = nn.Linear(embedder.width, classes)

    def forward(self, ids: Sequence[Ids]) -> Tensor:
        """Logits, (B, C)."""
        return self.head(self.embedder(ids).to(self.head.weight.dtype))  # type: ignore[no-any-return]

    @torch.no_grad()
    def predict(self, ids: Sequence[Ids], *, tokens_per_batch: int = 4096) -> Tensor:
        """The likeliest class of each text, (N)."""
        return self.head(self.embedder.forward_by_length(ids, tokens_per_batch=tokens_per_batch)).argmax(1).cpu()  # type: ignore[no-any-return]


class Completer(nn.Module):
    """A causal language model that is asked how likely answers are; of a ``ReftModel`` prompts alone are edited."""

    def __init__(self, model: Any, *, pad: int = 0) -> None:
        super().__init__()
        self.model = model
        self.pad = pad

    def forward(self, rows: Sequence[Answered]) -> Tensor:
        """Negative log-likelihood of each answer, summed over its tokens: (B, 1)."""
        ids = [torch.tensor([*row.prompt, *row.answer]) for row in rows]
        tokens = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=self.pad)  # (B, L)
        at = torch.arange(tokens.shape[1])
        lengths = torch.tensor([[len(row.prompt), len(row.prompt) + len(row.answer)] for row in rows])
        prompts, real = (at < lengths[:, i : i + 1] for i in range(2))
        targets = tokens.masked_fill(prompts | ~real, IGNORED)
        device = next(self.model.parameters()).device
        said = {"prompt_mask": prompts.to(device)} if isinstance(self.model, ReftModel) else {}
        logits = self.model(input_ids=tokens.to(device), attention_mask=real.long().to(device), **said).logits
        losses = F.cross_entropy(
            logits[:, :-1].float().transpose(1, 2), targets[:, 1:].to(device), reduction="none", ignore_index=IGNORED
        )
        return losses.sum(1, keepdim=True)


M = TypeVar("M", Classifier, Completer)
R = TypeVar("R", Labelled, Answered)


class _Rows(Generic[M, R]):
    """What ``loop.train`` asks for: rows are encoded each on its own, and one loss is taken of what comes out of all.

    Args:
        model: on the engine's device.
        engine: precision and processes.
        tokens_kept: as of an embedder's trainee.
    """

    name: str

    def __init__(self, model: M, engine: Engine, *, tokens_kept: int = 16_384) -> None:
        self.model: M = model
        self.engine, self.tokens_kept = engine, tokens_kept
        self.module: nn.Module = model
        self.work = Work()

    def kind(self, batch: Sequence[R]) -> str | None:
        """All batches are of one kind."""
        return self.name

    def describe(self, batch: Sequence[R]) -> Mapping[str, Any]:
        """Its rows."""
        return {"rows": [dataclasses.asdict(row) for row in batch]}

    def _backward(
        self,
        ids: Sequence[list[int]],
        encode: Callable[[Cut, Sequence[int]], Tensor],
        loss: Callable[[Tensor], Tensor],
    ) -> float:
        """Gradients of a loss of what comes out for each row, by chunks of like length."""
        cut = cut_of(ids, self.engine, tokens_kept=self.tokens_kept, work=self.work, setting="the batch size")
        place = torch.tensor([i for chunk in cut.chunks for i in chunk], device=self.engine.device).argsort()
        return backward(
            lambda chunk: encode(cut, chunk),
            cut.chunks,
            lambda out: loss(out[place]),
            kept=cut.kept.__getitem__,
            engine=self.engine,
        )


class ClassifierTrainee(_Rows[Classifier, Labelled]):
    """Cross-entropy of classes."""

    name = "texts"

    def backward(self, batch: Sequence[Labelled]) -> float:
        """As ``loop.Trainee``."""
        labels = torch.tensor([row.label for row in batch], device=self.engine.device)
        return self._backward([row.ids for row in batch], self.encode, lambda logits: F.cross_entropy(logits, labels))

    def encode(self, cut: Cut, chunk: Sequence[int]) -> Tensor:
        """Logits of a chunk's n texts, (n, C)."""
        return self.model([cut.ids[i] for i in chunk])  # type: ignore[no-any-return]


class CausalTrainee(_Rows[Completer, Answered]):
    """Cross-entropy of answers' tokens, each token of a batch alike."""

    name = "answers"

    def backward(self, batch: Sequence[Answered]) -> float:
        """As ``loop.Trainee``.

        Raises:
            TokayError: a prompt or an answer is empty.
        """
        for number, row in enumerate(batch):
            if not (row.prompt and row.answer):
                what = "prompt" if not row.prompt else "answer"
                raise TokayError(f"row {number} of a batch has an empty {what}; expected a prompt and an answer")
        tokens = sum(len(row.answer) for row in batch)
        ids = [[*row.prompt, *row.answer] for row in batch]

        def encode(cut: Cut, chunk: Sequence[int]) -> Tensor:
            return self.model([batch[i] for i in chunk])  # type: ignore[no-any-return]

        return self._backward(ids, encode, lambda losses: losses.sum() / tokens)


def shuffled(rows: Sequence[T], *, size: int, epochs: int, seed: int) -> tuple[int, Callable[[int], Iterator[list[T]]]]:
    """How many steps there are, and batches from a step on: each epoch in an order of its own, the last batch smaller.

    Raises:
        TokayError: there are no rows.
    """
    if not rows:
        raise TokayError("there are no rows to train on; give at least one")
    per_epoch = -(-len(rows) // size)

    def batches(start: int) -> Iterator[list[T]]:
        for step in range(start, epochs * per_epoch):
            epoch, at = divmod(step, per_epoch)
            order = np.random.default_rng([seed, epoch]).permutation(len(rows))
            yield [rows[i] for i in order[at * size : (at + 1) * size]]

    return epochs * per_epoch, batches
