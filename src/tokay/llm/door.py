"""The one door to a language model: what it can be asked, and the rule that an answer is paid for once.

A backend sends requests: to an endpoint (``client``), to a transformers model in this process (``local``), to a
provider's batch API (``batch``), or to the answers of an earlier run (``replay``). The door stands before all of them
with the ledger: it asks nothing that was answered before, joins equal requests in flight, and keeps failures apart.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tokay.errors import TokayError
from tokay.llm.ledger import Answer, Ledger, key_of
from tokay.llm.limits import Limits
from tokay.llm.prices import Purse
from tokay.llm.probe import Abilities

Messages = Sequence[Mapping[str, str]]
"""A chat: role and content of each message."""

FAILURES_IN_A_ROW = 20
"""Requests that come to nothing, one after another, before the run stops: an outage, not twenty odd passages."""


class AskFailed(Exception):
    """One request came to nothing after all its attempts; the run goes on and counts it.

    ``spent`` holds the tokens and tries that it took, ``key`` is its place in the ledger.
    """

    def __init__(self, reason: str, *, spent: Answer | None = None, key: str = "") -> None:
        super().__init__(reason)
        self.spent = spent or Answer("")
        self.key = key


class NoText(AskFailed):
    """The model answered without text: it refused, or spent its room on thoughts. More room may help."""


class LanguageModel(Protocol):
    """Something that can be asked; ``Door`` is one, tests have others."""

    @property
    def name(self) -> str:
        """As the user named it, such as ``openai:gpt-4o-mini``."""

    async def complete(
        self,
        messages: Messages,
        *,
        max_tokens: int,
        attempt: int = 0,
        schema: Mapping[str, Any] | None = None,
        top_logprobs: int = 0,
    ) -> Answer:
        """Continue a chat; see ``Door``."""

    async def logprobs(self, context: str, continuations: Sequence[str]) -> Answer:
        """Log P of each continuation after a context; see ``Door``."""

    async def abilities(self) -> Abilities:
        """What it can be asked."""

    async def close(self) -> None:
        """Give back what it holds."""


class Backend(Protocol):
    """What sends one request. It retries what another try may mend, and keeps to its limits."""

    @property
    def name(self) -> str:
        """As the user named it, such as ``openai:gpt-4o-mini``."""

    @property
    def model(self) -> str:
        """The model's own name, part of every request's key."""

    @property
    def limits(self) -> Limits:
        """How many requests may be in flight."""

    async def send(self, request: Mapping[str, Any], key: str = "") -> Answer:
        """The answer to a request: ``messages`` and ``max_tokens``, or ``context`` and ``continuations``.

        ``key`` is its place in the ledger: equal requests of a higher ``attempt`` have another.

        Raises:
            AskFailed: this request came to nothing.
            TokayError: no request of this run can succeed (wrong key, wrong URL, no such model, server down).
        """

    async def abilities(self) -> Abilities:
        """What the model can be asked; finding out may take a few requests."""

    async def close(self) -> None:
        """Give back what it holds."""


class Door:
    """Asks the ledger first, then the backend.

    Args:
        backend: what sends requests.
        ledger: where answers are kept; closed with the door.
        stage: of the run, such as ``judge``; the ledger's rows name it.
        purse: what a request costs, and what may be spent.
    """

    def __init__(self, backend: Backend, ledger: Ledger, *, stage: str = "", purse: Purse | None = None) -> None:
        self._backend = backend
        self._ledger = ledger
        self._stage = stage
        self._purse = purse or Purse()
        self._in_flight: dict[str, asyncio.Future[Answer]] = {}
        self._failed_in_a_row = 0
        self._fatal: TokayError | None = None

    @property
    def name(self) -> str:
        """As the user named it."""
        return self._backend.name

    async def complete(
        self,
        messages: Messages,
        *,
        max_tokens: int,
        attempt: int = 0,
        schema: Mapping[str, Any] | None = None,
        top_logprobs: int = 0,
    ) -> Answer:
        """Continue a chat, at temperature 0 where the model takes one.

        Args:
            messages: the chat.
            max_tokens: room for the answer.
            attempt: part of the request's key: a higher one asks again where the answer before could not be used.
            schema: JSON schema that the answer must fit; only for models that were found to take one.
            top_logprobs: log-probabilities of the likeliest first tokens to return in ``first``; likewise.

        Raises:
            AskFailed: this request came to nothing; it is in the ledger as a failure and will be asked again.
            TokayError: no request of this run can succeed, or the budget is spent.
        """
        request: dict[str, Any] = {
            "model": self._backend.model,
            "messages": [dict(message) for message in messages],
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        if schema is not None:
            request["schema"] = dict(schema)
        if top_logprobs:
            request["top_logprobs"] = top_logprobs
        return await self._ask(request, attempt)

    async def logprobs(self, context: str, continuations: Sequence[str]) -> Answer:
        """Log P(continuation | context) in nats for each continuation, in ``values``; its tokens in ``tokens``.

        Raises:
            AskFailed: as of ``complete``.
            TokayError: as of ``complete``.
        """
        request = {"model": self._backend.model, "context": context, "continuations": list(continuations)}
        return await self._ask(request, 0)

    async def abilities(self) -> Abilities:
        """What the model can be asked."""
        return await self._backend.abilities()

    async def close(self) -> None:
        """Close the backend and the ledger."""
        await self._backend.close()
        self._ledger.close()

    async def _ask(self, request: Mapping[str, Any], attempt: int) -> Answer:
        key = key_of({**request, "attempt": attempt})
        if known := self._ledger.get(key):
            return known
        if key not in self._in_flight:
            self._in_flight[key] = asyncio.ensure_future(self._send(request, key))
            self._in_flight[key].add_done_callback(lambda _: self._in_flight.pop(key, None))
        return await self._in_flight[key]

    async def _send(self, request: Mapping[str, Any], key: str) -> Answer:
        async with self._backend.limits.slot(request):
            if self._fatal:
                raise self._fatal
            try:
                reserved = self._purse.reserve(request)
            except TokayError as error:
                raise self._stop(str(error)) from None
            try:
                answer = dataclasses.replace(await self._backend.send(request, key), key=key)
            except AskFailed as failed:
                price = self._purse.settle(reserved, failed.spent.usage)
                spent, silent = dataclasses.replace(failed.spent, key=key), isinstance(failed, NoText)
                self._ledger.fail(request, spent, str(failed), self._stage, price, silent=silent)
                raise self._count(failed, key) from None
            except TokayError as error:
                self._purse.release(reserved)
                self._ledger.fail(request, Answer("", key=key), str(error), self._stage, 0.0)
                raise self._stop(str(error)) from None
            except BaseException:
                self._purse.release(reserved)
                raise
            self._ledger.put(request, answer, self._stage, self._purse.settle(reserved, answer.usage))
            self._failed_in_a_row = 0
            return answer

    def _count(self, failed: AskFailed, key: str) -> AskFailed | TokayError:
        """The failure of one request, or the end of the run when nothing else has come for long."""
        self._failed_in_a_row += 1
        if self._failed_in_a_row < FAILURES_IN_A_ROW:
            failed.key = key
            return failed
        return self._stop(
            f"{self.name} failed {FAILURES_IN_A_ROW} requests in a row, the last with {failed}; check the model and "
            f"its server, then run again: what was answered is kept"
        )

    def _stop(self, message: str) -> TokayError:
        """What ends the run, for this request and for those that wait."""
        self._fatal = self._fatal or TokayError(message)
        return self._fatal
