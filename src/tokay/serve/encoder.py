"""Texts of a request to vectors: written, tokenised off the event loop, counted, run by turn, looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tokay.errors import TokayError
from tokay.models.embedder import Embedder
from tokay.models.running import Ids, Runner, Vectors
from tokay.serve.batcher import Batcher, Closing, Overloaded
from tokay.serve.catalogue import Served
from tokay.serve.metrics import Metrics
from tokay.serve.options import Options
from tokay.serve.refusal import Refusal

T = TypeVar("T")

_TEXTS_AT_A_TIME = 32
"""Tokenised at a time: the tokenizer is locked meanwhile, and a single text should not wait for two thousand."""


@dataclass(frozen=True)
class Asked:
    """One text of a request."""

    text: str
    kind: str
    title: str = ""
    field: str = "input"
    """What the client calls it."""


@dataclass(frozen=True)
class Encoded:
    """Vectors as the model gives them, (N, D), and the tokens of each text."""

    vectors: NDArray[np.float32]
    tokens: list[int]


class Encoder:
    """The one way from a request to vectors, whatever the client's words."""

    def __init__(self, batcher: Batcher, options: Options, metrics: Metrics) -> None:
        self.batcher, self.options, self.metrics = batcher, options, metrics
        self.threads = ThreadPoolExecutor(2, thread_name_prefix="tokay-serve")

    async def apart(self, work: Callable[[], T]) -> T:
        """Do what takes a while in a thread, so that the event loop goes on."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, work)

    async def encode(self, served: Served, asked: Sequence[Asked]) -> Encoded:
        """Vectors of a request's texts, in their order; each by the side of the model that is for it.

        Raises:
            Refusal: there are too many tokens, too much waits, a vector is not finite, or the model has no such side.
        """
        try:
            sides = await self.apart(lambda: [served.embedder.of(one.kind) for one in asked])
        except TokayError as error:
            raise Refusal(400, str(error), param="model") from error
        places: dict[Embedder, list[int]] = {}
        for at, side in enumerate(sides):
            places.setdefault(side, []).append(at)
        if len(places) == 1:
            return await self._encode(served.name, sides[0], asked)
        vectors, tokens = np.empty((len(asked), served.embedder.width), np.float32), [0] * len(asked)
        for side, rows in places.items():
            part = await self._encode(served.name, side, [asked[at] for at in rows])
            vectors[rows] = part.vectors
            for at, count in zip(rows, part.tokens, strict=True):
                tokens[at] = count
        return Encoded(vectors, tokens)

    async def _encode(self, name: str, embedder: Embedder, asked: Sequence[Asked]) -> Encoded:
        ids = await self.apart(lambda: self._tokenize(embedder, asked))
        tokens = [len(row) for row in ids]
        self.metrics.asked(name, len(ids), sum(tokens))
        vectors = await self.run(embedder.runner, embedder.addressed(ids))
        self._check(vectors, asked)
        return Encoded(vectors, tokens)

    async def run(self, model: Runner, ids: Ids) -> Vectors:
        """What a model gives for lists of token ids, by turn.

        Raises:
            Refusal: too much waits, or the server is closing.
        """
        try:
            return await self.batcher.run(model, ids)
        except Overloaded as error:
            headers = {"Retry-After": str(error.seconds)}
            raise Refusal(503, str(error), code="overloaded", headers=headers) from error
        except Closing as error:
            raise Refusal(503, "the server is shutting down; try again", headers={"Retry-After": "5"}) from error

    def _tokenize(self, embedder: Embedder, asked: Sequence[Asked]) -> list[list[int]]:
        ids: list[list[int]] = []
        tokens = 0
        for start in range(0, len(asked), _TEXTS_AT_A_TIME):
            some = embedder.tokenize([_written(embedder, one) for one in asked[start : start + _TEXTS_AT_A_TIME]])
            if [] in some:
                at = start + some.index([])
                raise Refusal(
                    400,
                    f"text {at} of {asked[at].field} is {asked[at].text!r}, which has no token of this model; "
                    "leave it out",
                    param=asked[at].field,
                )
            tokens += sum(map(len, some))
            if tokens > self.options.max_tokens:
                raise Refusal(
                    400,
                    f"{asked[0].field} has more than {self.options.max_tokens:,} tokens: {tokens:,} in the first "
                    f"{len(ids) + len(some):,} of {len(asked):,} texts; send fewer texts a request",
                    param=asked[0].field,
                    code="max_tokens_per_request",
                )
            ids += some
        return ids

    @staticmethod
    def _check(vectors: NDArray[np.float32], asked: Sequence[Asked]) -> None:
        finite = np.isfinite(vectors).all(1)
        if finite.all():
            return
        at = int(finite.argmin())
        raise Refusal(
            422,
            f"text {at} of {asked[at].field} gives a vector that is not finite, which no search can use; "
            f"the model fails on it: leave it out (the others are {int(finite.sum())} of {len(asked)})",
            param=asked[at].field,
            code="vector_not_finite",
        )


def _written(embedder: Embedder, asked: Asked) -> str:
    titles = [asked.title] if asked.title else None  # of a query none is written, as Google's clients may send one
    return embedder.write([asked.text], kind=asked.kind, titles=titles)[0]
