"""A model on benchmark tasks, and its results in MTEB's own layout: ``results/MODEL/REVISION/TASK.json``."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokay.errors import TokayError
from tokay.evaluate.categories import Scores
from tokay.evaluate.published import SETS
from tokay.evaluate.sides import Category, Place, side_of_text
from tokay.evaluate.tasks import Encode, Task
from tokay.models.embedder import Backend, Embedder
from tokay.models.locate import find_model, is_hub_name, is_run, model_digest
from tokay.progress import Progress, Silent

RESULTS: Final = "results"
_FEW_DIGITS: Final = 6


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A model to be measured, by the name and revision that its results are kept under.

    Attributes:
        name: ``organisation/model``, as MTEB wants it.
        revision: the beginning of a hash of its files.
        embedder: the model.
        dim: a Matryoshka width; None: all of it.
        settings: what it is measured with, other than its own defaults: ``embed_dim``, ``max_tokens``, ``backend``.
    """

    name: str
    revision: str
    embedder: Embedder
    dim: int | None = None
    settings: Mapping[str, int | str] = dataclasses.field(default_factory=dict)

    @property
    def label(self) -> str:
        """What tables call it."""
        more = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        return f"{self.name} ({more})" if more else self.name

    def encoder(self, category: str, name: str, progress: Progress | None = None) -> Encode:
        """What encodes the texts of a set as its category and name want them written."""

        def encode(texts: Sequence[str], place: Place, titles: Sequence[str] | None = None) -> NDArray[np.float32]:
            kind, task = side_of_text(self.embedder.of(_kind(place)).config.prompts, category, name, place)
            if kind == "query" and titles is not None:  # a document of the queries' kind has no field for it
                texts, titles = [f"{title} {text}".strip() for title, text in zip(titles, texts, strict=True)], None
            vectors: NDArray[np.float32] = self.embedder.encode(
                texts, kind=kind, titles=titles, task=task, dim=self.dim, progress=progress
            )
            return vectors

        return encode

    def about(self) -> dict[str, Any]:
        """What MTEB's ``ModelMeta`` has to know, its loader aside."""
        config = self.embedder.config
        return {
            "name": self.name,
            "revision": self.revision,
            "release_date": None,
            "languages": None,
            "n_parameters": None,
            "memory_usage_mb": None,
            "max_tokens": config.max_tokens,
            "embed_dim": self.dim or self.embedder.width,
            "license": None,
            "open_weights": None,
            "public_training_code": None,
            "public_training_data": None,
            "framework": ["PyTorch"],
            "similarity_fn_name": "cosine",
            "use_instructions": bool(config.prompts.query or config.prompts.passage),
            "training_datasets": None,
            "experiment_kwargs": dict(self.settings) or None,
        }

    def folder(self, out: Path) -> Path:
        """Where MTEB keeps the results of this model with these settings."""
        place = out / RESULTS / self.name.replace("/", "__").replace(" ", "_") / self.revision
        if not self.settings:
            return place
        return place / "experiments" / "__".join(f"{name}_{value}" for name, value in sorted(self.settings.items()))


@dataclasses.dataclass(frozen=True)
class Result:
    """What a model scored on a set. ``main`` is the score that MTEB reports, between -1 and 1."""

    model: str
    task: str
    category: Category
    split: str
    metric: str
    main: float
    scores: Scores
    seconds: float
    size: str = ""
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)


def open_contestant(
    model: str, *, backend: Backend = "torch", dim: int | None = None, max_tokens: int = 0, device: str | None = None
) -> Contestant:
    """Load a model to be measured.

    Args:
        model: ``minilm``, a run, a model folder, or a name on the Hub.
        backend: as of ``Embedder.load``.
        dim: a Matryoshka width.
        max_tokens: cut of every text; 0: the model's own.
        device: of torch.

    Raises:
        TokayError: there is no such model, or it has no such width or cut.
    """
    embedder = Embedder.load(model, backend=backend, device=device)
    if dim is not None and not 1 <= dim <= embedder.width:
        raise TokayError(f"--dim is {dim}; {model} has vectors of {embedder.width} numbers, so 1 to {embedder.width}")
    own = embedder.config.max_tokens
    if max_tokens and own and max_tokens > own:
        raise TokayError(f"--max-tokens is {max_tokens}; {model} reads at most {own}")
    if max_tokens and max_tokens != own:
        for side in {id(e): e for e in (embedder, embedder.of("query"), embedder.of("passage"))}.values():
            side.config = dataclasses.replace(side.config, max_tokens=max_tokens)
    settings: dict[str, int | str] = {}
    if dim is not None and dim != embedder.width:
        settings["embed_dim"] = dim
    if max_tokens and max_tokens != own:
        settings["max_tokens"] = max_tokens
    if backend != "torch":
        settings["backend"] = backend
    path = Path(model).expanduser()
    folder = path if path.is_dir() and not is_run(path) else find_model(model)
    name = model if is_hub_name(model) else f"tokay/{re.sub(r'[^A-Za-z0-9._-]+', '-', path.resolve().name or 'model')}"
    return Contestant(name, model_digest(folder)[:12], embedder, dim, settings)


def run_task(model: Contestant, task: Task, *, progress: Progress | None = None) -> Result:
    """Measure a model on a task."""
    began = time.perf_counter()
    (progress or Silent()).start(f"{model.label}: {task.name}", None)
    scores = task.measure(model.encoder(task.category, task.name, progress))
    main = float(scores[task.main])
    if math.isnan(main):
        raise TokayError(
            f"{model.label} gives all texts of {task.name} one similarity, so there is nothing to correlate; see "
            "whether the model is whole"
        )
    return Result(
        model=model.label,
        task=task.name,
        category=task.category,
        split=task.split,
        metric=task.main,
        main=main,
        scores=scores,
        seconds=time.perf_counter() - began,
        size=task.size,
        left_out=task.left_out,
    )


def write_result(out: Path, model: Contestant, result: Result, *, dataset_revision: str) -> Path:
    """Write a result where MTEB looks for it, with the model's description beside it; returns the file.

    Args:
        out: a folder, which ``mteb.ResultCache`` reads.
        model: that was measured.
        result: of ``run_task``.
        dataset_revision: what tells this state of the data from others.
    """
    languages = ["eng-Latn"] if result.task in SETS[result.category] else []
    entry = {**result.scores, "main_score": result.main, "hf_subset": "default", "languages": languages}
    value = {
        "dataset_revision": dataset_revision,
        "task_name": result.task,
        "mteb_version": None,  # mteb's code did not measure it
        "scores": {result.split: [entry]},
        "evaluation_time": result.seconds,
        "kg_co2_emissions": None,
        "date": time.time(),
    }
    folder = model.folder(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "model_meta.json", {"loader": None, **model.about()})
        return _write(folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', result.task)}.json", _rounded(value))
    except OSError as error:
        raise TokayError(f"--out {out} cannot be written: {error.strerror}; name another folder") from error


def _write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _rounded(value: Any) -> Any:
    """Six digits, as mteb writes them."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return round(value, _FEW_DIGITS) if isinstance(value, float) else value


def _kind(place: Place) -> str:
    return "passage" if place == "document" else "query"
