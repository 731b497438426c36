"""The command line as a user calls it."""

from __future__ import annotations

import pytest

from tokay import cli


def call(*arguments: object) -> int:
    """Its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["tokay", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    return int(stop.value.code or 0)
