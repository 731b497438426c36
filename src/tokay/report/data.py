"""Where the training data came from: the funnel, what was refused and why, and what the data is like."""

from __future__ import annotations

import re
from collections import Counter

from tokay.annotate.prompts import speaks_to_a_model
from tokay.records import Query
from tokay.report import figures
from tokay.report.agreement import Pair, agreement
from tokay.report.facts import Facts
from tokay.report.figures import Point
from tokay.report.measures import READ_CHARS, copied_share, tenths, wilson, words_of
from tokay.report.page import Section, code, count, escape, name, note, share, table

GECKO_RELABELLED = 0.15
"""Share of Gecko's training data whose positive is not the seed (2403.20327, section 3.3)."""

SHOWN_REASONS = 20
SHOWN_GAPS = 50
SHOWN_FLAGGED = 8
LATER_RANKS = 20
"""Seed ranks that have a bar of their own."""


def funnel(facts: Facts) -> Section:
    """From passages to training rows, and what was lost on the way."""
    kept = len(facts.passages)
    exact, near = facts.duplicates["exact"], facts.duplicates["near"]
    parts = Counter(e.part for e in facts.examples)
    queries = list(facts.queries.values())
    training = sum(d.passages for d in facts.documents if d.part == "train")
    steps = [
        ("passages read", kept + exact + near, False),
        ("without exact duplicates", kept + near, False),
        ("without near duplicates", kept, False),
        ("of training documents", training, False),
        ("passages that have queries", len({q.seed_id for q in queries if q.seed_id}), False),
        ("queries", len(queries), True),
        ("queries that were judged", sum(q.query_id in facts.grades for q in queries), True),
        ("training rows", parts["train"], True),
        ("rows for choices", parts["dev"], True),
        ("held-out queries of the verdict", facts.verdict["queries"], True),
    ]
    return Section(
        "funnel",
        "From passages to training rows",
        f'<div class="figures">{figures.steps("funnel", "Passages in grey, queries and rows in colour", steps)}'
        f"<div>{_refused(facts)}</div></div>{_gaps(facts)}{_flagged(facts)}",
    )


def _refused(facts: Facts) -> str:
    """Everything that was left out, by reason."""
    found: Counter[tuple[str, str]] = Counter()
    found.update(("input", _reason(s.reason)) for s in facts.skipped)
    found.update({("passage", f"{kind} duplicate"): n for kind, n in facts.duplicates.items()})
    found.update((f.stage, _reason(f.reason)) for f in facts.failures)
    if gaps := facts.run.rows("judge", "gaps"):
        found["log", "no passage answers it"] = gaps
    rows = {e.query_id for e in facts.examples}
    if unanswered := sum(q in facts.queries and q not in rows for q in facts.grades):
        found["query", "no candidate of its own part answers it"] = unanswered
    if not found:
        return "<h3>Left out</h3><p>Nothing.</p>"
    cells = [[escape(stage), name(reason), count(n)] for (stage, reason), n in found.most_common(SHOWN_REASONS)]
    more = f"<p>{len(found) - SHOWN_REASONS} more reasons.</p>" if len(found) > SHOWN_REASONS else ""
    return f"<h3>Left out</h3>{table('What was left out and why', ['where', 'reason', 'count'], cells, words=2)}{more}"


def _reason(reason: str) -> str:
    """A failure's reason without its figures and names, for counting."""
    return re.split(r"[(':]", reason)[0].strip()


def _gaps(facts: Facts) -> str:
    """Queries of the user's log that nothing answers: what the documents lack."""
    gaps = list(facts.run.table("judge", "gaps", Query))
    if not gaps:
        return ""
    rows = "".join(f"<li>{name(q.text)} <small>{name(q.answer_id)}</small></li>" for q in gaps[:SHOWN_GAPS])
    return (
        f"<h3>Gaps in the documents</h3><p>No passage answers {len(gaps)} of "
        f"{count(facts.run.rows('generate', 'log'))} queries of the log; they are not trained on.</p><ul>{rows}</ul>"
    )


def _flagged(facts: Facts) -> str:
    """Passages that speak to a model: shown to the LLM as data like all others, but worth a look."""
    found = [p.passage_id for p in facts.passages.values() if speaks_to_a_model(p.text)]
    if not found:
        return ""
    names = ", ".join(code(passage_id) for passage_id in found[:SHOWN_FLAGGED])
    more = f" and {count(len(found) - SHOWN_FLAGGED)} more" if len(found) > SHOWN_FLAGGED else ""
    said = f"{count(len(found))} passages hold words that look like instructions to a language model"
    return f"<p>{said}: {names}{more}.</p>"


# -- what the data is like ------------------------------------------------------------------------------------------


def quality(facts: Facts, pair: Pair | None) -> Section:
    """Relabelling, seed ranks, grades, copying, agreement."""
    return Section(
        "data",
        "What the data is like",
        f'{_relabelled(facts)}<div class="figures">{_seed_ranks(facts)}{_grades(facts)}</div>{_copied(facts)}'
        + agreement(facts.judges, sum(map(len, facts.grades.values())), pair),
    )


def _relabelled(facts: Facts) -> str:
    moved, total = facts.relabelled
    if not total:
        return "<h3>Relabelling</h3><p>No query that was written from a passage was judged.</p>"
    low, high = wilson(moved, total)
    rows = [
        Point("this run", moved / total, low, high, main=True),
        Point("Gecko's data", GECKO_RELABELLED, GECKO_RELABELLED, GECKO_RELABELLED),
    ]
    chart = figures.points("relabelled", "Queries whose positive is not their seed", rows, x="share", percent=True)
    return (
        f"<h3>Relabelling</h3><p>In {count(moved)} of {count(total)} judged queries ({share(moved / total)}) "
        f"the best passage is not the one that the query was written from; in Gecko's data it is another in about "
        f'{share(GECKO_RELABELLED)}.</p><div class="figures">{chart}</div>'
    )


def _seed_ranks(facts: Facts) -> str:
    """Where the retrievers put the passage that a query was written from."""
    ranks = [m.seed_rank for q, m in facts.mined.items() if q in facts.queries and facts.queries[q].seed_id]
    if not ranks:
        return ""
    found, most = Counter(ranks), max(ranks)
    shown = min(most, LATER_RANKS)
    labels = [str(rank) for rank in range(1, shown + 1)]
    values = [found[rank] / len(ranks) for rank in range(1, shown + 1)]
    if most > shown:
        labels.append("later")
        values.append(sum(n for rank, n in found.items() if rank > shown) / len(ranks))
    labels.append("none")
    values.append(found[0] / len(ranks))
    caption = f"Rank of the seed among the candidates of {count(len(ranks))} queries"
    return figures.bars("seed-ranks", caption, {"queries": values}, labels, x="rank; none: not a candidate", y="share")


def _grades(facts: Facts) -> str:
    if not facts.grades:
        return ""
    found = Counter(grade for grades in facts.grades.values() for grade in grades.values())
    seeds = Counter(
        grades[facts.queries[q].seed_id]
        for q, grades in facts.grades.items()
        if q in facts.queries and facts.queries[q].seed_id in grades
    )
    series = {
        name: [counts[grade] / max(1, counts.total()) for grade in range(4)]
        for name, counts in (("seeds", seeds), ("all candidates", found))
    }
    caption = (
        f"Grades of {count(found.total())} candidates, and of the {count(seeds.total())} seeds among them (colour)"
    )
    return figures.bars("grades", caption, series, [str(grade) for grade in range(4)], x="grade", y="share")


def _copied(facts: Facts) -> str:
    """How much of a query's words its passage has: near 1, BM25 finds it, and a model learns to match words."""
    written, asked = _shares(facts, written=True), _shares(facts, written=False)
    if not written:
        return ""
    series = {"written queries": tenths(written)} | ({"queries of your log": tenths(asked)} if asked else {})
    labels = [f"{10 * i}\u2013{10 * i + 10}" for i in range(10)]
    mean = sum(written) / len(written)
    log = f"; of {count(len(asked))} queries of your log {share(sum(asked) / len(asked))}" if asked else ""
    caption = "Share of a query's words that its passage has" + (
        ": written in colour, your log in grey" if asked else ""
    )
    chart = figures.bars("copied", caption, series, labels, x="per cent", y="share")
    return (
        f"<h3>Copied words</h3><p>Of a written query's content words, {share(mean)} stand in the passage that it was "
        f"written from (mean of {count(len(written))}){log}.</p>"
        f'<div class="figures">{chart}</div>'
        + note(
            "Words are stems without stop words and question words. For a query of a log, the passage is the one of "
            "the highest grade. Where people copy less than the LLM did, the verdict flatters BM25 and whatever "
            "matches words; where there is no log, nothing is known of that."
        )
    )


def _shares(facts: Facts, *, written: bool) -> list[float]:
    shares = []
    for query in facts.queries.values():
        if bool(query.seed_id) is not written:
            continue
        grades = facts.grades.get(query.query_id, {})
        best = query.seed_id or max(sorted(grades), key=grades.__getitem__, default="")
        passage = facts.passages.get(best)
        found = copied_share(query.text, words_of(passage.title, passage.text[:READ_CHARS])) if passage else None
        if found is not None:
            shares.append(found)
    return shares
