"""What pydantic finds wrong, as sentences: the name, the value that came, what is expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from tokay.errors import did_you_mean

Schema = Mapping[str, Any]
"""JSON schema of a model or of one of its fields."""


def faults_of(
    error: ValidationError, model: type[BaseModel], data: Any, *, what: str, table: str = "a table"
) -> list[str]:
    """One sentence for each faulty field.

    Args:
        error: of validating ``data``.
        model: whose fields are expected.
        data: what came.
        what: a field is called, such as ``setting``.
        table: several values by name are called: TOML's word, which JSON has another for.
    """
    whole = model.model_json_schema()
    return list(dict.fromkeys(_sentence(item, whole, data, what, table) for item in error.errors()))


def _sentence(item: Mapping[str, Any], whole: Schema, value: Any, what: str, table: str) -> str:
    schema, names = whole, list[str]()
    for part in map(str, item["loc"]):
        inner = _fields(schema, whole).get(part) or schema.get("additionalProperties")
        if not inner:
            break  # an unknown name; or a member of a list or of a union, where the whole field is meant
        schema, value = _resolved(inner, whole), value.get(part) if isinstance(value, Mapping) else value
        names.append(part)
    if item["type"] == "extra_forbidden":
        return _unknown(what, names, str(item["loc"][-1]), schema, whole)
    name = f"{what} {'.'.join(names)!r}"
    if item["type"] == "missing":
        return f"{name} is missing"
    expected = "a finite number" if item["type"] == "finite_number" else in_words(schema, table)
    hint = did_you_mean(value, schema.get("enum", ())) if isinstance(value, str) else ""
    return f"{name} is {value!r}; expected {expected}{hint}"


def _unknown(what: str, names: Sequence[str], unknown: str, schema: Schema, whole: Schema) -> str:
    fields = _fields(schema, whole)
    name, *known = (".".join([*names, field]) for field in [unknown, *fields])
    below = [f"{field}.{inner}" for field in fields for inner in _fields(fields[field], whole)]
    meant = next((full for full in below if full.endswith(f".{unknown}")), name)  # named without its section
    return f"unknown {what} {name!r}; known here: {', '.join(fields)}{did_you_mean(meant, [*known, *below])}"


def _fields(schema: Schema, whole: Schema) -> Mapping[str, Schema]:
    fields: Mapping[str, Schema] = _resolved(schema, whole).get("properties", {})
    return fields


def _resolved(schema: Schema, whole: Schema) -> Schema:
    """What a reference stands for."""
    options = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    if len(options) == 1:
        return _resolved(options[0], whole)
    found: Schema = whole["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return found


def in_words(schema: Schema, table: str = "a table") -> str:
    """What a field takes; ``table`` as of ``faults_of``."""
    if "anyOf" in schema:
        return " or ".join(in_words(one, table) for one in schema["anyOf"] if one.get("type") != "null")
    if "const" in schema or "enum" in schema:
        *others, last = map(repr, schema.get("enum") or [schema["const"]])
        return f"{', '.join(others)} or {last}" if others else last
    match schema.get("type"):
        case "integer" | "number" as kind:
            return f"a {'whole ' if kind == 'integer' else ''}number {' and '.join(_bounds(schema))}".rstrip()
        case "boolean":
            return "true or false"
        case "array":
            return f"a list, each item {in_words(schema['items'], table)}" + _at_least(schema.get("minItems"), "item")
        case "object" if isinstance(inner := schema.get("additionalProperties"), Mapping) and "$ref" not in inner:
            return f"{table}, each value {in_words(inner, table)}" + _at_least(schema.get("minProperties"), "value")
        case "object" | None:
            return table
    if "format" in schema:
        return f"a {schema['format']}"
    return f"text like {schema['pattern']}" if "pattern" in schema else "text"


def _bounds(schema: Schema) -> list[str]:
    words = {
        "minimum": "of at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    return [f"{word} {schema[key]:g}" for key, word in words.items() if key in schema]


def _at_least(least: int | None, what: str) -> str:
    return f", with at least {least} {what}" if least else ""
