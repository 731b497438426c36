"""Search a finished run: base and tuned side by side, over the vectors that the run left."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tokay.errors import TokayError
from tokay.records import Passage
from tokay.search.bm25 import BM25
from tokay.search.dense import top_k, unit
from tokay.search.hybrid import fuse
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
    from tokay.models.embedder import Embedder
    from tokay.vectors import with_cut

    if not query.strip():
        raise TokayError("the query is empty; write what you are looking for, in quotes")
    verdict: dict[str, Any] = run.read_json("evaluate", "verdict")
    passages = list(run.table("corpus", "passages", Passage))
    base_name = tomllib.loads((run.path / "run.toml").read_text(encoding="utf-8"))["base"]
    base = with_cut(Embedder.load(base_name), run.read_json("vectors", "cut")["cut"])
    refit = run.is_done("refit")
    tuned = Embedder.load(run.path / ("refit" if refit else "train") / "model")
    sides = {
        "base": (base, np.load(run.path / "vectors" / "base.npy", mmap_mode="r")),
        "tuned": (tuned, np.load(run.path / ("refit" if refit else "evaluate") / "tuned.npy", mmap_mode="r")),
    }
    lexical = BM25(f"{p.title} {p.text}" for p in passages).search([query], DEPTH) if hybrid else None
    ranked: dict[str, list[tuple[int, float]]] = {}
    for name, (model, vectors) in sides.items():
        ranking = top_k(unit(model.encode([query], kind="query")), vectors, DEPTH)
        if lexical is not None:
            ranking = fuse(ranking, lexical, verdict["weights"][name])
        ranked[name] = [(i, s) for i, s in zip(ranking[0][0].tolist(), ranking[1][0].tolist(), strict=True) if i >= 0]
    found = {
        name: _found(ranked[name][:top], ranked[other], passages)
        for name, other in (("base", "tuned"), ("tuned", "base"))
    }
    return Answer(found["base"], found["tuned"], "tuned" if refit else verdict["use"], verdict["sentence"])


def _found(
    ranked: Sequence[tuple[int, float]], other: Sequence[tuple[int, float]], passages: Sequence[Passage]
) -> tuple[Found, ...]:
    place = {i: rank for rank, (i, _) in enumerate(other, 1)}
    return tuple(Found(passages[i], score, place.get(i, 0)) for i, score in ranked)
