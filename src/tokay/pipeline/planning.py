"""From the corpus to the plan: which passages are sampled, and what the LLM will be asked about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tokay.evaluate.general import plan_of
from tokay.llm.client import base_url
from tokay.llm.estimate import Estimate, count, token_counter
from tokay.llm.ledger import LEDGER, spent_in
from tokay.llm.prices import PriceTable, load_prices
from tokay.pipeline.context import Context
from tokay.pipeline.plan import Plan
from tokay.records import Document, Passage, Query
from tokay.sampling import sample_ids, sample_passages
from tokay.searchlog import read_log
from tokay.split import seen_share

POOL = 256
"""Passages that stand for queries and candidates in an estimate."""


def plan(ctx: Context) -> Plan:
    """What is left to do once the documents are split."""
    documents = list(ctx.run.table("split", "documents", Document))
    sizes = {part: sum(d.passages for d in documents if d.part == part) for part in ("train", "dev", "test")}
    own = list(read_log(Path(ctx.settings.log))) if ctx.settings.log else []
    sections = any(" > " in d.document_id for d in documents)
    made = planned(ctx, len(documents), seeds_of(ctx), sizes=sizes, by_section=sections, own=own)
    return dataclasses.replace(made, guard=plan_of(ctx.settings.guard))


def planned(
    ctx: Context,
    documents: int,
    sampled: Sequence[str],
    *,
    sizes: Mapping[str, int],
    by_section: bool,
    own: Sequence[Query],
) -> Plan:
    """A plan.

    Args:
        ctx: with its corpus, and its split where something is held out.
        documents: how many, or how many sections.
        sampled: ids of the passages that queries are written for.
        sizes: part -> passages.
        by_section: sections are held out instead of documents.
        own: the user's queries.
    """
    spent = spent_in(ctx.run.path / LEDGER)
    written = written_for(ctx, sampled)
    return Plan(
        documents=documents,
        passages=ctx.run.rows("corpus", "passages"),
        skipped=ctx.run.rows("corpus", "skipped"),
        held_out=sizes.get("test", 0),
        dev=sizes.get("dev", 0),
        left_out=sum(part == "out" for part in ctx.parts().values()),
        by_section=by_section,
        sampled=len(sampled),
        queries_per_passage=ctx.settings.generate.queries_per_passage,
        queries=len(own),
        test_queries=written["test"],
        seen_queries=round(written["train"] * seen_share(written["train"], ctx.settings.split)),
        candidates=ctx.settings.mine.candidates,
        llm=ctx.settings.llm,
        paid=ctx.annotator.paid,
        estimate=estimate(ctx, sampled, own),
        assumes=ctx.annotator.assumes,
        answered=sum(row.answers for row in spent),
        spent=sum(row.price or 0.0 for row in spent),
        budget=ctx.settings.budget,
        where=base_url(ctx.settings.llm_url),
    )


def estimate(ctx: Context, sampled: Sequence[str], own: Sequence[Query], *, judging: bool = True) -> Estimate:
    """What the LLM will be asked about these passages and queries, with tokens as the base counts them."""
    if not ctx.annotator.paid:
        return Estimate((), load_prices())
    pool = sample_passages(ctx.passages(), POOL, salt="pool") if judging else []
    requests = ctx.annotator.sample_requests(
        chosen(ctx, sampled),
        pool,
        per_passage=ctx.settings.generate.queries_per_passage,
        candidates=ctx.settings.mine.candidates,
        own=own,
    )
    counted = count(requests, token_counter(ctx.base_folder))
    return Estimate(counted, _prices(ctx), concurrency=ctx.settings.calls.concurrency)


def seeds_of(ctx: Context) -> list[str]:
    """Ids of the passages that queries are written for: neither choice nor order depends on that of the corpus."""
    settings, eligible = ctx.settings.generate, ctx.annotator.seeds
    ids = (i for i, part in ctx.parts().items() if part != "out" and (eligible is None or i in eligible))
    return sample_ids(ids, settings.passages, salt=str(settings.seed))


def written_for(ctx: Context, sampled: Sequence[str]) -> dict[str, int]:
    """How many queries are to be written for passages of each part."""
    parts, each = ctx.parts(), ctx.settings.generate.queries_per_passage
    return {part: each * sum(parts[i] == part for i in sampled) for part in ("train", "dev", "test")}


def chosen(ctx: Context, ids: Iterable[str]) -> Iterator[Passage]:
    """Passages by their ids, in the order of the corpus."""
    wanted = set(ids)
    return (p for p in ctx.passages() if p.passage_id in wanted)


def _prices(ctx: Context) -> PriceTable:
    """The table, of batches where they are asked for."""
    table = load_prices(ctx.settings.prices)
    return table.batched() if ctx.settings.batch else table
