"""Every request to an LLM and its answer, in one SQLite file: an answer is paid for once.

The file holds the text of your documents, since prompts do. It is readable by its owner only, and never holds a key.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

from tokay.errors import TokayError

LEDGER = "ledger.sqlite"
"""Its name in a run folder."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, stage TEXT NOT NULL, request TEXT NOT NULL, status TEXT NOT NULL,
    answer TEXT NOT NULL, numbers TEXT NOT NULL, reason TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, price REAL, seconds REAL NOT NULL,
    attempts INTEGER NOT NULL, created REAL NOT NULL
)
"""

_BATCHES = "CREATE TABLE IF NOT EXISTS batches (key TEXT PRIMARY KEY, token TEXT NOT NULL, batch TEXT NOT NULL)"
"""Requests that a provider works on: the token that marks their batch, and its id once that is known."""

BUSY_SECONDS = 60.0
"""How long a write waits for another process that writes; one takes milliseconds, a purge of a large file seconds."""

_WRITE = """
INSERT INTO answers VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (key) DO UPDATE SET
    stage = excluded.stage, status = excluded.status, answer = excluded.answer, numbers = excluded.numbers,
    reason = excluded.reason,
    prompt_tokens = excluded.prompt_tokens, cached_tokens = excluded.cached_tokens,
    completion_tokens = excluded.completion_tokens,
    price = COALESCE(answers.price + excluded.price, excluded.price, answers.price),
    seconds = excluded.seconds, attempts = answers.attempts + excluded.attempts, created = excluded.created
WHERE answers.status <> 'ok'
"""

_READ = """
SELECT answer, numbers, prompt_tokens, cached_tokens, completion_tokens, seconds, attempts
FROM answers WHERE key = ? AND status = 'ok'
"""


_EXPORT = """
SELECT key, model, stage, status, request, answer, numbers, reason, prompt_tokens, cached_tokens, completion_tokens
FROM answers ORDER BY key
"""


@dataclasses.dataclass(frozen=True)
class Usage:
    """Tokens of one request as the model counted them, 0 where it did not say; ``cached`` are part of ``prompt``.

    ``seconds`` is the time from sending to the last byte, of the try that succeeded.
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model said to one request.

    ``text`` answers a chat; ``first`` holds the log-probabilities (nats) of its likeliest first tokens when they were
    asked for. ``values`` and ``tokens`` answer a question for likelihoods: log P (nats) and the number of tokens of
    each continuation. ``key`` is where the ledger keeps it.
    """

    text: str = ""
    first: Mapping[str, float] = dataclasses.field(default_factory=dict)
    values: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()
    usage: Usage = Usage()
    attempts: int = 1
    key: str = ""


def canonical(request: Mapping[str, Any]) -> str:
    """A request as JSON with sorted keys, in ASCII: any text that Python can hold can be sent, kept and hashed."""
    return json.dumps(request, sort_keys=True, ensure_ascii=True)


def key_of(request: Mapping[str, Any]) -> str:
    """SHA-256 of model, full prompt and parameters in canonical JSON. The endpoint's address is not part of it."""
    return hashlib.sha256(canonical(request).encode()).hexdigest()


def _use_wal(db: sqlite3.Connection) -> None:
    """Switch to the write-ahead log. SQLite does not wait for others here, whatever the timeout, so this does."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)


class Ledger:
    """Answers by key. A failure is kept as a failure, asked again the next time, and never returned as an answer.

    Write-ahead log with ``synchronous=FULL``: a committed answer survives a kill and a power cut. (NORMAL does not
    sync the log at each commit: a power cut may lose the last answers, and they would be paid for again.)

    It may be read while another thread writes: reading has a connection of its own, which does not wait for a sync and
    sees only what is committed. Writes take turns.
    """

    def __init__(self, path: Path) -> None:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            path.chmod(0o600)  # also when it was there; the log beside it takes the same mode
            self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            _use_wal(self._db)
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(_SCHEMA)
            self._db.execute(_BATCHES)
            self._reader = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.DatabaseError) as error:
            raise TokayError(f"the ledger {path} cannot be opened: {error}; move it away to start a new one") from error
        self.path = path
        self._turn = threading.RLock()

    def get(self, key: str) -> Answer | None:
        """The answer to a request that succeeded before."""
        rows = self._read(_READ, (key,))
        if not rows:
            return None
        [row] = rows
        text, numbers, prompt, cached, completion, seconds, attempts = row
        return answer_of(text, json.loads(numbers), Usage(prompt, cached, completion, seconds), attempts, key)

    def put(self, request: Mapping[str, Any], answer: Answer, stage: str = "", price: float | None = None) -> None:
        """Commit an answer; after this returns it is never asked for again."""
        self._write(request, "ok", answer, "", stage, price)

    def fail(
        self,
        request: Mapping[str, Any],
        spent: Answer,
        reason: str,
        stage: str = "",
        price: float | None = None,
        *,
        silent: bool = False,
    ) -> None:
        """Record why a request came to nothing, and the tokens that it took. An answer that is there stays.

        ``silent``: the model answered, without text; a replay tells this apart, since more room may then help.
        """
        nothing = Answer(usage=spent.usage, attempts=spent.attempts, key=spent.key)
        self._write(request, "failed", nothing, reason, stage, price, silent=silent)

    def together(self, writes: Sequence[Callable[[], None]]) -> list[Exception | None]:
        """Make several writes to this ledger in one transaction, which takes one sync; returns the fault of each.

        Where one of them fails, all are made alone: a fault is nobody else's.
        """
        if len(writes) > 1:
            with self._turn:
                try:
                    self._db.execute("BEGIN IMMEDIATE")
                    for write in writes:
                        write()
                    self._db.execute("COMMIT")
                    return [None] * len(writes)
                except Exception:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
        return [_fault(write) for write in writes]

    def counts(self) -> dict[str, int]:
        """Rows by status, and the tokens of all of them."""
        rows = dict(self._db.execute("SELECT status, COUNT(*) FROM answers GROUP BY status").fetchall())
        tokens = self._db.execute("SELECT SUM(prompt_tokens), SUM(completion_tokens) FROM answers").fetchone()
        return {
            "answers": rows.get("ok", 0),
            "failures": rows.get("failed", 0),
            "prompt_tokens": tokens[0] or 0,
            "completion_tokens": tokens[1] or 0,
        }

    def export(self, path: Path) -> int:
        """Write all rows to a file that ``replay:`` reads; returns their number.

        JSON, one row a line, in the order of their keys and without times, so that two exports of the same answers
        are the same bytes; gzip where the name ends in ``.gz``. The file appears when it is whole, with mode 0600: it
        holds the documents' text. It holds no key of an endpoint, as the ledger holds none.

        Raises:
            TokayError: the file is there already or cannot be written.
        """
        temporary = path.with_name(f".{path.name}.new")
        if path.exists():
            raise TokayError(f"{path} is there already; name another file, or delete it first")
        try:
            temporary.unlink(missing_ok=True)
            raw = os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")
            with raw, _packed(raw, path) as file:
                count = sum(bool(file.write(canonical(row).encode() + b"\n")) for row in self._rows())
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise TokayError(f"{path} cannot be written: {error.strerror or error}") from error
        return count

    def purge(self) -> int:
        """Delete all rows, and their bytes from the files; returns how many there were. What was paid is forgotten.

        Freed pages are overwritten (``secure_delete``), the file is rewritten (``VACUUM``: earlier versions of rows
        may stand in free space), and the log is folded in and cut to nothing. Copies that the file system or the disk
        keeps are out of reach.

        Raises:
            TokayError: another process has the ledger open.
        """
        try:
            self._db.execute("PRAGMA secure_delete=ON")
            [count] = self._db.execute("SELECT COUNT(*) FROM answers").fetchone()
            self._db.execute("DELETE FROM answers")
            self._db.execute("DELETE FROM batches")
            self._db.execute("VACUUM")
            [busy, _, _] = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.DatabaseError as error:
            raise TokayError(
                f"the ledger {self.path} cannot be emptied: {error}; end what uses it, then purge again"
            ) from error
        if busy:
            raise TokayError(
                f"the ledger {self.path} is empty, but its log still holds text, since another process reads it; end "
                f"that, then purge again"
            )
        return int(count)

    # -- batches that a provider works on -------------------------------------------------------------------------

    def batch_of(self, key: str) -> tuple[str, str] | None:
        """The token and the id of the batch that holds a request; the id is empty until it is known."""
        rows = self._read("SELECT token, batch FROM batches WHERE key = ?", (key,))
        return next(iter(rows), None)

    def begin_batch(self, token: str, keys: Iterable[str]) -> None:
        """Remember that a batch marked with a token is about to be made of these requests."""
        self._change("DELETE FROM batches WHERE key IN (SELECT key FROM answers WHERE status = 'ok')")
        rows = "SELECT value, ?, '' FROM json_each(?)"  # one statement: all of them or none
        self._change(f"INSERT OR REPLACE INTO batches {rows}", (token, json.dumps(list(keys))))

    def name_batch(self, token: str, batch: str) -> None:
        """Remember the id that the provider gave a batch."""
        self._change("UPDATE batches SET batch = ? WHERE token = ?", (batch, token))

    def forget_batch(self, *, key: str = "", token: str = "") -> None:
        """Forget where a request is, or all requests of a batch: they may be sent again."""
        self._change("DELETE FROM batches WHERE key = ? OR token = ?", (key, token))

    def close(self) -> None:
        """Fold the write-ahead log into the file."""
        self._reader.close()
        self._db.close()

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Rows as they are exported."""
        cursor = self._reader.execute(_EXPORT)
        names = [column[0] for column in cursor.description]
        for values in cursor:
            row = dict(zip(names, values, strict=True))
            yield {**row, "request": json.loads(row["request"]), "numbers": json.loads(row["numbers"])}

    def _read(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            return self._reader.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise TokayError(f"the ledger {self.path} cannot be read: {error}; restore it, or move it away") from error

    def _write(
        self,
        request: Mapping[str, Any],
        status: str,
        answer: Answer,
        reason: str,
        stage: str,
        price: float | None,
        *,
        silent: bool = False,
    ) -> None:
        numbers: dict[str, Any] = {"first": dict(answer.first), "values": answer.values, "tokens": answer.tokens}
        if silent:
            numbers["silent"] = True
        values = (
            answer.key,
            str(request.get("model", "")),
            stage,
            canonical(request),
            status,
            answer.text,
            json.dumps(numbers),
            reason,
            answer.usage.prompt,
            answer.usage.cached,
            answer.usage.completion,
            price,
            answer.usage.seconds,
            answer.attempts,
            time.time(),
        )
        self._change(_WRITE, values)

    def _change(self, statement: str, values: tuple[Any, ...] = ()) -> None:
        try:
            with self._turn:
                self._db.execute(statement, values)
        except sqlite3.DatabaseError as error:
            raise TokayError(
                f"the ledger {self.path} cannot be written: {error}; what it holds already is kept: make room and "
                f"run again"
            ) from error


def answer_of(text: str, numbers: Mapping[str, Any], usage: Usage, attempts: int, key: str) -> Answer:
    """An answer from its columns."""
    first, values, tokens = numbers["first"], tuple(numbers["values"]), tuple(numbers["tokens"])
    return Answer(text, first, values, tokens, usage, attempts, key)


def _packed(raw: IO[bytes], path: Path) -> contextlib.AbstractContextManager[IO[bytes]]:
    """What to write an export into: the file itself, or gzip without a time and a name in its header."""
    if path.suffix != ".gz":
        return contextlib.nullcontext(raw)
    return cast(IO[bytes], gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0))


# -- what was spent -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Spent:
    """What one stage spent on one model: requests by their end, tokens, and the price of those that had one.

    ``price`` is None where none had one; ``unpriced`` counts the answers without.
    """

    stage: str
    model: str
    answers: int
    failures: int
    prompt: int
    cached: int
    completion: int
    seconds: float
    price: float | None
    unpriced: int


_SPENT = """
SELECT stage, model, SUM(status = 'ok'), SUM(status <> 'ok'), SUM(prompt_tokens), SUM(cached_tokens),
    SUM(completion_tokens), SUM(seconds), SUM(price), SUM(status = 'ok' AND price IS NULL)
FROM answers GROUP BY stage, model ORDER BY MIN(created)
"""


def spent_in(path: Path) -> list[Spent]:
    """What a ledger's requests took, by stage and model, in the order in which they began; nothing where it is not.

    The file is only read. Tries that gave no answer have told no tokens, so they are not in it.

    Raises:
        TokayError: it is no ledger.
    """
    if not path.is_file():
        return []
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            begun = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'answers'").fetchone()
            return [Spent(*row) for row in db.execute(_SPENT)] if begun else []  # none: killed as it was made
    except sqlite3.DatabaseError as error:
        raise TokayError(f"the ledger {path} cannot be read: {error}; restore it, or move it away") from error


def _fault(write: Callable[[], None]) -> Exception | None:
    try:
        write()
    except Exception as error:
        return error
    return None
