"""Routes for ``FakeLLM`` that answer as real servers do: what they take, what they ignore, what they refuse."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable
from typing import Any

from fake_llm import Reply

Routes = dict[str, Callable[[dict[str, Any]], Reply]]

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def scored(text: str) -> list[tuple[str, float | None]]:
    """A small language model: words with their blanks, likelier when they go on as days of the week do."""
    tokens = re.findall(r" ?\w+|.", text, re.DOTALL)
    return [(token, None if i == 0 else _log_probability(tokens[i - 1], token)) for i, token in enumerate(tokens)]


def _log_probability(before: str, token: str) -> float:
    return -0.1 if (before, token) == (",", " Thursday") else -1.0 - zlib.crc32(f"{before}|{token}".encode()) % 97 / 10


def chat(*, top_logprobs: int = 0, schema: bool = False, thinks: bool = False) -> Callable[[dict[str, Any]], Reply]:
    """A chat that gives at most so many log-probabilities (0: it ignores the wish) and may keep to a schema."""

    def answer(request: dict[str, Any]) -> Reply:
        if top_logprobs and request.get("top_logprobs", 0) > top_logprobs:
            return refuse(f"top_logprobs must be at most {top_logprobs}")
        text = '{"blue": true, "why": []}' if schema and "response_format" in request else "" if thinks else "Yes."
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        if top_logprobs and request.get("logprobs"):
            likeliest = [
                {"token": f"{'Yes' if i == 0 else f'w{i}'}", "logprob": -0.1 - i}
                for i in range(request["top_logprobs"])
            ]
            choice["logprobs"] = {"content": [{"token": "Yes", "logprob": -0.1, "top_logprobs": likeliest}]}
        return ok({"choices": [choice], "usage": {"prompt_tokens": 20, "completion_tokens": 2}})

    return answer


def vllm(*, echo: bool = True, prompt_logprobs: bool = True) -> Routes:
    def complete(request: dict[str, Any]) -> Reply:
        tokens = scored(request["prompt"])
        choice: dict[str, Any] = {"text": " and"}
        if request.get("echo") and echo:
            told = [
                ("<s>", None),
                *((t, -3.0 if v is None else v) for t, v in tokens),
                ("</s>", -0.5),
            ]  # its last is written
            choice["logprobs"] = {"tokens": [t for t, _ in told], "token_logprobs": [v for _, v in told]}
        elif request.get("echo"):
            return refuse("echo is not supported")
        if request.get("prompt_logprobs") is not None and prompt_logprobs:
            entries = [{str(i): {"logprob": v, "rank": 1, "decoded_token": t}} for i, (t, v) in enumerate(tokens)]
            choice["prompt_logprobs"] = [None, *entries[1:]]
        return ok({"choices": [choice], "usage": {"prompt_tokens": len(tokens), "completion_tokens": 1}})

    listed = {"data": [{"id": "other", "max_model_len": 1}, {"id": "m", "max_model_len": 4096}]}
    return {CHAT: chat(top_logprobs=20, schema=True), COMPLETIONS: complete, "/v1/models": lambda _: ok(listed)}


def llama_cpp(*, shape: str = "new") -> Routes:
    """Takes ``echo``, and scores what it wrote itself; ``shape`` is that of its log-probabilities."""

    def complete(request: dict[str, Any]) -> Reply:
        if shape == "old":
            return 500, {}, json.dumps({"error": {"code": 500, "message": "Unsupported param: echo"}})
        own: dict[str, Any] = {"tokens": [" Paris"], "token_logprobs": [-0.25]}
        if shape == "new":
            own = {"content": [{"id": 7, "token": " Paris", "logprob": -0.25, "top_logprobs": []}]}
        return ok({"choices": [{"text": " Paris", "logprobs": own}], "usage": {"completion_tokens": 1}})

    listed = {"data": [{"id": "/models/m.gguf", "owned_by": "llamacpp", "meta": {"n_ctx_train": 131072}}]}
    props = {"default_generation_settings": {"n_ctx": 8192}}
    return {
        CHAT: chat(top_logprobs=20, schema=True),
        COMPLETIONS: complete,
        "/v1/models": lambda _: ok(listed),
        "/props": lambda _: ok(props),
    }


def constant() -> Routes:
    """Echoes the prompt, and gives every token the same number."""

    def complete(request: dict[str, Any]) -> Reply:
        tokens = [token for token, _ in scored(request["prompt"])]
        return ok({"choices": [{"logprobs": {"tokens": tokens, "token_logprobs": [0.0] * len(tokens)}}]})

    return {CHAT: chat(), COMPLETIONS: complete}


def openai(*, top_logprobs: int = 20) -> Routes:
    """A chat alone; a chat model is refused at the old path."""
    return {CHAT: chat(top_logprobs=top_logprobs, schema=True), COMPLETIONS: lambda _: (404, {}, "not a chat model")}


def ollama() -> Routes:
    """Ignores what it does not know."""
    return {CHAT: chat(), COMPLETIONS: lambda _: ok({"choices": [{"text": "Yes."}]})}


def base_model() -> Routes:
    """Scores texts, and has no chat template."""
    return {**vllm(), CHAT: lambda _: refuse("no chat template")}


def html() -> Routes:
    page = 200, {"content-type": "text/html"}, "<html>welcome</html>"
    return dict.fromkeys((CHAT, COMPLETIONS, "/v1/models"), lambda _: page)


def ok(body: dict[str, Any]) -> Reply:
    return 200, {}, json.dumps(body)


def refuse(message: str) -> Reply:
    return 400, {}, json.dumps({"error": {"message": message, "type": "invalid_request_error"}})
