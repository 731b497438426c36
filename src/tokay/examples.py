"""Judgments to training rows: a cheap, re-runnable step over stored scores that asks nothing (Gecko 3.3).

====================  =============================================  ===============================================
policy                positive                                       hard negatives, of the judged candidates
====================  =============================================  ===============================================
graded                best grade, at least 2                         of grade <= ``negative_max_grade``
gecko                 highest score, p_1                             lowest scores, p_N first
percpos               best grade, at least 2                         that the base scores below 95 % of the positive
                                                                     (NV-Retriever, 2407.15831)
====================  =============================================  ===============================================

The seed does not win by default. Every passage of grade >= 2 is kept off the negatives, whatever the policy.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tokay.records import Candidate, Example, Judgment, Part, Query
from tokay.settings import ExampleSettings

RELEVANT = 2
"""Grades from here on answer the query."""

_LAST = 10**9


@dataclasses.dataclass(frozen=True)
class _Judged:
    """One candidate with its judgment."""

    passage_id: str
    grade: int
    score: float
    best: bool
    rank: int
    base_score: float


def make_examples(
    queries: Iterable[Query],
    candidates: Iterable[Candidate],
    judgments: Iterable[Judgment],
    parts: Mapping[str, Part] | None,
    settings: ExampleSettings,
) -> Iterator[Example]:
    """Rows for every query that some passage of its own part answers.

    A query without judgments keeps its seed as positive and has no hard negative; without a seed, too, it has no row.
    Nothing of a held-out document enters a training row, and nothing of a training document the row of a held-out
    one.

    Args:
        queries: with their parts; those that are out make rows only where no document is held out.
        candidates: the ranks, which say what the lowest-ranked candidate is.
        judgments: the stored grades.
        parts: passage id -> part; None: no document is held out (refit).
        settings: of the examples stage.
    """
    mined: dict[str, dict[str, Candidate]] = defaultdict(dict)
    for candidate in candidates:
        mined[candidate.query_id][candidate.passage_id] = candidate
    graded: dict[str, list[_Judged]] = defaultdict(list)
    for j in judgments:
        found = mined[j.query_id].get(j.passage_id)
        rank, base_score = (found.rank, found.base_score) if found else (_LAST, 0.0)
        graded[j.query_id].append(_Judged(j.passage_id, j.grade, j.score, j.best, rank, base_score))
    for query in queries:
        if parts is not None and query.part == "out":
            continue
        if not _comes_back(mined[query.query_id].get(query.seed_id), settings.round_trip):
            continue
        known = graded.get(query.query_id, [])
        usable = [j for j in known if parts is None or _same_side(parts[j.passage_id], query.part)]
        relevant = [j.passage_id for j in known if j.grade >= RELEVANT]
        for positive in _positives(query, usable, settings) if known else filter(None, [query.seed_id]):
            yield Example(
                query_id=query.query_id,
                task=query.task,
                query=query.text,
                seed_id=query.seed_id,
                positive_id=positive,
                negative_ids=_negatives(query, usable, positive, settings),
                relevant_ids=list(dict.fromkeys([*relevant, positive])),
                candidate_ids=[j.passage_id for j in usable],
                grades=[j.grade for j in usable],
                relabelled=bool(query.seed_id) and positive != query.seed_id,
                part=query.part,
            )


def _same_side(passage: Part, query: Part) -> bool:
    return (passage == "test") == (query == "test") and (query == "test" or passage in ("train", query))


def _comes_back(seed: Candidate | None, k: int) -> bool:
    """Round-trip filter: whether a retriever that was asked finds the seed among its first k; unmined queries stay."""
    return not k or seed is None or 0 < (seed.initial_rank or seed.base_rank) <= k


def _positives(query: Query, usable: Sequence[_Judged], settings: ExampleSettings) -> list[str]:
    """The best passages, best first; none where nothing answers, since such a query would teach noise."""
    if not settings.relabel:
        return [query.seed_id] if query.seed_id else []
    if settings.policy == "gecko":
        order = sorted(usable, key=lambda j: (not j.best, -j.score, j.rank, j.passage_id))
    else:
        order = sorted(usable, key=lambda j: (-j.grade, not j.best, j.rank, j.passage_id))
        order = [j for j in order if j.grade >= RELEVANT]
    return [j.passage_id for j in order[:1] + [j for j in order[1 : settings.positives] if j.grade >= RELEVANT]]


def _negatives(query: Query, usable: Sequence[_Judged], positive: str, settings: ExampleSettings) -> list[str]:
    others = [j for j in usable if j.passage_id != positive and j.grade < RELEVANT]
    if settings.policy == "gecko":
        others.sort(key=lambda j: (j.score, -j.rank, j.passage_id))
        return [j.passage_id for j in others[: settings.negatives]]
    if settings.policy == "percpos":
        bar = settings.percpos * next((j.base_score for j in usable if j.passage_id == positive), 0.0)
        others = [j for j in others if j.base_score < bar]
    else:
        others = [j for j in others if j.grade <= settings.negative_max_grade]
    others.sort(key=lambda j: (j.rank, j.passage_id))
    ids = [j.passage_id for j in others]
    if settings.negative_choice == "last":
        ids.reverse()
    elif settings.negative_choice == "random":
        ids.sort(key=lambda p: hashlib.sha256(f"{settings.seed}\0{query.query_id}\0{p}".encode()).digest())
    return ids[: settings.negatives]
