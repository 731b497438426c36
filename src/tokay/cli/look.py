"""What a run holds: ``tokay report``, ``trace``, ``cost``, ``ledger``."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

import tokay
from tokay.cli.screen import RunFolder, escape, out, print_wide
from tokay.errors import TokayError

if TYPE_CHECKING:
    from tokay.llm.ledger import Ledger


def report(run: RunFolder) -> None:
    """Write RUN/report.html again: verdict, funnel, wins and losses, samples of the data."""
    from tokay.report import write_relabel_report, write_report

    opened = tokay.open_run(run)
    write = write_relabel_report if opened.is_done("relabel") else write_report
    out.print(escape(str(write(opened))))


def trace(
    run: RunFolder, query_id: Annotated[str, typer.Argument(help="A query's id, as report.html shows it.")]
) -> None:
    """Follow one query: its passage, the LLM's answer, every grade, the training row."""
    from tokay.trace import trace_queries

    found = trace_queries(tokay.open_run(run), [query_id])[0]
    q = found.query
    out.print(f"[bold]{escape(q.text)}[/bold]\ntask: {escape(q.task)}   part: {q.part}   prompt: {escape(q.prompt)}")
    seed = found.seed
    if seed:
        out.print(
            f"\nwritten from [bold]{escape(seed.passage_id)}[/bold] ({escape(seed.source)}, characters {seed.start} "
            f"to {seed.end})"
        )
        out.print(escape(seed.text))
    out.print("\ncandidates" if found.candidates else "\nnot judged: the seed is the positive")
    for candidate, passage, judgment in found.candidates:
        grade = f"grade {judgment.grade}{' best' if judgment.best else ''}" if judgment else "unjudged"
        rated = found.ratings.get(passage.passage_id, "")
        out.print(f"  {candidate.rank:2d}. {escape(passage.passage_id)}: {grade}{f'  ({rated})' if rated else ''}")
    for e in found.examples:
        moved = " (relabelled)" if e.relabelled else ""
        out.print(
            f"\ntraining row: positive {escape(e.positive_id)}{moved}, hard negatives {escape(str(e.negative_ids))}"
        )
    out.print("\nthe LLM's answers")
    for place, text in found.answers:
        out.print(f"  {escape(place)}: {escape(text)}", soft_wrap=True)


def cost(run: RunFolder) -> None:
    """Show what a run spent on its LLM: by stage, and for each training row."""
    from tokay.cost import costs_of

    costs = costs_of(tokay.open_run(run))
    if costs.nothing:
        out.print(escape(costs.nothing))
        return
    names = ["stage", "model", "requests", "failures", "prompt", "cached", "completion", f"price {costs.currency}"]
    names += ["per training row"] if costs.rows else []
    table = Table(title="Tokens and price", title_justify="left", box=None, pad_edge=False)
    for name in names:
        table.add_column(name, justify="left" if name in ("stage", "model") else "right", no_wrap=True)
    for row in (*costs.stages, costs.total):
        counts = (row.answers + row.failures, row.failures, row.prompt, row.cached, row.completion)
        price = "unknown" if row.price is None else f"{row.price:.4f}" + ("+" if row.unpriced else "")
        each = [f"{row.price / costs.rows:.6f}" if row.price is not None else ""] if costs.rows else []
        table.add_row(escape(row.stage), escape(row.model), *(f"{n:,}" for n in counts), price, *each)
    print_wide(table)
    if costs.rows:
        tokens = (costs.total.prompt + costs.total.completion) / costs.rows
        out.print(f"{costs.rows:,} training rows, {tokens:,.0f} tokens each")
    if costs.total.unpriced:
        out.print(f"{costs.total.unpriced:,} answers have no price: their model was not in the price table (--prices)")


ledger_app = typer.Typer(no_args_is_help=True, help="The answers that a run paid for: show, export, purge.")


def _ledger_of(run: Path) -> Ledger:
    from tokay.llm.ledger import LEDGER, Ledger

    path = tokay.open_run(run).path / LEDGER
    if not path.is_file():
        raise TokayError(f"{run} has no {LEDGER}: nothing was asked of an LLM")
    return Ledger(path)


@ledger_app.command()
def show(run: RunFolder) -> None:
    """Count the requests in a run's ledger: by stage and model, with their tokens and price."""
    from tokay.llm.ledger import spent_in

    with contextlib.closing(_ledger_of(run)) as ledger:
        rows = spent_in(ledger.path)
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "model", "answers", "failures", "prompt", "cached", "answer", "price"):
        table.add_column(name, justify="left" if name in ("stage", "model") else "right", no_wrap=True)
    for row in rows:
        numbers = (row.answers, row.failures, row.prompt, row.cached, row.completion)
        price = "unknown" if row.price is None else f"{row.price:.4f}" + ("+" if row.unpriced else "")
        table.add_row(escape(row.stage), escape(row.model), *(f"{n:,}" for n in numbers), price)
    print_wide(table)
    out.print("prompt, cached (part of prompt) and answer are tokens, as the model counted them")


@ledger_app.command("export")
def export_ledger(
    run: RunFolder,
    file: Annotated[Path, typer.Argument(help="What to write, such as answers.jsonl or answers.jsonl.gz.")],
) -> None:
    """Write a run's answers to a file that --llm replay:FILE reads."""
    with contextlib.closing(_ledger_of(run)) as ledger:
        rows = ledger.export(file)
    out.print(f"{rows:,} requests and their answers: {escape(str(file))}", soft_wrap=True)
    out.print(
        "It holds the text of your documents, since prompts do, and only you can read it (mode 0600). It holds no key.",
        soft_wrap=True,
    )


@ledger_app.command()
def purge(run: RunFolder, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Empty a run's ledger, so that no prompt and no answer stands in it; the run's tables stay."""
    from tokay.store import Run

    _ledger_of(run).close()
    if not yes and not (sys.stdin.isatty() and typer.confirm("Delete all answers? What is asked again is paid again.")):
        raise TokayError("nothing was deleted: it was not confirmed (--yes confirms it)")
    with Run(run, writable=True), contextlib.closing(_ledger_of(run)) as ledger:
        rows = ledger.purge()
    out.print(f"{rows:,} requests deleted; the run's tables still hold passages and queries", soft_wrap=True)
