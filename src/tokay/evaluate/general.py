"""General ability: what the base knew of other texts, and whether the models trained on it still do.

A fixed, fast sample of general sets, base against tuned (and refitted), after every training. NanoBEIR comes from the
Hub; a user's own sets are folders of ``evaluate.taskfolders``: semantic similarity, or a search.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import threading
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from tokay.errors import TokayError, first_line
from tokay.evaluate.benchmark import Contestant
from tokay.evaluate.categories import cosines, spearman
from tokay.evaluate.metrics import evaluate_run
from tokay.evaluate.significance import compare
from tokay.evaluate.taskfolders import read_task, task_path
from tokay.evaluate.tasks import Retrieval, Similarity, Task, both_sides
from tokay.models.embedder import Embedder
from tokay.settings import GuardSettings

NANOBEIR: Final = "nanobeir"
DATASET: Final = "sentence-transformers/NanoBEIR-en"
PARTS: Final = ("NanoMSMARCO", "NanoNQ", "NanoHotpotQA", "NanoFiQA2018", "NanoQuoraRetrieval")
"""Of its thirteen sets those with short passages and few right ones each: fifty queries apiece."""

TIMEOUT: Final = 3.0
"""Seconds after which the Hub counts as out of reach."""
RESAMPLES: Final = 2000
_CHARS_PER_TOKEN: Final = 5

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class General:
    """A set of general texts: one task, or the parts of NanoBEIR, whose queries count alike."""

    name: str
    tasks: tuple[Retrieval | Similarity, ...]


def is_local(spec: str) -> bool:
    """Whether a set of ``guard.sets`` is on this machine."""
    return not (spec == NANOBEIR or (spec.startswith(f"{NANOBEIR}:") and not Path(_dataset_of(spec)).is_dir()))


def plan_of(settings: GuardSettings) -> str:
    """What will be checked, in words; empty: nothing."""
    if not settings.sets:
        return ""
    names = ["NanoBEIR, if the Hub answers" if not is_local(spec) else spec for spec in settings.sets]
    return (
        f"after training, base and tuned model are compared on general texts ({', '.join(names)}): "
        f"{settings.characters:,} characters each, and a warning where more than {settings.margin:g} is lost"
    )


def local_path(spec: str) -> Path:
    """Where a local set is."""
    nano = spec.startswith(f"{NANOBEIR}:")
    return task_path(_dataset_of(spec) if nano else spec)


def unreachable() -> str:
    """Why the Hub cannot be asked now; empty: it answers. Takes ``TIMEOUT`` seconds at most."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return "HF_HUB_OFFLINE is set"
    import importlib.util

    if importlib.util.find_spec("datasets") is None:
        return "the package 'datasets' is not installed: pip install 'tokay[hub]'"
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    failed = [f"{address} does not answer"]

    def ask() -> None:
        with contextlib.suppress(OSError, ValueError):
            request = urllib.request.Request(address, method="HEAD")
            with urllib.request.urlopen(request, timeout=TIMEOUT):
                failed.clear()

    asking = threading.Thread(target=ask, daemon=True)  # a name server may take longer than any timeout
    asking.start()
    asking.join(TIMEOUT)
    return failed[0] if failed else ""


def read_general(spec: str) -> General:
    """A set of ``guard.sets``.

    Args:
        spec: ``nanobeir``; ``nanobeir:DATASET``, a dataset or folder of its shape, such as a translation; or a folder
            or file of semantic similarity or of a search.

    Raises:
        TokayError: there is none, or it is of another category, or the Hub does not give it.
    """
    if spec == NANOBEIR or spec.startswith(f"{NANOBEIR}:"):
        return General("NanoBEIR", tuple(_nano(_dataset_of(spec), part) for part in PARTS))
    task = read_task(spec)
    if not isinstance(task, Retrieval | Similarity):
        raise TokayError(
            f"guard.sets names {spec}, a task of {task.category}; expected one of STS (sentence1, sentence2, score) or "
            "Retrieval (a BEIR folder)"
        )
    return General(task.name, (task,))


def _dataset_of(spec: str) -> str:
    return spec.partition(":")[2] or DATASET


def _nano(dataset: str, part: str) -> Retrieval:
    from datasets import load_dataset

    def rows(config: str, *columns: str) -> list[dict[str, Any]]:
        try:
            table = load_dataset(dataset, config, split=part)
        except Exception as error:  # of the Hub, of the network, or of a folder
            raise TokayError(f"{dataset} has no {config} of {part} ({first_line(error)[:200]})") from error
        if missing := [name for name in columns if name not in table.column_names]:
            raise TokayError(f"{dataset}: {config} of {part} has no column {', '.join(missing)}; expected NanoBEIR's")
        return list(table)

    passages = {str(r["_id"]): (str(r.get("title") or ""), r["text"]) for r in rows("corpus", "_id", "text")}
    queries = {str(r["_id"]): r["text"] for r in rows("queries", "_id", "text")}
    qrels: dict[str, dict[str, int]] = {}
    for row in rows("qrels", "query-id", "corpus-id"):
        found = row["corpus-id"] if isinstance(row["corpus-id"], list) else [row["corpus-id"]]
        qrels.setdefault(str(row["query-id"]), {}).update({str(i): 1 for i in found if str(i) in passages})
    qrels = {q: grades for q, grades in qrels.items() if grades and q in queries}
    return Retrieval(name=part, split=part, queries={q: queries[q] for q in qrels}, passages=passages, qrels=qrels)


# -- a sample that takes a known time -------------------------------------------------------------------------------


def sampled(task: Retrieval | Similarity, *, characters: int, longest: int) -> Retrieval | Similarity:
    """The same part of a task every time, of so many characters as a model would read of it.

    Of a search: queries with all that answers them up to half of the characters, then other passages.

    Args:
        task: all of it.
        characters: of all texts together.
        longest: characters of one text that are read.
    """
    if isinstance(task, Similarity):
        rows = [*zip(task.first, task.second, task.scores, strict=True)]
        order = _shuffled(range(len(rows)), key=lambda i: f"{rows[i][0]}\0{rows[i][1]}")
        kept = _within(order, characters, lambda i: min(len(rows[i][0]), longest) + min(len(rows[i][1]), longest))
        first, second, scores = zip(*(rows[i] for i in sorted(kept)), strict=True)
        return dataclasses.replace(task, first=first, second=second, scores=scores)

    def cost(passage_id: str) -> int:
        return min(sum(map(len, task.passages[passage_id])), longest)

    needed: dict[str, None] = {}
    asked: list[str] = []
    spent = 0
    for query_id in _shuffled(task.qrels, key=str):
        right = [i for i, grade in task.qrels[query_id].items() if grade > 0 and i not in needed]
        price = min(len(task.queries[query_id]), longest) + sum(map(cost, right))
        if len(asked) >= 2 and spent + price > characters / 2:
            continue
        asked.append(query_id)
        needed |= dict.fromkeys(right)
        spent += price
    others = _shuffled((i for i in task.passages if i not in needed), key=str)
    chosen = {*needed, *_within(others, characters - spent, cost)}
    return dataclasses.replace(
        task,
        queries={q: task.queries[q] for q in asked},
        passages={i: passage for i, passage in task.passages.items() if i in chosen},
        qrels={q: {i: g for i, g in task.qrels[q].items() if i in chosen} for q in asked},
    )


def _shuffled(items: Iterable[T], *, key: Any) -> list[T]:
    """In an order that depends on nothing but the keys."""
    return sorted(items, key=lambda item: hashlib.sha256(key(item).encode("utf-8", "surrogatepass")).digest())


def _within(items: Sequence[T], budget: int, cost: Any) -> list[T]:
    """The first ones whose costs fit, at least two."""
    kept: list[T] = []
    for item in items:
        budget -= cost(item)
        if budget < 0 and len(kept) >= 2:
            break
        kept.append(item)
    return kept


# -- base against trained ---------------------------------------------------------------------------------------------


def check_general(
    base: Embedder, trained: Mapping[str, Embedder], settings: GuardSettings, *, missing: str = ""
) -> dict[str, Any]:
    """Base against each model on each set: what changed, with its 95 % interval, and whether too much was lost.

    Args:
        base: with the cut that all have.
        trained: name -> a model; where there are several, what is said begins with the name.
        settings: which sets, how much of them, and the margin.
        missing: why the Hub cannot be asked (``unreachable``); empty: it can.

    Returns:
        JSON values: ``checked``, ``fell``, ``margin``, ``missing`` (reasons) and ``sets``, for each set and model one
        with ``name``, ``model``, ``metric``, ``base``, ``tuned`` (what the model has), ``difference``, ``low``,
        ``high``, ``size``, ``state`` and ``sentence``. ``state`` is ``fell`` where the loss is above the margin and its
        interval below zero, ``held`` where all of the interval is within the margin, else ``unclear``.
    """
    sets: list[General] = []
    reasons = [] if settings.sets else ["guard.sets names no set"]
    for spec in settings.sets:
        if missing and not is_local(spec):
            reasons.append(f"NanoBEIR is on the Hub, and {missing}; guard.sets can name local sets")
            continue
        try:
            sets.append(read_general(spec))
        except TokayError as error:
            reasons.append(str(error))
    longest = _CHARS_PER_TOKEN * (base.config.max_tokens or 512)
    found = []
    for one in sets:
        share = settings.characters // (len(sets) * len(one.tasks))
        tasks = [sampled(task, characters=share, longest=longest) for task in one.tasks]
        before = _values(tasks, Contestant("base", "", base))
        for model, embedder in trained.items():
            named = f"{model} model: " if len(trained) > 1 else ""
            after = _values(tasks, Contestant(model, "", embedder))
            found.append({"model": model, **_compared(one.name, named, tasks, before, after, settings)})
    return {
        "checked": bool(found),
        "fell": any(one["state"] == "fell" for one in found),
        "margin": settings.margin,
        "missing": reasons,
        "sets": found,
    }


def said_of(general: dict[str, Any]) -> list[str]:
    """What is to be said of it, one line a set, warnings first."""
    said = sorted(general["sets"], key=lambda one: one["state"] != "fell")
    not_checked = "general ability was not checked" + (" on all sets" if said else "")
    return [*(one["sentence"] for one in said), *(f"{not_checked}: {reason}" for reason in general["missing"])]


def _values(tasks: Sequence[Task], model: Contestant) -> NDArray[np.float64]:
    """nDCG@10 of every query, or the cosine of every pair."""
    one = tasks[0]
    if isinstance(one, Similarity):
        return cosines(*both_sides(model.encoder(one.category, one.name), one.first, one.second))
    return np.array([v for task in tasks if isinstance(task, Retrieval) for v in _ndcg(task, model)], np.float64)


def _compared(
    name: str,
    named: str,
    tasks: Sequence[Task],
    base: NDArray[np.float64],
    tuned: NDArray[np.float64],
    settings: GuardSettings,
) -> dict[str, Any]:
    if isinstance(tasks[0], Similarity):
        metric, size = "Spearman's correlation", tasks[0].size
        before, after, difference, low, high = _similarities(tasks[0], base, tuned)
    else:
        c = compare(tuned.tolist(), base.tolist(), resamples=RESAMPLES)
        metric, size = "nDCG@10", f"{c.queries:,} queries"
        before, after, difference, low, high = c.mean_b, c.mean_a, c.difference, c.low, c.high
    state = "unclear"
    if difference < -settings.margin and high < 0:
        state = "fell"
    elif low >= -settings.margin:
        state = "held"
    return {
        "name": name,
        "metric": metric,
        "base": before,
        "tuned": after,
        "difference": difference,
        "low": low,
        "high": high,
        "size": size,
        "state": state,
        "sentence": named
        + _sentence(
            state,
            f"{name}, {metric} {before:.3f} to {after:.3f} ({difference:+.3f}, 95 % interval {low:+.3f} to "
            f"{high:+.3f}, {size})",
            settings.margin,
        ),
    }


def _sentence(state: str, figures: str, margin: float) -> str:
    if state == "fell":
        return (
            f"general ability fell by more than {margin:g}: {figures}; a lower rate, fewer epochs or "
            "--set train.soup=auto keep more of the base"
        )
    if state == "held":
        return f"general ability held: {figures}"
    return f"general ability: {figures}; too few to tell whether more than {margin:g} was lost"


def _ndcg(task: Retrieval, model: Contestant) -> list[float]:
    run = task.rank(model.encoder(task.category, task.name))
    values = evaluate_run(task.qrels, run)["ndcg@10"]
    return [values[query_id] for query_id in task.qrels]


def _similarities(
    task: Similarity, base: NDArray[np.float64], tuned: NDArray[np.float64]
) -> tuple[float, float, float, float, float]:
    """Spearman's correlation of base and tuned, their difference, and its percentile bootstrap interval over pairs."""
    wanted = np.asarray(task.scores, np.float64)
    before, after = spearman(wanted, base), spearman(wanted, tuned)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES):
        rows = rng.integers(0, len(wanted), len(wanted))
        drawn.append(spearman(wanted[rows], tuned[rows]) - spearman(wanted[rows], base[rows]))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return before, after, after - before, float(low), float(high)
