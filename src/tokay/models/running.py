"""What runs micro-batches of token ids, whatever comes out: an embedder's vectors, or a cross-encoder's scores."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tokay.errors import TokayError

Ids = Sequence[Sequence[int]]
Vectors = NDArray[np.float32]
Run = Callable[[Ids], Vectors]
"""Vectors of one micro-batch: N lists of token ids -> (N, D)."""


class Runner(Protocol):
    """A model as whoever makes micro-batches sees it."""

    @property
    def tokens_per_batch(self) -> int:
        """Padded tokens of one micro-batch."""

    @property
    def width(self) -> int:
        """D, the numbers that come out for each list of ids."""

    @property
    def threads(self) -> int:
        """Cores that one call of ``run`` uses; 0 where the work is not the CPU's."""

    def run(self, ids: Ids) -> Vectors:
        """One micro-batch: N lists of token ids -> (N, D)."""

    def shared(self, workers: int) -> contextlib.AbstractContextManager[Run]:
        """A ``run`` for several threads at a time, each with its share of the cores."""


@contextlib.contextmanager
def mapped(model: Runner, workers: int | None, batches: int) -> Iterator[Callable[[Iterable[Ids]], Iterable[Vectors]]]:
    """``map`` over micro-batches, by one thread or by several."""
    if workers is not None and workers < 1:
        raise TokayError(f"workers is {workers}; expected 1 or more (this machine has {os.cpu_count()} cores)")
    several = min(batches, model.threads if workers is None else workers)
    if several <= 1:
        yield lambda ids: map(model.run, ids)
        return
    with model.shared(several) as run, ThreadPoolExecutor(several) as pool:
        yield lambda ids: pool.map(run, ids)
