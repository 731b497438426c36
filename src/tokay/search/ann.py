"""A graph of near neighbours (HNSW, Malkov and Yashunin 2016), by usearch: the extra ``index``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokay.errors import MissingExtra
from tokay.search.quantised import Proposer

_BLOCK = 65536


class Hnsw(Proposer):
    """Visits a few thousand passages of a million; which ones depends on how the graph was built.

    The graph holds half-precision copies and is built anew at each update, since what is removed from such a graph
    and added to it leaves another graph than one that never knew it.
    """

    rescore = 100
    neighbours = 16
    """Links of each passage (M of the paper; its section 4.1 finds 5 to 48 reasonable)."""
    care = 128
    """Candidates looked at for each passage that is added (efConstruction)."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph

    @staticmethod
    def check() -> None:
        """Raise when usearch is not installed."""
        _usearch()

    @staticmethod
    def write(vectors: NDArray[np.floating], folder: Path) -> None:
        """Build the graph on all cores; write ``hnsw.usearch``."""
        graph = _usearch().Index(
            ndim=vectors.shape[1],
            metric="ip",
            dtype="f16",
            connectivity=Hnsw.neighbours,
            expansion_add=Hnsw.care,
        )
        for start in range(0, len(vectors), _BLOCK):
            part = np.asarray(vectors[start : start + _BLOCK], np.float32)
            graph.add(np.arange(start, start + len(part), dtype=np.uint64), part)
        graph.save(str(folder / "hnsw.usearch"))

    @classmethod
    def open(cls, folder: Path) -> Hnsw:
        """Map the graph into memory."""
        return cls(_usearch().Index.restore(str(folder / "hnsw.usearch"), view=True))

    def propose(self, queries: NDArray[np.float32], count: int) -> list[NDArray[np.int64]]:
        """What a walk with a list of ``count`` candidates (ef) ends with; all passages when as many are asked for.

        A walk alone would not give them: a passage that none of its neighbours kept a link to is never reached.
        """
        if count >= len(self.graph):
            return [np.arange(len(self.graph), dtype=np.int64)] * len(queries)
        self.graph.expansion_search = count
        found = self.graph.search(np.asarray(queries, np.float32), count)
        keys = np.asarray(found.keys).reshape(len(queries), -1).astype(np.int64)
        counts = np.atleast_1d(getattr(found, "counts", keys.shape[1]))
        counts = np.broadcast_to(counts, len(queries))
        return [np.sort(row[:n]) for row, n in zip(keys, counts, strict=True)]


def _usearch() -> Any:
    try:
        import usearch.index
    except ModuleNotFoundError as error:
        raise MissingExtra("search by hnsw", "index", "usearch") from error
    return usearch.index
