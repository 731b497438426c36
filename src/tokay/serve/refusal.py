"""What a client is told when it gets no vectors, in the shape that its own library reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from pydantic import BaseModel
from starlette.responses import Response

_GOOGLES = re.compile(r":(embedContent|batchEmbedContents|predict)$")
_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    405: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    413: "INVALID_ARGUMENT",
    422: "FAILED_PRECONDITION",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_LONGEST = 400
"""Characters of a message that are sent: it may quote what came."""


class Refusal(Exception):
    """A request that gets no vectors.

    Args:
        status: of HTTP.
        message: what came, what was expected, what to do.
        param: the field that is at fault.
        code: a word for programs.
        headers: to send along.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, shortened(message), param, code
        self.headers = dict(headers or {})


def shortened(text: str) -> str:
    """A text with its middle left out when it is long."""
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} … {text[-half:]}"


def response_to(path: str, refusal: Refusal) -> Response:
    """A refusal in OpenAI's shape, or in Google's where the path is one of Google's."""
    google = {"code": refusal.status, "message": refusal.message, "status": _STATUS.get(refusal.status, "UNKNOWN")}
    openai = {
        "message": refusal.message,
        "type": "invalid_request_error" if refusal.status < 500 else "server_error",
        "param": refusal.param,
        "code": refusal.code,
    }
    return in_json({"error": google if _GOOGLES.search(path) else openai}, refusal.status, refusal.headers)


def in_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response; float32 arrays may stand in it, whose numbers have the digits that a float32 needs."""
    try:
        text = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:  # half a surrogate pair, which orjson does not write
        text = json.dumps(value, separators=(",", ":"), allow_nan=False, default=np.ndarray.tolist).encode()
    return Response(text, status, headers=headers, media_type="application/json")


class OpenAIError(BaseModel):
    """Inside of ``error``."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrors(BaseModel):
    """As OpenAI's libraries read it."""

    error: OpenAIError


class GoogleError(BaseModel):
    """Inside of ``error``."""

    code: int
    message: str
    status: str


class GoogleErrors(BaseModel):
    """As Google's libraries read it."""

    error: GoogleError


_REASONS = {
    400: "The request is not one that can be answered; `param` names the field.",
    401: "The key is missing or wrong.",
    404: "There is no such model.",
    408: "The request arrived too slowly.",
    413: "The body is too large.",
    422: "The model gives no finite vector for this text.",
    500: "The model failed.",
    503: "Too much is waiting; `Retry-After` says when to come again.",
    504: "There was no answer in time.",
}


def documented(shape: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route, for the OpenAPI document."""
    return {status: {"model": shape, "description": reason} for status, reason in _REASONS.items()}
