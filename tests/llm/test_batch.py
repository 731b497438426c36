"""The batch API: every end of a batch, and no request paid twice."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_batch import FakeBatches, Row, answered
from tokay.annotate.live import make_annotator
from tokay.errors import TokayError
from tokay.llm import batch as module
from tokay.llm.batch import ROUNDS, Batch
from tokay.llm.door import AskFailed, Door, NoText
from tokay.llm.ledger import Answer, Ledger
from tokay.llm.open import BATCH_AHEAD, read_spec
from tokay.settings import JudgeSettings, Settings


@pytest.fixture
def server() -> Iterator[FakeBatches]:
    with FakeBatches() as fake:
        yield fake


async def _soon(seconds: float) -> None:
    await asyncio.sleep(0.01)


def ask(server: FakeBatches, path: Path, prompts: list[str] | range, *, attempt: int = 0) -> list[Any]:
    async def main() -> list[Any]:
        ledger = Ledger(path)
        door = Door(Batch("m", url=server.url, ledger=ledger, sleep=_soon), ledger)
        try:
            return await asyncio.gather(
                *(door.complete(messages(p), max_tokens=4, attempt=attempt) for p in map(str, prompts)),
                return_exceptions=True,
            )
        finally:
            await door.close()

    return asyncio.run(main())


def messages(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def texts(answers: list[Any]) -> list[str]:
    return [a.text if isinstance(a, Answer) else f"{type(a).__name__}: {a}" for a in answers]


def test_requests_of_one_moment_are_one_batch(server: FakeBatches, tmp_path: Path) -> None:
    answers = ask(server, tmp_path / "l", range(30))
    assert texts(answers) == [f"answer to {n}" for n in range(30)]
    assert [b["requests"] for b in server.batches.values()] == [30]
    assert (answers[0].usage.prompt, answers[0].usage.completion) == (10, 5)
    sent = [json.loads(line) for line in server.files["file-0"].splitlines()]
    assert {line["custom_id"] for line in sent} == {a.key for a in answers}
    assert sent[0]["body"] == {"model": "m", "messages": messages("0"), "max_tokens": 4, "temperature": 0}
    assert ask(server, tmp_path / "l", range(30)) == answers
    assert len(server.batches) == 1


def test_a_batch_has_most_requests_and_bytes(
    server: FakeBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REQUESTS", 4)
    assert texts(ask(server, tmp_path / "l", range(4))) == [f"answer to {n}" for n in range(4)]
    monkeypatch.setattr(module, "REQUESTS", 100)
    monkeypatch.setattr(module, "BYTES", 600)
    assert len(texts(ask(server, tmp_path / "l", ["a", "b", "c", "x" * 900]))) == 4
    assert sorted(b["requests"] for b in server.batches.values()) == [1, 1, 2, 4]


@pytest.mark.parametrize("end", ["expired", "cancelled", "completed"])
def test_what_a_batch_did_not_do_goes_into_another(end: str, server: FakeBatches, tmp_path: Path) -> None:
    def half(body: dict[str, Any]) -> Row | None:
        number = int(body["messages"][-1]["content"])
        if len(server.batches) == 1 and number % 3:
            late = {"response": None, "error": {"code": "batch_expired", "message": "too late"}}
            return late if number % 3 == 1 else None
        return answered(body)

    server.ends, server.row = [end], half
    answers = ask(server, tmp_path / "l", range(9))
    assert texts(answers) == [f"answer to {n}" for n in range(9)]
    assert [b["requests"] for b in server.batches.values()] == [9, 6]
    assert server.asked == Counter({str(n): 1 + bool(n % 3) for n in range(9)})
    assert [a.attempts for a in answers] == [1, 2, 2] * 3


def test_what_no_batch_does_fails_after_a_few(server: FakeBatches, tmp_path: Path) -> None:
    server.row = lambda body: answered(body) if body["messages"][-1]["content"] != "3" else None
    answers = ask(server, tmp_path / "l", range(5))
    assert isinstance(answers[3], AskFailed)
    assert str(answers[3]) == "no answer in 3 batches, the last time: the batch completed without it"
    assert [b["requests"] for b in server.batches.values()] == [5, 1, 1]
    server.row = answered
    assert texts(ask(server, tmp_path / "l", range(5)))[3] == "answer to 3"  # it is asked again


def test_rows_of_every_kind(server: FakeBatches, tmp_path: Path) -> None:
    def fault(status: int, **error: Any) -> Row:
        return {"response": {"status_code": status, "body": {"error": error}}, "error": None}

    rows: dict[str, list[Row]] = {
        "filtered": [fault(400, message="a content filter")] * 2,
        "silent": [{"response": {"status_code": 200, "body": {"choices": [{"message": {"refusal": "no"}}]}}}],
        "busy": [fault(429, message="slow down")],
        "broken": [{"response": {"status_code": 200, "body": {"choices": []}}, "error": None}],
        "newer": [fault(400, param="max_tokens", code="unsupported_parameter")],
    }
    server.row = lambda body: rows[name].pop(0) if rows.get(name := body["messages"][-1]["content"]) else answered(body)
    found = dict(zip(rows, ask(server, tmp_path / "l", list(rows)), strict=True))
    assert isinstance(found["filtered"], AskFailed)
    assert "HTTP 400" in str(found["filtered"])
    assert "a content filter" in str(found["filtered"])
    assert isinstance(found["silent"], NoText)
    assert "the model refused: no" in str(found["silent"])
    assert texts([found[name] for name in ("busy", "broken", "newer")]) == [
        f"answer to {name}" for name in ("busy", "broken", "newer")
    ]
    last = json.loads(server.files[server.batches["batch_1"]["input_file_id"]].splitlines()[-1])
    assert last["body"]["max_completion_tokens"] == 4
    again = ask(server, tmp_path / "l", ["filtered", "silent"])  # failures are asked again, in a new batch
    assert isinstance(again[0], AskFailed)
    assert again[1].text == "answer to silent"


def test_a_batch_that_is_refused_as_a_whole(
    server: FakeBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.ends, server.errors = ["failed"] * ROUNDS, ["enqueued token limit of sk-secret"]
    [failed] = ask(server, tmp_path / "l", ["a"])
    assert "the batch failed (enqueued token limit of [key]) without it" in str(failed)
    assert texts(ask(server, tmp_path / "l", ["a"])) == ["answer to a"]


def test_a_batch_whose_making_got_no_answer_is_looked_for(server: FakeBatches, tmp_path: Path) -> None:
    server.faults = {"POST /v1/batches": [504], "GET /v1/batches/": [500, 500]}
    assert texts(ask(server, tmp_path / "l", range(3))) == [f"answer to {n}" for n in range(3)]
    assert len(server.batches) == 1
    server.faults = {"POST /v1/batches": [500]}  # not made: made now
    assert texts(ask(server, tmp_path / "l", ["x"])) == ["answer to x"]
    assert len(server.batches) == 2


def test_servers_without_batches(server: FakeBatches, tmp_path: Path) -> None:
    server.faults = {"POST /v1/files": [404]}
    [error] = ask(server, tmp_path / "l", ["a"])
    assert isinstance(error, TokayError)
    assert "takes no batch (HTTP 404" in str(error)
    assert "or without --batch" in str(error)
    server.faults = {"GET /v1/batches/": [500] * 99}
    [error] = ask(server, tmp_path / "l", ["a"])
    assert "does not say how batch batch_0 is (HTTP 500" in str(error)
    server.faults = {}
    assert texts(ask(server, tmp_path / "l", ["a"])) == ["answer to a"]
    assert len(server.batches) == 1


def test_a_batch_that_is_gone_is_made_again(server: FakeBatches, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    asked = Batch("m", url=server.url, ledger=ledger, sleep=_soon)
    ledger.begin_batch("t", ["k"])
    ledger.name_batch("t", "batch_of_another_provider")

    async def main() -> Answer:
        try:
            return await asked.send({"model": "m", "messages": messages("a"), "max_tokens": 1}, "k")
        finally:
            await asked.close()

    assert asyncio.run(main()).text == "answer to a"


def test_likelihoods_need_another_judge(server: FakeBatches, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    door = Door(Batch("m", url=server.url, ledger=ledger), ledger)
    with pytest.raises(TokayError, match=r"--batch takes chats only, .*; use judge.by=listwise or pointwise"):
        asyncio.run(door.logprobs("a", ["b"]))


def test_the_annotator_reads_far_ahead(server: FakeBatches, tmp_path: Path) -> None:
    assert read_spec("openai:m", url=server.url, batch=True).ahead == BATCH_AHEAD
    settings = Settings(documents="", batch=True, judge=JudgeSettings(turns=1))
    live = make_annotator("openai:m", url=server.url, ledger_path=tmp_path / "l", settings=settings)
    assert live._ahead == BATCH_AHEAD
    with pytest.raises(TokayError, match=r"--batch needs a provider's batch API, and --llm hf:x is none"):
        read_spec("hf:x", batch=True)


context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tokay.llm.batch", "httpx2"])


def child(url: str, path: str, kill: tuple[str, bool] | None) -> None:
    """Asks, and kills itself before or after a step of the ledger's."""
    if kill:
        name, after = kill
        inner = getattr(Ledger, name)

        def killed(*args: Any, **kwargs: Any) -> Any:
            if after:
                inner(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(Ledger, name, killed)

    async def main() -> None:
        ledger = Ledger(Path(path))
        door = Door(Batch("m", url=url, ledger=ledger, sleep=_soon), ledger)
        await asyncio.gather(*(door.complete(messages(str(n)), max_tokens=4) for n in range(20)))
        await door.close()

    asyncio.run(main())


def run(server: FakeBatches, path: Path, kill: tuple[str, bool] | None) -> int | None:
    process = context.Process(target=child, args=(server.url, str(path), kill))
    process.start()
    process.join(60)
    return process.exitcode


@pytest.mark.parametrize(
    "kill",
    [
        ("begin_batch", False),  # uploaded
        ("begin_batch", True),  # about to be made
        ("name_batch", False),  # made, and we do not know its id
        ("name_batch", True),  # made
        ("put", False),  # done, no answer is committed
        ("put", True),  # one is
    ],
)
def test_a_batch_is_paid_once_whatever_is_killed(kill: tuple[str, bool], server: FakeBatches, tmp_path: Path) -> None:
    for _ in range(8):  # pages of older batches
        server._make(
            {
                "input_file_id": server._keep(b""),
                "metadata": None,
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            }
        )
    assert run(server, tmp_path / "l", kill) == -signal.SIGKILL
    assert run(server, tmp_path / "l", None) == 0
    assert server.asked == Counter({str(n): 1 for n in range(20)})
    assert Ledger(tmp_path / "l").counts()["answers"] == 20
