"""Any OpenAI-compatible endpoint: OpenAI, vLLM, SGLang, llama.cpp, Ollama, OpenRouter and others.

What goes wrong is told apart by whom it concerns: another try may mend it, this request alone is refused
(``AskFailed``, counted), or no request of this run can succeed (``TokayError``, the run stops).
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from tokay.errors import MissingExtra, TokayError
from tokay.llm import wire
from tokay.llm.door import AskFailed, NoText
from tokay.llm.ledger import Answer, Usage, canonical
from tokay.llm.limits import Limits
from tokay.llm.probe import Abilities, Refused, probe, question

OPENAI = "https://api.openai.com/v1"
URL = "--llm-url"
"""What a user calls the base URL, for messages; of embeddings it has another name."""
LONGEST_WAIT = 60.0
"""Seconds; a longer Retry-After is cut to this."""

NEWER_NAMES: dict[str, str | None] = {"max_tokens": "max_completion_tokens", "temperature": None}
"""OpenAI's reasoning models want the other name, and take no temperature; sent so once they have said it."""

RETRYABLE = (408, 409, 425, 429)
"""HTTP statuses below 500 that another try may mend."""

REFUSALS = (500, 501)
"""Servers' errors that may be a refusal: llama.cpp has answered 500 to what it does not know (its issue 12591)."""

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


def base_url(url: str) -> str:
    """Where requests go: ``url``, else ``$OPENAI_BASE_URL``, else OpenAI."""
    return (url or os.environ.get("OPENAI_BASE_URL") or OPENAI).rstrip("/")


def endpoint(url: str, *, option: str = URL) -> tuple[str, str]:
    """Base URL (``url``, else ``$OPENAI_BASE_URL``, else OpenAI) and ``$OPENAI_API_KEY``, which local servers need not.

    Raises:
        TokayError: the URL is none or holds a secret, the key cannot stand in a header, or OpenAI's own is asked
            without a key.
        MissingExtra: httpx2 is not installed.
    """
    httpx2 = _httpx2()
    base = base_url(url)
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    try:
        parsed = httpx2.URL(base)
    except httpx2.InvalidURL:
        parsed = None
    if parsed is not None and (parsed.userinfo or parsed.query):
        raise TokayError(
            f"{option} holds a password or a ?query; expected the bare base URL: put the key in OPENAI_API_KEY"
        )
    if parsed is None or parsed.scheme not in ("http", "https") or not parsed.host:
        raise TokayError(f"{option} is {base!r}; expected http://… or https://…, such as http://127.0.0.1:8000/v1")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise TokayError("OPENAI_API_KEY holds a blank or a character that no key has; copy it again")
    if base == OPENAI and not key:
        raise TokayError(f"OPENAI_API_KEY is not set; set it, or point {option} at a server that needs no key")
    return base, key


def _httpx2() -> Any:
    try:
        import httpx2
    except ImportError as error:
        raise MissingExtra("a live LLM", "llm", "httpx2") from error
    return httpx2


class _Again(Exception):
    """This try failed, another may not; ``wait`` is what the server asked for, in seconds."""

    def __init__(self, reason: str, *, wait: float = 0.0, status: int = 0, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.status = status
        self.unreachable = unreachable


class _Lanes:
    """HTTP clients that hold a connection each, the one used last first.

    A single client would look at all of its connections before each request (httpcore2 2.16): with 64 of them that took
    half of the CPU time.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._all: list[Any] = []
        self._free: list[Any] = []

    async def request(self, method: str, url: str, **sent: Any) -> Any:
        """The response, with its whole body."""
        if not self._free:
            self._free.append(self._connect())
            self._all.append(self._free[-1])
        client = self._free.pop()
        try:
            return await client.request(method, url, **sent)
        finally:
            self._free.append(client)

    async def aclose(self) -> None:
        """Close all connections."""
        for client in self._all:
            await client.aclose()


class Unanswered(AskFailed):
    """All tries failed, and none was refused: another time it may work."""


class NotThere(AskFailed):
    """There is nothing at an address of the API."""


@dataclasses.dataclass(frozen=True)
class _Said(Generic[T]):
    """A body that came, after so many tries; ``seconds`` are those of the last."""

    body: T
    seconds: float
    attempts: int

    def spent(self, answer: Answer) -> Answer:
        """The answer with its time and tries."""
        usage = dataclasses.replace(answer.usage, seconds=self.seconds)
        return dataclasses.replace(answer, usage=usage, attempts=self.attempts)


class Endpoint:
    """Sends requests to an endpoint, and retries what is worth retrying.

    Args:
        model: the model's name at the endpoint.
        url: base URL; empty: ``$OPENAI_BASE_URL``, else OpenAI.
        limits: how many requests may be in flight and be sent in a minute.
        attempts: tries a request, waits between them doubling from one second with jitter, or as Retry-After says.
        timeout: seconds a try, from the first byte sent to the last received. Local servers queue, so it is long.
            Waiting for a turn is no part of it.
        option: what the user calls ``url``, for messages.
        sleep: for tests.

    The key is ``$OPENAI_API_KEY``; local servers need none. It is sent to the endpoint and stands nowhere else: a
    server's words are cleaned of it before they are shown or kept.
    """

    def __init__(
        self,
        model: str,
        *,
        url: str,
        limits: Limits | None = None,
        attempts: int = 5,
        timeout: float = 300.0,
        option: str = URL,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        httpx2 = _httpx2()
        self.model, self.option = model, option
        self.limits = limits or Limits()
        self.url, self._secret = endpoint(url, option=option)
        self._http = _Lanes(
            partial(
                httpx2.AsyncClient,
                headers={"Authorization": f"Bearer {self._secret}"} if self._secret else {},
                timeout=httpx2.Timeout(timeout, connect=10.0),
                verify=httpx2.create_ssl_context(),
                follow_redirects=False,
            )
        )
        self._broken, self._unreachable = httpx2.RequestError, (httpx2.ConnectError, httpx2.ConnectTimeout)
        self._timeout = timeout
        self._attempts = attempts
        self._sleep = sleep
        self._names: dict[str, str | None] = {}
        self._abilities: Abilities | None = None

    @property
    def name(self) -> str:
        """As the user named it."""
        return f"openai:{self.model}"

    @property
    def question(self) -> Mapping[str, Any]:
        """The request whose answer is ``Abilities`` as JSON; see ``Probed``."""
        return question(self.model, self.url)

    def learn(self, abilities: Abilities) -> None:
        """Take note of what was found out, now or by an earlier run."""
        self._abilities = abilities

    async def abilities(self) -> Abilities:
        """What was learnt, else what the probe finds now."""
        if self._abilities is None:
            self._abilities = await probe(_Asking(self))
        return self._abilities

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def send(self, request: Mapping[str, Any], key: str = "") -> Answer:
        """The answer to a request; see ``Backend``."""
        if "probe" in request:
            asking = _Asking(self)
            return Answer((await probe(asking)).to_json(), usage=asking.usage)
        if "continuations" in request:
            return await self._likelihoods(request)
        return self._heard(await self._say(wire.CHAT, request, wire.chat_body(request), wire.ChatCompletion))

    def _heard(self, said: _Said[wire.ChatCompletion]) -> Answer:
        answer = said.spent(wire.chat_answer(said.body))
        if not answer.text.strip():
            raise NoText(self._clean(wire.silence(said.body)), spent=answer)
        return answer

    async def _likelihoods(self, request: Mapping[str, Any]) -> Answer:
        """One continuation after another, so that the request takes one place in flight, and a prefix cache is warm."""
        context, way = request["context"], (await self.abilities()).likelihood
        if not way:
            raise TokayError(f"{self.name} at {self.url} gives no log-probabilities of prompts; ask it in a chat")
        answer = Answer(attempts=0)
        for continuation in request["continuations"]:
            try:
                said, value, tokens = await self._likelihood(way, context, continuation)
            except AskFailed as failed:
                failed.spent = _with(answer, failed.spent)
                raise
            answer = _with(answer, said)
            answer = dataclasses.replace(answer, values=(*answer.values, value), tokens=(*answer.tokens, tokens))
        return answer

    async def _likelihood(self, way: str, context: str, continuation: str) -> tuple[Answer, float, int]:
        """What it took, log P(continuation | context), and the number of its tokens."""
        alone = {"context": context, "continuations": [continuation]}
        body = wire.likelihood_body(self.model, context + continuation, way)
        said = await self._say(wire.COMPLETIONS, alone, body, wire.ScoredCompletion)
        spent = said.spent(Answer(usage=wire.usage_of(said.body.usage)))
        try:
            return spent, *wire.log_probability(said.body, way, context, continuation)
        except wire.NotOfThisText as error:
            raise AskFailed(self._clean(str(error)), spent=spent) from None

    # -- the rest of the API, for ``Batch`` -----------------------------------------------------------------------

    async def call(
        self,
        method: str,
        path: str,
        *,
        content: bytes = b"",
        file: tuple[str, bytes] | None = None,
        form: Mapping[str, str] | None = None,
        attempts: int | None = None,
    ) -> bytes:
        """What the API answers at another of its paths, such as ``/batches``.

        Args:
            method: GET or POST.
            path: below the base URL.
            content: JSON to send.
            file: name and content of a file to send.
            form: what is sent with the file.
            attempts: tries; as many as a request gets, unless told otherwise.

        Raises:
            NotThere: HTTP 404, 405 or 410.
            AskFailed: it refuses this, or all tries failed.
            TokayError: as of ``send``.
        """
        sent: dict[str, Any] = {"files": {"file": file}, "data": form} if file else {}
        if content:
            sent = {"content": content, "headers": {"content-type": "application/json"}}

        async def exchange() -> bytes:
            response = await self._exchange(method, path, **sent)
            if response.is_success:
                return bytes(response.content)
            raise self._fault(response, path)

        return (await self._patiently(exchange, {}, attempts or self._attempts)).body

    def body(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A chat as this endpoint is known to want it."""
        return self._named(wire.chat_body(request))

    def read(self, status: int, body: Any, request: Mapping[str, Any]) -> Answer:
        """The answer that a file of the API holds: HTTP status and body, as of a chat.

        Raises:
            Unanswered: it is none, and another try may bring one.
            AskFailed: the request is refused.
        """
        text = canonical(body)
        if status == 200:
            try:
                return self._heard(_Said(wire.ChatCompletion.model_validate_json(text), 0.0, 1))
            except ValidationError:
                raise Unanswered(self._clean(f"not a chat completion: {text}")) from None
        reason = self._clean(f"HTTP {status}: {text}")
        if status in RETRYABLE or status >= 500 or (status == 400 and self._learn(self.body(request), text)):
            raise Unanswered(reason)
        raise AskFailed(reason)

    # -- sending --------------------------------------------------------------------------------------------------

    async def _say(self, path: str, request: Mapping[str, Any], body: Mapping[str, Any], form: type[M]) -> _Said[M]:
        """Send a body until an answer of a form comes, or no further try is worth it."""
        return await self._patiently(lambda: self._try(path, body, form), request, self._attempts)

    async def _patiently(self, work: Callable[[], Awaitable[T]], request: Mapping[str, Any], attempts: int) -> _Said[T]:
        for tried in range(1, attempts + 1):
            began = self.limits.now()
            try:
                said = await work()
            except _Again as again:
                if again.status == 429:
                    self.limits.throttled(began)
                if tried == attempts:
                    raise self._give_up(again, tried) from None
                await self._wait(again.wait, 2.0 ** (tried - 1) * random.uniform(0.5, 1.0))
                await self.limits.turn(request)
                continue
            self.limits.answered()
            return _Said(said, self.limits.now() - began, tried)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _wait(self, asked: float, backoff: float) -> None:
        """Wait as long as the server asked for, which everybody does then, and at least our own ``backoff``."""
        asked = min(asked, LONGEST_WAIT)
        if asked:
            with self.limits.pause():
                await self._sleep(asked)
        if backoff > asked:
            await self._sleep(backoff - asked)

    def _give_up(self, again: _Again, tried: int) -> AskFailed | TokayError:
        if again.unreachable:
            return TokayError(f"{self.url} cannot be reached ({again}); check {self.option}, and that it runs")
        kind = AskFailed if again.status in REFUSALS else Unanswered
        return kind(str(again), spent=Answer(attempts=tried))

    async def _try(self, path: str, request: Mapping[str, Any], form: type[M]) -> M:
        """Send a request once, and read what comes."""
        body = self._named(request)
        kind = {"content-type": "application/json"}
        response = await self._exchange("POST", path, content=canonical(body).encode(), headers=kind)
        if response.is_success:
            return self._read(response, path, form)
        if response.status_code == 400 and self._learn(body, response.text):
            return await self._try(path, request, form)
        raise self._fault(response, path)

    def _named(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A body with the names of parameters that this endpoint wants."""
        named = {name: self._names.get(name, name) for name in body}
        return {new: body[name] for name, new in named.items() if new}

    async def _exchange(self, method: str, path: str, **sent: Any) -> Any:
        """One answer of whatever status; ``sent`` is the HTTP client's."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._http.request(method, f"{self.url}{path}", **sent)
        except TimeoutError:
            raise _Again(f"no answer within {self._timeout:g} seconds") from None
        except self._broken as error:
            reason = self._clean(f"{type(error).__name__}: {error}")
            raise _Again(reason, unreachable=isinstance(error, self._unreachable)) from None

    def _fault(self, response: Any, path: str) -> Exception:
        """What an answer that brings nothing means for this try, this request, or the run."""
        status, text = response.status_code, response.text
        reason = self._clean(f"HTTP {status}: {text}")
        no_credit = status == 402 or (status == 429 and "insufficient_quota" in text)
        if no_credit or status == 401 or 300 <= status < 400 or (status in (404, 405, 410) and path == wire.CHAT):
            return TokayError(self._explain(status, reason))
        if status in RETRYABLE or status >= 500:
            return _Again(reason, wait=_retry_after(response.headers.get("retry-after", "")), status=status)
        return (NotThere if status in (404, 405, 410) else AskFailed)(reason)

    def _learn(self, body: Mapping[str, Any], text: str) -> bool:
        """Whether the endpoint refused a parameter that we know how to send otherwise; from now on it is sent so."""
        try:
            error = json.loads(text)["error"]
            parameter, code = error["param"], error["code"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return False
        strange = parameter in NEWER_NAMES and code in ("unsupported_parameter", "unsupported_value")
        if not strange and parameter != "response_format":  # a schema that it does not take: prompts ask for JSON, too
            return False
        self._names[parameter] = NEWER_NAMES.get(parameter)
        return parameter in body

    def _read(self, response: Any, path: str, form: type[M]) -> M:
        try:
            return form.model_validate_json(response.content)
        except ValidationError:
            text = response.text
            if text.lstrip()[:1] == "<":
                raise TokayError(
                    f"{self.url} answered HTML, not JSON; expected the base URL of an OpenAI-compatible API, "
                    f"which mostly ends in /v1"
                ) from None
            raise _Again(self._clean(f"not a {'chat ' if path == wire.CHAT else ''}completion: {text}")) from None

    async def _get(self, url: str) -> Any:
        """The JSON at an address; None where there is none."""
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._http.request("GET", url)
            return response.json() if response.status_code == 200 else None
        except (TimeoutError, self._broken, ValueError, RecursionError):
            return None

    def _explain(self, status: int, reason: str) -> str:
        if status == 401:
            return f"{self.url} refused the key in OPENAI_API_KEY ({reason}); set the right one"
        if 300 <= status < 400:
            return f"{self.url} redirects (HTTP {status}); give the final address with {self.option}"
        if status in (404, 405, 410):
            missing = f"{self.url} has no model {self.model!r} or no /chat/completions ({reason})"
            return f"{missing}; check --llm and {self.option}"
        return f"{self.url} wants to be paid first ({reason}); add credit and run again: what was answered is kept"

    def _clean(self, text: str) -> str:
        """One short line of a server's words, without the key that some of them repeat."""
        words = " ".join(text.split())
        return (words.replace(self._secret, "[key]") if self._secret else words)[:200]


class _Asking:
    """The endpoint as the probe asks it, and what its questions took; see ``Asked``."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.model = endpoint.model
        self.usage = Usage()
        self._endpoint = endpoint

    async def look(self, path: str) -> Any:
        """The JSON at a path."""
        host = path.startswith("//")
        base = self._endpoint.url.removesuffix("/v1") if host else self._endpoint.url
        return await self._endpoint._get(base + path.removeprefix("/" if host else ""))

    async def chat(self, request: Mapping[str, Any]) -> Answer:
        """The answer to a chat, be it empty."""
        body = {"model": self.model, "temperature": 0, **request}
        try:
            answer = await self._endpoint.send(body)
        except NoText as silent:
            answer = silent.spent
        except Unanswered:
            raise
        except AskFailed as refused:
            raise Refused(str(refused)) from None
        self.usage = _with(Answer(usage=self.usage), answer).usage
        return answer

    async def likelihood(self, way: str, context: str, continuation: str) -> float:
        """Log P(continuation | context)."""
        try:
            answer, value, _ = await self._endpoint._likelihood(way, context, continuation)
        except Unanswered:
            raise
        except AskFailed as refused:
            raise Refused(str(refused)) from None
        self.usage = _with(Answer(usage=self.usage), answer).usage
        return value


def _with(so_far: Answer, more: Answer) -> Answer:
    """An answer with the tokens, time and tries of another on top."""
    a, b = so_far.usage, more.usage
    usage = Usage(a.prompt + b.prompt, a.cached + b.cached, a.completion + b.completion, a.seconds + b.seconds)
    return dataclasses.replace(so_far, usage=usage, attempts=so_far.attempts + more.attempts)


def _retry_after(header: str) -> float:
    """Seconds to wait, from a number or an HTTP date (RFC 9110, section 10.2.3); 0 where it is neither."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
