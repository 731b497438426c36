"""What crosses stages: read this file first.

Every stage is a function from records to records. They are listed in pipeline order, and each carries the
ids of what it came from, so that any training example can be followed back to its passage and to the answer
of the LLM that made it::

    Passage -> Query -> Candidate -> Judgment -> Example -> Score

On disk a record type is a Parquet table (zstd) whose schema is derived from the dataclass; see ``schema_of``.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import pyarrow as pa

Part = Literal["train", "dev", "test", "seen", "out"]
"""Of a document, a passage or a query. ``seen`` is a held-out query of a training document. ``out`` is a passage or
a query that nearly repeats one of a stricter part: nothing is trained, chosen or measured with it."""


class Record(Protocol):
    """Any of the frozen dataclasses below."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


R = TypeVar("R", bound=Record)


def sha256_text(text: str) -> str:
    """Hex SHA-256 of the UTF-8 bytes of ``text``: the content hash of passages and prompts."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True)
class Passage:
    """One unit of retrieval, with where it came from, so that an answer can cite it.

    ``start`` and ``end`` are character offsets of ``text`` in the document's extracted text (0 and its length
    for rows of tables); ``page`` counts from 1, and is 0 where a format has no pages.
    """

    passage_id: str
    document_id: str
    title: str
    text: str
    sha256: str
    source: str
    heading: str = ""
    page: int = 0
    start: int = 0
    end: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Skipped:
    """Input that could not be used: which file, which line (0 = the whole file), and why."""

    source: str
    line: int
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Duplicate:
    """A passage that was dropped because ``kept_id`` says the same; ``similarity`` is the shingle Jaccard."""

    passage_id: str
    kept_id: str
    kind: Literal["exact", "near"]
    similarity: float


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """The part of the split that a whole document belongs to."""

    document_id: str
    part: Part
    passages: int


@dataclasses.dataclass(frozen=True, slots=True)
class Copy:
    """A passage that nearly repeats one of another document; ``group`` is the least id of all that do."""

    passage_id: str
    group: str


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """A query that the LLM wrote for a seed passage (Gecko 3.2), or one that a user brought.

    ``answer_id`` is where the LLM's answer stands: a ledger key, or ``recorded:...``. ``judged`` says whether the
    annotator will be asked to judge candidates for it.
    """

    query_id: str
    seed_id: str
    task: str
    text: str
    part: Part
    judged: bool
    prompt: str
    answer_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A passage that may answer a query; ranks count from 1, and 0 means that the retriever did not return it.

    ``rank`` is the fused one; ``base`` is the base model, ``initial`` an embedder trained on the seeds alone.
    """

    query_id: str
    passage_id: str
    rank: int
    base_rank: int
    base_score: float
    initial_rank: int
    initial_score: float
    bm25_rank: int
    bm25_score: float


@dataclasses.dataclass(frozen=True, slots=True)
class Rating:
    """One number that one judge gave to one (query, passage), as it came: all of them are kept.

    ``judge`` says what it is: ``likelihood`` is log P(query | passage) in nats, ``relevance:G`` log P(grade G),
    ``listwise:T`` the grade of turn T, ``pointwise`` a grade or its expectation, ``cross-encoder`` a logit.
    """

    query_id: str
    passage_id: str
    judge: str
    value: float
    prompt: str
    answer_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Judgment:
    """What the ratings of one (query, passage) come to: 3 answers fully, 2 also right, 1 same topic, 0 not useful.

    ``score`` orders the candidates of its query, higher is better; across queries it means nothing. ``best`` marks
    the one passage that the searcher would open first. A pair that was never judged has no record: it is
    unjudged, not grade 0.
    """

    query_id: str
    passage_id: str
    grade: int
    score: float
    best: bool
    prompt: str
    answer_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One training row.

    ``relevant_ids`` are all passages of grade >= 2, the positive among them: none may stand as a negative.
    ``candidate_ids`` and ``grades`` repeat the judged list, for losses that use every score.
    """

    query_id: str
    task: str
    query: str
    seed_id: str
    positive_id: str
    negative_ids: list[str]
    relevant_ids: list[str]
    candidate_ids: list[str]
    grades: list[int]
    relabelled: bool
    part: Part


Role = Literal["query", "seed", "positive", "negative", "candidate"]


@dataclasses.dataclass(frozen=True, slots=True)
class Read:
    """One text that a training was given. ``text`` is a query's; a passage's stands in the corpus."""

    role: Role
    item_id: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Hit:
    """One line of a system's ranking (a TREC run line)."""

    system: str
    query_id: str
    rank: int
    passage_id: str
    score: float


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """One metric of one query under one system; ``dim`` is 0 where a width means nothing (BM25)."""

    system: str
    dim: int
    query_id: str
    metric: str
    value: float


@dataclasses.dataclass(frozen=True, slots=True)
class Trait:
    """What a query is like in one respect, such as its length: what slices of a result are by."""

    query_id: str
    trait: str
    value: str


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """What a judge thinks of one pair of a user's labels; label or grade is -1 where there is none."""

    query_id: str
    passage_id: str
    label: int
    grade: int
    change: Literal["confirmed", "found", "doubted", "unjudged"]


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """An LLM answer that could not be used; counted in the report, never turned into a grade."""

    stage: str
    item_id: str
    reason: str
    answer_id: str


_ARROW: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
}


def _arrow_type(hint: Any) -> pa.DataType:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return pa.string()
    if origin is list:
        return pa.list_(_arrow_type(typing.get_args(hint)[0]))
    if isinstance(hint, types.UnionType):  # "X | None": Arrow columns are nullable anyway
        return _arrow_type(next(arg for arg in typing.get_args(hint) if arg is not type(None)))
    return _ARROW[hint]


@functools.cache
def schema_of(record: type[Record]) -> pa.Schema:
    """Arrow schema of a record type: one column per field, in the order of the class."""
    hints = typing.get_type_hints(record)
    return pa.schema([(field.name, _arrow_type(hints[field.name])) for field in dataclasses.fields(record)])


def to_table(record: type[Record], rows: Sequence[Record]) -> pa.Table:
    """Rows of one record type as an Arrow table."""
    schema = schema_of(record)
    return pa.table({name: [getattr(row, name) for row in rows] for name in schema.names}, schema=schema)


def from_batches(record: type[R], batches: Iterable[pa.RecordBatch]) -> Iterator[R]:
    """Stream the records out of Arrow batches that have the record's schema."""
    for batch in batches:
        for row in batch.to_pylist():
            yield record(**row)
