"""Write docs/cli.md from the commands' own --help; a test fails when the file is out of date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LEDGER = ("ledger", "ledger show", "ledger export", "ledger purge")
COMMANDS = (
    "distill",
    "relabel",
    "pretrain-pairs",
    "train",
    "export",
    "index",
    "search",
    "serve",
    "evaluate",
    "calibrate",
    "compare",
    "runs",
    "benchmark",
    "report",
    "explore",
    "trace",
    *LEDGER,
    "cost",
    "version",
)
ROOT = Path(__file__).parent.parent


def cli_docs() -> str:
    """The help of every command, as 100 columns show it."""
    parts = ["# The command line\n\nWritten by `make docs` from the commands' own `--help`.\n"]
    for command in ("", *COMMANDS):
        words = ["tokay", *command.split(), "--help"]
        run = subprocess.run(
            [sys.executable, "-m", *words],
            capture_output=True,
            text=True,
            check=True,
            env={"COLUMNS": "100", "TERM": "dumb", "PATH": "", "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT / "src")},
        )
        help_text = run.stdout.replace("python -m tokay", "tokay").strip()
        parts.append(f"## {' '.join(words[:-1])}\n\n```\n{help_text}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(cli_docs(), encoding="utf-8")
