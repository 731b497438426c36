"""A whole tuning: runs of a training, merged, pulled towards the base, and written with their story."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokay.errors import TokayError
from tokay.models.torch_embedder import TorchEmbedder
from tokay.progress import Progress
from tokay.settings import TrainSettings
from tokay.train.adapters import adapter_of, savings_of
from tokay.train.checkpoints import Checkpoints, need_room
from tokay.train.dev import DevSet
from tokay.train.embedder import draw_of, prepared, train_embedder
from tokay.train.engine import Engine
from tokay.train.loop import Step
from tokay.train.mixture import Source
from tokay.train.soup import add_to_mean, choose_soup, interpolate
from tokay.train.trainee import Work

SOUP_WEIGHTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Of the tuned model, for ``soup = "auto"``."""


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What a tuning did, for the model card and the screen.

    Attributes:
        settings: hash of the settings that made it.
        sources: name -> rows that were drawn of it, all epochs of one run together.
        steps: that the last run did.
        planned: steps of a run that does not stop early.
        loss: of the last step of the last run.
        dev: weight of the tuned model -> mean nDCG@10 of the dev queries, for ``soup = "auto"``.
    """

    base: str
    settings: str
    sources: dict[str, int]
    steps: int
    planned: int
    runs: int
    seconds: float
    texts: int
    tokens: int
    useful: float
    precision: str
    loss: float | None
    trainable: int
    parameters: int
    soup: float
    dev: dict[str, float]


def tune(
    base: TorchEmbedder,
    sources: Sequence[Source],
    settings: TrainSettings,
    *,
    model: Path,
    logs: Path,
    checkpoints: Path | None,
    progress: Progress,
    dev: DevSet | None = None,
    base_name: str = "",
    base_print: str = "",
    drop_others: bool = False,
) -> Tuned:
    """Train copies of ``base``, merge them, and write the model.

    Args:
        base: left as it is.
        sources: rows to train on.
        settings: of the train stage.
        model: gets a sentence-transformers folder.
        logs: gets ``metrics.jsonl``, a line a step; ``tuned.json``, what is returned; and ``adapter/``, where less
            than the model was trained.
        checkpoints: where an unfinished training is kept; emptied when it is done. None: nowhere.
        progress: where to report.
        dev: dev queries, for early stopping and ``soup = "auto"``.
        base_name: for the adapter's folder and the card.
        base_print: fingerprint of the base, for the checkpoints.
        drop_others: checkpoints of another training are removed and not refused.

    Raises:
        TokayError: whatever the user can mend; all that can be seen before the first step is.
    """
    if dev is None and (settings.soup == "auto" or settings.patience):
        raise TokayError(
            "train.soup=auto and train.patience need dev queries, and there are none; keep some documents for them "
            "(split.dev_share), name some (--dev), or set train.soup to a number and train.patience=0"
        )
    engine = Engine(precision=settings.precision, track=settings.track, folder=logs)
    draw = draw_of(sources, settings)
    size = 4 * sum(p.numel() for p in base.parameters())
    if engine.is_main:
        need_room(model, size + (7 * size if checkpoints and settings.checkpoint_minutes else 0))
        try:
            logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TokayError(f"{logs} cannot be made: {error.strerror}; write somewhere else") from error
    engine.start_tracking("tokay", settings.model_dump(mode="json"))
    work, began = Work(), time.perf_counter()
    mean, trainable = base, 0
    journal = (checkpoints or logs) / "metrics.jsonl"  # beside the checkpoints it outlives what it was cut from
    for number in range(settings.runs):
        own = settings.model_copy(update={"seed": settings.seed + number})
        tuned, adapter = prepared(base, own), adapter_of(own)
        torch.manual_seed(own.seed)  # draws what an adapter begins with, the same in every process
        adapter.attach(tuned)
        saved = savings_of(tuned, base)
        trainable = saved.trainable
        if number == 0:
            progress.say(saved.line())
        kept = None
        if checkpoints is not None:
            identity = identity_of(base_print, sources, own)
            kept = Checkpoints(
                checkpoints / f"run-{number}",
                identity=identity,
                minutes=own.checkpoint_minutes,
                drop_others=drop_others,
            )
        name = f"training, run {number + 1} of {settings.runs}" if settings.runs > 1 else "training"
        progress.start(name, draw.steps())
        if kept is not None and (found := kept.newest()):
            progress.say(f"{name} goes on from step {found.step:,} of {draw.steps():,}")
            progress.advance(found.step)
        steps = train_embedder(
            tuned,
            sources,
            own,
            teacher=base.to(engine.device) if any(source.matched for source in sources) else None,
            engine=engine,
            checkpoints=kept,
            dev=dev,
            work=work,
        )
        follow(steps, journal, run=number, engine=engine, progress=progress, work=work)
        if number == 0 and engine.is_main:
            adapter.save(tuned, logs / "adapter", base_name=base_name)
        adapter.merge(tuned)
        if number:
            add_to_mean(mean, tuned, count=number)
        else:
            mean = tuned
    lines = close_log(journal, settings.runs) if engine.is_main else []
    loss = float(lines[-1]["loss"]) if lines else None
    if lines and not any(line["norm"] for line in lines):
        progress.say("nothing was learned: no row had a negative, so that every gradient was 0")
    soup, looks = _soup(mean, base, settings, dev)
    done = Tuned(
        base=base_name,
        settings=settings_hash(settings),
        sources={s.name: n for s, n in zip(sources, draw.rows(), strict=True)},
        steps=sum(line["run"] == settings.runs - 1 for line in lines) if engine.is_main else draw.steps(),
        planned=draw.steps(),
        runs=settings.runs,
        seconds=time.perf_counter() - began,
        texts=sum(line["texts"] for line in lines),
        tokens=sum(line["tokens"] for line in lines),
        useful=sum(line["tokens"] for line in lines) / max(1, sum(line["padded"] for line in lines)),
        precision=engine.precision,
        loss=loss,
        trainable=trainable,
        parameters=sum(p.numel() for p in base.parameters()),
        soup=soup,
        dev=looks,
    )
    if engine.is_main:
        _write(mean, model)
        (logs / "tuned.json").write_text(json.dumps(dataclasses.asdict(done), indent=1) + "\n", encoding="utf-8")
        if checkpoints is not None:
            shutil.copyfile(journal, logs / journal.name)
            shutil.rmtree(checkpoints)
    engine.stop_tracking()
    return done


def _write(model: TorchEmbedder, folder: Path) -> None:
    from safetensors import SafetensorError

    try:
        model.save(folder)
    except (OSError, SafetensorError) as error:
        raise TokayError(
            f"the model cannot be written to {folder} ({getattr(error, 'strerror', None) or error}); make room and "
            "start again: the training goes on from its last checkpoint"
        ) from error


def _soup(
    tuned: TorchEmbedder, base: TorchEmbedder, settings: TrainSettings, dev: DevSet | None
) -> tuple[float, dict[str, float]]:
    """Pull the tuned model towards its base; returns its weight, and what the dev queries said of the weights."""
    if settings.soup != "auto":
        if settings.soup < 1:
            interpolate(tuned, base, settings.soup, how=settings.merge)
        return settings.soup, {}
    assert dev is not None  # checked before the first step
    found: dict[float, NDArray[np.float64]] = {}
    for weight in SOUP_WEIGHTS:
        mixed = tuned.clone()
        interpolate(mixed, base, weight, how=settings.merge)
        found[weight] = dev.measure(mixed)
    chosen = choose_soup(found)
    interpolate(tuned, base, chosen, how=settings.merge)
    return chosen, {f"{weight:g}": float(values.mean()) for weight, values in found.items()}


def settings_hash(settings: TrainSettings) -> str:
    """Sixteen hex digits that are equal for equal settings."""
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:16]


def identity_of(base_print: str, sources: Sequence[Source], settings: TrainSettings) -> str:
    """What is trained on what, by which settings: checkpoints of anything else are refused."""
    no_matter = {"checkpoint_minutes", "track", "tokens_kept", "soup", "merge", "runs", "mixture"}
    digest = hashlib.sha256(f"{base_print}\n{settings.model_dump_json(exclude=no_matter)}".encode())

    def add(*values: Any) -> None:
        digest.update(repr(values).encode("utf-8", "surrogatepass"))

    for source in sources:
        add(source.name, source.weight, source.share, source.symmetric, source.matched, sorted(source.labels.items()))
        for row in source.rows:
            add(*dataclasses.astuple(row))
        for item in (*sorted(source.texts.items()), *sorted(source.taught.items())):
            add(*item)
    return digest.hexdigest()


def follow(steps: Iterator[Step], log: Path, *, run: int, engine: Engine, progress: Progress, work: Work) -> None:
    """Run a training to its end, with a JSON line a step.

    One that goes on from a checkpoint keeps the lines up to it.
    """
    began, before, average, started = time.perf_counter(), work.tokens, 0.0, False
    at = dataclasses.asdict(work)
    file: IO[str] | None = None
    try:
        for step in steps:
            if not started:
                average = step.loss
                file = _open_log(log, run, step.step) if engine.is_main else None
            started = True
            average = 0.9 * average + 0.1 * step.loss
            values = {k: v for k, v in dataclasses.asdict(step).items() if v is not None}
            if file is not None:
                now = dataclasses.asdict(work)
                counts = {name: now[name] - at[name] for name in ("texts", "tokens", "padded")}
                file.write(json.dumps({"run": run, **values, **counts}) + "\n")
                at = now
                file.flush()
            engine.log({f"run{run}/{name}": value for name, value in values.items()}, step.step)
            rate = (work.tokens - before) / (time.perf_counter() - began)
            progress.advance(note=f"loss {average:.3f}, {rate:,.0f} tokens/s")
    finally:
        if file is not None:
            file.close()


def _open_log(log: Path, run: int, start: int) -> IO[str]:
    """Open for appending, after dropping lines of steps that are done again, and half a line of a killed process."""
    kept = []
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.is_file():
        lines = (line for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("}"))
        kept = [line for line in lines if (entry := json.loads(line))["run"] != run or entry["step"] < start]
    log.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    return log.open("a", encoding="utf-8")


def close_log(log: Path, runs: int) -> list[dict[str, Any]]:
    """Its lines, in order, without those of runs that there are no more."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    entries = sorted((e for e in map(json.loads, lines) if e["run"] < runs), key=lambda e: (e["run"], e["step"]))
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(json.dumps(e) + "\n" for e in entries), encoding="utf-8")
    return entries
