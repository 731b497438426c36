"""Which documents are held out, and which passages nearly repeat one of theirs."""

from __future__ import annotations

import operator

from tokay.copies import bundles_of, copies_of
from tokay.pipeline.context import Context
from tokay.records import Copy, Document
from tokay.split import split_documents, units_of
from tokay.store import StageOutput

CODE = ("tokay.split", "tokay.copies", "tokay.corpus.dedup", "tokay.records")


def split(ctx: Context) -> None:
    """Documents with their parts; near copies."""
    settings = ctx.settings.split

    def work(out: StageOutput) -> None:
        ctx.progress.start("looking for documents that repeat others", None)
        units = units_of(ctx.passages())
        copies = copies_of(ctx.passages(), units, settings.near_duplicates)
        before = split_documents(ctx.passages(), settings)
        documents = split_documents(ctx.passages(), settings, copies)
        if copies:
            bundles = bundles_of(copies, units, settings.test_share * len(units))
            ctx.progress.say(
                f"{len(copies):,} passages nearly repeat one of another document, in "
                f"{len({copy.group for copy in copies}):,} groups; {sum(map(len, bundles)):,} documents are kept "
                f"with those that they repeat, for which {sum(map(operator.ne, before, documents)):,} change sides"
            )
        out.write("documents", Document, documents)
        out.write("copies", Copy, copies)

    ctx.stage("split", work, settings=settings.model_dump(mode="json"), reads=("corpus",), code=CODE)
