"""Judgments to training rows: a cheap, re-runnable step over stored grades (Gecko 3.3).

The positive is the passage of the best grade; the seed does not win by default. Hard negatives come only from
judged passages of low grade, and every passage of grade >= 2 is kept off the negatives.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tokay.records import Candidate, Example, Judgment, Part, Query
from tokay.settings import ExampleSettings

RELEVANT = 2
"""Grades from here on answer the query."""


def make_examples(
    queries: Iterable[Query],
    candidates: Iterable[Candidate],
    judgments: Iterable[Judgment],
    parts: Mapping[str, Part] | None,
    settings: ExampleSettings,
) -> Iterator[Example]:
    """One row for every query that some passage of its own part answers.

    A query without judgments keeps its seed as positive and has no hard negative. Nothing of a held-out document
    enters a training row, and nothing of a training document the row of a held-out one.

    Args:
        queries: with their parts.
        candidates: the ranks, which say what the lowest-ranked candidate is.
        judgments: the stored grades.
        parts: passage id -> part; None: no document is held out (refit).
        settings: of the examples stage.
    """
    ranks: dict[str, dict[str, int]] = defaultdict(dict)
    for candidate in candidates:
        ranks[candidate.query_id][candidate.passage_id] = candidate.rank
    graded: dict[str, list[Judgment]] = defaultdict(list)
    for judgment in judgments:
        graded[judgment.query_id].append(judgment)
    for query in queries:
        known = graded.get(query.query_id, [])
        rank = ranks.get(query.query_id, {})
        usable = [j for j in known if parts is None or _same_side(parts[j.passage_id], query.part)]
        positive = _positive(query, usable, rank) if settings.relabel else query.seed_id
        relevant = [j.passage_id for j in known if j.grade >= RELEVANT]
        if known and positive not in relevant and settings.relabel:
            continue  # nothing answers it: a query like this would teach noise
        yield Example(
            query_id=query.query_id,
            task=query.task,
            query=query.text,
            seed_id=query.seed_id,
            positive_id=positive,
            negative_ids=_negatives(query, usable, rank, positive, settings),
            relevant_ids=relevant or [positive],
            candidate_ids=[j.passage_id for j in usable],
            grades=[j.grade for j in usable],
            relabelled=positive != query.seed_id,
            part=query.part,
        )


def _same_side(passage: Part, query: Part) -> bool:
    return (passage == "test") == (query == "test") and (query == "test" or passage in ("train", query))


def _positive(query: Query, graded: Sequence[Judgment], rank: Mapping[str, int]) -> str:
    """Best grade; among equals the one marked best, then the lower rank, then the id."""
    if not graded:
        return query.seed_id
    first = min(graded, key=lambda j: (-j.grade, not j.best, rank.get(j.passage_id, 10**9), j.passage_id))
    return first.passage_id


def _negatives(
    query: Query,
    graded: Sequence[Judgment],
    rank: Mapping[str, int],
    positive: str,
    settings: ExampleSettings,
) -> list[str]:
    usable = [j.passage_id for j in graded if j.grade <= settings.negative_max_grade and j.passage_id != positive]
    usable.sort(key=lambda passage_id: (rank.get(passage_id, 10**9), passage_id))
    if settings.negative_choice == "last":
        usable.reverse()
    elif settings.negative_choice == "random":
        usable.sort(key=lambda p: hashlib.sha256(f"{settings.seed}\0{query.query_id}\0{p}".encode()).digest())
    return usable[: settings.negatives]
