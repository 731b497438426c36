"""Nothing is lost or mixed up, short ones do not wait behind long ones, and nothing is run that nobody waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import Slow
from tokay.serve.batcher import Batcher, Closing, Overloaded, Pace


def ask(batcher: Batcher, *requests: tuple[Slow, list[list[int]]]) -> list[Any]:
    async def all_of_them() -> list[Any]:
        asked = [batcher.run(embedder, ids) for embedder, ids in requests]
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(all_of_them())


ROWS = st.lists(st.integers(1, 999), min_size=1, max_size=90)
REQUESTS = st.lists(st.tuples(st.booleans(), st.lists(ROWS, max_size=12)), max_size=25)


@settings(max_examples=60)
@given(REQUESTS, st.integers(1, 4))
def test_every_request_gets_its_own_vectors_in_its_own_order(
    requests: list[tuple[bool, list[list[int]]]], workers: int
) -> None:
    one, two = Slow(), Slow(sign=-1)
    batcher = Batcher(0.01, 10**9, workers)
    found = ask(batcher, *((two if second else one, ids) for second, ids in requests))
    batcher.close()
    for (second, ids), vectors in zip(requests, found, strict=True):
        np.testing.assert_array_equal(vectors, (two if second else one).run(ids).reshape(len(ids), 4))
    assert batcher.waiting_tokens == 0


def test_from_many_threads_at_once() -> None:
    embedder, batcher = Slow(), Batcher(0.01, 10**9, 3)
    wrong: list[Any] = []

    def client(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(40):
            ids = [random.integers(1, 999, random.integers(1, 60)).tolist() for _ in range(random.integers(1, 5))]
            if not np.array_equal(ask(batcher, (embedder, ids))[0], embedder.run(ids)):
                wrong.append(ids)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batcher.close()
    assert wrong == []


def test_a_short_one_overtakes_a_long_one_that_is_under_way() -> None:
    embedder, batcher = Slow(hold=True), Batcher(0.05, 10**9)
    done: list[str] = []

    async def one(name: str, ids: list[list[int]]) -> None:
        await batcher.run(embedder, ids)
        done.append(name)

    async def both() -> None:
        long = asyncio.create_task(one("long", [[1] * 50] * 200))
        await asyncio.to_thread(embedder.began.wait)
        short = asyncio.create_task(one("short", [[2] * 5]))
        await asyncio.sleep(0)
        embedder.go.set()
        await asyncio.gather(long, short)

    asyncio.run(both())
    batcher.close()
    assert done == ["short", "long"]
    assert [len(batch) for batch in embedder.batches if [2] * 5 in batch] == [1], "not padded to the long one's length"
    assert [2] * 5 in embedder.batches[1]


def test_a_long_one_is_not_overtaken_for_ever() -> None:
    """Its turn was set when it came: requests that come later than it could have been done wait for it."""
    embedder, batcher = Slow(hold=True), Batcher(1.0, 10**9)
    batcher._paces[embedder] = paced(0.01, 0.01)

    async def run() -> None:
        first = asyncio.create_task(batcher.run(embedder, [[9]]))
        await asyncio.to_thread(embedder.began.wait)
        long = batcher._accept(embedder, [[1] * 10])  # a tenth of a second
        await asyncio.sleep(0.2)
        short = batcher._accept(embedder, [[2]])
        assert long.turn < short.turn
        embedder.go.set()
        await asyncio.gather(first, long.future, short.future)

    asyncio.run(run())
    batcher.close()


def paced(fixed: float, each: float) -> Pace:
    """What is learnt of micro-batches of several sizes."""
    pace = Pace()
    for n in range(300):
        tokens = (10, 50, 200)[n % 3]
        pace.add(tokens, fixed + each * tokens)
    return pace


def test_a_micro_batch_holds_what_runs_within_the_target() -> None:
    embedder, batcher = Slow(), Batcher(0.5, 10**9)
    batcher._paces[embedder] = paced(0.1, 0.01)
    ask(batcher, (embedder, [[1] * 10] * 10))
    assert max(len(batch) for batch in embedder.batches) in (3, 4)
    batcher.close()


@given(st.floats(0.001, 0.5), st.floats(1e-5, 1e-2))
def test_the_pace_is_learnt_with_its_fixed_part(fixed: float, each: float) -> None:
    share = fixed / (fixed + each * 260 / 3)
    if 0.12 < share < 0.88:
        np.testing.assert_allclose(paced(fixed, each).parts, (fixed, each), rtol=0.01)


def test_small_micro_batches_do_not_lead_to_smaller_ones() -> None:
    """Where the fixed part alone is above the target, half of the time is the fixed part."""
    pace = paced(0.35, 0.0005)
    assert pace.budget(0.1, most=2048) == pytest.approx(700, rel=0.05)
    for _ in range(200):
        pace.add(40, 0.35 + 0.0005 * 40)
    assert pace.budget(0.1, most=2048) >= 40
    assert pace.budget(0.1, most=30) == 30


def test_too_much_is_refused_and_a_single_large_request_is_not() -> None:
    embedder, batcher = Slow(hold=True), Batcher(1.0, max_waiting_tokens=100)

    async def run() -> None:
        first = asyncio.create_task(batcher.run(embedder, [[1] * 500]))
        await asyncio.to_thread(embedder.began.wait)
        second = asyncio.create_task(batcher.run(embedder, [[2] * 90]))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=r"^90 tokens are waiting, of at most 100; try again in 1 s$"):
            await batcher.run(embedder, [[3] * 11])
        embedder.go.set()
        await asyncio.gather(first, second, batcher.run(embedder, [[4] * 5]))

    asyncio.run(run())
    batcher.close()
    assert [3] * 11 not in [row for batch in embedder.batches for row in batch]


def test_what_nobody_waits_for_is_not_run() -> None:
    embedder, batcher = Slow(hold=True), Batcher(1.0, 10**9)

    async def run() -> None:
        first = asyncio.create_task(batcher.run(embedder, [[1]]))
        await asyncio.to_thread(embedder.began.wait)
        gone = asyncio.create_task(batcher.run(embedder, [[2] * 9] * 5))
        stays = asyncio.create_task(batcher.run(embedder, [[3]]))
        await asyncio.sleep(0)
        assert batcher.waiting_tokens == 46
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert batcher.waiting_tokens == 1
        embedder.go.set()
        await asyncio.gather(first, stays)

    asyncio.run(run())
    batcher.close()
    assert embedder.batches == [[[1]], [[3]]]


def test_closing_answers_what_was_taken_and_takes_nothing_more() -> None:
    embedder, batcher = Slow(hold=True), Batcher(0.01, 10**9)

    async def run() -> Any:
        asked = [asyncio.create_task(batcher.run(embedder, [[n] * 40])) for n in range(1, 30)]
        await asyncio.to_thread(embedder.began.wait)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        while batcher.takes:
            await asyncio.sleep(0.001)
        with pytest.raises(Closing):
            await batcher.run(embedder, [[1]])
        embedder.go.set()
        await closing
        return await asyncio.gather(*asked)

    found = asyncio.run(run())
    assert [row[0, 0] for row in found] == [embedder.run([[n] * 40])[0, 0] for n in range(1, 30)]


def test_a_text_that_the_model_fails_on_fails_alone() -> None:
    class Picky(Slow):
        def run(self, ids: Sequence[Sequence[int]]) -> Any:
            if any(13 in row for row in ids):
                raise RuntimeError("no thirteen")
            return super().run(ids)

    embedder, batcher = Picky(), Batcher(1.0, 10**9)
    found = ask(batcher, (embedder, [[1], [2, 2]]), (embedder, [[13, 1]]), (embedder, [[3]]))
    np.testing.assert_array_equal(found[0], embedder.run([[1], [2, 2]]))
    assert str(found[1]) == "no thirteen"
    np.testing.assert_array_equal(found[2], embedder.run([[3]]))
    batcher.close()


def test_no_texts_are_no_vectors() -> None:
    batcher = Batcher(1.0, 10**9)
    assert ask(batcher, (Slow(), []))[0].shape == (0, 4)
    batcher.close()
