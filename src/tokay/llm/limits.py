"""How fast a model is asked: requests in flight, requests and tokens a minute, and what the server says about it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

CHARACTERS_PER_TOKEN = 4.0
"""Of English text, for the estimate; other scripts have fewer, so leave some room below a provider's limit."""

BURST = 1.0
"""Seconds of its rate that a limit saves up while nobody asks; at least one request."""

_SOON = 1e-6
"""Seconds that are not worth waiting for; less may not even move a clock."""


class Limits:
    """Bounds the requests in flight, and the requests and tokens of a minute.

    Of ``concurrency`` requests in flight fewer are let in while the server says that they are too many: half as many
    after each 429, one more after as many answers as are let in (additive increase, multiplicative decrease, as in
    TCP). A server that names a time to wait (Retry-After) is left alone by everybody until it has passed.

    In any 60 seconds at most the limit and its burst are sent: ``BURST`` seconds of the rate, or one request where
    that is more. Who asks first is let in first.

    Args:
        concurrency: most requests in flight.
        requests_per_minute: 0: no limit. Each continuation of a question for likelihoods is a request.
        tokens_per_minute: of prompts and of the room for answers, estimated from characters; 0: no limit.
        clock: seconds, for tests.
        sleep: likewise.
    """

    def __init__(
        self,
        *,
        concurrency: int = 8,
        requests_per_minute: float = 0.0,
        tokens_per_minute: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.now = clock
        self.allowed = concurrency
        """Requests in flight that are let in now."""
        self._most = concurrency
        self._in_flight = 0
        self._answers = 0
        self._cut_at = -math.inf
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._requests = _Bucket(requests_per_minute, now=clock()) if requests_per_minute else None
        self._tokens = _Bucket(tokens_per_minute, now=clock()) if tokens_per_minute else None
        self._sleep = sleep
        self._line = asyncio.Lock()
        self._pauses = 0
        self._go_on = asyncio.Event()
        self._go_on.set()

    @contextlib.asynccontextmanager
    async def slot(self, request: Mapping[str, Any]) -> AsyncIterator[None]:
        """Wait for a place among the requests in flight and for the request's share of the minute; hold the place."""
        await self._enter()
        try:
            await self.turn(request)
            yield
        finally:
            self._in_flight -= 1
            self._admit()

    async def turn(self, request: Mapping[str, Any]) -> None:
        """Wait until a request may be sent: pauses, and the limits of a minute. To be called before another try."""
        if not self._pauses and not self._requests and not self._tokens:
            return
        requests, tokens = size_of(request)
        shares = [(b, n) for b, n in ((self._requests, requests), (self._tokens, tokens)) if b]
        async with self._line:  # a large request is not overtaken by small ones for ever
            while True:
                await self._go_on.wait()
                wait = max((bucket.wait(amount, self.now()) for bucket, amount in shares), default=0.0)
                if wait < _SOON:
                    break
                await self._sleep(wait)
            for bucket, amount in shares:
                bucket.take(amount)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """While somebody waits in this because the server asked for it, nobody sends."""
        self._pauses += 1
        self._go_on.clear()
        try:
            yield
        finally:
            self._pauses -= 1
            if not self._pauses:
                self._go_on.set()

    def answered(self) -> None:
        """A request was answered."""
        self._answers += 1
        if self._answers >= self.allowed:
            self._answers = 0
            self.allowed = min(self.allowed + 1, self._most)
            self._admit()

    def throttled(self, sent: float) -> None:
        """A request that was sent at this time (``now``) was one too many.

        All that were in flight together may be told so: they were sent before the cut and do not cut again.
        """
        if sent > self._cut_at:
            self._cut_at = self.now()
            self._answers = 0
            self.allowed = max(1, self.allowed // 2)

    async def _enter(self) -> None:
        if not self._waiting and self._in_flight < self.allowed:
            self._in_flight += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # let in and cancelled at once
                self._in_flight -= 1
                self._admit()
            raise

    def _admit(self) -> None:
        while self._waiting and self._in_flight < self.allowed:
            place = self._waiting.popleft()
            if not place.done():  # else it was cancelled
                self._in_flight += 1
                place.set_result(None)


class _Bucket:
    """A token bucket: fills at a rate, holds a burst. What is larger than the burst leaves a debt.

    Between two moments the level rises by at most ``rate * seconds`` and lies between ``-largest`` and ``burst``, so
    at most ``rate * seconds + max(burst, largest)`` are taken.
    """

    def __init__(self, per_minute: float, *, now: float) -> None:
        self._rate = per_minute / 60.0
        self._burst = max(self._rate * BURST, 1.0)
        self._level = self._burst
        self._at = now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until ``amount`` can be taken."""
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, min(amount, self._burst) - self._level) / self._rate

    def take(self, amount: float) -> None:
        """Take it; to be called when ``wait`` is over."""
        self._level -= amount


def size_of(request: Mapping[str, Any]) -> tuple[int, float]:
    """Requests that are sent for it, and their tokens by estimate: the prompts', and the room for the answers."""
    if "continuations" in request:
        sent = len(request["continuations"])
        characters = sent * len(request["context"]) + sum(len(text) for text in request["continuations"])
        return sent, characters / CHARACTERS_PER_TOKEN + sent
    characters = sum(len(message["content"]) for message in request.get("messages", ()))
    return 1, characters / CHARACTERS_PER_TOKEN + float(request.get("max_tokens", 0))
