"""What goes over the wire to an OpenAI-compatible endpoint and what comes back, as plain values: nothing is sent here.

Log P(continuation | context) is read off a request whose prompt is both, and whose answer holds the log-probability of
every token of the prompt. The tokens come as text. Those of the continuation are found by walking back from the end
of the prompt; a server whose tokens do not spell it is not scoring this text, and is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from tokay.llm.ledger import Answer, Usage

CHAT = "/chat/completions"
COMPLETIONS = "/completions"


class NotOfThisText(Exception):
    """An answer that holds no log-probabilities, or those of another text; the message says which."""


# -- chats --------------------------------------------------------------------------------------------------------


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _ChatChoice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: Any = None


class ChatCompletion(BaseModel):
    """The body of an answer to a chat. What it costs no answer to misread is read by hand."""

    choices: list[_ChatChoice] = Field(min_length=1)
    usage: Any = None


def chat_body(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request of the door (``messages``, ``max_tokens``, …) as it is sent to ``CHAT``."""
    body = dict(request)
    if schema := body.pop("schema", None):
        named = {"name": "answer", "strict": True, "schema": schema}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    if body.get("top_logprobs"):
        body["logprobs"] = True
    return body


def chat_answer(said: ChatCompletion) -> Answer:
    """Its text, the log-probabilities of its likeliest first tokens, and what it took."""
    choice = said.choices[0]
    return Answer(choice.message.content or "", first=_first(choice.logprobs), usage=usage_of(said.usage))


def silence(said: ChatCompletion) -> str:
    """Why an answer holds no text."""
    choice = said.choices[0]
    if choice.message.refusal:
        return f"the model refused: {choice.message.refusal}"
    return f"empty answer (finish_reason {choice.finish_reason})"


def _first(logprobs: Any) -> dict[str, float]:
    """Log-probabilities of the likeliest first tokens, as their strings are: `` 3`` and ``3`` are two."""
    try:
        listed = logprobs["content"][0]["top_logprobs"]
        pairs = [(entry["token"], float(entry["logprob"])) for entry in listed]
    except (TypeError, KeyError, IndexError, ValueError):
        return {}
    first: dict[str, float] = {}
    for token, value in pairs:
        if isinstance(token, str) and not math.isnan(value):
            first[token] = max(value, first.get(token, -math.inf))  # halves of characters may look alike
    return first


def usage_of(usage: Any) -> Usage:
    """Token counts as the server tells them; 0 for what it does not tell, or tells in a strange way."""
    told = usage if isinstance(usage, dict) else {}
    details = told.get("prompt_tokens_details")
    prompt = _count(told.get("prompt_tokens"))
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return Usage(prompt, min(cached, prompt), _count(told.get("completion_tokens")))


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value < 2**53 else 0


# -- likelihoods --------------------------------------------------------------------------------------------------


class _Echo(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]


class _PromptToken(BaseModel):
    logprob: float
    decoded_token: str | None = None


_PROMPT = TypeAdapter(list[dict[str, _PromptToken] | None])


class _ScoredChoice(BaseModel):
    logprobs: Any = None
    prompt_logprobs: Any = None


class ScoredCompletion(BaseModel):
    """The body of an answer from ``COMPLETIONS``."""

    choices: list[_ScoredChoice] = Field(min_length=1)
    usage: Any = None


def likelihood_body(model: str, text: str, way: str) -> dict[str, Any]:
    """What is sent to ``COMPLETIONS``. One token must be written, since servers refuse to write none."""
    body: dict[str, Any] = {"model": model, "prompt": text, "max_tokens": 1, "temperature": 0}
    return {**body, **({"echo": True, "logprobs": 1} if way == "echo" else {"prompt_logprobs": 0})}


def log_probability(said: ScoredCompletion, way: str, context: str, continuation: str) -> tuple[float, int]:
    """Log P(continuation | context) in nats, and the number of the continuation's tokens.

    A token that straddles the border counts as the continuation's, with all of its log-probability: the model has to
    write it to write the continuation, and it is what a tokenizer of the joint text sees.

    Raises:
        NotOfThisText: the answer holds no log-probabilities of prompt tokens, or of other ones than these.
    """
    choice = said.choices[0]
    tokens = _echoed(choice.logprobs) if way == "echo" else _prompted(choice.prompt_logprobs)
    for written in (1, 0) if way == "echo" else (0,):  # an echo ends in the token that was written; some leave it out
        prompt = tokens[: len(tokens) - written]
        start = first_beyond([text for text, _ in prompt], context + continuation, len(context))
        if start is not None:
            values = [value for _, value in prompt[start:]]
            if not all(value is not None and math.isfinite(value) for value in values):
                raise NotOfThisText("a token of the continuation has no log-probability")
            return math.fsum(value for value in values if value is not None), len(values)
    raise NotOfThisText(f"its log-probabilities are not the prompt's: its tokens end in {_end(tokens)!r}")


def first_beyond(tokens: Sequence[str], text: str, border: int) -> int | None:
    """Index of the first token that reaches beyond ``text[:border]``; None where the last tokens do not spell the rest.

    Walks back from the end, so that what a server puts before the prompt (a token for the beginning of text) does not
    matter. A token may hold a part of a character only and then reads U+FFFD: how many bytes it stands for is tried.
    """
    data = text.encode("utf-8", "surrogatepass")
    start = len(text[:border].encode("utf-8", "surrogatepass"))
    open_, seen = [(len(tokens), len(data))], set[tuple[int, int]]()
    while open_:
        at, end = open_.pop()
        if end <= start:
            return at
        if at == 0 or (at, end) in seen:
            continue
        seen.add((at, end))
        open_ += [(at - 1, end - size) for size in _sizes(tokens[at - 1], data[:end])]
    return None


def _sizes(token: str, data: bytes) -> Iterator[int]:
    """How many of the last bytes a token may stand for."""
    whole = token.encode("utf-8", "surrogatepass")
    if data.endswith(whole):
        yield len(whole)
    elif "\ufffd" in token:
        yield from (n for n in range(1, len(whole) + 1) if data[-n:].decode("utf-8", "replace") == token)


def _echoed(logprobs: Any) -> list[tuple[str, float | None]]:
    try:
        echo = _Echo.model_validate(logprobs)
    except ValidationError:
        raise NotOfThisText("it ignores echo: no log-probabilities of the prompt came") from None
    return list(zip(echo.tokens, echo.token_logprobs, strict=False))


def _prompted(listed: Any) -> list[tuple[str, float | None]]:
    """The first token is null, since nothing stands before it. Of several at a place the prompt's stands first."""
    try:
        entries = _PROMPT.validate_python(listed)
    except ValidationError:
        raise NotOfThisText("it ignores prompt_logprobs: none came") from None
    first = (next(iter(entry.values()), None) if entry else None for entry in entries)
    return [(token.decoded_token or "", token.logprob) if token else ("", None) for token in first]


def _end(tokens: Sequence[tuple[str, float | None]]) -> str:
    return "".join(text for text, _ in tokens)[-20:]
