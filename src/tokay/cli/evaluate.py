"""``tokay evaluate``: any systems on any set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tokay.cli.screen import Budget, Prices, Screen, escape, out, print_wide
from tokay.cli.verdicts import interval_of, p_of
from tokay.errors import TokayError

_CLIPPED = 100
_SHOWN = 3
"""Wins and losses that are printed of two systems; of more, the largest alone."""
_PAIRS = 28
"""Pairs that are printed: those of eight systems; ``results.json`` has all."""


def evaluate(
    systems: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SYSTEM…",
            help="bm25; base or tuned (of a run); a run (all widths and exports of its tuned model); minilm, a model "
            "folder or a Hub name; openai:MODEL. Each with @WIDTH, :BACKEND, +bm25 or +bm25=WEIGHT, +rerank or "
            "+rerank=MODEL behind it, and NAME= before it. Default on a run: what the run has.",
        ),
    ] = None,
    on: Annotated[
        str,
        typer.Option(
            help="A run (its held-out queries), a BEIR folder, hf:NAME or mteb:TASK; or a corpus, with --queries."
        ),
    ] = "",
    queries: Annotated[
        str, typer.Option(help="With --qrels: labelled queries, in place of the set's (.jsonl, .tsv, .parquet).")
    ] = "",
    qrels: Annotated[str, typer.Option(help="Their labels: BEIR .tsv, TREC qrels or .parquet.")] = "",
    split: Annotated[str, typer.Option(help="Of the labels, where there are several.")] = "test",
    run: Annotated[str, typer.Option(help="The run that base and tuned are of; default: --on, where it is one.")] = "",
    against: Annotated[
        str | None, typer.Option(help="The system that differences are from, by its name; default: the first.")
    ] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Where results and vectors are kept; default: RUN/compared on a run, else nowhere."),
    ] = None,
    trec: Annotated[Path | None, typer.Option(help="Folder for TREC run files; default: runs in --out.")] = None,
    url: Annotated[
        str, typer.Option(help="Base URL for openai: systems; default: $OPENAI_BASE_URL, else OpenAI.")
    ] = "",
    judge: Annotated[
        str | None,
        typer.Option(
            help="Have what the systems find and nobody judged judged: run (the run's own model), openai:MODEL, "
            "hf:NAME_OR_FOLDER or replay:FILE."
        ),
    ] = None,
    judge_url: Annotated[str, typer.Option(help="Base URL of the judge; default: the run's.")] = "",
    top: Annotated[int, typer.Option(min=1, max=100, help="Of each system, what the judge is shown.")] = 10,
    budget: Budget = None,
    prices: Prices = None,
    examples: Annotated[int, typer.Option(min=0, help="Wins and losses of each system that are kept with texts.")] = 5,
    yes: Annotated[bool, typer.Option("--yes", help="Pay for judge and endpoint without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json.")] = False,
) -> None:
    """Hold systems against each other: quality, intervals, and what can be said of the differences."""
    from tokay import evaluating

    if not on:
        raise TokayError("there is no --on; name a run, a BEIR folder, hf:NAME or mteb:TASK to evaluate on")
    if judge is None and (judge_url or budget is not None):
        raise TokayError("--judge-url and --budget are of a judge; name one with --judge, or leave them out")
    options = evaluating.JudgeOptions(judge, judge_url, budget, prices, top) if judge is not None else None
    screen = Screen()
    with screen.bars:
        done = evaluating.evaluate(
            systems or (),
            on,
            queries=queries,
            qrels=qrels,
            split=split,
            run=run,
            against=against,
            out=out_folder,
            trec=trec,
            url=url,
            judge=options,
            examples=examples,
            confirm=screen.confirmation(yes=yes),
            progress=screen,
        )
    if as_json:
        typer.echo(json.dumps(done.summary, indent=1, ensure_ascii=False))
        return
    print_results(done.summary)
    if trec is not None:
        out.print(f"TREC runs: {escape(str(trec))}", soft_wrap=True)
    if done.folder is not None:
        files = "results.json, scores.parquet" + (", runs" if trec is None else "")
        out.print(f"results: {escape(str(done.folder))} ({files})", soft_wrap=True)
    elif trec is None:
        out.print("nothing was kept (--out FOLDER keeps scores, runs and vectors)")


def print_results(summary: dict[str, Any]) -> None:
    """All that a terminal has room for."""
    _print_systems(summary)
    for row in summary["systems"]:
        if "sentence" in row:
            out.print(f"[bold]{escape(row['sentence'])}[/bold]", soft_wrap=True)
    if summary["graded"] and any(row["unjudged"] for row in summary["systems"]):
        _print_unjudged(summary)
    if len(summary["systems"]) > 2:
        _print_pairs(summary["pairs"])
    if summary["slices"] and len(summary["systems"]) > 1:
        _print_slices(summary)
    shown = _SHOWN if len(summary["examples"]) == 1 else 1
    for label, both in summary["examples"].items():
        for word in ("wins", "losses"):
            _print_examples(label, summary["reference"], word, both[word][:shown])


def _print_systems(summary: dict[str, Any]) -> None:
    alone = len(summary["systems"]) == 1
    title = f"{summary['set']}: {summary['queries']:,} queries, {summary['passages']:,} passages"
    table = Table(title=escape(title), title_justify="left", box=None, pad_edge=False)
    names = ["system", "nDCG@10", "Recall@10", "Recall@100", "MRR", "judged@10"]
    for name in (*names, *([] if alone else ["difference (95 %)", "p"])):
        table.add_column(name, justify="left" if name == "system" else "right", no_wrap=True)
    for row in summary["systems"]:
        c = row.get("comparison")
        table.add_row(
            escape(row["label"]),
            *(f"{row[m]:.3f}" for m in ("ndcg@10", "recall@10", "recall@100", "mrr")),
            f"{row['judged@10']:.0%}",
            *([] if alone else [interval_of(c), p_of(c)]),
        )
    print_wide(table)
    if not alone:
        count = len(summary["pairs"])
        together = f", corrected for {count} pairs together (max-T)" if count > 1 else ""
        out.print(f"Differences are from {escape(summary['reference'])}; p and interval{together}.", soft_wrap=True)
    for row in summary["systems"]:
        if row["about"]:
            out.print(f"[dim]{escape(row['label'])}: {escape(row['about'])}[/dim]", soft_wrap=True)
    if dropped := {name: count for name, count in summary["dropped"].items() if count}:
        out.print(f"Not used: {', '.join(f'{count:,} {name}' for name, count in dropped.items())}.", soft_wrap=True)


def _print_unjudged(summary: dict[str, Any]) -> None:
    table = Table(title="What nobody judged", title_justify="left", box=None, pad_edge=False)
    for name in ("system", "in top tens", "judged", "nDCG@10", "condensed", "at best"):
        table.add_column(name, justify="left" if name == "system" else "right", no_wrap=True)
    for row in summary["systems"]:
        figures = (f"{row[m]:.3f}" for m in ("ndcg@10", "condensed", "at_best"))
        table.add_row(escape(row["label"]), f"{row['unjudged']:,}", f"{row['judged@10']:.0%}", *figures)
    print_wide(table)
    out.print(
        "It counts as not relevant. condensed: as if it were not there; at best: as relevant as suits the system most. "
        "Systems whose order changes between these columns cannot be told apart by these judgments.",
        soft_wrap=True,
    )


def _print_pairs(pairs: Sequence[dict[str, Any]]) -> None:
    table = Table(title="All pairs", title_justify="left", box=None, pad_edge=False)
    for name in ("first", "second", "difference (95 %)", "p, corrected", "p, alone"):
        table.add_column(name, justify="left" if name in ("first", "second") else "right", no_wrap=True)
    for pair in pairs[:_PAIRS]:
        alone = p_of({"p_value": pair["p_alone"]})
        table.add_row(escape(pair["a"]), escape(pair["b"]), interval_of(pair), p_of(pair), alone)
    print_wide(table)
    if len(pairs) > _PAIRS:
        out.print(f"{len(pairs) - _PAIRS} more pairs are in results.json")


def _print_slices(summary: dict[str, Any]) -> None:
    labels = [row["label"] for row in summary["systems"]]
    title = "Slices: nDCG@10, * where the interval of the difference from the reference is off zero"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("queries", no_wrap=True)
    for name in ("number", *labels):
        table.add_column(escape(name), justify="right", no_wrap=True)
    for one in summary["slices"]:
        cells = []
        for label in labels:
            found = one["systems"][label]
            c = found.get("comparison")
            sure = c is not None and (c["low"] > 0 or c["high"] < 0)
            cells.append(f"{found['ndcg@10']:.3f}{'*' if sure else ' '}")
        table.add_row(escape(f"{one['trait']}: {one['value']}"), f"{one['queries']:,}", *cells)
    print_wide(table)


def _print_examples(label: str, reference: str, word: str, examples: Sequence[dict[str, Any]]) -> None:
    if not examples:
        return
    out.print(f"Largest {word} of {escape(label)} against {escape(reference)}", soft_wrap=True)
    for one in examples:
        ours, theirs = (one["ndcg@10"][name] for name in (label, reference))
        out.print(f"  {theirs:.2f} to {ours:.2f}  {escape(_clip(one['query']))}", soft_wrap=True)
        for relevant in one["relevant"][:1]:
            ranks = relevant["ranks"]
            text = _clip(f"{relevant['title']} {relevant['text']}".strip())
            places = f"{ranks[reference] or '-'} to {ranks[label] or '-'}"
            out.print(f"    [dim]relevant, rank {places}: {escape(text)}[/dim]", soft_wrap=True)


def _clip(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _CLIPPED else words[: _CLIPPED - 1] + "…"
