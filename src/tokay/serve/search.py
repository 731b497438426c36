"""POST /v1/search: the passages of an index for a query, with the index's own model."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from tokay.errors import TokayError, did_you_mean
from tokay.search.hybrid import DEPTH, HEAVIEST
from tokay.search.index import Searcher
from tokay.serve.catalogue import Served
from tokay.serve.encoder import Asked, Encoder
from tokay.serve.openai import body_of
from tokay.serve.reading import Said, read
from tokay.serve.refusal import OpenAIErrors, Refusal, documented, in_json
from tokay.serve.rerank import Rerankers

TOP_K = 10
"""Results, unless a request says otherwise."""


class Filter(Said):
    """Which passages may be found."""

    model_config = ConfigDict(extra="forbid")

    ids: list[str] = Field(description="Of passages, or of documents: all of theirs.")


class SearchRequest(Said):
    """What is looked for."""

    model_config = ConfigDict(extra="forbid")

    query: str
    top_k: Annotated[int, Field(ge=1, le=DEPTH)] | None = Field(None, description="Results; default: 10.")
    filter: Filter | None = None
    hybrid: bool | None = Field(
        None, description="With BM25, by the weight that the index's run learned; default: with rerank or weight."
    )
    weight: Annotated[float, Field(ge=0, le=HEAVIEST, allow_inf_nan=False)] | None = Field(
        None, description="Of BM25, in place of the index's own."
    )
    rerank: bool = Field(False, description="Let the index's reranker read the first results; with words, as learned.")
    model: str | None = Field(None, description="The index's name; needed where several are served.")


class Found(BaseModel):
    """A passage; ``score`` is a cosine, with BM25 the sum of both, reranked a number that orders this answer alone."""

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


def router(indexes: Mapping[str, Searcher], encoder: Encoder, rerankers: Rerankers) -> APIRouter:
    """The route of some indexes; queries are encoded in the server's batches."""
    routes = APIRouter()

    @routes.post(
        "/v1/search",
        responses={200: {"model": SearchResponse}, **documented(OpenAIErrors)},
        openapi_extra=body_of(SearchRequest),
    )
    async def search(request: Request) -> Response:
        """Passages for a query, best first."""
        answer = await _answer(indexes, encoder, rerankers, read(SearchRequest, await request.body()))
        return in_json(answer.model_dump())

    return routes


async def _answer(
    indexes: Mapping[str, Searcher], encoder: Encoder, rerankers: Rerankers, asked: SearchRequest
) -> SearchResponse:
    name = _named(asked.model, indexes)
    searcher = indexes[name]
    if asked.rerank and name not in rerankers.rerankers:
        raise Refusal(
            400,
            f"index {name!r} is served without a reranker: its run has none, or the verdict was against it. Train one "
            f"('tokay train RUN --what reranker'), serve one for it (--reranker {name}=FOLDER), or leave rerank out",
            param="rerank",
        )
    if not asked.query.strip():
        raise Refusal(400, "query is empty; send what you are looking for", param="query")
    if asked.filter is not None and not asked.filter.ids:
        message = "filter.ids is empty; send the ids that may be found, or no filter"
        raise Refusal(400, message, param="filter")
    if asked.hybrid is False and (asked.rerank or asked.weight is not None):
        other = "rerank" if asked.rerank else "weight"
        message = f"hybrid is false, and {other} goes with BM25; leave one of them out"
        raise Refusal(400, message, param="hybrid")
    encoded = await encoder.encode(Served(name, searcher.embedder), [Asked(asked.query, "query", field="query")])
    vectors = searcher.embedder.finish(encoded.vectors, searcher.index.header.dim)
    ids = asked.filter.ids if asked.filter else None
    reranker = rerankers.in_batches(name) if asked.rerank else None
    try:
        found = await asyncio.to_thread(
            searcher.find,
            [asked.query],
            vectors,
            top=asked.top_k or TOP_K,
            hybrid=bool(asked.hybrid) or asked.rerank,  # the ranking that the reranker was trained on
            weight=asked.weight,
            ids=ids,
            reranker=reranker,
        )
    except TokayError as error:
        raise Refusal(400, str(error), param="filter" if ids else None) from error
    usage = Usage(prompt_tokens=sum(encoded.tokens), total_tokens=sum(encoded.tokens))
    return SearchResponse(data=[Found(**match.entry()) for match in found[0]], model=name, usage=usage)


def _named(name: str | None, indexes: Mapping[str, Searcher]) -> str:
    """The index that is meant."""
    known = ", ".join(indexes)
    if name is None:
        if len(indexes) > 1:
            raise Refusal(400, f"several indexes are served: {known}; send one of them as model", param="model")
        return next(iter(indexes))
    if name not in indexes:
        hint = did_you_mean(name, indexes)
        raise Refusal(404, f"there is no index {name!r}; served here: {known}{hint}", param="model")
    return name
