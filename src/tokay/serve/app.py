"""The application: routers, errors in the clients' shape, and an OpenAPI document that is true."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal

from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

import tokay
from tokay.models.cross_encoder import CrossEncoder
from tokay.models.embedder import Embedder
from tokay.models.running import Runner
from tokay.models.tasks import side_of
from tokay.search.index import Searcher
from tokay.search.reranker import Reranker
from tokay.serve import gemini, openai, rerank, search
from tokay.serve.batcher import Batcher
from tokay.serve.catalogue import Catalogue
from tokay.serve.encoder import Encoder
from tokay.serve.guard import Guard
from tokay.serve.metrics import Metrics
from tokay.serve.options import Options
from tokay.serve.refusal import OpenAIErrors, Refusal, response_to

_CONTENT = "text/plain; version=0.0.4; charset=utf-8"
_SCHEMAS = "#/components/schemas/{model}"
_IN_JSON = {"content": {"application/json": {"schema": {"$ref": _SCHEMAS.format(model="OpenAIErrors")}}}}


class Health(BaseModel):
    """What a watcher is told."""

    status: Literal["alive", "ready"]


def make_app(
    models: Mapping[str, Embedder],
    options: Options | None = None,
    *,
    indexes: Mapping[str, Searcher] | None = None,
    rerankers: Mapping[str, Reranker[CrossEncoder]] | None = None,
) -> FastAPI:
    """An ASGI application that serves models by name.

    Args:
        models: name to embedder; each is also there as ``NAME:query`` and ``NAME:passage``.
        options: what can be chosen; None: the defaults.
        indexes: name to index, for ``/v1/search``; None: there is no such route.
        rerankers: name to reranker, for ``/v1/rerank`` and, by an index's name, ``/v1/search``; None: no such route.

    Raises:
        TokayError: there is no model, a name holds a colon, or the default kind is no kind.
    """
    options = options or Options()
    side_of(options.default_kind)
    catalogue, metrics = Catalogue(models), Metrics()
    embedders = [*models.values(), *(searcher.embedder for searcher in (indexes or {}).values())]
    runners: list[Runner] = [embedder.of("query").runner for embedder in embedders]
    runners += [reranker.model for reranker in (rerankers or {}).values()]
    workers = max(1, *(runner.threads for runner in runners))
    batcher = Batcher(options.latency_target, options.max_waiting_tokens, workers, metrics.batch)
    metrics.watch(lambda: batcher.waiting_tokens)
    encoder = Encoder(batcher, options, metrics)

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        if not batcher.takes:  # the application was ended and begins anew
            batcher.open()
        for runner in runners:
            batcher.prepare(runner)
        yield
        await asyncio.to_thread(batcher.close)

    app = FastAPI(title="Tokay", version=tokay.__version__, lifespan=life, redirect_slashes=False)
    # Google's before OpenAI's: /v1/models/NAME would take /v1/models/NAME:embedContent for a name
    for routes in (
        _health(batcher, metrics),
        gemini.router(catalogue, encoder),
        openai.router(catalogue, encoder, _beside(indexes or {}, rerankers or {})),
    ):
        app.include_router(routes)
    known = rerank.Rerankers(rerankers or {}, encoder)
    if rerankers:
        app.include_router(rerank.router(known))
    if indexes:
        app.include_router(search.router(indexes, encoder, known))
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(Guard, options=options, metrics=metrics)
    names = [*catalogue.models, *catalogue.aliases()]
    app.openapi = lambda: document(app, names, keys=bool(options.api_keys))  # type: ignore[method-assign]
    return app


def _beside(indexes: Mapping[str, Searcher], rerankers: Mapping[str, Reranker[Any]]) -> dict[str, dict[str, Any]]:
    """Indexes and rerankers as ``/v1/models`` lists them; one name may be both."""
    found: dict[str, dict[str, Any]] = {}
    for name, reranker in rerankers.items():
        found[name] = {"serves": ["rerank"], "dimensions": [], "max_tokens": reranker.model.max_tokens}
        found[name]["vector_space"] = ""
    for name, searcher in indexes.items():
        serves = [*found.get(name, {}).get("serves", ()), "search"]
        about = {"dimensions": [searcher.index.header.dim], "max_tokens": searcher.embedder.config.max_tokens}
        found[name] = about | {"serves": serves, "vector_space": searcher.index.header.model.fingerprint}
    return found


def _health(batcher: Batcher, metrics: Metrics) -> APIRouter:
    routes = APIRouter()

    @routes.get("/healthz")
    async def healthz() -> Health:
        """The process is alive."""
        return Health(status="alive")

    @routes.get("/readyz", responses={503: {"model": OpenAIErrors}})
    async def readyz() -> Health:
        """Requests are taken."""
        if not batcher.takes:
            raise Refusal(503, "the server is shutting down", headers={"Retry-After": "5"})
        return Health(status="ready")

    @routes.get("/metrics", response_class=PlainTextResponse, responses={401: {"description": "No key.", **_IN_JSON}})
    async def counts() -> Response:
        """Counts for Prometheus."""
        return Response(metrics.text(), media_type=_CONTENT)

    return routes


_SERVED_WITH = {
    "/v1/rerank": "it needs a run with a reranker (tokay train RUN --what reranker); ",
    "/v1/search": "it needs an index (tokay index); ",
}
"""Routes that are there only where something is served that answers them."""


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return response_to(request.url.path, error)


async def _http_error(request: Request, error: Exception) -> Response:
    """No such path, or another method."""
    assert isinstance(error, HTTPException)
    words = f"{request.method} {request.url.path}"
    what = f"there is no {words} here" if error.status_code in (404, 405) else f"{words}: {error.detail}"
    hint = _SERVED_WITH.get(request.url.path, "") if error.status_code == 404 else ""
    refusal = Refusal(error.status_code, f"{what}; {hint}/docs lists what there is", headers=error.headers)
    return response_to(request.url.path, refusal)


def document(app: FastAPI, names: Sequence[str], *, keys: bool) -> dict[str, Any]:
    """The OpenAPI document, with the schemas of bodies that are read by hand and the models that there are."""
    if app.openapi_schema is None:
        found = FastAPI.openapi(app)
        bodies: Sequence[type[BaseModel]] = (
            openai.EmbeddingsRequest,
            rerank.RerankRequest,
            search.SearchRequest,
            *gemini.REQUESTS,
        )
        inputs = [(body, "validation") for body in bodies]
        _, schemas = models_json_schema(inputs, ref_template=_SCHEMAS)  # type: ignore[arg-type]
        parts = found.setdefault("components", {})
        parts.setdefault("schemas", {}).update(schemas["$defs"])
        parts["schemas"]["EmbeddingsRequest"]["properties"]["model"]["enum"] = names
        for method in (method for methods in found["paths"].values() for method in methods.values()):
            for parameter in method.get("parameters", ()):
                if parameter["name"] == "model":
                    parameter["schema"]["enum"] = names
        if keys:
            parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, methods in found["paths"].items():
                for method in methods.values() if path not in ("/healthz", "/readyz") else ():
                    method["security"] = [{"key": []}]
    assert app.openapi_schema is not None
    return app.openapi_schema
