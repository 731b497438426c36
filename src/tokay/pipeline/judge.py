"""Candidates to ratings and judgments, and what of the user's log some passage answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tokay.pipeline.context import Context
from tokay.records import Candidate, Failure, Judgment, Query, Rating
from tokay.searchlog import answered_by
from tokay.store import StageOutput

CODE = ("tokay.annotate", "tokay.searchlog", "tokay.records")


def judge(ctx: Context) -> None:
    """Ratings, judgments, failures; the log's queries that are answered, and its gaps."""

    def work(out: StageOutput) -> None:
        ctx.consent.before_paying()
        listed: dict[str, list[str]] = {}
        for candidate in ctx.run.table("mine", "candidates", Candidate):
            listed.setdefault(candidate.query_id, []).append(candidate.passage_id)
        needed = {p for ids in listed.values() for p in ids}
        texts = {p.passage_id: p for p in ctx.passages() if p.passage_id in needed}
        items = ((q, [texts[p] for p in listed[q.query_id]]) for q in ctx.asked() if q.query_id in listed)
        ctx.progress.start("judging candidates", len(listed))
        found: dict[type, list[Any]] = {Judgment: [], Failure: []}

        def ratings() -> Iterator[Rating]:
            for item in ctx.annotator.judge(items, progress=ctx.progress):
                if isinstance(item, Rating):
                    yield item
                else:
                    found[type(item)].append(item)

        out.write("ratings", Rating, ratings())
        out.write("judgments", Judgment, found[Judgment])
        out.write("failures", Failure, found[Failure])
        answered = answered_by(ctx.run.table("generate", "log", Query), found[Judgment], ctx.parts())
        out.write("answered", Query, (q for q, part in answered if part))
        out.write("gaps", Query, (q for q, part in answered if not part))

    key = {**ctx.settings.judge.model_dump(mode="json"), "annotator": ctx.annotator.version("judge")}
    reads = [stage for stage in ("corpus", "split", "generate", "mine") if ctx.run.is_done(stage)]
    ctx.stage("judge", work, settings=key, reads=reads, code=CODE)
