"""The errors that a user can mend. Everything else is a bug and keeps its traceback."""

import difflib
from collections.abc import Iterable


class TokayError(Exception):
    """What came, what was expected, what to do: the command line prints it, a line a fault, and exits with 1."""


class MissingExtra(TokayError):
    """A feature needs a package that is not installed; the message names the extra that brings it."""

    def __init__(self, feature: str, extra: str, package: str) -> None:
        super().__init__(f"{feature} needs the package {package!r}: pip install 'tokay[{extra}]'")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known one that is near, whatever its capitals; else nothing."""
    by_small = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(name.casefold(), by_small, 1)
    return f"; did you mean {by_small[near[0]]!r}?" if near else ""


def first_line(error: Exception) -> str:
    """What another library's error says, in one line; its name where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
