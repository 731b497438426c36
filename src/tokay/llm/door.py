"""The one door to a language model: what it can be asked, and the rule that an answer is paid for once.

A backend sends requests: to an endpoint (``client``), to a transformers model in this process (``local``), to a
provider's batch API (``batch``), or to the answers of an earlier run (``replay``). The door stands before all of them
with the ledger: it asks nothing that was answered before, joins equal requests in flight, and keeps failures apart.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from tokay.errors import TokayError
from tokay.llm.commits import Commits
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

    async def drain(self, seconds: float) -> None:
        """Send nothing more, and wait for the answers to what was sent; see ``Door``."""

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


@runtime_checkable
class Probed(Backend, Protocol):
    """A backend that must ask to know what it can do; the ledger then remembers it for the next run."""

    @property
    def question(self) -> Mapping[str, Any]:
        """The request whose answer is ``Abilities`` as JSON."""

    def learn(self, abilities: Abilities) -> None:
        """Take note of the answer."""


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
        self._commits = Commits(ledger)
        self._stage = stage
        self._purse = purse or Purse()
        self._in_flight: dict[str, asyncio.Future[Answer]] = {}
        self._sent: set[str] = set()
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
        """What the model can be asked: found out once a ledger.

        Raises:
            TokayError: it can neither chat nor score texts, or did not answer.
        """
        if isinstance(self._backend, Probed):
            try:
                answer = await self._ask(self._backend.question, 0)
            except AskFailed as failed:
                raise TokayError(f"{self.name} did not say what it can do ({failed}); run again") from None
            self._backend.learn(Abilities.from_json(answer.text))
        return await self._backend.abilities()

    async def drain(self, seconds: float) -> None:
        """Send nothing more; wait at most ``seconds`` for what was sent, so that its answers are kept.

        Whatever waits for its turn, or is asked from now on, ends with a ``TokayError``.
        """
        self._stop(f"the run was interrupted while it asked {self.name}; run again, and it goes on where it stopped")
        if sent := [self._in_flight[key] for key in self._sent]:
            await asyncio.wait(sent, timeout=seconds)

    async def close(self) -> None:
        """Close the backend and the ledger."""
        await self._backend.close()
        await self._commits.close()
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
            reserved = await self._reserve(request)
            self._sent.add(key)
            try:
                return await self._answer(request, key, reserved)
            finally:
                self._sent.discard(key)

    async def _answer(self, request: Mapping[str, Any], key: str, reserved: float) -> Answer:
        """Send a request, settle what it cost, and commit what came of it."""
        try:
            answer = dataclasses.replace(await self._backend.send(request, key), key=key)
        except AskFailed as failed:
            price = self._purse.settle(reserved, failed.spent.usage, answered=False)
            spent, silent = dataclasses.replace(failed.spent, key=key), isinstance(failed, NoText)
            await self._fail(request, spent, str(failed), price, silent=silent)
            raise self._count(failed, key) from None
        except TokayError as error:
            self._purse.release(reserved)
            await self._fail(request, Answer(key=key), str(error), 0.0)
            raise self._stop(str(error)) from None
        except BaseException:
            self._purse.release(reserved)
            raise
        price = self._purse.settle(reserved, answer.usage)
        await self._commits.write(lambda: self._ledger.put(request, answer, self._stage_of(request), price))
        self._failed_in_a_row = 0
        return answer

    async def _fail(
        self, request: Mapping[str, Any], spent: Answer, reason: str, price: float | None, *, silent: bool = False
    ) -> None:
        stage = self._stage_of(request)
        await self._commits.write(lambda: self._ledger.fail(request, spent, reason, stage, price, silent=silent))

    def _stage_of(self, request: Mapping[str, Any]) -> str:
        return "probe" if "probe" in request else self._stage

    async def _reserve(self, request: Mapping[str, Any]) -> float:
        """Set aside what a request may cost, unless the run has ended, be it while this waited for the budget."""
        if self._fatal:
            raise self._fatal
        try:
            reserved = await self._purse.reserve(request)
        except TokayError as error:
            raise self._stop(str(error)) from None
        if self._fatal:
            self._purse.release(reserved)
            raise self._fatal
        return reserved

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
