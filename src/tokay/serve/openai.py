"""``/v1/embeddings`` and ``/v1/models`` as OpenAI has them, and the words for sides that other clients send there."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from pydantic import BaseModel, Field, WithJsonSchema
from starlette.responses import Response

from tokay.serve.catalogue import Catalogue
from tokay.serve.encoder import Asked, Encoder
from tokay.serve.reading import Said, read
from tokay.serve.refusal import OpenAIErrors, Refusal, documented, in_json
from tokay.serve.token_ids import texts_of

_IDS: dict[str, Any] = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}


def _input_schema(most: int) -> dict[str, Any]:
    texts = {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": most}
    rows = {"type": "array", "items": _IDS, "minItems": 1, "maxItems": most}
    return {"anyOf": [_TEXT, texts, _IDS, rows]}


class EmbeddingsRequest(Said):
    """OpenAI's fields, then those in which other clients say what the texts are."""

    input: Annotated[Any, WithJsonSchema(_input_schema(2048))]
    model: str
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None
    input_type: str | None = Field(None, description="Cohere's, NVIDIA's and vLLM's word: search_query, passage, …")
    task_type: str | None = Field(None, description="Google's word: RETRIEVAL_QUERY, …")
    task: str | None = Field(None, description="Jina's word: retrieval.query, …")
    prompt_name: str | None = Field(None, description="sentence-transformers' word: query, document")


class Embedding(BaseModel):
    """One vector: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens that the model read."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """Vectors in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Model(BaseModel):
    """A name that requests may have."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    dimensions: list[int]
    max_tokens: int
    serves: list[Literal["embeddings", "rerank", "search"]] = Field(description="The routes that the name is for.")
    vector_space: str = Field(description="Vectors of models with the same one can be compared; empty: not known.")


class Models(BaseModel):
    """Every name."""

    object: Literal["list"]
    data: list[Model]


def router(catalogue: Catalogue, encoder: Encoder, beside: Mapping[str, Mapping[str, Any]] | None = None) -> APIRouter:
    """The routes that OpenAI's clients know.

    Args:
        catalogue: the models.
        encoder: runs them.
        beside: what else is served, as ``Model`` has it: rerankers and indexes by name.
    """
    routes = APIRouter()
    refusals = documented(OpenAIErrors)
    started = int(time.time())

    @routes.post(
        "/v1/embeddings", responses={200: {"model": Embeddings}, **refusals}, openapi_extra=body_of(EmbeddingsRequest)
    )
    async def embeddings(request: Request) -> Response:
        """Vectors of texts."""
        return await _embeddings(read(EmbeddingsRequest, await request.body()), catalogue, encoder)

    others = beside or {}

    def described(name: str) -> dict[str, Any]:
        known: dict[str, Any] = {"id": name, "object": "model", "created": started, "owned_by": "tokay"}
        also = others.get(name, {})
        if also and name not in catalogue.models:
            return known | dict(also)
        served = catalogue.find(name)
        sizes = {"dimensions": list(served.widths), "max_tokens": served.embedder.config.max_tokens}
        serves = {"serves": ["embeddings", *also.get("serves", ())]}
        return known | sizes | serves | {"vector_space": served.embedder.space}

    @routes.get("/v1/models", responses={200: {"model": Models}, 401: refusals[401]})
    async def models() -> Response:
        """All that is served, and aliases of the models for clients that can send a name alone."""
        names = dict.fromkeys([*catalogue.models, *catalogue.aliases(), *others])
        return in_json({"object": "list", "data": [described(name) for name in names]})

    @routes.get("/v1/models/{name:path}", responses={200: {"model": Model}, 401: refusals[401], 404: refusals[404]})
    async def model(name: str) -> Response:
        """One of them."""
        return in_json(described(name))

    return routes


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """What the OpenAPI document says of a body that is read by hand; ``app.document`` brings the schema."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def _embeddings(said: EmbeddingsRequest, catalogue: Catalogue, encoder: Encoder) -> Response:
    served = catalogue.find(said.model)
    words = {field: getattr(said, field) for field in ("input_type", "task_type", "task", "prompt_name")}
    kind = served.kind(words, encoder.options.default_kind)
    dim = served.width(said.dimensions, "dimensions")
    given = inputs(said.input, encoder.options.max_texts)
    if isinstance(given[0], str):
        texts = given
    else:
        texts = await encoder.apart(lambda: texts_of(given, served.embedder, encoder.options.token_ids))
    encoded = await encoder.encode(served, [Asked(text, kind) for text in texts])
    vectors = served.embedder.finish(encoded.vectors, dim)
    tokens = sum(encoded.tokens)

    def answer() -> Response:
        rows = _rows(vectors, said.encoding_format or "float")
        data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return in_json({"object": "list", "data": data, "model": said.model, "usage": usage})

    return answer() if len(texts) == 1 else await encoder.apart(answer)


def _rows(vectors: NDArray[np.float32], form: Literal["float", "base64"]) -> list[Any]:
    if form == "float":
        return list(np.ascontiguousarray(vectors))
    return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]


def inputs(value: Any, most: int) -> list[Any]:
    """The texts, or the lists of token ids, of what ``input`` may be.

    Raises:
        Refusal: it is neither, one of them is empty, or there are too many.
    """
    if isinstance(value, str):
        rows: list[Any] = [value]
    elif isinstance(value, list) and value and _is_id(value[0]):
        rows = [value]
    elif isinstance(value, list):
        rows = value
    else:
        raise _fault("input", value, "text, a list of texts, a list of token ids, or a list of such lists")
    if not rows:
        raise Refusal(400, "input is an empty list; expected at least one text", param="input")
    if len(rows) > most:
        raise Refusal(
            400,
            f"input has {len(rows):,} items; expected at most {most:,}: send the rest in more requests",
            param="input",
        )
    check = _check_text if isinstance(rows[0], str) else _check_ids
    for at, row in enumerate(rows):
        check(row, "input" if rows is not value else f"input[{at}]")
    return rows


def _check_text(row: Any, field: str) -> None:
    if not isinstance(row, str):
        raise _fault(field, row, "text, as the item before it")
    if not row:
        raise Refusal(400, f"{field} is empty; expected text of at least one character", param="input")


def _check_ids(row: Any, field: str) -> None:
    if not isinstance(row, list):
        raise _fault(field, row, "text or a list of token ids")
    if not row:
        raise Refusal(400, f"{field} is an empty list; expected at least one token id", param="input")
    for at, token in enumerate(row):
        if not _is_id(token) or token < 0:
            raise _fault(f"{field}[{at}]", token, "a token id, a whole number of at least 0")


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _fault(field: str, value: Any, expected: str) -> Refusal:
    return Refusal(400, f"{field} is {value!r}; expected {expected}", param="input")
