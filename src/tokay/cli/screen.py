"""What every command prints with, and the options that several have."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.markup import escape as escape_markup
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table

from tokay.errors import TokayError, did_you_mean

out = Console(highlight=False, emoji=False)


WIDTH = 112  # of the verdict's table: a narrower terminal wraps it rather than losing digits


err = Console(stderr=True, highlight=False, emoji=False)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def escape(text: str) -> str:
    """Text as text: no markup of ours, and nothing that a terminal would obey."""
    return escape_markup(_CONTROL.sub("\ufffd", text))


class Screen:
    """Progress on the terminal: one bar at a time, and a line for whatever is worth keeping."""

    def __init__(self) -> None:
        self.bars = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=err,
            transient=True,
        )
        self.task: TaskID | None = None

    def start(self, what: str, total: int | None) -> None:
        """Replace the bar."""
        if self.task is not None:
            self.bars.remove_task(self.task)
        self.task = self.bars.add_task(what, total=total, note="")

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Move the bar."""
        if self.task is not None:
            self.bars.update(self.task, advance=amount)
            if note:
                self.bars.update(self.task, note=note)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.bars.console.print(escape(line), soft_wrap=True)

    def confirmation(self, *, yes: bool) -> Callable[[object], bool]:
        """Asks whether to go on and pay; ``yes`` answers, and without a terminal the answer is no."""

        def confirm(_: object) -> bool:
            if yes or not sys.stdin.isatty():
                return yes
            self.bars.stop()
            answer = typer.confirm("Go on and pay for this?")
            self.bars.start()
            return answer

        return confirm


Out = Annotated[Path, typer.Option("--out", help="The run folder to make or to go on with.")]


Budget = Annotated[
    float | None,
    typer.Option(
        help="What the run's LLM calls may cost, in the price table's currency; it stops before. 0: no limit."
    ),
]


Prices = Annotated[str | None, typer.Option(help="TOML file with prices of models, in place of the shipped one.")]


RunFolder = Annotated[Path, typer.Argument(help="A run folder, as 'tokay distill … --out' makes it.")]


Backends = Annotated[
    str | None,
    typer.Option(
        "--backend", help="What runs the model: torch, onnx, onnx-int8 or static; default: as before, or torch."
    ),
]


T = TypeVar("T", bound=str)


def one_of(word: str | None, option: str, known: Sequence[T]) -> T | None:
    """An option's word as one of those that are known.

    Raises:
        TokayError: it is none of them.
    """
    if word is None:
        return None
    for one in known:
        if one == word:
            return one
    raise TokayError(f"{option} is {word!r}; expected one of {', '.join(known)}{did_you_mean(word, known)}")


def print_wide(table: Table) -> None:
    """A table of figures, at least ``WIDTH`` wide."""
    Console(highlight=False, emoji=False, width=max(WIDTH, out.width)).print(table)


def number(text: str, option: str) -> float:
    """An option's share.

    Raises:
        TokayError: it is no number above 0 and up to 1.
    """
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= 1:
            return float(text)
    raise TokayError(f"{option} is {text!r}; expected a number above 0 and up to 1, or auto")
