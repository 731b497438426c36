from __future__ import annotations

import asyncio
import math
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

import fake_servers as servers
from fake_llm import FakeLLM
from tokay.errors import TokayError
from tokay.llm.client import Endpoint
from tokay.llm.door import AskFailed, Door
from tokay.llm.ledger import Answer, Ledger
from tokay.llm.probe import Abilities


@pytest.fixture
def server() -> Iterator[FakeLLM]:
    with FakeLLM() as fake:
        yield fake


async def no_wait(seconds: float) -> None:
    pass


def door(server: FakeLLM, path: Path) -> Door:
    return Door(Endpoint("m", url=server.url, attempts=3, sleep=no_wait), Ledger(path / "l"))


def abilities(server: FakeLLM, path: Path) -> Abilities:
    async def main() -> Abilities:
        model = door(server, path)
        try:
            return await model.abilities()
        finally:
            await model.close()

    return asyncio.run(main())


def likelihoods(server: FakeLLM, path: Path, context: str, continuations: list[str]) -> Answer:
    async def main() -> Answer:
        model = door(server, path)
        try:
            await model.abilities()
            return await model.logprobs(context, continuations)
        finally:
            await model.close()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("routes", "expected", "note"),
    [
        (servers.vllm(), ("echo", 20, True, 4096), "by echo"),
        (servers.vllm(echo=False), ("prompt_logprobs", 20, True, 4096), "by prompt_logprobs"),
        (servers.vllm(prompt_logprobs=False), ("echo", 20, True, 4096), "by echo"),
        (servers.llama_cpp(), ("", 20, True, 8192), "it ignores echo"),
        (servers.llama_cpp(shape="openai"), ("", 20, True, 8192), "are not the prompt's: its tokens end in"),
        (servers.llama_cpp(shape="old"), ("", 20, True, 8192), "HTTP 500: .*Unsupported param: echo"),
        (servers.constant(), ("", 0, False, 0), "' Thursday' has 0.00 after .*, ' umbrella' has 0.00"),
        (servers.openai(), ("", 20, True, 0), "HTTP 404: not a chat model"),
        (servers.openai(top_logprobs=5), ("", 5, True, 0), "the 5 likeliest"),
        (servers.ollama(), ("", 0, False, 0), "JSON schemas: ignored .it answered 'Yes.'"),
        (servers.base_model(), ("echo", 0, False, 4096), "no chat: HTTP 400: .*no chat template"),
    ],
    ids="vllm,vllm-prompt,vllm-echo,llama,llama-tokens,llama-500,constant,openai,openai-5,ollama,base".split(","),
)
def test_servers_are_told_apart(
    server: FakeLLM, tmp_path: Path, routes: servers.Routes, expected: tuple[str, int, bool, int], note: str
) -> None:
    server.routes = routes
    found = abilities(server, tmp_path)
    assert (found.likelihood, found.first_logprobs, found.schema, found.context_tokens) == expected
    assert any(re.search(note, line) for line in found.notes), found.notes
    server.routes = {}  # the next run knows without asking
    assert abilities(server, tmp_path) == found
    assert Abilities.from_json(found.to_json()) == found


@pytest.mark.parametrize("echo", [True, False])
def test_likelihoods_are_the_servers_own(server: FakeLLM, tmp_path: Path, echo: bool) -> None:
    server.routes = servers.vllm(echo=echo)
    context, continuations = "Query: stones\nGrade:", [" 3", " not at all", "."]
    answer = likelihoods(server, tmp_path, context, continuations)
    for value, count, text in zip(answer.values, answer.tokens, continuations, strict=True):
        own = servers.scored(context + text)[len(servers.scored(context)) :]
        assert value == pytest.approx(sum(v for _, v in own if v is not None), abs=1e-12)
        assert count == len(own)
    prompts = [len(servers.scored(context + text)) for text in continuations]
    assert (answer.usage.prompt, answer.usage.completion, answer.attempts) == (sum(prompts), 3, 3)
    assert likelihoods(server, tmp_path, context, continuations) == answer  # from the ledger


def test_a_model_without_likelihoods_is_not_asked_for_them(server: FakeLLM, tmp_path: Path) -> None:
    server.routes = servers.openai()
    with pytest.raises(TokayError, match=r"openai:m at .* gives no log-probabilities of prompts; ask it in a chat"):
        likelihoods(server, tmp_path, "a", [" b"])


def test_a_failed_likelihood_keeps_count_of_what_it_took(server: FakeLLM, tmp_path: Path) -> None:
    server.routes = servers.vllm()
    complete = server.routes[servers.COMPLETIONS]
    server.routes[servers.COMPLETIONS] = lambda r: servers.refuse("too long") if " y" in r["prompt"] else complete(r)
    with pytest.raises(AskFailed, match="too long"):
        likelihoods(server, tmp_path, "a", [" x", " y"])
    rows = (
        sqlite3.connect(tmp_path / "l").execute("SELECT prompt_tokens FROM answers WHERE status = 'failed'").fetchall()
    )
    assert rows == [(2,)]


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        (servers.html(), "answered HTML, not JSON"),
        ({}, "has no model 'm' or no /chat/completions"),
        ({servers.CHAT: lambda _: servers.refuse("no chat")}, "neither chats nor scores texts .*no chat.*to name one"),
        ({servers.CHAT: lambda _: (503, {}, "busy")}, r"did not say what it can do \(HTTP 503: busy\); run again"),
    ],
    ids=["html", "nothing", "mute", "busy"],
)
def test_endpoints_that_are_none(server: FakeLLM, tmp_path: Path, routes: servers.Routes, message: str) -> None:
    server.routes = routes or {servers.CHAT: lambda _: (404, {}, "")}
    with pytest.raises(TokayError, match=message):
        abilities(server, tmp_path)
    server.routes = servers.vllm()
    assert abilities(server, tmp_path).likelihood == "echo"  # a failure is not remembered as a lack


def test_log_probabilities_of_the_first_token_and_schemas_are_asked_for(server: FakeLLM, tmp_path: Path) -> None:
    server.routes = servers.openai()

    async def main() -> tuple[Answer, Answer]:
        model = door(server, tmp_path)
        try:
            asks = [{"role": "user", "content": "?"}]
            first = await model.complete(asks, max_tokens=1, top_logprobs=3)
            return first, await model.complete(asks, max_tokens=9, schema={"type": "object"})
        finally:
            await model.close()

    first, held = asyncio.run(main())
    assert first.first == {"Yes": -0.1, "w1": -1.1, "w2": -2.1}
    assert all(math.isfinite(v) for v in first.first.values())
    assert held.text == '{"blue": true, "why": []}'
