"""Evaluating five systems on 5,000 passages and 300 queries: what it takes beside encoding.

The passages and queries are made of words drawn by Zipf's law; the systems' vectors are random and already there, so
that everything is timed but the encoding. Of --data, SciFact: MiniLM's published nDCG@10 through ``tokay evaluate``.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common import arguments, table, tokay
from tokay.evaluate.many import Ranked, judge_many
from tokay.evaluate.sets import EvaluationSet
from tokay.evaluate.trec import write_runs
from tokay.evaluate.verdict import Side
from tokay.evaluating import write_results
from tokay.records import Passage, Query
from tokay.search.bm25 import BM25
from tokay.search.dense import unit
from tokay.search.hybrid import Hybrid, as_run, pools_of
from tokay.settings import EvaluateSettings

PUBLISHED = 0.645
"""NDCG@10 of all-MiniLM-L6-v2 on SciFact's test split in MTEB."""
DEPTH, WIDTH = 100, 384


def made(rng: np.random.Generator, *, passages: int, queries: int) -> EvaluationSet:
    """A set of random words; queries are pieces of their answers, and 15 passages of each are judged."""
    words = np.array(["".join(chr(97 + digit) for digit in np.unravel_index(i, (26,) * 4)) for i in range(20_000)])
    share = 1 / np.arange(1, len(words) + 1)
    drawn = rng.choice(words, (passages, 120), p=share / share.sum())
    texts = [Passage(f"p{i}", f"d{i // 4}", f"title {i}", " ".join(row), "", "") for i, row in enumerate(drawn)]
    answers = rng.integers(0, passages, queries)
    asked = [
        Query(f"q{i}", f"p{p}", "", " ".join(rng.choice(drawn[p], 8)), "test", True, "", "")
        for i, p in enumerate(answers)
    ]
    qrels = {
        f"q{i}": {f"p{p}": 3, **{f"p{o}": 0 for o in rng.integers(0, passages, 15)}} for i, p in enumerate(answers)
    }
    return EvaluationSet("made", texts, asked, qrels, {q: set(gains) for q, gains in qrels.items()})


def timed(work: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """What some work gives, and its seconds: by the clock, and of the processor's cores."""
    began = time.perf_counter(), time.process_time()
    return work(), (time.perf_counter() - began[0], time.process_time() - began[1])


def once(on: EvaluationSet, sides: dict[str, Side], folder: Path) -> dict[str, tuple[float, float]]:
    """Seconds of each part, once."""
    texts, ids, took = [q.text for q in on.queries], on.ids, {}
    names = [q.query_id for q in on.queries]
    bm25, took["BM25: index"] = timed(lambda: BM25(f"{p.title} {p.text}" for p in on.passages))
    rankings, took["rankings"] = timed(
        lambda: {"bm25": bm25.search(texts, DEPTH), **{name: side.rank(DEPTH) for name, side in sides.items()}}
    )
    first = sides["dense 1"]

    def fused() -> Any:
        pools = pools_of(rankings["dense 1"], bm25, texts, first.queries, first.passages, depth=DEPTH)
        return Hybrid(0.1).rank(list(pools), DEPTH)

    rankings["dense 1 with BM25"], took["fusion"] = timed(fused)
    ranked, took["rankings by id"] = timed(
        lambda: [Ranked(name, 0, as_run(one, names, ids)) for name, one in rankings.items()]
    )
    settings = EvaluateSettings()
    results, took["metrics, pairs, slices, examples"] = timed(
        lambda: judge_many(ranked, on, reference="bm25", settings=settings)
    )
    _, took["tables and run files"] = timed(
        lambda: (write_results(folder, results, ranked, on), write_runs(folder / "runs", ranked, depth=DEPTH))
    )
    return took


def main() -> None:
    """Time the parts, and check MiniLM's figure where the data are."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--passages", type=int, default=5000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    on = made(rng, passages=options.passages, queries=options.queries)

    def random_side() -> Side:
        passages = unit(rng.standard_normal((options.passages, WIDTH), np.float32))
        answers = [int(q.seed_id[1:]) for q in on.queries]
        noise = rng.standard_normal((options.queries, WIDTH), np.float32)
        return Side(unit(passages[answers] + 0.12 * noise), passages)

    sides = {f"dense {i}": random_side() for i in (1, 2, 3)}
    rounds = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(once(on, sides, Path(folder)))
    print(f"5 systems, {options.passages:,} passages, {options.queries:,} queries; {options.rounds} rounds\n")
    columns = {what: [one[what] for one in rounds] for what in rounds[0]}
    columns["all (aim: under 5)"] = [tuple(map(sum, zip(*one.values(), strict=True))) for one in rounds]
    rows = [
        (what, *(f"{statistics.median(part):.2f}" for part in zip(*one, strict=True))) for what, one in columns.items()
    ]
    table(("part", "seconds, median", "of the cores"), rows)
    if options.data:
        scifact(options.data / "scifact")


def scifact(folder: Path) -> None:
    """MiniLM on the test split, as a user would."""
    with tempfile.TemporaryDirectory() as out:
        seconds, _ = tokay("evaluate", "minilm", "--on", folder, "--out", out, "--json")
        [row] = json.loads((Path(out) / "results.json").read_text())["systems"]
    off = row["ndcg@10"] - PUBLISHED
    print(f"\nMiniLM on SciFact: nDCG@10 {row['ndcg@10']:.4f}, published {PUBLISHED} ({off:+.4f}), {seconds:.0f} s")
    print(f"MiniLM {row['about']}")


if __name__ == "__main__":
    main()
