"""``tokay train``: the rows of a run, or of a mixture, to a model, without the stages around it."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tokay import open_run
from tokay.corpus import open_corpus, whole
from tokay.errors import TokayError
from tokay.evaluate.qrels import Words, read_labels
from tokay.leaking import queries_of_run, sources_apart
from tokay.models.locate import find_model, is_run
from tokay.progress import Progress, Silent
from tokay.records import Passage
from tokay.settings import Settings, TrainSettings, resolve
from tokay.store import MANIFEST, fingerprint
from tokay.train.mixture import Source, read_entries, read_mixture
from tokay.trainset import check_teacher, dev_set_of, rows_now, run_source, taught_source

TRAINING = "training"
"""Folder in the model's for what training leaves beside it: metrics, story, adapter, checkpoints."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What ``tokay train`` leaves. ``dev`` is nDCG@10 of the dev queries, of the base and of the model; or None."""

    model: Path
    steps: int
    planned: int
    seconds: float
    soup: float
    dev: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Material:
    """What is trained, on what: all of it read and checked before the first step.

    ``teach``, where there is a teacher, gives the first source with its scores.
    """

    base: Any
    base_name: str
    base_print: str
    sources: tuple[Source, ...]
    dev: Any
    data: str
    settings: TrainSettings
    teach: Callable[[Progress], Source] | None = None


def settings_for(
    source: str, values: Mapping[str, Any], *, config: Path | None = None, overrides: Iterable[str] = ()
) -> Settings:
    """Settings of a training: of a run, those that it was made with, unless others are given.

    Raises:
        TokayError: as of ``resolve``.
    """
    of_run = Path(source).expanduser() / "run.toml"
    if config is None and of_run.is_file():
        config = of_run
    return resolve({"documents": source, **values}, config=config, overrides=overrides)


def check_source(source: str) -> None:
    """Refuse what is no finished run and no mixture, before anything is read.

    Raises:
        TokayError: with what was looked for.
    """
    path = Path(source).expanduser()
    if is_run(path):
        open_run(path).rows("examples", "examples")
    elif path.suffix == ".toml":
        read_entries(path)
    else:
        raise TokayError(
            f"{source} is neither a run folder (it has no {MANIFEST}) nor a mixture (.toml); make one of them: "
            "'tokay distill' writes runs, docs/mixture.md describes mixtures"
        )


def read_material(
    source: str, settings: Settings, *, base: str | None = None, dev: str = "", split: str = "dev"
) -> Material:
    """Read rows, base and dev queries.

    Args:
        source: a finished run, or a mixture's TOML file.
        settings: of which the train stage's matter.
        base: a model; None: the run's, or minilm.
        dev: a BEIR folder; empty: the run's own dev queries.
        split: of its labels.

    Raises:
        TokayError: what is missing, or cannot be trained on.
    """
    from tokay.models.torch_embedder import TorchEmbedder  # says which extra is missing
    from tokay.vectors import with_cut

    path, train = Path(source).expanduser(), settings.train
    of_run = is_run(path)
    check_source(source)
    mixtures = [path] if not of_run else [Path(train.mixture)] if train.mixture else []
    sources = [s for mixture in mixtures for s in read_mixture(mixture, seed=train.seed)]
    cut, name, dev_set, teach = train.max_tokens, base or "minilm", None, None
    check_teacher(train, of_run=of_run)
    if of_run:
        run = open_run(path)
        rows = [e for e in rows_now(run, settings.examples) if e.part == "train"]
        sources = sources_apart(run, sources, lambda said: None)
        sources.insert(0, run_source(rows, run.table("corpus", "passages", Passage), train))
        if train.distil_teacher:
            teach = functools.partial(taught_source, run, sources[0], train)
        chosen = run.read_json("vectors", "cut")
        cut, name = cut or chosen["cut"], base or chosen["base"]
        if not dev:
            dev_set = dev_set_of(run, queries_of_run(run), relevant_grade=settings.evaluate.relevant_grade)
    folder = find_model(name)
    model = TorchEmbedder.load(folder)
    return Material(
        base=with_cut(model, min(cut, model.config.max_tokens)) if cut else model,
        base_name=name,
        base_print=fingerprint(folder),
        sources=tuple(sources),
        dev=read_dev(dev, split) if dev else dev_set,
        data=f"{'the run' if of_run else 'the mixture'} {path.name}",
        settings=train,
        teach=teach,
    )


def read_dev(folder: str, split: str) -> Any:
    """Dev queries of a BEIR folder, among all of its documents, read whole.

    Raises:
        TokayError: it is none, or its labels fit nothing.
    """
    from tokay.train.dev import DevSet

    if not Path(folder).expanduser().is_dir():
        raise TokayError(
            f"--dev {folder} is no folder; expected a BEIR folder: a corpus, queries and qrels/{split}.tsv"
        )
    documents = [whole(document) for document in open_corpus(folder).documents(lambda skipped: None)]
    passages = {p.passage_id: (p.title, p.text) for p in documents}
    words = Words("--dev", "--dev", "--dev-split")
    labels = read_labels(folder, folder, known_ids=set(passages), split=split, words=words)
    return DevSet(labels.queries, passages, labels.qrels)


def check_out(out: Path) -> None:
    """Refuse to write over what is there, save of an unfinished training.

    Raises:
        TokayError: with what is in the way.
    """
    if not os.access(out, os.F_OK):  # or it is where this user may not look, which is told when it is written
        return
    if not out.is_dir():
        raise TokayError(f"--out {out} is a file; expected a folder to write the model into")
    found = sorted(p.name for p in out.iterdir() if p.name != TRAINING)
    if found:
        what = "a model already" if "modules.json" in found else f"other files, such as {found[0]}"
        raise TokayError(f"--out {out} holds {what}; name another folder, or delete this one")


def run_training(material: Material, out: Path, *, progress: Progress | None = None) -> Trained:
    """Train and write the model into ``out``, with its card; what training leaves beside it goes to ``out/training``.

    A training that was cut goes on from its last checkpoint.

    Raises:
        TokayError: ``out`` is taken, the disk is full, the loss diverges, a checkpoint there is of another training.
    """
    from tokay.train.card import card
    from tokay.train.embedder import matryoshka_dims
    from tokay.train.engine import is_main_process
    from tokay.train.tune import tune

    check_out(out)
    settings, dev = material.settings, material.dev
    logs = out / TRAINING
    progress = progress or Silent()
    sources = material.sources
    if material.teach is not None:
        sources = (material.teach(progress), *sources[1:])
    done = tune(
        material.base,
        sources,
        settings,
        model=out,
        logs=logs,
        checkpoints=logs / "checkpoints",
        progress=progress if is_main_process() else Silent(),
        dev=dev if settings.soup == "auto" or settings.patience else None,
        base_name=material.base_name,
        base_print=material.base_print,
    )
    seen = None
    if is_main_process():
        dims = matryoshka_dims(settings.dims, material.base.width)
        text = card(dataclasses.asdict(done), settings, data=material.data, dims=dims, verdict={})
        (out / "README.md").write_text(text, encoding="utf-8")
        if dev is not None:
            from tokay.models.torch_embedder import TorchEmbedder

            progress.start("dev queries", None)
            seen = (float(dev.measure(material.base).mean()), float(dev.measure(TorchEmbedder.load(out)).mean()))
            (logs / "dev.json").write_text(json.dumps({"base": seen[0], "tuned": seen[1]}) + "\n", encoding="utf-8")
    return Trained(out, done.steps, done.planned, done.seconds, done.soup, seen)


def plan_lines(material: Material) -> list[str]:
    """What the training would take, in words."""
    from tokay.train.plan import plan_training

    return plan_training(material.base, material.sources, material.settings).lines()
