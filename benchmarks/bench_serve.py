"""Claim: the server keeps 85 % of encode's rate at 64 clients, and its p99 for single queries is below 6 times one.

Client and servers share the machine's cores. The client is a bare HTTP/1.1 writer on asyncio, so that what is measured
is the server; OpenAI's library costs its own process about a millisecond a request. A queue alone, with one request at
a time at half its capacity (M/D/1), has a p99 of 4.3 times the time of one.

--mixups N     N requests of 1 to 4 out of 2,000 texts, each answer compared with the vectors of this process
--soak MIN     the same load for so many minutes, with the server's resident memory
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import pydoc_data.topics
import random
import re
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import arguments, table
from tokay.corpus import open_corpus

CLIENTS = 64
KEPT = 3.0
"""Seconds that a connection is used again after: uvicorn closes what is idle for five."""
QUERIES = (
    "how do I read a csv file",
    "sort a list by key",
    "what does yield return",
    "open a file for writing",
    "convert string to integer",
    "catch an exception",
    "merge two dictionaries",
    "what is a context manager",
)
PLAIN = """
import sys
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer
import torch

if len(sys.argv) > 3:
    torch.set_num_threads(int(sys.argv[3]))

class Request(BaseModel):
    model: str
    input: list[str]
    encoding_format: str = "float"

app, model = FastAPI(), SentenceTransformer(sys.argv[1], device="cpu")

@app.post("/v1/embeddings")
def embed(request: Request):
    vectors = model.encode(request.input, normalize_embeddings=True)
    return {"data": [{"embedding": v.tolist()} for v in vectors]}

print("on http://127.0.0.1:" + sys.argv[2], flush=True)
uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
"""


def mixed_texts(count: int, data: Path | None) -> list[str]:
    """Texts of 4 to 200 words: SciFact's abstracts where there is --data, else Python's own help topics."""
    if data:
        documents = open_corpus(str(data / "scifact")).documents(lambda skipped: None)
        words = " ".join(document.text for document in documents).split()
    else:
        words = " ".join(pydoc_data.topics.topics.values()).split()
    rng = random.Random(0)
    texts: dict[str, None] = {}
    while len(texts) < count:
        start, size = rng.randrange(len(words)), round(4 * 50 ** rng.random())
        texts[" ".join(words[start : start + size])] = None
    return list(texts)


# -- servers ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(*words: object) -> Iterator[tuple[int, int]]:
    """A server's port and process id."""
    with subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            found = re.search(r"on http://127.0.0.1:(\d+)", line)
            assert found, line
            yield int(found[1]), server.pid
        finally:
            server.terminate()


def resident(process: int) -> float:
    """Megabytes."""
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[0]) / 1024


# -- the client -------------------------------------------------------------------------------------------------------

Ask = Callable[[Sequence[str]], Awaitable[bytes]]


@contextlib.asynccontextmanager
async def client(port: int) -> AsyncIterator[Ask]:
    """Sends texts over a connection that is free, or a new one, and gives the answer's body."""
    free: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(texts: Sequence[str]) -> bytes:
        body = json.dumps({"model": "m", "input": list(texts), "encoding_format": "base64"}).encode()
        head = (
            f"POST /v1/embeddings HTTP/1.1\r\nHost: m\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        if free and free[-1][0] > time.monotonic() - KEPT:
            _, reader, writer = free.pop()
        else:
            reader, writer = await opened(port)
        writer.write(head.encode() + b"\r\n\r\n" + body)
        said = await reader.readuntil(b"\r\n\r\n")
        size = int(re.findall(rb"(?i)content-length: (\d+)", said)[0])
        answer = await reader.readexactly(size)
        free.append((time.monotonic(), reader, writer))
        if b" 200 " not in said[:16]:
            raise RuntimeError(answer.decode())
        return answer

    yield ask
    for _, _, writer in free:
        writer.close()


async def opened(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection, once the server listens."""
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            return await asyncio.open_connection("127.0.0.1", port, limit=2**24)
        await asyncio.sleep(0.05)


def vectors_of(answer: bytes) -> NDArray[np.float32]:
    """What an answer carries."""
    rows = [base64.b64decode(item["embedding"]) for item in json.loads(answer)["data"]]
    return np.stack([np.frombuffer(row, "<f4") for row in rows])


async def closed_loop(port: int, requests: Sequence[Sequence[str]], look: Callable[[int, bytes], None]) -> float:
    """Seconds that 64 clients take, each sending its next request when it has its answer."""
    todo = iter(enumerate(requests))
    async with client(port) as ask:
        await asyncio.gather(*(ask(["warm"]) for _ in range(CLIENTS)))

        async def one() -> None:
            for number, texts in todo:
                look(number, await ask(texts))

        began = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(CLIENTS)))
        return time.perf_counter() - began


async def poisson(port: int, rate: float, seconds: float) -> list[float]:
    """Seconds of each answer when single queries arrive at random, whether earlier ones are answered or not."""
    rng, took = random.Random(0), []
    async with client(port) as ask:
        for query in QUERIES * 4:
            await ask([query])

        async def one(query: str, due: float) -> None:
            await ask([query])
            took.append(time.perf_counter() - due)

        tasks, due = [], time.perf_counter()
        end = due + seconds
        while (due := due + rng.expovariate(rate)) < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(one(rng.choice(QUERIES), due)))
        await asyncio.gather(*tasks)
    return took


# -- what is measured -------------------------------------------------------------------------------------------------


def time_of_one(embedder: Any) -> float:
    """Median seconds of one short query in this process."""
    took = []
    for query in QUERIES * 25:
        began = time.perf_counter()
        embedder.encode([query], kind="query")
        took.append(time.perf_counter() - began)
    return statistics.median(took[len(QUERIES) :])


def time_of_all(embedder: Any, texts: list[str]) -> float:
    """Seconds of all texts in this process, the better of two."""
    took = []
    for _ in range(2):
        began = time.perf_counter()
        embedder.encode(texts)
        took.append(time.perf_counter() - began)
    return min(took)


def throughput(port: int, texts: list[str], own: float) -> None:
    """Table (a)."""
    random.Random(1).shuffle(texts)
    took = min(asyncio.run(closed_loop(port, [[text] for text in texts], lambda n, a: None)) for _ in range(2))
    rows = [
        ["encode in this process", f"{len(texts) / own:.1f}", "100 %"],
        [f"tokay serve, {CLIENTS} clients, one text a request", f"{len(texts) / took:.1f}", f"{own / took:.0%}"],
    ]
    table(["way", "texts/s", "of encode"], rows)


def latency(name: str, port: int, one: float, load: float, seconds: float) -> list[object]:
    """A row of table (b)."""
    took = np.array(asyncio.run(poisson(port, load / one, seconds))) * 1e3
    p50, p99 = np.percentile(took, [50, 99])
    return [name, len(took), f"{p50:.1f}", f"{p99:.1f}", f"{p50 / one / 1e3:.1f}", f"{p99 / one / 1e3:.1f}"]


def mixups(port: int, count: int, texts: list[str], expected: NDArray[np.float32]) -> None:
    """Table (c): every answer is that of its own texts."""
    rng = random.Random(2)
    picks = [rng.sample(range(len(texts)), rng.randint(1, 4)) for _ in range(count)]
    wrong, least, seen = 0, 1.0, np.zeros(count, bool)

    def look(number: int, answer: bytes) -> None:
        nonlocal wrong, least
        found = vectors_of(answer)
        nearest = (found @ expected.T).argmax(1)
        wrong += list(nearest) != picks[number]
        least = min(least, float((found * expected[picks[number]]).sum(1).min()))
        seen[number] = True

    took = asyncio.run(closed_loop(port, [[texts[i] for i in pick] for pick in picks], look))
    print(
        f"\n{count:,} requests of 1 to 4 out of {len(texts):,} texts, {CLIENTS} clients, {count / took:.0f} a second:"
    )
    table(["lost", "mixed up", "lowest cosine to encode"], [[int((~seen).sum()), wrong, f"{least:.6f}"]])


def soak(port: int, process: int, minutes: float, texts: list[str]) -> None:
    """Table (d): memory over time."""
    rng, rows, began, sent = random.Random(3), [], time.monotonic(), 0
    while (passed := (time.monotonic() - began) / 60) <= minutes:
        rows.append([f"{passed:.1f}", f"{resident(process):.0f}", sent])
        picks = [rng.sample(texts, rng.randint(1, 4)) for _ in range(100)]
        asyncio.run(closed_loop(port, picks, lambda n, a: None))
        sent += len(picks)
    rows.append([f"{passed:.1f}", f"{resident(process):.0f}", sent])
    step = max(1, len(rows) // 20)
    table(["minutes", "resident MB", "requests"], [*rows[:-1:step], rows[-1]])


def main() -> None:
    """Measure in this process, then through the servers."""
    from tokay.models.embedder import Embedder
    from tokay.models.locate import find_model

    parser = arguments(textwrap.dedent(__doc__ or ""))
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--threads", type=int, default=None, help="of the model; default: the machine's cores")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=60, help="of Poisson arrivals")
    parser.add_argument("--load", type=float, default=0.5, help="of what one query at a time can do")
    parser.add_argument("--mixups", type=int, default=0)
    parser.add_argument("--soak", type=float, default=0, metavar="MINUTES")
    parser.add_argument("--plain-port", type=int, default=8093, help="of the server without batching")
    asked = parser.parse_args()

    texts = mixed_texts(asked.texts, asked.data)
    embedder = Embedder.load(asked.model, backend=asked.backend, threads=asked.threads)
    expected = embedder.encode(texts)
    print(f"{asked.model}, {asked.backend}, {os.cpu_count()} cores shared by client and server")
    own, one = time_of_all(embedder, texts), time_of_one(embedder)
    threads = ("--threads", asked.threads) if asked.threads else ()
    serve = ("-m", "tokay", "serve", f"m={asked.model}", "--backend", asked.backend, *threads, "--port", 0)
    with serving(*serve) as (port, process):
        if asked.mixups or asked.soak:
            if asked.mixups:
                mixups(port, asked.mixups, texts, expected)
            if asked.soak:
                soak(port, process, asked.soak, texts)
            return
        throughput(port, list(texts), own)
        rows = [latency("tokay serve", port, one, asked.load, asked.seconds)]
    with serving("-c", PLAIN, find_model(asked.model), asked.plain_port, *threads[1:]) as (port, _):
        rows.append(latency("FastAPI + sentence-transformers", port, one, asked.load, asked.seconds))
    what = f"{asked.load:.0%} of what one at a time can do, which takes {one * 1e3:.1f} ms in this process"
    print(f"\nsingle queries, {asked.load / one:.0f} a second at random: {what}")
    table(["server", "queries", "p50 ms", "p99 ms", "p50 / one", "p99 / one"], rows)


if __name__ == "__main__":
    main()
