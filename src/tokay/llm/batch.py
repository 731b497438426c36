"""A provider's batch API: requests go out as a file, answers come hours later as another, at half the price.

A batch is made once, whatever happens to this process. Before it is made, the ledger remembers which requests will be
in it and a token of ours; the provider keeps the token with the batch (``metadata``). So every moment of a kill can be
told apart by the next run:

===========================  ===========================  ============================================================
the ledger has               the provider has             the next run
===========================  ===========================  ============================================================
nothing                      at most an uploaded file     makes the batch
the token                    no batch with this token     makes the batch
the token                    a batch with this token      finds it in the list of batches, and waits for it
the token and the batch's id that batch                   waits for it
===========================  ===========================  ============================================================

Rows whose answers are committed are passed over; a row goes when its request came to nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from tokay.errors import TokayError
from tokay.llm.client import Endpoint, NotThere, Unanswered
from tokay.llm.door import AskFailed
from tokay.llm.ledger import Answer, Ledger, canonical, key_of
from tokay.llm.limits import Limits
from tokay.llm.probe import Abilities

T = TypeVar("T")

REQUESTS, BYTES = 50_000, 100_000_000
"""Most that is put into one batch: OpenAI's limit of requests, and half of its 200 MB."""

QUIET = 3.0
"""Seconds without a new request after which a batch is sent."""

FIRST_POLL, LONGEST_POLL = 5.0, 300.0
"""Seconds between questions whether a batch has ended; they grow by half each time."""

ROUNDS = 3
"""Batches that a request is put into before it counts as failed."""

TRIES = 5
"""Questions that may fail, one after another, before the run stops; the batch goes on, and the next run finds it."""

PAGES = 20
"""Pages of 100 batches that are searched for a token: those of the last days."""

ENDED = ("completed", "failed", "expired", "cancelled")


@dataclasses.dataclass(frozen=True)
class Collected:
    """How a batch ended, why if it failed, and the rows of its output and error files by request."""

    ended: str
    rows: Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(eq=False)
class _Group:
    """Requests that will be one batch."""

    lines: dict[str, bytes] = dataclasses.field(default_factory=dict)
    size: int = 0
    sent: asyncio.Task[str] | None = None

    def takes(self, line: bytes) -> bool:
        """Whether there is room for one more; one that is too large by itself goes alone."""
        return not self.lines or (len(self.lines) < REQUESTS and self.size + len(line) <= BYTES)

    def add(self, key: str, line: bytes) -> None:
        """One more request."""
        self.lines[key] = line
        self.size += len(line)


class Batch:
    """Sends requests through the batch API of an OpenAI-compatible endpoint; see ``Backend``.

    Args:
        model: the model's name at the endpoint; its answers have the keys that they have without batches.
        url: as of ``Endpoint``.
        ledger: the door's, which remembers where requests are.
        quiet: seconds without a new request after which a batch is sent.
        sleep: for tests.
    """

    def __init__(
        self,
        model: str,
        *,
        url: str,
        ledger: Ledger,
        quiet: float = QUIET,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._endpoint = Endpoint(model, url=url, sleep=sleep)
        self.name, self.model = self._endpoint.name, model
        self.limits = Limits(concurrency=REQUESTS)
        self._ledger = ledger
        self._quiet = quiet
        self._sleep = sleep
        self._group: _Group | None = None
        self._tasks: dict[tuple[str, str], asyncio.Task[Any]] = {}
        self._sending: set[asyncio.Task[str]] = set()

    async def abilities(self) -> Abilities:
        """A chat; what a model can do beside it is found out by asking, which a batch is too slow for."""
        return Abilities(notes=("asked in batches: chats only",))

    async def close(self) -> None:
        """Wait for nothing: a batch that was made goes on without us, and the next run finds it."""
        for task in (*self._tasks.values(), *self._sending):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), *self._sending, return_exceptions=True)
        await self._endpoint.close()

    async def send(self, request: Mapping[str, Any], key: str = "") -> Answer:
        """The answer to a chat, when its batch has ended."""
        if "continuations" in request:
            raise TokayError(
                "--batch takes chats only, and this judge needs log-probabilities of prompts; use judge.by=listwise or "
                "pointwise, or leave --batch out"
            )
        key, why = key or key_of(request), ""
        for round_ in range(1, ROUNDS + 1):
            batch = await self._batch_of(request, key)
            collected = await self._once("collect", batch, functools.partial(self._collect, batch))
            try:
                return dataclasses.replace(self._answer(collected, key, request), attempts=round_)
            except Unanswered as missing:
                self._ledger.forget_batch(key=key)
                why = str(missing)
            except AskFailed:
                self._ledger.forget_batch(key=key)
                raise
            if round_ < ROUNDS:
                await self._sleep(FIRST_POLL * 4**round_)
        raise AskFailed(f"no answer in {ROUNDS} batches, the last time: {why}", spent=Answer(attempts=ROUNDS))

    def _answer(self, collected: Collected, key: str, request: Mapping[str, Any]) -> Answer:
        row = collected.rows.get(key)
        response = row.get("response") if row else None
        if isinstance(response, dict) and response.get("body") is not None:
            return self._endpoint.read(int(response.get("status_code") or 0), response["body"], request)
        reason = row.get("error") if row else None
        raise Unanswered(self._endpoint._clean(f"the batch {collected.ended} without it {reason or ''}"))

    # -- where a request is ---------------------------------------------------------------------------------------

    async def _batch_of(self, request: Mapping[str, Any], key: str) -> str:
        """The id of the batch that holds a request: one of an earlier run, or the next one."""
        if known := self._ledger.batch_of(key):
            token, batch = known
            if batch := batch or await self._once("find", token, functools.partial(self._find_again, token)):
                return batch
        body = self._endpoint.body(request)
        line = canonical({"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}).encode()
        if self._group is None or not self._group.takes(line):
            self._group = _Group()
            self._group.sent = asyncio.ensure_future(self._send_when_quiet(self._group))
            self._sending.add(self._group.sent)
            self._group.sent.add_done_callback(self._sending.discard)
        self._group.add(key, line)
        assert self._group.sent is not None
        return await asyncio.shield(self._group.sent)

    async def _once(self, what: str, name: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """One task a batch, whoever waits for it; who stops waiting does not stop it."""
        if (what, name) not in self._tasks:
            self._tasks[what, name] = asyncio.ensure_future(work())
        done: T = await asyncio.shield(self._tasks[what, name])
        return done

    # -- making a batch -------------------------------------------------------------------------------------------

    async def _send_when_quiet(self, group: _Group) -> str:
        seen = -1
        while len(group.lines) != seen and self._group is group:
            seen = len(group.lines)
            await self._sleep(self._quiet)
        if self._group is group:
            self._group = None
        return await self._make(group)

    async def _make(self, group: _Group) -> str:
        content = b"".join(line + b"\n" for line in group.lines.values())
        name = f"tokay-{uuid.uuid4().hex}"
        try:
            uploaded = await self._json("POST", "/files", file=(f"{name}.jsonl", content), form={"purpose": "batch"})
        except AskFailed as error:
            raise self._no_batches(error) from None
        self._ledger.begin_batch(name, group.lines)
        order = {
            "input_file_id": uploaded["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {"tokay": name},
        }
        batch = await self._order(name, canonical(order).encode())
        self._ledger.name_batch(name, batch)
        return batch

    async def _order(self, token: str, order: bytes) -> str:
        """Make the batch. Where that fails, it may have been made all the same: it is looked for before another try."""
        for tried in range(TRIES):
            try:
                return str((await self._json("POST", "/batches", content=order, attempts=1))["id"])
            except AskFailed as error:
                fault = error
            await self._sleep(FIRST_POLL * 2**tried)
            if found := await self._find(token):
                return found
        self._ledger.forget_batch(token=token)
        raise self._no_batches(fault)

    def _no_batches(self, error: AskFailed) -> TokayError:
        return TokayError(f"{self._endpoint.url} takes no batch ({error}); run again later, or without --batch")

    async def _find_again(self, token: str) -> str:
        """The id of a batch that an earlier run made, or was about to make; empty: it was not made."""
        batch = await self._find(token)
        if batch:
            self._ledger.name_batch(token, batch)
        else:
            self._ledger.forget_batch(token=token)
        return batch

    async def _find(self, token: str) -> str:
        """The id of the batch with a token among the provider's last ones; empty: there is none, or no list."""
        after = ""
        for _ in range(PAGES):
            try:
                page = await self._json("GET", f"/batches?limit=100{after}")
            except NotThere:
                break
            except AskFailed as error:
                raise TokayError(
                    f"{self._endpoint.url} does not say which batches it has ({error}), so that one may be paid twice; "
                    f"run again later"
                ) from None
            listed = page["data"]
            for batch in listed:
                if (batch.get("metadata") or {}).get("tokay") == token:
                    return str(batch["id"])
            if not listed or not page.get("has_more"):
                break
            after = f"&after={listed[-1]['id']}"
        return ""

    # -- collecting a batch ---------------------------------------------------------------------------------------

    async def _collect(self, batch: str) -> Collected:
        """Wait until a batch has ended, and read its files. An expired or cancelled one has those that were done."""
        try:
            state = await self._wait_for(batch)
            rows: dict[str, Mapping[str, Any]] = {}
            for file in ("error_file_id", "output_file_id"):
                if state.get(file):
                    rows |= _rows(await self._endpoint.call("GET", f"/files/{state[file]}/content"))
        except NotThere as error:  # deleted, or of another provider
            return Collected(f"is not there any more ({error}): it ended", {})
        faults = (state.get("errors") or {}).get("data") or []
        why = f" ({'; '.join(str(fault.get('message')) for fault in faults)})" if faults else ""
        return Collected(f"{state['status']}{why}", rows)

    async def _wait_for(self, batch: str) -> Mapping[str, Any]:
        pause, failed = FIRST_POLL, 0
        while True:
            try:
                state: Mapping[str, Any] = await self._json("GET", f"/batches/{batch}")
                failed = 0
                if state.get("status") in ENDED:
                    return state
            except NotThere:
                raise
            except AskFailed as error:
                failed += 1
                if failed == TRIES:
                    raise TokayError(
                        f"{self._endpoint.url} does not say how batch {batch} is ({error}); run again later: it is "
                        f"found again, and not paid twice"
                    ) from None
            await self._sleep(pause)
            pause = min(1.5 * pause, LONGEST_POLL)

    async def _json(self, method: str, path: str, **sent: Any) -> Any:
        """What the API answers, as JSON.

        Raises:
            Unanswered: it is an object of another kind, or none.
        """
        content = await self._endpoint.call(method, path, **sent)
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or not ("id" in found or "data" in found):
            raise Unanswered(self._endpoint._clean(f"not an answer of a batch API: {content[:200]!r}"))
        return found


def _rows(content: bytes) -> dict[str, Mapping[str, Any]]:
    """The rows of an output file by ``custom_id``; what is no row is left out, as if it had not come."""
    rows: dict[str, Mapping[str, Any]] = {}
    for line in content.splitlines():
        try:
            row = json.loads(line)
            rows[row["custom_id"]] = row
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return rows
