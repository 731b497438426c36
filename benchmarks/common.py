"""What the benchmarks share: arguments, a child process that is measured, a table."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def arguments(description: str) -> argparse.ArgumentParser:
    """Every benchmark takes --data, a folder of data sets, whether it needs it or not."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, help="folder of data sets (scifact, scifact-recorded, …)")
    return parser


def tokay(*words: object) -> tuple[float, float]:
    """Run the command line in a process of its own: wall seconds, and peak GB of the largest child so far."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "tokay", *map(str, words)], check=True)
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns."""
    text = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in text) for i in range(len(head))]
    for row in text:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def fastest_product(precision: str = "fp32") -> float:
    """Operations a second of the fastest of some products of 2,048 x 2,048 matrices, fp32 or bf16."""
    import torch

    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(2048, 2048).to(kind) for _ in range(2))
    times = []
    for _ in range(12):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return float(2 * 2048**3 / min(times))
