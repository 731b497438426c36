"""A request's body to a record, with its faults told by field."""

from __future__ import annotations

import json
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from tokay.expected import faults_of
from tokay.serve.refusal import Refusal


class Said(BaseModel):
    """What a client says; fields that are not known are not looked at, since clients send what other servers know."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", protected_namespaces=())


class SaidInCamels(Said):
    """… in Google's JSON, which has ``taskType`` and takes ``task_type``."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


S = TypeVar("S", bound=Said)


def read(model: type[S], body: bytes) -> S:
    """What a body says.

    Raises:
        Refusal: it is no UTF-8, no JSON, no object, or a field is not as expected.
    """
    value = _json(body)
    if not isinstance(value, dict):
        raise Refusal(400, f"the body is {_kind(value)}; expected a JSON object")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        place = error.errors()[0]["loc"]
        sentence = faults_of(error, model, value, what="field", table="an object")[0]
        raise Refusal(400, sentence, param=str(place[0]) if place else None) from error


def _json(body: bytes) -> Any:
    try:
        return json.loads(body.decode(), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise Refusal(
            400,
            f"the body is not UTF-8: byte {body[error.start]:#04x} at position {error.start}; expected JSON in UTF-8",
        ) from error
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Refusal(400, f"the body is not JSON: {reason}") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _kind(value: Any) -> str:
    names = {list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
