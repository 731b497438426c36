"""What stands before the routes: keys, the size of a body, the time that it and its answer take, and the counts."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokay.serve.metrics import Metrics
from tokay.serve.options import Options
from tokay.serve.refusal import Refusal, response_to

log = logging.getLogger("tokay.serve")

OPEN = ("/healthz", "/readyz")
"""Paths that need no key: whoever watches a process asks them."""
_DRAIN_SECONDS = 2.0
_GONE = 499
"""As nginx counts a client that did not wait for its answer."""


class _Gone(Exception):
    """The client left."""


class Guard:
    """ASGI middleware around the application."""

    def __init__(self, app: ASGIApp, options: Options, metrics: Metrics) -> None:
        self.app, self.options, self.metrics = app, options, metrics
        self._keys = [key.encode() for key in options.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through when its key, size and time are right, and answer it otherwise."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        answer = _Answer(send)
        try:
            await self._through(scope, receive, answer)
        except _Gone:
            answer.status = _GONE
        except Refusal as refusal:
            await answer.refuse(scope, receive, refusal)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            await answer.refuse(scope, receive, Refusal(500, "the server failed on this request; its log says why"))
        route = getattr(scope.get("route"), "path", "other")
        self.metrics.request(route, answer.status, time.perf_counter() - began)

    async def _through(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        try:
            if scope["path"] not in OPEN:
                self._check_key(headers)
            self._check_length(headers)
        except Refusal:
            await self._drain(receive)
            raise
        body = await self._body(receive)
        await self._answer(scope, body, receive, answer)

    # -- keys -----------------------------------------------------------------------------------------------------

    def _check_key(self, headers: Mapping[bytes, bytes]) -> None:
        """Compare with every key, each in constant time."""
        if not self._keys:
            return
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        sent = token.strip() if scheme.lower() == b"bearer" else b""
        sent = sent or headers.get(b"x-goog-api-key", b"") or headers.get(b"api-key", b"")
        if not sum([hmac.compare_digest(sent, key) for key in self._keys]):
            what = "the key is not one of this server's" if sent else "there is no key"
            raise Refusal(
                401,
                f"{what}; send it as 'Authorization: Bearer KEY', 'x-goog-api-key: KEY' or 'api-key: KEY'",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer", "Connection": "close"},
            )

    # -- the body -------------------------------------------------------------------------------------------------

    def _check_length(self, headers: Mapping[bytes, bytes]) -> None:
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.options.max_body:
            raise self._too_large()

    async def _body(self, receive: Receive) -> bytes:
        """The whole body, if it is not too large and arrives in time."""
        parts = bytearray()
        seconds = self.options.body_timeout
        try:
            async with asyncio.timeout(seconds):
                async for part in _parts(receive):
                    parts += part
                    if len(parts) > self.options.max_body:
                        break
        except TimeoutError as error:
            raise Refusal(
                408,
                f"the body did not arrive within {seconds:g} s, {len(parts):,} bytes of it did; send it faster",
                headers={"Connection": "close"},
            ) from error
        if len(parts) > self.options.max_body:
            await self._drain(receive)
            raise self._too_large()
        return bytes(parts)

    def _too_large(self) -> Refusal:
        most = self.options.max_body
        message = f"the body has more than {most:,} bytes; send fewer texts a request"
        return Refusal(413, message, code="request_too_large", headers={"Connection": "close"})

    async def _drain(self, receive: Receive) -> None:
        """Read on for a moment: a client that is still sending would not get to read the answer."""
        with contextlib.suppress(TimeoutError, _Gone):
            async with asyncio.timeout(_DRAIN_SECONDS):
                async for _ in _parts(receive):
                    pass

    # -- the answer -----------------------------------------------------------------------------------------------

    async def _answer(self, scope: Scope, body: bytes, receive: Receive, answer: _Answer) -> None:
        """Run the application until it answers, its time is up, or the client leaves."""
        replay = _Replay(body)
        task = asyncio.ensure_future(self.app(scope, replay, answer))
        gone = asyncio.ensure_future(receive())
        try:
            done, _ = await asyncio.wait(
                {task, gone}, timeout=self.options.timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if task in done:
                task.result()
                return
        finally:
            gone.cancel()
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if done:
            raise _Gone
        raise Refusal(
            504, f"there was no answer within {self.options.timeout:g} s; send fewer texts a request", code="timeout"
        )


class _Answer:
    """The way back to the client, which knows what was sent on it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def refuse(self, scope: Scope, receive: Receive, refusal: Refusal) -> None:
        """Answer with a refusal, unless an answer is under way."""
        if not self.status:
            await response_to(scope["path"], refusal)(scope, receive, self)


class _Replay:
    """A body that was read already, as the application expects to receive it."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    async def __call__(self) -> Message:
        if self._body is None:
            await asyncio.Event().wait()  # the guard watches for the client's leaving
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    """The body, as it arrives."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        more = message.get("more_body", False)
        yield message.get("body", b"")
