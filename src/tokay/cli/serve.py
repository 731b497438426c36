"""``tokay serve``."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

import typer

from tokay.cli.screen import escape, out


def serve(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Runs, model folders, minilm or Hub names. NAME=PATH gives a name; else it is the folder's."
        ),
    ] = None,
    index_folders: Annotated[
        list[str] | None,
        typer.Option("--index", help="An index that 'tokay index' made, for /v1/search; NAME=PATH too. Repeatable."),
    ] = None,
    reranker_folders: Annotated[
        list[str] | None,
        typer.Option(
            "--reranker",
            help="A run or a CrossEncoder's folder, for /v1/rerank; NAME=PATH too. A run that is served or that made a "
            "served index brings its own, if its verdict was for it. Repeatable.",
        ),
    ] = None,
    rerank_ms: Annotated[
        float | None, typer.Option(min=0, help="What reranking a search may take; chooses form and depth.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="To listen on; 0: any that is free.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine's own need a key.")] = (
        "127.0.0.1"
    ),
    backend: Annotated[str, typer.Option(help="torch, or what 'tokay export' wrote: onnx, onnx-int8, static.")] = (
        "torch"
    ),
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU; default: as many as there are cores.")] = None,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge/--no-merge",
            help="Adapters: add them to the base's weights, or keep them beside: slower, and the base is held once.",
        ),
    ] = True,
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar="TOKAY_API_KEY", help="A key that clients must send; several are each good. Repeatable."),
    ] = None,
    default_kind: Annotated[
        str | None, typer.Option(help="What texts are when a request does not say; default: passage.")
    ] = None,
    token_ids: Annotated[
        str | None, typer.Option(help="Whose token ids clients send: cl100k_base (OpenAI's, the default) or model.")
    ] = None,
    latency_target_ms: Annotated[
        float | None, typer.Option(help="What one micro-batch may take; default: 100. More: more throughput.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds until a request is given up; default: 120.")] = None,
    max_body: Annotated[int | None, typer.Option(help="Bytes of a request; default: 16 MiB.")] = None,
    max_waiting_tokens: Annotated[
        int | None, typer.Option(help="Of all requests that wait; more get 503. Default: 500,000.")
    ] = None,
) -> None:
    """Serve embeddings to the clients of OpenAI, Google, Cohere and Jina (docs/serve.md)."""
    from tokay.serve.server import Server, listen
    from tokay.serve.start import load_indexes, load_models, load_rerankers, make_options

    options = make_options(
        api_keys=api_key,
        default_kind=default_kind,
        token_ids=token_ids,
        latency_target=latency_target_ms and latency_target_ms / 1000,
        timeout=timeout,
        max_body=max_body,
        max_waiting_tokens=max_waiting_tokens,
    )
    with listen(host, port, options) as listener:
        kept: dict[str, Any] = {}
        indexes = load_indexes(index_folders or (), kept=kept)
        models = load_models(runs or (), backend=backend, threads=threads, merge=merge, kept=kept)
        models = models or {name: searcher.embedder for name, searcher in indexes.items()}
        rerankers = load_rerankers(reranker_folders or (), runs or (), indexes, latency_ms=rerank_ms, threads=threads)
        server = Server(models, options, listener, indexes=indexes, rerankers=rerankers)
        served = f"serving {', '.join(models)}" + (f"; index {', '.join(indexes)}" if indexes else "")
        served += f"; reranker {', '.join(rerankers)}" if rerankers else ""
        out.print(f"{escape(served)} on {escape(server.url)}", soft_wrap=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.run()
    out.print("stopped; what was accepted was answered")
