"""``tokay search``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperCommand

import tokay
from tokay.cli.screen import err, escape, one_of, out
from tokay.errors import TokayError

if TYPE_CHECKING:
    from tokay.finder import Reranked
    from tokay.search.index import Match
    from tokay.store import Run


class SearchCommand(TyperCommand):
    """A command whose refusal of an option says how to search for what looks like one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As of every command."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # typer brings its own click, and no public name for this class of it
            if type(error).__name__ == "NoSuchOption":
                mend = 'a query that begins with a dash goes behind two of them: tokay search RUN_OR_INDEX -- "-x"'
                said: Any = error
                said.message, said.possibilities = f"{said.format_message()}; {mend}", None
            raise


def search(
    where: Annotated[
        Path, typer.Argument(help="An index, as 'tokay index … --out' makes it, or a run, of 'tokay distill … --out'.")
    ],
    query: Annotated[str, typer.Argument(help="What you are looking for, in quotes.")],
    top: Annotated[int, typer.Option(min=1, max=100, help="Results; of a run, for each model.")] = 5,
    hybrid: Annotated[
        bool, typer.Option("--hybrid", help="With BM25 beside, by the weight that the run learned.")
    ] = False,
    weight: Annotated[
        float | None,
        typer.Option(help="Of BM25, in place of the learned one."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Of an index: where its model is now; default: where it was.")
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(help="Of an index: torch, onnx, onnx-int8 or static; default: the one that made it."),
    ] = None,
    rerank: Annotated[
        bool, typer.Option("--rerank", help="Fuse with BM25, and let the run's reranker read the first results.")
    ] = False,
    reranker: Annotated[
        str | None,
        typer.Option(help="Of an index: let this one read them: a run, or a CrossEncoder's folder or Hub name."),
    ] = None,
    latency_ms: Annotated[
        float | None, typer.Option(min=0, help="What reranking may take; chooses its form and depth, on this machine.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rank passages for a query: those of an index; or those of a run, by base and tuned side by side."""
    from tokay.search.index import is_index

    if latency_ms is not None and not rerank and reranker is None:
        raise TokayError("--latency-ms is of reranking; ask for --rerank too, or leave it out")
    if is_index(where):
        from tokay.finder import search_index
        from tokay.models.embedder import BACKENDS

        chosen = one_of(backend, "--backend", BACKENDS)
        answer = search_index(
            where,
            query,
            top=top,
            hybrid=hybrid,
            weight=weight,
            model=model,
            backend=chosen,
            rerank=rerank,
            reranker=reranker,
            latency_ms=latency_ms,
        )
        _print_reranked(answer, as_json=as_json)
        return
    if model is not None or backend is not None or reranker is not None:
        raise TokayError(f"--model, --backend and --reranker are for an index, and {where} is none; leave them out")
    if rerank and weight is not None:
        raise TokayError("--weight with --rerank is for an index; a run's reranker has learned beside the run's weight")
    if rerank:
        from tokay.finder import search_run_reranked

        answer = search_run_reranked(_run_or_index(where), query, top=top, latency_ms=latency_ms)
        _print_reranked(answer, as_json=as_json)
        return
    _search_run(where, query, top=top, hybrid=hybrid, weight=weight, as_json=as_json)


def _text_below(title: str, text: str) -> str:
    """A passage's text on one line, without the title where it begins with that: it stands above."""
    text, title = " ".join(text.split()), " ".join(title.split())
    body = text.lstrip("#*= ")
    rest = body[len(title) :]
    if not title or body[: len(title)].casefold() != title.casefold() or rest[:1].isalnum():
        return text
    return rest.lstrip("#*=:.\u2013\u2014- ") or text


def _print_reranked(answer: Reranked, *, as_json: bool) -> None:
    if answer.left_out:
        err.print(f"The reranker is left out, since its verdict was: {escape(answer.left_out)}.", soft_wrap=True)
    if answer.against:
        err.print(f"This reranker's verdict was: {escape(answer.against)}.", soft_wrap=True)
    _print_matches(answer.matches, as_json=as_json)


def _print_matches(found: Sequence[Match], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"object": "list", "data": [match.entry() for match in found]}, indent=1))
        return
    for match in found:
        p = match.passage
        out.print(f"{match.rank:2d}. [bold]{escape(p.title or p.passage_id)}[/bold] {match.score:.3f}", soft_wrap=True)
        out.print(f"    {escape(_text_below(p.title, p.text)[:240])}", soft_wrap=True)
        out.print(f"    [dim]{escape(p.passage_id)}  {escape(p.source)}[/dim]", soft_wrap=True)
    if not found:
        out.print("nothing found")


def _search_run(run: Path, query: str, *, top: int, hybrid: bool, weight: float | None, as_json: bool) -> None:
    from tokay.finder import Found, search_run

    answer = search_run(_run_or_index(run), query, top=top, hybrid=hybrid, weight=weight)
    if as_json:
        sides = {"base": answer.base, "tuned": answer.tuned}
        data = {name: [found.entry(rank) for rank, found in enumerate(side, 1)] for name, side in sides.items()}
        typer.echo(json.dumps({**data, "use": answer.use}, indent=1))
        return
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("", no_wrap=True)
    for name in ("base", "tuned"):
        table.add_column(name + (" (used)" if name == answer.use else ""), ratio=1)

    def cell(found: Found) -> str:
        p = found.passage
        elsewhere = f"#{found.other_rank}" if found.other_rank else "not in the first 100"
        text = _text_below(p.title, p.text)[:160]
        return (
            f"[bold]{escape(p.title or p.passage_id)}[/bold] {found.score:.3f} [dim](other: "
            f"{elsewhere})[/dim]\n{escape(text)}\n[dim]{escape(p.source)}[/dim]"
        )

    for rank, (left, right) in enumerate(zip(answer.base, answer.tuned, strict=True), 1):
        table.add_row(str(rank), cell(left), cell(right))
    out.print(table)
    if answer.use == "base":
        out.print(
            f"The verdict was: {escape(answer.sentence)}. So the base is used; the tuned model is in "
            f"{escape(str(run))}/train/model."
        )


def _run_or_index(folder: Path) -> Run:
    from tokay.store import MANIFEST

    if not (folder / MANIFEST).is_file():
        raise TokayError(
            f"{folder} is neither an index (it has no index.json) nor a run (it has no {MANIFEST}); expected what "
            "'tokay index … --out' or 'tokay distill … --out' made"
        )
    return tokay.open_run(folder)
