"""Judgments, and what people decided, to rows."""

from __future__ import annotations

from tokay.pipeline.context import Context
from tokay.records import Example
from tokay.store import StageOutput
from tokay.trainset import rows_of

CODE = ("tokay.examples", "tokay.decisions", "tokay.copies", "tokay.records")


def examples(ctx: Context) -> None:
    """The rows, and counts of the decisions that they were made with."""
    settings = ctx.settings.examples

    def work(out: StageOutput) -> None:
        out.write("examples", Example, rows_of(ctx.run, ctx.queries(), ctx.parts(), settings, ctx.decided))
        if ctx.decided.key or ctx.decided.stale:
            counts = ctx.decided.counts({q.query_id: q.part for q in ctx.queries()})
            out.write_json("decisions", {**ctx.decided.key, "counts": counts})

    key = {**settings.model_dump(mode="json"), **ctx.decided.key}
    ctx.stage("examples", work, settings=key, reads=("corpus", "split", "generate", "mine", "judge"), code=CODE)
