"""Benchmark tasks out of local files: which category a folder is of, and its rows, checked.

What is looked for is in ``FORMS``. Tables are .parquet, .jsonl, .csv or .tsv, one file a split; columns that hold
lists need .parquet or .jsonl.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tokay.errors import TokayError, did_you_mean
from tokay.evaluate.categories import FOLDS
from tokay.evaluate.published import mteb_name
from tokay.evaluate.sides import CATEGORIES, Category
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
from tokay.tables import SUFFIXES, Faults, Table, label_of, open_table, text_of

SPLITS: Final = ("test", "dev", "validation", "val", "all")
"""The first of these that is there is measured."""

TRAIN: Final = "train"
MAX_SCORE: Final = 5.0
"""MTEB's scale of similarity, and of summaries, is 0 to 5."""

FORMS: Final[Mapping[Category, tuple[tuple[str, ...], ...]]] = {
    "Reranking": (("query", "positive", "negative"),),
    "Summarization": (("human_summaries", "machine_summaries", "relevance"),),
    "STS": (("sentence1", "sentence2", "score"),),
    "PairClassification": (("sentence1", "sentence2", "label"), ("sentence1", "sentence2", "labels")),
    "Clustering": (("sentences", "labels"), ("text", "label")),
    "Classification": (("text", "label"),),
}
"""Columns by category; the first that fits is taken, text and label for a classification."""

_SAME = ("entailment", "duplicate", "paraphrase", "equivalent", "similar", "same")
"""Names of the class of pairs that belong together, where ``label_text`` names the classes."""

Cells = list[tuple[Any, ...]]


def read_task(spec: str, *, split: str = "", samples_per_label: int = 0) -> Task:
    """A task out of a folder or a file.

    Args:
        spec: a path, or ``CATEGORY:PATH`` to say what it is measured as, such as ``clustering:banking77``.
        split: which one; empty: the first of ``SPLITS`` that is there.
        samples_per_label: few-shot texts of each class; 0: as MTEB has it.

    Raises:
        TokayError: it fits no category, or its rows are not what the category needs.
    """
    category, path = _category_of(spec)[0], task_path(spec)
    name = mteb_name(path.name if path.is_dir() else path.stem)
    has_corpus = path.is_dir() and any((path / f"corpus{end}").is_file() for end in (".jsonl", ".parquet"))
    if category == "Retrieval" or (category is None and has_corpus):
        return _retrieval(path, name, split or "test")
    split, table = _table(path, split)
    category = category or _fitting(path, table)
    columns = next((c for c in FORMS[category] if set(c) <= set(table.columns)), None)
    if columns is None:
        wanted = " or ".join(", ".join(c) for c in FORMS[category])
        raise TokayError(f"{path}: {table.name} has the columns {_some(table.columns)}; {category} needs {wanted}")
    if category == "Classification":
        return _classification(path, table, name, split, samples_per_label)
    readers: dict[Category, Callable[[Table, Sequence[str], str, str], Task]] = {
        "STS": _similarity,
        "PairClassification": _pairs,
        "Clustering": _clustering,
        "Reranking": _reranking,
        "Summarization": _summarization,
    }
    return readers[category](table, columns, name, split)


def task_path(spec: str) -> Path:
    """The path in what names a local task.

    Raises:
        TokayError: it names no category, or nothing that is there.
    """
    path = _category_of(spec)[1]
    if not path.exists():
        raise TokayError(f"there is no folder or file {path}; expected one with a task, or mteb:TASK")
    return path


def _category_of(spec: str) -> tuple[Category | None, Path]:
    before, colon, after = spec.partition(":")
    if not colon or Path(spec).expanduser().exists():
        return None, Path(spec).expanduser()
    known = {category.casefold(): category for category in CATEGORIES}
    if before.casefold() not in known:
        raise TokayError(
            f"{spec}: {before!r} is no category; expected one of {', '.join(CATEGORIES)}, mteb:TASK, or a path"
            f"{did_you_mean(before, CATEGORIES)}"
        )
    return known[before.casefold()], Path(after).expanduser()


def _table(path: Path, split: str) -> tuple[str, Table]:
    if path.is_file():
        return split or path.stem, open_table(str(path))
    wanted = (split,) if split else SPLITS
    there = [s for s in wanted if any((path / f"{s}{suffix}").is_file() for suffix in SUFFIXES)]
    if not there:
        files = sorted(file.name for file in path.iterdir() if file.is_file())
        raise TokayError(
            f"{path} is no task: it has {_some(files)}; expected corpus, queries and qrels (BEIR), or a table "
            f"{', '.join(wanted[:-1]) + ' or ' if len(wanted) > 1 else ''}{wanted[-1]} (.parquet, .jsonl, .csv, .tsv)"
        )
    return there[0], open_table(str(path), split=there[0])


def _fitting(path: Path, table: Table) -> Category:
    """The category whose columns are there; a table of texts and labels is a classification."""
    for category in (*(c for c in FORMS if c != "Clustering"), "Clustering"):
        if any(set(columns) <= set(table.columns) for columns in FORMS[category]):  # type: ignore[index]
            return category  # type: ignore[return-value]
    forms = "; ".join(f"{category}: {', '.join(columns[0])}" for category, columns in FORMS.items())
    raise TokayError(
        f"{path} fits no category: {table.name} has the columns {_some(table.columns)}; expected those of one "
        f"({forms}), or a BEIR folder"
    )


# -- one reader a category ------------------------------------------------------------------------------------------


def _retrieval(path: Path, name: str, split: str) -> Task:
    from tokay.corpus.chunk import whole
    from tokay.corpus.source import open_corpus
    from tokay.evaluate.qrels import Words, read_labels

    source = open_corpus(str(path))
    if source.kind != "beir":
        raise TokayError(f"{path} has no corpus.jsonl or corpus.parquet; expected a BEIR folder for Retrieval")
    skipped = Counter[str]()
    documents = [whole(d) for d in source.documents(lambda s: skipped.update(["passages that cannot be read"]))]
    passages = {p.passage_id: (p.title, p.text) for p in documents}
    labels = read_labels(
        str(path), str(path), known_ids=set(passages), split=split, words=Words("--tasks", "--tasks", "--split")
    )
    left_out = {reason: n for reason, n in {**skipped, **labels.dropped}.items() if n}
    return Retrieval(
        name=name, split=split, left_out=left_out, queries=labels.queries, passages=passages, qrels=labels.qrels
    )


def _similarity(table: Table, columns: Sequence[str], name: str, split: str) -> Task:
    def score(cell: Any) -> tuple[Any, str]:
        return _score(cell)

    (first, second, scores), _ = _columns(table, columns, (text_of, text_of, score))
    if len(set(scores)) < 2:
        raise TokayError(f"{table.name} has {len(scores)} pairs, all of one score; expected at least two scores")
    return Similarity(name=name, split=split, first=first, second=second, scores=scores)


def _pairs(table: Table, columns: Sequence[str], name: str, split: str) -> Task:
    named = "label_text" in table.columns
    wanted = (*columns, "label_text") if named else columns
    (first, second, labels, *texts), _ = _columns(table, wanted, (text_of, text_of, _binary, _anything)[: len(wanted)])
    if texts:  # a set may count its classes the other way round
        same = {label for label, text in zip(labels, texts[0], strict=True) if str(text).casefold() in _SAME}
        labels = tuple(1 - label for label in labels) if same == {0} else labels
    if len(set(labels)) < 2:
        raise TokayError(f"{table.name} has {len(labels)} pairs, all of label {labels[0]}; expected labels 0 and 1")
    return Pairs(name=name, split=split, first=first, second=second, labels=labels)


def _classification(path: Path, table: Table, name: str, split: str, samples_per_label: int) -> Task:
    from tokay.evaluate.published import SAMPLES

    (test, test_labels), left = _labelled(table)
    train, train_labels = (), ()
    if split not in (TRAIN, "all") and path.is_dir() and any((path / f"{TRAIN}{s}").is_file() for s in SUFFIXES):
        (train, train_labels), more = _labelled(open_table(str(path), split=TRAIN))
        left += more
        if len(set(train_labels)) < 2:
            raise TokayError(f"{path}: all {len(train)} training texts have one label; expected at least two classes")
    elif len(test) < 2 * FOLDS:
        raise TokayError(
            f"{path} has {len(test)} texts and no file train to learn the classes from; expected at least {2 * FOLDS}, "
            f"which are cross-validated"
        )
    if len(set(test_labels)) < 2:
        raise TokayError(f"{table.name}: all {len(test)} texts have one label; expected at least two classes")
    return Classification(
        name=name,
        split=split,
        left_out={"texts without a single label": left} if left else {},
        train=train,
        train_labels=train_labels,
        test=test,
        test_labels=test_labels,
        samples_per_label=samples_per_label or SAMPLES.get(name, Classification.samples_per_label),
    )


def _clustering(table: Table, columns: Sequence[str], name: str, split: str) -> Task:
    rows = [cells for _, cells in table.read(columns)]
    if rows and all(isinstance(cell, list) for cells in rows for cell in cells):  # one set a row
        for number, (texts, labels) in enumerate(rows, 1):
            if len(texts) != len(labels) or not texts or not all(isinstance(text, str) for text in texts):
                raise TokayError(
                    f"{table.name} {table.unit} {number}: {len(texts)} texts and {len(labels)} labels; expected one "
                    "a text"
                )
        sets = tuple((tuple(texts), tuple(map(str, labels))) for texts, labels in rows)
        if all(len(set(labels)) < 2 for _, labels in sets):
            raise TokayError(f"{table.name}: every set has texts of one class; expected at least two classes")
        return Clustering(name=name, split=split, sets=sets, drawn=False)
    (texts, labels), left = _labelled(table, columns)
    if len(set(labels)) < 2:
        raise TokayError(f"{table.name}: all {len(texts)} texts have one label; expected at least two classes")
    left_out = {"texts without a single label": left} if left else {}
    return Clustering(name=name, split=split, left_out=left_out, sets=((texts, labels),))


def _reranking(table: Table, columns: Sequence[str], name: str, split: str) -> Task:
    (queries, positives, negatives), _ = _columns(table, columns, (text_of, _texts, _texts))
    kept = [row for row in zip(queries, positives, negatives, strict=True) if row[1] and row[2]]
    if not kept:
        raise TokayError(f"{table.name}: none of {len(queries)} queries has both positive and negative candidates")
    left = len(queries) - len(kept)
    left_out = {"queries without a positive or a negative candidate": left} if left else {}
    queries, positives, negatives = zip(*kept, strict=True)
    return Reranking(
        name=name, split=split, left_out=left_out, queries=queries, positives=positives, negatives=negatives
    )


def _summarization(table: Table, columns: Sequence[str], name: str, split: str) -> Task:
    (human, machine, relevance), _ = _columns(table, columns, (_some_texts, _some_texts, _scores))
    for number, (texts, scores) in enumerate(zip(machine, relevance, strict=True), 1):
        if len(texts) != len(scores):
            raise TokayError(
                f"{table.name} {table.unit} {number}: {len(texts)} machine_summaries and {len(scores)} scores of "
                "relevance; expected one each"
            )
    if all(len(set(scores)) < 2 for scores in relevance):
        raise TokayError(f"{table.name}: the summaries of every text have one score; expected scores that differ")
    return Summarization(name=name, split=split, human=human, machine=machine, relevance=relevance)


# -- cells ----------------------------------------------------------------------------------------------------------


def _columns(
    table: Table, columns: Sequence[str], readers: Sequence[Callable[[Any], tuple[Any, str]]]
) -> tuple[list[Any], int]:
    """Each column as a tuple, and the number of rows; all faults of all rows make one error."""
    faults = Faults(table)
    rows: Cells = []
    for number, cells in table.read(columns):
        found = [read(cell) for read, cell in zip(readers, cells, strict=True)]
        for column, (_, reason) in zip(columns, found, strict=True):
            if reason:
                faults.add(number, f"{column} {reason}")
        rows.append(tuple(value for value, _ in found))
    faults.check()
    if len(rows) < 2:
        raise TokayError(f"{table.name} has {len(rows)} rows; expected at least two")
    return [tuple(column) for column in zip(*rows, strict=True)], len(rows)


def _labelled(table: Table, columns: Sequence[str] = FORMS["Classification"][0]) -> tuple[tuple[Any, Any], int]:
    """Texts and labels, without the texts of label -1, which have none or several; and how many these are."""
    (texts, labels), _ = _columns(table, columns, (text_of, _label))
    kept = [(text, label) for text, label in zip(texts, labels, strict=True) if label not in (-1, "-1")]
    if not kept:
        raise TokayError(f"{table.name}: none of {len(texts)} texts has a label")
    return tuple(zip(*kept, strict=True)), len(texts) - len(kept)  # type: ignore[return-value]


def _label(cell: Any) -> tuple[Any, str]:
    return (int(cell), "") if isinstance(cell, bool | int) else label_of(cell)


def _binary(cell: Any) -> tuple[int, str]:
    text, reason = label_of(cell)
    return (int(text), "") if text in ("0", "1") else (0, reason or f"is {text[:40]!r}, not 0 or 1")


def _anything(cell: Any) -> tuple[Any, str]:
    return cell, ""


def _score(cell: Any) -> tuple[float, str]:
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return 0.0, f"is {str(cell)[:40]!r}, no number"
    if not (math.isfinite(value) and 0 <= value <= MAX_SCORE):
        return 0.0, f"is {value:g}, out of MTEB's range of 0 to {MAX_SCORE:g}: scale it"
    return value, ""


def _scores(cell: Any) -> tuple[tuple[float, ...], str]:
    if not isinstance(cell, list) or not cell:
        return (), "is no list of numbers"
    found = [_score(value) for value in cell]
    return tuple(value for value, _ in found), next((f"holds one that {reason}" for _, reason in found if reason), "")


def _texts(cell: Any) -> tuple[tuple[str, ...], str]:
    if not isinstance(cell, list) or not all(isinstance(text, str) for text in cell):
        return (), "is no list of texts"
    return tuple(cell), ""


def _some_texts(cell: Any) -> tuple[tuple[str, ...], str]:
    texts, reason = _texts(cell)
    return texts, reason or ("" if texts else "is an empty list")


def _some(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "nothing"
