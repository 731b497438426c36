"""Follow one query through a run: its passage, the LLM's answer, the candidates with their grades, the training row."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from tokay.errors import TokayError
from tokay.llm.ledger import Answer, Ledger
from tokay.records import Candidate, Example, Judgment, Passage, Query, Rating
from tokay.store import Run


@dataclasses.dataclass(frozen=True)
class Trace:
    """All records of one query. ``candidates`` are in rank order; a missing judgment means unjudged.

    ``answers`` are what the LLM said, as it said it: where each stands, and its text. ``ratings`` say, by passage, what
    each judge's number for it was: in an answer, passages are numbered in a shuffled order.
    """

    query: Query
    seed: Passage | None  # queries of a log have none
    candidates: tuple[tuple[Candidate, Passage, Judgment | None], ...]
    examples: tuple[Example, ...]
    answers: tuple[tuple[str, str], ...]
    ratings: Mapping[str, str]

    @property
    def example(self) -> Example | None:
        """The first training row of this query."""
        return self.examples[0] if self.examples else None

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
    examples: dict[str, list[Example]] = {query_id: [] for query_id in queries}
    for e in run.table("examples", "examples", Example) if run.is_done("examples") else ():
        if e.query_id in examples:
            examples[e.query_id].append(e)
    ratings: dict[str, dict[str, list[str]]] = {query_id: {} for query_id in queries}
    for r in run.table("judge", "ratings", Rating):
        if r.query_id in ratings and not r.judge.startswith("best-"):
            ratings[r.query_id].setdefault(r.passage_id, []).append(f"{r.judge} {r.value:.4g}")
    needed = {q.seed_id for q in queries.values()} | {c.passage_id for found in candidates.values() for c in found}
    passages = {p.passage_id: p for p in run.table("corpus", "passages", Passage) if p.passage_id in needed}
    traces = []
    with answers_of(run) as answer_of:
        for query in queries.values():
            found = [
                (c, passages[c.passage_id], judgments.get((query.query_id, c.passage_id)))
                for c in sorted(candidates[query.query_id], key=lambda c: c.rank)
            ]
            places = dict.fromkeys([query.answer_id, *(p for _, _, j in found if j for p in places_of(j.answer_id))])
            traces.append(
                Trace(
                    query=query,
                    seed=passages.get(query.seed_id),
                    candidates=tuple(found),
                    examples=tuple(examples[query.query_id]),
                    answers=tuple((place, answer_of(place, query, found)) for place in places),
                    ratings={passage_id: ", ".join(said) for passage_id, said in ratings[query.query_id].items()},
                )
            )
    return traces


Found = Sequence[tuple[Candidate, Passage, Judgment | None]]


def places_of(answer_id: str) -> list[str]:
    """Where the answers behind a judgment stand; several of one ledger are joined by blanks."""
    if not answer_id.startswith("ledger "):
        return [answer_id]
    return [f"ledger {key}" for key in answer_id.replace("ledger ", "").split()]


@contextlib.contextmanager
def answers_of(run: Run) -> Iterator[Callable[[str, Query, Found], str]]:
    """Reads what the LLM said: out of the ledger, or, of a recording, as the row that was played back."""
    path = run.path / "ledger.sqlite"
    ledger = Ledger(path) if path.is_file() else None

    def answer_of(place: str, query: Query, found: Found) -> str:
        kind, _, key = place.partition(" ")
        if kind == "ledger":
            answer = ledger.get(key) if ledger else None
            return _said(answer) if answer else "not in the ledger any more"
        if place == query.answer_id:
            return json.dumps({"task": query.task, "query": query.text}, ensure_ascii=False)
        graded = next((j for _, _, j in found if j and j.answer_id == place), None)
        return json.dumps({"grade": graded.grade, "best": graded.best}) if graded else ""

    try:
        yield answer_of
    finally:
        if ledger:
            ledger.close()


def _said(answer: Answer) -> str:
    return answer.text or f"log-probabilities {', '.join(f'{value:.3f}' for value in answer.values)}"
