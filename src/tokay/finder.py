"""Search a finished run: base and tuned side by side, over the vectors that the run left."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokay.errors import TokayError
from tokay.records import Passage
from tokay.search.bm25 import BM25
from tokay.search.dense import top_k, unit
from tokay.search.hybrid import Ranking, fuse
from tokay.store import Run

DEPTH = 100


@dataclasses.dataclass(frozen=True)
class Found:
    """One result: the passage, its score and its rank under the other model (0: not in its first hundred)."""

    passage: Passage
    score: float
    other_rank: int


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
        hybrid: fuse each model with BM25 by the weight that the run learned.

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
    lexical = _lexical(run, query) if hybrid else None
    ranked: dict[str, list[tuple[int, float]]] = {}
    for name, (model, vectors) in sides.items():
        ranking = top_k(unit(model.encode([query], kind="query")), np.load(vectors, mmap_mode="r"), DEPTH)
        if lexical is not None:
            ranking = fuse(ranking, lexical, verdict["weights"][name])
        ranked[name] = [(i, s) for i, s in zip(ranking[0][0].tolist(), ranking[1][0].tolist(), strict=True) if i >= 0]
    shown = {i for found in ranked.values() for i, _ in found[:top]}
    passages = {i: p for i, p in enumerate(run.table("corpus", "passages", Passage)) if i in shown}
    found = {
        name: _found(ranked[name][:top], ranked[other], passages)
        for name, other in (("base", "tuned"), ("tuned", "base"))
    }
    return Answer(found["base"], found["tuned"], verdict["use"], verdict["sentence"])


def _lexical(run: Run, query: str) -> Ranking:
    return BM25(f"{p.title} {p.text}" for p in run.table("corpus", "passages", Passage)).search([query], DEPTH)


def _found(
    ranked: Sequence[tuple[int, float]], other: Sequence[tuple[int, float]], passages: Mapping[int, Passage]
) -> tuple[Found, ...]:
    place = {i: rank for rank, (i, _) in enumerate(other, 1)}
    return tuple(Found(passages[i], score, place.get(i, 0)) for i, score in ranked)
