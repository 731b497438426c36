"""What people decided about queries and candidates, applied to judgments and rows: plain values in and out.

A decision is kept as it was made (``Run.decide``); what stands is worked out here, from all of them, in their order:

============  ==================================================================================================
accept        the positive that the query has stays, whatever a later judge says; a filter does not drop the query
positive      this passage is the positive, with grade 3 unless a person gave it another that answers
grade         the passage has this grade; below 2 it is no longer the chosen positive
reject        the query makes no row, and no verdict counts it; accepting it later, or choosing, takes it in again
undo          the decision that it names was not made
============  ==================================================================================================

A decision about a query or passage that is gone, or whose text is another now, is not used, and counted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tokay.examples import RELEVANT
from tokay.records import Decision, Judgment, Part, Passage, Query, sha256_text
from tokay.store import Run

GRADES = (0, 1, 2, 3)
BY_HAND = "by hand"
"""The prompt of a grade that a person gave."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What stands of the decisions about one query; ``last`` is the newest of them that was not undone."""

    rejected: bool = False
    accepted: bool = False
    positive: str = ""
    grades: Mapping[str, int] = dataclasses.field(default_factory=dict)
    last: str = ""

    @property
    def empty(self) -> bool:
        """Whether it changes nothing."""
        return not (self.rejected or self.positive or self.grades)

    def then(self, decision: Decision) -> Choice:
        """What stands after one more decision."""
        grades, passage_id = dict(self.grades), decision.passage_id
        if decision.action == "reject":
            return dataclasses.replace(self, rejected=True, last=decision.decision_id)
        if decision.action == "grade":
            grades[passage_id] = decision.grade
            fallen = decision.grade < RELEVANT and self.positive == passage_id
            positive, accepted = ("", False) if fallen else (self.positive, self.accepted)
            return Choice(self.rejected, accepted, positive, grades, decision.decision_id)
        if grades.get(passage_id, RELEVANT) < RELEVANT:
            del grades[passage_id]
        return Choice(False, decision.action == "accept", passage_id, grades, decision.decision_id)


@dataclasses.dataclass(frozen=True)
class Decided:
    """The choices that are used, by query id, and how many decisions no longer fit the run."""

    choices: Mapping[str, Choice] = dataclasses.field(default_factory=dict)
    stale: int = 0

    @property
    def chosen(self) -> dict[str, str]:
        """Query id -> the positive that a person chose."""
        return {query_id: choice.positive for query_id, choice in self.choices.items() if choice.positive}

    @property
    def rejected(self) -> set[str]:
        """Ids of the queries that a person left out."""
        return {query_id for query_id, choice in self.choices.items() if choice.rejected}

    @property
    def key(self) -> dict[str, str]:
        """What it adds to a stage's key: nothing where nothing was decided, or all of it was undone."""
        if not self.choices:
            return {}
        values = {
            query_id: [choice.rejected, choice.positive, sorted(choice.grades.items())]
            for query_id, choice in sorted(self.choices.items())
        }
        return {"decisions": hashlib.sha256(json.dumps(values).encode()).hexdigest()}

    def counts(self, parts: Mapping[str, Part]) -> dict[str, int]:
        """For the funnel; ``parts`` are those of the queries."""
        choices = self.choices.values()
        held = [choice for query_id, choice in self.choices.items() if parts[query_id] in ("test", "seen")]
        return {
            "accepted": sum(choice.accepted and not choice.rejected for choice in choices),
            "rejected": sum(choice.rejected for choice in choices),
            "another positive": sum(bool(choice.positive) and not choice.accepted for choice in choices),
            "grades": sum(len(choice.grades) for choice in choices),
            "held-out queries": len(held),
            "no longer fitting": self.stale,
        }


def choices_of(decisions: Iterable[Decision]) -> dict[str, Choice]:
    """Query id -> what stands; a query whose decisions were all undone is not in it."""
    made = list(decisions)
    undone = {decision.undoes for decision in made if decision.action == "undo"}
    found: dict[str, Choice] = {}
    for decision in made:
        if decision.action != "undo" and decision.decision_id not in undone:
            found[decision.query_id] = found.get(decision.query_id, Choice()).then(decision)
    return {query_id: choice for query_id, choice in found.items() if not choice.empty}


def fitting(
    decisions: Sequence[Decision], queries: Mapping[str, str], passages: Mapping[str, str]
) -> tuple[list[Decision], int]:
    """The decisions about texts that are still the same, and how many others there are.

    Args:
        decisions: all of them.
        queries: query id -> hash of its text.
        passages: passage id -> hash of its text.
    """
    kept = [
        d
        for d in decisions
        if d.action == "undo"
        or (
            queries.get(d.query_id) == d.query_sha256
            and (not d.passage_id or passages.get(d.passage_id) == d.passage_sha256)
        )
    ]
    return kept, len(decisions) - len(kept)


def decided_in(run: Run) -> Decided:
    """What people decided about a run, as far as it fits what the run holds."""
    made = run.decisions()
    if not made:
        return Decided()
    asked = {d.query_id for d in made}
    named = {d.passage_id for d in made}
    tables = [("generate", "queries"), *([("judge", "answered")] if run.is_done("judge") else [])]
    queries = {
        q.query_id: sha256_text(q.text) for where in tables for q in run.table(*where, Query) if q.query_id in asked
    }
    passages = {p.passage_id: p.sha256 for p in run.table("corpus", "passages", Passage) if p.passage_id in named}
    kept, stale = fitting(made, queries, passages)
    return Decided(choices_of(kept), stale)


def graded(judgments: Iterable[Judgment], choices: Mapping[str, Choice]) -> Iterator[Judgment]:
    """Judgments with the grades that people gave in their place, and those of pairs that no judge saw after them."""
    left = {query_id: _by_hand(choice) for query_id, choice in choices.items()}
    for j in judgments:
        choice = choices.get(j.query_id)
        if choice is None:
            yield j
            continue
        given = left[j.query_id].pop(j.passage_id, None)
        best = j.passage_id == choice.positive if choice.positive else j.best
        if j.passage_id == choice.positive and j.passage_id not in choice.grades and j.grade >= RELEVANT:
            given = None  # the judge's grade answers, too
        if given is None:
            yield dataclasses.replace(j, best=best)
        else:
            yield _judgment(j.query_id, j.passage_id, given, best=best and given >= RELEVANT)
    for query_id, grades in left.items():
        for passage_id, grade in grades.items():
            yield _judgment(query_id, passage_id, grade, best=passage_id == choices[query_id].positive)


def judgments_of(run: Run, decided: Decided | None = None) -> Iterator[Judgment]:
    """A run's judgments with what people decided; ``decided`` as of ``decided_in``, None: it is read."""
    return graded(run.table("judge", "judgments", Judgment), (decided or decided_in(run)).choices)


def by_hand(decided: Decided, parts: Mapping[str, Part]) -> dict[str, Any]:
    """What of a verdict rests on people's decisions: empty, or ``by_hand`` with counts.

    Args:
        decided: what stands.
        parts: of the queries; those of the parts test and seen are the verdict's.
    """
    held = [choice for query_id, choice in decided.choices.items() if parts.get(query_id) in ("test", "seen")]
    counts = {
        "grades": sum(len(_by_hand(choice)) - choice.accepted for choice in held if not choice.rejected),
        "left_out": sum(choice.rejected for choice in held),
    }
    return {"by_hand": counts} if any(counts.values()) else {}


def by_hand_in_words(verdict: Mapping[str, Any]) -> str:
    """The same as a sentence for whoever reads the verdict; empty where nothing was decided."""
    counts = verdict.get("by_hand")
    if not counts:
        return ""
    return (
        f"People changed what this rests on: {counts['grades']:,} grades of held-out queries were given by hand, and "
        f"{counts['left_out']:,} held-out queries were left out by hand"
    )


def funnel_of(run: Run) -> list[tuple[str, int]]:
    """Lines for a report's funnel: what people decided before these rows were made."""
    if "decisions.json" not in run.manifest().get("examples", {}).get("outputs", {}):
        return []
    return [(name, count) for name, count in run.read_json("examples", "decisions")["counts"].items()]


def _by_hand(choice: Choice) -> dict[str, int]:
    """Passage id -> grade; a chosen positive without one has the highest."""
    return {**({choice.positive: GRADES[-1]} if choice.positive else {}), **choice.grades}


def _judgment(query_id: str, passage_id: str, grade: int, *, best: bool) -> Judgment:
    """A person's word stands at the end of the order that scores make."""
    score = math.inf if grade >= RELEVANT else -math.inf
    return Judgment(query_id, passage_id, grade, score, best, BY_HAND, BY_HAND)
