"""POST /v1/search: the passages of an index for a query, with the index's own model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import JSONResponse, Response

from tokay.errors import TokayError, did_you_mean
from tokay.expected import faults_of
from tokay.search.index import DEPTH, Searcher

Encode = Callable[[str], Awaitable[tuple[NDArray[np.float32], int]]]
"""A query to its vector (1, D) of the index's width, and the tokens that it had."""

_LONGEST = 400
"""Characters of a message that are sent: it may quote what came."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Filter(_Body):
    """Which passages may be found."""

    ids: list[str] = Field(description="Of passages, or of documents: all of theirs.")


class SearchRequest(_Body):
    """What is looked for."""

    query: str
    top_k: Annotated[int, Field(ge=1, le=DEPTH)] = 10
    filter: Filter | None = None
    hybrid: bool = Field(False, description="Fuse with BM25, by the weight that the index's run learned.")
    weight: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="Fuse with BM25 by this weight.")
    model: str | None = Field(None, description="The index's name, for clients that must send one.")


class Found(BaseModel):
    """A passage; ``score`` is a cosine, or the fused score when words counted too."""

    id: str
    document_id: str
    title: str
    text: str
    source: str
    score: float
    rank: int


class Usage(BaseModel):
    """Tokens of the query."""

    prompt_tokens: int
    total_tokens: int


class SearchResponse(BaseModel):
    """Passages, best first."""

    object: Literal["list"] = "list"
    data: list[Found]
    model: str
    usage: Usage


class _Refused(Exception):
    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param = status, param


def search_router(searcher: Searcher, *, name: str, encode: Encode | None = None) -> APIRouter:
    """The route of one index.

    Args:
        searcher: an index and its model.
        name: what the index is called.
        encode: what encodes a query, such as a server's batches; None: the searcher's model, at once.
    """
    routes = APIRouter()
    body = {"content": {"application/json": {"schema": SearchRequest.model_json_schema()}}, "required": True}

    @routes.post("/v1/search", response_model=SearchResponse, openapi_extra={"requestBody": body})
    async def search(request: Request) -> Response:
        """Passages for a query, best first."""
        try:
            answer = await _answer(searcher, name, encode, await request.body())
        except _Refused as refusal:
            error = {"message": str(refusal), "type": "invalid_request_error", "param": refusal.param, "code": None}
            return JSONResponse({"error": error}, refusal.status)
        return JSONResponse(answer.model_dump())

    return routes


async def _answer(searcher: Searcher, name: str, encode: Encode | None, body: bytes) -> SearchResponse:
    asked = _read(body)
    if asked.model not in (None, name):
        hint = did_you_mean(str(asked.model), [name])
        raise _Refused(404, f"there is no index {asked.model!r}; served here: {name}{hint}", "model")
    weight = asked.weight
    if asked.hybrid and weight is None:
        weight = searcher.index.header.bm25_weight
        if weight is None:
            raise _Refused(400, "this index has no learned weight of BM25; send weight, such as 0.3", "hybrid")
    if not asked.query.strip():
        raise _Refused(400, "query is empty; send what you are looking for", "query")
    if asked.filter is not None and not asked.filter.ids:
        raise _Refused(400, "filter.ids is empty; send the ids that may be found, or no filter", "filter")
    vector, tokens = await (encode(asked.query) if encode else asyncio.to_thread(_encode, searcher, asked.query))
    ids = asked.filter.ids if asked.filter else None

    def find() -> list[Found]:
        found = searcher.find([asked.query], vector, top=asked.top_k, weight=weight, ids=ids)[0]
        return [Found(**match.entry()) for match in found]

    try:
        data = await asyncio.to_thread(find)
    except TokayError as error:
        raise _Refused(400, str(error), "filter" if ids else None) from error
    return SearchResponse(data=data, model=name, usage=Usage(prompt_tokens=tokens, total_tokens=tokens))


def _read(body: bytes) -> SearchRequest:
    try:
        return SearchRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise _Refused(400, f"the body is not JSON: {first['msg']}; send an object with a query") from error
        if not first["loc"]:
            raise _Refused(400, 'the body is no object; send one with a query, such as {"query": "…"}') from error
        fault = faults_of(error, SearchRequest, json.loads(body), what="field")[0]
        raise _Refused(400, fault[:_LONGEST], str(first["loc"][0])) from error


def _encode(searcher: Searcher, query: str) -> tuple[NDArray[np.float32], int]:
    embedder = searcher.embedder
    tokens = embedder.tokenize([embedder.config.prompts.write_query(query)])
    return embedder.encode([query], kind="query", dim=searcher.index.header.dim), len(tokens[0])
