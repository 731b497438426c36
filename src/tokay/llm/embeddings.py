"""Embeddings of an OpenAI-compatible endpoint: in batches, retried as chats are, and each text paid for once.

Letters: N texts, D width.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from tokay.errors import TokayError
from tokay.llm.client import Endpoint, NotThere, endpoint
from tokay.llm.door import AskFailed
from tokay.llm.ledger import canonical
from tokay.llm.limits import Limits
from tokay.progress import Progress

PATH = "/embeddings"
OPTION = "--url"
TEXTS = 64
"""Of a request; OpenAI takes 2,048, small servers mostly 32 to 100 at a time without queueing."""
CHARACTERS = 200_000
"""Of a request: below OpenAI's 300,000 tokens in any script."""
_TABLE = "CREATE TABLE IF NOT EXISTS vectors (key TEXT PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"


class RemoteEmbedder:
    """A model behind ``/embeddings``. It knows no sides: queries and passages are sent as they are.

    Args:
        model: its name at the endpoint.
        url: base URL; empty: ``$OPENAI_BASE_URL``, else OpenAI.
        cache: a SQLite file, made where there is none; what it holds is not asked again.
        concurrency: requests in flight.

    Raises:
        TokayError: the URL is none, or the key is missing.
        MissingExtra: httpx2 is not installed.
    """

    def __init__(self, model: str, *, url: str, cache: Path, concurrency: int = 4) -> None:
        self.model = model
        self.url, _ = endpoint(url, option=OPTION)
        self.tokens = 0
        """That the endpoint counted, in this process."""
        self._concurrency = concurrency
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.touch(mode=0o600)
        try:
            self._db = sqlite3.connect(cache, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(_TABLE)
        except sqlite3.DatabaseError as error:
            raise TokayError(f"{cache} cannot be used to keep vectors: {error}; move it away") from error
        self._turn = threading.Lock()

    @property
    def name(self) -> str:
        """As the user named it."""
        return f"openai:{self.model}"

    @property
    def is_near(self) -> bool:
        """Whether the endpoint is this machine: nothing leaves it."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The texts that would have to be asked for, each once."""
        return [text for text in dict.fromkeys(texts) if self._known(text) is None]

    def encode(self, texts: Sequence[str], *, progress: Progress) -> NDArray[np.float32]:
        """Vectors as the endpoint gives them, (N, D); what is answered is kept at once.

        Raises:
            TokayError: the endpoint refuses, cannot be reached, or answers with something else than one vector of
                finite numbers, of one width, for each text.
        """
        wanted = self.missing(texts)
        progress.start(f"{self.name}: texts", len(wanted))
        stop = threading.Event()
        with ThreadPoolExecutor(1) as thread:  # a notebook's own thread runs a loop already
            asking = thread.submit(asyncio.run, self._ask_all(wanted, stop, progress))
            try:
                asking.result()
            except BaseException:
                stop.set()
                raise
        rows = [self._known(text) for text in texts]
        widths = sorted({len(row) for row in rows if row is not None})
        if len(widths) > 1:
            raise TokayError(
                f"{self.name} at {self.url} answered with vectors of {' and of '.join(map(str, widths))} numbers; "
                "expected one width: is it one model?"
            )
        return np.array(rows, np.float32).reshape(len(texts), widths[0] if widths else 0)

    def close(self) -> None:
        """Fold the log into the file."""
        self._db.close()

    async def _ask_all(self, texts: Sequence[str], stop: threading.Event, progress: Progress) -> None:
        server = Endpoint(self.model, url=self.url, limits=Limits(concurrency=self._concurrency), option=OPTION)
        batches = _batches(texts)

        async def work() -> None:
            for batch in batches:
                if stop.is_set():
                    return
                try:
                    await self._ask(server, batch)
                except BaseException:
                    stop.set()
                    raise
                progress.advance(len(batch))

        try:
            await asyncio.gather(*(work() for _ in range(self._concurrency)))
        finally:
            await server.close()

    async def _ask(self, server: Endpoint, batch: Sequence[str]) -> None:
        body = {"model": self.model, "input": list(batch), "encoding_format": "float"}
        try:
            answer = await server.call("POST", PATH, content=canonical(body).encode("utf-8", "surrogatepass"))
        except NotThere as error:
            raise TokayError(
                f"{self.url} has no model {self.model!r} or no {PATH} ({error}); check the model's name and {OPTION}"
            ) from None
        except AskFailed as error:
            longest = max(len(text) for text in batch)
            raise TokayError(
                f"{self.name} at {self.url} refused {len(batch)} texts, the longest of {longest:,} characters "
                f"({error}); what was answered is kept: run again, or leave this system out"
            ) from None
        vectors, tokens = read_vectors(answer, len(batch), f"{self.name} at {self.url}")
        self.tokens += tokens
        with self._turn:
            rows = ((self._key(text), row.tobytes()) for text, row in zip(batch, vectors, strict=True))
            self._db.execute("BEGIN")
            self._db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
            self._db.execute("COMMIT")

    def _known(self, text: str) -> NDArray[np.float32] | None:
        with self._turn:
            row = self._db.execute("SELECT vector FROM vectors WHERE key = ?", (self._key(text),)).fetchone()
        return np.frombuffer(row[0], "<f4") if row else None

    def _key(self, text: str) -> str:
        return hashlib.sha256(f"{self.url}\0{self.model}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()


def read_vectors(body: bytes, count: int, who: str) -> tuple[NDArray[np.float32], int]:
    """The vectors of an answer in the order of the texts, (N, D), and the tokens that it says were read.

    Raises:
        TokayError: it is none, or has another number of vectors, several widths, or numbers that are not finite.
    """
    try:
        data: Any = json.loads(body)
        rows = [(row.get("index", at), row["embedding"]) for at, row in enumerate(data["data"])]
        usage = data.get("usage") or {}
        tokens = int(usage.get("prompt_tokens") or usage.get("total_tokens") or 0)
    except (ValueError, KeyError, TypeError, AttributeError):
        said = " ".join(body[:200].decode("utf-8", "replace").split())
        raise TokayError(
            f"{who} answered something else than embeddings ({said}); expected the base URL of an OpenAI-compatible "
            f"API: check {OPTION}"
        ) from None
    places = sorted(index for index, _ in rows) if all(isinstance(index, int) for index, _ in rows) else []
    if places != list(range(count)):
        raise TokayError(
            f"{who} answered with {len(rows)} vectors for {count} texts; expected one for each, by its index"
        )
    try:
        vectors = [np.array(row, "<f4") for _, row in sorted(rows, key=lambda pair: pair[0])]
    except (ValueError, TypeError, OverflowError):
        raise TokayError(f"{who} answered with an embedding that is no list of numbers; ask another endpoint") from None
    shapes = {vector.shape for vector in vectors}
    if len(shapes) > 1 or any(len(shape) != 1 or not shape[0] for shape in shapes):
        widths = " and of ".join(sorted({str(vector.size) for vector in vectors}))
        raise TokayError(f"{who} answered with vectors of {widths} numbers in one answer; expected one width")
    table = np.stack(vectors)
    if not np.isfinite(table).all():
        raise TokayError(f"{who} answered with a vector that holds numbers that are not finite; ask another endpoint")
    return np.asarray(table, np.float32), tokens


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and (len(batch) == TEXTS or size + len(text) > CHARACTERS):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch
