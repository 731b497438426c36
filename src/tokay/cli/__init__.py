"""The command line: one command a task, each in the module of its name. Nothing else prints."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import tokay
from tokay.cli import benchmark, calibrate, compare, distill, evaluate, explore, index, look, search, serve, train
from tokay.cli.screen import err, escape, out
from tokay.errors import TokayError

app = typer.Typer(
    name="tokay",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Turn your documents and any LLM into an embedder that is measurably better on your own search.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(tokay.__version__)
        raise typer.Exit


@app.callback(no_args_is_help=True)
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Turn your documents and any LLM into an embedder that is measurably better on your own search."""


def version() -> None:
    """Print the version."""
    out.print(tokay.__version__)


# In the order of ``tokay --help``: what makes a model, what uses it, what looks at it.
app.command()(distill.distill)
app.command()(distill.relabel)
app.command("pretrain-pairs")(train.pretrain_pairs)
app.command()(train.train)
app.command()(index.export)
app.command(epilog=index.EXAMPLES)(index.index)
app.command(cls=search.SearchCommand)(search.search)
app.command()(serve.serve)
app.command()(evaluate.evaluate)
app.command()(compare.compare)
app.command()(compare.runs)
app.command()(calibrate.calibrate)
app.command(epilog=benchmark.EXAMPLES)(benchmark.benchmark)
app.command()(look.report)
app.command()(explore.explore)
app.command()(look.trace)
app.add_typer(look.ledger_app, name="ledger")
app.command()(look.cost)
app.command()(version)


def _interrupted() -> int:
    err.print("interrupted; the same command goes on where this one stopped")
    return 130


def main() -> None:
    """Entry point: errors that the user can mend are one line and exit code 1."""
    try:
        app()
    except TokayError as error:
        err.print(f"[bold red]error:[/bold red] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(_interrupted())
    except SystemExit as stop:
        if stop.code == 130:  # typer made it of a KeyboardInterrupt
            _interrupted()
        raise
