"""The weight of BM25 beside a model, learned from judged queries.

nDCG@10 itself is maximised and not a smooth loss: on SciFact and Cranfield a listwise cross-entropy settled on weights
of some 60 % of the best one (docs/log.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokay.evaluate.metrics import ndcg
from tokay.search.hybrid import FARTHEST, FEATURES, PRIOR, Feature, Hybrid, Pool

GRID = np.concatenate([[0.0], np.geomspace(0.02, 20, 31)])
"""Weights that are tried, in standard deviations of the cosines."""
PRIOR_QUERIES = 100
"""Queries that ``PRIOR`` counts for: with as many judged ones, both have a half (docs/hybrid.md)."""
BOOTSTRAPS = 200
FOLDS = 5
_LEAST = 40
"""Groups from which on cross-validation says something."""
_RIDGE = 0.01


@dataclasses.dataclass(frozen=True)
class Judged:
    """A judged query.

    Attributes:
        pool: its candidates.
        gains: index of a passage -> gain, of all that are relevant.
        group: what makes queries dependent: the passage, or document, that they were written from.
        share: how often it counts (see ``like_the_log``).
    """

    pool: Pool
    gains: Mapping[int, int]
    group: Hashable
    share: float = 1.0


def learn(queries: Sequence[Judged], spread: float, *, seed: int = 0) -> tuple[Hybrid, dict[str, Any]]:
    """The weight whose ranking is best for these queries, held toward ``PRIOR``.

    The logarithms of the best weights of bootstrap samples of the groups are averaged, which on few queries is
    steadier than the best weight of all; then the prior is averaged in as ``PRIOR_QUERIES`` queries. From forty groups
    on, features are kept that in cross-validation are better than none by two standard errors, and where even so one
    side alone ranks better, by more than one, it is taken alone.

    Args:
        queries: at least one, with a relevant passage each; queries that the model was not trained on.
        spread: of the model's cosines (``spread_of``).
        seed: of bootstrap and folds.

    Returns:
        The hybrid, and what was seen on the way: quality by weight, of each side, and of the features.
    """
    rng = np.random.default_rng(seed)
    bm25 = queries[0].pool.bm25
    curve = quality_by_weight(queries, GRID * spread)
    shares = np.array([q.share for q in queries])
    groups = _numbered([q.group for q in queries])
    weight = _weight(curve, shares, groups, rng) * spread
    hybrid = Hybrid(weight, {}, bm25.k1, bm25.b, bm25.language, learned=True)

    def mean(values: Sequence[float] | NDArray[np.float64]) -> float:
        return float(np.average(values, weights=shares))

    words = np.array([_quality(q, q.pool.words) for q in queries])
    seen: dict[str, Any] = {
        "queries": len(queries),
        "spread": spread,
        "ndcg@10": {"dense": mean(curve[0]), "bm25": mean(words)},
        "by weight": {f"{w:.4g}": mean(row) for w, row in zip(GRID * spread, curve, strict=True)},
    }
    enough = groups.max() + 1 >= _LEAST
    if enough:
        plain, bent = _out_of_fold(queries, hybrid, curve, groups, spread, rng)
        gain, error = mean(bent - plain), float((bent - plain).std() / np.sqrt(len(plain)))
        seen["out of fold"] = {"one weight": mean(plain), "features": mean(bent), "error": error}
        if gain > 2 * error:
            hybrid = _with_features(hybrid, queries, spread)
    fused = np.array([_quality(q, _fused(hybrid, q)) for q in queries])
    seen["ndcg@10"]["fused"] = mean(fused)
    alone, weight = max((curve[0], 0.0), (words, float(GRID[-1]) * spread), key=lambda side: mean(side[0]))
    if enough and mean(alone - fused) > float((alone - fused).std() / np.sqrt(len(fused))):
        hybrid = dataclasses.replace(hybrid, weight=weight, features={})
    return hybrid, seen


def quality_by_weight(queries: Sequence[Judged], weights: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """nDCG@10 of each query at each weight, (W, Q)."""
    return np.array([[_quality(q, q.pool.dense + w * q.pool.words) for q in queries] for w in weights])


def like_the_log(queries: Sequence[Judged], log: Sequence[Pool], *, bins: int = 5) -> list[Judged]:
    """Written queries, counted so that their overlap with what BM25 finds is spread as that of a user's queries.

    Written queries copy fewer words than people's own do. Each counts as often as its fifth of overlap is asked for in
    the log (``shares_like``).
    """
    if not queries or not log:
        return list(queries)
    ours = np.array([q.pool.traits["overlap"] for q in queries])
    theirs = np.array([pool.traits["overlap"] for pool in log])
    shares = shares_like(ours, theirs, bins=bins).tolist()
    return [dataclasses.replace(q, share=share) for q, share in zip(queries, shares, strict=True)]


def shares_like(ours: NDArray[np.float64], theirs: NDArray[np.float64], *, bins: int = 5) -> NDArray[np.float64]:
    """How often each of our queries counts, so that a trait of theirs is spread as among other queries.

    Ours are cut into ``bins`` of equal size by the trait; each query counts as often as its bin is found among the
    others, between ``1 / bins`` and ``bins`` times.

    Args:
        ours: the trait of each of our queries, (Q,), at least one.
        theirs: of the others, at least one.
        bins: how many.
    """
    edges = np.quantile(ours, np.linspace(0, 1, bins + 1)[1:-1])
    place = np.searchsorted(edges, ours)
    have = np.bincount(place, minlength=bins) / len(ours)
    want = np.bincount(np.searchsorted(edges, theirs), minlength=bins) / len(theirs)
    return np.clip(want / np.maximum(have, 1e-9), 1 / bins, bins)[place]


def _weight(
    curve: NDArray[np.float64], shares: NDArray[np.float64], groups: NDArray[np.int64], rng: np.random.Generator
) -> float:
    """A weight, in standard deviations of the cosines, from the qualities (W, Q) at ``GRID``."""
    names, place = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(curve), len(names)))
    np.add.at(sums.T, place, (curve * shares).T)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=BOOTSTRAPS)
    best = (sums @ drawn.T).argmax(0)
    steps = np.log(GRID[1:])
    logs = np.concatenate([[2 * steps[0] - steps[1]], steps])  # no weight is a step below the least
    mean = (len(names) * logs[best].mean() + PRIOR_QUERIES * np.log(PRIOR)) / (len(names) + PRIOR_QUERIES)
    return float(np.exp(mean)) if best.any() else 0.0


def _out_of_fold(
    queries: Sequence[Judged],
    hybrid: Hybrid,
    curve: NDArray[np.float64],
    groups: NDArray[np.int64],
    spread: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """nDCG@10 of each query by what the other folds learned: with one weight, and with features too."""
    folds = (rng.permutation(groups.max() + 1)[groups] % FOLDS).tolist()
    shares = np.array([q.share for q in queries])
    plain, bent = np.zeros((2, len(queries)))
    for fold in range(FOLDS):
        inside = [i for i, one in enumerate(folds) if one != fold]
        weight = _weight(curve[:, inside], shares[inside], groups[inside], rng) * spread
        found = dataclasses.replace(hybrid, weight=weight)
        featured = _with_features(found, [queries[i] for i in inside], spread)
        for i in (i for i, one in enumerate(folds) if one == fold):
            plain[i], bent[i] = (_quality(queries[i], _fused(one, queries[i])) for one in (found, featured))
    return plain, bent


def _with_features(hybrid: Hybrid, queries: Sequence[Judged], spread: float) -> Hybrid:
    """The same with features, whose slopes minimise a listwise cross-entropy with a ridge.

    The targets of a query's candidates are their gains, divided by the sum.
    """
    from scipy.optimize import minimize

    traits = np.array([[q.pool.traits[name] for name in FEATURES] for q in queries])
    mean, std = traits.mean(0), traits.std(0)
    std = np.where(std > 1e-9, std, 1.0)
    there = np.clip((traits - mean) / std, -FARTHEST, FARTHEST)
    longest = max(len(q.pool.indices) for q in queries)
    dense, words = np.full((2, len(queries), longest), -np.inf)
    target = np.zeros((len(queries), longest))
    for row, q in enumerate(queries):
        count = len(q.pool.indices)
        dense[row, :count], words[row, :count] = q.pool.dense, q.pool.words
        target[row, :count] = [q.gains.get(i, 0) for i in q.pool.indices.tolist()]
    words[np.isinf(words)] = 0.0
    kept = target.sum(1) > 0
    target, shares = target[kept] / target[kept].sum(1, keepdims=True), np.array([q.share for q in queries])[kept]
    dense, words, there = dense[kept] / spread, words[kept] / spread, there[kept]  # in standard deviations

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        slopes, level, sharpness = parameters[:-2], parameters[-2], np.exp(parameters[-1])
        weights = np.exp(level + there @ slopes)
        fused = dense + weights[:, None] * words
        logits = sharpness * fused
        logits -= logits.max(1, keepdims=True)
        chance = np.exp(logits)
        chance /= chance.sum(1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.where(target > 0, np.log(chance), 0.0)
        value = -(target * logs).sum(1) @ shares / shares.sum() + _RIDGE * slopes @ slopes
        off = (chance - target) * (shares / shares.sum())[:, None]
        bent = sharpness * (off * words).sum(1) * weights
        hotter = sharpness * (off * np.where(np.isinf(fused), 0.0, fused)).sum()
        return float(value), np.concatenate([bent @ there + 2 * _RIDGE * slopes, [bent.sum(), hotter]])

    start = np.concatenate([np.zeros(len(FEATURES)), [np.log(max(hybrid.weight, 1e-3)), 0.0]])
    found = minimize(loss, start, jac=True, method="L-BFGS-B").x
    features = {
        n: Feature(float(s), float(m), float(d)) for n, s, m, d in zip(FEATURES, found, mean, std, strict=False)
    }
    return dataclasses.replace(hybrid, features=features)


def _fused(hybrid: Hybrid, query: Judged) -> NDArray[np.float64]:
    weight = hybrid.weight_of(query.pool.traits) if hybrid.features else hybrid.weight
    return query.pool.dense + weight * query.pool.words


def _quality(query: Judged, scores: NDArray[np.float64]) -> float:
    """nDCG@10 of a query's candidates by these scores, as ``Hybrid.rank`` orders them."""
    best = np.lexsort((query.pool.indices, -scores.astype(np.float32)))[:10]
    return ndcg([query.gains.get(i, 0) for i in query.pool.indices[best].tolist()], list(query.gains.values()), k=10)


def _numbered(names: Sequence[Hashable]) -> NDArray[np.int64]:
    """The same name, the same number, counted from 0 by first use."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
