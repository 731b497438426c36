"""Ratings to judgments: what the numbers that judges gave come to. No model is asked here.

Letters as in Gecko (2403.20327, appendix A): r_QL and r_RC are a passage's ranks, from 1, by query likelihood and by
relevance classification; R = 1 / (k + r_QL) + 1 / (k + r_RC) with k = 0, so that p_1 is the positive and p_N, the last,
the hard negative.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from tokay.records import Judgment, Query, Rating
from tokay.search.hybrid import fused_ranks

LABELS = (0, 1, 2, 3)
T = TypeVar("T")

Table = Mapping[str, Mapping[str, float]]
"""Judge -> passage id -> value."""


def table_of(ratings: Iterable[Rating]) -> dict[str, dict[str, float]]:
    """The values of one query's ratings by judge and passage."""
    table: dict[str, dict[str, float]] = defaultdict(dict)
    for rating in ratings:
        table[rating.judge][rating.passage_id] = rating.value
    return table


def gecko(query: Query, candidates: Sequence[str], ratings: Sequence[Rating], *, k: int) -> list[Judgment]:
    """R over the passages that both scorers rated; the grade is the likeliest label.

    Ranks (1, 2) and (2, 1) tie where k = 0, in 6 to 15 of 100 queries by our simulation. The tie-break is the seed,
    then RC, then the retriever's rank: ``candidates`` is in that order.
    """
    table = table_of(ratings)
    labels = {g: table[f"relevance:{g}"] for g in LABELS}
    rated = [p for p in candidates if p in table["likelihood"] and all(p in labels[g] for g in LABELS)]
    place = {passage_id: rank for rank, passage_id in enumerate(rated)}

    def by(value: Callable[[str], float]) -> list[str]:
        return sorted(rated, key=lambda p: (-value(p), p != query.seed_id, place[p]))

    by_rc = by(lambda p: labels[LABELS[-1]][p])
    ranked = fused_ranks([by(lambda p: table["likelihood"][p]), by_rc], k=k)
    first = min(rated, key=lambda p: (-ranked[p], p != query.seed_id, by_rc.index(p)), default="")
    grades = {p: max(LABELS, key=lambda g: (labels[g][p], -g)) for p in rated}
    return _judgments(query, rated, grades, ranked, first, ratings)


def relevance(query: Query, candidates: Sequence[str], ratings: Sequence[Rating]) -> list[Judgment]:
    """Relevance classification alone: the likeliest label, ordered by the expected one."""
    table = table_of(ratings)
    labels = {g: table[f"relevance:{g}"] for g in LABELS}
    rated = [p for p in candidates if all(p in labels[g] for g in LABELS)]
    expected = {p: expectation({g: labels[g][p] for g in LABELS}) for p in rated}
    grades = {p: max(LABELS, key=lambda g: (labels[g][p], -g)) for p in rated}
    return _judgments(query, rated, grades, expected, _first(query, rated, expected), ratings)


def mean_grades(query: Query, candidates: Sequence[str], ratings: Sequence[Rating], *, judge: str) -> list[Judgment]:
    """Grades given several times, or expected ones: their mean, halves rounded down, since a doubt is no answer.

    Args:
        query: the query.
        candidates: passage ids in the retriever's order.
        ratings: of this query; those whose judge is ``judge`` or ``judge:…`` count.
        judge: which.
    """
    table = table_of(ratings)
    turns = _turns(table, judge)
    rated = [p for p in candidates if any(p in values for values in turns)]
    means = {p: _mean([values[p] for values in turns if p in values]) for p in rated}
    votes = {p: 0.1 * _mean([values.get(p, 0.0) for values in _turns(table, f"best-{judge}")]) for p in rated}
    scores = {p: means[p] + votes[p] for p in rated}  # a vote decides among equal grades only
    grades = {p: math.ceil(means[p] - 0.5) for p in rated}
    return _judgments(query, rated, grades, scores, _first(query, rated, scores), ratings)


def thresholds(query: Query, candidates: Sequence[str], ratings: Sequence[Rating], *, judge: str) -> list[Judgment]:
    """Logits: grade 3 from a probability of 0.9, 2 from 0.5, 1 from 0.1."""
    logits = table_of(ratings)[judge]
    rated = [p for p in candidates if p in logits]
    grades = {p: sum(logits[p] >= math.log(share / (1 - share)) for share in (0.1, 0.5, 0.9)) for p in rated}
    return _judgments(query, rated, grades, logits, _first(query, rated, logits), ratings)


def expectation(log_probabilities: Mapping[int, float]) -> float:
    """Mean grade under log-probabilities (nats) of the grades that are there, normalised over these."""
    highest = max(log_probabilities.values())
    weights = {grade: math.exp(value - highest) for grade, value in log_probabilities.items()}
    return sum(grade * weight for grade, weight in weights.items()) / sum(weights.values())


def _turns(table: Table, judge: str) -> list[Mapping[str, float]]:
    return [values for name, values in table.items() if name.partition(":")[0] == judge]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _first(query: Query, rated: Sequence[str], scores: Mapping[str, float]) -> str:
    """The best passage: highest score, then the seed, then the retriever's order."""
    return min(rated, key=lambda p: (-scores[p], p != query.seed_id), default="")


def _judgments(
    query: Query,
    rated: Sequence[str],
    grades: Mapping[str, int],
    scores: Mapping[str, float],
    first: str,
    ratings: Sequence[Rating],
) -> list[Judgment]:
    sources: dict[str, dict[str, None]] = defaultdict(dict)
    prompts: dict[str, dict[str, None]] = defaultdict(dict)
    for rating in ratings:
        sources[rating.passage_id][rating.answer_id] = None
        prompts[rating.passage_id][rating.prompt] = None
    return [
        Judgment(query.query_id, p, grades[p], scores[p], p == first, "+".join(prompts[p]), " ".join(sources[p]))
        for p in rated
    ]
