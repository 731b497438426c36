"""The model that the verdict recommends, under one name, with its card; and what a run leaves."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from tokay.evaluate.general import said_of
from tokay.leaking import leakage_sentence
from tokay.pipeline.context import Context
from tokay.report import write_report
from tokay.store import Run, StageOutput

CODE = ("tokay.train.card", "tokay.models")


@dataclasses.dataclass(frozen=True)
class Distilled:
    """What ``distill`` leaves: the run folder, the model that its verdict recommends, the verdict, its check."""

    path: Path
    model: Path
    verdict: dict[str, Any]
    leakage: str
    stages: tuple[str, ...]


def model(ctx: Context) -> None:
    """The refitted or the tuned model, or the base when tuning did not help."""

    def work(out: StageOutput) -> None:
        from tokay.models.torch_embedder import TorchEmbedder
        from tokay.train.card import card

        verdict = _verdict(ctx.run)
        if verdict["use"] == "base":
            ctx.base().save(out.path)
            return
        made = ctx.run.path / ("refit" if ctx.run.is_done("refit") else "train")
        shutil.copytree(made / "model", out.path, copy_function=_link, dirs_exist_ok=True)
        data = f"queries that {ctx.settings.llm} wrote for passages of {ctx.settings.documents}, and its judgments"
        text = card(
            json.loads((made / "tuned.json").read_text(encoding="utf-8")),
            ctx.settings.train,
            data=data,
            dims=TorchEmbedder.load(out.path).config.dims,
            verdict=verdict,
        )
        (out.path / "README.md").write_text(text, encoding="utf-8")

    reads = ["train", "evaluate", "general", *(["refit"] if ctx.run.is_done("refit") else [])]
    key = {**ctx.settings.train.model_dump(mode="json"), "llm": ctx.settings.llm, "base": ctx.base_print}
    ctx.stage("model", work, settings=key, reads=reads, code=CODE)


def report(ctx: Context) -> Distilled:
    """Write ``report.html``, and say what there is."""
    ctx.progress.say(f"report: {write_report(ctx.run)}")
    leakage = leakage_sentence(ctx.run)
    return Distilled(ctx.run.path, ctx.run.path / "model", _verdict(ctx.run), leakage, tuple(ctx.done))


def _verdict(run: Run) -> dict[str, Any]:
    """The verdict on held-out documents, and, as ``general``, what became of the base's general ability."""
    verdict: dict[str, Any] = run.read_json("evaluate", "verdict")
    general = run.read_json("general", "general")
    return verdict | {"general": general | {"sentence": "; ".join(said_of(general))}}


def _link(source: str, target: str) -> None:
    """A hard link where the disk has them: a stage's files are never changed in place."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
