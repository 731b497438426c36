from __future__ import annotations

import asyncio
import heapq
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokay.llm.limits import BURST, Limits, size_of


class Clock:
    """Time that passes only while everybody sleeps."""

    def __init__(self) -> None:
        self.time = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []
        self._count = 0

    def __call__(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self._count += 1
        wake = asyncio.Event()
        heapq.heappush(self._sleepers, (self.time + seconds, self._count, wake))
        await wake.wait()

    async def run(self, *work: Any) -> None:
        everything = asyncio.gather(*work)
        while not everything.done():
            for _ in range(30):  # let all that can go on go on
                await asyncio.sleep(0)
            if self._sleepers and not everything.done():
                self.time, _, wake = heapq.heappop(self._sleepers)
                wake.set()
        await everything


def asked(characters: int, max_tokens: int = 0) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "x" * characters}], "max_tokens": max_tokens}


@settings(max_examples=40)
@given(
    requests=st.floats(0, 600),
    tokens=st.floats(0, 50_000),
    sizes=st.lists(st.integers(0, 4000), min_size=1, max_size=40),
    latency=st.floats(0.0, 5.0),
    concurrency=st.integers(1, 8),
)
def test_no_minute_exceeds_the_limits_by_more_than_the_burst(
    requests: float, tokens: float, sizes: list[int], latency: float, concurrency: int
) -> None:
    requests, tokens = requests if requests > 0.5 else 0.0, tokens if tokens > 50 else 0.0
    clock, sent = Clock(), list[tuple[float, float]]()
    in_flight = most = 0

    async def main() -> None:
        limits = Limits(
            concurrency=concurrency,
            requests_per_minute=requests,
            tokens_per_minute=tokens,
            clock=clock,
            sleep=clock.sleep,
        )

        async def ask(size: int) -> None:
            nonlocal in_flight, most
            async with limits.slot(asked(size)):
                in_flight, most = in_flight + 1, max(most, in_flight + 1)
                sent.append((clock.time, size / 4))
                await clock.sleep(latency)
                in_flight -= 1

        await clock.run(*(ask(size) for size in sizes))

    asyncio.run(main())
    assert len(sent) == len(sizes)
    assert [size for _, size in sent] == [size / 4 for size in sizes]  # nobody overtakes
    assert most <= concurrency
    for start, _ in sent:
        window = [size for at, size in sent if start <= at <= start + 60]
        if requests:
            assert len(window) <= requests + max(1.0, requests / 60 * BURST) + 1e-6
        if tokens:
            assert sum(window) <= tokens + max(1.0, tokens / 60 * BURST, *window) + 1e-3


def test_a_429_halves_once_and_answers_grow_it_again() -> None:
    limits = Limits(concurrency=8, clock=(clock := Clock()))
    clock.time += 1
    sent = clock.time
    clock.time += 1
    for _ in range(8):
        limits.throttled(sent)  # all that were in flight together
    assert limits.allowed == 4
    limits.throttled(clock.time + 1)
    assert limits.allowed == 2
    grown = []
    for _ in range(2 + 3 + 4 + 5 + 6 + 7 + 50):
        limits.answered()
        grown.append(limits.allowed)
    assert [grown.index(n) + 1 for n in range(3, 9)] == [2, 5, 9, 14, 20, 27]
    assert max(grown) == 8
    for _ in range(9):
        clock.time += 2
        limits.throttled(clock.time - 1)
    assert limits.allowed == 1


def test_fewer_are_let_in_after_a_429() -> None:
    async def main() -> list[int]:
        clock, seen = Clock(), list[int]()
        limits, in_flight = Limits(concurrency=4, clock=clock, sleep=clock.sleep), 0

        async def ask(number: int) -> None:
            nonlocal in_flight
            async with limits.slot(asked(1)):
                in_flight += 1
                seen.append(in_flight)
                await clock.sleep(1.0)
                if number < 4:
                    limits.throttled(clock.time - 1.0)
                in_flight -= 1

        await clock.run(*(ask(number) for number in range(12)))
        return seen

    seen = asyncio.run(main())
    assert max(seen[:4]) == 4
    assert max(seen[4:]) <= 2


def test_everybody_waits_while_a_server_wants_to_be_left_alone() -> None:
    async def main() -> float:
        clock = Clock()
        limits = Limits(clock=clock, sleep=clock.sleep)
        entered = 0.0

        async def told() -> None:
            async with limits.slot(asked(1)):
                with limits.pause():
                    await clock.sleep(7.0)

        async def other() -> None:
            nonlocal entered
            await clock.sleep(1.0)
            async with limits.slot(asked(1)):
                entered = clock.time

        await clock.run(told(), other())
        return entered

    assert asyncio.run(main()) == 1007.0


def test_a_place_is_not_lost_with_who_is_cancelled() -> None:
    async def main() -> None:
        limits = Limits(concurrency=1)

        async def hold(seconds: float) -> None:
            async with limits.slot(asked(1)):
                await asyncio.sleep(seconds)

        first, second, third = (asyncio.ensure_future(hold(s)) for s in (0.01, 9.0, 0.0))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(first, second, third, return_exceptions=True)
        holder, granted = asyncio.ensure_future(hold(0.0)), asyncio.ensure_future(hold(9.0))
        await asyncio.wait([holder])  # leaves, and lets the other in, which is cancelled before it knows
        granted.cancel()
        await asyncio.gather(granted, return_exceptions=True)
        await asyncio.wait_for(hold(0.0), 1.0)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (asked(400, max_tokens=20), (1, 120.0)),
        ({"context": "x" * 40, "continuations": [" 0", " 1"]}, (2, 23.0)),
        ({}, (1, 0.0)),
    ],
)
def test_sizes(request_: dict[str, Any], expected: tuple[int, float]) -> None:
    assert size_of(request_) == expected
