"""The page of a run whose split leaks: what leaks, and no verdict."""

from __future__ import annotations

from tokay.leakage import SAID, Leakage
from tokay.report.page import Section, code, count, escape, name, page, table
from tokay.store import Run


def leaking_page(run: Run, found: Leakage) -> str:
    """What of the held-out queries and documents was in training."""
    counts = [[escape(SAID[kind]), count(number)] for kind, number in found.counts().items()]
    shown = [
        [code(leak["item_id"]), name(leak["held_id"]), name(leak["training"]), name(leak["role"]), escape(SAID[kind])]
        for kind, leaks in found.to_json()["examples"].items()
        for leak in leaks
    ]
    header = (
        f'<header><p class="eyebrow">Tokay · {escape(run.path.name)}</p><div class="verdict worse">'
        "<h1>No verdict: something that it would be measured on was in training.</h1></div>"
        "<p>Run <code>tokay distill</code> again: it makes anew what does not fit the split.</p>"
        f"{table('What leaks', ['what leaks', 'count'], counts)}</header>"
    )
    which = table("Which", ["id", "repeats", "training", "as", "what it is"], shown, words=5)
    return page(f"Tokay: {run.path.name}", header, [Section("leaks", "Which", which)])
