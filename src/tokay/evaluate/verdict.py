"""The verdict: every system on the held-out queries, each difference with a test and an interval.

Letters: Q queries, N passages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokay.evaluate.metrics import METRICS, evaluate_run, judged_share
from tokay.evaluate.significance import Comparison, can_show, compare, sentence
from tokay.records import Hit, Judgment, Query, Score
from tokay.search.bm25 import BM25
from tokay.search.dense import top_k, unit
from tokay.search.hybrid import Hybrid, Ranking, as_run, pools_of
from tokay.settings import EvaluateSettings

PRIMARY = "ndcg@10"


@dataclasses.dataclass(frozen=True)
class System:
    """One row of the verdict: its ranking, and the row that it is compared with."""

    name: str
    dim: int
    ranking: Ranking
    against: tuple[str, int] | None = None

    @property
    def label(self) -> str:
        """What tables call it."""
        return f"{self.name} @ {self.dim}" if self.dim else self.name


@dataclasses.dataclass(frozen=True)
class Side:
    """One model's vectors of the queries (Q, D) and of the passages (N, D)."""

    queries: NDArray[np.float32]
    passages: NDArray[np.float32]

    def rank(self, depth: int, dim: int | None = None) -> Ranking:
        """Exact cosine top ``depth`` at a Matryoshka width."""
        return top_k(unit(self.queries, dim), self.passages, depth, dim=dim)


def qrels_of(
    queries: Iterable[Query], judgments: Iterable[Judgment], *, relevant_grade: int
) -> tuple[dict[str, dict[str, int]], dict[str, set[str]]]:
    """Graded relevance of written queries, and what was judged at all.

    Gain is the grade from ``relevant_grade`` on, and 0 below. A query without judgments has its seed, with gain 3;
    a query that nothing judged answers is left out.

    Returns:
        query id -> passage id -> gain; query id -> judged passage ids.
    """
    grades: dict[str, dict[str, int]] = {}
    for judgment in judgments:
        gain = judgment.grade if judgment.grade >= relevant_grade else 0
        grades.setdefault(judgment.query_id, {})[judgment.passage_id] = gain
    qrels = {q.query_id: grades.get(q.query_id) or ({q.seed_id: 3} if q.seed_id else {}) for q in queries}
    qrels = {q: gains for q, gains in qrels.items() if any(gains.values())}
    return qrels, {q: set(gains) for q, gains in qrels.items()}


def systems_of(
    base: Side,
    tuned: Side,
    bm25: BM25,
    texts: Sequence[str],
    *,
    dims: Sequence[int],
    hybrids: Mapping[str, Hybrid],
    depth: int,
) -> list[System]:
    """The rows of every verdict: BM25, base and tuned at each width, and both with BM25.

    Args:
        base: its vectors of the queries and of the passages.
        tuned: likewise.
        bm25: of the passages.
        texts: the queries.
        dims: Matryoshka widths.
        hybrids: how each model is put together with BM25.
        depth: of the rankings.
    """
    full = max(dims)
    sides = {"base": base, "tuned": tuned}
    dense = {name: side.rank(depth) for name, side in sides.items()}
    rows = [System("BM25", 0, bm25.search(texts, depth), ("base", full))]
    for name, side in sides.items():
        for dim in dims:
            ranking = dense[name] if dim == full else side.rank(depth, dim)
            rows.append(System(name, dim, ranking, ("base", dim) if name == "tuned" else None))
    for name, side in sides.items():
        pools = pools_of(dense[name], bm25, texts, unit(side.queries), side.passages, depth=depth)
        fused = hybrids[name].rank(list(pools), depth)
        against = ("base", full) if name == "base" else ("base+BM25", full)
        rows.append(System(f"{name}+BM25", full, fused, against))
    return rows


def judge_systems(
    systems: Sequence[System],
    qrels: Mapping[str, Mapping[str, int]],
    judged: Mapping[str, set[str]],
    ids: Sequence[str],
    groups: Mapping[str, str],
    settings: EvaluateSettings,
) -> tuple[list[Score], dict[str, Any]]:
    """Score every system on every query and compare it with its partner.

    Args:
        systems: rankings over the queries of ``qrels``, in its order.
        qrels: query id -> passage id -> gain.
        judged: query id -> judged passage ids.
        ids: passage ids, by index.
        groups: query id -> what makes queries dependent (the passage they were written from).
        settings: of the evaluate stage.

    Returns:
        One score per system, query and metric; and the verdict as JSON values.
    """
    scores: list[Score] = []
    values: dict[tuple[str, int], dict[str, dict[str, float]]] = {}
    rows: list[dict[str, Any]] = []
    for system in systems:
        run = as_run(system.ranking, list(qrels), ids)
        measured = evaluate_run(qrels, run)
        values[system.name, system.dim] = measured
        scores += [
            Score(system.name, system.dim, query_id, metric, measured[metric][query_id])
            for metric in METRICS
            for query_id in qrels
        ]
        means = {metric: float(np.mean(list(measured[metric].values()))) for metric in METRICS}
        rows.append(
            {
                "label": system.label,
                "system": system.name,
                "dim": system.dim,
                **means,
                "judged@10": judged_share(run, judged),
            }
        )
    for system, row in zip(systems, rows, strict=True):
        if system.against is not None:
            comparison = _compare(values, (system.name, system.dim), system.against, groups, settings)
            row["against"] = " @ ".join(str(part) for part in system.against)
            row["comparison"] = dataclasses.asdict(comparison)
    full = max(system.dim for system in systems)
    primary = _compare(values, ("tuned", full), ("base", full), groups, settings)
    fused = _compare(values, ("tuned+BM25", full), ("base+BM25", full), groups, settings)
    return scores, {
        "sentence": sentence(primary, "tuned"),
        "sentence_with_bm25": sentence(fused, "tuned+BM25", against="base+BM25"),
        "can_show": can_show(primary),
        "better": primary.low > 0 and primary.p_value < 0.05,
        "primary": dataclasses.asdict(primary),
        "queries": len(qrels),
        "rows": rows,
    }


def _compare(
    values: Mapping[tuple[str, int], Mapping[str, Mapping[str, float]]],
    ours: tuple[str, int],
    theirs: tuple[str, int],
    groups: Mapping[str, str],
    settings: EvaluateSettings,
) -> Comparison:
    a, b = values[ours][PRIMARY], values[theirs][PRIMARY]
    return compare(
        list(a.values()),
        [b[query_id] for query_id in a],
        groups=[groups.get(query_id, query_id) for query_id in a],
        resamples=settings.resamples,
        seed=settings.seed,
    )


def hits_of(systems: Iterable[System], query_ids: Sequence[str], ids: Sequence[str], *, depth: int) -> Iterable[Hit]:
    """The top of every ranking as records."""
    for system in systems:
        for query_id, row, found in zip(query_ids, *(part[:, :depth].tolist() for part in system.ranking), strict=True):
            for rank, (i, score) in enumerate(zip(row, found, strict=True), 1):
                if i >= 0:
                    yield Hit(system.label, query_id, rank, ids[i], score)
