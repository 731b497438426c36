"""tokay search: a finished run, base and tuned side by side, over the vectors that it left; or an index."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokay.errors import TokayError
from tokay.models.cross_encoder import written
from tokay.models.embedder import Backend
from tokay.records import Passage
from tokay.search.bm25 import BM25
from tokay.search.dense import top_k, unit
from tokay.search.hybrid import DEPTH, Hybrid, pools_of
from tokay.search.index import Index, Match, Searcher, check_queries, entry_of
from tokay.search.reranker import ABOUT, FOLDER, About, Reranker, read_about
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


def search_run(run: Run, query: str, *, top: int, hybrid: bool = False, weight: float | None = None) -> Answer:
    """Rank the run's passages for one query.

    Args:
        run: a finished run.
        query: as a person would type it.
        top: results a model.
        hybrid: each model with BM25, by the weight that the run learned.
        weight: of BM25, in place of that one; it implies ``hybrid``.

    Raises:
        TokayError: an empty query, a weight that cannot be one, or a run that has not come to its verdict.
    """
    from tokay import Embedder  # says which extra is missing
    from tokay.vectors import with_cut

    check_queries([query], top, hybrid=hybrid, weight=weight)
    hybrid = hybrid or weight is not None
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
            ranking = Hybrid.from_json(hybrids[name]).weighing(weight).rank(list(pools), DEPTH)
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
    rerank: bool = False,
    reranker: str | None = None,
    latency_ms: float | None = None,
) -> Reranked:
    """Rank the passages of an index for one query.

    Args:
        folder: the index.
        query: as a person would type it.
        top: results.
        hybrid: with BM25, by the weight that the run learned whose model made the index, or the usual one.
        weight: of BM25, in place of that one.
        model: where the model is now; None: where it was when it made the index.
        backend: that encodes the query; None: the one that encoded the passages.
        rerank: let the reranker of the run read the first results, whose model made the index.
        reranker: let this one do so: a run, or a CrossEncoder's folder.
        latency_ms: what reranking may take.

    Raises:
        TokayError: an empty query, no index, another model, or ``rerank`` without a reranker.
    """
    check_queries([query], top, hybrid=hybrid, weight=weight)
    index = Index.open(folder)
    left_out, against, chosen = "", "", None
    if reranker is not None:
        chosen = Reranker.load(reranker, latency_ms=latency_ms)
        against = "" if chosen.about is None or chosen.about.use else chosen.about.sentence
    elif rerank:
        about = about_of(Path(index.header.model.name))
        left_out = "" if about.use else about.sentence
        chosen = Reranker.load(index.header.model.name, latency_ms=latency_ms) if about.use else None
    hybrid = hybrid or rerank or reranker is not None  # the ranking that the reranker was trained on
    searcher = Searcher(index, index.load_model(model, backend=backend))
    return Reranked(
        searcher.search([query], top=top, hybrid=hybrid, weight=weight, reranker=chosen)[0], left_out, against
    )


@dataclasses.dataclass(frozen=True)
class Reranked:
    """Passages of tuned vectors and BM25 together, as the reranker orders them.

    ``left_out`` is empty, or why the reranker was not used; ``against`` is empty, or the verdict of one that was named
    and used in spite of it.
    """

    matches: list[Match]
    left_out: str = ""
    against: str = ""


def search_run_reranked(run: Run, query: str, *, top: int, latency_ms: float | None = None) -> Reranked:
    """Rank the run's passages for one query by its reranker, where the verdict was for it.

    Args:
        run: a finished run, with a reranker.
        query: as a person would type it.
        top: results.
        latency_ms: what reranking may take.

    Raises:
        TokayError: an empty query, or there is no reranker.
    """
    from tokay import Embedder

    check_queries([query], top, hybrid=True)
    about = about_of(run.path)
    hybrid = Hybrid.from_json(run.read_json("evaluate", "hybrid")["tuned"])
    vectors = np.load(run.path / "evaluate" / "tuned.npy", mmap_mode="r")
    asked = unit(Embedder.load(run.path / "train" / "model").encode([query], kind="query"))
    dense, bm25 = top_k(asked, vectors, DEPTH), BM25.load(run.path / "evaluate" / "bm25")
    indices, scores = (part[0] for part in hybrid.rank(list(pools_of(dense, bm25, [query], asked, vectors)), DEPTH))
    indices, scores = indices[indices >= 0], scores[indices >= 0]
    passages = dict(enumerate(run.table("corpus", "passages", Passage)))
    if about.use:
        reranker = Reranker.load(run.path, latency_ms=latency_ms)
        found = reranker.rerank(
            query, indices, scores, lambda some: [written(passages[i].text, passages[i].title) for i in some], top=top
        )
        indices, scores = found.indices, found.scores
    best = zip(indices[:top].tolist(), scores[:top].tolist(), strict=True)
    matches = [Match(rank, passages[i], score) for rank, (i, score) in enumerate(best, 1)]
    return Reranked(matches, "" if about.use else about.sentence)


def about_of(run: Path) -> About:
    """What a run's reranker says of itself.

    Raises:
        TokayError: there is none.
    """
    if not (run / FOLDER / ABOUT).is_file():
        raise TokayError(f"{run} has no reranker; train one with 'tokay train {run} --what reranker'")
    return read_about(run / FOLDER)


def _found(
    ranked: Sequence[tuple[int, float]], other: Sequence[tuple[int, float]], passages: Mapping[int, Passage]
) -> tuple[Found, ...]:
    place = {i: rank for rank, (i, _) in enumerate(other, 1)}
    return tuple(Found(passages[i], score, place.get(i, 0)) for i, score in ranked)
