"""``tokay distill`` and ``tokay relabel``: what asks an LLM."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import tokay
from tokay.cli.screen import Budget, Out, Prices, Screen, escape, out
from tokay.cli.verdicts import print_leakage, print_slices, print_verdict


def distill(
    documents: Annotated[
        str,
        typer.Argument(
            help="A folder, a .jsonl/.csv/.parquet file, a BEIR folder, hf:DATASET, python:PACKAGE or python-stdlib."
        ),
    ],
    out_folder: Out,
    llm: Annotated[
        str | None,
        typer.Option(
            help="recorded (the default), recorded:FOLDER, openai:MODEL, hf:NAME_OR_FOLDER or replay:FILE.",
            show_default=False,
        ),
    ] = None,
    llm_url: Annotated[
        str | None,
        typer.Option(help="Base URL of an OpenAI-compatible endpoint; default: $OPENAI_BASE_URL, else OpenAI."),
    ] = None,
    batch: Annotated[
        bool | None,
        typer.Option("--batch", help="Ask through the provider's batch API: cheaper, and it takes hours."),
    ] = None,
    budget: Budget = None,
    prices: Prices = None,
    base: Annotated[
        str | None,
        typer.Option(help="minilm (the default), a model folder, or a name on the Hugging Face Hub."),
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option(
            help="With --qrels, your own labelled queries (.jsonl, .tsv, .parquet), for an extra verdict. Without, "
            "a log of real queries (.txt, one a line) that are judged and trained on."
        ),
    ] = None,
    qrels: Annotated[str | None, typer.Option(help="Relevance labels: BEIR .tsv, TREC qrels or .parquet.")] = None,
    about: Annotated[
        str | None, typer.Option(help='One line on your searchers, such as "people look for spare parts".')
    ] = None,
    language: Annotated[str | None, typer.Option(help="Of the queries; default: each passage's own.")] = None,
    candidates: Annotated[
        str | None,
        typer.Option(
            help="Who proposes candidates: base, initial, bm25 (or several: base,bm25, the default), or union."
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(help="auto, gecko, relevance, pointwise, listwise, cascade or cross-encoder."),
    ] = None,
    rrf_k: Annotated[int | None, typer.Option(help="k of the gecko judge's rank fusion; the paper's is 0.")] = None,
    refit: Annotated[
        bool | None, typer.Option("--refit", help="After the verdict, train on the held-out queries too.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings, as run.toml has them.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, such as train.epochs=3. Repeatable.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Pay for the LLM calls of the plan without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read the documents, print the plan, stop.")] = False,
) -> None:
    """From documents to a better embedder: write queries, judge, train, prove it."""
    from tokay.pipeline import run_distillation
    from tokay.settings import resolve

    is_log = queries is not None and not qrels and Path(queries).suffix in (".txt", ".log")
    values: dict[str, Any] = {
        "documents": documents,
        "llm": llm,
        "llm_url": llm_url,
        "batch": batch,
        "budget": budget,
        "prices": prices,
        "base": base,
        "queries": None if is_log else queries,
        "log": queries if is_log else None,
        "qrels": qrels,
        "generate.about": about,
        "generate.language": language,
        "mine.retrievers": _retrievers(candidates) if candidates else None,
        "judge.by": judge,
        "judge.rrf_k": rrf_k,
        "refit": refit,
    }
    settings = resolve(values, config=config, overrides=set_ or ())
    screen = Screen()

    with screen.bars:
        done = run_distillation(
            settings, out_folder, confirm=screen.confirmation(yes=yes), progress=screen, dry_run=dry_run
        )
    if done is not None:
        print_verdict(done.verdict, "Held-out documents")
        print_slices(done.verdict["slices"])
        if settings.qrels:
            print_verdict(tokay.open_run(out_folder).read_json("labels", "verdict"), "Your own queries")
        general = done.verdict["general"]
        warned = "[bold red]warning:[/bold red] " if general["fell"] else ""
        out.print(f"{warned}{escape(general['sentence'])}", soft_wrap=True)
        print_leakage(done.leakage)
        out.print(f"model: {escape(str(done.model))}")
        if done.verdict["use"] == "base":
            out.print(
                f"That is the base, since tuning was not shown to help; {escape(str(out_folder))}/train/model is tuned."
            )
        out.print(f'search: tokay search {escape(str(out_folder))} "…"   report: {escape(str(out_folder))}/report.html')


def relabel(
    documents: Annotated[str, typer.Argument(help="The corpus that the labels are of, as for 'tokay distill'.")],
    queries: Annotated[str, typer.Option(help="Labelled queries (.jsonl, .tsv, .parquet) or a BEIR folder.")],
    qrels: Annotated[str, typer.Option(help="Their labels: BEIR .tsv, TREC qrels, .parquet or a BEIR folder.")],
    llm: Annotated[str, typer.Option(help="The judge: openai:MODEL, hf:NAME_OR_FOLDER or replay:FILE.")],
    out_folder: Out,
    llm_url: Annotated[str | None, typer.Option(help="Base URL of an OpenAI-compatible endpoint.")] = None,
    budget: Budget = None,
    prices: Prices = None,
    base: Annotated[str | None, typer.Option(help="The model to mine with; default: minilm.")] = None,
    split: Annotated[str | None, typer.Option(help="Of the labels, where they have several; default: train.")] = None,
    judge: Annotated[str | None, typer.Option(help="As for 'tokay distill'.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings, as run.toml has them.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="One setting, such as relabel.doubted=drop.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Pay for the LLM calls of the plan without asking.")] = False,
) -> None:
    """Have labels judged that you already have: find the answers that they lack, and those that are none."""
    from tokay.pipeline import run_relabelling
    from tokay.settings import resolve

    values = {
        "documents": documents,
        "queries": queries,
        "qrels": qrels,
        "llm": llm,
        "llm_url": llm_url,
        "budget": budget,
        "prices": prices,
        "base": base,
        "relabel.split": split,
        "judge.by": judge,
    }
    settings = resolve(values, config=config, overrides=set_ or ())
    screen = Screen()
    with screen.bars:
        summary = run_relabelling(settings, out_folder, confirm=screen.confirmation(yes=yes), progress=screen)
    for name, count in summary.items():
        out.print(f"{count:8,} {name}")
    out.print(f"labels: {escape(str(out_folder))}/relabel/beir   report: {escape(str(out_folder))}/report.html")


def _retrievers(words: str) -> list[str]:
    """What ``--candidates`` names; the settings check the names."""
    return ["base", "initial", "bm25"] if words == "union" else [word.strip() for word in words.split(",")]
