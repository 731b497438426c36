"""A process that asks, killed at any moment and started again: what was committed is never asked for again."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fake_llm import FakeLLM
from tokay.llm.ledger import Ledger, key_of

PROMPTS = 40
IN_FLIGHT = 8
KILLS = int(os.environ.get("TOKAY_KILLS", "8"))

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tokay.llm.client", "httpx2", "fake_llm"])


def request(number: int) -> dict[str, Any]:
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": f"Query: {number}"}]
    return {"model": "m", "messages": messages, "max_tokens": 4, "temperature": 0}


def child(url: str, path: str, kill_at: int, events: Any) -> None:
    """Asks all prompts, and kills itself at the given event (0: never)."""
    from tokay.llm.client import Endpoint
    from tokay.llm.door import Door
    from tokay.llm.limits import Limits

    def watch(name: str, owner: Any, *, before: bool) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        def count() -> None:
            events.value += 1
            if events.value == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        def counted(*args: Any, **kwargs: Any) -> Any:
            if before:
                count()
            result = inner(*args, **kwargs)
            if not before:
                count()
            return result

        setattr(owner, name, counted)

    watch("send", Endpoint, before=True)  # about to be sent
    watch("put", Ledger, before=True)  # answered, not committed
    watch("put", Ledger, before=False)  # committed

    async def main() -> None:
        door = Door(Endpoint("m", url=url, limits=Limits(concurrency=IN_FLIGHT)), Ledger(Path(path)))
        try:
            await asyncio.gather(*(door.complete(request(n)["messages"], max_tokens=4) for n in range(PROMPTS)))
        finally:
            await door.close()

    asyncio.run(main())


def run(server: FakeLLM, path: Path, kill_at: int = 0) -> tuple[int, int]:
    """Exit code and number of events."""
    events = context.Value("i", 0)
    process = context.Process(target=child, args=(server.url, str(path), kill_at, events))
    process.start()
    process.join(60)
    assert process.exitcode is not None, "the process hangs"
    return process.exitcode, events.value


def committed(path: Path) -> set[int]:
    if not path.exists():
        return set()
    ledger = Ledger(path)
    try:
        return {n for n in range(PROMPTS) if ledger.get(key_of({**request(n), "attempt": 0}))}
    finally:
        ledger.close()


@settings(
    max_examples=max(1, KILLS // 4),
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(kills=st.lists(st.integers(1, PROMPTS), min_size=4, max_size=4))
def test_what_was_committed_is_never_asked_again(kills: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Four kills, each at a number of events drawn after the start of the process that it ends."""
    path = tmp_path_factory.mktemp("kills") / "ledger.sqlite"
    killed = 0
    with FakeLLM(delay=0.005) as server:
        server.override = lambda request: "an answer"

        def asked() -> Counter[int]:
            return Counter({n: server.asked[str_of(n)] for n in range(PROMPTS)})

        for kill_at in kills:
            before, had = asked(), committed(path)
            code, _ = run(server, path, kill_at)
            assert code in (0, -signal.SIGKILL)
            killed += code != 0
            assert all(asked()[n] == before[n] for n in had)
        assert run(server, path)[0] == 0
        assert committed(path) == set(range(PROMPTS))
        assert sum(asked().values()) <= PROMPTS + killed * IN_FLIGHT


def str_of(number: int) -> str:
    return json.dumps(request(number)["messages"])
