"""One reader for each kind of training data: files in, rows over texts with ids out.

=================  ==============================================================================================
kind               what becomes a row
=================  ==============================================================================================
run                a training row of a finished run, as it stands
pairs              a query with its positive; negatives where the table has some
nli                a premise with a hypothesis that it entails, against one that it contradicts (Gecko 3.3)
classification     a text with another of its class, against one of another class (Gecko 3.3)
retrieval          a query with a passage that is labelled relevant, against one that is labelled grade 0
texts              a text alone, whose vector shall stay where the base has it
=================  ==============================================================================================
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tokay import open_run
from tokay.corpus import open_corpus, whole
from tokay.errors import TokayError
from tokay.evaluate.qrels import Words, read_labels
from tokay.models.format import SEARCH
from tokay.records import Example, Passage, Skipped
from tokay.tables import POSITIVE, QUERY, Faults, Role, Table, find_columns, label_of, open_table, text_of

Kind = Literal["run", "pairs", "nli", "classification", "retrieval", "texts"]

TASKS: Mapping[Kind, str] = {
    "run": "",
    "pairs": SEARCH,
    "nli": "semantic similarity",
    "classification": "classification",
    "retrieval": SEARCH,
    "texts": "semantic similarity",
}
"""Gecko's words (table 9). Its retrieval sets have ``question answering``, ``search result`` or ``fact checking``; ours
is the one that a saved model names by default. A run's rows bring their own."""

SYMMETRIC: frozenset[Kind] = frozenset({"nli", "classification"})
"""The kinds whose two sides are alike, unless the mixture says otherwise."""

COMMON = frozenset({"name", "kind", "path", "task", "symmetric", "weight", "share", "limit"})
KEYS: Mapping[Kind, frozenset[str]] = {
    "run": COMMON,
    "pairs": COMMON | {"columns", "split", "negatives"},
    "nli": COMMON | {"columns", "split", "negatives"},
    "classification": COMMON | {"columns", "split", "negatives", "false_negatives"},
    "retrieval": COMMON | {"split", "negatives", "queries", "qrels"},
    "texts": COMMON | {"columns", "split"},
}
"""What a source of each kind may say."""


class Entry(BaseModel):
    """One ``[[source]]`` of a mixture."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    kind: Kind
    path: Annotated[str, Field(min_length=1)]
    task: str | None = None
    symmetric: bool | None = None
    weight: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | None = None
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    columns: Mapping[str, str] = Field(default_factory=dict)
    false_negatives: Literal["mask", "ids", "both"] = "mask"
    negatives: Annotated[int, Field(ge=0, le=100)] | None = None
    split: str = ""
    queries: str = ""
    qrels: str = ""

    def written_task(self) -> str:
        """What the query side says before a query; empty: what each row brings."""
        return TASKS[self.kind] if self.task is None else self.task

    def is_symmetric(self) -> bool:
        """Whether both sides are written as queries."""
        return self.kind in SYMMETRIC if self.symmetric is None else self.symmetric


@dataclasses.dataclass(frozen=True)
class Rows:
    """What a reader makes of its files; the fields are those of ``Source``."""

    rows: Sequence[Example]
    texts: Mapping[str, tuple[str, str]]
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)


def read_source(entry: Entry, *, seed: int) -> Rows:
    """Read what an entry names; ``limit`` keeps the first of its rows in a shuffled order.

    Raises:
        TokayError: a file is missing or cannot be read, a row cannot be trained on, or there is none.
    """
    read = READERS[entry.kind](entry, seed)
    if not read.rows:
        why = ", ".join(f"{count:,} times {reason}" for reason, count in read.skipped.items())
        raise TokayError(f"{entry.path} gives not one row to train on{f': {why}' if why else ''}")
    return read if entry.limit is None else _limited(read, entry, seed)


def _limited(read: Rows, entry: Entry, seed: int) -> Rows:
    order = _generator(seed, entry, "limit").permutation(len(read.rows))[: entry.limit]
    rows = [read.rows[i] for i in sorted(order.tolist())]
    texts = {p: read.texts[p] for row in rows for p in _needed(row)}
    ids = {*texts, *(row.query_id for row in rows)}
    labels = {i: label for i, label in read.labels.items() if i in ids}
    return dataclasses.replace(read, rows=rows, texts=texts, labels=labels)


def _needed(row: Example) -> list[str]:
    """The texts that a batch may ask for."""
    return [row.positive_id, *row.negative_ids, *row.candidate_ids]


def _generator(seed: int, entry: Entry, what: str) -> np.random.Generator:
    return np.random.default_rng([seed, *what.encode(), *entry.name.encode()])


# -- runs and retrieval ---------------------------------------------------------------------------------------------


def read_run(entry: Entry, seed: int) -> Rows:
    """Training rows of a run, and the passages that they use, by their own ids.

    Two runs over one corpus thus call the same passage by the same name.
    """
    run = open_run(entry.path)
    found: Counter[str] = Counter()
    rows: list[Example] = []
    for row in run.table("examples", "examples", Example):
        if row.part == "train":
            rows.append(row if entry.task is None else dataclasses.replace(row, task=entry.task))
        else:
            found[f"row of the {row.part} part"] += 1
    needed = {p for row in rows for p in _needed(row)}
    passages = run.table("corpus", "passages", Passage)
    texts = {p.passage_id: (p.title, p.text) for p in passages if p.passage_id in needed}
    if missing := sorted(needed - texts.keys()):
        raise TokayError(
            f"{entry.path}: {len(missing)} passages of its rows are not in its corpus, such as {missing[0]!r}; run "
            f"'tokay distill' on it to the end"
        )
    return Rows(rows, texts, skipped=found)


def read_retrieval(entry: Entry, seed: int) -> Rows:
    """A corpus, queries and relevance labels: a row for each relevant passage; grade 0 is a hard negative.

    Passages are split by nobody, as labels name them by their ids. The corpus is read twice, so that only those
    that rows use are held.
    """
    if not Path(entry.path).is_dir() and not (entry.queries and entry.qrels):
        raise TokayError(f"{entry.path} is no BEIR folder; give the labels of this corpus, queries = … and qrels = …")
    corpus = open_corpus(entry.path)
    unread: list[Skipped] = []

    def passages() -> Iterator[Passage]:
        unread.clear()
        return (whole(document) for document in corpus.documents(unread.append))

    ids = {p.passage_id for p in passages()}
    if not ids:
        raise TokayError(f"{entry.path} has no passages; looked for {corpus.expected}")
    labels = read_labels(
        entry.queries or entry.path,
        entry.qrels or entry.path,
        known_ids=ids,
        split=entry.split or "train",
        words=Words("queries", "qrels", "split"),
    )
    skipped = {reason: count for reason, count in labels.dropped.items() if count}
    if unread:
        skipped["document that cannot be read"] = len(unread)
    chance = _generator(seed, entry, "negatives")
    rows = []
    for query_id, grades in labels.qrels.items():
        relevant = [f"{entry.name}/{p}" for p, grade in grades.items() if grade > 0]
        hard = [f"{entry.name}/{p}" for p, grade in grades.items() if grade <= 0]
        for positive in relevant:
            kept = [hard[i] for i in chance.permutation(len(hard))[: _most_negatives(entry)]]
            own, text = f"{entry.name}/q/{query_id}", labels.queries[query_id]
            rows.append(_example(entry, own, text, positive, negatives=kept, relevant=relevant))
    needed = {p for row in rows for p in _needed(row)}
    texts = {i: (p.title, p.text) for p in passages() if (i := f"{entry.name}/{p.passage_id}") in needed}
    return Rows(rows, texts, skipped=skipped)


def _most_negatives(entry: Entry) -> int:
    """How many a row keeps; Gecko has one."""
    return 1 if entry.negatives is None else entry.negatives


# -- tables ---------------------------------------------------------------------------------------------------------


class _Texts:
    """Distinct texts, numbered in the order in which they come; each is held once."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._ids: dict[tuple[str, str], str] = {}

    def add(self, text: str, title: str = "") -> str:
        """The id of a text, a new one for a new text."""
        return self._ids.setdefault((title, text), f"{self._prefix}{len(self._ids)}")

    def by_id(self) -> dict[str, tuple[str, str]]:
        """Id -> (title, text)."""
        return {own: titled for titled, own in self._ids.items()}


class _Queries:
    """Distinct queries with their ids and all their positives."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._known: dict[str, tuple[str, str, list[str]]] = {}

    def add(self, text: str) -> tuple[str, str, list[str]]:
        """Id, text (the same object each time) and positives so far, to be added to."""
        return self._known.setdefault(text, (f"{self._prefix}{len(self._known)}", text, []))


def _example(
    entry: Entry,
    query_id: str,
    query: str,
    positive: str,
    *,
    negatives: list[str],
    relevant: list[str],
) -> Example:
    """A row that no judge made: without seed, candidates and grades."""
    return Example(
        query_id=query_id,
        task=entry.written_task(),
        query=query,
        seed_id="",
        positive_id=positive,
        negative_ids=negatives,
        relevant_ids=relevant,
        candidate_ids=[],
        grades=[],
        relabelled=False,
        part="train",
    )


def read_pairs(entry: Entry, seed: int) -> Rows:
    """Queries with their positives, and negatives if the table has some; other columns (labels, scores) are not read.

    Queries that are equal are one, and so are passages. ``negatives`` keeps the first of a row's; all by default.
    """
    table = open_table(entry.path, split=entry.split)
    found = find_columns(table, (QUERY, POSITIVE), entry.columns, also=("negative", "title"))
    negative_columns = [found["negative"]] if "negative" in found else _negative_columns(table, found.values())
    title_columns = [found["title"]] if "title" in found else []
    texts, queries, faults = _Texts(f"{entry.name}/"), _Queries(f"{entry.name}/q"), Faults(table)
    skipped: Counter[str] = Counter()
    rows = []
    for number, values in table.read([found["query"], found["positive"], *title_columns, *negative_columns]):
        query, reason = text_of(values[0])
        if reason:
            faults.add(number, f"the query {reason}")
            continue
        positives = [_need(text, number, "the positive", faults) for text in _listed(values[1]) or [None]]
        title = "" if not title_columns or values[2] is None else _need(values[2], number, "the title", faults)
        listed = [text for value in values[2 + len(title_columns) :] for text in _listed(value)]
        hard = [texts.add(_need(text, number, "a negative", faults)) for text in listed]
        own, query, answers = queries.add(query)
        for positive in positives:
            answer = texts.add(positive, title)
            if positive == query or answer in answers:
                skipped["pair that was there before" if answer in answers else "positive that is its query"] += 1
                continue
            answers.append(answer)
            rows.append(_example(entry, own, query, answer, negatives=hard[: entry.negatives], relevant=answers))
    faults.check()
    return Rows([_without_answers(row) for row in rows], texts.by_id(), skipped=skipped)


def _negative_columns(table: Table, used: Any) -> list[str]:
    """``negative``, ``negatives`` or ``negative_1`` and so on, in the table's order."""
    names = {column: column.strip().casefold().removeprefix("hard_") for column in table.columns if column not in used}
    return [c for c, name in names.items() if name in ("negative", "negatives") or _is_numbered(name)]


def _is_numbered(name: str) -> bool:
    return name.startswith("negative_") and name.removeprefix("negative_").isdecimal()


def _listed(value: Any) -> list[Any]:
    """A cell as a list: of its items, of itself, or of nothing where it is empty."""
    if isinstance(value, list):
        return value
    return [] if value is None or value == "" else [value]


def _need(value: Any, number: int, what: str, faults: Faults) -> str:
    text, reason = text_of(value)
    if reason:
        faults.add(number, f"{what} {reason}")
    return text


def _without_answers(row: Example) -> Example:
    """The row without hard negatives that are an answer of its query in another row."""
    if not {*row.negative_ids} & {*row.relevant_ids}:
        return row
    return dataclasses.replace(row, negative_ids=[n for n in row.negative_ids if n not in row.relevant_ids])


_PREMISE = Role("premise", (("premise", "sentence1"),))
_HYPOTHESIS = Role("hypothesis", (("hypothesis", "sentence2"),))
_NLI_LABEL = Role("label", (("label_text",), ("label", "gold_label")))

_ENTAILED, _CONTRADICTED, _NEITHER = "entailed", "contradicted", "neither"
_NLI = {
    "entailment": _ENTAILED,
    "0": _ENTAILED,
    "contradiction": _CONTRADICTED,
    "2": _CONTRADICTED,
    "neutral": _NEITHER,
    "not_entailment": _NEITHER,
    "1": _NEITHER,
    "-1": _NEITHER,  # SNLI's pairs on which annotators did not agree
    "-": _NEITHER,
}
"""Words and numbers of the usual sets. 1 is neutral where there are three classes and not_entailment where there are
two; neither is told apart from what is true by meaning alone, so neither is a hard negative."""


def read_nli(entry: Entry, seed: int) -> Rows:
    """A row for each entailed hypothesis of a premise, against contradicted ones of the same premise, if any."""
    table = open_table(entry.path, split=entry.split)
    roles = (_PREMISE, _HYPOTHESIS, _NLI_LABEL)
    found = find_columns(table, roles, entry.columns)
    texts, queries, faults = _Texts(f"{entry.name}/"), _Queries(f"{entry.name}/q"), Faults(table)
    skipped: Counter[str] = Counter()
    contradicted: dict[str, list[str]] = {}  # by query id
    asked: dict[str, tuple[str, str, list[str]]] = {}
    for number, (premise, hypothesis, label) in table.read([found[role.name] for role in roles]):
        own, query, entailed = queries.add(_need(premise, number, "the premise", faults))
        text = texts.add(_need(hypothesis, number, "the hypothesis", faults))
        verdict = _nli_verdict(label, number, faults)
        asked[own] = (own, query, entailed)
        into = {_ENTAILED: entailed, _CONTRADICTED: contradicted.setdefault(own, [])}.get(verdict)
        if into is None:
            skipped["pair that is neither entailed nor contradicted"] += 1
        elif hypothesis == premise:
            skipped["hypothesis that is its premise"] += 1
        elif text in into:
            skipped["pair that was there before"] += 1
        else:
            into.append(text)
    faults.check()
    rows = []
    for own, query, entailed in asked.values():
        hard = [text for text in contradicted[own] if text not in entailed]
        if not entailed:
            skipped["premise without an entailed hypothesis"] += 1
        for turn, text in enumerate(entailed):
            start = turn % len(hard) if hard else 0  # several rows of a premise take different ones
            kept = (hard[start:] + hard[:start])[: _most_negatives(entry)]
            rows.append(_example(entry, own, query, text, negatives=kept, relevant=entailed))
    used = {p for row in rows for p in _needed(row)}
    return Rows(rows, {p: titled for p, titled in texts.by_id().items() if p in used}, skipped=skipped)


def _nli_verdict(value: Any, number: int, faults: Faults) -> str:
    label, reason = label_of(value)
    verdict = "" if reason else _NLI.get(label.casefold().replace("-e", "_e").replace(" ", "_"), "")
    if not verdict:
        reason = reason or f"is {label[:40]!r}, not entailment, neutral, contradiction, not_entailment, 0, 1 or 2"
        faults.add(number, f"the label {reason}")
    return verdict


_TEXT = Role("text", (("text", "sentence", "utterance"),))
_LABEL = Role("label", (("label_text",), ("label", "class", "category", "intent")))


def read_classification(entry: Entry, seed: int) -> Rows:
    """A row for each text: another text of its class, against texts of other classes, all by ``seed``.

    ``false_negatives`` says how rows of one class are kept from being each other's negatives: by ``labels`` (mask), by
    Gecko's number that each row appends to its three texts (ids), or by both.
    """
    table = open_table(entry.path, split=entry.split)
    found = find_columns(table, (_TEXT, _LABEL), entry.columns)
    skipped: Counter[str] = Counter()
    label_of_text = _classes(table, found, skipped)
    texts, labels = list(label_of_text), list(label_of_text.values())
    members: dict[str, list[int]] = {}
    for number, label in enumerate(labels):
        members.setdefault(label, []).append(number)
    _check_classes(table, members, found["label"])
    chance = _generator(seed, entry, "rows")
    drawn = []
    for number, label in enumerate(labels):
        same = members[label]
        if len(same) == 1:
            skipped["text that is the only one of its class"] += 1
            continue
        place = int(chance.integers(len(same) - 1))
        positive = same[place] if same[place] != number else same[-1]
        drawn.append((number, positive, _others(labels, label, len(same), _most_negatives(entry), chance)))
    return _class_rows(entry, texts, labels, drawn, skipped)


def _classes(table: Table, found: Mapping[str, str], skipped: Counter[str]) -> dict[str, str]:
    """Text -> class, in the order of the table; of equal texts, the first."""
    faults = Faults(table)
    classes: dict[str, str] = {}
    for number, (value, label_value) in table.read([found["text"], found["label"]]):
        text = _need(value, number, "the text", faults)
        label, reason = label_of(label_value)
        if reason:
            faults.add(number, f"the label {reason}")
        elif text in classes:
            known = classes[text] == label
            skipped["text that was there before" if known else "text that was there before, of another class"] += 1
        else:
            classes[text] = label
    faults.check()
    return classes


def _check_classes(table: Table, members: Mapping[str, Sequence[int]], column: str) -> None:
    if len(members) == 1:
        raise TokayError(
            f"{table.name} has one class in column {column!r}, {next(iter(members))!r}; expected at least two, since "
            f"negatives are of another one"
        )
    if members and max(map(len, members.values())) == 1:
        raise TokayError(
            f"{table.name} has as many classes in column {column!r} as texts ({len(members):,}), so that no text has "
            f'another one of its class; expected classes: name the right column, columns = {{ label = "COLUMN" }}'
        )


def _others(labels: Sequence[str], label: str, size: int, count: int, chance: np.random.Generator) -> list[int]:
    """Random texts of other classes, ``count`` if there are so many; ``size`` is that of the own class."""
    chosen: dict[int, None] = {}
    while len(chosen) < min(count, len(labels) - size):
        other = int(chance.integers(len(labels)))
        if labels[other] != label:
            chosen.setdefault(other)
    return list(chosen)


def _class_rows(
    entry: Entry,
    texts: Sequence[str],
    labels: Sequence[str],
    drawn: Sequence[tuple[int, int, list[int]]],
    skipped: Mapping[str, int],
) -> Rows:
    """Rows of drawn (text, positive, negatives), by number."""
    rows: list[Example] = []
    written: dict[str, tuple[str, str]] = {}
    classes: dict[str, str] = {}

    def add(number: int, row: int) -> str:
        if entry.false_negatives == "mask":
            own, text = f"{entry.name}/{number}", texts[number]
        else:
            own, text = f"{entry.name}/{number}/{row}", _with_number(texts[number], row)
        written[own] = ("", text)
        classes[own] = labels[number]
        return own

    for row, (number, positive, negatives) in enumerate(drawn):
        own = add(number, row)
        rows.append(
            _example(
                entry,
                own,
                written[own][1],
                answer := add(positive, row),
                negatives=[add(other, row) for other in negatives],
                relevant=[answer],
            )
        )
    used = {p for row in rows for p in _needed(row)}
    return Rows(
        rows,
        {p: titled for p, titled in written.items() if p in used},
        labels={} if entry.false_negatives == "ids" else classes,
        skipped=skipped,
    )


def _with_number(text: str, row: int) -> str:
    """Gecko 3.3 appends a unique id to the three texts of a row and does not say how it looks."""
    return f"{text} #{row}"


def read_texts(entry: Entry, seed: int) -> Rows:
    """Distinct texts, alone."""
    table = open_table(entry.path, split=entry.split)
    found = find_columns(table, (_TEXT,), entry.columns)
    texts, faults = _Texts(f"{entry.name}/"), Faults(table)
    read = 0
    for number, (value,) in table.read([found["text"]]):
        texts.add(_need(value, number, "the text", faults))
        read += 1
    faults.check()
    by_id = texts.by_id()
    rows = [_example(entry, p, text, p, negatives=[], relevant=[]) for p, (_, text) in by_id.items()]
    skipped = {"text that was there before": read - len(by_id)} if read > len(by_id) else {}
    return Rows(rows, by_id, skipped=skipped)


READERS: Mapping[Kind, Callable[[Entry, int], Rows]] = {
    "run": read_run,
    "pairs": read_pairs,
    "nli": read_nli,
    "classification": read_classification,
    "retrieval": read_retrieval,
    "texts": read_texts,
}
