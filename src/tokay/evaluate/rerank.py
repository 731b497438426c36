"""What a reranker is worth, and how it is best used: all choices on dev queries, from logits that were read once.

Letters: Q queries, k candidates of a query.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokay.evaluate.metrics import METRICS, evaluate_run, judged_share
from tokay.evaluate.significance import can_show, compare, sentence
from tokay.search.hybrid import Ranking, as_run
from tokay.search.rerank import Reranked, Rule, probability, rerank
from tokay.settings import EvaluateSettings

WEIGHTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Of the reranker beside the ranking; 0 is the ranking as it stands."""
QUANTILES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
"""Of the reranker's p over all candidates: what a candidate that was not read may be expected to have at most."""
SAMPLES = 200
"""Bootstrap samples of the queries that a weight is chosen on."""
MAY_LOSE = 0.001
"""nDCG@10 that stopping early may cost on dev queries."""


@dataclasses.dataclass(frozen=True)
class Read:
    """Queries whose candidates a reranker has read, as deep as ``logits`` goes.

    Attributes:
        qrels: query id -> passage id -> gain, of Q queries in order.
        ids: passage ids, by index.
        ranking: (Q, k) candidates and their scores.
        logits: (Q, d) of the first d of them; arbitrary where there is no candidate.
    """

    qrels: Mapping[str, Mapping[str, int]]
    ids: Sequence[str]
    ranking: Ranking
    logits: NDArray[np.float32]

    def reranked(self, rule: Rule) -> list[Reranked]:
        """Every query by a rule, which goes no deeper than what was read."""
        depth = min(rule.depth, self.logits.shape[1])
        return [
            rerank_row(indices, scores, logits, dataclasses.replace(rule, depth=depth))
            for indices, scores, logits in zip(*self.ranking, self.logits, strict=True)
        ]

    def quality(self, rule: Rule) -> NDArray[np.float64]:
        """nDCG@10 of each query."""
        return ndcg_of(self.qrels, self.ids, self.reranked(rule))

    def there(self) -> NDArray[np.bool_]:
        """(Q, d) where a candidate was read."""
        return np.asarray(self.ranking[0][:, : self.logits.shape[1]] >= 0)

    def labels(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Logits of the candidates with a label, and whether it is above 0."""
        logits, relevant = [], []
        for grades, row, values in zip(self.qrels.values(), self.ranking[0].tolist(), self.logits, strict=True):
            for index, value in zip(row, values, strict=False):
                if index >= 0 and self.ids[index] in grades:
                    logits.append(float(value))
                    relevant.append(grades[self.ids[index]] > 0)
        return np.array(logits, np.float32), np.array(relevant, bool)


def rerank_row(
    indices: NDArray[np.int64], scores: NDArray[np.float32], logits: NDArray[np.float32], rule: Rule
) -> Reranked:
    """``rerank`` with logits that are known already."""
    there = int((indices >= 0).sum())
    place = {index: at for at, index in enumerate(indices[:there].tolist())}
    return rerank(indices[:there], scores[:there], lambda some: logits[[place[i] for i in some.tolist()]], rule)


def ndcg_of(
    qrels: Mapping[str, Mapping[str, int]], ids: Sequence[str], found: Iterable[Reranked]
) -> NDArray[np.float64]:
    """nDCG@10 of each query, in the order of ``qrels``: by place, so that rounded scores make no ties."""
    run = {
        query_id: {ids[i]: -float(place) for place, i in enumerate(one.indices[:100].tolist())}
        for query_id, one in zip(qrels, found, strict=True)
    }
    return np.array(list(evaluate_run(qrels, run)["ndcg@10"].values()))


def as_ranking(found: Sequence[Reranked], depth: int) -> Ranking:
    """Reranked queries as one ranking, for the verdict: (Q, depth)."""
    indices = np.full((len(found), depth), -1, np.int64)
    scores = np.zeros((len(found), depth), np.float32)
    for row, one in enumerate(found):
        count = min(depth, len(one.indices))
        indices[row, :count], scores[row, :count] = one.indices[:count], one.scores[:count]
    return indices, scores


def choose_rule(read: Read, *, depth: int, top: int = 10, weights: Sequence[float] = WEIGHTS, seed: int = 0) -> Rule:
    """Weight and ceiling of a reranker.

    The weight is the mean, over bootstrap samples of the queries, of the one with the best nDCG@10 (of equal ones the
    smallest): the best weight of all lies anywhere on a flat curve, and often where it is about to fall. The ceiling is
    then the lowest quantile of p over all candidates that were read with which stopping early costs at most
    ``MAY_LOSE``; else 1.
    """
    tried = sorted(weights)
    curve = np.stack([read.quality(Rule(weight, depth, 1.0, top)) for weight in tried])  # (W, Q)
    draws = np.random.default_rng(seed).multinomial(
        curve.shape[1], np.full(curve.shape[1], 1 / curve.shape[1]), SAMPLES
    )
    weight = round(float(np.mean(np.asarray(tried)[(curve @ draws.T).argmax(0)])), 3)
    plain = float(read.quality(Rule(weight, depth, 1.0, top)).mean())
    p = probability(read.logits[read.there()])
    for quantile in QUANTILES:
        rule = Rule(weight, depth, round(float(np.quantile(p, quantile)), 4), top)
        if float(read.quality(rule).mean()) >= plain - MAY_LOSE:
            return rule
    return Rule(weight, depth, 1.0, top)


def calibration(logits: NDArray[np.float32], relevant: NDArray[np.bool_]) -> tuple[float, float]:
    """Scale a and shift b with which 1 / (1 + e^-(a x + b)) is the share of relevant pairs (Platt 1999).

    By Newton's method on the cross-entropy, with a weak pull towards a = 1, b = 0; (1, 0) where all labels are equal or
    higher logits go with fewer relevant pairs.
    """
    if not relevant.any() or relevant.all():
        return 1.0, 0.0
    x = np.stack([np.asarray(logits, np.float64), np.ones(len(logits))], 1)  # (N, 2)
    y, start = relevant.astype(np.float64), np.array([1.0, 0.0])
    pull = 1e-4 * len(y)
    found = start.copy()
    for _ in range(50):
        p = np.clip(probability(x @ found).astype(np.float64), 1e-6, 1 - 1e-6)
        gradient = x.T @ (p - y) + pull * (found - start)
        step = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + pull * np.eye(2), gradient)
        found -= step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-8:
            break
    return (float(found[0]), float(found[1])) if found[0] > 0 else (1.0, 0.0)


def rows_of(
    rankings: Mapping[str, Ranking],
    qrels: Mapping[str, Mapping[str, int]],
    judged: Mapping[str, set[str]],
    ids: Sequence[str],
    groups: Mapping[str, str],
    milliseconds: Mapping[str, float],
    settings: EvaluateSettings,
) -> dict[str, Any]:
    """The ranking without and with a reranker, as rows of the verdict, and the verdict on the reranker.

    Args:
        rankings: without, then with it, over the queries of ``qrels``, in its order.
        qrels: query id -> passage id -> gain.
        judged: query id -> judged passage ids.
        ids: passage ids, by index.
        groups: query id -> what makes queries dependent.
        milliseconds: of a query, the median.
        settings: of the evaluate stage.
    """
    plain, ours = rankings
    values, rows = {}, []
    for name, ranking in rankings.items():
        run = as_run(ranking, list(qrels), ids)
        values[name] = evaluate_run(qrels, run)
        means = {metric: float(np.mean(list(values[name][metric].values()))) for metric in METRICS}
        ms = {"ms": milliseconds[name]}
        rows.append({"label": name, "system": name, "dim": 0, **means, **ms, "judged@10": judged_share(run, judged)})
    comparison = compare(
        *(list(values[name]["ndcg@10"].values()) for name in (ours, plain)),
        groups=[groups.get(query_id, query_id) for query_id in qrels],
        resamples=settings.resamples,
        seed=settings.seed,
    )
    rows[1] |= {"against": plain, "comparison": dataclasses.asdict(comparison)}
    return {
        "rows": rows,
        "queries": len(qrels),
        "use": comparison.low > 0 and comparison.p_value < 0.05,
        "sentence": sentence(comparison, ours, against=plain),
        "can_show": can_show(comparison),
    }
