"""Candidates of each query."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokay.mine import DEPTH
from tokay.mine import mine as candidates_of
from tokay.models.embedder import Embedder
from tokay.pipeline.context import Context
from tokay.records import Candidate
from tokay.search.dense import top_k, unit
from tokay.search.hybrid import Ranking
from tokay.store import StageOutput

CODE = ("tokay.mine", "tokay.search", "tokay.records")


def mine(ctx: Context) -> None:
    """What base, BM25 and, where it is asked for, the embedder for mining find."""
    settings = ctx.settings.mine
    with_initial = "initial" in settings.retrievers

    def work(out: StageOutput) -> None:
        queries = [q for q in ctx.asked() if q.judged]
        texts = [q.text for q in queries]
        ids = [p.passage_id for p in ctx.passages()]
        ctx.progress.start("mining candidates", None)
        proposed = {q.query_id: own for q in queries if (own := ctx.annotator.candidates(q)) is not None}
        words = ctx.bm25(ctx.settings.hybrid.k1[0], ctx.settings.hybrid.b[0])
        rankings = {
            "base": _nearest(ctx, ctx.base(), texts, "vectors/base.npy"),
            "bm25": words.search(texts, DEPTH),
        }
        if with_initial:
            from tokay.models.torch_embedder import TorchEmbedder

            initial = TorchEmbedder.load(ctx.run.path / "initial" / "model")
            rankings["initial"] = _nearest(ctx, initial, texts, "initial/tuned.npy")
        found = candidates_of(queries, ids, rankings, settings, proposed=proposed, known=ctx.known())
        out.write("candidates", Candidate, found)

    key = {
        **settings.model_dump(mode="json"),
        "annotator": ctx.annotator.version("mine"),
        "base": ctx.base_print,
        "words": [ctx.settings.hybrid.language, ctx.settings.hybrid.k1[0], ctx.settings.hybrid.b[0]],
    }
    reads = ("corpus", "generate", "vectors", *(["initial"] if with_initial else []))
    ctx.stage("mine", work, settings=key, reads=reads, code=CODE)


def _nearest(ctx: Context, model: Embedder, texts: Sequence[str], vectors: str) -> Ranking:
    passages = np.load(ctx.run.path / vectors, mmap_mode="r")
    return top_k(unit(model.encode(texts, kind="query")), passages, DEPTH)
