"""Asking a model for something that must be of a form: once more where it was not, then a counted failure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tokay.llm.door import AskFailed, LanguageModel, NoText
from tokay.llm.ledger import Answer
from tokay.records import Failure

R = TypeVar("R")
M = TypeVar("M", bound=BaseModel)

TRIES = 2
"""An answer that cannot be used is asked for once more."""

MORE_ROOM = 16
"""Times the room when asking once more: models that think aloud need thousands of tokens before they answer."""


class Unusable(Exception):
    """An answer that does not fit its prompt; the text says why."""


class Failed:
    """Why an item came to nothing, and the ledger key of what was asked last."""

    def __init__(self, reason: str, key: str) -> None:
        self.reason = reason
        self.key = key

    def of(self, stage: str, item_id: str) -> Failure:
        """The record of it."""
        return Failure(stage, item_id, self.reason, place(self.key))


def place(key: str) -> str:
    """Where an answer stands, as records name it."""
    return f"ledger {key}" if key else ""


async def ask(
    chat: LanguageModel,
    messages: Sequence[Mapping[str, str]],
    max_tokens: int,
    parse: Callable[[Answer], R],
    *,
    schema: Mapping[str, Any] | None = None,
    top_logprobs: int = 0,
) -> R | Failed:
    """What ``parse`` makes of the answer; it raises ``Unusable`` where it can make nothing of it."""
    failed = Failed("not asked", "")
    for attempt in range(TRIES):
        room = max_tokens * MORE_ROOM**attempt
        try:
            answer = await chat.complete(
                messages, max_tokens=room, attempt=attempt, schema=schema, top_logprobs=top_logprobs
            )
        except NoText as error:
            failed = Failed(str(error), error.key)
            continue
        except AskFailed as error:
            return Failed(f"no answer: {error}", error.key)
        try:
            return parse(answer)
        except Unusable as error:
            failed = Failed(str(error), answer.key)
    return failed


async def ask_likelihoods(chat: LanguageModel, context: str, continuations: Sequence[str]) -> Answer | Failed:
    """Log P of each continuation after a context, in the answer's ``values``."""
    try:
        return await chat.logprobs(context, continuations)
    except AskFailed as error:
        return Failed(f"no answer: {error}", error.key)


def read_json(model: type[M], text: str) -> M:
    """The first JSON object of an answer. Thoughts, code fences and remarks around it are passed over.

    Raises:
        Unusable: there is none, or it does not fit.
    """
    spoken = text.rpartition("</think>")[2]
    try:
        value, _ = json.JSONDecoder().raw_decode(spoken, max(0, spoken.find("{")))
        return model.model_validate(value)
    except (ValueError, RecursionError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise Unusable(f"not the JSON that was asked for ({why}): {' '.join(spoken.split())[:80]!r}") from error
