"""Verdicts as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from tokay.cli.screen import escape, out, print_wide
from tokay.decisions import by_hand_in_words
from tokay.leakage import in_training


def interval_of(comparison: Mapping[str, Any] | None) -> str:
    """A difference with its interval; empty where there is none."""
    c = comparison
    return f"{c['difference']:+.3f} ({c['low']:+.3f} to {c['high']:+.3f})" if c else ""


def p_of(comparison: Mapping[str, Any] | None) -> str:
    """A p-value; empty where there is none."""
    if not comparison:
        return ""
    return "<0.001" if comparison["p_value"] < 0.001 else f"{comparison['p_value']:.3f}"


def print_verdict(verdict: dict[str, Any], title: str) -> None:
    """Every system on the queries of one slice, and the sentence."""
    table = Table(title=f"{title}: {verdict['queries']} queries", title_justify="left", box=None, pad_edge=False)
    for name in (
        "system",
        "nDCG@10",
        "Recall@10",
        "Recall@100",
        "MRR",
        "judged@10",
        "difference (95 %)",
        "p",
    ):
        table.add_column(name, justify="left" if name == "system" else "right", no_wrap=True)
    for row in verdict["rows"]:
        c = row.get("comparison")
        table.add_row(
            row["label"],
            *(f"{row[m]:.3f}" for m in ("ndcg@10", "recall@10", "recall@100", "mrr")),
            f"{row['judged@10']:.0%}",
            interval_of(c),
            p_of(c),
        )
    print_wide(table)
    out.print(
        "Differences: tuned and BM25 against base at the same width, base+BM25 against base, tuned+BM25 against "
        "base+BM25."
    )
    out.print(f"{verdict['can_show'].capitalize()} (nDCG@10, 80 % power).")
    if dropped := {name: count for name, count in verdict.get("dropped", {}).items() if count}:
        out.print(f"Not used: {', '.join(f'{count} {name}' for name, count in dropped.items())}.")
    if said := by_hand_in_words(verdict):
        out.print(f"{said}.")
    if "in_training" in verdict:
        out.print(in_training(verdict["in_training"]), soft_wrap=True)
    out.print(f"[bold]{escape(verdict['sentence'])}[/bold]")
    if people := verdict.get("people"):
        out.print(f"{escape(people['sentence'])}; {escape(people['checked'])}.", soft_wrap=True)


def print_leakage(sentence: str) -> None:
    """What the verdict was checked for, in one line."""
    out.print(escape(sentence), soft_wrap=True)


def print_slices(slices: dict[str, Any]) -> None:
    """Base and tuned on documents that training knows, and on others."""
    from tokay.evaluate.slices import TITLES

    table = Table(box=None, pad_edge=False)
    for name in ("queries of", "number", "base", "tuned", "nDCG@10 (95 %)", "p", "can show"):
        table.add_column(name, justify="left" if name == "queries of" else "right", no_wrap=True)
    for name, found in slices.items():
        if "comparison" not in found:
            table.add_row(TITLES[name].lower(), f"{found['queries']:,}", "", "", "too few to say", "", "")
            continue
        c = found["comparison"]
        table.add_row(
            TITLES[name].lower(),
            f"{found['queries']:,}",
            *(f"{found[side]['ndcg@10']:.3f}" for side in ("base", "tuned")),
            interval_of(c),
            p_of(c),
            f"{c['detectable']:.3f}",
        )
    print_wide(table)


def print_rerank_verdict(verdict: dict[str, Any]) -> None:
    """With and without the reranker: quality beside milliseconds."""
    title = f"Held-out documents: {verdict['queries']} queries"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("system", "nDCG@10", "Recall@10", "MRR", "judged@10", "ms, p50", "difference (95 %)", "p"):
        table.add_column(name, justify="left" if name == "system" else "right", no_wrap=True)
    for row in verdict["rows"]:
        c = row.get("comparison")
        table.add_row(
            row["label"],
            *(f"{row[m]:.3f}" for m in ("ndcg@10", "recall@10", "mrr")),
            f"{row['judged@10']:.0%}",
            f"{row['ms']:.0f}",
            interval_of(c),
            p_of(c),
        )
    print_wide(table)
    out.print(
        f"{verdict['layers']} layers, {verdict['backend']}, weight {verdict['weight']:g}; it reads "
        f"{verdict['read']:.1f} of at most {verdict['depth']} candidates.",
        soft_wrap=True,
    )
    out.print(f"[bold]{escape(verdict['sentence'])}[/bold]", soft_wrap=True)
    if not verdict["use"]:
        out.print("It was not shown to be better, so 'tokay search --rerank' leaves it out.", soft_wrap=True)
