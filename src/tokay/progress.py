"""How stages tell that they are getting on, without printing: the command line draws, the library is silent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Receives what the stages report."""

    def start(self, what: str, total: int | None) -> None:
        """A task begins; ``total`` is in the units of ``advance``, None when it is not known."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """``amount`` more units are done; ``note`` is a short figure to show beside them, such as a loss."""

    def say(self, line: str) -> None:
        """A line worth keeping on the screen."""


class Silent:
    """The default for library use."""

    def start(self, what: str, total: int | None) -> None:
        """Ignore."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Ignore."""

    def say(self, line: str) -> None:
        """Ignore."""


def track(items: Iterable[T], progress: Progress, what: str, total: int | None = None) -> Iterator[T]:
    """Yield ``items`` and advance by one for each."""
    progress.start(what, total)
    for item in items:
        yield item
        progress.advance()
