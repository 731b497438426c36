"""Base against tuned on queries and labels that the user brought."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tokay.evaluate.qrels import read_labels
from tokay.evaluate.verdict import hits_of, judge_systems, systems_of
from tokay.leakage import overlap_of
from tokay.pipeline.context import Context
from tokay.pipeline.evaluate import CODE, Sides, weights_of
from tokay.records import Hit, Read, Score
from tokay.search.bm25 import BM25
from tokay.search.hybrid import Hybrid
from tokay.store import StageOutput, fingerprint


def labels(ctx: Context) -> None:
    """The systems of the verdict, and how many of these queries stand in training."""
    settings = ctx.settings.evaluate

    def work(out: StageOutput) -> None:
        ids = [p.passage_id for p in ctx.passages()]
        labels = read_labels(ctx.settings.queries, ctx.settings.qrels, known_ids=set(ids))
        texts = list(labels.queries.values())
        base, tuned = ctx.base(), ctx.tuned()
        ctx.progress.start("your own queries", None)
        sides = Sides(
            {"base": base, "tuned": tuned},
            {
                "base": np.load(ctx.run.path / "vectors" / "base.npy", mmap_mode="r"),
                "tuned": np.load(ctx.run.path / "evaluate" / "tuned.npy", mmap_mode="r"),
            },
        )
        hybrids = {n: Hybrid.from_json(one) for n, one in ctx.run.read_json("evaluate", "hybrid").items()}
        systems = systems_of(
            sides.of("base", texts),
            sides.of("tuned", texts),
            BM25.load(ctx.run.path / "evaluate" / "bm25"),
            texts,
            dims=tuned.config.dims,
            hybrids=hybrids,
            depth=settings.depth,
        )
        judged = {query_id: set(gains) for query_id, gains in labels.qrels.items()}
        scores, verdict = judge_systems(systems, labels.qrels, judged, ids, {}, settings)
        out.write("scores", Score, scores)
        out.write("hits", Hit, hits_of(systems, list(labels.qrels), ids, depth=10))
        given = [r.text for r in ctx.run.table("train", "read", Read) if r.role == "query"]
        verdict["in_training"] = overlap_of(texts, given).to_json()
        out.write_json("verdict", verdict | {"weights": weights_of(hybrids), "dropped": labels.dropped})

    key = {
        **settings.model_dump(mode="json"),
        "labels": [fingerprint(Path(p)) for p in (ctx.settings.queries, ctx.settings.qrels) if p],
    }
    ctx.stage("labels", work, settings=key, reads=("corpus", "vectors", "train", "evaluate"), code=CODE)
