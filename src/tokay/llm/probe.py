"""What an endpoint can do, found out by asking it: servers that ignore a parameter mostly do not say so.

llama.cpp is the reason for the care taken: it takes ``echo``, and answers with the log-probabilities of the words that
it wrote itself. Judges that stand on these score every passage alike (ggml-org/llama.cpp issue 27174).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Protocol

from tokay.errors import TokayError
from tokay.llm.ledger import Answer

VERSION = 1
"""Of the questions below; part of the request that the ledger keeps the abilities under."""

LIKELIHOODS = ("echo", "prompt_logprobs")
"""Ways to be told log-probabilities of a prompt: OpenAI's old parameter, and vLLM's own."""

FIRST_LOGPROBS = (20, 5)
"""How many of the first token's to ask for: OpenAI's and vLLM's most, then what smaller providers allow."""

CONTEXT = "The days of the week are Monday, Tuesday, Wednesday,"
LIKELY, UNLIKELY = " Thursday", " umbrella"
QUESTION = ({"role": "user", "content": "Is the sky blue? Answer with one word, yes or no."},)
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"blue": {"type": "boolean"}, "why": {"type": "array", "items": {"type": "string"}}},
    "required": ["blue", "why"],
    "additionalProperties": False,
}
ROOM = 512
"""Tokens for an answer that needs a dozen: models that think first need more."""


@dataclasses.dataclass(frozen=True)
class Abilities:
    """What a model can be asked.

    ``likelihood`` names the way to log-probabilities of prompts; empty: there is none. ``first_logprobs`` is how many
    of the first token's come with a chat's answer, 0: none. ``schema``: answers can be held to a JSON schema.
    ``context_tokens`` is the longest prompt and answer together, 0: not known. ``notes`` tell the user why.
    """

    likelihood: str = ""
    first_logprobs: int = 0
    schema: bool = False
    context_tokens: int = 0
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """As the ledger keeps it."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Abilities:
        """The abilities that ``to_json`` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "notes": tuple(fields["notes"])})


class Refused(Exception):
    """The endpoint does not do what was asked; the text says what it did or said instead."""


class Asked(Protocol):
    """An endpoint as the probe sees it."""

    @property
    def model(self) -> str:
        """The model's own name."""

    async def look(self, path: str) -> Any:
        """The JSON at a path under the base URL, or under the host where it begins with ``//``; None: there is none."""

    async def chat(self, request: Mapping[str, Any]) -> Answer:
        """The answer to a chat, be it empty.

        Raises:
            Refused: the endpoint does not take the request.
        """

    async def likelihood(self, way: str, context: str, continuation: str) -> float:
        """Log P(continuation | context), in nats.

        Raises:
            Refused: it gave none, or not of this text.
        """


def question(model: str, url: str) -> dict[str, Any]:
    """What the ledger keeps the abilities of a model at an address under: the questions, as a request."""
    return {
        "model": model,
        "probe": VERSION,
        "url": url,
        "messages": [*QUESTION, {"role": "user", "content": 4 * f"{CONTEXT}{UNLIKELY}"}],
        "max_tokens": 3 * ROOM,
    }


async def probe(endpoint: Asked) -> Abilities:
    """Ask an endpoint a handful of short questions.

    Raises:
        TokayError: it can neither chat nor score a text, or no request to it can succeed.
        AskFailed: it did not answer, so that what it can do is not known.
    """
    first, first_note = await _first_logprobs(endpoint)
    schema, schema_note = await _schema(endpoint)
    likelihood, likelihood_note = await _likelihood(endpoint)
    silent = "" if first or schema else await _why_it_does_not_chat(endpoint)
    if silent and not likelihood:
        raise TokayError(f"the model neither chats nor scores texts ({silent}); expected --llm to name one that chats")
    notes = (likelihood_note, f"no chat: {silent}") if silent else (likelihood_note, first_note, schema_note)
    return Abilities(likelihood, first, schema, await _context_tokens(endpoint), notes)


async def _first_logprobs(endpoint: Asked) -> tuple[int, str]:
    why = ""
    for top in FIRST_LOGPROBS:
        try:
            answer = await endpoint.chat({"messages": QUESTION, "max_tokens": ROOM, "top_logprobs": top})
        except Refused as refused:
            why = str(refused)
            continue
        if len(answer.first) > 1:
            return top, f"log-probabilities of the first token: the {top} likeliest"
        why = "it ignores top_logprobs"
        break
    return 0, f"log-probabilities of the first token: none ({why})"


async def _schema(endpoint: Asked) -> tuple[bool, str]:
    try:
        answer = await endpoint.chat({"messages": QUESTION, "max_tokens": ROOM, "schema": SCHEMA})
    except Refused as refused:
        return False, f"JSON schemas: refused ({refused})"
    if _fits(answer.text):
        return True, "JSON schemas: kept to"
    return False, f"JSON schemas: ignored (it answered {answer.text[:40]!r})"


def _fits(text: str) -> bool:
    """Whether a text is of ``SCHEMA``, which nobody would write who was asked for yes or no."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and set(value) == {"blue", "why"} and isinstance(value["why"], list)


async def _likelihood(endpoint: Asked) -> tuple[str, str]:
    """The first way that gives numbers about the text: what the model must find likelier is likelier."""
    faults = []
    for way in LIKELIHOODS:
        try:
            likely, unlikely = [await endpoint.likelihood(way, CONTEXT, text) for text in (LIKELY, UNLIKELY)]
        except Refused as refused:
            faults.append(f"{way}: {refused}")
            continue
        if likely > unlikely:
            return way, f"log-probabilities of prompts: by {way}"
        faults.append(f"{way}: {LIKELY!r} has {likely:.2f} after {CONTEXT!r}, {UNLIKELY!r} has {unlikely:.2f}")
    return "", f"log-probabilities of prompts: none ({'; '.join(faults)})"


async def _why_it_does_not_chat(endpoint: Asked) -> str:
    """Empty: it chats."""
    try:
        await endpoint.chat({"messages": QUESTION, "max_tokens": ROOM})
    except Refused as refused:
        return str(refused)
    return ""


async def _context_tokens(endpoint: Asked) -> int:
    """Tokens of prompt and answer together, where the server lists them; 0: it does not.

    vLLM and SGLang: ``max_model_len``; OpenRouter and others: ``context_length``. llama.cpp lists what the model was
    trained with, and tells what it was started with in ``/props``.
    """
    entry = _entry(await endpoint.look("/models"), endpoint.model)
    if entry.get("owned_by") == "llamacpp":
        entry = _dict(_dict(await endpoint.look("//props")).get("default_generation_settings"))
    sizes = (entry.get(name) for name in ("max_model_len", "context_length", "n_ctx"))
    return next((size for size in sizes if isinstance(size, int) and size > 0), 0)


def _entry(listed: Any, model: str) -> dict[str, Any]:
    """The model's own, or the only one: some servers list the file that they loaded, and answer to any name."""
    data = _dict(listed).get("data")
    entries = [_dict(entry) for entry in data] if isinstance(data, list) else []
    named = [entry for entry in entries if entry.get("id") == model]
    return next(iter(named or (entries if len(entries) == 1 else [])), {})


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
