"""Claim: the recipe chosen on Python's manual holds on a second domain, with human test queries beside it.

Needs --data with scifact/ (corpus, queries, qrels) and scifact-recorded/ (a recording).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from common import arguments, tokay


def main() -> None:
    """Distil SciFact by its recorded annotator; both verdicts are printed."""
    parser = arguments(__doc__)
    parser.add_argument("--out", type=Path, help="keep the run here")
    parser.add_argument("--set", action="append", default=[], help="settings, as of tokay distill")
    options = parser.parse_args()
    if options.data is None:
        print("bench_domain: skipped, needs --data FOLDER with scifact/ and scifact-recorded/", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:
        labels = (
            "--queries",
            options.data / "scifact/queries.parquet",
            "--qrels",
            options.data / "scifact/qrels.parquet",
        )
        changes = [word for change in options.set for word in ("--set", change)]
        llm = ("--llm", f"recorded:{options.data / 'scifact-recorded'}")
        tokay(
            "distill", options.data / "scifact", *llm, "--out", options.out or Path(folder) / "run", *labels, *changes
        )


if __name__ == "__main__":
    main()
