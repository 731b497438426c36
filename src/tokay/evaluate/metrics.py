"""Retrieval metrics with trec_eval's conventions, ties included.

A ranking is ordered by score (as float32) and, where scores are equal, by passage id descending: so trec_eval,
pytrec_eval and BEIR do it, and so numbers can be compared. Gains are linear in the grade.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

METRICS: Final = ("ndcg@10", "recall@10", "recall@100", "mrr")

Qrels = Mapping[str, Mapping[str, int]]
Run = Mapping[str, Mapping[str, float]]
Orders = Mapping[str, Sequence[str]]
"""Query id -> passage ids, best first."""


def evaluate_run(qrels: Qrels, run: Run) -> dict[str, dict[str, float]]:
    """Metric -> query id -> value, for every query of ``qrels``, in its order.

    ``ndcg@10`` is Σ gain / log2(rank + 1) over the first ten, divided by that of the ideal order (Järvelin and
    Kekäläinen 2002). ``recall@k`` is the share of relevant passages among the first k. ``mrr`` is 1 / rank of the
    first relevant one in the whole list. A passage is relevant when its grade is above 0; a query without one, or
    without a ranking, has 0 everywhere (trec_eval leaves the latter out of its means).
    """
    return evaluate_orders(qrels, {query_id: rank_order(run.get(query_id, {})) for query_id in qrels})


def evaluate_orders(qrels: Qrels, orders: Orders) -> dict[str, dict[str, float]]:
    """As ``evaluate_run``, of rankings that are in order already."""
    values: dict[str, dict[str, float]] = {metric: {} for metric in METRICS}
    for query_id, grades in qrels.items():
        gains = [grades.get(passage_id, 0) for passage_id in orders.get(query_id, ())]
        relevant = sum(1 for grade in grades.values() if grade > 0)
        values["ndcg@10"][query_id] = ndcg(gains, list(grades.values()), k=10)
        for k in (10, 100):
            found = sum(1 for gain in gains[:k] if gain > 0)
            values[f"recall@{k}"][query_id] = found / relevant if relevant else 0.0
        first = next((rank for rank, gain in enumerate(gains, 1) if gain > 0), 0)
        values["mrr"][query_id] = 1 / first if first else 0.0
    return values


def rank_order(scores: Mapping[str, float]) -> list[str]:
    """Passage ids, best first; equal float32 scores by id, descending."""
    as_float32 = np.array(list(scores.values()), np.float32).tolist()
    ranked = sorted(zip(as_float32, scores, strict=True), key=lambda pair: pair[1].encode(), reverse=True)
    return [passage_id for _, passage_id in sorted(ranked, key=lambda pair: pair[0], reverse=True)]


def ndcg(gains: Sequence[int], grades: Sequence[int], *, k: int) -> float:
    """nDCG@k of a ranking's gains, against all grades of the query; negative grades gain nothing."""
    ideal = _dcg(sorted(grades, reverse=True)[:k])
    return _dcg(gains[:k]) / ideal if ideal else 0.0


def average_precision(gains: Sequence[int], grades: Sequence[int]) -> float:
    """Mean, over all relevant passages of the query, of the precision at the rank of each; not found counts 0."""
    relevant = sum(1 for grade in grades if grade > 0)
    found, total = 0, 0.0
    for rank, gain in enumerate(gains, 1):
        if gain > 0:
            found += 1
            total += found / rank
    return total / relevant if relevant else 0.0


def _dcg(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1) if gain > 0)


def judged_share(run: Run, judged: Mapping[str, set[str]], *, k: int = 10) -> float:
    """Share of the passages in all top k that were judged for their query, whatever the grade; 0 without any."""
    return judged_share_of({query_id: rank_order(scores)[:k] for query_id, scores in run.items()}, judged)


def judged_share_of(tops: Orders, judged: Mapping[str, set[str]]) -> float:
    """As ``judged_share``, of the top k of rankings."""
    shown = sum(len(top) for top in tops.values())
    known = sum(passage_id in judged.get(query_id, ()) for query_id, top in tops.items() for passage_id in top)
    return known / shown if shown else 0.0
