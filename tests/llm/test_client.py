from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_llm import FakeLLM
from tokay.annotate.prompts import generate_messages
from tokay.errors import TokayError
from tokay.llm.client import AskFailed, ChatClient, endpoint
from tokay.llm.ledger import Answer, Ledger, key_of
from tokay.records import Passage

MESSAGES = generate_messages(Passage("p", "d", "t", "a river of stone and cloud", "", ""), count=1)


@pytest.fixture
def server() -> Iterator[FakeLLM]:
    with FakeLLM() as fake:
        yield fake


def ask(
    server: FakeLLM, path: Path, *, times: int = 1, waits: list[float] | None = None, attempt: int = 0
) -> list[Answer]:
    async def wait(seconds: float) -> None:
        (waits if waits is not None else []).append(seconds)

    async def main() -> list[Answer]:
        client = ChatClient("m", url=server.url, ledger=Ledger(path), attempts=3, sleep=wait)
        try:
            return await asyncio.gather(
                *(client.complete(MESSAGES, max_tokens=9, attempt=attempt) for _ in range(times))
            )
        finally:
            await client.close()

    return asyncio.run(main())


def test_an_answer_is_asked_for_once(server: FakeLLM, tmp_path: Path) -> None:
    first = ask(server, tmp_path / "l", times=5)  # identical requests in flight are one
    again = ask(server, tmp_path / "l")
    assert sum(server.asked.values()) == 1
    assert {a.text for a in first} == {again[0].text}
    assert (again[0].prompt_tokens, again[0].completion_tokens) == (10, 5)
    ask(server, tmp_path / "l", attempt=1)
    assert sum(server.asked.values()) == 2


def test_retryable_failures_are_retried_and_retry_after_is_honoured(server: FakeLLM, tmp_path: Path) -> None:
    server.replies = [(429, {"retry-after": "7"}, "slow down"), (500, {}, "oops"), None]
    waits: list[float] = []
    ask(server, tmp_path / "l", waits=waits)
    assert waits[0] == 7
    assert 1 <= waits[1] <= 2
    assert sum(server.asked.values()) == 3


def test_failures_are_recorded_and_never_answers(server: FakeLLM, tmp_path: Path) -> None:
    server.replies = [(503, {}, "busy")] * 3
    with pytest.raises(AskFailed, match=r"HTTP 503: busy"):
        ask(server, tmp_path / "l")
    assert Ledger(tmp_path / "l").counts() == {
        "answers": 0,
        "failures": 1,
        "prompt_tokens": 0,
        "completion_tokens": 0,
    }
    assert ask(server, tmp_path / "l")[0].text
    assert Ledger(tmp_path / "l").counts()["answers"] == 1
    assert Ledger(tmp_path / "l").counts()["failures"] == 0


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((401, {}, "bad key"), r"refused the key in OPENAI_API_KEY \(HTTP 401: bad key\)"),
        ((404, {}, "no"), r"has no model 'm' or no /chat/completions"),
        ((302, {"location": "http://elsewhere"}, ""), r"redirects \(HTTP 302\); give the final address"),
        ((200, {}, "<html>hello"), r"answered HTML, not JSON; expected the base URL"),
        ((400, {}, "no system role"), r"refused the request \(HTTP 400: no system role\)"),
    ],
)
def test_what_no_retry_can_mend_stops_at_once(
    server: FakeLLM, tmp_path: Path, reply: tuple[int, dict[str, str], str], message: str
) -> None:
    server.replies = [reply]
    with pytest.raises(TokayError, match=message):
        ask(server, tmp_path / "l")
    assert sum(server.asked.values()) == 1


@pytest.mark.parametrize("body", ["", "{", '{"choices": []}', '{"choices": [{"message": {"content": ""}}]}', "[1]"])
def test_garbage_is_a_failure(server: FakeLLM, tmp_path: Path, body: str) -> None:
    server.replies = [(200, {}, body)] * 3
    with pytest.raises(AskFailed, match=r"not a chat completion|empty answer"):
        ask(server, tmp_path / "l")


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with FakeLLM() as server:
        pass
    with pytest.raises(AskFailed, match=r"ConnectError"):
        ask(server, tmp_path / "l")


def test_the_key_goes_to_the_server_and_nowhere_else(
    server: FakeLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    ask(server, tmp_path / "l")
    assert server.keys == ["Bearer sk-secret"]
    assert all(b"sk-secret" not in path.read_bytes() for path in tmp_path.iterdir())
    assert stat.S_IMODE((tmp_path / "l").stat().st_mode) == 0o600


def test_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(TokayError, match=r"OPENAI_API_KEY is not set"):
        endpoint("")
    with pytest.raises(TokayError, match=r"expected http://… or https://…"):
        endpoint("localhost:8000")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1/")
    assert endpoint("") == ("http://127.0.0.1:1/v1", "")


def test_a_ledger_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "l").write_text("not a database, but long enough to be read as a header of one")
    with pytest.raises(TokayError, match=r"cannot be opened: file is not a database; move it away"):
        Ledger(tmp_path / "l")


def test_keys_see_model_prompt_and_parameters() -> None:
    request = {"model": "m", "messages": MESSAGES, "max_tokens": 1}
    assert key_of(request) == key_of(dict(reversed(request.items())))
    assert len({key_of(request), key_of({**request, "model": "n"}), key_of({**request, "max_tokens": 2})}) == 3


def test_a_ledger_of_another_process_is_seen(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    ledger.put({"model": "m"}, Answer("k", "text"))
    rows = sqlite3.connect(tmp_path / "l").execute("SELECT key, status FROM answers").fetchall()
    assert rows == [("k", "ok")]
