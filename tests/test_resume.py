"""A run that is killed anywhere and started again ends as one that was not, and asks nothing twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fake_llm import FakeLLM
from tiny import WORDS, tiny_base

OVERRIDES = (
    "corpus.passage_tokens=40",
    "generate.queries_per_passage=1",
    'mine.retrievers=["base", "initial", "bm25"]',
    "refit=true",
    "mine.candidates=4",
    "train.batch_size=8",
    "train.epochs=2",
    "train.learning_rate=0.001",
    "train.dims=[16]",
    "train.checkpoint_minutes=0.0001",
    "evaluate.resamples=200",
)
TIMED = ("tuned.json", "metrics.jsonl", "README.md")

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tokay.pipeline", "tokay.train.embedder", "tokay.annotate.live", "httpx2", "bm25s"])


def child(documents: str, base: str, url: str, out: str, kill_at: int, events: Any) -> None:
    """One run in a process of its own, which kills itself at the given event (0: never)."""
    import torch

    from tokay import distill
    from tokay.llm.ledger import Ledger
    from tokay.models.torch_embedder import TorchEmbedder
    from tokay.store import Run, StageOutput
    from tokay.train import loop
    from tokay.train.checkpoints import Checkpoints

    torch.set_num_threads(1)

    def watch(owner: Any, name: str, *, after: bool) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            result = inner(*args, **kwargs) if after else None
            events.value += 1
            if events.value == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result if after else inner(*args, **kwargs)

        setattr(owner, name, counted)

    watch(Path, "replace", after=False)  # a stage's folder and the manifest are about to change
    watch(Run, "_save", after=True)
    watch(StageOutput, "write", after=True)  # a table is there, its stage is not done
    watch(StageOutput, "write_json", after=False)
    watch(Ledger, "_write", after=True)  # an answer was committed
    watch(loop.Schedule, "rate", after=False)  # every step of training
    watch(Checkpoints, "save", after=True)
    watch(TorchEmbedder, "save", after=True)
    watch(TorchEmbedder, "_vectors", after=False)
    distill(
        documents,
        out=out,
        llm="openai:fake",
        base=base,
        overrides=(*OVERRIDES, f"llm_url={url}"),
        confirm=lambda plan: True,
    )


def run(documents: Path, server: FakeLLM, out: Path, kill_at: int = 0) -> tuple[int, int]:
    """Exit code and number of events."""
    events = context.Value("i", 0)
    process = context.Process(
        target=child, args=(str(documents), str(tiny_base()), server.url, str(out), kill_at, events)
    )
    process.start()
    process.join(120)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode, events.value


def contents(out: Path) -> dict[str, bytes]:
    """Every output of every stage, but for the seconds that training took."""
    found = {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.glob("*/**/*")) if p.is_file()}
    timed = {
        name: re.sub(rb'"seconds": [^,}]+|; [\d,]+ s in', b"", data)
        for name, data in found.items()
        if Path(name).name in TIMED
    }
    return found | timed


def committed(out: Path) -> set[str]:
    if not (out / "ledger.sqlite").exists():
        return set()
    with sqlite3.connect(out / "ledger.sqlite") as db:
        rows = db.execute("SELECT request FROM answers WHERE status = 'ok'").fetchall() if _has_table(db) else []
    return {json.dumps(json.loads(request)["messages"]) for (request,) in rows}


def _has_table(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'answers'").fetchall())


@pytest.fixture(scope="module")
def server() -> Iterator[FakeLLM]:
    with FakeLLM() as fake:
        yield fake


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    for d in range(12):
        lines = [" ".join(WORDS[(7 * d + 11 * s + 3 * w) % len(WORDS)] for w in range(30)) for s in range(2)]
        (folder / f"{d}.md").write_text("\n\n".join(f"# Part {i} of {d}\n\n{line}" for i, line in enumerate(lines)))
    return folder


@pytest.fixture(scope="module")
def whole(documents: Path, server: FakeLLM, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    out = tmp_path_factory.mktemp("whole") / "run"
    code, events = run(documents, server, out)
    assert code == 0
    return contents(out), events


KILLS = int(os.environ.get("TOKAY_KILLS", "4"))


@settings(max_examples=KILLS, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1))
def test_killed_anywhere_it_ends_the_same(
    share: float,
    documents: Path,
    server: FakeLLM,
    whole: tuple[dict[str, bytes], int],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    expected, events = whole
    out = tmp_path_factory.mktemp("killed") / "run"
    code, _ = run(documents, server, out, kill_at=1 + round(share * (events - 1)))
    assert code == -signal.SIGKILL
    paid, before = committed(out), Counter(server.asked)
    assert run(documents, server, out)[0] == 0
    assert all(server.asked[prompt] == before[prompt] for prompt in paid)
    assert contents(out).keys() == expected.keys()
    different = [name for name, data in contents(out).items() if data != expected[name]]
    assert different == []


def test_an_unchanged_run_does_nothing_again(documents: Path, server: FakeLLM, tmp_path: Path) -> None:
    assert run(documents, server, tmp_path / "run")[0] == 0
    before, asked = contents(tmp_path / "run"), sum(server.asked.values())
    times = {name: (tmp_path / "run" / name).stat().st_mtime_ns for name in before}
    assert run(documents, server, tmp_path / "run")[0] == 0
    assert {name: (tmp_path / "run" / name).stat().st_mtime_ns for name in before} == times
    assert sum(server.asked.values()) == asked
