"""The errors that a user can mend. Everything else is a bug and keeps its traceback."""


class TokayError(Exception):
    """What came, what was expected, what to do: the command line prints it as one line and exits with 1."""


class MissingExtra(TokayError):
    """A feature needs a package that is not installed; the message names the extra that brings it."""

    def __init__(self, feature: str, extra: str, package: str) -> None:
        super().__init__(f"{feature} needs the package {package!r}: pip install 'tokay[{extra}]'")
