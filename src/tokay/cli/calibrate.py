"""``tokay calibrate``: does the verdict predict people?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tokay.cli.screen import RunFolder, Screen, escape, out, print_wide


def calibrate(
    run: RunFolder,
    systems: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SYSTEM…",
            help="Beside those that the run has, as for 'tokay evaluate': other runs, model folders, Hub names.",
        ),
    ] = None,
    queries: Annotated[str, typer.Option(help="People's queries: .jsonl, .tsv, .parquet, or a BEIR folder.")] = "",
    qrels: Annotated[str, typer.Option(help="Their labels: BEIR .tsv, TREC qrels or .parquet.")] = "",
    split: Annotated[str, typer.Option(help="Of the labels, where there are several.")] = "test",
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Where vectors and calibration.json are kept; default: RUN/compared.")
    ] = None,
    url: Annotated[
        str, typer.Option(help="Base URL for openai: systems; default: $OPENAI_BASE_URL, else OpenAI.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Pay for an endpoint without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print calibration.json.")] = False,
) -> None:
    """Hold a run's verdict against people's queries: are its signs right, and do its intervals hold?"""
    from tokay.calibrating import calibrate_run

    screen = Screen()
    with screen.bars:
        summary = calibrate_run(
            str(run),
            systems or (),
            queries=queries,
            qrels=qrels,
            split=split,
            out=out_folder,
            url=url,
            confirm=screen.confirmation(yes=yes),
            progress=screen,
        )
    if as_json:
        typer.echo(json.dumps(summary, indent=1, ensure_ascii=False))
        return
    print_calibration(summary)


def print_calibration(summary: dict[str, Any]) -> None:
    """Systems, the verdict's agreement with people, and the same by lexical overlap."""
    _print_systems(summary["systems"])
    rows = summary["rows"]
    title = f"All pairs of systems, {rows[0]['pairs']:,}: {_queries_of(rows[0])}"
    _print_rows(title, [(row["row"], row) for row in rows])
    found = [one for one in summary["slices"] if "pairs" in one]
    slices = [(f"{one['from']:.2f} to {one['to']:.2f}: {_queries_of(one, ' + ')}", one) for one in found]
    if slices:
        _print_rows("By the share of a query's words that its passage has, widened: written + people's queries", slices)
    out.print(
        "called: the interval is off zero; right: with people's sign; close: right of calls below 0.05; refuted: "
        "people's own interval says otherwise. covered: people's difference, as measured, is in the interval; with "
        "noise: with the noise of people's queries in it too. by: how far the interval is widened; learned: how far "
        "both kinds of queries differ here, both in standard deviations of a query's difference.",
        soft_wrap=True,
    )
    if dropped := {name: count for name, count in summary["dropped"].items() if count}:
        out.print(f"Not used: {', '.join(f'{count:,} {name}' for name, count in dropped.items())}.", soft_wrap=True)
    out.print(f"[bold]The verdict, {escape(summary['sentence'])}.[/bold]", soft_wrap=True)


def _print_systems(systems: list[dict[str, Any]]) -> None:
    table = Table(title="nDCG@10", title_justify="left", box=None, pad_edge=False)
    names = ("written", "like people's", "people's")
    for name in ("system", *names):
        table.add_column(name, justify="left" if name == "system" else "right", no_wrap=True)
    for row in sorted(systems, key=lambda row: -row["people's"]):
        table.add_row(escape(row["system"]), *(f"{row[name]:.3f}" for name in names))
    print_wide(table)


def _queries_of(row: dict[str, Any], between: str = "") -> str:
    """The numbers of written and of people's queries; in words, or with a sign between them."""
    counts = [f"{count:,}" for count in row["queries"].values()]
    return between.join(counts) if between else " and ".join(map(" ".join, zip(counts, row["queries"], strict=True)))


def _print_rows(title: str, rows: list[tuple[str, dict[str, Any]]]) -> None:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in (
        "",
        "called",
        "right",
        "close",
        "refuted",
        "covered",
        "with noise",
        "tau",
        "by",
        "learned",
    ):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for name, row in rows:
        shares = (f"{row[key]:.0%}" for key in ("coverage", "compatible"))
        table.add_row(
            escape(name),
            f"{row['claims']:,}",
            "" if row["agreement"] is None else f"{row['agreement']:.1%}",
            f"{row['close']['right']} of {row['close']['claims']}",
            f"{row['contradicted']:,}",
            *shares,
            "" if row["tau"] is None else f"{row['tau']:.3f}",
            f"{row['between']:.2f}",
            f"{row['learned']:.3f}",
        )
    print_wide(table)
