"""Any OpenAI-compatible endpoint: OpenAI, vLLM, SGLang, llama.cpp, Ollama, OpenRouter and others.

What goes wrong is told apart by whom it concerns: another try may mend it, this request alone is refused
(``AskFailed``, counted), or no request of this run can succeed (``TokayError``, the run stops).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from tokay.errors import MissingExtra, TokayError
from tokay.llm.door import AskFailed, NoText
from tokay.llm.ledger import Answer, Usage, canonical
from tokay.llm.limits import Limits
from tokay.llm.probe import Abilities

OPENAI = "https://api.openai.com/v1"
LONGEST_WAIT = 60.0
"""Seconds; a longer Retry-After is cut to this."""

RETRYABLE = (408, 409, 425, 429)
"""HTTP statuses below 500 that another try may mend."""

T = TypeVar("T")

NEWER_NAMES: dict[str, str | None] = {"max_tokens": "max_completion_tokens", "temperature": None}
"""OpenAI's reasoning models want the other name, and take no temperature; sent so once they have said it."""


def endpoint(url: str) -> tuple[str, str]:
    """Base URL (``url``, else ``$OPENAI_BASE_URL``, else OpenAI) and ``$OPENAI_API_KEY``, which local servers need not.

    Raises:
        TokayError: the URL is none or holds a secret, the key cannot stand in a header, or OpenAI's own is asked
            without a key.
        MissingExtra: httpx2 is not installed.
    """
    httpx2 = _httpx2()
    base = (url or os.environ.get("OPENAI_BASE_URL") or OPENAI).rstrip("/")
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    try:
        parsed = httpx2.URL(base)
    except httpx2.InvalidURL:
        parsed = None
    if parsed is not None and (parsed.userinfo or parsed.query):
        raise TokayError(
            "--llm-url holds a password or a ?query; expected the bare base URL: put the key in OPENAI_API_KEY"
        )
    if parsed is None or parsed.scheme not in ("http", "https") or not parsed.host:
        raise TokayError(f"--llm-url is {base!r}; expected http://… or https://…, such as http://127.0.0.1:8000/v1")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise TokayError("OPENAI_API_KEY holds a blank or a character that no key has; copy it again")
    if base == OPENAI and not key:
        raise TokayError("OPENAI_API_KEY is not set; set it, or point --llm-url at a server that needs no key")
    return base, key


def _httpx2() -> Any:
    try:
        import httpx2
    except ImportError as error:
        raise MissingExtra("a live LLM", "llm", "httpx2") from error
    return httpx2


class _Again(Exception):
    """This try failed, another may not; ``wait`` is what the server asked for, in seconds."""

    def __init__(self, reason: str, *, wait: float = 0.0, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.unreachable = unreachable


class Unanswered(AskFailed):
    """A request came to nothing, and another try may mend it."""


class NotThere(AskFailed):
    """There is nothing at an address of the API."""


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: Any = None


class Endpoint:
    """Sends requests to an endpoint, and retries what is worth retrying.

    Args:
        model: the model's name at the endpoint.
        url: base URL; empty: ``$OPENAI_BASE_URL``, else OpenAI.
        limits: how many requests may be in flight.
        attempts: tries a request, waits between them doubling from one second with jitter, or as Retry-After says.
        timeout: seconds a try, from the first byte sent to the last received. Local servers queue, so it is long.
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
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        httpx2 = _httpx2()
        self.model = model
        self.limits = limits or Limits()
        self.url, self._secret = endpoint(url)
        self._http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {self._secret}"} if self._secret else {},
            timeout=httpx2.Timeout(timeout, connect=10.0),
            follow_redirects=False,
        )
        self._broken, self._unreachable = httpx2.RequestError, (httpx2.ConnectError, httpx2.ConnectTimeout)
        self._timeout = timeout
        self._attempts = attempts
        self._sleep = sleep
        self._names: dict[str, str | None] = {}

    @property
    def name(self) -> str:
        """As the user named it."""
        return f"openai:{self.model}"

    async def abilities(self) -> Abilities:
        """Placeholder."""
        return Abilities()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def send(self, request: Mapping[str, Any], key: str = "") -> Answer:
        """The answer to a request; see ``Backend``."""
        said, seconds, tried = await self._patiently(lambda: self._try(request), self._attempts)
        return self._heard(said, seconds, tried)

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

        async def exchange() -> bytes:
            kind = {"content-type": "application/json"} if content else {}
            files = {"file": file} if file else None
            response = await self._exchange(method, path, content=content or None, headers=kind, files=files, data=form)
            if response.is_success:
                return bytes(response.content)
            raise self._fault(response, chat=False)

        return (await self._patiently(exchange, attempts or self._attempts))[0]

    def body(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A request as this endpoint is known to want it."""
        named = {name: self._names.get(name, name) for name in request}
        return {new: request[name] for name, new in named.items() if new}

    def read(self, status: int, body: Any, request: Mapping[str, Any]) -> Answer:
        """The answer that another path of the API brought: HTTP status and body, as of a chat.

        Raises:
            Unanswered: it is none, and another try may bring one.
            AskFailed: the request is refused.
        """
        text = canonical(body)
        if status == 200:
            try:
                return self._heard(_Completion.model_validate_json(text), 0.0, 1)
            except ValidationError:
                raise Unanswered(self._clean(f"not a chat completion: {text}")) from None
        reason = self._clean(f"HTTP {status}: {text}")
        if status in RETRYABLE or status >= 500 or (status == 400 and self._learn(self.body(request), text)):
            raise Unanswered(reason)
        raise AskFailed(reason)

    async def _patiently(self, work: Callable[[], Awaitable[T]], attempts: int) -> tuple[T, float, int]:
        """What ``work`` gives after as many tries as it takes, the seconds of the last one, and their number."""
        for tried in range(1, attempts + 1):
            began = time.perf_counter()
            try:
                return await work(), time.perf_counter() - began, tried
            except _Again as again:
                if tried < attempts:
                    backoff = 2.0 ** (tried - 1) * random.uniform(0.5, 1.0)
                    await self._sleep(min(max(backoff, again.wait), LONGEST_WAIT))
                    continue
                if again.unreachable:
                    raise TokayError(
                        f"{self.url} cannot be reached ({again}); check --llm-url, and that it runs"
                    ) from None
                raise AskFailed(str(again), spent=Answer(attempts=tried)) from None
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _heard(self, said: _Completion, seconds: float, tried: int) -> Answer:
        answer = _answer(said, seconds, tried)
        if not answer.text.strip():
            raise NoText(self._clean(_silence(said.choices[0])), spent=answer)
        return answer

    async def _exchange(self, method: str, path: str, **sent: Any) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._http.request(method, f"{self.url}{path}", **sent)
        except TimeoutError:
            raise _Again(f"no answer within {self._timeout:g} seconds") from None
        except self._broken as error:
            reason = self._clean(f"{type(error).__name__}: {error}")
            raise _Again(reason, unreachable=isinstance(error, self._unreachable)) from None

    async def _try(self, request: Mapping[str, Any]) -> _Completion:
        """Send a request once, and read what comes."""
        body = self.body(request)
        kind = {"content-type": "application/json"}
        response = await self._exchange("POST", "/chat/completions", content=canonical(body).encode(), headers=kind)
        status, text = response.status_code, response.text
        if status == 400 and self._learn(body, text):
            return await self._try(request)
        if 200 <= status < 300:
            return self._read(response.content, text)
        raise self._fault(response)

    def _fault(self, response: Any, *, chat: bool = True) -> Exception:
        """What an answer other than 2xx means for this try, this request, or the run."""
        status, text = response.status_code, response.text
        reason = self._clean(f"HTTP {status}: {text}")
        if status in (404, 405, 410) and not chat:
            return NotThere(reason)
        no_credit = status == 402 or (status == 429 and "insufficient_quota" in text)
        if no_credit or status in (401, 404, 405, 410) or 300 <= status < 400:
            return TokayError(self._explain(status, reason))
        if status in RETRYABLE or status >= 500:
            return _Again(reason, wait=_retry_after(response.headers.get("retry-after", "")))
        return AskFailed(reason)

    def _learn(self, body: Mapping[str, Any], text: str) -> bool:
        """Whether the endpoint refused a parameter that we know how to send otherwise; from now on it is sent so."""
        try:
            error = json.loads(text)["error"]
            parameter, code = error["param"], error["code"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return False
        if parameter not in NEWER_NAMES or code not in ("unsupported_parameter", "unsupported_value"):
            return False
        self._names[parameter] = NEWER_NAMES[parameter]
        return parameter in body

    def _read(self, content: bytes, text: str) -> _Completion:
        try:
            return _Completion.model_validate_json(content)
        except ValidationError:
            if text.lstrip()[:1] == "<":
                raise TokayError(
                    f"{self.url} answered HTML, not JSON; expected the base URL of an OpenAI-compatible API, "
                    f"which mostly ends in /v1"
                ) from None
            raise _Again(self._clean(f"not a chat completion: {text}")) from None

    def _explain(self, status: int, reason: str) -> str:
        if status == 401:
            return f"{self.url} refused the key in OPENAI_API_KEY ({reason}); set the right one"
        if 300 <= status < 400:
            return f"{self.url} redirects (HTTP {status}); give the final address with --llm-url"
        if status in (404, 405, 410):
            return (
                f"{self.url} has no model {self.model!r} or no /chat/completions ({reason}); check --llm and --llm-url"
            )
        return f"{self.url} wants to be paid first ({reason}); add credit and run again: what was answered is kept"

    def _clean(self, text: str) -> str:
        """One short line of a server's words, without the key that some of them repeat."""
        words = " ".join(text.split())
        return (words.replace(self._secret, "[key]") if self._secret else words)[:200]


def _answer(said: _Completion, seconds: float, attempts: int) -> Answer:
    usage = said.usage if isinstance(said.usage, dict) else {}
    prompt, completion = (
        n if isinstance(n := usage.get(name), int) else 0 for name in ("prompt_tokens", "completion_tokens")
    )
    return Answer(said.choices[0].message.content or "", usage=Usage(prompt, 0, completion, seconds), attempts=attempts)


def _silence(choice: _Choice) -> str:
    if choice.message.refusal:
        return f"the model refused: {choice.message.refusal}"
    return f"empty answer (finish_reason {choice.finish_reason})"


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
