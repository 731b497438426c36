"""A client for any OpenAI-compatible chat endpoint: OpenAI, vLLM, SGLang, llama.cpp, Ollama, OpenRouter and others."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from tokay.errors import MissingExtra, TokayError
from tokay.llm.ledger import Answer, Ledger, key_of

OPENAI = "https://api.openai.com/v1"
RETRYABLE = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
LONGEST_WAIT = 60.0


def endpoint(url: str) -> tuple[str, str]:
    """Base URL (``url``, else ``$OPENAI_BASE_URL``, else OpenAI) and ``$OPENAI_API_KEY``, which local servers need not.

    Raises:
        TokayError: the URL is none, or OpenAI's own is asked without a key.
    """
    base, key = (
        (url or os.environ.get("OPENAI_BASE_URL") or OPENAI).rstrip("/"),
        os.environ.get("OPENAI_API_KEY", ""),
    )
    if not base.startswith(("http://", "https://")):
        raise TokayError(f"--llm-url is {base!r}; expected http://… or https://…, such as http://127.0.0.1:8000/v1")
    if base == OPENAI and not key:
        raise TokayError("OPENAI_API_KEY is not set; set it, or point --llm-url at a server that needs no key")
    return base, key


class AskFailed(Exception):
    """One request came to nothing after all its attempts; the run goes on and counts it."""


class ChatModel(Protocol):
    """Something that answers a chat prompt."""

    @property
    def name(self) -> str:
        """As the user named it, such as ``openai:gpt-4o-mini``."""

    async def complete(self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, attempt: int = 0) -> Answer:
        """The model's answer. A higher ``attempt`` asks again where the answer before could not be used."""

    async def close(self) -> None:
        """Give connections back."""


class ChatClient:
    """Asks the ledger first, then the endpoint, with bounded concurrency and retries of what is worth retrying.

    Args:
        model: the model's name at the endpoint.
        url: base URL; empty: ``$OPENAI_BASE_URL``, else OpenAI.
        ledger: where answers are kept.
        concurrency: requests in flight at once.
        attempts: tries a request, waits between them doubling from one second with jitter, or as Retry-After says.
        timeout: seconds a request.
        sleep: for tests.

    The key is ``$OPENAI_API_KEY``; local servers need none. It is sent to the endpoint and stands nowhere else.
    """

    def __init__(
        self,
        model: str,
        *,
        url: str,
        ledger: Ledger,
        concurrency: int = 8,
        attempts: int = 5,
        timeout: float = 120.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise MissingExtra("a live LLM", "llm", "httpx2") from error
        self._errors = httpx2.TransportError
        self.model = model
        self.url, key = endpoint(url)
        self._http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=timeout, follow_redirects=False
        )
        self._ledger = ledger
        self._slots = asyncio.Semaphore(concurrency)
        self._attempts = attempts
        self._sleep = sleep
        self._in_flight: dict[str, asyncio.Future[Answer]] = {}

    @property
    def name(self) -> str:
        """As the user named it."""
        return f"openai:{self.model}"

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def complete(self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, attempt: int = 0) -> Answer:
        """The answer to a prompt, from the ledger when it was given before; temperature 0.

        Raises:
            AskFailed: this request came to nothing; it is in the ledger as a failure and will be asked again.
            TokayError: no request of this run can succeed (wrong key, wrong URL, no such model).
        """
        request = {
            "model": self.model,
            "messages": [dict(message) for message in messages],
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        key = key_of({**request, "attempt": attempt})
        if known := self._ledger.get(key):
            return known
        if key not in self._in_flight:
            self._in_flight[key] = asyncio.ensure_future(self._ask(request, key))
            self._in_flight[key].add_done_callback(lambda _: self._in_flight.pop(key, None))
        return await self._in_flight[key]

    async def _ask(self, request: Mapping[str, Any], key: str) -> Answer:
        async with self._slots:
            reason = ""
            for attempt in range(self._attempts):
                began = time.perf_counter()
                wait = 2.0**attempt * random.uniform(0.5, 1.0)
                try:
                    response = await self._http.post(f"{self.url}/chat/completions", json=request)
                except self._errors as error:
                    reason = f"{type(error).__name__}: {error}"
                else:
                    if response.status_code == 200:
                        answer = self._read(response, key, time.perf_counter() - began)
                        if isinstance(answer, Answer):
                            self._ledger.put(request, answer)
                            return answer
                        reason = answer
                    elif response.status_code in RETRYABLE:
                        reason = f"HTTP {response.status_code}: {_excerpt(response.text)}"
                        wait = max(wait, _retry_after(response.headers.get("retry-after", "")))
                    else:
                        self._ledger.fail(request, key, f"HTTP {response.status_code}")
                        raise TokayError(self._explain(response.status_code, response.text))
                if attempt + 1 < self._attempts:
                    await self._sleep(min(wait, LONGEST_WAIT))
            self._ledger.fail(request, key, reason)
            raise AskFailed(reason)

    def _read(self, response: Any, key: str, seconds: float) -> Answer | str:
        """The answer, or why there is none."""
        try:
            data = response.json()
            choice = data["choices"][0]
            text = choice["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            if response.text.lstrip()[:1] == "<":
                raise TokayError(
                    f"{self.url} answered HTML, not JSON; expected the base URL of an OpenAI-compatible API, "
                    f"which mostly ends in /v1"
                ) from None
            return f"not a chat completion: {_excerpt(response.text)}"
        if not isinstance(text, str) or not text.strip():
            return f"empty answer (finish_reason {choice.get('finish_reason')})"
        usage = data.get("usage") or {}
        return Answer(
            key, text, int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0), seconds
        )

    def _explain(self, status: int, text: str) -> str:
        said = _excerpt(text)
        if status in (401, 403):
            return f"{self.url} refused the key in OPENAI_API_KEY (HTTP {status}: {said}); set the right one"
        if status == 404:
            return (
                f"{self.url} has no model {self.model!r} or no /chat/completions (HTTP 404: {said}); check "
                f"--llm and --llm-url"
            )
        if 300 <= status < 400:
            return f"{self.url} redirects (HTTP {status}); give the final address with --llm-url"
        return f"{self.url} refused the request (HTTP {status}: {said})"


def _retry_after(header: str) -> float:
    try:
        return max(0.0, float(header))
    except ValueError:
        return 0.0


def _excerpt(text: str) -> str:
    return " ".join(text.split())[:200]
