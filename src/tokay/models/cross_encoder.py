"""A cross-encoder: one number for a (query, passage) pair that is read together.

What runs a micro-batch is a back-end: torch (``torch_cross_encoder``) or onnxruntime (``onnx_cross_encoder``). No torch
here: a server needs none. Folders are those of sentence-transformers' ``CrossEncoder``: a sequence classifier with one
output, whose tokenizer's limit is where pairs are cut.

Letters: N pairs, L tokens.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tokay.errors import TokayError
from tokay.models.batching import by_token_budget
from tokay.models.folder import read_json
from tokay.models.format import NONE
from tokay.models.running import Ids, Run, Vectors, mapped
from tokay.models.tokens import PairIds, Tokens
from tokay.progress import Progress, Silent

Backend = Literal["torch", "onnx", "onnx-int8"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
_LEAST_TOKENS = 256
"""Of a micro-batch that is made smaller so that no core is idle."""


class CrossEncoder(ABC):
    """Pairs in, logits out.

    Attributes:
        tokens: its tokenizer.
        max_tokens: where pairs are cut.
    """

    tokens_per_batch: ClassVar[int] = 1024
    """Padded tokens of one micro-batch."""
    width: ClassVar[int] = 1
    tokens: Tokens
    max_tokens: int

    @staticmethod
    def load(
        name_or_path: str | Path, *, backend: Backend = "torch", device: str | None = None, threads: int | None = None
    ) -> CrossEncoder:
        """Load a folder or a Hub name.

        Args:
            name_or_path: a folder, or a name on the Hub.
            backend: ``torch``; or what an export wrote into the folder: ``onnx``, ``onnx-int8``.
            device: of torch: ``cpu``, ``cuda``, …; None: a GPU when there is one.
            threads: of the CPU; None: as many as there are cores.

        Raises:
            TokayError: it is no sequence classifier with one output, or was not exported to that back-end.
        """
        if backend not in BACKENDS:
            raise TokayError(f"backend of a reranker is {backend!r}; expected one of {', '.join(BACKENDS)}")
        if backend == "torch":
            from tokay.models.torch_cross_encoder import TorchCrossEncoder

            return TorchCrossEncoder.load(name_or_path, device=device, threads=threads)
        from tokay.models.onnx_cross_encoder import OnnxCrossEncoder

        return OnnxCrossEncoder.load(name_or_path, int8=backend == "onnx-int8", threads=threads)

    @abstractmethod
    def run(self, ids: Ids) -> Vectors:
        """Logits of one micro-batch: N pairs' token ids -> (N, 1)."""

    @property
    def threads(self) -> int:
        """Cores that one call of ``run`` uses; 0 where the work is not the CPU's."""
        return os.cpu_count() or 1

    @contextlib.contextmanager
    def shared(self, workers: int) -> Iterator[Run]:
        """A ``run`` for several threads at a time, each with its share of the cores."""
        del workers
        yield self.run

    def tokenize(self, pairs: Sequence[tuple[str, str]]) -> list[PairIds]:
        """Token ids of pairs, cut at ``max_tokens``: a long passage is cut, and a query at half of that."""
        return self.tokens.encode_pairs(pairs, self.max_tokens)

    def score(
        self, pairs: Sequence[tuple[str, str]], *, workers: int | None = None, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """Logits of N (query, passage) pairs, in their order: (N,) float32.

        Args:
            pairs: a query, and a passage as ``written`` writes it.
            workers: micro-batches that run at a time, each on its share of the cores; None: one for each core.
            progress: advanced by the number of pairs.
        """
        progress = progress or Silent()
        ids = self.tokenize(pairs)
        scores = np.empty(len(ids), np.float32)
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        groups = by_token_budget(order, ids, self._budget(ids, workers))
        with mapped(self, workers, len(groups)) as over:
            for group, part in zip(groups, over([[ids[i] for i in group] for group in groups]), strict=True):
                scores[group] = part[:, 0]
                progress.advance(len(group))
        return scores

    def _budget(self, ids: Ids, workers: int | None) -> int:
        """Tokens of a micro-batch: a few pairs are shared by all cores, and many fill whole micro-batches."""
        several = max(1, self.threads if workers is None else workers)
        return min(self.tokens_per_batch, max(_LEAST_TOKENS, -(-sum(map(len, ids)) // several)))


def written(text: str, title: str = "") -> str:
    """A passage as rerankers read it: its title and its text, joined by a blank."""
    return NONE.write_passage(text, title)


def check_folder(folder: Path) -> dict[str, Any]:
    """What ``config.json`` of a cross-encoder says.

    Raises:
        TokayError: the folder holds another kind of model, or a classifier of several classes.
    """
    what = f"{folder} is no reranker"
    if any(m["type"].endswith(("Pooling", "StaticEmbedding")) for m in read_json(folder / "modules.json") or ()):
        raise TokayError(
            f"{what} but an embedder (modules.json pools); name a folder of 'tokay train … --what reranker'"
        )
    config: dict[str, Any] = read_json(folder / "config.json")
    kinds = config.get("architectures") or ["no architecture"]
    if not str(kinds[0]).endswith("ForSequenceClassification"):
        raise TokayError(f"{what}: its config.json has {kinds[0]}; expected a sequence classifier with one output")
    labels = len(config.get("id2label") or range(config.get("num_labels", 2)))
    if labels != 1:
        raise TokayError(f"{what}: it has {labels} outputs; expected a cross-encoder with one")
    return config
