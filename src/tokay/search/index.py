"""An index folder: passages, their vectors and what finds them, opened for search.

::

    index.json              which model, which width, how it is searched, and the folder that counts
    data-000001/
      passages.parquet      the passages, with the hash of what the model read
      vectors.parquet       id, that hash and the vector (fixed_size_list<float32>): for any other tool
      vectors.npy           the same numbers, mapped into memory: what is searched
      int8.npy …            what proposes candidates, for searches other than the exact one
      bm25/                 words
      skipped.parquet, duplicates.parquet

The vectors stand there twice since Parquet, which all tools read, cannot be mapped into memory, and ``.npy`` can.
``tokay.indexing`` writes such a folder; this module only reads.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokay.errors import TokayError, did_you_mean, first_line
from tokay.expected import faults_of
from tokay.models.cross_encoder import written
from tokay.models.embedder import Backend, Embedder
from tokay.models.locate import find_model
from tokay.models.space import vector_space
from tokay.models.two_sides import TwoSided, is_two_sided
from tokay.records import Passage, schema_of
from tokay.search.ann import Hnsw
from tokay.search.bm25 import BM25
from tokay.search.dense import rescored, top_k
from tokay.search.hybrid import DEPTH, HEAVIEST, Hybrid, Ranking, pools_of
from tokay.search.quantised import Binary, Int8, Proposer
from tokay.search.reranker import Reranker, Scores

HEADER = "index.json"
FORMAT: Final = 2
Method = Literal["exact", "int8", "binary", "hnsw"]
METHODS: tuple[Method, ...] = get_args(Method)
Stored = Literal["float32", "float16"]
STORED: tuple[Stored, ...] = get_args(Stored)

PROPOSERS: Mapping[str, type[Proposer]] = {"int8": Int8, "binary": Binary, "hnsw": Hnsw}
_SAMPLE = 200
"""Passages that recall is measured with."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Made(_Section):
    """The model that made the vectors."""

    name: str
    fingerprint: str
    backend: Backend
    cut: int


class Header(_Section):
    """``index.json``: what an index says of itself; ``language`` and ``weight`` were asked for, of BM25."""

    format: Literal[2]
    data: Annotated[str, Field(pattern=r"^data-\d{6,}$")]
    model: Made
    dim: int
    stored: Stored
    search: Method
    rescore: int
    recall: float | None
    passages: int
    documents: int
    corpus: str
    hybrid: Hybrid
    language: str = ""
    weight: float | None = None
    files: dict[str, int]


def is_index(folder: Path) -> bool:
    """Whether a folder is one that ``tokay index`` made."""
    return (folder / HEADER).is_file()


def read_header(folder: Path) -> Header:
    """What an index says of itself.

    Raises:
        TokayError: it is no index, or its header is damaged or of another version.
    """
    path = folder / HEADER
    if not path.is_file():
        raise TokayError(f"{folder} is no index (it has no {HEADER}); expected what 'tokay index … --out' made")
    again = "delete the folder and run 'tokay index' again"
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise TokayError(f"{path} is damaged: it is not JSON ({error}); {again}") from error
    if data.get("format") != FORMAT:
        raise TokayError(
            f"{path} has format {data.get('format')!r}; this version of tokay reads format {FORMAT}: {again}"
        )
    try:
        return Header.model_validate(data)
    except ValidationError as error:
        faults = "; ".join(faults_of(error, Header, data, what="entry"))
        raise TokayError(f"{path} is damaged: {faults}; {again}") from error


@dataclasses.dataclass(frozen=True)
class Match:
    """One result: its place from 1, the passage, and a cosine or, when words counted too, the fused score."""

    rank: int
    passage: Passage
    score: float

    def entry(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**entry_of(self.passage), "score": self.score, "rank": self.rank}


def entry_of(passage: Passage) -> dict[str, Any]:
    """A passage as JSON has it."""
    p = passage
    return {"id": p.passage_id, "document_id": p.document_id, "title": p.title, "text": p.text, "source": p.source}


class Index:
    """An index, opened: vectors and codes are mapped into memory, passages are read when they are results.

    Attributes:
        header: what it says of itself.
        vectors: (N, D), float32 or float16, at length 1.
    """

    def __init__(self, folder: Path, header: Header) -> None:
        self.folder, self.header = folder, header
        self.data = folder / header.data
        _check_files(self.data, header.files)
        self.vectors: NDArray[np.floating] = np.load(self.data / "vectors.npy", mmap_mode="r")
        if self.vectors.shape != (header.passages, header.dim):
            expected = f"{header.passages:,} x {header.dim}"
            raise _damaged(self.data / "vectors.npy", f"it has the shape {self.vectors.shape}, not {expected}")
        self._table = pq.ParquetFile(self.data / "passages.parquet")
        groups = (self._table.metadata.row_group(i).num_rows for i in range(self._table.num_row_groups))
        self._ends = np.cumsum([0, *groups])
        self._reading = threading.Lock()  # a ParquetFile is for one thread at a time

    @classmethod
    def open(cls, folder: str | Path) -> Index:
        """Open a folder that ``tokay index`` made; an update meanwhile does not disturb it.

        Raises:
            TokayError: it is no index, or a file of it is missing or damaged.
        """
        folder = Path(folder)
        header = read_header(folder)
        try:
            return cls(folder, header)
        except (TokayError, ValueError, OSError, pa.ArrowException) as error:
            if read_header(folder).data != header.data:
                return cls.open(folder)  # it was updated between two lines of ours
            if isinstance(error, TokayError):
                raise
            raise _damaged(folder / header.data, first_line(error)) from error

    # -- search ---------------------------------------------------------------------------------------------------

    def rank(self, queries: NDArray[np.float32], k: int, *, among: NDArray[np.int64] | None = None) -> Ranking:
        """The k nearest passages of query vectors, by the search that the index was made for.

        Args:
            queries: (Q, D), at length 1.
            k: results a query; with fewer passages, the rest is index -1 and score 0.
            among: the only indices that may be found, in ascending order; they are searched exactly.

        Returns:
            Indices and cosines, both (Q, k), best first, equal ones by index.
        """
        if queries.shape[1] != self.header.dim:
            raise TokayError(
                f"the query vectors have {queries.shape[1]} numbers, and {self.folder} holds vectors of "
                f"{self.header.dim}; encode queries with dim={self.header.dim}"
            )
        if among is not None:
            return rescored(queries, self.vectors, [among] * len(queries), k)
        if self.proposer is None:
            return top_k(queries, self.vectors, k)
        return rescored(queries, self.vectors, self.proposer.propose(queries, k * self.header.rescore), k)

    @functools.cached_property
    def proposer(self) -> Proposer | None:
        """What proposes candidates; None for the exact search."""
        if self.header.search == "exact":
            return None
        try:
            return PROPOSERS[self.header.search].open(self.data)
        except (ValueError, OSError, KeyError, RuntimeError) as error:
            raise _damaged(self.data, first_line(error)) from error

    @functools.cached_property
    def words(self) -> BM25:
        """BM25 of the passages' titles and texts."""
        try:
            return BM25.load(self.data / "bm25")
        except (ValueError, OSError, KeyError) as error:
            raise _damaged(self.data / "bm25", first_line(error)) from error

    def fused(
        self,
        texts: Sequence[str],
        queries: NDArray[np.float32],
        k: int,
        *,
        weight: float | None = None,
        among: NDArray[np.int64] | None = None,
    ) -> Ranking:
        """The k best by cosine and BM25 together, of the first hundred of each.

        Args:
            texts: the Q queries.
            queries: their vectors, (Q, D), at length 1.
            k: results a query, at most 100.
            weight: of BM25; None: the one that the run learned, or the usual one.
            among: the only indices that may be found, in ascending order.
        """
        hybrid = self.header.hybrid.weighing(weight)
        dense = self.rank(queries, DEPTH, among=among)
        return hybrid.rank(list(pools_of(dense, self.words, texts, queries, self.vectors, among=among)), k)

    # -- passages -------------------------------------------------------------------------------------------------

    def passages(self, rows: Collection[int]) -> dict[int, Passage]:
        """Passages by index; reads the groups of rows that they stand in."""
        wanted = np.unique(np.fromiter(rows, np.int64, len(rows)))
        found: dict[int, Passage] = {}
        names = schema_of(Passage).names
        for group in np.unique(np.searchsorted(self._ends, wanted, side="right") - 1).tolist():
            here = wanted[(wanted >= self._ends[group]) & (wanted < self._ends[group + 1])]
            try:
                with self._reading:
                    table = self._table.read_row_group(group, columns=names)
            except (OSError, pa.ArrowException) as error:
                raise _damaged(self.data / "passages.parquet", first_line(error)) from error
            picked = table.take(pa.array(here - self._ends[group])).to_pylist()
            found |= {i: Passage(**row) for i, row in zip(here.tolist(), picked, strict=True)}
        return found

    def rows_of(self, ids: Collection[str]) -> NDArray[np.int64]:
        """Indices, in ascending order, of the passages with one of these ids, or of a document with one.

        Raises:
            TokayError: an id that no passage and no document has.
        """
        places = self._places
        if unknown := [one for one in ids if one not in places]:
            raise TokayError(
                f"the index {self.folder.name} has no passage and no document with the id {unknown[0]!r}"
                f"{did_you_mean(unknown[0], places) if len(places) < 10_000 else ''}; leave it out, or index it"
            )
        rows: set[int] = set().union(*(places[one] for one in ids))
        return np.array(sorted(rows), np.int64)

    @functools.cached_property
    def _places(self) -> dict[str, list[int]]:
        """Indices by id of passage and of document."""
        places: dict[str, list[int]] = {}
        table = pq.read_table(self.data / "passages.parquet", columns=["passage_id", "document_id"])
        for row, pair in enumerate(zip(*(column.to_pylist() for column in table.columns), strict=True)):
            for one in dict.fromkeys(pair):
                places.setdefault(one, []).append(row)
        return places

    # -- the model ------------------------------------------------------------------------------------------------

    def load_model(self, name: str | Path | None = None, *, backend: Backend | None = None) -> Embedder:
        """The model that made the vectors.

        Args:
            name: where it is now; None: where it was.
            backend: None: the one that made the vectors.

        Raises:
            TokayError: it is another model than the one that made the vectors.
        """
        made = self.header.model
        chosen = backend or made.backend
        if "static" in (chosen, made.backend) and chosen != made.backend:
            raise TokayError(
                f"{self.folder} holds vectors of backend {made.backend!r}, which those of {chosen!r} cannot be "
                f"compared with; leave --backend out"
            )
        where = str(name or made.name)
        folder = find_model(where)
        self.check_model(vector_space(folder), where)
        if is_two_sided(folder):
            return TwoSided(folder)
        embedder = Embedder.load(where, backend=chosen)
        embedder.config = dataclasses.replace(embedder.config, max_tokens=made.cut)
        return embedder

    def check_model(self, fingerprint: str, name: str) -> None:
        """Refuse the vectors of another model."""
        refuse_other_model(self.folder, self.header.model, fingerprint, name)


def refuse_other_model(folder: Path, made: Made, fingerprint: str, name: str) -> None:
    """Raise unless a model is the one that made an index's vectors."""
    if fingerprint != made.fingerprint:
        raise TokayError(
            f"{folder} holds vectors of the model {made.name} (fingerprint {made.fingerprint[:12]}…), and {name} is "
            f"another one ({fingerprint[:12]}…), whose vectors cannot be compared with them; name the model that made "
            "the index, or make another index with 'tokay index … --out' and a new folder"
        )


def recall_of(proposer: Proposer, vectors: NDArray[np.floating], rescore: int) -> float:
    """Of the ten nearest of a passage, the share that a proposer finds: the mean over a sample of passages.

    How many candidates are needed depends on the data: where a thousand passages lie closer to each other than one
    bit of a number tells, signs find few of them. So it is measured on the vectors that are searched.
    """
    rows = np.unique(np.linspace(0, len(vectors) - 1, _SAMPLE).astype(np.int64))
    k = min(11, len(vectors))  # a passage is its own nearest, which proves nothing
    queries = np.asarray(vectors[rows], np.float32)
    exact, _ = top_k(queries, vectors, k)
    found, _ = rescored(queries, vectors, proposer.propose(queries, k * rescore), k)
    shares = []
    for row, best, seen in zip(rows.tolist(), exact.tolist(), found.tolist(), strict=True):
        wanted = [i for i in best if i != row][:10]
        shares.append(len({*wanted} & {*seen}) / len(wanted) if wanted else 1.0)
    return round(float(np.mean(shares)), 4)


class Searcher:
    """An index and its model: texts in, passages out."""

    def __init__(self, index: Index, embedder: Embedder) -> None:
        self.index, self.embedder = index, embedder

    def search(
        self,
        queries: Sequence[str],
        *,
        top: int,
        hybrid: bool = False,
        weight: float | None = None,
        ids: Collection[str] | None = None,
        reranker: Reranker[Scores] | None = None,
    ) -> list[list[Match]]:
        """Rank passages for queries.

        Args:
            queries: as people type them.
            top: results a query.
            hybrid: with BM25.
            weight: of BM25, in place of the index's own (``Hybrid``); it implies ``hybrid``.
            ids: of the only passages, or documents, that may be found.
            reranker: reads the first of them with the query.

        Raises:
            TokayError: an empty query, no such id, or ``top`` or ``weight`` out of range.
        """
        check_queries(queries, top, hybrid=hybrid, weight=weight)
        vectors = self.embedder.encode(queries, kind="query", dim=self.index.header.dim)
        return self.find(queries, vectors, top=top, hybrid=hybrid, weight=weight, ids=ids, reranker=reranker)

    def find(
        self,
        queries: Sequence[str],
        vectors: NDArray[np.float32],
        *,
        top: int,
        hybrid: bool = False,
        weight: float | None = None,
        ids: Collection[str] | None = None,
        reranker: Reranker[Scores] | None = None,
    ) -> list[list[Match]]:
        """As ``search``, of queries that are encoded already: (Q, D)."""
        check_queries(queries, top, hybrid=hybrid, weight=weight)
        among = self.index.rows_of(ids) if ids is not None else None
        deep = top if reranker is None else DEPTH
        if hybrid or weight is not None:
            indices, scores = self.index.fused(queries, vectors, deep, weight=weight, among=among)
        else:
            indices, scores = self.index.rank(vectors, max(top, deep), among=among)
        if reranker is not None:
            indices, scores = self._reranked(queries, (indices, scores), reranker, top)
        ranked = [
            [(i, s) for i, s in zip(row, found, strict=True) if i >= 0][:top]
            for row, found in zip(indices.tolist(), scores.tolist(), strict=True)
        ]
        passages = self.index.passages({i for row in ranked for i, _ in row})
        return [[Match(rank, passages[i], score) for rank, (i, score) in enumerate(row, 1)] for row in ranked]

    def _reranked(self, queries: Sequence[str], ranking: Ranking, reranker: Reranker[Scores], top: int) -> Ranking:
        """The same candidates as a reranker orders them."""
        indices, scores = ranking[0].copy(), ranking[1].copy()
        for at, query in enumerate(queries):
            there = int((indices[at] >= 0).sum())
            row = indices[at, :there].copy()
            passages = self.index.passages(row[: reranker.rule.depth].tolist())

            def texts(some: Sequence[int], known: Mapping[int, Passage] = passages) -> list[str]:
                return [written(known[i].text, known[i].title) for i in some]

            found = reranker.rerank(query, row, scores[at, :there].copy(), texts, top=top)
            indices[at, :there], scores[at, :there] = found.indices, found.scores
        return indices, scores


def check_queries(queries: Sequence[str], top: int, *, hybrid: bool = False, weight: float | None = None) -> None:
    """Raise what ``Searcher.search`` raises of its arguments, before a model is loaded for them."""
    if isinstance(queries, str):
        raise TokayError("search() takes a list of queries and got one string; write search([query])")
    if not all(query.strip() for query in queries):
        raise TokayError("the query is empty; write what you are looking for, in quotes")
    if weight is not None and not 0 <= weight <= HEAVIEST:
        raise TokayError(
            f"the weight of BM25 is {weight}; expected 0 (vectors alone) to {HEAVIEST:g} (words alone), such as 0.05"
        )
    most = DEPTH if hybrid or weight is not None else 1000
    if not 1 <= top <= most:
        raise TokayError(f"{top} results were asked for; expected 1 to {most}{' with BM25' if most == DEPTH else ''}")


def _check_files(folder: Path, files: Mapping[str, int]) -> None:
    """Every file is there, with all its bytes."""
    for name, size in files.items():
        path = folder / name
        if not path.is_file():
            raise _damaged(path, "it is missing")
        if path.stat().st_size != size:
            raise _damaged(path, f"it has {path.stat().st_size:,} bytes, not {size:,}")


def _damaged(path: Path, why: str) -> TokayError:
    return TokayError(f"{path} is damaged: {why}; delete the index and run 'tokay index' again")
