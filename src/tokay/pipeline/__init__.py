"""The running order: documents in, a better embedder and its proof out. One module a stage; here they are in order.

A stage whose key stands in the run's manifest is skipped (``tokay.store``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from tokay.errors import TokayError
from tokay.leakage import reads_of
from tokay.leaking import refuse
from tokay.llm.open import forget_models
from tokay.pipeline import (
    corpus,
    evaluate,
    examples,
    general,
    generate,
    judge,
    labels,
    mine,
    model,
    planning,
    relabel,
    split,
    train,
    vectors,
)
from tokay.pipeline.context import Context
from tokay.pipeline.model import Distilled
from tokay.pipeline.plan import Confirm, Plan
from tokay.pipeline.start import annotator_of, open_distillation, open_relabelling
from tokay.progress import Progress, Silent
from tokay.settings import Settings, resolve, to_toml
from tokay.store import Run

__all__ = ["Distilled", "Plan", "distill", "run_distillation", "run_relabelling"]


def _distil(ctx: Context, confirm: Confirm | None) -> Distilled:
    """From documents to a model and its verdict."""
    settings = ctx.settings
    for name, wanted in (("labels", settings.qrels), ("refit", settings.refit)):
        if not wanted:
            ctx.run.forget(name)  # of an earlier start that asked for it
    corpus.corpus(ctx)
    split.split(ctx)
    ctx.consent.show(planning.plan(ctx), confirm)
    generate.generate(ctx)
    vectors.vectors(ctx)
    if "initial" in settings.mine.retrievers:
        train.initial(ctx)
    mine.mine(ctx)
    judge.judge(ctx)
    forget_models()  # an LLM of this process gives its memory to the training
    examples.examples(ctx)
    refuse(ctx.run, {"the embedder": reads_of(train.training_rows(ctx))})
    train.train(ctx)
    evaluate.evaluate(ctx)
    if settings.qrels:
        labels.labels(ctx)
    if settings.refit:
        train.refit(ctx)
    general.general(ctx)
    model.model(ctx)
    return model.report(ctx)


def _plan_only(ctx: Context) -> None:
    """A dry run."""
    corpus.corpus(ctx)
    split.split(ctx)
    plan = planning.plan(ctx)
    for line in [*plan.lines(), *plan.consent()]:
        ctx.progress.say(line)


def _judge_labels(ctx: relabel.Relabelling, confirm: Confirm | None) -> dict[str, int]:
    """From a user's labels to better ones."""
    corpus.corpus(ctx)
    relabel.labelled(ctx)
    ctx.consent.show(relabel.plan(ctx), confirm)
    vectors.vectors(ctx)
    mine.mine(ctx)
    judge.judge(ctx)
    relabel.changes(ctx)
    return relabel.report(ctx)


def distill(
    documents: str,
    *,
    out: str | Path,
    llm: str | None = None,
    base: str | None = None,
    config: Path | None = None,
    overrides: Iterable[str] = (),
    confirm: Confirm | None = None,
    progress: Progress | None = None,
) -> Distilled:
    """Make an embedder that is better on these documents, and the proof of it.

    Args:
        documents: a folder, a JSONL/CSV/Parquet file, a BEIR folder, ``hf:DATASET``, ``python:PACKAGE`` or
            ``python-stdlib``.
        out: the run folder; an interrupted or changed run goes on where it was.
        llm: ``recorded`` (the default), ``recorded:FOLDER``, ``openai:MODEL``, ``hf:NAME_OR_FOLDER`` or
            ``replay:FILE``.
        base: ``minilm`` (the default), a model folder, or a name on the Hub.
        config: TOML with settings by stage.
        overrides: ``stage.name=value`` settings, which win over the file.
        confirm: asked with the plan before a paid LLM is called; None: refuse to pay.
        progress: where to report.

    Raises:
        TokayError: anything that the caller can mend, in one sentence.
    """
    values = {"documents": documents, "llm": llm, "base": base}
    settings = resolve(values, config=config, overrides=overrides)
    done = run_distillation(settings, Path(out), confirm=confirm, progress=progress)
    assert done is not None  # only a dry run ends without a result
    return done


def run_distillation(
    settings: Settings,
    out: Path,
    *,
    confirm: Confirm | None = None,
    progress: Progress | None = None,
    dry_run: bool = False,
) -> Distilled | None:
    """``distill`` with resolved settings; a dry run stops at the plan, leaves ``out`` alone and returns None."""
    progress = progress or Silent()
    source, base = open_distillation(settings)
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="tokay-") as folder, Run(Path(folder, "run"), writable=True) as run:
            annotator = annotator_of(settings, run.path, to_ask=False)
            _plan_only(Context(settings, run, source, annotator, base, progress))
        return None
    with Run(out, writable=True) as run:
        annotator = annotator_of(settings, run.path)
        run.write_settings(to_toml(settings))
        return _distil(Context(settings, run, source, annotator, base, progress), confirm)


def run_relabelling(
    settings: Settings,
    out: Path,
    *,
    confirm: Confirm | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Judge a user's labels (``settings.queries`` and ``settings.qrels``) and mined candidates; returns the counts.

    Raises:
        TokayError: as of ``distill``.
    """
    source, base = open_relabelling(settings)
    with Run(out, writable=True) as run:
        if run.is_done("split"):
            raise TokayError(f"--out {out} holds a run of 'tokay distill'; name another folder")
        annotator = annotator_of(settings, run.path)
        run.write_settings(to_toml(settings))
        ctx = relabel.Relabelling(settings, run, source, annotator, base, progress or Silent())
        return _judge_labels(ctx, confirm)
