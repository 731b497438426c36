"""One recipe, trained on three sets of rows: before mining, for the verdict, and after it on everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokay.errors import TokayError
from tokay.examples import make_examples
from tokay.leakage import reads_of
from tokay.leaking import sources_apart
from tokay.pipeline.context import Context
from tokay.pipeline.vectors import encode_tuned
from tokay.records import Example, Read
from tokay.settings import ExampleSettings
from tokay.store import StageOutput
from tokay.trainset import dev_set_of, rows_of, run_source, taught_source

CODE = ("tokay.train", "tokay.models")

FEW_STEPS = 10
"""Steps below which training hardly moves the weights."""


def initial(ctx: Context) -> None:
    """Gecko's footnote 1: an embedder trained on (query, seed) with in-batch negatives only, to mine with."""

    def work(out: StageOutput) -> None:
        from tokay.models.torch_embedder import TorchEmbedder

        rows = make_examples(ctx.queries(), (), (), ctx.parts(), ExampleSettings())
        _train_on(ctx, [row for row in rows if row.part == "train"], out, name="initial")
        encode_tuned(ctx, TorchEmbedder.load(out.path / "model"), out)

    reads = ("corpus", "split", "generate", "vectors")
    ctx.stage("initial", work, settings=_key(ctx), reads=reads, code=CODE)


def train(ctx: Context) -> None:
    """The model that the verdict is on."""

    def work(out: StageOutput) -> None:
        _train_on(ctx, training_rows(ctx), out, name="train")

    ctx.stage("train", work, settings=_key(ctx), reads=("corpus", "vectors", "examples"), code=CODE)


def refit(ctx: Context) -> None:
    """The same recipe on the queries of all documents; the verdict stays that of the model before."""
    settings = ctx.settings.examples

    def work(out: StageOutput) -> None:
        from tokay.models.torch_embedder import TorchEmbedder

        rows = rows_of(ctx.run, ctx.queries(), None, settings, ctx.decided)
        _train_on(ctx, list(rows), out, name="refit")
        encode_tuned(ctx, TorchEmbedder.load(out.path / "model"), out)

    key = {**_key(ctx), **settings.model_dump(mode="json"), **ctx.decided.key}
    reads = ("corpus", "generate", "mine", "judge", "vectors", "train")
    ctx.stage("refit", work, settings=key, reads=reads, code=CODE)


def training_rows(ctx: Context) -> list[Example]:
    """Of the run's rows those that are trained on."""
    return [e for e in ctx.run.table("examples", "examples", Example) if e.part == "train"]


def _key(ctx: Context) -> dict[str, Any]:
    """What a training depends on, beside rows and vectors."""
    from tokay.train.tune import identity_of

    settings = ctx.settings.train
    mixture = identity_of("", ctx.mixture, settings) if ctx.mixture else ""
    return {**settings.model_dump(mode="json"), "base": ctx.base_print, "mixture": mixture}


def _train_on(ctx: Context, rows: Sequence[Example], out: StageOutput, *, name: str) -> None:
    """Train, and write down what was read: ``read.parquet`` is what leaks are looked for in."""
    from tokay.train.embedder import draw_of
    from tokay.train.tune import tune

    settings = ctx.settings.train
    if name == "initial":  # nothing is judged yet, so no dev query has an answer to choose by
        settings = settings.model_copy(
            update={"patience": 0, "soup": 1.0 if settings.soup == "auto" else settings.soup}
        )
    if len(rows) < 2:
        raise TokayError(f"{len(rows)} training rows; expected at least 2: write more queries (generate.passages)")
    own = run_source(rows, ctx.passages(), settings)
    if settings.distil_teacher:
        own = taught_source(ctx.run, own, settings, ctx.progress)
    out.write("read", Read, reads_of(own.rows, own.texts))
    others = ctx.mixture if name == "refit" else sources_apart(ctx.run, ctx.mixture, ctx.progress.say)
    sources = [own, *others]
    steps = draw_of(sources, settings).steps()
    if steps < FEW_STEPS:
        ctx.progress.say(
            f"only {steps} steps of training ({len(rows)} rows in batches of {settings.batch_size}): expect "
            f"little; write more queries, or try --set train.batch_size=16"
        )
    dev = None
    if settings.soup == "auto" or settings.patience:
        dev = dev_set_of(ctx.run, ctx.queries(), relevant_grade=ctx.settings.evaluate.relevant_grade)
    tune(
        ctx.base(),
        sources,
        settings,
        model=out.path / "model",
        logs=out.path,
        checkpoints=ctx.run.path / "checkpoints" / name,
        progress=ctx.progress,
        dev=dev,
        base_name=ctx.settings.base,
        base_print=ctx.base_print,
        drop_others=True,
    )
