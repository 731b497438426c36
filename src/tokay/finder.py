"""tokay search: a finished run, base and tuned side by side, over the vectors that it left; or an index."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokay.errors import TokayError
from tokay.models.embedder import Backend
from tokay.records import Passage
from tokay.search.bm25 import BM25
from tokay.search.dense import top_k, unit
from tokay.search.hybrid import DEPTH, Hybrid, pools_of
from tokay.search.index import Index, Match, Searcher, check_queries, entry_of
from tokay.store import Run


@dataclasses.dataclass(frozen=True)
class Found:
    """One result: the passage, its score and its rank under the other model (0: not in its first hundred)."""

    passage: Passage
    score: float
    other_rank: int

    def entry(self, rank: int) -> dict[str, Any]:
        """As JSON has it."""
        return {**entry_of(self.passage), "score": self.score, "rank": rank, "other_rank": self.other_rank}


@dataclasses.dataclass(frozen=True)
class Answer:
    """Ranked passages of both models; ``use`` is the one that the verdict recommends."""

    base: tuple[Found, ...]
    tuned: tuple[Found, ...]
    use: str
    sentence: str


def search_run(run: Run, query: str, *, top: int, hybrid: bool) -> Answer:
    """Rank the run's passages for one query.

    Args:
        run: a finished run.
        query: as a person would type it.
        top: results a model.
        hybrid: each model with BM25, by the weight that the run learned.

    Raises:
        TokayError: an empty query, or a run that has not come to its verdict.
    """
    from tokay import Embedder  # says which extra is missing
    from tokay.vectors import with_cut

    if not query.strip():
        raise TokayError("the query is empty; write what you are looking for, in quotes")
    verdict: dict[str, Any] = run.read_json("evaluate", "verdict")
    chosen = run.read_json("vectors", "cut")
    made = "refit" if run.is_done("refit") else "train"
    sides = {
        "base": (with_cut(Embedder.load(chosen["base"]), chosen["cut"]), run.path / "vectors" / "base.npy"),
        "tuned": (
            Embedder.load(run.path / made / "model"),
            run.path / ("evaluate" if made == "train" else made) / "tuned.npy",
        ),
    }
    bm25 = BM25.load(run.path / "evaluate" / "bm25") if hybrid else None
    hybrids = run.read_json("evaluate", "hybrid") if hybrid else {}
    ranked: dict[str, list[tuple[int, float]]] = {}
    for name, (model, path) in sides.items():
        vectors = np.load(path, mmap_mode="r")
        asked = unit(model.encode([query], kind="query"))
        ranking = top_k(asked, vectors, DEPTH)
        if bm25 is not None:
            pools = pools_of(ranking, bm25, [query], asked, vectors, depth=DEPTH)
            ranking = Hybrid.from_json(hybrids[name]).rank(list(pools), DEPTH)
        ranked[name] = [(i, s) for i, s in zip(ranking[0][0].tolist(), ranking[1][0].tolist(), strict=True) if i >= 0]
    shown = {i for found in ranked.values() for i, _ in found[:top]}
    passages = {i: p for i, p in enumerate(run.table("corpus", "passages", Passage)) if i in shown}
    found = {
        name: _found(ranked[name][:top], ranked[other], passages)
        for name, other in (("base", "tuned"), ("tuned", "base"))
    }
    return Answer(found["base"], found["tuned"], verdict["use"], verdict["sentence"])


def search_index(
    folder: Path,
    query: str,
    *,
    top: int,
    hybrid: bool = False,
    weight: float | None = None,
    model: str | None = None,
    backend: Backend | None = None,
) -> list[Match]:
    """Rank the passages of an index for one query.

    Args:
        folder: the index.
        query: as a person would type it.
        top: results.
        hybrid: with BM25, by the weight that the run learned whose model made the index, or the usual one.
        weight: of BM25, in place of that one.
        model: where the model is now; None: where it was when it made the index.
        backend: that encodes the query; None: the one that encoded the passages.

    Raises:
        TokayError: an empty query, no index, or another model.
    """
    check_queries([query], top, hybrid=hybrid, weight=weight)
    index = Index.open(folder)
    searcher = Searcher(index, index.load_model(model, backend=backend))
    return searcher.search([query], top=top, hybrid=hybrid, weight=weight)[0]


def _found(
    ranked: Sequence[tuple[int, float]], other: Sequence[tuple[int, float]], passages: Mapping[int, Passage]
) -> tuple[Found, ...]:
    place = {i: rank for rank, (i, _) in enumerate(other, 1)}
    return tuple(Found(passages[i], score, place.get(i, 0)) for i, score in ranked)
