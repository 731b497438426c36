"""Claim: a batch of 2,048 rows is trained within 4 GiB on a CPU, and memory does not follow the batch.

One process a batch size, MiniLM on a finished run's rows at a cut of 128 tokens; nothing is kept of the first pass.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench_train import measure
from common import arguments, table


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a finished run with rows to train on")
    parser.add_argument("--batches", default="128,512,2048")
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    options = parser.parse_args()
    if not (options.run / "manifest.json").is_file():
        print(f"bench_gradcache: skipped, {options.run} is no finished run (make demo makes one)", file=sys.stderr)
        return
    rows = []
    for batch in map(int, options.batches.split(",")):
        for kind in ("plain", "cached"):
            if kind == "plain" and batch > 512:
                continue
            found = measure(options.run, ("tokay", kind, batch, 128, options.precision, 1))
            rows.append([batch, kind, f"{found['peak GB'] * 1e9 / 2**30:.2f}", f"{found['rows/s']:.1f}"])
    table(["rows a step", "kept", "peak GiB", "rows/s"], rows)


if __name__ == "__main__":
    main()
