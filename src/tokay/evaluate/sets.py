"""What systems are held against: passages, queries, and which of the first answer the second.

Everything that ``--on`` can name comes to one ``EvaluationSet``; what is evaluated does not know where it is from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokay.corpus import open_corpus, whole
from tokay.corpus.rows import hub_stream
from tokay.errors import TokayError
from tokay.evaluate.qrels import Labels, Words, checked_labels, read_labels
from tokay.evaluate.traits import traits_of
from tokay.evaluate.verdict import qrels_of
from tokay.records import Judgment, Passage, Query

DOCUMENT = "document"
"""The trait that says whether training knew a query's document; a run's set has it."""
LABELS = "labels"
"""``Query.prompt`` of a query that came with labels."""


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """Passages, and queries with what is known of their answers.

    Attributes:
        name: as the user named it.
        passages: all that are ranked, in the order of their indices.
        queries: each with an entry in ``qrels`` that has a gain above 0.
        qrels: query id -> passage id -> gain, in the order of ``queries``.
        judged: query id -> passages that somebody looked at, whatever came of it.
        groups: query id -> what makes queries dependent; a query without an entry stands alone.
        beside: queries that slices alone look at, such as those of documents that training knew.
        traits: trait -> query id -> value, beside those that texts tell.
        dropped: what could not be used, counted.
    """

    name: str
    passages: Sequence[Passage]
    queries: Sequence[Query]
    qrels: Mapping[str, Mapping[str, int]]
    judged: Mapping[str, set[str]]
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
    beside: frozenset[str] = frozenset()
    traits: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.primary) < 2:
            raise TokayError(
                f"{self.name} has {len(self.primary)} queries with a relevant passage; expected at least 2, since one "
                "says nothing about others: bring more labels, or have more queries written"
            )

    @property
    def ids(self) -> list[str]:
        """Passage ids, by index."""
        return [p.passage_id for p in self.passages]

    @property
    def primary(self) -> list[str]:
        """Ids of the queries that the result is about."""
        return [q.query_id for q in self.queries if q.query_id not in self.beside]

    def group_of(self, query_id: str) -> str:
        """What a query depends on."""
        return self.groups.get(query_id, query_id)

    def all_traits(self) -> dict[str, dict[str, str]]:
        """Trait -> query id -> value: what the texts tell, and what the set brings."""
        told = traits_of(self.queries, self.qrels, self.passages)
        return {**told, **{name: dict(values) for name, values in self.traits.items()}}


def labelled_set(name: str, passages: Sequence[Passage], labels: Labels) -> EvaluationSet:
    """A set of queries and labels that somebody brings. What has no label counts as not judged."""
    if blank := [query_id for query_id, text in labels.queries.items() if not text.strip()]:
        raise TokayError(f"{name}: query {blank[0]!r} is empty ({len(blank)} are); give it a text, or leave it out")
    queries = [Query(i, "", "", text, "test", True, LABELS, name) for i, text in labels.queries.items()]
    judged = {query_id: set(gains) for query_id, gains in labels.qrels.items()}
    return EvaluationSet(name, passages, queries, labels.qrels, judged, dropped=labels.dropped)


def written_set(
    name: str,
    passages: Sequence[Passage],
    queries: Iterable[Query],
    judgments: Iterable[Judgment],
    *,
    relevant_grade: int,
) -> EvaluationSet:
    """A set of held-out queries that a model wrote and a judge graded: parts ``test`` and, beside, ``seen``."""
    asked = [q for q in queries if q.part in ("test", "seen")]
    asked_ids = {q.query_id for q in asked}
    graded = [j for j in judgments if j.query_id in asked_ids]
    qrels, judged = qrels_of(asked, graded, relevant_grade=relevant_grade)
    kept = [q for q in asked if q.query_id in qrels]
    return EvaluationSet(
        name,
        passages,
        kept,
        {q.query_id: qrels[q.query_id] for q in kept},
        judged,
        groups={q.query_id: q.seed_id or q.query_id for q in kept},
        beside=frozenset(q.query_id for q in kept if q.part == "seen"),
        traits={DOCUMENT: {q.query_id: "seen in training" if q.part == "seen" else "unseen" for q in kept}},
        dropped={"queries that nothing judged answers": len(asked) - len(kept)},
    )


def beir_set(on: str, *, queries: str = "", qrels: str = "", split: str = "test") -> EvaluationSet:
    """A BEIR folder (JSONL, or ``corpus``, ``queries`` and ``qrels`` as Parquet), or any corpus with own labels.

    Args:
        on: the folder; any corpus that ``tokay distill`` reads, where both ``queries`` and ``qrels`` are named.
        queries: of the labels; empty: the folder's.
        qrels: likewise.
        split: of the labels.

    Raises:
        TokayError: it is no such folder, or its labels do not fit.
    """
    _pair(queries, qrels)
    folder = Path(on).expanduser()
    if not queries and not (folder.is_dir() and any(folder.glob("queries.*"))):
        what = "has no queries.*" if folder.is_dir() else "is no folder"
        raise TokayError(
            f"--on {on}: it {what}; expected a run, a BEIR folder (corpus, queries and qrels), hf:NAME or mteb:TASK, "
            "or name labels of this corpus with --queries and --qrels"
        )
    passages = [whole(document) for document in open_corpus(on).documents(lambda skipped: None)]
    return own_set(on, passages, queries=queries or on, qrels=qrels or on, split=split)


def own_set(name: str, passages: Sequence[Passage], *, queries: str, qrels: str, split: str = "test") -> EvaluationSet:
    """Passages that are there already, with labels from files.

    Raises:
        TokayError: the labels cannot be read, or do not fit.
    """
    _pair(queries, qrels)
    words = Words(split="--split")
    labels = read_labels(queries, qrels, known_ids={p.passage_id for p in passages}, split=split, words=words)
    return labelled_set(name, passages, labels)


def _pair(queries: str, qrels: str) -> None:
    if bool(queries) != bool(qrels):
        missing, given = ("--qrels", "--queries") if queries else ("--queries", "--qrels")
        raise TokayError(f"{given} comes without {missing}; name both, the queries and which passages answer them")


Rows = Iterable[Mapping[str, Any]]


def hub_set(name: str, *, split: str = "test", stream: Callable[..., Rows] = hub_stream) -> EvaluationSet:
    """A retrieval dataset of the Hub, in the layout of BEIR and MTEB, or a local folder in that layout.

    Its configurations ``corpus`` (_id, title, text) and ``queries`` (_id, text) are read, and the labels (query-id,
    corpus-id, score) from ``NAME-qrels`` where BEIR keeps them, else from the configuration ``default`` or ``qrels``.

    Args:
        name: such as ``BeIR/scifact`` or ``mteb/scifact``.
        split: of the labels.
        stream: (name, split, configuration) -> rows.

    Raises:
        TokayError: there is no such dataset, or it is not laid out so.
    """
    passages = [_passage(row, name) for row in stream(name, "corpus", "corpus")]
    texts = {str(_cell(row, "_id", name)): str(_cell(row, "text", name)) for row in stream(name, "queries", "queries")}
    rows = [
        (str(_cell(row, "query-id", name)), str(_cell(row, "corpus-id", name)), int(_cell(row, "score", name)))
        for row in _label_rows(name, split, stream)
    ]
    known = {p.passage_id for p in passages}
    return labelled_set(f"hf:{name}", passages, checked_labels(texts, rows, known_ids=known, of=f"hf:{name}"))


def _label_rows(name: str, split: str, stream: Callable[..., Rows]) -> list[Mapping[str, Any]]:
    first = ""
    for dataset, configuration in ((f"{name}-qrels", ""), (name, "default"), (name, "qrels")):
        try:
            rows = list(stream(dataset, split, configuration))
        except TokayError as error:
            first = first or str(error)
            continue
        if rows and "score" in rows[0]:
            return rows
    raise TokayError(
        f"hf:{name} has no labels of the split {split!r} in {name}-qrels or its configurations default and qrels "
        f"({first}); expected rows of query-id, corpus-id and score: name another --split"
    )


def _passage(row: Mapping[str, Any], name: str) -> Passage:
    from tokay.records import sha256_text

    passage_id, text, title = str(_cell(row, "_id", name)), str(_cell(row, "text", name)), str(row.get("title") or "")
    return Passage(passage_id, passage_id, title, text, sha256_text(text), f"hf:{name}", end=len(text))


def _cell(row: Mapping[str, Any], column: str, name: str) -> Any:
    """A column, whatever the dash in its name."""
    for word in (column, column.replace("-", "_"), column.removeprefix("_")):
        if row.get(word) is not None:
            return row[word]
    raise TokayError(
        f"hf:{name} has the columns {', '.join(row)}; expected {column} among them, as BEIR's sets have it"
    )
