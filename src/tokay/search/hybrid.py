"""Dense and BM25 together: the cosine plus a weight, which can be learned, times BM25.

Rankings are pairs of indices (Q, k) int64, -1 where there is nothing, and scores (Q, k) float32, best first.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tokay.errors import TokayError
from tokay.search.bm25 import BM25, ENGLISH, K1, B, best_of
from tokay.search.dense import rescored

Ranking = tuple[NDArray[np.int64], NDArray[np.float32]]
T = TypeVar("T", bound=Hashable)

DEPTH = 100
"""Results of each side whose passages are candidates."""
PRIOR = 0.6
"""Weight of BM25 before anything is learned, in standard deviations of the cosines (docs/hybrid.md)."""
HEAVIEST = 1000.0
"""The largest weight that may be asked for: BM25 alone decides, and scores are far from the limits of float32."""
FEATURES = ("terms", "rare", "identifier", "dense margin", "word margin", "overlap")
_RARE = 0.01
"""Share of the passages that have a rare word, at most."""
FARTHEST = 2.0
"""Standard deviations beyond which a feature counts no more."""
_IDENTIFIER = re.compile(r"\d|\w_\w|\w\.\w|[a-z][A-Z]|\w\(\)")


@dataclasses.dataclass(frozen=True)
class Feature:
    """How a trait of a query bends the weight: ``exp(slope * (value - mean) / std)``."""

    slope: float
    mean: float
    std: float


@dataclasses.dataclass(frozen=True)
class Hybrid:
    """``score(q, p) = cos(q, p) + w(q) BM25(q, p) / sqrt(|q|)``, |q| being the number of q's different terms.

    Nothing is scaled by what else was found, so a score depends on query and passage alone, and any engine that adds
    two scores can have it. A sum over terms grows with their number; the root keeps long queries from being ranked by
    words alone.

    Attributes:
        weight: of BM25; ``w(q)`` is this times the factors of the features.
        features: of ``FEATURES``; most often none.
        k1, b, language: of BM25.
        learned: from judged queries; False: ``PRIOR`` standard deviations of the cosines.
    """

    weight: float
    features: Mapping[str, Feature] = dataclasses.field(default_factory=dict)
    k1: float = K1
    b: float = B
    language: str = ENGLISH
    learned: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= HEAVIEST:
            raise ValueError(f"the weight of BM25 is {self.weight}; expected 0 to {HEAVIEST:g}")

    @classmethod
    def usual(cls, spread: float, bm25: BM25) -> Hybrid:
        """Without any judgment: ``PRIOR``, for a model whose cosines have this ``spread_of``."""
        return cls(PRIOR * spread, {}, bm25.k1, bm25.b, bm25.language)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Hybrid:
        """Of what ``dataclasses.asdict`` gave.

        Raises:
            TokayError: it is something else, or its weight cannot be one.
        """
        try:
            features = {name: Feature(**about) for name, about in data["features"].items()}
            return cls(**{**data, "features": features})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TokayError(
                f"what is written of BM25's weight is damaged ({error}); run 'tokay distill' or 'tokay index' again"
            ) from error

    def weighing(self, weight: float | None) -> Hybrid:
        """With this weight for every query; None: as it is."""
        if weight is None:
            return self
        return dataclasses.replace(self, weight=weight, features={}, learned=False)

    def weight_of(self, traits: Mapping[str, float]) -> float:
        """``w(q)`` of a query with these traits."""
        bent = sum(
            about.slope * float(np.clip((traits[name] - about.mean) / about.std, -FARTHEST, FARTHEST))
            for name, about in self.features.items()
        )
        return self.weight * float(np.exp(bent))

    def rank(self, pools: Sequence[Pool], k: int) -> Ranking:
        """The k best of each query's candidates; equal scores by index."""
        indices = np.full((len(pools), k), -1, np.int64)
        scores = np.zeros((len(pools), k), np.float32)
        for row, pool in enumerate(pools):
            weight = self.weight_of(pool.traits) if self.features else self.weight
            fused = (pool.dense + weight * pool.words).astype(np.float32)
            best = np.lexsort((pool.indices, -fused))[:k]
            indices[row, : len(best)] = pool.indices[best]
            scores[row, : len(best)] = fused[best]
        return indices, scores


@dataclasses.dataclass(frozen=True)
class Pool:
    """One query's C candidates: the first of the dense ranking and the first of BM25's, each with both scores.

    Attributes:
        indices: (C,), in ascending order.
        dense: cosines, (C,) float64.
        words: BM25 divided by the root of the number of terms, (C,) float64.
        query: as it was typed.
        bm25: that gave ``words``.
    """

    indices: NDArray[np.int64]
    dense: NDArray[np.float64]
    words: NDArray[np.float64]
    query: str
    bm25: BM25

    @functools.cached_property
    def traits(self) -> dict[str, float]:
        """``FEATURES`` of the query: what can be seen before anything is known of relevance."""
        terms = self.bm25.terms(self.query)
        idf = [self.bm25.idf(term) for term in terms]
        rare = float(np.log(1 / _RARE))
        dense, words = (np.sort(scores)[::-1] for scores in (self.dense, self.words))
        best = float(words[0]) * np.sqrt(len(terms)) if len(words) else 0.0
        return {
            "terms": float(np.log1p(len(terms))),
            "rare": float(np.mean([one > rare for one in idf])) if idf else 0.0,
            "identifier": float(bool(_IDENTIFIER.search(self.query))),
            "dense margin": margin_of(dense),
            "word margin": margin_of(words) / float(words[0]) if len(words) and words[0] > 0 else 0.0,
            "overlap": best / sum(idf) if idf else 0.0,  # Lucene's BM25 of a term is below its idf
        }


def margin_of(scores: NDArray[np.float64]) -> float:
    """How far the best score is above the tenth; scores best first. Small where a query is hard for what ranks."""
    return float(scores[0] - scores[min(9, len(scores) - 1)]) if len(scores) else 0.0


def pools_of(
    dense: Ranking,
    bm25: BM25,
    texts: Sequence[str],
    queries: NDArray[np.float32],
    passages: NDArray[np.floating],
    *,
    depth: int = DEPTH,
    among: NDArray[np.int64] | None = None,
) -> Iterator[Pool]:
    """The candidates of each query.

    Args:
        dense: ranking of the queries, at least ``depth`` deep where there are so many passages.
        bm25: an index of the same passages.
        texts: the Q queries.
        queries: their vectors, (Q, D), at length 1.
        passages: (N, D), at length 1; may be a memory map, of which only what BM25 found is read.
        depth: results of each side.
        among: the only indices that may be found, in ascending order; None: all.
    """
    for row, text in enumerate(texts):
        there = dense[0][row, :depth] >= 0
        near = dense[0][row, :depth][there]
        found = bm25.scores(text)
        others = np.setdiff1d(best_of(found, depth, among=among), near)
        far, cosines = rescored(queries[row : row + 1], passages, [others], len(others))
        indices = np.concatenate([near, far[0]])
        values = np.concatenate([dense[1][row, :depth][there], cosines[0]])
        order = np.argsort(indices)
        indices = indices[order]
        words = found[indices].astype(np.float64) / np.sqrt(max(1, len(bm25.terms(text))))
        yield Pool(indices, values[order].astype(np.float64), words, text, bm25)


def spread_of(queries: NDArray[np.float32], passages: NDArray[np.floating]) -> float:
    """The standard deviation of a query's cosines with the passages, the mean over queries: a model's scale.

    Args:
        queries: (Q, D), of which at most 500 are taken; passages will do where there are no queries.
        passages: (N, D), of which at most 2,000 are taken, evenly spread.
    """
    some = np.asarray(passages[:: max(1, len(passages) // 2000)], np.float32)
    return float((queries[:: max(1, len(queries) // 500)] @ some.T).std(1).mean()) if len(some) else 0.0


def as_run(ranking: Ranking, query_ids: Iterable[str], ids: Sequence[str]) -> dict[str, dict[str, float]]:
    """A ranking as query id -> passage id -> score."""
    return {
        query_id: {ids[i]: score for i, score in zip(row, found, strict=True) if i >= 0}
        for query_id, row, found in zip(query_ids, ranking[0].tolist(), ranking[1].tolist(), strict=True)
    }


def fused_ranks(rankings: Sequence[Sequence[T]], *, k: int) -> dict[T, float]:
    """``sum_r 1 / (k + rank_r)`` of every item, ranks from 1 (Cormack, Clarke and Büttcher, SIGIR 2009).

    Gecko has k = 0 (2403.20327, appendix A), Cormack et al. 60. The order of ``rankings`` does not matter.
    """
    parts: dict[T, list[float]] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, 1):
            parts.setdefault(item, []).append(1 / (k + rank))
    return {item: sum(sorted(shares)) for item, shares in parts.items()}


def reciprocal_rank_fusion(rankings: Sequence[Sequence[T]], *, k: int = 60) -> list[T]:
    """Items by ``fused_ranks``; equal sums are in order of the best rank, then of ``str(item)``."""
    sums = fused_ranks(rankings, k=k)
    best: dict[T, int] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, 1):
            best[item] = min(rank, best.get(item, rank))
    return sorted(sums, key=lambda item: (-sums[item], best[item], str(item)))


def within_one_error(found: Mapping[float, NDArray[np.float64]]) -> float:
    """The smallest setting whose mean is within one standard error of the best (Breiman et al. 1984, section 3.4.3).

    The error is that of the paired difference.

    Args:
        found: setting -> quality of each query, in one order.
    """
    best = max(found.values(), key=lambda values: float(values.mean()))
    short = {setting: best - values for setting, values in sorted(found.items())}
    return min(w for w, lacking in short.items() if lacking.mean() <= lacking.std() / np.sqrt(len(lacking)) + 1e-12)
