"""The command line: one command a task. The only file that prints."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape as escape_markup
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table
from typer.core import TyperCommand

import tokay
from tokay.errors import TokayError, did_you_mean

if TYPE_CHECKING:
    from tokay.finder import Reranked
    from tokay.llm.ledger import Ledger
    from tokay.search.index import Match
    from tokay.settings import Settings
    from tokay.store import Run

app = typer.Typer(
    name="tokay",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Turn your documents and any LLM into an embedder that is measurably better on your own search.",
)
out = Console(highlight=False, emoji=False)
WIDTH = 112  # of the verdict's table: a narrower terminal wraps it rather than losing digits
err = Console(stderr=True, highlight=False, emoji=False)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def escape(text: str) -> str:
    """Text as text: no markup of ours, and nothing that a terminal would obey."""
    return escape_markup(_CONTROL.sub("\ufffd", text))


class Screen:
    """Progress on the terminal: one bar at a time, and a line for whatever is worth keeping."""

    def __init__(self) -> None:
        self.bars = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=err,
            transient=True,
        )
        self.task: TaskID | None = None

    def start(self, what: str, total: int | None) -> None:
        """Replace the bar."""
        if self.task is not None:
            self.bars.remove_task(self.task)
        self.task = self.bars.add_task(what, total=total, note="")

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Move the bar."""
        if self.task is not None:
            self.bars.update(self.task, advance=amount)
            if note:
                self.bars.update(self.task, note=note)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.bars.console.print(escape(line), soft_wrap=True)

    def confirmation(self, *, yes: bool) -> Callable[[object], bool]:
        """Asks whether to go on and pay; ``yes`` answers, and without a terminal the answer is no."""

        def confirm(_: object) -> bool:
            if yes or not sys.stdin.isatty():
                return yes
            self.bars.stop()
            answer = typer.confirm("Go on and pay for this?")
            self.bars.start()
            return answer

        return confirm


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(tokay.__version__)
        raise typer.Exit


@app.callback(no_args_is_help=True)
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Turn your documents and any LLM into an embedder that is measurably better on your own search."""


Out = Annotated[Path, typer.Option("--out", help="The run folder to make or to go on with.")]
Budget = Annotated[
    float | None,
    typer.Option(
        help="What the run's LLM calls may cost, in the price table's currency; it stops before. 0: no limit."
    ),
]
Prices = Annotated[str | None, typer.Option(help="TOML file with prices of models, in place of the shipped one.")]
RunFolder = Annotated[Path, typer.Argument(help="A run folder, as 'tokay distill … --out' makes it.")]


@app.command()
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
        _print_verdict(done.verdict, "Held-out documents")
        _print_slices(done.verdict["slices"])
        if settings.qrels:
            _print_verdict(tokay.open_run(out_folder).read_json("labels", "verdict"), "Your own queries")
        out.print(f"model: {escape(str(done.model))}")
        if done.verdict["use"] == "base":
            out.print(
                f"That is the base, since tuning was not shown to help; {escape(str(out_folder))}/train/model is tuned."
            )
        out.print(f'search: tokay search {escape(str(out_folder))} "…"   report: {escape(str(out_folder))}/report.html')


@app.command()
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


@app.command("pretrain-pairs")
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


@app.command()
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
    if _one_of(what, "--what", ("embedder", "reranker")) == "reranker":
        others = {"--out": out_folder, "--adapter": adapter, "--soup": soup, "--dev": dev, "--plan": plan}
        others |= {"--keep-passages": keep_passages, "--query-side": query_side, "--vectors": vectors}
        others |= {"--query-vectors": query_vectors}
        if given := [name for name, value in others.items() if value]:
            raise TokayError(f"{given[0]} is for an embedder, and --what is reranker; leave it out")
        _train_reranker(source, base=base, config=config, overrides=set_ or ())
        return
    from tokay.tuning import check_out, check_source, plan_lines, read_material, run_training, settings_for

    if out_folder is None and not plan:
        ask = "" if keep_passages else ", or ask for --plan"
        raise TokayError(f"there is no --out; name the model folder to make{ask}")
    if keep_passages:
        if plan or out_folder is None or soup or dev:
            raise TokayError("--keep-passages trains a query side and takes no --plan, --soup or --dev; leave them out")
        settings = settings_for(source, {"train.adapter": adapter}, config=config, overrides=set_ or ())
        files = {"vectors": vectors or "", "query_vectors": query_vectors or ""}
        _train_query_side(source, settings, out_folder, form=query_side, base=base, files=files)
        return
    if query_side or vectors or query_vectors:
        raise TokayError("--query-side, --vectors and --query-vectors go with --keep-passages; add it")
    weight = soup if soup in (None, "auto") else _number(soup, "--soup")
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
    source: str, settings: Settings, out_folder: Path, *, form: str | None, base: str | None, files: dict[str, str]
) -> None:
    from tokay.keeping import read_material, train_query_side
    from tokay.models.two_sides import FORMS
    from tokay.tuning import check_out

    chosen = _one_of(form or ("map" if files["query_vectors"] else "tower"), "--query-side", FORMS)
    assert chosen is not None  # there is a default
    check_out(out_folder)
    screen = Screen()
    with screen.bars:
        screen.start("reading", None)
        material = read_material(source, settings, form=chosen, base=base, **files, progress=screen)
        done = train_query_side(material, settings, out_folder, form=chosen, progress=screen)
    _print_slices(done.verdict)
    out.print(f"query side: {escape(str(done.folder))} ({chosen}, {done.seconds:,.0f} s of training)", soft_wrap=True)


def _print_slices(slices: dict[str, Any]) -> None:
    """Base and tuned on documents that training knows, and on others."""
    from tokay.evaluate.slices import TITLES

    table = Table(box=None, pad_edge=False)
    for name in ("queries of", "number", "base", "tuned", "nDCG@10 (95 %)", "p", "can show"):
        table.add_column(name, justify="left" if name == "queries of" else "right", no_wrap=True)
    for name, found in slices.items():
        if "comparison" not in found:
            table.add_row(TITLES[name].lower(), f"{found['queries']:,}", "", "", "too few to say", "", "")
            continue
        c = found["comparison"]
        table.add_row(
            TITLES[name].lower(),
            f"{found['queries']:,}",
            *(f"{found[side]['ndcg@10']:.3f}" for side in ("base", "tuned")),
            f"{c['difference']:+.3f} ({c['low']:+.3f} to {c['high']:+.3f})",
            "<0.001" if c["p_value"] < 0.001 else f"{c['p_value']:.3f}",
            f"{c['detectable']:.3f}",
        )
    Console(highlight=False, emoji=False, width=max(WIDTH, out.width)).print(table)


def _train_reranker(source: str, *, base: str | None, config: Path | None, overrides: Sequence[str]) -> None:
    from tokay.reranking import check_run, train_run
    from tokay.tuning import settings_for

    check_run(Path(source).expanduser())
    settings = settings_for(source, {"rerank.base": base}, config=config, overrides=overrides)
    screen = Screen()
    with screen.bars:
        done = train_run(source, settings, progress=screen)
    _print_rerank_verdict(done.verdict)
    if not done.fresh:
        out.print("unchanged: it had been trained already")
    out.print(f"reranker: {escape(str(done.folder))}", soft_wrap=True)


def _print_rerank_verdict(verdict: dict[str, Any]) -> None:
    title = f"Held-out documents: {verdict['queries']} queries"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("system", "nDCG@10", "Recall@10", "MRR", "judged@10", "ms, p50", "difference (95 %)", "p"):
        table.add_column(name, justify="left" if name == "system" else "right", no_wrap=True)
    for row in verdict["rows"]:
        c = row.get("comparison")
        table.add_row(
            row["label"],
            *(f"{row[m]:.3f}" for m in ("ndcg@10", "recall@10", "mrr")),
            f"{row['judged@10']:.0%}",
            f"{row['ms']:.0f}",
            f"{c['difference']:+.3f} ({c['low']:+.3f} to {c['high']:+.3f})" if c else "",
            ("<0.001" if c["p_value"] < 0.001 else f"{c['p_value']:.3f}") if c else "",
        )
    Console(highlight=False, emoji=False, width=max(WIDTH, out.width)).print(table)
    out.print(
        f"{verdict['layers']} layers, {verdict['backend']}, weight {verdict['weight']:g}; it reads "
        f"{verdict['read']:.1f} of at most {verdict['depth']} candidates.",
        soft_wrap=True,
    )
    out.print(f"[bold]{escape(verdict['sentence'])}[/bold]", soft_wrap=True)
    if not verdict["use"]:
        out.print("It was not shown to be better, so 'tokay search --rerank' leaves it out.", soft_wrap=True)


@app.command()
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


def _number(text: str, option: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= 1:
            return float(text)
    raise TokayError(f"{option} is {text!r}; expected a number above 0 and up to 1, or auto")


def _retrievers(words: str) -> list[str]:
    """What ``--candidates`` names; the settings check the names."""
    return ["base", "initial", "bm25"] if words == "union" else [word.strip() for word in words.split(",")]


def _print_verdict(verdict: dict[str, Any], title: str) -> None:
    table = Table(title=f"{title}: {verdict['queries']} queries", title_justify="left", box=None, pad_edge=False)
    for name in (
        "system",
        "nDCG@10",
        "Recall@10",
        "Recall@100",
        "MRR",
        "judged@10",
        "difference (95 %)",
        "p",
    ):
        table.add_column(name, justify="left" if name == "system" else "right", no_wrap=True)
    for row in verdict["rows"]:
        c = row.get("comparison")
        table.add_row(
            row["label"],
            *(f"{row[m]:.3f}" for m in ("ndcg@10", "recall@10", "recall@100", "mrr")),
            f"{row['judged@10']:.0%}",
            f"{c['difference']:+.3f} ({c['low']:+.3f} to {c['high']:+.3f})" if c else "",
            ("<0.001" if c["p_value"] < 0.001 else f"{c['p_value']:.3f}") if c else "",
        )
    Console(highlight=False, emoji=False, width=max(WIDTH, out.width)).print(table)
    out.print(
        "Differences: tuned and BM25 against base at the same width, base+BM25 against base, tuned+BM25 against "
        "base+BM25."
    )
    out.print(f"{verdict['can_show'].capitalize()} (nDCG@10, 80 % power).")
    if dropped := {name: count for name, count in verdict.get("dropped", {}).items() if count}:
        out.print(f"Not used: {', '.join(f'{count} {name}' for name, count in dropped.items())}.")
    out.print(f"[bold]{escape(verdict['sentence'])}[/bold]")


Backends = Annotated[
    str | None,
    typer.Option(
        "--backend", help="What runs the model: torch, onnx, onnx-int8 or static; default: as before, or torch."
    ),
]


@app.command(
    epilog="\b\ntokay index runs/demo ./docs --out indexes/docs\n"
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

    shape = Shape(dim, _one_of(stored, "--stored", STORED), _one_of(by, "--search", METHODS), rescore)
    screen = Screen()
    with screen.bars:
        done = update_index(
            model,
            documents,
            out_folder,
            shape,
            backend=_one_of(backend, "--backend", BACKENDS),
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


T = TypeVar("T", bound=str)


def _one_of(word: str | None, option: str, known: Sequence[T]) -> T | None:
    if word is None:
        return None
    for one in known:
        if one == word:
            return one
    raise TokayError(f"{option} is {word!r}; expected one of {', '.join(known)}{did_you_mean(word, known)}")


class _Search(TyperCommand):
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


@app.command(cls=_Search)
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
        typer.Option(help="Of an index: the weight of BM25, in place of the learned one."),
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

        chosen = _one_of(backend, "--backend", BACKENDS)
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
    if weight is not None or model is not None or backend is not None or reranker is not None:
        raise TokayError(
            f"--weight, --model, --backend and --reranker are for an index, and {where} is none; leave them out"
        )
    if rerank:
        from tokay.finder import search_run_reranked

        answer = search_run_reranked(_run_or_index(where), query, top=top, latency_ms=latency_ms)
        _print_reranked(answer, as_json=as_json)
        return
    _search_run(where, query, top=top, hybrid=hybrid, as_json=as_json)


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


def _search_run(run: Path, query: str, *, top: int, hybrid: bool, as_json: bool) -> None:
    from tokay.finder import Found, search_run

    answer = search_run(_run_or_index(run), query, top=top, hybrid=hybrid)
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


@app.command()
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


@app.command()
def report(run: RunFolder) -> None:
    """Write RUN/report.html again: verdict, funnel, wins and losses, samples of the data."""
    from tokay.report import write_relabel_report, write_report

    opened = tokay.open_run(run)
    write = write_relabel_report if opened.is_done("relabel") else write_report
    out.print(escape(str(write(opened))))


@app.command()
def trace(
    run: RunFolder, query_id: Annotated[str, typer.Argument(help="A query's id, as report.html shows it.")]
) -> None:
    """Follow one query: its passage, the LLM's answer, every grade, the training row."""
    from tokay.trace import trace_queries

    found = trace_queries(tokay.open_run(run), [query_id])[0]
    q = found.query
    out.print(f"[bold]{escape(q.text)}[/bold]\ntask: {escape(q.task)}   part: {q.part}   prompt: {escape(q.prompt)}")
    seed = found.seed
    if seed:
        out.print(
            f"\nwritten from [bold]{escape(seed.passage_id)}[/bold] ({escape(seed.source)}, characters {seed.start} "
            f"to {seed.end})"
        )
        out.print(escape(seed.text))
    out.print("\ncandidates" if found.candidates else "\nnot judged: the seed is the positive")
    for candidate, passage, judgment in found.candidates:
        grade = f"grade {judgment.grade}{' best' if judgment.best else ''}" if judgment else "unjudged"
        rated = found.ratings.get(passage.passage_id, "")
        out.print(f"  {candidate.rank:2d}. {escape(passage.passage_id)}: {grade}{f'  ({rated})' if rated else ''}")
    for e in found.examples:
        moved = " (relabelled)" if e.relabelled else ""
        out.print(
            f"\ntraining row: positive {escape(e.positive_id)}{moved}, hard negatives {escape(str(e.negative_ids))}"
        )
    out.print("\nthe LLM's answers")
    for place, text in found.answers:
        out.print(f"  {escape(place)}: {escape(text)}", soft_wrap=True)


ledger_app = typer.Typer(no_args_is_help=True, help="The answers that a run paid for: show, export, purge.")
app.add_typer(ledger_app, name="ledger")


def _ledger_of(run: Path) -> Ledger:
    from tokay.llm.ledger import LEDGER, Ledger

    path = tokay.open_run(run).path / LEDGER
    if not path.is_file():
        raise TokayError(f"{run} has no {LEDGER}: nothing was asked of an LLM")
    return Ledger(path)


@ledger_app.command()
def show(run: RunFolder) -> None:
    """Count the requests in a run's ledger: by stage and model, with their tokens and price."""
    from tokay.llm.ledger import spent_in

    with contextlib.closing(_ledger_of(run)) as ledger:
        rows = spent_in(ledger.path)
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "model", "answers", "failures", "prompt", "cached", "answer", "price"):
        table.add_column(name, justify="left" if name in ("stage", "model") else "right", no_wrap=True)
    for row in rows:
        numbers = (row.answers, row.failures, row.prompt, row.cached, row.completion)
        price = "unknown" if row.price is None else f"{row.price:.4f}" + ("+" if row.unpriced else "")
        table.add_row(escape(row.stage), escape(row.model), *(f"{n:,}" for n in numbers), price)
    Console(highlight=False, emoji=False, width=max(WIDTH, out.width)).print(table)
    out.print("prompt, cached (part of prompt) and answer are tokens, as the model counted them")


@ledger_app.command("export")
def export_ledger(
    run: RunFolder,
    file: Annotated[Path, typer.Argument(help="What to write, such as answers.jsonl or answers.jsonl.gz.")],
) -> None:
    """Write a run's answers to a file that --llm replay:FILE reads."""
    with contextlib.closing(_ledger_of(run)) as ledger:
        rows = ledger.export(file)
    out.print(f"{rows:,} requests and their answers: {escape(str(file))}", soft_wrap=True)
    out.print(
        "It holds the text of your documents, since prompts do, and only you can read it (mode 0600). It holds no key.",
        soft_wrap=True,
    )


@ledger_app.command()
def purge(run: RunFolder, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Empty a run's ledger, so that no prompt and no answer stands in it; the run's tables stay."""
    from tokay.store import Run

    _ledger_of(run).close()
    if not yes and not (sys.stdin.isatty() and typer.confirm("Delete all answers? What is asked again is paid again.")):
        raise TokayError("nothing was deleted: it was not confirmed (--yes confirms it)")
    with Run(run, writable=True), contextlib.closing(_ledger_of(run)) as ledger:
        rows = ledger.purge()
    out.print(f"{rows:,} requests deleted; the run's tables still hold passages and queries", soft_wrap=True)


@app.command()
def cost(run: RunFolder) -> None:
    """Show what a run spent on its LLM: by stage, and for each training row."""
    from tokay.cost import costs_of

    costs = costs_of(tokay.open_run(run))
    if costs.nothing:
        out.print(escape(costs.nothing))
        return
    names = ["stage", "model", "requests", "failures", "prompt", "cached", "completion", f"price {costs.currency}"]
    names += ["per training row"] if costs.rows else []
    table = Table(title="Tokens and price", title_justify="left", box=None, pad_edge=False)
    for name in names:
        table.add_column(name, justify="left" if name in ("stage", "model") else "right", no_wrap=True)
    for row in (*costs.stages, costs.total):
        counts = (row.answers + row.failures, row.failures, row.prompt, row.cached, row.completion)
        price = "unknown" if row.price is None else f"{row.price:.4f}" + ("+" if row.unpriced else "")
        each = [f"{row.price / costs.rows:.6f}" if row.price is not None else ""] if costs.rows else []
        table.add_row(escape(row.stage), escape(row.model), *(f"{n:,}" for n in counts), price, *each)
    Console(highlight=False, emoji=False, width=max(WIDTH, out.width)).print(table)
    if costs.rows:
        tokens = (costs.total.prompt + costs.total.completion) / costs.rows
        out.print(f"{costs.rows:,} training rows, {tokens:,.0f} tokens each")
    if costs.total.unpriced:
        out.print(f"{costs.total.unpriced:,} answers have no price: their model was not in the price table (--prices)")


@app.command()
def version() -> None:
    """Print the version."""
    out.print(tokay.__version__)


def _interrupted() -> int:
    err.print("interrupted; the same command goes on where this one stopped")
    return 130


def main() -> None:
    """Entry point: errors that the user can mend are one line and exit code 1."""
    try:
        app()
    except TokayError as error:
        err.print(f"[bold red]error:[/bold red] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(_interrupted())
    except SystemExit as stop:
        if stop.code == 130:  # typer made it of a KeyboardInterrupt
            _interrupted()
        raise


if __name__ == "__main__":
    main()
