"""Google's three ways to ask for embeddings: ``embedContent``, ``batchEmbedContents``, and Vertex's ``predict``.

Gecko itself is served by ``predict``; its successors by the other two. google-genai with a key always sends
``batchEmbedContents``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from tokay.serve.catalogue import Catalogue, Served
from tokay.serve.encoder import Asked, Encoder
from tokay.serve.openai import body_of
from tokay.serve.reading import SaidInCamels, read
from tokay.serve.refusal import GoogleErrors, Refusal, documented, in_json

_UNSAID = "TASK_TYPE_UNSPECIFIED"


class Part(SaidInCamels):
    """A piece of a text."""

    text: str


class Content(SaidInCamels):
    """A text in pieces."""

    parts: Annotated[list[Part], Field(min_length=1)]


class Config(SaidInCamels):
    """What Vertex's ``embedContent`` says about a text."""

    task_type: str | None = None
    title: str | None = None
    output_dimensionality: Annotated[int, Field(ge=1)] | None = None


class EmbedContentRequest(Config):
    """One text."""

    content: Content
    embed_content_config: Config | None = None

    @property
    def config(self) -> Config:
        """What is said about the text, wherever it stands."""
        return self.embed_content_config or self


class BatchEmbedContentsRequest(SaidInCamels):
    """Several texts."""

    requests: Annotated[list[EmbedContentRequest], Field(min_length=1)]


class Instance(SaidInCamels):
    """A text as Vertex has it: with ``task_type`` in snakes."""

    content: str
    task_type: str | None = None
    title: str | None = None


class Parameters(SaidInCamels):
    """For all texts of a request."""

    output_dimensionality: Annotated[int, Field(ge=1)] | None = None


class PredictRequest(SaidInCamels):
    """Several texts as Vertex has them."""

    instances: Annotated[list[Instance], Field(min_length=1)]
    parameters: Parameters = Parameters()


class Values(BaseModel):
    """A vector."""

    values: list[float]


class EmbedContentAnswer(BaseModel):
    """One vector."""

    embedding: Values


class BatchEmbedContentsAnswer(BaseModel):
    """Vectors in the order of the texts."""

    embeddings: list[Values]


class Statistics(BaseModel):
    """Of a text."""

    truncated: bool
    token_count: int


class PredictedValues(Values):
    """A vector, and what was read for it."""

    statistics: Statistics


class Prediction(BaseModel):
    """Of one text."""

    embeddings: PredictedValues


class PredictAnswer(BaseModel):
    """Vectors in the order of the texts."""

    predictions: list[Prediction]


_PREFIXES = ("/v1beta", "/v1")
_VERTEX = tuple(
    f"/{version}{of}/publishers/google"
    for version in ("v1", "v1beta1")
    for of in ("", "/projects/{project}/locations/{location}")
)


def router(catalogue: Catalogue, encoder: Encoder) -> APIRouter:
    """The routes that Google's clients know."""
    routes = APIRouter()

    async def embed_content(model: str, request: Request) -> Response:
        """The vector of a text."""
        said = read(EmbedContentRequest, await request.body())
        served = catalogue.find(model)
        found = await _values([said], served, encoder, "content")
        return in_json({"embedding": found[0]})

    async def batch_embed_contents(model: str, request: Request) -> Response:
        """Vectors of several texts."""
        said = read(BatchEmbedContentsRequest, await request.body())
        served = catalogue.find(model)
        found = await _values(said.requests, served, encoder, "requests")
        return await encoder.apart(lambda: in_json({"embeddings": found}))

    async def predict(model: str, request: Request) -> Response:
        """Vectors of several texts, as Gecko is served."""
        said = read(PredictRequest, await request.body())
        return await _predict(said, catalogue.find(model), encoder)

    def add(path: str, route: Any, said: type[BaseModel], answer: type[BaseModel]) -> None:
        unread = [name for name in ("project", "location") if f"{{{name}}}" in path]
        parameters = [{"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in unread]
        responses = {200: {"model": answer}, **documented(GoogleErrors)}
        extra = {**body_of(said), "parameters": parameters}
        routes.add_api_route(path, route, methods=["POST"], responses=responses, openapi_extra=extra)

    for prefix in (*_PREFIXES, *_VERTEX):
        add(f"{prefix}/models/{{model:path}}:embedContent", embed_content, EmbedContentRequest, EmbedContentAnswer)
    for prefix in _PREFIXES:
        path = f"{prefix}/models/{{model:path}}:batchEmbedContents"
        add(path, batch_embed_contents, BatchEmbedContentsRequest, BatchEmbedContentsAnswer)
    for prefix in _VERTEX:
        add(f"{prefix}/models/{{model:path}}:predict", predict, PredictRequest, PredictAnswer)
    return routes


REQUESTS: tuple[type[BaseModel], ...] = (EmbedContentRequest, BatchEmbedContentsRequest, PredictRequest)


async def _values(
    said: Sequence[EmbedContentRequest], served: Served, encoder: Encoder, field: str
) -> list[dict[str, Any]]:
    _check_count(said, encoder, field)
    asked = [_asked("".join(p.text for p in one.content.parts), one.config, served, encoder, field) for one in said]
    dims = [served.width(one.config.output_dimensionality, "outputDimensionality") for one in said]
    encoded = await encoder.encode(served, asked)
    finish = served.embedder.finish
    return [{"values": np.ascontiguousarray(finish(encoded.vectors[i : i + 1], dim)[0])} for i, dim in enumerate(dims)]


async def _predict(said: PredictRequest, served: Served, encoder: Encoder) -> Response:
    _check_count(said.instances, encoder, "instances")
    dim = served.width(said.parameters.output_dimensionality, "outputDimensionality")
    configs = [Config(task_type=one.task_type, title=one.title) for one in said.instances]
    asked = [
        _asked(one.content, config, served, encoder, "instances")
        for one, config in zip(said.instances, configs, strict=True)
    ]
    encoded = await encoder.encode(served, asked)
    vectors = served.embedder.finish(encoded.vectors, dim)
    most = served.embedder.config.max_tokens

    def answer() -> Response:
        statistics = [{"truncated": tokens >= most, "token_count": tokens} for tokens in encoded.tokens]
        rows = [
            {"values": np.ascontiguousarray(row), "statistics": s} for row, s in zip(vectors, statistics, strict=True)
        ]
        return in_json({"predictions": [{"embeddings": row} for row in rows]})

    return await encoder.apart(answer)


def _check_count(items: Sequence[Any], encoder: Encoder, field: str) -> None:
    if len(items) > (most := encoder.options.max_texts):
        raise Refusal(
            400,
            f"{field} has {len(items):,} items; expected at most {most:,}: send the rest in more requests",
            param=field,
        )


def _asked(text: str, config: Config, served: Served, encoder: Encoder, field: str) -> Asked:
    word = None if config.task_type == _UNSAID else config.task_type
    kind = served.kind({"taskType": word}, encoder.options.default_kind)
    if not text:
        raise Refusal(400, f"{field} holds an empty text; expected at least one character", param=field)
    return Asked(text, kind, config.title or "", field)
