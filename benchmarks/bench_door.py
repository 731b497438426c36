"""Claim: the door keeps a server of 500 ms busy, below 1 ms of CPU a request, however large the ledger is.

Each contender is a process of its own that sends the same requests, 64 in flight; they take turns, and medians of
three rounds are shown. CPU is that of the client's process, all threads, ledger and syncs included.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from common import arguments, table
from loopback import serving

SECONDS, IN_FLIGHT, REQUESTS, WARM, ROUNDS = 0.5, 64, 1024, 64, 3
ROWS = 1_000_000
IDEAL = IN_FLIGHT / SECONDS

Ask = Callable[[list[dict[str, str]]], Awaitable[Any]]


def chat(number: int) -> list[dict[str, str]]:
    """About 500 tokens, as a judge's prompt has."""
    text = f"{number} " + 400 * "word "
    return [{"role": "system", "content": "Grade the passages."}, {"role": "user", "content": text}]


@contextlib.asynccontextmanager
async def door(url: str, ledger: str) -> Any:
    """Tokay's own way: ledger, limits, retries."""
    from tokay.llm.client import Endpoint
    from tokay.llm.door import Door
    from tokay.llm.ledger import Ledger
    from tokay.llm.limits import Limits

    model = Door(Endpoint("m", url=url, limits=Limits(concurrency=IN_FLIGHT)), Ledger(Path(ledger)))
    yield lambda messages: model.complete(messages, max_tokens=16)
    await model.close()


@contextlib.asynccontextmanager
async def httpx2(url: str, _: str) -> Any:
    """One client, as its manual shows it."""
    import httpx2

    slots = asyncio.Semaphore(IN_FLIGHT)
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(timeout=60, limits=limits) as client:

        async def ask(messages: list[dict[str, str]]) -> str:
            async with slots:
                body = {"model": "m", "messages": messages, "max_tokens": 16, "temperature": 0}
                said = await client.post(f"{url}/chat/completions", json=body)
                return str(said.json()["choices"][0]["message"]["content"])

        yield ask


@contextlib.asynccontextmanager
async def openai(url: str, _: str) -> Any:
    """OpenAI's SDK, as its manual shows it."""
    from openai import AsyncOpenAI

    slots = asyncio.Semaphore(IN_FLIGHT)
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

        async def ask(messages: Any) -> Any:
            async with slots:
                said = await client.chat.completions.create(model="m", messages=messages, max_tokens=16, temperature=0)
                return said.choices[0].message.content

        yield ask


CLIENTS = {"door": door, "httpx2": httpx2, "openai": openai}


async def measure(name: str, url: str, ledger: str) -> dict[str, float]:
    """Wall and CPU seconds of all requests, once the connections are open."""
    first = int.from_bytes(os.urandom(4))  # a ledger may hold the requests of the round before
    async with CLIENTS[name](url, ledger) as ask:
        await asyncio.gather(*(ask(chat(first + i)) for i in range(WARM)))
        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(ask(chat(first + WARM + i)) for i in range(REQUESTS)))
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def run(name: str, url: str, ledger: Path) -> dict[str, float] | None:
    """One contender in a process of its own; None: it is not installed."""
    done = subprocess.run([sys.executable, __file__, name, url, str(ledger)], capture_output=True, text=True)
    if done.returncode and "ModuleNotFoundError" in done.stderr:
        return None
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout))


def fill(path: Path, rows: int) -> None:
    """A ledger with so many other answers."""
    from tokay.llm.ledger import Ledger

    Ledger(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA synchronous=OFF")
        db.execute("PRAGMA cache_size=-400000")
        db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) INSERT INTO answers "
            "SELECT lower(hex(randomblob(32))), 'm', 'judge', printf('%0500d', i), 'ok', '{}', '{}', '', "
            "1, 0, 1, NULL, 0.5, 1, 0 FROM n",
            (rows,),
        )
        db.commit()


def main() -> None:
    """Let the contenders take turns."""
    arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name, serving(SECONDS) as url:
        folder = Path(name)
        fill(folder / "large", ROWS)
        contenders = {
            "Tokay, ledger included": ("door", folder / "small"),
            f"Tokay, {ROWS:,} rows in the ledger": ("door", folder / "large"),
            "httpx2 alone": ("httpx2", folder / "none"),
            "openai SDK alone": ("openai", folder / "none"),
        }
        runs = [{label: run(client, url, path) for label, (client, path) in contenders.items()} for _ in range(ROUNDS)]
    print(f"{REQUESTS} requests, {IN_FLIGHT} in flight, a server of {SECONDS * 1e3:.0f} ms: at best {IDEAL:.0f}/s")
    medians = {label: median([round_[label] for round_ in runs]) for label in contenders}
    own = medians["Tokay, ledger included"]
    assert own is not None
    rows = [[label, *shown(medians[label], own)] for label in contenders]
    table(["client", "requests/s", "of the ideal", "CPU ms/request", "CPU to Tokay's"], rows)


def median(runs: list[dict[str, float] | None]) -> dict[str, float] | None:
    """Of wall and CPU seconds."""
    done = [r for r in runs if r]
    return {key: statistics.median(r[key] for r in done) for key in ("wall", "cpu")} if done else None


def shown(took: dict[str, float] | None, own: dict[str, float]) -> list[str]:
    """A row of the table."""
    if took is None:
        return ["not installed", "", "", ""]
    rate = REQUESTS / took["wall"]
    cpu = took["cpu"] / REQUESTS * 1e3
    return [f"{rate:.1f}", f"{rate / IDEAL:.1%}", f"{cpu:.2f}", f"{took['cpu'] / own['cpu']:.2f}"]


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] in CLIENTS:
        print(json.dumps(asyncio.run(measure(*sys.argv[1:]))))
    else:
        main()
