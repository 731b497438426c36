"""The base's vectors of the corpus, at the cut that suits it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tokay.pipeline.context import Context
from tokay.store import StageOutput

if TYPE_CHECKING:
    from tokay.models.embedder import Embedder

CODE = ("tokay.vectors", "tokay.models", "tokay.search.dense", "tokay.evaluate.metrics")


def vectors(ctx: Context) -> None:
    """The cut, and ``base.npy``."""
    wanted = ctx.settings.train.max_tokens

    def work(out: StageOutput) -> None:
        from tokay.models.torch_embedder import TorchEmbedder
        from tokay.vectors import CUTS, choose_cut, encode_corpus, try_cuts, with_cut

        base = TorchEmbedder.load(ctx.base_folder)
        asked = [q for q in ctx.queries() if q.part in ("train", "dev") and q.seed_id]
        quality = try_cuts(base, ctx.passages(), asked, cuts=(wanted,) if wanted else CUTS, progress=ctx.progress)
        cut = choose_cut(quality)
        with_cut(base, cut)
        tried = {str(c): v for c, v in quality.items() if not math.isnan(v)}
        out.write_json("cut", {"base": ctx.settings.base, "cut": cut, "ndcg@10": tried})
        count = ctx.run.rows("corpus", "passages")
        ctx.progress.start(f"base: passages at {cut} tokens", count)
        encode_corpus(base, ctx.passages(), count, out.path / "base.npy", ctx.progress)

    key = {"cut": wanted, "name": ctx.settings.base, "base": ctx.base_print}
    ctx.stage("vectors", work, settings=key, reads=("corpus", "generate"), code=CODE)


def encode_tuned(ctx: Context, tuned: Embedder, out: StageOutput) -> None:
    """``tuned.npy``: a trained model's vectors of the corpus."""
    from tokay.vectors import encode_corpus

    count = ctx.run.rows("corpus", "passages")
    ctx.progress.start("tuned: passages", count)
    encode_corpus(tuned, ctx.passages(), count, out.path / "tuned.npy", ctx.progress)
