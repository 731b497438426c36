"""``tokay pretrain-pairs`` and ``tokay train``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokay.cli.screen import Screen, escape, number, one_of, out
from tokay.cli.verdicts import print_leakage, print_rerank_verdict, print_slices
from tokay.errors import TokayError

if TYPE_CHECKING:
    from tokay.settings import Settings


def pretrain_pairs(
    documents: Annotated[
        list[str],
        typer.Argument(
            help="Corpora, as for 'tokay distill', and tables of pairs (.jsonl, .csv, .tsv, .parquet, hf:DATASET) with "
            "a column query, question or anchor and a column positive, answer, body or text."
        ),
    ],
    out_file: Annotated[Path, typer.Option("--out", help="The .parquet file to write: query, positive, kind, source.")],
    repeats: Annotated[
        int, typer.Option(min=1, help="A title over more different texts than that says too little and is dropped.")
    ] = 3,
) -> None:
    """Collect pairs for pre-finetuning: titles and texts, questions and answers, signatures and docstrings."""
    from tokay.pairs import write_pairs

    screen = Screen()
    with screen.bars:
        tally = write_pairs(documents, out_file, repeats=repeats, progress=screen)
    for kind, count in tally.kinds.most_common():
        out.print(f"{count:10,} pairs of kind {kind}")
    for reason, count in tally.dropped.most_common():
        out.print(f"{count:10,} dropped: {escape(reason)}")
    out.print(f"pairs: {escape(str(out_file))}", soft_wrap=True)


def train(
    source: Annotated[str, typer.Argument(help="A finished run folder, or a mixture's TOML file (docs/mixture.md).")],
    what: Annotated[
        str,
        typer.Option(help="embedder, or reranker: a cross-encoder from a run's judgments, into RUN/rerank."),
    ] = "embedder",
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="The model folder to make; a training that was cut goes on.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="minilm, a model folder, or a Hub name; default: the run's, or minilm; of a reranker, the run's tuned "
            "embedder."
        ),
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="What is trained: full (the default) or lora.")] = None,
    soup: Annotated[
        str | None,
        typer.Option(help="Weight of the tuned model against its base, above 0 to 1; auto: chosen on dev queries."),
    ] = None,
    dev: Annotated[
        str | None, typer.Option(help="A BEIR folder with dev queries; default: the run's own, if it has some.")
    ] = None,
    dev_split: Annotated[str, typer.Option(help="Of its labels.")] = "dev",
    keep_passages: Annotated[
        bool,
        typer.Option(
            "--keep-passages", help="Train the query side alone; no vector of an index changes (docs/keep-index.md)."
        ),
    ] = False,
    query_side: Annotated[
        str | None,
        typer.Option(help="With --keep-passages: map, tower or table; default: tower, or map with --query-vectors."),
    ] = None,
    vectors: Annotated[
        str | None,
        typer.Option(help="With --keep-passages: the passages' vectors, a .parquet, .npz or .npy; default: the run's."),
    ] = None,
    query_vectors: Annotated[
        str | None,
        typer.Option(help="With --vectors of an API: its vectors of the run's queries; a matrix comes of it."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print rows, steps, tokens, time and memory; train nothing.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with settings; default for a run: its run.toml.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, such as train.epochs=3. Repeatable.")
    ] = None,
) -> None:
    """Train an embedder on the rows of a run, or on a mixture of sources; or a run's reranker (docs/rerank.md)."""
    if one_of(what, "--what", ("embedder", "reranker")) == "reranker":
        others: dict[str, object] = {"--out": out_folder, "--adapter": adapter, "--soup": soup, "--dev": dev}
        others |= {"--keep-passages": keep_passages, "--query-side": query_side, "--vectors": vectors}
        others |= {"--query-vectors": query_vectors}
        if given := [name for name, value in others.items() if value]:
            raise TokayError(f"{given[0]} is for an embedder, and --what is reranker; leave it out")
        _train_reranker(source, base=base, config=config, overrides=set_ or (), plan=plan)
        return
    from tokay.tuning import check_out, check_source, plan_lines, read_material, run_training, settings_for

    if out_folder is None and not plan:
        ask = "" if keep_passages else ", or ask for --plan"
        raise TokayError(f"there is no --out; name the model folder to make{ask}")
    if keep_passages:
        if soup or dev:
            raise TokayError("--keep-passages trains a query side and takes no --soup or --dev; leave them out")
        settings = settings_for(source, {"train.adapter": adapter}, config=config, overrides=set_ or ())
        files = {"vectors": vectors or "", "query_vectors": query_vectors or ""}
        _train_query_side(source, settings, None if plan else out_folder, form=query_side, base=base, files=files)
        return
    if query_side or vectors or query_vectors:
        raise TokayError("--query-side, --vectors and --query-vectors go with --keep-passages; add it")
    weight = soup if soup in (None, "auto") else number(soup, "--soup")
    values = {"train.adapter": adapter, "train.soup": weight}
    settings = settings_for(source, values, config=config, overrides=set_ or ())
    check_source(source)
    if out_folder is not None and not plan:
        check_out(out_folder)
    screen = Screen()
    with screen.bars:
        screen.start("reading", None)
        material = read_material(source, settings, base=base, dev=dev or "", split=dev_split)
        if plan or out_folder is None:
            screen.start("measuring some micro-batches", None)
            lines = plan_lines(material)
        else:
            done = run_training(material, out_folder, progress=screen)
            early = f" of {done.planned:,}; stopped early" if done.steps < done.planned else ""
            lines = [f"{done.steps:,} steps{early}, {done.seconds:,.0f} s; weight of the tuned model {done.soup:g}"]
            if done.dev is not None:
                lines.append(
                    f"dev queries: nDCG@10 {done.dev[1]:.3f}, the base {done.dev[0]:.3f}; no verdict, as choices are "
                    "made on them"
                )
            lines.append(f"model: {done.model}")
    for line in lines:
        out.print(escape(line), soft_wrap=True)


def _train_query_side(
    source: str,
    settings: Settings,
    out_folder: Path | None,
    *,
    form: str | None,
    base: str | None,
    files: dict[str, str],
) -> None:
    from tokay.keeping import plan_lines, read_material, train_query_side
    from tokay.models.two_sides import FORMS
    from tokay.tuning import check_out

    chosen = one_of(form or ("map" if files["query_vectors"] else "tower"), "--query-side", FORMS)
    assert chosen is not None  # there is a default
    if out_folder is not None:
        check_out(out_folder)
    screen = Screen()
    with screen.bars:
        screen.start("reading", None)
        material = read_material(source, settings, form=chosen, base=base, **files, progress=screen)
        if out_folder is None:
            screen.start("measuring some steps", None)
            for line in plan_lines(material, settings, form=chosen):
                screen.say(line)
            return
        done = train_query_side(material, settings, out_folder, form=chosen, progress=screen)
    print_slices(done.verdict)
    print_leakage(done.leakage)
    out.print(f"query side: {escape(str(done.folder))} ({chosen}, {done.seconds:,.0f} s of training)", soft_wrap=True)


def _train_reranker(
    source: str, *, base: str | None, config: Path | None, overrides: Sequence[str], plan: bool
) -> None:
    from tokay.reranking import check_run, plan_lines, train_run
    from tokay.tuning import settings_for

    check_run(Path(source).expanduser())
    settings = settings_for(source, {"rerank.base": base}, config=config, overrides=overrides)
    screen = Screen()
    if plan:
        with screen.bars:
            screen.start("measuring some micro-batches", None)
            lines = plan_lines(source, settings)
        for line in lines:
            out.print(escape(line), soft_wrap=True)
        return
    with screen.bars:
        done = train_run(source, settings, progress=screen)
    print_rerank_verdict(done.verdict)
    print_leakage(done.leakage)
    if not done.fresh:
        out.print("unchanged: it had been trained already")
    out.print(f"reranker: {escape(str(done.folder))}", soft_wrap=True)
