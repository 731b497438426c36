"""Ctrl-C: what was sent is answered and kept, what waits is not sent, and the next run goes on."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fake_llm import FakeLLM

CHILD = """
import sys
from pathlib import Path
from tokay.annotate.live import make_annotator
from tokay.records import Passage
from tokay.settings import Settings

settings = Settings(documents="")
live = make_annotator("openai:m", url=sys.argv[1], ledger_path=Path(sys.argv[2]), settings=settings)
corpus = [Passage(f"p{i}", "d", f"title {i}", f"stone {i} river cloud of {i}", "", "") for i in range(40)]
for made in live.generate(corpus, per_passage=1):
    pass
"""


def start(server: FakeLLM, ledger: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CHILD, server.url, str(ledger)], stderr=subprocess.PIPE)


def wait_for_requests(server: FakeLLM, count: int) -> None:
    deadline = time.monotonic() + 60
    while sum(server.asked.values()) < count:
        assert time.monotonic() < deadline, "the child asks nothing"
        time.sleep(0.01)


def committed(ledger: Path) -> set[str]:
    rows = sqlite3.connect(ledger).execute("SELECT request FROM answers WHERE status = 'ok'").fetchall()
    return {json.dumps(json.loads(request)["messages"]) for (request,) in rows}


@pytest.mark.parametrize("again", [False, True])
def test_ctrl_c(tmp_path: Path, again: bool) -> None:
    ledger = tmp_path / "l"
    with FakeLLM(delay=30.0 if again else 1.0) as server:
        child = start(server, ledger)
        wait_for_requests(server, 8)
        child.send_signal(signal.SIGINT)
        if again:  # once it waits for them
            time.sleep(0.5)
            child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=20)
        assert child.returncode != 0
        assert b"KeyboardInterrupt" in said
        assert sum(server.asked.values()) == 8
        assert committed(ledger) == (set() if again else set(server.asked))
        if not again:
            server.delay = 0.0
            assert start(server, ledger).communicate(timeout=60)[1] == b""
            assert sum(server.asked.values()) == len(server.asked) == 40
