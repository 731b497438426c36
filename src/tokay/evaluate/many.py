"""Many systems on one set: means, scores by query, differences from a reference, all pairs, slices, wins and losses."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tokay.evaluate.family import Pair, compare_all
from tokay.evaluate.metrics import METRICS, Run, evaluate_orders, judged_share_of, rank_order
from tokay.evaluate.sets import EvaluationSet
from tokay.evaluate.significance import cannot_see, sentence
from tokay.evaluate.unjudged import at_best, condensed, tops_of, unjudged_in
from tokay.evaluate.verdict import PRIMARY
from tokay.records import Hit, Score
from tokay.settings import EvaluateSettings

FORMAT = 1
"""Of ``results.json``; raised when a reader of an older one would misread it."""
EXAMPLES = 5
"""Wins and losses that are kept with their texts, of each system."""
_SHOWN = 600
"""Characters of a passage that are shown."""


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A system and its ranking: query id -> passage id -> score; ``dim`` is 0 where a width means nothing."""

    label: str
    dim: int
    run: Run
    about: str = ""

    @functools.cached_property
    def orders(self) -> dict[str, list[str]]:
        """Query id -> passage ids, best first."""
        return {query_id: rank_order(scores) for query_id, scores in self.run.items()}


@dataclasses.dataclass(frozen=True)
class Results:
    """What came of it: one score for each system, query and metric, and the rest as JSON values."""

    scores: list[Score]
    summary: dict[str, Any]


def judge_many(
    systems: Sequence[Ranked],
    on: EvaluationSet,
    *,
    reference: str,
    settings: EvaluateSettings,
    examples: int = EXAMPLES,
) -> Results:
    """Hold systems against each other.

    Args:
        systems: each ranks all queries of the set.
        on: the set.
        reference: label of the system that differences are from.
        settings: resamples and seed.
        examples: wins and losses of each system that are kept with their texts.

    Returns:
        Scores of all queries, those beside included; and ``results.json``: ``systems`` in their order, with means over
        the primary queries, ``judged@10``, ``unjudged`` (passages in top tens), ``condensed``, ``at_best``, and against
        the reference ``comparison``, ``p_alone`` and ``sentence``; ``pairs``, of all systems; ``slices``
        by trait and value; ``examples``; ``graded``, whether anybody
        looked at passages and found them not relevant, without which what was not judged means little.
    """
    values = {one.label: evaluate_orders(on.qrels, one.orders) for one in systems}
    primary = on.primary
    asked = {query_id: on.qrels[query_id] for query_id in primary}
    pairs = _family(values, primary, on, settings)
    rows = []
    for one in systems:
        tops = tops_of(one.orders, primary)
        row: dict[str, Any] = {
            "label": one.label,
            "dim": one.dim,
            "about": one.about,
            **_means(values[one.label], primary),
            "judged@10": judged_share_of(tops, on.judged),
            "unjudged": unjudged_in(tops, on.judged),
            "condensed": _mean(condensed(asked, one.orders, on.judged)),
            "at_best": _mean(at_best(asked, tops, on.judged)),
        }
        if found := _between(pairs, one.label, reference):
            comparison = found.comparison
            row |= {
                "comparison": dataclasses.asdict(comparison),
                "p_alone": found.p_alone,
                "sentence": sentence(comparison, one.label, against=reference, end=cannot_see(comparison)),
            }
        rows.append(row)
    scores = [
        Score(one.label, one.dim, query_id, metric, values[one.label][metric][query_id])
        for one in systems
        for metric in METRICS
        for query_id in on.qrels
    ]
    summary = {
        "format": FORMAT,
        "set": on.name,
        "passages": len(on.passages),
        "queries": len(primary),
        "groups": len({on.group_of(query_id) for query_id in primary}),
        "beside": len(on.beside),
        "graded": any(gain <= 0 for gains in asked.values() for gain in gains.values()),
        "metric": PRIMARY,
        "reference": reference,
        "dropped": dict(on.dropped),
        "systems": rows,
        "pairs": [{"a": p.a, "b": p.b, "p_alone": p.p_alone, **dataclasses.asdict(p.comparison)} for p in pairs],
        "slices": _slices(systems, values, on, reference, settings),
        "examples": _examples(systems, values, on, reference, examples),
    }
    return Results(scores, summary)


def hits_of_runs(systems: Iterable[Ranked], *, depth: int) -> Iterable[Hit]:
    """The top of every ranking as records, in the order that trec_eval would see."""
    for one in systems:
        for query_id, order in one.orders.items():
            scores = one.run[query_id]
            for rank, passage_id in enumerate(order[:depth], 1):
                yield Hit(one.label, query_id, rank, passage_id, scores[passage_id])


def _family(
    values: Mapping[str, Mapping[str, Mapping[str, float]]],
    query_ids: Sequence[str],
    on: EvaluationSet,
    settings: EvaluateSettings,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> list[Pair]:
    return compare_all(
        {label: [found[PRIMARY][q] for q in query_ids] for label, found in values.items()},
        groups=[on.group_of(q) for q in query_ids],
        pairs=pairs,
        resamples=settings.resamples,
        seed=settings.seed,
    )


def _between(pairs: Sequence[Pair], label: str, reference: str) -> Pair | None:
    """The pair as ``label`` against the reference."""
    for pair in pairs:
        if (pair.a, pair.b) == (label, reference):
            return pair
        if (pair.a, pair.b) == (reference, label):
            c = pair.comparison
            turned = dataclasses.replace(
                c, mean_a=c.mean_b, mean_b=c.mean_a, difference=-c.difference, low=-c.high, high=-c.low
            )
            return Pair(label, reference, turned, pair.p_alone)
    return None


def _means(values: Mapping[str, Mapping[str, float]], query_ids: Sequence[str]) -> dict[str, float]:
    return {metric: float(np.mean([values[metric][q] for q in query_ids])) for metric in METRICS}


def _mean(values: Mapping[str, float]) -> float:
    return float(np.mean(list(values.values())))


def _slices(
    systems: Sequence[Ranked],
    values: Mapping[str, Mapping[str, Mapping[str, float]]],
    on: EvaluationSet,
    reference: str,
    settings: EvaluateSettings,
) -> list[dict[str, Any]]:
    """Every value of a trait that has several, the largest slice first; corrected for the systems, not for slices."""
    found = []
    labels = [one.label for one in systems]
    for trait, of in on.all_traits().items():
        members: dict[str, list[str]] = {}
        with_beside = trait in on.traits  # what the set brings is about the queries beside, too
        for query in on.queries:
            if query.query_id in of and (with_beside or query.query_id not in on.beside):
                members.setdefault(of[query.query_id], []).append(query.query_id)
        if len(members) < 2:
            continue
        for value, query_ids in sorted(members.items(), key=lambda item: (-len(item[1]), item[0])):
            rows: dict[str, Any] = {label: _means(values[label], query_ids) for label in labels}
            if len(query_ids) > 1:
                family = [(label, reference) for label in labels if label != reference]
                for pair in _family(values, query_ids, on, settings, family):
                    rows[pair.a] |= {"comparison": dataclasses.asdict(pair.comparison), "p_alone": pair.p_alone}
            found.append({"trait": trait, "value": value, "queries": len(query_ids), "systems": rows})
    return found


def _examples(
    systems: Sequence[Ranked],
    values: Mapping[str, Mapping[str, Mapping[str, float]]],
    on: EvaluationSet,
    reference: str,
    count: int,
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The largest wins and losses of each system against the reference, with texts."""
    orders_of = {one.label: one.orders for one in systems}
    texts = {q.query_id: q.text for q in on.queries}
    passages = {p.passage_id: p for p in on.passages}
    base = values[reference][PRIMARY]

    def shown(passage_id: str) -> dict[str, str]:
        p = passages[passage_id]
        return {"passage_id": passage_id, "title": p.title, "text": p.text[:_SHOWN]}

    def example(label: str, query_id: str) -> dict[str, Any]:
        orders = {name: orders_of[name].get(query_id, []) for name in (label, reference)}
        relevant = sorted(
            (p for p, gain in on.qrels[query_id].items() if gain > 0), key=lambda p: _worth(on, query_id, p)
        )
        return {
            "query_id": query_id,
            "query": texts[query_id],
            "ndcg@10": {name: values[name][PRIMARY][query_id] for name in (label, reference)},
            "relevant": [
                {**shown(p), "ranks": {name: order.index(p) + 1 if p in order else 0 for name, order in orders.items()}}
                for p in relevant[:3]
            ],
            "first": {name: shown(order[0]) for name, order in orders.items() if order},
        }

    found = {}
    for one in systems:
        if one.label == reference:
            continue
        own = values[one.label][PRIMARY]
        order = sorted(on.primary, key=lambda q: (base[q] - own[q], q))
        wins = [q for q in order[:count] if own[q] > base[q]]
        losses = [q for q in reversed(order[-count:]) if own[q] < base[q]] if count else []
        found[one.label] = {
            "wins": [example(one.label, q) for q in wins],
            "losses": [example(one.label, q) for q in losses],
        }
    return found


def _worth(on: EvaluationSet, query_id: str, passage_id: str) -> tuple[int, str]:
    return -on.qrels[query_id][passage_id], passage_id
