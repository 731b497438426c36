"""A made task of each category, and folders of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tiny import WORDS
from tokay.evaluate.tasks import (
    Classification,
    Clustering,
    Pairs,
    Reranking,
    Retrieval,
    Similarity,
    Summarization,
    Task,
)
from tokay.models.embedder import Embedder


def texts(count: int, seed: int, *, topics: int = 0) -> tuple[str, ...]:
    """Random words; with ``topics``, text i has a word of topic i % topics."""
    rng = np.random.default_rng(seed)
    made = [" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(count)]
    return tuple(
        f"{WORDS[i % topics]} {WORDS[-1 - i % topics]} {text}" if topics else text for i, text in enumerate(made)
    )


def _labels(count: int, topics: int) -> tuple[int, ...]:
    return tuple(i % topics for i in range(count))


def _rows(texts: tuple[str, ...], size: int) -> tuple[tuple[str, ...], ...]:
    return tuple(texts[i : i + size] for i in range(0, len(texts), size))


_RNG = np.random.default_rng(0)
_TWO = texts(120, 1)
_TRAIN, _TEST = texts(70, 2, topics=3), texts(60, 3, topics=3)
_DOCUMENTS = {f"d{i}": (f"title {text.split()[0]}" if i % 2 else "", text) for i, text in enumerate(texts(130, 11))}

TASKS: dict[str, Task] = {
    "STS": Similarity(
        name="STSBenchmark",
        split="test",
        first=_TWO[:60],
        second=(*_TWO[61:], _TWO[0]),
        scores=tuple(_RNG.integers(0, 6, 60).astype(float).tolist()),
    ),
    "pairs": Pairs(
        name="MadePairs",
        split="test",
        first=_TWO[:60],
        second=_TWO[60:],
        labels=tuple(_RNG.integers(0, 2, 60).tolist()),
    ),
    "classification": Classification(
        name="MadeClassification",
        split="test",
        train=_TRAIN,
        train_labels=_labels(70, 3),
        test=_TEST,
        test_labels=_labels(60, 3),
    ),
    "two classes": Classification(
        name="MadeTwoClasses",
        split="test",
        train=_TRAIN,
        train_labels=tuple(i % 3 % 2 for i in range(70)),
        test=_TEST,
        test_labels=tuple(i % 3 % 2 for i in range(60)),
        samples_per_label=5,
    ),
    "cross-validation": Classification(
        name="MadeFolds", split="all", train=(), train_labels=(), test=_TRAIN, test_labels=_labels(70, 3)
    ),
    "clustering": Clustering(name="MadeClustering", split="test", sets=((_TEST, _labels(60, 3)),)),
    "sets of clusters": Clustering(
        name="MadeClusters",
        split="test",
        sets=((_TEST[:30], _labels(30, 3)), (_TRAIN[:40], _labels(40, 3)), (_TWO[:5], (1,) * 5)),
        drawn=False,
    ),
    "reranking": Reranking(
        name="MadeReranking",
        split="test",
        queries=texts(12, 5),
        positives=_rows(texts(24, 6), 2),
        negatives=_rows(texts(60, 7), 5),
    ),
    "retrieval": Retrieval(
        name="SciFact",
        split="test",
        queries={f"q{i}": text for i, text in enumerate(texts(20, 8))},
        passages=_DOCUMENTS,
        qrels={f"q{i}": {f"d{(7 * i + k) % 130}": k % 3 for k in range(6)} for i in range(20)},
    ),
    "summarization": Summarization(
        name="MadeSummaries",
        split="test",
        human=_rows(texts(24, 9), 3),
        machine=_rows(texts(48, 10), 6),
        relevance=tuple(tuple(_RNG.integers(0, 4, 6).astype(float).tolist()) for _ in range(8)),
    ),
}


def columns_of(task: Task, part: str = "") -> dict[str, Sequence[Any]]:
    """A task as the columns of its table."""
    match task:
        case Similarity():
            return {"sentence1": task.first, "sentence2": task.second, "score": task.scores}
        case Pairs():
            return {"sentence1": task.first, "sentence2": task.second, "label": task.labels}
        case Classification() if part == "train":
            return {"text": task.train, "label": task.train_labels}
        case Classification():
            return {"text": task.test, "label": task.test_labels}
        case Clustering() if task.drawn:
            return {"sentences": task.sets[0][0], "labels": task.sets[0][1]}
        case Clustering():
            return {"sentences": [s for s, _ in task.sets], "labels": [t for _, t in task.sets]}
        case Reranking():
            return {"query": task.queries, "positive": task.positives, "negative": task.negatives}
        case Summarization():
            lists = {"human_summaries": task.human, "machine_summaries": task.machine}
            return {**lists, "relevance": task.relevance}
    raise AssertionError(task)


def write(path: Path, columns: dict[str, Sequence[Any]]) -> None:
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = ["\t".join(columns), *("\t".join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n")


def folder_of(task: Task, folder: Path, suffix: str) -> Path:
    folder.mkdir(exist_ok=True)
    if isinstance(task, Retrieval):
        (folder / "qrels").mkdir()
        passages = [{"_id": i, "title": t, "text": x} for i, (t, x) in task.passages.items()]
        (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in passages))
        queries = [{"_id": i, "text": x} for i, x in task.queries.items()]
        (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
        rows = [f"{q}\t{d}\t{grade}\n" for q, grades in task.qrels.items() for d, grade in grades.items()]
        (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows))
        return folder
    write(folder / f"{task.split}{suffix}", columns_of(task))
    if isinstance(task, Classification) and task.train:
        write(folder / f"train{suffix}", columns_of(task, "train"))
    return folder


def own_pairs(embedder: Embedder, folder: Path) -> Path:
    """Similarity as this very model sees it: its own correlation is 1, and any other's is lower."""
    first, second = texts(80, 1), texts(80, 2)
    a, b = (np.asarray(embedder.encode(side, kind="query"), np.float64) for side in (first, second))
    cosine = np.vecdot(a, b)
    scores = 5 * (cosine - cosine.min()) / np.ptp(cosine)
    folder.mkdir(exist_ok=True)
    table = {"sentence1": first, "sentence2": second, "score": scores.tolist()}
    pq.write_table(pa.table({k: list(v) for k, v in table.items()}), folder / "test.parquet")
    return folder
