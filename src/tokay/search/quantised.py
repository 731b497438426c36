"""Scans of smaller copies of the vectors that propose candidates; the vectors themselves then decide.

A proposer reads one byte or one bit a number in place of four bytes, and gives the best of what it sees, deeper
than asked for. ``dense.rescored`` scores these by the stored vectors, so the result differs from the exact one only
where a passage was not proposed. Everything here is a function of the vectors and of their order alone: an index
that was updated equals one that was built anew.

Letters: Q queries, N passages, D width, W words of 64 bits, c candidates.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tokay.models.precision import Calibration, to_precision

_BLOCK = 8192
"""Vectors read at a time while codes are made."""
_QUERIES = 16
"""Queries whose distances to all passages are held at a time, by each thread."""


class Proposer(ABC):
    """What finds candidates: written once into an index folder, then opened from it."""

    rescore: ClassVar[int]
    """Candidates for each result asked for, unless the user says otherwise; benchmarks/bench_index.py prints what
    other numbers give."""

    @staticmethod  # noqa: B027  # most need nothing
    def check() -> None:
        """Raise when a package is missing that this needs."""

    @staticmethod
    @abstractmethod
    def write(vectors: NDArray[np.floating], folder: Path) -> None:
        """Write the codes of unit vectors (N, D) into a folder."""

    @classmethod
    @abstractmethod
    def open(cls, folder: Path) -> Proposer:
        """What ``write`` wrote."""

    @abstractmethod
    def propose(self, queries: NDArray[np.float32], count: int) -> list[NDArray[np.int64]]:
        """For each of (Q, D) at most ``count`` indices, in ascending order."""


class Int8(Proposer):
    """One byte a number: queries against codes that are widened block by block, while they are in the cache."""

    rescore = 4
    rows: ClassVar[int] = 512
    """Codes widened at a time for one query: 512 kB of float32 at 256 numbers stay in a core's second cache."""
    queries: ClassVar[int] = 64
    """Queries whose scores of all passages are held at a time."""

    def __init__(self, codes: NDArray[np.int8], ranges: NDArray[np.float32]) -> None:
        self.codes = codes  # (N, D)
        self.steps = np.maximum(ranges[1] - ranges[0], 1e-12) / 255  # (D,)

    @staticmethod
    def write(vectors: NDArray[np.floating], folder: Path) -> None:
        """Measure the range of each number over all vectors; write ``int8.npy`` (N, D) and ``calibration.npz``."""
        blocks = range(0, len(vectors), _BLOCK)
        width = vectors.shape[1]
        low, high = np.full(width, np.inf, np.float32), np.full(width, -np.inf, np.float32)
        for start in blocks:
            part = np.asarray(vectors[start : start + _BLOCK], np.float32)
            low, high = np.minimum(low, part.min(0)), np.maximum(high, part.max(0))
        calibration = Calibration({width: np.stack([low, high])})
        codes = np.lib.format.open_memmap(folder / "int8.npy", mode="w+", dtype=np.int8, shape=vectors.shape)
        for start in blocks:
            part = np.asarray(vectors[start : start + _BLOCK], np.float32)
            codes[start : start + len(part)] = to_precision(part, "int8", calibration)
        codes.flush()
        calibration.save(folder)

    @classmethod
    def open(cls, folder: Path) -> Int8:
        """Map the codes into memory."""
        codes = np.load(folder / "int8.npy", mmap_mode="r")
        calibration = Calibration.load(folder)
        if calibration is None:
            raise FileNotFoundError(folder / "calibration.npz")
        return cls(codes, calibration.ranges[codes.shape[1]])

    def propose(self, queries: NDArray[np.float32], count: int) -> list[NDArray[np.int64]]:
        """The best by ``sum_d q_d step_d code_d``: the dot product with the codes' values, less a constant a query."""
        found = []
        for start in range(0, len(queries), self.queries):
            scores = self._scores(queries[start : start + self.queries] * self.steps)
            found += [_highest(row, count) for row in scores]
        return found

    def _scores(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        scores = np.empty((len(queries), len(self.codes)), np.float32)  # (Q, N)
        rows = self.rows if len(queries) == 1 else _BLOCK
        wide = np.empty((rows, self.codes.shape[1]), np.float32)
        for start in range(0, len(self.codes), rows):
            part = self.codes[start : start + rows]
            some = wide[: len(part)]
            np.copyto(some, part)
            np.matmul(queries, some.T, out=scores[:, start : start + len(part)])
        return scores


class Binary(Proposer):
    """One bit a number: on which side of the corpus's mean it is; the nearest by Hamming distance.

    Embeddings lie to one side of the origin, so signs about their mean tell more than signs about zero: on a hundred
    thousand mixtures of MiniLM's vectors, 200 candidates hold 0.995 of the ten nearest instead of 0.986. The bits are
    kept word by word, (W, N), so that each pass runs over neighbouring numbers.
    """

    rescore = 50
    rows: ClassVar[int] = 65536
    """Passages whose words are read at a time, for all queries."""

    def __init__(self, words: NDArray[np.uint64], centre: NDArray[np.float32]) -> None:
        self.words = words  # (W, N)
        self.centre = centre  # (D,)

    @staticmethod
    def write(vectors: NDArray[np.floating], folder: Path) -> None:
        """Write ``binary.npy`` (W, N) and the mean ``centre.npy`` (D,)."""
        count, width = vectors.shape
        total = np.zeros(width)
        for start in range(0, count, _BLOCK):
            total += vectors[start : start + _BLOCK].sum(0, dtype=np.float64)
        centre = (total / count).astype(np.float32)
        np.save(folder / "centre.npy", centre)
        shape = (-(-width // 64), count)
        words = np.lib.format.open_memmap(folder / "binary.npy", mode="w+", dtype=np.uint64, shape=shape)
        for start in range(0, count, _BLOCK):
            part = np.asarray(vectors[start : start + _BLOCK], np.float32)
            words[:, start : start + len(part)] = _words(part - centre).T
        words.flush()

    @classmethod
    def open(cls, folder: Path) -> Binary:
        """Map the bits into memory."""
        return cls(np.load(folder / "binary.npy", mmap_mode="r"), np.load(folder / "centre.npy"))

    def propose(self, queries: NDArray[np.float32], count: int) -> list[NDArray[np.int64]]:
        """The nearest by Hamming distance; equal distances by index."""
        words = _words(queries - self.centre)  # (Q, W)
        parts = [words[start : start + _QUERIES] for start in range(0, len(words), _QUERIES)]
        if len(parts) == 1:
            return self._nearest(parts[0], count)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy leaves the interpreter's lock
            return [rows for found in pool.map(lambda part: self._nearest(part, count), parts) for rows in found]

    def _nearest(self, queries: NDArray[np.uint64], count: int) -> list[NDArray[np.int64]]:
        total = self.words.shape[1]
        distances = np.zeros((len(queries), total), np.uint16)
        differing, ones = np.empty(self.rows, np.uint64), np.empty(self.rows, np.uint8)
        for start in range(0, total, self.rows):
            part = self.words[:, start : start + self.rows]
            differ, one = differing[: part.shape[1]], ones[: part.shape[1]]
            for query, distance in zip(queries, distances[:, start : start + self.rows], strict=True):
                for word, asked in zip(part, query, strict=True):
                    np.bitwise_xor(word, asked, out=differ)
                    np.bitwise_count(differ, out=one)
                    distance += one
        return [_least(row, count) for row in distances]


def _words(vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Signs of each row, 64 to a word, the last one filled up with zeros: (N, D) -> (N, W)."""
    missing = -vectors.shape[1] % 64
    bits = to_precision(np.pad(vectors, ((0, 0), (0, missing))), "ubinary")
    words: NDArray[np.uint64] = np.ascontiguousarray(bits).view(np.uint64)
    return words


def _least(distances: NDArray[np.uint16], count: int) -> NDArray[np.int64]:
    """Indices of the ``count`` least, equal ones by index; in ascending order of index."""
    below = np.cumsum(np.bincount(distances))
    if below[-1] <= count:
        return np.arange(len(distances))
    bar = int(np.searchsorted(below, count))  # the distance of the last that is taken
    surely = int(below[bar - 1]) if bar else 0
    nearer, tied = np.flatnonzero(distances < bar), np.flatnonzero(distances == bar)
    return np.sort(np.concatenate([nearer, tied[: count - surely]]))


def _highest(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Indices of the ``count`` highest, equal ones by index; in ascending order of index."""
    if len(scores) <= count:
        return np.arange(len(scores))
    bar = np.partition(scores, -count)[-count]
    higher, tied = np.flatnonzero(scores > bar), np.flatnonzero(scores == bar)
    return np.sort(np.concatenate([higher, tied[: count - len(higher)]]))
