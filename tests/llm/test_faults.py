"""A server that fails in every way: the run ends complete, with every prompt answered once."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_llm import FakeLLM, Reply
from tokay.errors import TokayError
from tokay.llm.client import Endpoint
from tokay.llm.commits import Commits
from tokay.llm.door import Door
from tokay.llm.ledger import Answer, Ledger
from tokay.llm.limits import Limits

PROMPTS = [[{"role": "system", "content": ""}, {"role": "user", "content": f"Query: {i}"}] for i in range(120)]


@pytest.fixture
def server() -> Iterator[FakeLLM]:
    with FakeLLM() as fake:
        fake.override = lambda request: f"answer to {request['messages'][1]['content']}"
        yield fake


def faults(seed: int) -> list[Reply | None]:
    """As often as in the issue, and more often; the hang is a reply that never ends."""
    rng = random.Random(seed)
    kinds: list[Reply | None] = [
        (429, {"retry-after": "0"}, "slow down"),
        (429, {"retry-after": "0.01"}, "slow down"),
        (500, {}, "oops"),
        (200, {}, '{"choices": [{"message": {"content": "answer to'),
        (200, {"x-hang": "2"}, ""),
        None,
    ]
    return [kinds[k] for k in rng.choices(range(6), weights=[5, 5, 5, 3, 2, 80], k=400)]


def test_nothing_is_lost_and_nothing_is_doubled(server: FakeLLM, tmp_path: Path) -> None:
    server.replies = faults(0)

    async def no_wait(seconds: float) -> None:
        await asyncio.sleep(0)

    async def main() -> list[Answer]:
        limits = Limits(concurrency=16)
        model = Door(Endpoint("m", url=server.url, limits=limits, timeout=0.5, sleep=no_wait), Ledger(tmp_path / "l"))
        try:
            return await asyncio.gather(*(model.complete(p, max_tokens=9) for p in PROMPTS))
        finally:
            await model.close()

    answers = asyncio.run(main())
    assert [a.text for a in answers] == [f"answer to Query: {i}" for i in range(len(PROMPTS))]
    rows = sqlite3.connect(tmp_path / "l").execute("SELECT status, request FROM answers").fetchall()
    assert Counter(json.loads(r)["messages"][1]["content"] for _, r in rows) == Counter(
        p[1]["content"] for p in PROMPTS
    )
    assert {status for status, _ in rows} == {"ok"}
    assert sum(a.attempts for a in answers) > len(PROMPTS)
    asked, server.replies = sum(server.asked.values()), []
    assert asyncio.run(main()) == answers  # from the ledger
    assert sum(server.asked.values()) == asked


def row(ledger: Ledger, key: str, text: str = "text") -> Any:
    return lambda: ledger.put({"model": "m"}, Answer(text, key=key))


def test_a_fault_in_a_group_is_nobody_elses(tmp_path: Path) -> None:
    async def main() -> list[Any]:
        ledger = Ledger(tmp_path / "l")
        ledger._db.execute("PRAGMA max_page_count = 6")
        commits = Commits(ledger)
        try:
            writes = [commits.write(row(ledger, f"k{i}", "x" * (100_000 if i == 5 else 1))) for i in range(9)]
            return await asyncio.gather(*writes, return_exceptions=True)
        finally:
            await commits.close()
            ledger.close()

    outcomes = asyncio.run(main())
    assert [type(o) for o in outcomes] == [TokayError if i == 5 else type(None) for i in range(9)]
    rows = sqlite3.connect(tmp_path / "l").execute("SELECT key FROM answers ORDER BY key").fetchall()
    assert [key for (key,) in rows] == [f"k{i}" for i in range(9) if i != 5]


def test_a_row_is_on_disk_before_its_writer_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        ledger = Ledger(tmp_path / "l")
        commits, seen = Commits(ledger), 0

        async def write(i: int) -> None:
            nonlocal seen
            await commits.write(row(ledger, f"k{i}"))
            assert sqlite3.connect(tmp_path / "l").execute("SELECT 1 FROM answers WHERE key = ?", (f"k{i}",)).fetchall()
            seen += 1

        await asyncio.gather(*(write(i) for i in range(50)))
        await commits.close()
        ledger.close()
        assert seen == 50

    asyncio.run(main())


def test_who_is_cancelled_leaves_a_row_behind(tmp_path: Path) -> None:
    async def main() -> None:
        ledger = Ledger(tmp_path / "l")
        commits = Commits(ledger)
        tasks = [asyncio.ensure_future(commits.write(row(ledger, f"k{i}"))) for i in range(5)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await commits.close()
        assert [ledger.get(f"k{i}") is not None for i in range(5)] == [True] * 5
        ledger.close()

    asyncio.run(main())
