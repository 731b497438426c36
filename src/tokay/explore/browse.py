"""Lists of a run's passages, queries and candidates: filters to SQL, one page at a time, none of it all.

A page is asked for by where the one before it ended (keyset), so the hundredth costs what the first does. Counts stop
at ``MOST_COUNTED``: whoever sees that many narrows the filter.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokay.decisions import Choice
from tokay.expected import faults_of
from tokay.explore.shown import short
from tokay.explore.words import match_of
from tokay.report.page import visible
from tokay.serve.refusal import Refusal

PAGE = 50
MOST_COUNTED = 10_000


class Filter(BaseModel):
    """What every list can be asked: words, where the last page ended, and how many rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Annotated[str, Field(max_length=1000)] = ""
    after: Annotated[str, Field(pattern=r"^(-?[0-9.e-]{1,30}_)?[0-9]{1,12}$|^$")] = ""
    size: Annotated[int, Field(ge=1, le=200)] = PAGE


class PassageFilter(Filter):
    """… of passages."""

    part: Literal["", "train", "dev", "test", "out"] = ""
    use: Literal["", "seed", "positive", "negative", "unused"] = ""
    document: str = ""


class QueryFilter(Filter):
    """… of queries; ``sort`` by what tuning gained, where it was measured."""

    part: Literal["", "train", "dev", "test", "seen", "out"] = ""
    state: Literal["", "judged", "unjudged", "row", "no row", "relabelled"] = ""
    decided: Literal["", "any", "accepted", "rejected", "mended"] = ""
    sort: Literal["", "wins", "losses"] = ""
    seed: Annotated[int | None, Field(ge=0)] = None


class PairFilter(Filter):
    """… of candidates with their judgments."""

    grade: Literal["", "0", "1", "2", "3", "judged", "unjudged"] = ""
    role: Literal["", "positive", "negative", "relevant", "none"] = ""
    odd: Literal["", "far but right", "near but wrong", "words only", "meaning only"] = ""
    passage: Annotated[int | None, Field(ge=0)] = None


F = TypeVar("F", bound=Filter)


def read_filter(kind: type[F], said: Mapping[str, str]) -> F:
    """A request's parameters as a filter.

    Raises:
        Refusal: one is unknown, or not as expected.
    """
    try:
        return kind.model_validate(dict(said))
    except ValidationError as error:
        raise Refusal(400, faults_of(error, kind, dict(said), what="filter")[0]) from error


def passages(db: sqlite3.Connection, asked: PassageFilter) -> dict[str, Any]:
    """A page of passages."""
    uses = {"seed": "p.seeds > 0", "positive": "p.positives > 0", "negative": "p.negatives > 0"}
    uses["unused"] = "p.seeds + p.positives + p.negatives = 0"
    where = _Where(asked, "p.n")
    where.equal("p.part", asked.part).equal("p.document_id", asked.document)
    where.true(uses.get(asked.use, ""))
    tables = where.words("passages", "p")
    columns = "p.n, passage_id, document_id, part, length, seeds, positives, negatives, title, text, source"
    rows, found = where.page(db, columns, tables, "JOIN passage_texts t ON t.n = p.n")
    return {"rows": [_passage(row) for row in rows], **found}


def queries(db: sqlite3.Connection, asked: QueryFilter, choices: Mapping[int, Choice]) -> dict[str, Any]:
    """A page of queries; ``choices`` are what people decided, by the query's number."""
    states = {"judged": "q.candidates > 0", "unjudged": "q.candidates = 0", "relabelled": "q.relabelled"}
    states |= {"row": "q.rows > 0", "no row": "q.rows = 0"}
    descending = {"wins": True, "losses": False}.get(asked.sort)
    where = _Where(asked, "q.n", sort="" if descending is None else "q.gain", descending=bool(descending))
    where.equal("q.part", asked.part).equal("q.seed", asked.seed)
    where.true(states.get(asked.state, "")).true("q.gain IS NOT NULL" if asked.sort else "")
    if asked.decided:
        chosen = sorted(n for n, choice in choices.items() if asked.decided in ("any", in_a_word(choice)))
        where.true(f"q.n IN ({','.join(map(str, chosen))})")
    tables = where.words("queries", "q")
    columns = "q.n, query_id, part, judged, candidates, best, q.rows, relabelled, gain, text, task"
    rows, found = where.page(db, columns, tables, "JOIN query_texts t ON t.n = q.n")
    return {"rows": [_query(row, choices.get(row["n"])) for row in rows], **found}


def pairs(db: sqlite3.Connection, asked: PairFilter, choices: Mapping[int, Choice]) -> dict[str, Any]:
    """A page of candidates with their judgments; ``text`` is looked for in the queries."""
    grades = {"judged": "c.grade IS NOT NULL", "unjudged": "c.grade IS NULL"}
    odd = {
        "far but right": "c.grade >= 2 AND (c.base_rank > 10 OR c.base_rank = 0)",
        "near but wrong": "c.grade = 0 AND c.base_rank BETWEEN 1 AND 3",
        "words only": "c.bm25_rank > 0 AND c.base_rank = 0",
        "meaning only": "c.base_rank > 0 AND c.bm25_rank = 0",
    }
    where = _Where(asked, "c.n")
    where.true(grades.get(asked.grade, f"c.grade = {asked.grade}" if asked.grade else ""))
    where.equal("c.role", "" if asked.role == "none" else asked.role, given=bool(asked.role))
    where.equal("c.passage", asked.passage).true(odd.get(asked.odd, ""))
    tables = "pairs c"
    if (match := match_of(asked.text)) or asked.text.strip():
        # "+": in the order of the pairs, each looked up among the queries found, rather than sorted afterwards
        where.true("+c.query IN (SELECT rowid FROM words_queries WHERE words_queries MATCH ?)", match or '""')
    columns = (
        "c.n, c.query, c.passage, c.rank, c.grade, c.best, c.role, c.base_rank, c.bm25_rank, c.initial_rank, "
        "query_id, t.text AS query_text, passage_id, pt.title, pt.text"
    )
    joins = (
        "JOIN queries q ON q.n = c.query JOIN query_texts t ON t.n = c.query JOIN passages p ON p.n = c.passage "
        "JOIN passage_texts pt ON pt.n = c.passage"
    )
    rows, found = where.page(db, columns, tables, joins)
    return {"rows": [_pair(row, choices.get(row["query"])) for row in rows], **found}


class _Where:
    """Conditions, the page's place among them, and its count."""

    def __init__(self, asked: Filter, key: str, *, sort: str = "", descending: bool = False) -> None:
        self.asked, self.key, self.sort = asked, key, sort
        self.sign, self.order = ("<", "DESC") if descending else (">", "ASC")
        self.conditions: list[str] = []
        self.values: list[Any] = []

    def true(self, condition: str, *values: Any) -> _Where:
        if condition:
            self.conditions.append(condition)
            self.values += values
        return self

    def equal(self, column: str, value: Any, *, given: bool | None = None) -> _Where:
        if given if given is not None else value not in ("", None):
            self.true(f"{column} = ?", value)
        return self

    def words(self, table: str, name: str) -> str:
        """The tables to read: the index of words first, which gives its rows in the order of their numbers."""
        match = match_of(self.asked.text)
        if not match and not self.asked.text.strip():
            return f"{table} {name}"
        self.true(f"words_{table} MATCH ?", match or '""')  # signs alone are found nowhere
        if not self.sort:
            self.key = f"words_{table}.rowid"
        return f"words_{table} CROSS JOIN {table} {name} ON {name}.n = words_{table}.rowid"

    def page(
        self, db: sqlite3.Connection, columns: str, tables: str, joins: str
    ) -> tuple[Sequence[sqlite3.Row], dict[str, Any]]:
        """The rows, where the next page begins (empty: there is none) and, of a first page, how many there are."""
        conditions, values = list(self.conditions), list(self.values)
        if self.asked.after:
            at, _, n = self.asked.after.rpartition("_")
            if self.sort:
                conditions.append(f"({self.sort} {self.sign} ? OR ({self.sort} = ? AND {self.key} > ?))")
                values += [_number(at), _number(at), int(n)]
            else:
                conditions.append(f"{self.key} > ?")
                values.append(int(n))
        order = f"{self.sort} {self.order}, {self.key}" if self.sort else self.key
        inner = f"FROM {tables} {joins} {_and(conditions)}"
        size = self.asked.size
        rows = db.execute(f"SELECT {columns} {inner} ORDER BY {order} LIMIT ?", [*values, size + 1]).fetchall()
        more, rows = len(rows) > size, rows[:size]
        end = ""
        if more:
            end = f"{rows[-1]['gain']!r}_{rows[-1]['n']}" if self.sort else str(rows[-1]["n"])
        found: dict[str, Any] = {"next": end}
        if not self.asked.after:
            counted = f"SELECT count(*) FROM (SELECT 1 FROM {tables} {_and(self.conditions)} LIMIT ?)"
            count = db.execute(counted, [*self.values, MOST_COUNTED + 1]).fetchone()[0]
            found |= {"count": min(count, MOST_COUNTED), "more": count > MOST_COUNTED}
        return rows, found


def _and(conditions: Sequence[str]) -> str:
    return f"WHERE {' AND '.join(f'({c})' for c in conditions)}" if conditions else ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise Refusal(400, f"filter 'after' is {text!r}; expected what the page before gave as 'next'") from error


def _passage(row: sqlite3.Row) -> dict[str, Any]:
    named = {name: row[name] for name in ("n", "part", "length", "seeds", "positives", "negatives")}
    texts = {name: short(row[name]) for name in ("passage_id", "document_id", "title", "text", "source")}
    return {**named, **texts}


def _query(row: sqlite3.Row, choice: Choice | None) -> dict[str, Any]:
    named = {name: row[name] for name in ("n", "part", "candidates", "best", "rows", "relabelled", "gain")}
    texts = {name: short(row[name]) for name in ("query_id", "text", "task")}
    return {**named, **texts, "decided": in_a_word(choice)}


def _pair(row: sqlite3.Row, choice: Choice | None) -> dict[str, Any]:
    names = ("n", "query", "passage", "rank", "grade", "best", "role", "base_rank", "bm25_rank", "initial_rank")
    texts = {name: short(row[name]) for name in ("query_id", "query_text", "passage_id", "title", "text")}
    given = choice.grades.get(row["passage_id"]) if choice else None
    return {**{name: row[name] for name in names}, **texts, "by_hand": given, "decided": in_a_word(choice)}


def in_a_word(choice: Choice | None) -> str:
    """What people decided about a query: accepted, rejected, mended, or nothing."""
    if choice is None or choice.empty:
        return ""
    return "rejected" if choice.rejected else "accepted" if choice.accepted else "mended"


def documents(db: sqlite3.Connection, beginning: str) -> list[str]:
    """Ids of documents, for a box that completes."""
    pattern = beginning.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_") + "%"
    found = db.execute(
        "SELECT DISTINCT document_id FROM passages WHERE document_id LIKE ? ESCAPE '\\' ORDER BY document_id LIMIT 20",
        [pattern],
    )
    return [visible(row[0]) for row in found]
