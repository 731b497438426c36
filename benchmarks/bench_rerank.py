"""Claim: a reranker from the run's own judgments ranks better than tuned vectors and BM25 together, in milliseconds.

Needs --run, a finished run on Python's manual; it trains a reranker for each number of layers there (or takes what was
trained) and prints depth x layers x precision: nDCG@10 on held-out queries, the difference to the ranking without it
with its interval, and the median milliseconds of reading a query's candidates,
which do not depend on how many passages there are. Choices were made on dev queries; held-out ones are read here
only. For SciFact name a run on its corpus (tokay distill DATA/scifact --llm recorded:DATA/scifact-recorded): --claims
asks the human claims, once.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import arguments, table, tokay
from tokay import open_run
from tokay.evaluate.qrels import read_labels
from tokay.evaluate.rerank import Read
from tokay.evaluate.significance import compare
from tokay.models.cross_encoder import CrossEncoder
from tokay.records import Query
from tokay.reranking import Asked, RunView
from tokay.search.rerank import Rule, probability, scaled
from tokay.search.reranker import FOLDER, read_about
from tokay.settings import resolve

DEPTHS = (5, 10, 20)
TIMED = 60
TARGET_MS, TARGET_MINUTES = 250, 20


def main() -> None:
    """Print one table a run."""
    parser = arguments(__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--layers", default="0,3", help="rerankers to train, by layers kept; 0: all")
    parser.add_argument("--forms", default="onnx,onnx-int8,torch", help="which of those that there are")
    parser.add_argument("--set", action="append", default=[], help="settings of the reranker, as for tokay train")
    parser.add_argument("--claims", action="store_true", help="ask SciFact's human claims (once)")
    options = parser.parse_args()
    if not (options.run / "manifest.json").is_file():
        print(f"bench_rerank: skipped, {options.run} is no finished run (tokay distill)", file=sys.stderr)
        return
    layers = f"rerank.layers=[{options.layers}]"
    seconds, _ = tokay(
        "train", options.run, "--what", "reranker", "--set", layers, *(w for s in options.set for w in ("--set", s))
    )
    minutes = seconds / 60
    print(f"tokay train {options.run} --what reranker --set {layers}: {minutes:.1f} min (target {TARGET_MINUTES})\n")
    run = open_run(options.run)
    view = RunView(run, resolve({}, config=options.run / "run.toml"))
    embedder = view.tuned()
    compared(view, view.asked(embedder, "test"), "held-out queries", options.forms.split(","))
    if options.claims and options.data:
        compared(view, claims(view, embedder, options.data / "scifact"), "human claims", options.forms.split(","))


def claims(view: RunView, embedder: Any, folder: Path) -> Asked:
    """SciFact's test claims with the run's candidates."""
    labels = read_labels(str(folder), str(folder), known_ids=set(view.ids), split="test")
    queries = [Query(i, "", "", text, "test", True, "labels", "") for i, text in labels.queries.items()]
    ranking = view.candidates(queries, view.encoded(embedder, queries))
    return Asked(queries, labels.qrels, {q: set(grades) for q, grades in labels.qrels.items()}, ranking)


def compared(view: RunView, asked: Asked, what: str, backends: Sequence[str]) -> None:
    """All forms at all depths."""
    about = read_about(view.run.path / FOLDER)
    plain = Read(asked.qrels, view.ids, asked.ranking, np.zeros((len(asked.queries), 1), np.float32))
    without = plain.quality(Rule(0.0, 1))
    groups = [q.seed_id or q.query_id for q in asked.queries]
    print(f"{len(asked.queries)} {what}, {len(view.ids):,} passages; tuned+BM25: nDCG@10 {without.mean():.4f}")
    rows = []
    kept = [form for form in about.forms if form.backend in backends]
    for form in sorted(kept, key=lambda form: (-form.layers, form.backend)):
        model = CrossEncoder.load(view.run.path / FOLDER / form.folder, backend=form.backend)
        read = logits(view, asked, model, max(DEPTHS))
        for depth in DEPTHS:
            rule = Rule(form.weight, depth, 1.0, about.top)
            early = dataclasses.replace(rule, ceiling=form.ceiling)
            values = read.quality(early)
            c = compare(values, without, groups=groups)
            alone = read.quality(dataclasses.replace(rule, weight=1.0))
            found = read.reranked(early)
            rows.append(
                [
                    form.layers,
                    form.backend,
                    depth,
                    f"{np.mean([one.read for one in found]):.1f}",
                    f"{alone.mean():.4f}",
                    f"{read.quality(rule).mean():.4f}",
                    f"{values.mean():.4f}",
                    f"{c.difference:+.4f} ({c.low:+.4f} to {c.high:+.4f})",
                    f"{milliseconds(view, asked, model, depth):.0f}",
                ]
            )
    head = ["layers", "form", "depth", "read", "alone", "mixed", "stopped early", "to tuned+BM25 (95 %)", "ms, p50"]
    table(head, rows)
    print(f"target: depth 10 in onnx-int8 below {TARGET_MS} ms; weights {[f.weight for f in kept]}\n")


def logits(view: RunView, asked: Asked, model: CrossEncoder, depth: int) -> Read:
    """All read once."""
    read = Read(asked.qrels, view.ids, asked.ranking, np.zeros((len(asked.queries), depth), np.float32))
    pairs = [
        (q.text, view.texts[i])
        for q, row in zip(asked.queries, asked.ranking[0].tolist(), strict=True)
        for i in row[:depth]
        if i >= 0
    ]
    read.logits[read.there()] = model.score(pairs)
    return read


def milliseconds(view: RunView, asked: Asked, model: CrossEncoder, depth: int) -> float:
    """The median of reading all of so many candidates of a query, one query at a time."""
    times = []
    for q, row, scores in list(zip(asked.queries, *asked.ranking, strict=True))[: TIMED + 1]:
        began = time.perf_counter()
        p = probability(model.score([(q.text, view.texts[i]) for i in row[:depth].tolist() if i >= 0]))
        np.argsort(-(scaled(scores)[: len(p)] + p))
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[1:])  # the first is the slowest


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
