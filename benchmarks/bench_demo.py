"""Claim: the demo takes under 10 minutes and 4 GiB on two cores, and under 10 seconds when nothing changed."""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import arguments, table, tokay


def main() -> None:
    """Run the demo into an empty folder, then again."""
    arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = ("distill", "python-stdlib", "--llm", "recorded", "--base", "minilm", "--out", Path(folder) / "demo")
        first, peak = tokay(*command)
        again, _ = tokay(*command)
    table(
        ["demo", "wall s", "peak GB"],
        [["from nothing", f"{first:.0f}", f"{peak:.2f}"], ["unchanged", f"{again:.1f}", ""]],
    )


if __name__ == "__main__":
    main()
