"""Claim: with every passage's vector kept, queries of documents that training knows gain >= 0.06, of others >= 0.02.

On a run of Python's manual: each form of the query side, nDCG@10 before and after on held-out queries of training
documents (seen) and of held-out documents (unseen), with 95 % intervals; seconds of training; milliseconds a query on
one core, the median of single queries in a process of its own. Of the table also its share of the tower's quality.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import arguments, table, tokay
from tokay.models.embedder import Embedder
from tokay.records import Query
from tokay.store import Run

FORMS = ("map", "tower", "table")
TIMED = 300


def main() -> None:
    """Print one row a form."""
    parser = arguments(__doc__)
    parser.add_argument("--run", type=Path, help="a run that came to its judgments; default: one is made")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--time", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.time:
        print(milliseconds(options.time, options.run))
        return
    work = Path(tempfile.mkdtemp(prefix="tokay-bench-keep-"))
    run = options.run
    if run is None:
        run = work / "run"
        tokay("distill", "python-stdlib", "--llm", "recorded", "--out", run, "--set", "train.epochs=1")
    rows = []
    for form in options.forms.split(","):
        wall, _ = tokay("train", run, "--keep-passages", "--query-side", form, "--out", work / form)
        verdict = json.loads((work / form / "training" / "verdict.json").read_text())
        story = json.loads((work / form / "training" / "story.json").read_text())
        timed = [sys.executable, __file__, "--time", str(work / form), "--run", str(run)]
        ms = float(subprocess.run(timed, check=True, capture_output=True, text=True).stdout)
        rows.append([form, *(_cell(found) for found in verdict.values()), f"{story['seconds']:.0f}", f"{wall:.0f}"])
        rows[-1].append(f"{ms:.2f}")
        share = {
            name: verdict[part]["tuned"]["ndcg@10"] / story["tower_ndcg@10"][other]
            for name, part, other in (("seen", "seen", "seen"), ("unseen", "unseen", "test"))
            if "tower_ndcg@10" in story
        }
        rows[-1].append(", ".join(f"{name} {value:.1%}" for name, value in share.items()))
    table(["form", "seen", "unseen", "s training", "s in all", "ms a query", "of its tower's nDCG@10"], rows)
    shutil.rmtree(work)


def _cell(found: dict[str, object]) -> str:
    before, after, c = found["base"], found["tuned"], found["comparison"]
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert isinstance(c, dict)
    return (
        f"{before['ndcg@10']:.3f} to {after['ndcg@10']:.3f}: {c['difference']:+.3f} ({c['low']:+.3f} to "
        f"{c['high']:+.3f}), {found['queries']} queries"
    )


def milliseconds(folder: Path, run: Path) -> float:
    """The median time of one query, on one core."""
    model = Embedder.load(folder, threads=1)
    texts = [q.text for q in Run(run, writable=False).table("generate", "queries", Query) if q.part == "test"][:TIMED]
    model.encode(texts, kind="query", workers=1)
    times = []
    for text in texts:
        began = time.perf_counter()
        model.encode([text], kind="query", workers=1)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


if __name__ == "__main__":
    main()
