"""A model as an encoder of mteb 2, and mteb's own tasks on it.

    import mteb
    from tokay.evaluate.mteb import TokayEncoder, register

    mteb.evaluate(TokayEncoder("runs/docs"), mteb.get_tasks(["SciFact"]))
    register("runs/docs", name="acme/docs")         # then also mteb.get_model("acme/docs")

Texts are written as ``evaluate.sides`` says: with the tasks of Gecko's table 9 where the model's format is Gecko's,
by the model's own prompts otherwise. mteb's default instructions are not used: no model of Tokay's was trained on them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from tokay.corpus.rows import hub_stream
from tokay.errors import MissingExtra, TokayError, did_you_mean, first_line
from tokay.evaluate.benchmark import Contestant, Result, open_contestant
from tokay.evaluate.sets import EvaluationSet, hub_set
from tokay.evaluate.sides import CATEGORIES, Place
from tokay.models.embedder import Backend
from tokay.search.dense import unit

if TYPE_CHECKING:
    from mteb.models.model_meta import ModelMeta

Vectors = NDArray[np.float32]

TASKS: Final = "mteb:"
"""What stands before a task's or a benchmark's name: ``mteb:SciFact``, ``mteb:MTEB(eng, v2)``."""


class TokayEncoder:
    """``mteb.models.EncoderProtocol`` over an ``Embedder``.

    Attributes:
        model: the model, and the name and revision that mteb keeps its results under.
        mteb_model_meta: mteb's description of it.
    """

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        *,
        device: str | None = None,
        path: str = "",
        backend: Backend = "torch",
        embed_dim: int | None = None,
        max_tokens: int = 0,
    ) -> None:
        """Load a model.

        Args:
            model_name: a run, a model folder, ``minilm`` or a Hub name; with ``path``, only what mteb calls it.
            revision: what mteb calls this state of it; None: the beginning of a hash of its files.
            device: of torch.
            path: what to load.
            backend: as of ``Embedder.load``.
            embed_dim: a Matryoshka width.
            max_tokens: cut of every text; 0: the model's own.

        Raises:
            TokayError: there is no such model.
        """
        found = open_contestant(
            path or model_name, backend=backend, dim=embed_dim, max_tokens=max_tokens, device=device
        )
        name = model_name if path else found.name
        self.model = Contestant(name, revision or found.revision, found.embedder, found.dim, found.settings)
        self.mteb_model_meta = meta_of(self.model)

    @classmethod
    def of(cls, model: Contestant) -> TokayEncoder:
        """An encoder of a model that is loaded."""
        encoder = cls.__new__(cls)
        encoder.model, encoder.mteb_model_meta = model, meta_of(model)
        return encoder

    def encode(
        self,
        inputs: Iterable[dict[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> Vectors:
        """Vectors of a data loader's texts, (N, D); documents with their titles where the model's format has a place.

        Args:
            inputs: batches with ``text``; of documents perhaps ``title`` and ``body``, which ``text`` joins.
            task_metadata: mteb's, of which name and type are used.
            hf_split: not used.
            hf_subset: not used.
            prompt_type: mteb's ``query`` or ``document``; None: the task is symmetric.
            kwargs: mteb's ``batch_size`` and the like, which Tokay decides for itself.
        """
        del hf_split, hf_subset, kwargs
        place: Place = None if prompt_type is None else ("document" if prompt_type.value == "document" else "query")
        texts: list[str] = []
        titles: list[str] = []
        apart = self.model.embedder.of("passage").config.prompts.is_gecko and place == "document"
        for batch in inputs:
            whole = list(batch["text"])
            if apart and "title" in batch:
                texts += list(batch["body"])
                titles += list(batch["title"])
            else:
                texts += whole
                titles += [""] * len(whole)
        encode = self.model.encoder(task_metadata.type, task_metadata.name)
        return encode(texts, place, titles if apart else None)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines of all pairs as a torch tensor, (N, D) and (M, D) -> (N, M); a single vector is a row."""
        import torch

        a, b = _rows(embeddings1), _rows(embeddings2)
        return torch.from_numpy(a @ b.T)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosine of each row with the other side's as a torch tensor, (N, D) and (N, D) -> (N,)."""
        import torch

        return torch.from_numpy(np.vecdot(_rows(embeddings1), _rows(embeddings2)))


def _rows(vectors: Any) -> Vectors:
    """Rows of length 1."""
    return unit(np.atleast_2d(np.asarray(vectors, np.float32)))


def meta_of(model: Contestant) -> ModelMeta:
    """A description of a model for mteb, which loads it again by ``TokayEncoder``."""
    _mteb()
    from mteb.models.model_meta import ModelMeta

    return ModelMeta(loader=TokayEncoder, **model.about())


def register(path: str, *, name: str) -> ModelMeta:
    """Make ``mteb.get_model(name)`` load a model of Tokay's, for this process.

    Args:
        path: a run, a model folder, ``minilm`` or a Hub name.
        name: ``organisation/model``.

    Raises:
        TokayError: there is no such model, or the name is not of that form, or mteb has it already.
    """
    _mteb()
    from mteb.models.model_implementations import MODEL_REGISTRY

    if name.count("/") != 1 or not all(name.split("/")):
        raise TokayError(f"name is {name!r}; mteb wants organisation/model, such as acme/docs")
    known = MODEL_REGISTRY.get(name)
    if known is not None and known.loader is not TokayEncoder:
        raise TokayError(f"mteb has a model {name!r} of its own; choose another name")
    found = open_contestant(path)
    kept = Contestant(name, found.revision, found.embedder)
    widths = [*dict.fromkeys([found.embedder.width, *found.embedder.config.dims])]
    meta = meta_of(kept).model_copy(update={"loader_kwargs": {"path": path}, "embed_dim": widths})
    MODEL_REGISTRY[name] = meta
    return meta


def find_tasks(name: str) -> Sequence[Any]:
    """The tasks that mteb has by a name: one, or all of a benchmark such as ``MTEB(eng, v2)``.

    Raises:
        TokayError: mteb has neither.
    """
    mteb = _mteb()
    with contextlib.suppress(KeyError, ValueError):
        return [mteb.get_task(name)]
    with contextlib.suppress(KeyError, ValueError):
        return list(mteb.get_benchmark(name).tasks)
    names = [task.metadata.name for task in mteb.get_tasks(exclude_superseded=False)]
    raise TokayError(f"mteb has no task or benchmark {name!r}{did_you_mean(name, names)}")


def retrieval_set(name: str, *, split: str = "test", stream: Callable[..., Any] = hub_stream) -> EvaluationSet:
    """A retrieval task's passages, queries and labels, for any systems to be held against each other.

    Args:
        name: of a task, such as ``SciFact``.
        split: of its labels.
        stream: (name, split, configuration) -> rows.

    Raises:
        TokayError: there is no such task, it is of another kind, or its data cannot be fetched.
    """
    tasks = find_tasks(name)
    kind = tasks[0].metadata.type if len(tasks) == 1 else f"a benchmark of {len(tasks)} tasks"
    if kind != "Retrieval":
        raise TokayError(
            f"mteb:{name} is {kind}, and systems are held against each other on retrieval; run "
            f"'tokay benchmark MODEL --tasks mteb:{name}'"
        )
    found = hub_set(tasks[0].metadata.dataset["path"], split=split, stream=stream)
    return dataclasses.replace(found, name=f"{TASKS}{name}")


def run_mteb(model: Contestant, name: str, *, out: Path | None = None) -> list[Result]:
    """Run mteb's own code on a task, or on all of a benchmark, with data of the Hub.

    Args:
        model: to be measured.
        name: of the task or benchmark.
        out: where mteb keeps results; what is there already is not measured again.

    Raises:
        TokayError: there is no such task, or its data cannot be fetched.
    """
    mteb = _mteb()
    tasks = find_tasks(name)
    others = [t.metadata.name for t in tasks if t.metadata.type not in CATEGORIES]
    if others:
        raise TokayError(
            f"mteb:{name} has tasks of other kinds ({', '.join(others[:3])}); known: {', '.join(CATEGORIES)}"
        )
    logging.getLogger("mteb").setLevel(logging.ERROR)
    cache = mteb.ResultCache(out) if out else None
    results = []
    for task in tasks:
        try:
            found = mteb.evaluate(
                TokayEncoder.of(model), task, cache=cache, co2_tracker=False, show_progress_bar=False
            ).task_results
        except (OSError, ConnectionError, ValueError, RuntimeError) as error:
            raise TokayError(
                f"mteb:{task.metadata.name} could not be run ({first_line(error)[:200]}); its data comes from the Hub: "
                "check the network, or name a local folder"
            ) from error
        results += [_result(model, task, one) for one in found]
    return results


def _result(model: Contestant, task: Any, found: Any) -> Result:
    meta = task.metadata
    splits = list(found.scores)
    return Result(
        model=model.label,
        task=meta.name,
        category=meta.type,
        split=", ".join(splits),
        metric=meta.main_score,
        main=float(found.get_score()),
        scores={split: found.scores[split] for split in splits},
        seconds=float(found.evaluation_time or 0),
    )


def _mteb() -> Any:
    try:
        import mteb
    except ImportError as error:
        raise MissingExtra("mteb:TASK", "mteb", "mteb") from error
    return mteb
