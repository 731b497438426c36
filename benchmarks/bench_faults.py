"""Claim: a server that fails in every way costs no answer, and no prompt whose answer is kept is asked again.

The server answers 10 % with 429, 5 % with 500, 3 % with JSON that is cut off, and 2 % not at all. The run is started
three times over one ledger: what the first left open, the others finish; what it has, they do not ask for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench_door import chat
from common import arguments, table
from loopback import serving
from tokay.llm.client import Endpoint
from tokay.llm.door import AskFailed, Door
from tokay.llm.ledger import Answer, Ledger
from tokay.llm.limits import Limits

PROMPTS, IN_FLIGHT, SECONDS, STARTS = 400, 32, 0.05, 3


async def run(url: str, ledger: Path) -> tuple[int, int, float]:
    """Answers, failures and seconds of one start."""
    limits = Limits(concurrency=IN_FLIGHT)
    model = Door(Endpoint("m", url=url, limits=limits, timeout=1.0), Ledger(ledger))
    began = time.perf_counter()
    try:
        asked = (model.complete(chat(i), max_tokens=16) for i in range(PROMPTS))
        said = await asyncio.gather(*asked, return_exceptions=True)
    finally:
        await model.close()
    answers, failures = (sum(isinstance(s, kind) for s in said) for kind in (Answer, AskFailed))
    return answers, failures, time.perf_counter() - began


def kept(ledger: Path) -> dict[str, float]:
    """When the answer to each prompt was committed; a doubled one is an error."""
    with contextlib.closing(sqlite3.connect(ledger)) as db:
        rows = db.execute("SELECT request, created FROM answers WHERE status = 'ok'").fetchall()
    prompts = Counter(json.loads(request)["messages"][1]["content"] for request, _ in rows)
    assert set(prompts.values()) <= {1}, "a prompt has two answers"
    return {json.loads(request)["messages"][1]["content"]: created for request, created in rows}


def main() -> None:
    """Start the run again and again."""
    arguments(__doc__).parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder, serving(SECONDS, seed=1) as url:
        ledger = Path(folder, "ledger")
        before: dict[str, float] = {}
        for start in range(1, STARTS + 1):
            answers, failures, seconds = asyncio.run(run(url, ledger))
            now = kept(ledger)
            again = sum(now[prompt] != created for prompt, created in before.items())
            rows.append([start, answers, failures, PROMPTS - len(now), again, f"{seconds:.1f}"])
            before = now
    table(["start", "answers", "failures", "not in the ledger", "asked again", "seconds"], rows)


if __name__ == "__main__":
    main()
