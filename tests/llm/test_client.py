from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import stat
import tempfile
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_llm import FakeLLM, Reply
from tokay.annotate.prompts import generate_messages
from tokay.errors import TokayError
from tokay.llm.client import Endpoint, endpoint
from tokay.llm.door import FAILURES_IN_A_ROW, AskFailed, Door, NoText
from tokay.llm.ledger import Answer, Ledger, canonical, key_of
from tokay.llm.limits import Limits
from tokay.records import Passage

MESSAGES = generate_messages(Passage("p", "d", "t", "a river of stone and cloud", "", ""), ["a question"])


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
        client = Door(Endpoint("m", url=server.url, attempts=3, sleep=wait), Ledger(path))
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
    assert (again[0].usage.prompt, again[0].usage.completion) == (10, 5)
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
        ((402, {}, "no credits"), r"wants to be paid first \(HTTP 402: no credits\); add credit"),
        ((429, {}, '{"error": {"code": "insufficient_quota"}}'), r"wants to be paid first"),
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


def completion(content: str | None, **more: Any) -> Reply:
    choice = {"message": {"content": content, "refusal": more.pop("refusal", None)}, "finish_reason": "length"}
    return 200, {}, json.dumps({"choices": [choice], **more})


@pytest.mark.parametrize("usage", ["x", [], {"prompt_tokens": "many"}, {"prompt_tokens": None}, None])
def test_a_strange_token_count_costs_no_answer(server: FakeLLM, tmp_path: Path, usage: Any) -> None:
    server.replies = [completion("hello", usage=usage)]
    [answer] = ask(server, tmp_path / "l")
    assert (answer.text, answer.usage.prompt, answer.usage.completion) == ("hello", 0, 0)


@pytest.mark.parametrize("body", ["[" * 200_000, '{"choices": [{"message": {"content": "\\ud800"}}]}'])
def test_json_that_breaks_parsers_is_asked_for_again(server: FakeLLM, tmp_path: Path, body: str) -> None:
    server.replies = [(200, {}, body), None]
    assert ask(server, tmp_path / "l")[0].text


def test_a_model_that_says_nothing_is_not_asked_the_same_again(server: FakeLLM, tmp_path: Path) -> None:
    server.replies = [completion(None, usage={"prompt_tokens": 9, "completion_tokens": 99})]
    with pytest.raises(NoText, match=r"empty answer \(finish_reason length\)"):
        ask(server, tmp_path / "l")
    assert sum(server.asked.values()) == 1
    counts = Ledger(tmp_path / "l").counts()
    assert (counts["failures"], counts["completion_tokens"]) == (1, 99)
    server.replies = [completion(None, refusal="not this one")]
    with pytest.raises(NoText, match=r"the model refused: not this one"):
        ask(server, tmp_path / "l")


@pytest.mark.parametrize("status", [400, 403, 413, 422])
def test_a_refused_request_is_its_own_affair(server: FakeLLM, tmp_path: Path, status: int) -> None:
    server.replies = [(status, {}, "the prompt is too long")]
    with pytest.raises(AskFailed, match=rf"HTTP {status}: the prompt is too long"):
        ask(server, tmp_path / "l")
    assert sum(server.asked.values()) == 1
    assert ask(server, tmp_path / "l")[0].text


@pytest.mark.parametrize("status", [500, 520, 529])
def test_servers_errors_are_retried(server: FakeLLM, tmp_path: Path, status: int) -> None:
    server.replies = [(status, {}, ""), None]
    assert ask(server, tmp_path / "l")[0].text


def test_an_outage_stops_the_run(server: FakeLLM, tmp_path: Path) -> None:
    server.replies = [(400, {}, "this model does not chat")] * 99

    async def main() -> list[Any]:
        client = Door(Endpoint("m", url=server.url, limits=Limits(concurrency=4)), Ledger(tmp_path / "l"))
        prompts = [[{"role": "system", "content": ""}, {"role": "user", "content": f"Query: {i}"}] for i in range(60)]
        try:
            return await asyncio.gather(*(client.complete(p, max_tokens=1) for p in prompts), return_exceptions=True)
        finally:
            await client.close()

    outcomes = asyncio.run(main())
    assert sum(isinstance(o, AskFailed) for o in outcomes) == FAILURES_IN_A_ROW - 1
    assert isinstance(outcomes[-1], TokayError)
    assert "failed 20 requests in a row, the last with HTTP 400: this model does not chat" in str(outcomes[-1])
    assert sum(server.asked.values()) < FAILURES_IN_A_ROW + 4


def test_newer_models_get_the_parameters_they_want(server: FakeLLM, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    def refuse(parameter: str, code: str) -> Reply:
        return 400, {}, json.dumps({"error": {"message": "no", "param": parameter, "code": code}})

    server.override = lambda request: seen.append(request)  # type: ignore[func-returns-value]
    server.replies = [refuse("max_tokens", "unsupported_parameter"), refuse("temperature", "unsupported_value"), None]
    [answer] = ask(server, tmp_path / "l")
    assert sorted(seen[-1]) == ["max_completion_tokens", "messages", "model"]
    assert Ledger(tmp_path / "l").get(answer.key) == answer
    server.replies = [refuse("messages", "unsupported_value")]
    with pytest.raises(AskFailed, match="HTTP 400"):
        ask(server, tmp_path / "l", attempt=1)


def test_a_hanging_server_is_given_up_on(tmp_path: Path) -> None:
    async def main(url: str) -> None:
        client = Door(Endpoint("m", url=url, attempts=1, timeout=0.05), Ledger(tmp_path / "l"))
        try:
            await client.complete(MESSAGES, max_tokens=1)
        finally:
            await client.close()

    with FakeLLM(delay=0.5) as server, pytest.raises(AskFailed, match=r"no answer within 0.05 seconds|ReadTimeout"):
        asyncio.run(main(server.url))


def test_retry_after_may_be_a_date_and_is_capped(server: FakeLLM, tmp_path: Path) -> None:
    later = formatdate(time.time() + 3600, usegmt=True)
    server.replies = [(429, {"retry-after": later}, ""), (429, {"retry-after": "soon"}, ""), None]
    waits: list[float] = []
    ask(server, tmp_path / "l", waits=waits)
    assert waits[0] == 60
    assert 1 <= waits[1] <= 2


@given(st.text(), st.dictionaries(st.text(), st.text()))
def test_any_text_can_be_kept(text: str, more: dict[str, str]) -> None:
    request = {"model": "m", "messages": [{"role": "user", **more, "content": text + "\ud800"}]}
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder, "l"))
        ledger.put(request, Answer(text, key=key_of(request)))
        assert ledger.get(key_of(request)) == Answer(text, key=key_of(request))
        ledger.close()
    assert json.loads(canonical(request)) == request


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with FakeLLM() as server:
        pass
    with pytest.raises(TokayError, match=r"cannot be reached \(ConnectError: .*\); check --llm-url"):
        ask(server, tmp_path / "l")


def test_the_key_goes_to_the_server_and_nowhere_else(
    server: FakeLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n")  # files end in a newline
    server.replies = [(400, {}, "your key is sk-secret"), (401, {}, "bad key: sk-secret"), None]
    with pytest.raises(AskFailed, match=r"your key is \[key\]"):
        ask(server, tmp_path / "l")
    with pytest.raises(TokayError, match=r"refused the key .* bad key: \[key\]"):
        ask(server, tmp_path / "l")
    ask(server, tmp_path / "l")
    assert server.keys == ["Bearer sk-secret"] * 3
    assert all(b"sk-secret" not in path.read_bytes() for path in tmp_path.iterdir())


def test_the_ledger_is_its_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        (tmp_path / "l").touch(0o644)
        ledger = Ledger(tmp_path / "l")
        ledger.put({"model": "m"}, Answer("text", key="k"))
        assert {path.name for path in tmp_path.iterdir()} == {"l", "l-wal", "l-shm"}
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
        ledger.close()
        assert [path.name for path in tmp_path.iterdir()] == ["l"]
    finally:
        os.umask(old)


def test_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(TokayError, match=r"OPENAI_API_KEY is not set"):
        endpoint("")
    with pytest.raises(TokayError, match=r"expected http://… or https://…"):
        endpoint("localhost:8000")
    for url in ("http://", "http://[::1", "http://host:port/v1", "ftp://host"):
        with pytest.raises(TokayError, match=r"expected http://… or https://…"):
            endpoint(url)
    for url in ("https://user:sk-secret@host/v1", "https://host/v1?key=sk-secret"):
        with pytest.raises(TokayError, match=r"put the key in OPENAI_API_KEY") as caught:
            endpoint(url)
        assert "sk-secret" not in str(caught.value)
    for key in ("sk-sécret", "sk secret", "sk\nsecret"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(TokayError, match=r"a character that no key has; copy it again"):
            endpoint("")
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1/")
    assert endpoint("") == ("http://127.0.0.1:1/v1", "")


def test_a_ledger_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "l").write_text("not a database, but long enough to be read as a header of one")
    with pytest.raises(TokayError, match=r"cannot be opened: file is not a database; move it away"):
        Ledger(tmp_path / "l")


def test_a_failure_never_takes_the_place_of_an_answer(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    ledger.fail({"model": "m"}, Answer(attempts=5, key="k"), "busy")
    assert ledger.get("k") is None
    ledger.put({"model": "m"}, Answer("paid", attempts=2, key="k"))
    ledger.fail({"model": "m"}, Answer(key="k"), "busy again")  # of another process, which asked at the same time
    assert ledger.get("k") == Answer("paid", attempts=7, key="k")
    rows = sqlite3.connect(tmp_path / "l").execute("SELECT status, reason, attempts FROM answers").fetchall()
    assert rows == [("ok", "", 7)]


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    ledger.put({"model": "m"}, Answer("paid", key="k"))
    ledger._db.execute("PRAGMA max_page_count = 3")
    with pytest.raises(TokayError, match=r"cannot be written: database or disk is full; what it holds already is kept"):
        ledger.put({"model": "m"}, Answer("x" * 100_000, key="l"))
    assert ledger.get("k") == Answer("paid", key="k")


def test_keys_see_model_prompt_and_parameters() -> None:
    request = {"model": "m", "messages": MESSAGES, "max_tokens": 1}
    assert key_of(request) == key_of(dict(reversed(request.items())))
    assert len({key_of(request), key_of({**request, "model": "n"}), key_of({**request, "max_tokens": 2})}) == 3


def test_a_ledger_of_another_process_is_seen(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    ledger.put({"model": "m"}, Answer("text", key="k"))
    rows = sqlite3.connect(tmp_path / "l").execute("SELECT key, status FROM answers").fetchall()
    assert rows == [("k", "ok")]


def test_a_429_makes_room_and_answers_take_it_back(server: FakeLLM, tmp_path: Path) -> None:
    async def no_wait(seconds: float) -> None:
        pass

    async def main() -> list[int]:
        model = Endpoint("m", url=server.url, limits=Limits(concurrency=4), sleep=no_wait)
        allowed = []
        for _ in range(6):
            await model.send({"model": "m", "messages": MESSAGES, "max_tokens": 9})
            allowed.append(model.limits.allowed)
        await model.close()
        return allowed

    server.replies = [None, (429, {}, ""), None]
    assert asyncio.run(main()) == [4, 2, 3, 3, 3, 4]


def test_a_schema_that_is_refused_is_left_out(server: FakeLLM, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    server.override = lambda request: seen.append(request)  # type: ignore[func-returns-value]
    error = {"message": "Invalid schema", "param": "response_format", "code": None}
    server.replies = [(400, {}, json.dumps({"error": error})), None, None]

    async def main() -> None:
        model = Door(Endpoint("m", url=server.url), Ledger(tmp_path / "l"))
        for attempt in (0, 1):
            await model.complete(MESSAGES, max_tokens=9, attempt=attempt, schema={"type": "object"})
        await model.close()

    asyncio.run(main())
    assert ["response_format" in request for request in seen] == [False, False]
    assert sum(server.asked.values()) == 3
