"""POST /v1/rerank in the shape that Cohere's, Jina's and vLLM's clients share; and a reranker for ``/v1/search``."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from pydantic import BaseModel, Field, WithJsonSchema
from starlette.responses import Response

from tokay.errors import did_you_mean
from tokay.models.cross_encoder import CrossEncoder
from tokay.models.tokens import PairIds
from tokay.search.rerank import probability
from tokay.search.reranker import Reranker
from tokay.serve.encoder import Encoder
from tokay.serve.openai import body_of
from tokay.serve.reading import Said, read
from tokay.serve.refusal import OpenAIErrors, Refusal, documented, in_json

PATHS = ("/v1/rerank", "/v2/rerank", "/rerank")
"""Jina's and Cohere's, Cohere's second, and the one that vLLM and text-embeddings-inference have beside it."""
_PAIRS_AT_A_TIME = 32
_DOCUMENT: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "object", "properties": {"text": {"type": "string", "minLength": 1}}, "required": ["text"]},
    ]
}


class RerankRequest(Said):
    """Cohere's and Jina's fields."""

    query: str
    documents: Annotated[list[Any], WithJsonSchema({"type": "array", "items": _DOCUMENT, "minItems": 1})]
    model: str | None = Field(None, description="A reranker's name; needed where several are served.")
    top_n: Annotated[int, Field(ge=1)] | None = Field(None, description="Results; default: all.")
    return_documents: bool | None = Field(None, description="Send the documents back; default: no, as Cohere has it.")


class Document(BaseModel):
    """A text that was sent."""

    text: str


class Result(BaseModel):
    """A document by its place in the request, and the probability that it answers."""

    index: int
    relevance_score: float
    document: Document | None = None


class Usage(BaseModel):
    """Tokens that the model read: the query once for each document."""

    prompt_tokens: int
    total_tokens: int


class RerankResponse(BaseModel):
    """Best first; equal ones in the order of the request."""

    id: str
    object: str = "list"
    model: str
    results: list[Result]
    usage: Usage
    meta: dict[str, Any] = Field(description="Cohere's place for what is billed.")


class Rerankers:
    """Rerankers by name, run in the server's micro-batches."""

    def __init__(self, rerankers: Mapping[str, Reranker[CrossEncoder]], encoder: Encoder) -> None:
        self.rerankers, self.encoder = dict(rerankers), encoder

    def find(self, name: str | None) -> str:
        """The name of the reranker that is meant.

        Raises:
            Refusal: there is none of that name, or several and none is named.
        """
        known = ", ".join(self.rerankers)
        if name is None:
            if len(self.rerankers) > 1:
                raise Refusal(400, f"several rerankers are served: {known}; send one of them as model", param="model")
            return next(iter(self.rerankers))
        if name not in self.rerankers:
            hint = did_you_mean(name, self.rerankers)
            message = f"there is no reranker {name!r}; served here: {known}{hint}"
            raise Refusal(404, message, param="model", code="model_not_found")
        return name

    async def score(self, name: str, pairs: Sequence[tuple[str, str]], field: str) -> tuple[NDArray[np.float32], int]:
        """Logits of pairs (N,), and their tokens.

        Raises:
            Refusal: there are too many tokens, too much waits, or a score is not finite.
        """
        model = self.rerankers[name].model
        ids = await self.encoder.apart(lambda: self._tokenize(model, pairs, field))
        tokens = sum(map(len, ids))
        self.encoder.metrics.asked(name, len(ids), tokens)
        logits = (await self.encoder.run(model, ids))[:, 0]
        finite = np.isfinite(logits)
        if not finite.all():
            at = int(finite.argmin())
            raise Refusal(
                422,
                f"item {at} of {field} gives a score that is not finite; the model fails on it: leave it out",
                param=field,
                code="score_not_finite",
            )
        return logits, tokens

    def _tokenize(self, model: CrossEncoder, pairs: Sequence[tuple[str, str]], field: str) -> list[PairIds]:
        ids: list[PairIds] = []
        tokens, most = 0, self.encoder.options.max_tokens
        for start in range(0, len(pairs), _PAIRS_AT_A_TIME):
            some = model.tokenize(pairs[start : start + _PAIRS_AT_A_TIME])
            ids += some
            tokens += sum(map(len, some))
            if tokens > most:
                raise Refusal(
                    400,
                    f"{field} have more than {most:,} tokens with the query: {tokens:,} in the first {len(ids):,} of "
                    f"{len(pairs):,}; send fewer documents a request",
                    param=field,
                    code="max_tokens_per_request",
                )
        return ids

    def in_batches(self, name: str) -> Reranker[_InBatches]:
        """The reranker as a thread uses it that waits for the server's micro-batches; made on the event loop."""
        own = self.rerankers[name]
        return Reranker(_InBatches(self, name, asyncio.get_running_loop()), own.rule, own.about)


class _InBatches:
    """Scores pairs through the server's batcher, from a thread."""

    def __init__(self, rerankers: Rerankers, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self.rerankers, self.name, self.loop = rerankers, name, loop

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Logits of pairs, (N,)."""
        coming = self.rerankers.score(self.name, pairs, "query")
        return asyncio.run_coroutine_threadsafe(coming, self.loop).result()[0]


def router(rerankers: Rerankers) -> APIRouter:
    """The route, under each of its paths."""
    routes = APIRouter()

    async def rerank(request: Request) -> Response:
        """Documents by how well they answer a query."""
        answer = await _answer(rerankers, read(RerankRequest, await request.body()))
        return in_json(answer.model_dump(exclude_none=True))

    for path in PATHS:
        routes.add_api_route(
            path,
            rerank,
            methods=["POST"],
            responses={200: {"model": RerankResponse}, **documented(OpenAIErrors)},
            openapi_extra=body_of(RerankRequest),
            include_in_schema=path == PATHS[0],
        )
    return routes


async def _answer(rerankers: Rerankers, said: RerankRequest) -> RerankResponse:
    name = rerankers.find(said.model)
    if not said.query.strip():
        raise Refusal(400, "query is empty; send what you are looking for", param="query")
    texts = documents(said.documents, rerankers.encoder.options.max_texts)
    logits, tokens = await rerankers.score(name, [(said.query, text) for text in texts], "documents")
    scores = probability(logits)
    order = np.argsort(-logits, kind="stable")[: said.top_n].tolist()
    results = [
        Result(
            index=i,
            relevance_score=float(scores[i]),
            document=Document(text=texts[i]) if said.return_documents else None,
        )
        for i in order
    ]
    return RerankResponse(
        id=str(uuid.uuid4()),
        model=name,
        results=results,
        usage=Usage(prompt_tokens=tokens, total_tokens=tokens),
        meta={"billed_units": {"search_units": 1}, "tokens": {"input_tokens": tokens}},
    )


def documents(given: Sequence[Any], most: int) -> list[str]:
    """The texts of what ``documents`` may be.

    Raises:
        Refusal: there are none or too many, or one is neither text nor an object with a text, or is empty.
    """
    if not given:
        raise Refusal(400, "documents is an empty list; expected at least one text", param="documents")
    if len(given) > most:
        raise Refusal(
            400,
            f"documents has {len(given):,} items; expected at most {most:,}: send the rest in more requests",
            param="documents",
        )
    return [_text(one, at) for at, one in enumerate(given)]


def _text(one: Any, at: int) -> str:
    text = one.get("text") if isinstance(one, dict) else one
    if not isinstance(text, str):
        expected = 'text, or an object such as {"text": "…"}'
        raise Refusal(400, f"documents[{at}] is {one!r}; expected {expected}", param="documents")
    if not text:
        raise Refusal(400, f"documents[{at}] is empty; expected text of at least one character", param="documents")
    return text
