"""``tokay compare`` and ``tokay runs``: runs beside each other."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tokay.cli.screen import escape, out, print_wide
from tokay.cli.verdicts import interval_of, p_of


def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help="A finished run folder.")],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hold two runs against each other: settings that differ, cost, verdicts, and the queries that both have."""
    from tokay.comparing import compare_runs

    found = compare_runs(first, second)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found), indent=1, ensure_ascii=False))
        return
    names = [escape(one.name) for one in (found.a, found.b)]
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in names:
        table.add_column(name, overflow="fold")
    for what in ("documents", "base", "llm", "finished", "passages", "queries", "examples", "cost"):
        table.add_row(what, *(_cell(getattr(one, what)) for one in (found.a, found.b)))
    print_wide(table)
    out.print()
    _print_settings(found.settings, names)
    for one in (found.a, found.b):
        out.print(f"[bold]{escape(one.name)}[/bold]: {escape(one.verdict)}", soft_wrap=True)
    common = found.common
    if "sentence" not in common:
        out.print(f"No paired comparison: {escape(common['reason'])}.", soft_wrap=True)
        return
    rows = Table(title=f"On {common['queries']:,} queries that both have", title_justify="left", box=None)
    for name in ("system", *names, "difference (95 %)", "p"):
        rows.add_column(name, justify="left" if name == "system" else "right", no_wrap=True)
    for row in common["systems"]:
        c: dict[str, Any] = row["comparison"]
        rows.add_row(escape(row["label"]), f"{c['mean_b']:.3f}", f"{c['mean_a']:.3f}", interval_of(c), p_of(c))
    print_wide(rows)
    out.print(f"Differences are {names[1]} less {names[0]}, corrected for all rows together (max-T).", soft_wrap=True)
    out.print(f"[bold]{escape(common['sentence'])}[/bold]", soft_wrap=True)
    for note in common["notes"]:
        out.print(escape(note), soft_wrap=True)


def runs(
    folder: Annotated[Path, typer.Argument(help="Where to look, four folders deep.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the runs below a folder: what they are of, when, and their verdicts."""
    from tokay.comparing import find_runs

    found = find_runs(folder)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(one) for one in found], indent=1, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False)
    for name in ("run", "documents", "base", "llm", "finished", "passages", "queries", "nDCG@10", "p", "cost"):
        right = name in ("passages", "queries", "nDCG@10", "p", "cost")
        table.add_column(
            name, justify="right" if right else "left", no_wrap=right or name == "finished", overflow="fold"
        )
    for one in found:
        said = interval_of(one.primary) or one.state.partition(" (")[0].partition(":")[0]
        table.add_row(
            escape(one.name),
            *(escape(text) for text in (one.documents, one.base, one.llm)),
            one.finished[:16].replace("T", " "),
            *(f"{number:,}" for number in (one.passages, one.queries)),
            escape(said),
            p_of(one.primary),
            escape(one.cost),
        )
    print_wide(table)
    for one in found:
        if one.primary is None:
            out.print(f"{escape(one.name)}: {escape(one.state)}", soft_wrap=True)


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def _print_settings(settings: list[dict[str, Any]], names: list[str]) -> None:
    if not settings:
        out.print("All settings are the same.")
        return
    table = Table(title="Settings that differ", title_justify="left", box=None, pad_edge=False)
    for name in ("setting", *names):
        table.add_column(name, overflow="fold")
    for row in settings:
        table.add_row(escape(row["name"]), escape(json.dumps(row["a"])), escape(json.dumps(row["b"])))
    print_wide(table)
