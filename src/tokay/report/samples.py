"""The data itself: random rows, suspicious ones, wins and losses, each down to its passage and the LLM's answer.

A query's records stand in the page once; wherever else it is named, a link leads there.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence

from tokay.records import Example, Hit, Passage
from tokay.report.agreement import Pair
from tokay.report.facts import Facts
from tokay.report.page import (
    QUERY_CHARS,
    Section,
    anchor,
    code,
    count,
    cut,
    escape,
    fold,
    name,
    note,
    share,
    signed,
    table,
)
from tokay.report.suspicion import Case, Suspect, ahead_of, counted, lead, shuffled, twins_of
from tokay.trace import Trace, trace_queries

SAMPLES = 20
SHOWN = 8
ANSWERS = 8
ANSWER_CHARS = 1_000
TOP = 3
"""Passages of each ranking that a win or a loss shows."""


class Records:
    """Renders the records of queries, each of them once.

    Args:
        facts: of the run.
        query_ids: all that will be asked for.
        chars: of a passage that is shown; candidates that are neither seed, positive nor negative get a third.
    """

    def __init__(self, facts: Facts, query_ids: Collection[str], *, chars: int) -> None:
        self._facts = facts
        self._chars = chars
        self._traces = {t.query.query_id: t for t in trace_queries(facts.run, query_ids)}
        self._shown: set[str] = set()

    def of(self, query_id: str, said: str = "", *, after: str = "", above: str = "") -> str:
        """A query's records, or a link to them.

        Args:
            query_id: whose.
            said: HTML that stands before the query.
            after: HTML that stands below it.
            above: HTML that stands above its records.
        """
        trace = self._traces[query_id]
        text = f"{said}<bdi>{cut(trace.query.text, QUERY_CHARS)}</bdi>{after}"
        if query_id in self._shown:
            return fold(text, f'{above}<p><a href="#{anchor(query_id)}">Its records stand above.</a></p>')
        self._shown.add(query_id)
        return fold(text, f'{above}<div class="trace" id="{anchor(query_id)}">{self._trace(trace)}</div>')

    def _trace(self, trace: Trace) -> str:
        query, rows = trace.query, trace.examples
        about = [
            f"Query {code(query.query_id)} · {query.part} · prompt {code(query.prompt)} · {name(query.task)}",
            f"<code>{escape(shlex.join(['tokay', 'trace', str(self._facts.run.path), query.query_id])[:400])}</code>",
        ]
        seed = f"<p>Written from</p>{self.passage(trace.seed, self._chars)}" if trace.seed else ""
        made = "".join(f"<p>{self._row(row)}</p>" for row in rows)
        judged = self._candidates(trace) if trace.candidates else "<p>Not judged: the seed is the positive.</p>"
        return f"{''.join(f'<p>{line}</p>' for line in about)}{seed}{made}{judged}{self._answers(trace)}"

    def _row(self, row: Example) -> str:
        moved = " (relabelled)" if row.relabelled else ""
        negatives = ", ".join(code(p) for p in row.negative_ids[:TOP]) or "none"
        return f"Row: positive {code(row.positive_id)}{moved}, hard negatives {negatives}."

    def _candidates(self, trace: Trace) -> str:
        items = []
        for candidate, passage, judgment in trace.candidates:
            roles = self._roles(trace, passage.passage_id, best=bool(judgment and judgment.best))
            grade = _grade(judgment.grade if judgment else None)
            rated = trace.ratings.get(passage.passage_id, "")
            said = ", ".join([*roles, *([rated] if rated else [])])
            chars = self._chars if roles else self._chars // 3
            text = f"{grade} {candidate.rank}. {code(passage.passage_id)} <small>{escape(said)}</small>"
            items.append(f"<li>{fold(text, self.passage(passage, chars))}</li>")
        return f'<p>Candidates, with their grades and ranks</p><ul class="candidates">{"".join(items)}</ul>'

    def _roles(self, trace: Trace, passage_id: str, *, best: bool) -> list[str]:
        return [
            *(["seed"] if passage_id == trace.query.seed_id else []),
            *(["best"] if best else []),
            *(["positive"] if any(passage_id == row.positive_id for row in trace.examples) else []),
            *(["hard negative"] if any(passage_id in row.negative_ids for row in trace.examples) else []),
        ]

    def _answers(self, trace: Trace) -> str:
        shown = "".join(
            f'<p>{code(place)}</p><pre class="raw" dir="auto">{cut(text, ANSWER_CHARS)}</pre>'
            for place, text in trace.answers[:ANSWERS]
        )
        more = len(trace.answers) - ANSWERS
        rest = f"<p>{more} more answers: tokay trace shows them.</p>" if more > 0 else ""
        return fold("The LLM's answers", shown + rest)

    def passage(self, passage: Passage, chars: int) -> str:
        """A passage's text, as text, and where it came from."""
        place = [
            *([f"page {passage.page}"] if passage.page else []),
            *([f"under {passage.heading}"] if passage.heading else []),
            f"characters {passage.start} to {passage.end}",
        ]
        title = f"<strong>{name(passage.title)}</strong>\n" if passage.title else ""
        return (
            f'<div class="text" dir="auto">{title}{cut(passage.text, chars)}</div>'
            f"<p><small>{code(passage.passage_id)} · {name(passage.source)}, {name(', '.join(place))}</small></p>"
        )


def _grade(grade: int | None) -> str:
    kind, said = ("", "unjudged") if grade is None else (f" g{grade}", str(grade))
    return f'<span class="grade{kind}">{said}</span>'


# -- which of them --------------------------------------------------------------------------------------------------


def random_ids(facts: Facts) -> list[str]:
    """Queries of training rows: a sample that is the same in every report."""
    ids = dict.fromkeys(e.query_id for e in facts.examples if e.part == "train")
    return sorted(ids, key=shuffled)[:SAMPLES]


def cases_of(facts: Facts, pair: Pair | None) -> list[Case]:
    """Every query with a training row, and every held-out one that the verdict counts."""
    rows: dict[str, Example] = {}
    positives: dict[str, set[str]] = {}
    for e in facts.examples:
        rows.setdefault(e.query_id, e)
        positives.setdefault(e.query_id, set()).add(e.positive_id)
    counted_ones = facts.scores["base", facts.full]
    best = {q: max(values[q] for values in facts.scores.values()) for q in counted_ones}
    twins = twins_of(facts.queries, {q: found for q, found in positives.items() if q in facts.queries})
    cases = []
    for query_id, query in facts.queries.items():
        row = rows.get(query_id)
        if query_id not in counted_ones and (row is None or row.part == "test"):
            continue
        grades = facts.grades.get(query_id, {})
        positive = row.positive_id if row else query.seed_id
        if query_id in counted_ones:
            margin, ahead = lead(facts.hits["tuned"][query_id], grades)
        else:
            mined = facts.mined.get(query_id)
            margin, ahead = ahead_of(positive, mined.scores, grades) if mined else (0.0, "")
        cases.append(
            Case(
                query,
                facts.passages.get(query.seed_id),
                row,
                facts.passages.get(positive),
                grades,
                apart=pair.apart(query_id, positive) if pair else 0.0,
                margin=margin,
                ahead=ahead,
                found=best.get(query_id, 1.0) > 0,
                twins=twins.get(query_id, 0),
            )
        )
    return cases


def gains(facts: Facts) -> dict[str, float]:
    """Query id -> nDCG@10 of the tuned model less that of the base."""
    base, tuned = (facts.scores[system, facts.full] for system in ("base", "tuned"))
    return {query_id: tuned[query_id] - base[query_id] for query_id in base}


# -- sections -------------------------------------------------------------------------------------------------------


def suspicious(records: Records, found: Sequence[Suspect], cases: Sequence[Case]) -> Section:
    """The most suspicious ones with their reasons, and how often each reason came."""
    shown = "".join(
        records.of(
            suspect.case.query.query_id,
            f'<span class="grade">{suspect.weight:g}</span> ',
            after=f'<small class="why">{escape("; ".join(suspect.reasons))}</small>',
        )
        for suspect in found[:SAMPLES]
    )
    counts = [[escape(sign), f"{weight:g}", count(n)] for sign, weight, n in counted(found, cases) if n]
    numbers = table("How often each reason came", ["reason", "weight", "queries"], counts) if counts else ""
    part = f" ({share(len(found) / len(cases))})" if cases else ""
    return Section(
        "suspicious",
        "Most suspicious",
        f"<p>{count(len(found))} of {count(len(cases))} queries{part} have a reason to be looked at; these have the "
        f"heaviest. A reason is a sign and no proof, and nothing was dropped for it.</p>{shown}{numbers}",
    )


def at_random(records: Records, ids: Sequence[str]) -> Section:
    """Training rows as they come."""
    return Section(
        "random",
        "Training rows, at random",
        "<p>Each opens to its passage, where that came from, every grade that the LLM gave, and its answers.</p>"
        + "".join(records.of(query_id) for query_id in ids)
        + note("From the tables generate/queries, mine/candidates, judge/judgments and examples/examples of the run."),
    )


def wins_and_losses(facts: Facts, records: Records, gain: Mapping[str, float]) -> Section:
    """Where the tuned model ranks better than the base, and where worse."""
    wins, losses = won(gain), lost(gain)
    same = len(gain) - len(wins) - len(losses)

    def part(title: str, ids: Sequence[str]) -> str:
        rows = "".join(_comparison(facts, records, q, gain[q]) for q in ids[:SHOWN])
        said = f"{count(len(ids))} queries; the {min(SHOWN, len(ids))} largest" if ids else "None"
        return f"<h3>{title}</h3><p>{said}.</p>{rows}"

    return Section(
        "wins",
        "Wins and losses",
        part("Biggest wins over the base", wins)
        + part("Biggest losses", losses)
        + f"<p>{count(same)} queries have the same nDCG@10 under both.</p>",
    )


def won(gain: Mapping[str, float]) -> list[str]:
    """Queries that got better, the biggest gain first."""
    return sorted((q for q in gain if gain[q] > 0), key=lambda q: (-gain[q], q))


def lost(gain: Mapping[str, float]) -> list[str]:
    """Queries that got worse, the biggest loss first."""
    return sorted((q for q in gain if gain[q] < 0), key=lambda q: (gain[q], q))


def _comparison(facts: Facts, records: Records, query_id: str, gain: float) -> str:
    grades = facts.grades.get(query_id, {})
    seed = facts.queries[query_id].seed_id

    def column(system: str) -> str:
        items = "".join(item(hit) for hit in facts.hits[system][query_id][:TOP])
        return f'<div><p><span class="key {system}"></span><strong>{system}</strong></p>{items}</div>'

    def item(hit: Hit) -> str:
        mark = '<span class="grade g3">seed</span>' if hit.passage_id == seed and not grades else ""
        grade = mark or _grade(grades.get(hit.passage_id))
        passage = records.passage(facts.passages[hit.passage_id], 240)
        return f"<p>{hit.rank}. {grade}</p>{passage}"

    columns = f'<div class="two">{column("base")}{column("tuned")}</div>'
    return records.of(query_id, f'<span class="grade">{signed(gain)}</span> ', above=columns)


def chosen(facts: Facts, found: Sequence[Suspect], gain: Mapping[str, float]) -> list[str]:
    """All queries whose records the page will show."""
    ids = [s.case.query.query_id for s in found[:SAMPLES]] + random_ids(facts)
    return list(dict.fromkeys([*ids, *won(gain)[:SHOWN], *lost(gain)[:SHOWN]]))
