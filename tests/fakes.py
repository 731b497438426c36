"""An embedder without a model: it computes four numbers of the ids themselves. No torch."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokay.models.embedder import Embedder
from tokay.models.folder import EmbedderConfig
from tokay.models.format import InputFormat
from tokay.models.tokens import Tokens


class Slow(Embedder):
    """Vectors that are a function of the ids; with ``hold``, its first micro-batch waits for ``go``.

    A text with the word ``nan`` gives numbers that are none; one with ``boom`` makes the model fail.
    """

    tokens_per_batch = 512
    threads = 1

    def __init__(self, *, sign: int = 1, hold: bool = False) -> None:
        self.config = EmbedderConfig("mean", True, 64, InputFormat("", ""), (2,))
        self.tokens = Tokens(_tokenizer(), pad=0, left=False)
        self.sign, self.hold = sign, hold
        self.began, self.go = threading.Event(), threading.Event()
        self.batches: list[list[list[int]]] = []

    @property
    def width(self) -> int:
        return 4

    def run(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        self.batches.append([list(row) for row in ids])
        if self.hold:
            self.began.set()
            assert self.go.wait(30)
        known = self.tokens.tokenizer.token_to_id
        if any(known("boom") in row for row in ids):
            raise RuntimeError("the model fails")
        rows = [self._vector(row) for row in ids]
        return np.array(rows, np.float32).reshape(len(ids), 4)

    def _vector(self, row: Sequence[int]) -> list[float]:
        if self.tokens.tokenizer.token_to_id("nan") in row:
            return [float("nan")] * 4
        return [self.sign * (sum(row) + 1), len(row), row[0], row[-1]]

    def divide(self, workers: int) -> None:
        """Nothing to divide."""


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "nan", "boom", *"a b c d e f g river stone glass iron".split()]
    tokenizer = Tokenizer(models.WordLevel({word: i + 2000 for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer
