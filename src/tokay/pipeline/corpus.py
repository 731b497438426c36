"""Documents to passages."""

from __future__ import annotations

from tokay.corpus import write_corpus
from tokay.llm.estimate import token_counter
from tokay.pipeline.context import Context
from tokay.store import StageOutput

CODE = ("tokay.corpus", "tokay.records")
"""Here as in every stage: the modules whose code makes its outputs. A change in one of them makes it run again."""


def corpus(ctx: Context) -> None:
    """Passages, what was skipped, duplicates."""
    settings = ctx.settings.corpus

    def work(out: StageOutput) -> None:
        count = token_counter(ctx.base_folder)
        write_corpus(ctx.source, settings, out, count_tokens=count, progress=ctx.progress)

    splits = settings.chunk == "always" or (settings.chunk == "auto" and not ctx.source.keep_whole)
    key = {
        **settings.model_dump(mode="json"),
        "source": ctx.source.fingerprint(),
        "tokenizer": ctx.base_print if splits else "",
    }
    ctx.stage("corpus", work, settings=key, reads=(), code=CODE)
