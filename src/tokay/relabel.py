"""Step 2 of Gecko's recipe on labels that a user already has: what a judge thinks of them, and what they lack.

Hard-negative mining over incomplete labels trains against right answers: 56 % of MS MARCO's rows have at least one
false negative (RLHN, 2505.16967). Here a judge sees each query's labelled passages among mined candidates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal

from tokay.examples import RELEVANT
from tokay.records import Change, Judgment
from tokay.settings import RelabelSettings

CHANGES: Final = ("confirmed", "found", "doubted", "unjudged")


def changes_of(labels: Mapping[str, Mapping[str, int]], judgments: Iterable[Judgment]) -> Iterator[Change]:
    """Every pair that was labelled relevant or is judged to answer, in the order of the queries.

    ``confirmed``: labelled and judged right; ``found``: judged right (grade >= 2) without a label, a false negative;
    ``doubted``: labelled, and judged not to answer; ``unjudged``: labelled, and the judge's answer could not be used.

    Args:
        labels: query id -> passage id -> label; above 0 is relevant.
        judgments: of these queries.
    """
    grades: dict[str, dict[str, int]] = {}
    for j in judgments:
        grades.setdefault(j.query_id, {})[j.passage_id] = j.grade
    for query_id, labelled in labels.items():
        judged = grades.get(query_id, {})
        for passage_id, label in labelled.items():
            if label > 0:
                grade = judged.get(passage_id, -1)
                yield Change(query_id, passage_id, label, grade, _word_of(grade))
        for passage_id, grade in judged.items():
            if grade >= RELEVANT and labelled.get(passage_id, 0) <= 0:
                yield Change(query_id, passage_id, labelled.get(passage_id, -1), grade, "found")


def _word_of(grade: int) -> Literal["confirmed", "doubted", "unjudged"]:
    """Of a labelled pair."""
    if grade < 0:
        return "unjudged"
    return "confirmed" if grade >= RELEVANT else "doubted"


def relabelled(changes: Iterable[Change], settings: RelabelSettings) -> dict[str, dict[str, int]]:
    """The labels after the judge: query id -> passage id -> 1; a query that keeps none is left out.

    False negatives become positives, or are left out of the labels; doubted labels stay, or go.
    """
    kept: dict[str, dict[str, int]] = {}
    for c in changes:
        if c.change == "found" and settings.found == "drop":
            continue
        if c.change == "doubted" and settings.doubted == "drop":
            continue
        kept.setdefault(c.query_id, {})[c.passage_id] = max(1, c.label)
    return kept


def summary_of(changes: Iterable[Change]) -> dict[str, int]:
    """How many pairs of each kind, and of how many queries."""
    pairs: Counter[str] = Counter()
    queries: dict[str, set[str]] = {change: set() for change in CHANGES}
    for c in changes:
        pairs[c.change] += 1
        queries[c.change].add(c.query_id)
    everyone = set().union(*queries.values())
    return {
        "queries": len(everyone),
        **{change: pairs[change] for change in CHANGES},
        "queries with a false negative": len(queries["found"]),
        "queries with a doubted label": len(queries["doubted"]),
    }
