"""report.html: one self-contained page that says whether it is better, why, and shows the data behind it.

Text of documents, queries and answers is data: all of it is escaped, and the page runs no script.
"""

from __future__ import annotations

from pathlib import Path

from tokay.errors import TokayError
from tokay.leaking import check_run, refusal
from tokay.report import data, making, samples, verdict
from tokay.report.agreement import pair_of
from tokay.report.data import GECKO_RELABELLED
from tokay.report.facts import Facts
from tokay.report.leaks import leaking_page
from tokay.report.page import page
from tokay.report.relabelling import relabelling_page
from tokay.report.suspicion import suspects
from tokay.store import Run

__all__ = ["GECKO_RELABELLED", "write_relabel_report", "write_report"]

FILE = "report.html"

LARGEST = 3_000_000
"""Bytes of a page. What is larger is written again with less of each passage."""

TEXT_CHARS = (700, 240, 60, 0)
"""Of a passage that is shown: tried one after another."""


def write_report(run: Run) -> Path:
    """Write ``report.html`` from the tables of a finished run; returns its path.

    Raises:
        TokayError: the run's split leaks. The page then says what leaks, and no verdict.
    """
    leakage = check_run(run)
    if leakage.leaks:
        run.write_text(FILE, leaking_page(run, leakage))
        raise TokayError(refusal(run, leakage))
    facts = Facts(run)
    pair = pair_of(facts)
    cases = samples.cases_of(facts, pair)
    found, gain = suspects(cases), samples.gains(facts)
    before = [
        verdict.systems(facts),
        *([verdict.own_queries(facts)] if run.is_done("labels") else []),
        verdict.slices(facts),
        *([verdict.reranker(run)] if run.is_done("rerank") else []),
    ]
    after = [
        data.funnel(facts),
        data.quality(facts, pair),
        making.training(facts),
        making.cost(run),
        making.settings(run),
    ]
    header, text = verdict.header(facts, leakage.sentence()), ""
    for chars in TEXT_CHARS:
        records = samples.Records(facts, samples.chosen(facts, found, gain), chars=chars)
        shown = [
            samples.wins_and_losses(facts, records, gain),
            samples.suspicious(records, found, cases),
            samples.at_random(records, samples.random_ids(facts)),
        ]
        text = page(f"Tokay: {run.path.name}", header, [*before, shown[0], *after[:2], *shown[1:], *after[2:]])
        if len(text.encode("utf-8")) <= LARGEST:
            break
    return run.write_text(FILE, text)


def write_relabel_report(run: Run) -> Path:
    """Write ``report.html`` of a relabelling: counts, and the pairs where labels and judge differ, with their texts."""
    return run.write_text(FILE, relabelling_page(run))
