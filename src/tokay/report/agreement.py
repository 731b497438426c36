"""Whether the opinions that a run has of a pair agree: likelihood and relevance, turns, a cheap and a strong judge."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from tokay.report import figures
from tokay.report.facts import Facts
from tokay.report.measures import Agreement, Opinions, grades_agree, ranks_agree
from tokay.report.page import code, count, escape, note, share

KINDS = (
    ("likelihood", "relevance:3", "rank by query likelihood (QL)", "rank by relevance (RC)", "ranks"),
    ("cheap:0", "strong:0", "grade of the cheap judge", "grade of the strong judge", "grades"),
    ("listwise:0", "listwise:1", "grade in the first turn", "grade in the second turn", "grades"),
)
"""Pairs of judges, the most telling first: their names in the ratings, their names in words, what is compared."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two judges and what each said."""

    names: tuple[str, str]
    kind: str
    first: Opinions
    second: Opinions

    def agreement(self) -> Agreement | None:
        """Of ranks or of grades."""
        return (ranks_agree if self.kind == "ranks" else grades_agree)(self.first, self.second)

    def apart(self, query_id: str, passage_id: str) -> float:
        """How far their opinions of one pair lie from each other, as a share of the scale; 0 where one has none."""
        first, second = self.first.get(query_id, {}), self.second.get(query_id, {})
        rated = first.keys() & second.keys()
        if passage_id not in rated:
            return 0.0
        if self.kind == "grades":
            return abs(first[passage_id] - second[passage_id]) / 3
        return abs(_rank(first, passage_id, rated) - _rank(second, passage_id, rated)) / max(3, len(rated) - 1)


def pair_of(facts: Facts) -> Pair | None:
    """The two opinions that the run has; None: it has one at most."""
    for a, b, first, second, kind in KINDS:
        if {a, b} <= {*facts.judges}:
            return Pair((first, second), kind, *facts.opinions(a, b))
    return None


def agreement(judges: Sequence[str], graded: int, pair: Pair | None) -> str:
    """The part of the page about it.

    Args:
        judges: all that the ratings table has.
        graded: how many pairs have a grade.
        pair: two of them.
    """
    title = "<h3>Do the judges agree?</h3>"
    if pair is None:
        who = f"one opinion each, of {code(judges[0])}" if judges else "one grade each and no ratings behind it"
        return (
            f"{title}<p>It cannot be told: {count(graded)} pairs have {who}. <code>judge.by=gecko</code> has two "
            "(query likelihood and relevance), <code>listwise</code> as many as it takes turns.</p>"
        )
    found = pair.agreement()
    if found is None:
        return f"{title}<p>It cannot be told: no query has two passages that both judges told apart.</p>"
    what = "Kendall's τ-b of a query's candidates, mean" if pair.kind == "ranks" else "Quadratically weighted κ"
    first, second = pair.names
    chart = figures.grid("agreement", f"{_upper(first)} against {second}", found.counts, x=first, y=second)
    return (
        f"{title}<p>{what}: <strong>{found.value:.2f}</strong> ({found.low:.2f} to {found.high:.2f}) over "
        f"{count(found.queries)} queries and {count(found.pairs)} pairs. Both put the same passage first in "
        f'{share(found.first_same)} of queries.</p><div class="figures">{chart}</div>'
        + note(
            f"{escape(_upper(first))} and {escape(second)} are two looks at the same pair: where "
            "they part, at least one is wrong. 1 is full agreement, 0 that of chance; 95 % interval by bootstrap over "
            "queries."
        )
    )


def _rank(opinions: Mapping[str, float], passage_id: str, rated: set[str]) -> int:
    return sum(opinions[p] > opinions[passage_id] for p in rated)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
