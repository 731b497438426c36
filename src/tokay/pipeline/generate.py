"""Passages to queries, and the plan corrected by what the first of them took."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokay.errors import TokayError
from tokay.llm.ledger import LEDGER, spent_in
from tokay.pipeline.context import Context
from tokay.pipeline.planning import chosen, estimate, seeds_of, written_for
from tokay.records import Failure, Part, Query
from tokay.searchlog import read_log
from tokay.split import is_seen, seen_share
from tokay.store import StageOutput, fingerprint

CODE = ("tokay.annotate", "tokay.searchlog", "tokay.records")

TRIAL = 20
"""Passages after which a paid run's estimate is corrected by what they took."""


def generate(ctx: Context) -> None:
    """Queries of the sampled passages, and those of the user's log."""
    settings = ctx.settings.generate

    def work(out: StageOutput) -> None:
        ctx.consent.before_paying()
        parts, passages, failures = ctx.parts(), seeds_of(ctx), list[Failure]()
        _try_first(ctx, passages)
        absent = sorted((ctx.annotator.seeds or set()) - set(parts))
        failures += [Failure("generate", i, "recorded, but not a passage of this corpus", "") for i in absent]
        share = seen_share(written_for(ctx, passages)["train"], ctx.settings.split)
        ctx.progress.start("writing queries", len(passages))

        def part_of(query: Query) -> Part:
            part = parts[query.seed_id]
            return "seen" if part == "train" and is_seen(query.query_id, share, ctx.settings.split) else part

        def queries() -> Iterator[Query]:
            for item in ctx.annotator.generate(
                chosen(ctx, passages), per_passage=settings.queries_per_passage, progress=ctx.progress
            ):
                if isinstance(item, Failure):
                    failures.append(item)
                else:
                    yield dataclasses.replace(item, part=part_of(item))

        written = out.write("queries", Query, queries())
        out.write("failures", Failure, failures)
        asked = out.write("log", Query, read_log(Path(ctx.settings.log)) if ctx.settings.log else ())
        if not written + asked:
            reason = failures[0].reason if failures else "no passage of this corpus was recorded"
            raise TokayError(
                f"{ctx.settings.llm} wrote no usable query for {len(passages)} passages; first reason: {reason}"
            )

    key = {
        **settings.model_dump(mode="json"),
        "annotator": ctx.annotator.version("generate"),
        "seen_share": ctx.settings.split.seen_share,
        "log": fingerprint(Path(ctx.settings.log)) if ctx.settings.log else "",
    }
    ctx.stage("generate", work, settings=key, reads=("corpus", "split"), code=CODE)


def _try_first(ctx: Context, sampled: Sequence[str]) -> None:
    """Write the queries of the first passages, correct the plan by what they took, ask again if it was far off.

    They are part of the run: afterwards the ledger answers for them. Judging cannot be tried yet, for want of
    candidates; its estimate is corrected by the same factors, since model and tokenizer are the same. Not with
    batches: it would take as long as all the rest.
    """
    trial, plan = sampled[:TRIAL], ctx.consent.plan
    if not plan.paid or ctx.settings.batch or len(trial) == len(sampled):
        return
    before = _taken(ctx)
    ctx.progress.start(f"writing queries for the first {TRIAL} passages", TRIAL)
    per_passage = ctx.settings.generate.queries_per_passage
    for _ in ctx.annotator.generate(chosen(ctx, trial), per_passage=per_passage, progress=ctx.progress):
        pass  # the ledger keeps them
    answers, prompt, completion, seconds = _taken(ctx) - before
    if answers < TRIAL / 2 or not prompt:
        return  # they were answered by an earlier start, or the server counts no tokens
    expected, asked = estimate(ctx, trial, (), judging=False), min(1.0, answers / TRIAL)
    corrected = plan.estimate.corrected(
        prompt=prompt / (expected.prompt_tokens * asked),
        answer=completion / (expected.answer_tokens * asked),
        seconds=seconds / answers,
        passages=TRIAL,
    )
    ctx.consent.correct(corrected, passages=TRIAL)


def _taken(ctx: Context) -> NDArray[np.float64]:
    """Answers, prompt and completion tokens, and seconds that writing queries has taken in this run."""
    rows = [row for row in spent_in(ctx.run.path / LEDGER) if row.stage == "generate"]
    figures = [(row.answers, row.prompt, row.completion, row.seconds) for row in rows]
    total: NDArray[np.float64] = np.sum([(0.0, 0.0, 0.0, 0.0), *figures], axis=0)
    return total
