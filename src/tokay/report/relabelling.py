"""The report of a relabelling: what became of a user's labels, and the pairs where labels and judge differ."""

from __future__ import annotations

from collections.abc import Sequence

from tokay.records import Change, Passage, Query
from tokay.report.page import QUERY_CHARS, Section, code, count, cut, escape, fold, name, page, table
from tokay.store import Run

SHOWN_CHANGES = 50
TEXT_CHARS = 700


def relabelling_page(run: Run) -> str:
    """Counts, and the pairs with their texts."""
    summary = run.read_json("relabel", "summary")
    wanted: dict[str, list[Change]] = {"found": [], "doubted": []}
    for change in run.table("relabel", "changes", Change):
        if change.change in wanted and len(wanted[change.change]) < SHOWN_CHANGES:
            wanted[change.change].append(change)
    shown = [c for changes in wanted.values() for c in changes]
    queries = {q.query_id: q for q in run.table("generate", "queries", Query)}
    ids = {c.passage_id for c in shown}
    passages = {p.passage_id: p for p in run.table("corpus", "passages", Passage) if p.passage_id in ids}

    def section(key: str, title: str, changes: Sequence[Change]) -> Section:
        rows = "".join(_change(c, queries[c.query_id], passages[c.passage_id]) for c in changes)
        return Section(key, title, rows or "<p>None.</p>")

    header = (
        f'<header><p class="eyebrow">Tokay · {escape(run.path.name)}</p><h1>Your labels, and what the judge thinks of '
        "them</h1>"
        + table("What became of the labels", ["", "count"], [[escape(k), count(n)] for k, n in summary.items()])
        + "</header>"
    )
    sections = [
        section("found", "Found: right answers without a label", wanted["found"]),
        section("doubted", "Doubted: labels that the judge does not share", wanted["doubted"]),
    ]
    return page(f"Tokay: labels of {run.path.name}", header, sections)


def _change(change: Change, query: Query, passage: Passage) -> str:
    label = change.label if change.label >= 0 else "none"
    said = f"<bdi>{cut(query.text, QUERY_CHARS)}</bdi> <small>label {label}, grade {change.grade}</small>"
    title = f"<strong>{name(passage.title)}</strong>\n" if passage.title else ""
    return fold(
        said,
        f"<p>Query {code(query.query_id)}, passage {code(passage.passage_id)}</p>"
        f'<div class="text" dir="auto">{title}{cut(passage.text, TEXT_CHARS)}</div>'
        f"<p><small>{name(passage.source)}</small></p>",
    )
