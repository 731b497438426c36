"""Which BM25 a run has, and its weight beside each model: learned from the run's judged queries."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tokay.evaluate.verdict import Side
from tokay.records import Query
from tokay.search.bm25 import BM25
from tokay.search.dense import unit
from tokay.search.hybrid import Hybrid, Pool, Ranking, pools_of, spread_of
from tokay.search.learn import GRID, Judged, learn, like_the_log, quality_by_weight
from tokay.settings import HybridSettings


@dataclasses.dataclass(frozen=True)
class Material:
    """Judged queries of one model, that it was not trained on, and the queries of a user's log.

    Attributes:
        side: vectors of ``queries`` and of the passages.
        queries: written ones, each with an entry in ``qrels``.
        qrels: query id -> passage id -> gain.
        place: passage id -> index.
        depth: of the rankings.
        log: queries without labels.
        log_side: vectors of ``log``.
    """

    side: Side
    queries: Sequence[Query]
    qrels: Mapping[str, Mapping[str, int]]
    place: Mapping[str, int]
    depth: int
    log: Sequence[str] = ()
    log_side: Side | None = None

    @property
    def spread(self) -> float:
        """Of the model's cosines."""
        return spread_of(unit(self.side.queries) if len(self.queries) else self.side.passages, self.side.passages)

    @functools.cached_property
    def dense(self) -> Ranking:
        """The queries' ranking by the model: one for every k1 and b."""
        return self.side.rank(self.depth)

    def judged(self, bm25: BM25) -> list[Judged]:
        """The queries with their candidates; counted as the log is spread, where there is one."""
        pools = _pools(self.side, [q.text for q in self.queries], bm25, self.dense)
        found = [
            Judged(
                pool,
                {self.place[p]: gain for p, gain in self.qrels[q.query_id].items() if gain},
                q.seed_id or q.query_id,
            )
            for q, pool in zip(self.queries, pools, strict=True)
        ]
        if self.log_side is None:
            return found
        return like_the_log(found, self.asked(bm25))

    def asked(self, bm25: BM25) -> list[Pool]:
        """The candidates of the log's queries; none without a log."""
        if self.log_side is None:
            return []
        return _pools(self.log_side, self.log, bm25, self.log_side.rank(self.depth))


def choose_bm25(make: Callable[[float, float], BM25], material: Material, settings: HybridSettings) -> BM25:
    """The k1 and b of the grid whose fused ranking is best for the base's training-side queries.

    The first pair is kept unless the best is better by more than two standard errors.

    Args:
        make: an index of all passages with some k1 and b.
        material: of the base.
        settings: whose grid is tried.
    """
    usual = make(settings.k1[0], settings.b[0])
    if not material.queries or not 0 < usual.passages <= settings.tried_passages:
        return usual
    weights = GRID * material.spread

    def best(bm25: BM25) -> Any:
        curve = quality_by_weight(material.judged(bm25), weights)
        return curve[curve.mean(1).argmax()]

    kept, first = usual, best(usual)
    most = 0.0
    for k1, b in list(itertools.product(settings.k1, settings.b))[1:]:
        tried = make(k1, b)
        gain = best(tried) - first
        if gain.mean() > max(most, 2 * gain.std() / np.sqrt(len(gain))):
            kept, most = tried, float(gain.mean())
    return kept


def learn_hybrid(bm25: BM25, material: Material, settings: HybridSettings) -> tuple[Hybrid, dict[str, Any]]:
    """The weight of BM25 beside one model, and what was seen on the way (``search.learn.learn``)."""
    if not material.queries:
        usual = Hybrid.usual(material.spread, bm25)
        return usual, {"queries": 0}
    judged = material.judged(bm25)
    hybrid, seen = learn(judged, material.spread, seed=settings.seed)
    seen["overlap"] = {"written": _overlap([one.pool for one in judged])}
    if material.log_side is not None:
        seen["overlap"]["log"] = _overlap(material.asked(bm25))
    return hybrid, seen


def some_of(queries: Sequence[Query], settings: HybridSettings) -> list[Query]:
    """At most ``settings.queries`` of them, drawn by the seed, in their order."""
    if len(queries) <= settings.queries:
        return list(queries)
    drawn = np.random.default_rng(settings.seed).choice(len(queries), settings.queries, replace=False)
    return [queries[i] for i in sorted(drawn.tolist())]


def _pools(side: Side, texts: Sequence[str], bm25: BM25, dense: Ranking) -> list[Pool]:
    depth = dense[0].shape[1]
    return list(pools_of(dense, bm25, texts, unit(side.queries), side.passages, depth=depth))


def _overlap(pools: Sequence[Pool]) -> float:
    """How much of a query the best hit of BM25 has, by idf: the mean."""
    return float(np.mean([pool.traits["overlap"] for pool in pools])) if pools else 0.0
