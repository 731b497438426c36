"""What a person says about a query, checked, and kept as a record that the next training reads."""

from __future__ import annotations

import contextlib
import getpass
import sqlite3
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field

from tokay.decisions import GRADES, Choice, choices_of, fitting
from tokay.examples import same_side
from tokay.explore.shown import short
from tokay.records import Action, Decision, sha256_text
from tokay.report.page import visible
from tokay.serve.reading import Said
from tokay.serve.refusal import Refusal
from tokay.store import Run


class SaidDecision(Said):
    """A request: numbers of query and passage, and ``after``, the newest decision that the person had before them."""

    query: Annotated[int, Field(ge=0)]
    action: Action
    passage: Annotated[int, Field(ge=0)] | None = None
    grade: int | None = None
    after: str = ""
    why: Annotated[str, Field(max_length=2000)] = ""


class Desk:
    """The decisions of a run, and the way to add one.

    Args:
        run: open for reading; decisions have a lock of their own.
        connect: gives this thread's connection to the cache.
    """

    def __init__(self, run: Run, connect: Callable[[], sqlite3.Connection]) -> None:
        self.run, self.connect = run, connect
        self.who = _user()
        self._lock = threading.Lock()
        self._read: tuple[Sequence[Decision], dict[int, Choice], int] | None = None
        self._seen: object = None

    # -- what stands ----------------------------------------------------------------------------------------------

    def choices(self) -> Mapping[int, Choice]:
        """Number of a query -> what stands."""
        return self._current()[1]

    def choice(self, n: int) -> Choice:
        """What stands for one query."""
        return self.choices().get(n, Choice())

    def stale(self) -> int:
        """How many decisions no longer fit the run."""
        return self._current()[2]

    def newest(self, n: int) -> str:
        """The id of the newest decision about a query, undone or not; empty: there is none."""
        query_id = self._query(n)[0]
        return _newest(self._current()[0], query_id)

    def listed(self) -> list[dict[str, Any]]:
        """All of them, newest first, as JSON."""
        made = self._current()[0]
        undone = {d.undoes for d in made if d.action == "undo"}
        numbers = self._numbers("queries", "query_id", {d.query_id for d in made})
        texts = self._texts(numbers.values())
        return [
            {
                **{name: visible(getattr(d, name)) for name in ("decision_id", "action", "made", "who", "undoes")},
                "query": numbers.get(d.query_id),
                "query_id": visible(d.query_id),
                "text": short(texts.get(numbers.get(d.query_id, -1), "")),
                "passage_id": visible(d.passage_id),
                "grade": d.grade if d.action == "grade" else None,
                "why": short(d.why),
                "undone": d.decision_id in undone,
            }
            for d in reversed(made)
        ]

    # -- adding ---------------------------------------------------------------------------------------------------

    def decide(self, said: SaidDecision, positive: Callable[[], str]) -> Decision:
        """Keep a decision.

        Args:
            said: by the person.
            positive: gives the id of the positive that the query's row has now; empty: there is none.

        Raises:
            Refusal: an unknown query or passage, no grade, a passage of another part, nothing to undo; or somebody
                else decided about this query in between.
        """
        query_id, text, part = self._query(said.query)
        passage_id, passage_hash = "", ""
        if said.action in ("positive", "grade"):
            passage_id, passage_hash = self._passage(said, part)
        if said.action == "grade" and said.grade not in GRADES:
            raise Refusal(400, f"grade is {said.grade!r}; expected 0, 1, 2 or 3", param="grade")

        def make(before: list[Decision]) -> Decision:
            newest = _newest(before, query_id)
            if newest != said.after:
                raise Refusal(409, _conflict(before, newest), code="conflict")
            about, about_hash, undoes = passage_id, passage_hash, ""
            if said.action == "accept":
                about = positive()
                if not about:
                    raise Refusal(
                        400, "this query makes no training row, so there is nothing to accept; choose a positive"
                    )
                about_hash = self._hash(about)
            if said.action == "undo":
                undoes = choices_of(before).get(query_id, Choice()).last
                if not undoes:
                    raise Refusal(400, "nothing was decided about this query, or all of it was undone already")
            return Decision(
                decision_id=uuid.uuid4().hex,
                query_id=query_id,
                query_sha256=sha256_text(text),
                action=said.action,
                passage_id=about,
                passage_sha256=about_hash,
                grade=said.grade if said.action == "grade" and said.grade is not None else -1,
                undoes=undoes,
                made=datetime.now(UTC).isoformat(timespec="milliseconds"),
                who=self.who,
                why=said.why,
            )

        return self.run.decide(make)

    # -- the cache ------------------------------------------------------------------------------------------------

    def _current(self) -> tuple[Sequence[Decision], dict[int, Choice], int]:
        """Read again when the file is another than it was."""
        with self._lock:
            seen = self.run.decisions_state()
            if self._read is None or seen != self._seen:
                made = self.run.decisions()
                numbers = self._numbers("queries", "query_id", {d.query_id for d in made})
                texts = self._texts(numbers.values())
                hashes = {query_id: sha256_text(texts[n]) for query_id, n in numbers.items()}
                named = {d.passage_id: self._hash(d.passage_id) for d in made if d.passage_id}
                kept, stale = fitting(made, hashes, named)
                choices = {numbers[query_id]: choice for query_id, choice in choices_of(kept).items()}
                self._read, self._seen = (made, choices, stale), seen
            return self._read

    def _query(self, n: int) -> tuple[str, str, Any]:
        row = (
            self.connect()
            .execute("SELECT query_id, text, part FROM queries JOIN query_texts USING (n) WHERE n = ?", [n])
            .fetchone()
        )
        if row is None:
            raise Refusal(404, f"there is no query number {n} in this run; the list of queries has their numbers")
        return tuple(row)

    def _passage(self, said: SaidDecision, part: Any) -> tuple[str, str]:
        if said.passage is None:
            raise Refusal(400, f"field 'passage' is missing; action {said.action!r} is about one", param="passage")
        row = (
            self.connect()
            .execute(
                "SELECT passage_id, sha256, part FROM passages JOIN passage_texts USING (n) WHERE n = ?", [said.passage]
            )
            .fetchone()
        )
        if row is None:
            raise Refusal(404, f"there is no passage number {said.passage} in this run", param="passage")
        if said.action == "positive" and row["part"] and not same_side(row["part"], part):
            raise Refusal(
                400,
                f"passage {visible(row['passage_id'])!r} is of the {row['part']} part and the query of the {part} "
                "part; choose a positive of the query's own part, so that nothing held out enters training",
                param="passage",
            )
        return row["passage_id"], row["sha256"]

    def _hash(self, passage_id: str) -> str:
        row = (
            self.connect()
            .execute("SELECT sha256 FROM passage_texts JOIN passages USING (n) WHERE passage_id = ?", [passage_id])
            .fetchone()
        )
        return row[0] if row else ""

    def _numbers(self, table: str, column: str, ids: set[str]) -> dict[str, int]:
        db, found = self.connect(), {}
        for one in ids:
            row = db.execute(f"SELECT n FROM {table} WHERE {column} = ?", [one]).fetchone()
            if row:
                found[one] = row[0]
        return found

    def _texts(self, numbers: Any) -> dict[int, str]:
        db = self.connect()
        return {n: db.execute("SELECT text FROM query_texts WHERE n = ?", [n]).fetchone()[0] for n in numbers}


def _newest(made: Sequence[Decision], query_id: str) -> str:
    return next((d.decision_id for d in reversed(made) if d.query_id == query_id), "")


def _conflict(made: Sequence[Decision], newest: str) -> str:
    other = next((d for d in made if d.decision_id == newest), None)
    if other is None:
        return "the decision that this one follows is no longer there; look at the query again"
    by = f" by {visible(other.who)}" if other.who else ""
    return (
        f"this query was decided about in between ({other.action}{by}, {other.made}); look at what stands now and "
        "decide again"
    )


def _user() -> str:
    with contextlib.suppress(Exception):  # getpass raises whatever its system's module does
        return getpass.getuser()
    return ""
