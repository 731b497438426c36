"""Whether it is better: the sentence, the figures, and every system with its interval."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from tokay.decisions import by_hand_in_words
from tokay.evaluate.general import said_of
from tokay.evaluate.slices import TITLES
from tokay.leakage import in_training
from tokay.records import Score
from tokay.report import charts, figures
from tokay.report.facts import Facts
from tokay.report.figures import Line, Point
from tokay.report.measures import Interval, mean_interval
from tokay.report.page import (
    Section,
    code,
    count,
    escape,
    figure,
    interval,
    note,
    p_value,
    sentence,
    share,
    signed,
    table,
)
from tokay.store import Run

FLOAT_BYTES = 4


def header(facts: Facts, leakage: str) -> str:
    """The verdict's sentence first, then what it was measured on, and the few figures that matter most.

    Args:
        facts: of the run.
        leakage: what was looked for in its split, as a sentence.
    """
    run, verdict = facts.run, facts.verdict
    settings = tomllib.loads((run.path / "run.toml").read_text(encoding="utf-8"))
    primary = verdict["primary"]
    kind = "better" if verdict["better"] else "worse" if primary["high"] < 0 else ""
    said, _, rest = str(verdict["sentence"]).partition(" (")
    more = f"<p>{sentence(rest.replace(')', '', 1))}.</p>" if rest else ""
    finished = max((entry["finished"] for entry in run.manifest().values()), default="")[:10]
    return (
        f'<header><p class="eyebrow">Tokay · {escape(run.path.name)} · {escape(finished)}</p>'
        f'<div class="verdict {kind}"><h1>{sentence(said)}</h1>{more}</div>'
        f"<p>nDCG@10 on {count(verdict['queries'])} queries of documents that training never saw. "
        f"{sentence(verdict['sentence_with_bm25'])}.</p>{_people(verdict)}{_by_hand(verdict)}"
        f"<p>{sentence(leakage)}.</p>{_general(run)}<p>{_used(run, verdict)}</p>"
        f"<p>Documents {code(settings['documents'])}, base {code(settings['base'])}, queries and grades by "
        f"{code(settings['llm'])}.</p>{_tiles(facts)}"
        + (
            note("This page has tables and no charts: <code>pip install 'tokay[report]'</code>, then tokay report.")
            if charts.missing()
            else ""
        )
        + "</header>"
    )


def _people(verdict: Mapping[str, Any]) -> str:
    """What people may expect, and how far that was checked; runs of older versions have none."""
    people = verdict.get("people")
    return f"<p>{sentence(people['sentence'])}; {escape(people['checked'])}.</p>" if people else ""


def _general(run: Run) -> str:
    """What became of the base's general ability; runs of older versions did not look."""
    if not run.is_done("general"):
        return ""
    said = "; ".join(said_of(run.read_json("general", "general")))
    return f"<p>{sentence(said)}.</p>"


def _by_hand(verdict: Mapping[str, Any]) -> str:
    said = by_hand_in_words(verdict)
    return f"<p>{escape(said)}.</p>" if said else ""


def _used(run: Run, verdict: Mapping[str, Any]) -> str:
    refitted = run.is_done("refit")
    tuned = "the model refitted on all queries by the same recipe" if refitted else "the tuned model"
    used = tuned if verdict["use"] == "tuned" else "the base model: the tuned one was not shown to be better"
    more = (
        " The model refitted on all queries, the held-out ones too, is in <code>refit/model</code>; the figures here "
        "are those of the model that never saw the held-out documents."
    )
    return f"<code>tokay search</code> uses {used}.{more if refitted else ''}"


def _tiles(facts: Facts) -> str:
    primary = facts.verdict["primary"]
    training = sum(e.part == "train" for e in facts.examples)
    moved, judged = facts.relabelled
    rows = [
        ("base", figure(primary["mean_b"]), "nDCG@10"),
        ("tuned", figure(primary["mean_a"]), "nDCG@10"),
        ("difference", signed(primary["difference"]), interval(primary["low"], primary["high"])),
        ("held-out queries", count(primary["queries"]), f"can show {primary['detectable']:.3f}"),
        ("training rows", count(training), f"{share(moved / judged)} relabelled" if judged else "none judged"),
    ]
    cells = (f"<div><dt>{name}</dt><dd>{value}<small>{escape(more)}</small></dd></div>" for name, value, more in rows)
    return f'<dl class="tiles">{"".join(cells)}</dl>'


# -- systems --------------------------------------------------------------------------------------------------------


def systems(facts: Facts) -> Section:
    """Every system on the held-out documents."""
    intervals = _intervals(facts.scores, {q.query_id: q.seed_id or q.query_id for q in facts.queries.values()})
    rows = facts.verdict["rows"]
    drawn = [_point(row, intervals) for row in rows]
    chart = figures.points("systems", "nDCG@10 of every system, with 95 % intervals", drawn, x="nDCG@10")
    return Section(
        "systems",
        "Systems",
        f'<div class="figures">{chart}{_widths(rows, intervals)}</div>'
        + _table_of("Systems on the held-out documents", facts.verdict, full=facts.full)
        + _about(facts.verdict),
    )


def _intervals(
    scores: Mapping[tuple[str, int], Mapping[str, float]], groups: Mapping[str, str]
) -> dict[tuple[str, int], Interval]:
    return {
        system: mean_interval(list(values.values()), [groups.get(q, q) for q in values])
        for system, values in scores.items()
    }


def _point(row: Mapping[str, Any], intervals: Mapping[tuple[str, int], Interval]) -> Point:
    value = row["ndcg@10"]
    low, high = intervals.get((row["system"], row["dim"]), (value, value))
    return Point(row["label"], value, low, high, row["system"].startswith("tuned"))


def _widths(rows: Sequence[Mapping[str, Any]], intervals: Mapping[tuple[str, int], Interval]) -> str:
    """Quality against the bytes of a stored vector, base and tuned; nothing where there is one width."""
    lines = []
    for system in ("base", "tuned"):
        mine = sorted((row for row in rows if row["system"] == system), key=lambda row: row["dim"])
        places = [intervals.get((system, row["dim"]), (row["ndcg@10"], row["ndcg@10"])) for row in mine]
        lines.append(
            Line(
                system,
                [FLOAT_BYTES * row["dim"] for row in mine],
                [row["ndcg@10"] for row in mine],
                [low for low, _ in places],
                [high for _, high in places],
                main=system == "tuned",
            )
        )
    if any(len(line.xs) < 2 for line in lines):
        return ""
    ticks = sorted({int(x) for line in lines for x in line.xs})
    return figures.curves(
        "widths",
        "Matryoshka: quality against bytes of a vector, 95 % intervals",
        lines,
        x="bytes of a vector (float32)",
        y="nDCG@10",
        ticks=ticks,
        dots=True,
    )


def _table_of(about: str, verdict: Mapping[str, Any], *, full: int) -> str:
    rows, marked = [], []
    for n, row in enumerate(verdict["rows"]):
        c = row.get("comparison")
        if row["system"] == "tuned" and row["dim"] == full:
            marked.append(n)
        rows.append(
            [
                escape(row["label"]),
                *(figure(row[metric]) for metric in ("ndcg@10", "recall@10", "recall@100", "mrr")),
                share(row["judged@10"]),
                escape(row.get("against", "")),
                *(
                    (signed(c["difference"]), interval(c["low"], c["high"]), p_value(c["p_value"]))
                    if c
                    else ("", "", "")
                ),
            ]
        )
    head = ["system", "nDCG@10", "Recall@10", "Recall@100", "MRR", "judged@10", "against", "difference", "95 %", "p"]
    return table(about, head, rows, marked=marked)


def _about(verdict: Mapping[str, Any]) -> str:
    shares: Mapping[str, float] = verdict.get("overlap", {})
    overlap = "; ".join(f"{name} queries {share(value)}" for name, value in shares.items())
    return note(
        f"{sentence(verdict['can_show'])} (80 % power). Differences: paired randomisation test and bootstrap "
        "interval, queries of one passage kept together; intervals of single systems overlap more than their paired "
        "differences do. judged@10: share of the top ten that the LLM graded; what it did not grade counts as not "
        "relevant, so a low share means that the system may be better than it looks. Weight of BM25, learned on "
        f"training-side queries: base {verdict['weights']['base']}, tuned {verdict['weights']['tuned']}."
        + (f" What BM25's best hit has of a query, by rarity of the words: {escape(overlap)}." if overlap else "")
    )


# -- slices, reranker, own queries ----------------------------------------------------------------------------------


def slices(facts: Facts) -> Section:
    """Documents with and without queries in training."""
    rows = []
    for name, found in facts.verdict.get("slices", {}).items():
        c = found.get("comparison")
        cells = [figure(found["base"]["ndcg@10"]), figure(found["tuned"]["ndcg@10"])] if c else ["", ""]
        said = [signed(c["difference"]), interval(c["low"], c["high"])] if c else ["too few to say", ""]
        rows.append([escape(TITLES.get(name, name)), count(found["queries"]), *cells, *said])
    head = ["queries of", "number", "base", "tuned", "nDCG@10", "95 %"]
    return Section(
        "slices",
        "Documents with and without queries in training",
        table("nDCG@10 of documents with and without queries in training", head, rows)
        + note("Of documents with queries in training, those queries are measured that training did not get."),
    )


def reranker(run: Run) -> Section:
    """What a reranker is worth."""
    verdict = run.read_json("rerank", "verdict")
    rows = []
    for row in verdict["rows"]:
        c = row.get("comparison")
        cells = [figure(row[metric]) for metric in ("ndcg@10", "recall@10", "mrr")]
        said = [signed(c["difference"]), interval(c["low"], c["high"])] if c else ["", ""]
        rows.append([escape(row["label"]), *cells, share(row["judged@10"]), f"{row['ms']:.0f}", *said])
    head = ["system", "nDCG@10", "Recall@10", "MRR", "judged@10", "ms a query, median", "difference", "95 %"]
    used = "" if verdict["use"] else " It was not shown to be better, so it is left out."
    return Section(
        "reranker",
        "Reranker",
        f"<p>{sentence(verdict['sentence'])}.{used}</p>"
        + table("The ranking without and with a reranker", head, rows)
        + note(
            f"{verdict['layers']} layers, {escape(verdict['backend'])}; it reads {verdict['read']:.1f} of at most "
            f"{verdict['depth']} candidates, and its weight beside the ranking is {verdict['weight']:g}, chosen on "
            "dev queries."
        ),
    )


def own_queries(facts: Facts) -> Section:
    """The same systems on queries and labels that the user brought."""
    run = facts.run
    verdict = run.read_json("labels", "verdict")
    scores: dict[tuple[str, int], dict[str, float]] = {}
    for s in run.table("labels", "scores", Score):
        if s.metric == "ndcg@10":
            scores.setdefault((s.system, s.dim), {})[s.query_id] = s.value
    intervals = _intervals(scores, {})
    dropped = ", ".join(f"{number} {name}" for name, number in verdict["dropped"].items() if number)
    drawn = [_point(row, intervals) for row in verdict["rows"]]
    return Section(
        "own-queries",
        "Your own queries",
        f"<p><strong>{sentence(verdict['sentence'])}.</strong></p>"
        f'<div class="figures">'
        f"{figures.points('own', 'nDCG@10 on your own queries, with 95 % intervals', drawn, x='nDCG@10')}</div>"
        + _table_of("Systems on your own queries", verdict, full=facts.full)
        + (f"<p>Not used: {escape(dropped)}.</p>" if dropped else "")
        + (f"<p>{escape(in_training(verdict['in_training']))}</p>" if "in_training" in verdict else "")
        + _about(verdict),
    )
