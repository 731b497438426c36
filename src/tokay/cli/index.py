"""``tokay export`` and ``tokay index``: a model made ready to answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokay.cli.screen import Backends, Screen, escape, one_of, out


def export(
    source: Annotated[str, typer.Argument(help="A run, a model folder, minilm, or a Hub name.")],
    to: Annotated[
        list[str], typer.Option("--to", help="onnx, onnx-int8, static or gguf-notes; repeat it, or join by commas.")
    ],
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="The folder to write; default for a run: RUN/export.")
    ] = None,
    on: Annotated[
        str,
        typer.Option(
            help="Texts to compare on: a BEIR folder or any corpus; default: the run's own, or Python's manual."
        ),
    ] = "",
    split: Annotated[str, typer.Option(help="Of the labels of --on.")] = "test",
    weights: Annotated[
        bool, typer.Option(help="Put the model's own weights beside, for libraries on torch; a server needs none.")
    ] = True,
    keep: Annotated[bool, typer.Option("--keep", help="Keep a form that falls short of the model.")] = False,
) -> None:
    """Write a model as ONNX, int8 or a static table, and hold each against the model on real texts."""
    from tokay.exporting import export as run_export

    screen = Screen()
    forms = [form.strip() for words in to for form in words.split(",")]
    with screen.bars:
        folder, done = run_export(
            source, forms, out_folder, on=on, split=split, weights=weights, keep=keep, progress=screen
        )
    out.print(f"export: {escape(str(folder))} ({', '.join(e.file for e in done)})", soft_wrap=True)


EXAMPLES = (
    "\b\ntokay index runs/demo ./docs --out indexes/docs\n"
    "tokay index runs/demo ./docs --out indexes/docs --search binary   (nothing is encoded again)\n"
    "tokay index minilm corpus.jsonl --out indexes/rows --dim 256"
)


def index(
    model: Annotated[
        str, typer.Argument(help="A finished run, a model folder, minilm, or a name on the Hugging Face Hub.")
    ],
    documents: Annotated[str, typer.Argument(help="The corpus, as for 'tokay distill'.")],
    out_folder: Annotated[Path, typer.Option("--out", help="The index folder to make, or to bring up to date.")],
    by: Annotated[
        str | None,
        typer.Option(
            "--search",
            help="exact (the default); or int8, binary, hnsw: candidates are found in less time, then ranked by the "
            "vectors.",
        ),
    ] = None,
    rescore: Annotated[
        int | None,
        typer.Option(min=1, help="Candidates for each result; default: int8 4, hnsw 100, binary 50."),
    ] = None,
    dim: Annotated[
        int | None, typer.Option(min=1, help="Keep the first DIM numbers of each vector (Matryoshka); default: all.")
    ] = None,
    stored: Annotated[str | None, typer.Option(help="Of each number: float32 (the default) or float16.")] = None,
    language: Annotated[
        str | None,
        typer.Option(
            help="Whose stems BM25 takes: german, none, …, or auto; default: the run's, or that of the texts."
        ),
    ] = None,
    weight: Annotated[
        float | None, typer.Option(help="Of BM25 in hybrid searches; default: the run's, or the usual one.")
    ] = None,
    backend: Backends = None,
) -> None:
    """Encode a corpus into a folder that 'tokay search' opens; run again, only what changed is encoded.

    A passage counts as the same when the model would read the same of it. What is no longer in the corpus leaves the
    index. The old index is searched until the new one is whole, and a run that is cut goes on where it stopped. An
    index holds vectors of one model, and refuses another's.
    """
    from tokay.indexing import Shape, update_index
    from tokay.models.embedder import BACKENDS
    from tokay.search.index import METHODS, STORED

    shape = Shape(dim, one_of(stored, "--stored", STORED), one_of(by, "--search", METHODS), rescore, language, weight)
    screen = Screen()
    with screen.bars:
        done = update_index(
            model,
            documents,
            out_folder,
            shape,
            backend=one_of(backend, "--backend", BACKENDS),
            progress=screen,
        )
    header = done.header
    resumed = f" ({done.resumed:,} of them before the last run was cut)" if done.resumed else ""
    what = f"{done.encoded:,} encoded{resumed}, {done.kept:,} as before, {done.gone:,} gone"
    out.print(f"{header.passages:,} passages of {header.documents:,} documents: {what}", soft_wrap=True)
    recall = "" if header.recall is None else f" (finds {header.recall:.1%} of the ten nearest)"
    out.print(
        f"vectors of {header.dim} numbers, {header.search} search{recall}; model: {escape(header.model.name)}",
        soft_wrap=True,
    )
    out.print(f'search: tokay search {escape(str(out_folder))} "…"', soft_wrap=True)
