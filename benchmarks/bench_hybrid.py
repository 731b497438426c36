"""Claim: the weight of BM25, learned from written queries alone, has 90 % of what the best weight gains.

Needs --data with scifact/, scifact-recorded/ and cranfield/, or --run with a finished run, or both. On SciFact the
weight is learned from the recording's written queries and judgments and measured on people's claims (--split; the 300
test claims are to be looked at once). On Cranfield nothing is learned: the usual weight. On a run, its own held-out
queries, with what it learned.

"best" is the best of a grid of weights on the very queries that are measured, which nobody can know; "share" is
(learned - dense) / (best - dense). The other fusions are over the same two first hundreds: reciprocal ranks with
k = 60, and a fixed share w of BM25 beside the vectors, both min-max normalised over their own hits.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

import tokay
from common import arguments, table
from tokay.evaluate.fusion import Material, choose_bm25, learn_hybrid
from tokay.evaluate.metrics import ndcg
from tokay.evaluate.significance import compare
from tokay.evaluate.verdict import Side, qrels_of
from tokay.records import Judgment, Passage, Query
from tokay.search.bm25 import BM25
from tokay.search.dense import top_k, unit
from tokay.search.hybrid import DEPTH, Hybrid, Pool, pools_of, spread_of
from tokay.search.learn import GRID, Judged, quality_by_weight
from tokay.settings import HybridSettings
from tokay.store import Run


def main() -> None:
    """Print a row for each set, and how long a query takes."""
    parser = arguments(__doc__)
    parser.add_argument("--run", type=Path, action="append", default=[], help="a finished run; repeatable")
    parser.add_argument("--split", default="train", choices=["train", "test"], help="of SciFact's claims")
    parser.add_argument("--vectors", type=Path, help="a folder that keeps the passages' vectors for another time")
    parser.add_argument("--exported", type=Path, help="a run with an ONNX export, timed too")
    options = parser.parse_args()
    rows = [row for run in options.run for row in of_run(run)]
    if options.data:
        embedder = tokay.Embedder.load("minilm")
        for name in ("cranfield", "scifact"):
            corpus = read(options.data / name / "corpus.parquet")
            texts = [f"{row['title']} {row['text']}" for row in corpus]
            titles = [row["title"] for row in corpus]
            kept = options.vectors / f"{name}.npy" if options.vectors else None
            if kept is not None and kept.is_file():
                passages = np.load(kept)
            else:
                passages = unit(embedder.encode([row["text"] for row in corpus], titles=titles))
                if kept is not None:
                    np.save(kept, passages)
            rows.append(of_set(name, embedder, corpus, texts, passages, options))
    head = ["set", "queries", "dense", "BM25", "RRF", "min-max .2", "min-max .5", "usual", "learned", "best", "share"]
    table([*head, "weight", "against the better side"], rows)


def of_set(
    name: str,
    embedder: Any,
    corpus: Sequence[Mapping[str, Any]],
    texts: Sequence[str],
    passages: NDArray[np.float32],
    options: argparse.Namespace,
) -> list[object]:
    """A BEIR set with people's queries."""
    place = {row["_id"]: i for i, row in enumerate(corpus)}
    bm25, hybrid = BM25(texts), None
    recording = options.data / f"{name}-recorded"
    if recording.is_dir():
        queries = [
            Query(row["query_id"], row["seed_id"], row["task"], row["query"], "train", row["judged"], "", "")
            for row in read(recording / "queries.parquet")
        ]
        judgments = [
            Judgment(row["query_id"], row["passage_id"], row["grade"], 0.0, row["best"], "", "")
            for row in read(recording / "judgments.parquet")
        ]
        qrels, _ = qrels_of(queries, judgments, relevant_grade=2)
        kept = [q for q in queries if q.query_id in qrels]
        side = Side(embedder.encode([q.text for q in kept], kind="query"), passages)
        material, settings = Material(side, kept, qrels, place, DEPTH), HybridSettings()
        bm25 = choose_bm25(lambda k1, b: BM25(texts, k1=k1, b=b), material, settings)
        hybrid, _ = learn_hybrid(bm25, material, settings)
    split = options.split if recording.is_dir() else "test"
    gains: dict[str, dict[int, int]] = {}
    for row in read(options.data / name / "qrels.parquet"):
        if row["split"] == split or not recording.is_dir():
            gains.setdefault(row["query_id"], {})[place[row["corpus_id"]]] = row["score"]
    asked = [row for row in read(options.data / name / "queries.parquet") if row["_id"] in gains]
    words = [row["text"] for row in asked]
    vectors = unit(embedder.encode(words, kind="query"))
    pools = list(pools_of(top_k(vectors, passages, DEPTH), bm25, words, vectors, passages))
    judged = [Judged(pool, gains[row["_id"]], row["_id"]) for pool, row in zip(pools, asked, strict=True)]
    clock(name, embedder, bm25, passages, words[:200])
    if options.exported:
        clock(f"{name}, onnx", tokay.Embedder.load(options.exported, backend="onnx"), bm25, passages, words[:200])
    return row_of(
        name + (f" {split} claims" if recording.is_dir() else ""), judged, hybrid, spread_of(vectors, passages)
    )


def clock(name: str, embedder: Any, bm25: BM25, passages: NDArray[np.float32], words: Sequence[str]) -> None:
    """Print how long a query takes, from its text to its hits."""
    times = []
    for word in words:
        began = time.perf_counter()
        one = unit(embedder.encode([word], kind="query"))
        Hybrid(0.05).rank(list(pools_of(top_k(one, passages, DEPTH), bm25, [word], one, passages)), 10)
        times.append(1e3 * (time.perf_counter() - began))
    median, late = np.quantile(times, [0.5, 0.9])
    print(
        f"{name}: {len(passages):,} passages, a query with BM25: median {median:.1f} ms, nine of ten in {late:.1f} ms"
    )


def of_run(folder: Path) -> list[list[object]]:
    """The held-out queries of a run, base and tuned."""
    run = Run(folder, writable=False)
    hybrids = {name: Hybrid.from_json(one) for name, one in run.read_json("evaluate", "hybrid").items()}
    ids = [p.passage_id for p in run.table("corpus", "passages", Passage)]
    place = {passage_id: i for i, passage_id in enumerate(ids)}
    queries = [q for q in run.table("generate", "queries", Query) if q.part == "test"]
    qrels, _ = qrels_of(queries, run.table("judge", "judgments", Judgment), relevant_grade=2)
    queries = [q for q in queries if q.query_id in qrels]
    words = [q.text for q in queries]
    bm25 = BM25.load(folder / "evaluate" / "bm25")
    rows = []
    base = run.read_json("vectors", "cut")
    for name, model, file in (
        ("base", base["base"], folder / "vectors" / "base.npy"),
        ("tuned", folder / "train" / "model", folder / "evaluate" / "tuned.npy"),
    ):
        passages = np.load(file)
        vectors = unit(tokay.Embedder.load(model).encode(words, kind="query"))
        pools = list(pools_of(top_k(vectors, passages, DEPTH), bm25, words, vectors, passages))
        judged = [
            Judged(pool, {place[p]: gain for p, gain in qrels[q.query_id].items() if gain}, q.seed_id)
            for pool, q in zip(pools, queries, strict=True)
        ]
        rows.append(row_of(f"{folder.name}: {name}", judged, hybrids[name], spread_of(vectors, passages)))
    return rows


def row_of(name: str, judged: Sequence[Judged], hybrid: Hybrid | None, spread: float) -> list[object]:
    """Every fusion's nDCG@10, and the learned one (or the usual) against the better of its sides."""
    pools = [one.pool for one in judged]
    gains = [one.gains for one in judged]
    curve = quality_by_weight(judged, GRID * spread)
    usual = Hybrid.usual(spread, pools[0].bm25)
    chosen = hybrid or usual
    ours = quality(gains, chosen.rank(pools, 10)[0])
    words = quality(gains, [by(pool, pool.words) for pool in pools])
    dense, best = curve[0].mean(), max(curve.mean(1).max(), ours.mean())
    better = curve[0] if dense >= words.mean() else words
    against = compare(
        ours.tolist(), better.tolist(), groups=[str(one.group) for one in judged], resamples=10_000, seed=0
    )
    shown = [
        dense,
        words.mean(),
        quality(gains, [by(pool, reciprocal(pool)) for pool in pools]).mean(),
        quality(gains, [by(pool, min_max(pool, 0.2)) for pool in pools]).mean(),
        quality(gains, [by(pool, min_max(pool, 0.5)) for pool in pools]).mean(),
        quality(gains, usual.rank(pools, 10)[0]).mean(),
        ours.mean() if hybrid else float("nan"),
        best,
    ]
    share = f"{(ours.mean() - dense) / (best - dense):.2f}" if best > dense else "-"
    interval = f"{against.difference:+.3f} ({against.low:+.3f} to {against.high:+.3f})"
    weight = f"{chosen.weight:.3f}{' bent' if chosen.features else ''}, k1 {chosen.k1}, b {chosen.b}"
    return [name, len(judged), *(f"{value:.4f}" for value in shown), share, weight, interval]


def by(pool: Pool, scores: NDArray[np.float64]) -> list[int]:
    """The ten best of a pool."""
    return [int(i) for i in pool.indices[np.lexsort((pool.indices, -scores))[:10]]]


def reciprocal(pool: Pool) -> NDArray[np.float64]:
    """Sum of 1 / (60 + rank) over the two first hundreds."""
    total = np.zeros(len(pool.indices))
    for scores in (pool.dense, pool.words):
        order = np.lexsort((pool.indices, -scores))[:DEPTH]
        order = order[scores[order] > 0] if scores is pool.words else order
        total[order] += 1 / (61 + np.arange(len(order)))
    return total


def min_max(pool: Pool, share: float) -> NDArray[np.float64]:
    """Both sides over their own first hundred, what is not there 0."""
    total = np.zeros(len(pool.indices))
    for part, scores in ((1 - share, pool.dense), (share, pool.words)):
        order = np.lexsort((pool.indices, -scores))[:DEPTH]
        order = order[scores[order] > 0] if scores is pool.words else order
        if len(order):
            low, high = scores[order].min(), scores[order].max()
            total[order] += part * ((scores[order] - low) / (high - low) if high > low else 1.0)
    return total


def quality(
    gains: Sequence[Mapping[int, int]], found: Sequence[Sequence[int]] | NDArray[np.int64]
) -> NDArray[np.float64]:
    """nDCG@10 of each query."""
    return np.array(
        [
            ndcg([own.get(int(i), 0) for i in row], list(own.values()), k=10)
            for own, row in zip(gains, found, strict=True)
        ]
    )


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a Parquet file."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


if __name__ == "__main__":
    main()
