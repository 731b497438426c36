"""Follow one query through a run: its passage, the LLM's answer, the candidates with their grades, the training row."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from tokay.errors import TokayError
from tokay.records import Candidate, Example, Judgment, Passage, Query
from tokay.store import Run


@dataclasses.dataclass(frozen=True)
class Trace:
    """All records of one query. ``candidates`` are in rank order; a missing judgment means unjudged."""

    query: Query
    seed: Passage | None  # queries of a log have none
    candidates: tuple[tuple[Candidate, Passage, Judgment | None], ...]
    example: Example | None

    def passage(self, passage_id: str) -> Passage | None:
        """A passage of this trace by id."""
        seed = {self.seed.passage_id: self.seed} if self.seed else {}
        known = seed | {p.passage_id: p for _, p, _ in self.candidates}
        return known.get(passage_id)


def trace_queries(run: Run, query_ids: Collection[str]) -> list[Trace]:
    """The traces of some queries, in the order of the queries table; each table is read once.

    Raises:
        TokayError: an id that the run does not have.
    """
    wanted = set(query_ids)
    tables = [("generate", "queries"), ("judge", "answered"), ("judge", "gaps")]
    asked = (q for stage, table in tables for q in run.table(stage, table, Query))
    queries = {q.query_id: q for q in asked if q.query_id in wanted}
    if missing := sorted(wanted - set(queries)):
        raise TokayError(
            f"{run.path} has no query {missing[0]!r}; ids stand in report.html and in generate/queries.parquet, "
            "such as textwrap.indent#0"
        )
    candidates: dict[str, list[Candidate]] = {query_id: [] for query_id in queries}
    for candidate in run.table("mine", "candidates", Candidate):
        if candidate.query_id in candidates:
            candidates[candidate.query_id].append(candidate)
    judgments = {
        (j.query_id, j.passage_id): j for j in run.table("judge", "judgments", Judgment) if j.query_id in queries
    }
    examples = {e.query_id: e for e in run.table("examples", "examples", Example) if e.query_id in queries}
    needed = {q.seed_id for q in queries.values()} | {c.passage_id for found in candidates.values() for c in found}
    passages = {p.passage_id: p for p in run.table("corpus", "passages", Passage) if p.passage_id in needed}
    return [
        Trace(
            query=query,
            seed=passages.get(query.seed_id),
            candidates=tuple(
                (c, passages[c.passage_id], judgments.get((query.query_id, c.passage_id)))
                for c in sorted(candidates[query.query_id], key=lambda c: c.rank)
            ),
            example=examples.get(query.query_id),
        )
        for query in queries.values()
    ]
