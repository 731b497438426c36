"""tokay index: a model and a corpus to an index folder, or one that is there brought up to date.

The corpus is read anew each time, since what is a duplicate depends on all of it; a passage is encoded only when
the index has no vector of just what the model would read of it. The new version is written beside the old one and
takes its place when ``index.json`` is replaced, in one step: a process killed at any moment leaves the old index
valid. What it had encoded by then is kept and used by the next run.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tokay.corpus import Source, open_corpus, write_corpus
from tokay.errors import TokayError
from tokay.language import LANGUAGE_SAMPLE, stems_for
from tokay.models.embedder import Backend, Embedder
from tokay.models.locate import find_model
from tokay.models.space import vector_space
from tokay.models.two_sides import is_two_sided
from tokay.progress import Progress, Silent
from tokay.records import Passage, from_batches, schema_of, sha256_text
from tokay.search.bm25 import AUTO, BM25, K1, B, check_language
from tokay.search.hybrid import Hybrid, spread_of
from tokay.search.index import (
    FORMAT,
    HEADER,
    PROPOSERS,
    Header,
    Index,
    Made,
    Method,
    Stored,
    check_queries,
    is_index,
    read_header,
    recall_of,
    refuse_other_model,
)
from tokay.settings import CorpusSettings, resolve
from tokay.store import MANIFEST, Run, StageOutput, file_sha256, lock_folder, write_atomically

ROWS_PER_GROUP = 256
"""Passages that are read from disk to show one of them."""
_BLOCK = 8192
LITTLE = 0.97
"""Recall below which a warning is due; our choice."""
LOCK = ".index.lock"
"""Another one than a run's, so that a run folder is not taken for an index that was begun."""
HASH = "content_sha256"
"""Column: SHA-256 of the number of tokens that the model reads, and of the passage as it is written for it."""


@dataclasses.dataclass(frozen=True)
class Maker:
    """A model that is to make vectors, and what a run has to say on the corpus and on BM25."""

    name: str
    folder: Path
    corpus: CorpusSettings
    hybrid: Hybrid | None


@dataclasses.dataclass(frozen=True)
class Shape:
    """What an index is to be; None: as it is, or the default.

    Attributes:
        dim: numbers of each vector; default: the model's width.
        stored: of each number; default: float32.
        search: default: exact.
        rescore: candidates for each result; default: of the kind of search.
        language: whose stems BM25 takes, or ``auto``; default: the run's, or that of most passages.
        weight: of BM25; default: the run's, or the usual one.
    """

    dim: int | None = None
    stored: Stored | None = None
    search: Method | None = None
    rescore: int | None = None
    language: str | None = None
    weight: float | None = None


@dataclasses.dataclass(frozen=True)
class Indexed:
    """What came of it, in passages.

    Attributes:
        header: of the index.
        encoded: new or changed ones.
        resumed: of these, the ones that an earlier run had encoded before it was cut.
        kept: ones whose vectors the index had.
        gone: texts that it had and that are no more.
        changed: whether anything is otherwise than before.
    """

    header: Header
    encoded: int
    resumed: int
    kept: int
    gone: int
    changed: bool


def find_maker(name: str) -> Maker:
    """The model of a run, by its verdict, or any other model.

    Raises:
        TokayError: there is no such model, or the run did not come to its verdict.
    """
    folder = Path(name).expanduser()
    if not (folder / MANIFEST).is_file():
        found = find_model(name)
        recorded = str(found.resolve()) if Path(name).expanduser().is_dir() else name
        return Maker(recorded, found, CorpusSettings(), None)
    run = Run(folder, writable=False)
    verdict = run.read_json("evaluate", "verdict")
    if not run.is_done("model"):
        raise TokayError(f"{folder} has no model yet; run 'tokay distill … --out {folder}' to the end")
    settings = resolve({}, config=folder / "run.toml")
    hybrid = Hybrid.from_json(run.read_json("evaluate", "hybrid")[verdict["use"]])
    return Maker(str(folder.resolve()), find_model(folder), settings.corpus, hybrid)


def update_index(
    model: str,
    corpus: str,
    out: Path,
    shape: Shape,
    *,
    backend: Backend | None = None,
    progress: Progress | None = None,
) -> Indexed:
    """Make an index, or bring one up to date.

    Args:
        model: a finished run, or whatever ``Embedder.load`` takes.
        corpus: whatever ``open_corpus`` takes.
        out: the index folder.
        shape: what it is to be.
        backend: that encodes; None: as before, or torch.
        progress: is told of documents and texts.

    Raises:
        TokayError: no such model or corpus, no stems of the language, a weight that cannot be one, ``out`` is not ours
            to write, or it holds vectors of another model, backend or width.
    """
    if shape.language is not None:
        check_language(shape.language, "--language")
    check_queries([], 1, weight=shape.weight)
    source, maker = open_corpus(corpus), find_maker(model)
    fingerprint = vector_space(maker.folder)
    if is_index(out):
        before = read_header(out)
        refuse_other_model(out, before.model, fingerprint, maker.name)
        backend = backend or before.model.backend
    backend = backend or "torch"
    embedder = Embedder.load(maker.name, backend=backend).of("passage")
    if is_two_sided(maker.folder) and is_index(out):  # its passages stay as they were read
        embedder.config = dataclasses.replace(embedder.config, max_tokens=before.model.cut)
    made = Made(name=maker.name, fingerprint=fingerprint, backend=backend, cut=embedder.config.max_tokens)
    return write_index(embedder, made, source, out, shape, maker=maker, progress=progress or Silent())


def write_index(
    embedder: Embedder, made: Made, source: Source, out: Path, shape: Shape, *, maker: Maker, progress: Progress
) -> Indexed:
    """As ``update_index``, with all that it names found and loaded."""
    lock = lock_folder(out, of="index", known=HEADER, lock=LOCK)
    try:
        return _Writing(embedder, made, out, shape, maker, progress).run(source)
    finally:
        os.close(lock)


class _Writing:
    """One version of an index, from the corpus to the header that makes it count."""

    def __init__(
        self, embedder: Embedder, made: Made, out: Path, shape: Shape, maker: Maker, progress: Progress
    ) -> None:
        self.embedder, self.made, self.out, self.maker, self.progress = embedder, made, out, maker, progress
        self.old = Index.open(out) if is_index(out) else None
        self.before = self.old.header if self.old else None
        self.dim, self.stored, self.search, self.rescore = self._shape(shape)
        self.language, self.weight = self._words(shape)
        for leftover in (out / ".new", *self._versions()):
            if self.before is None or leftover.name != self.before.data:
                shutil.rmtree(leftover, ignore_errors=True)
        self.recall: float | None = None
        self.new = out / ".new"
        self.new.mkdir()
        self.cache = _Cache(out / ".encoded", sha256_text(f"{made.model_dump_json()} {self.dim}"))

    def _versions(self) -> list[Path]:
        return sorted(self.out.glob("data-*"))

    def _shape(self, shape: Shape) -> tuple[int, Stored, Method, int]:
        """What the options say, then what the index is, then the defaults."""
        before, width = self.before, self.embedder.width
        if before is not None:
            _refuse_other_vectors(self.out, before, self.made, shape)
        dim = shape.dim or (before.dim if before else width)
        if not 1 <= dim <= width:
            raise TokayError(f"--dim is {dim}; this model has vectors of {width} numbers, so 1 to {width}")
        search = shape.search or (before.search if before else "exact")
        if search in PROPOSERS:
            PROPOSERS[search].check()
        usual = PROPOSERS[search].rescore if search in PROPOSERS else 1
        same = before is not None and before.search == search
        rescore = shape.rescore or (before.rescore if before is not None and same else usual)
        return dim, shape.stored or (before.stored if before else "float32"), search, rescore

    def _words(self, shape: Shape) -> tuple[str, float | None]:
        """The language and weight that were asked for, now or before; empty and None: neither was."""
        said = shape.language or (self.before.language if self.before else "")
        weight = shape.weight if shape.weight is not None else (self.before.weight if self.before else None)
        return "" if said == AUTO else said, weight

    def _as_asked(self, hybrid: Hybrid) -> Hybrid:
        """BM25 and its weight, but for what was asked for."""
        if self.language:
            hybrid = dataclasses.replace(hybrid, language=self.language)
        return hybrid.weighing(self.weight)

    def run(self, source: Source) -> Indexed:
        """Read, encode, make what searches, and let it count."""
        hashes, documents = self._read(source)
        if self.before is not None and self._is_as_before():
            self.cache.clear()
            shutil.rmtree(self.new)
            self.recall, self.hybrid = self.before.recall, self._as_asked(self.maker.hybrid or self.before.hybrid)
            if self.search in PROPOSERS and self.rescore != self.before.rescore:
                self._measure(self.out / self.before.data)
            header = self._header(self.before.data, hashes, documents, source.spec, self.before.files)
            if header != self.before:
                self._let_count(header)
            return Indexed(header, 0, 0, len(hashes), 0, header != self.before)
        old = self._old_rows()
        encoded = self._write_vectors(hashes, old)
        self._write_searches()
        gone = len(old.keys() - set(hashes))
        resumed = len(self.cache.taken)
        name = f"data-{1 + int(self.before.data.removeprefix('data-')) if self.before else 1:06d}"
        files = {p.relative_to(self.new).as_posix(): _on_disk(p) for p in sorted(self.new.rglob("*")) if p.is_file()}
        self.new.replace(self.out / name)
        header = self._header(name, hashes, documents, source.spec, files)
        self._let_count(header)
        for version in self._versions():
            if version.name != name:
                shutil.rmtree(version)
        self.cache.clear()
        return Indexed(header, encoded, resumed, len(hashes) - encoded, gone, True)

    def _header(self, data: str, hashes: list[str], documents: int, corpus: str, files: Mapping[str, int]) -> Header:
        return Header(
            format=FORMAT,
            data=data,
            model=self.made,
            dim=self.dim,
            stored=self.stored,
            search=self.search,
            rescore=self.rescore,
            recall=self.recall,
            passages=len(hashes),
            documents=documents,
            corpus=corpus,
            hybrid=self.hybrid,
            language=self.language,
            weight=self.weight,
            files=dict(files),
        )

    def _let_count(self, header: Header) -> None:
        text = json.dumps(header.model_dump(mode="json"), indent=1, ensure_ascii=False)
        write_atomically(self.out / HEADER, text + "\n")

    # -- passages -------------------------------------------------------------------------------------------------

    def _read(self, source: Source) -> tuple[list[str], int]:
        """Write ``passages.parquet``; the hash of each, and how many documents there are."""
        count = self.embedder.tokens.count
        write_corpus(source, self.maker.corpus, StageOutput(self.new), count_tokens=count, progress=self.progress)
        raw = (self.new / "passages.parquet").replace(self.new / "read.parquet")
        schema = schema_of(Passage).append(pa.field(HASH, pa.string()))
        hashes: list[str] = []
        documents: set[str] = set()
        with pq.ParquetWriter(self.new / "passages.parquet", schema, compression="zstd") as writer:
            for batch in pq.ParquetFile(raw).iter_batches():
                new = [self._hash(p) for p in from_batches(Passage, [batch])]
                columns = [*batch.columns, pa.array(new, pa.string())]
                writer.write_table(pa.table(columns, schema=schema), row_group_size=ROWS_PER_GROUP)
                hashes += new
                documents.update(batch.column("document_id").to_pylist())
        raw.unlink()
        return hashes, len(documents)

    def _hash(self, passage: Passage) -> str:
        written = self.embedder.config.prompts.write_passage(passage.text, passage.title)
        return sha256_text(f"{self.made.cut}\n{written}")

    def _is_as_before(self) -> bool:
        """Whether the passages are the same ones, to be found in the same way."""
        assert self.before is not None
        was = self.before
        same = (was.dim, was.stored, was.search) == (self.dim, self.stored, self.search)
        learned = self._as_asked(self.maker.hybrid or was.hybrid)
        same &= self.maker.hybrid is not None or (self.language, self.weight) == (was.language, was.weight)
        same &= all(getattr(was.hybrid, name) == getattr(learned, name) for name in ("k1", "b", "language"))
        return same and all(
            file_sha256(self.out / was.data / f"{name}.parquet") == file_sha256(self.new / f"{name}.parquet")
            for name in ("passages", "skipped", "duplicates")
        )

    # -- vectors --------------------------------------------------------------------------------------------------

    def _old_rows(self) -> dict[str, int]:
        """Content hash -> row, of the vectors that the index has."""
        if self.old is None:
            return {}
        table = pq.read_table(self.old.data / "passages.parquet", columns=[HASH])
        return {content: row for row, content in enumerate(table.column(0).to_pylist())}

    def _write_vectors(self, hashes: list[str], old: Mapping[str, int]) -> int:
        """Write ``vectors.npy`` and ``vectors.parquet``; returns how many passages were encoded."""
        shape = (len(hashes), self.dim)
        path = self.new / "vectors.npy"
        vectors = np.lib.format.open_memmap(path, mode="w+", dtype=self.stored, shape=shape)
        if self.old is not None:
            there = [i for i, content in enumerate(hashes) if content in old]
            for start in range(0, len(there), _BLOCK):
                rows = there[start : start + _BLOCK]
                vectors[rows] = self.old.vectors[[old[hashes[i]] for i in rows]]
        missing = {content: i for i, content in reversed([*enumerate(hashes)]) if content not in old}
        self.cache.take(missing, vectors)
        encoded = sum(content not in old for content in hashes)
        self._encode(hashes, missing, vectors)
        for i, content in enumerate(hashes):
            if content not in old and missing[content] != i:
                vectors[i] = vectors[missing[content]]  # the same text again
        vectors.flush()
        self._export(vectors, hashes)
        return encoded

    def _encode(self, hashes: list[str], missing: Mapping[str, int], vectors: NDArray[Any]) -> None:
        """Encode what neither the index nor the cache has, a window at a time."""
        rows = sorted(i for i in missing.values() if hashes[i] not in self.cache.taken)
        if not rows:
            return
        self.progress.start("encoding passages", len(rows))
        texts, titles = tee(self._passages(set(rows)))
        windows = self.embedder.stream(
            (p.text for p in texts), titles=(p.title for p in titles), dim=self.dim, progress=self.progress
        )
        at = 0
        for window in windows:
            some = rows[at : at + len(window)]
            if not np.isfinite(window).all():
                raise TokayError(f"{self.made.name} gives vectors that are not finite; its weights are damaged")
            vectors[some] = window
            self.cache.keep([hashes[i] for i in some], window)
            at += len(window)

    def _passages(self, rows: set[int]) -> Iterator[Passage]:
        file = pq.ParquetFile(self.new / "passages.parquet")
        batches = file.iter_batches(columns=schema_of(Passage).names)
        return (p for i, p in enumerate(from_batches(Passage, batches)) if i in rows)

    def _export(self, vectors: NDArray[Any], hashes: list[str]) -> None:
        """``vectors.parquet``: for databases and data frames."""
        kind = pa.list_(pa.float32(), self.dim)
        schema = pa.schema([("passage_id", pa.string()), (HASH, pa.string()), ("vector", kind)])
        ids = pq.read_table(self.new / "passages.parquet", columns=["passage_id"]).column(0)
        # vectors hardly compress, and a dictionary of them is as large as they are
        options: dict[str, Any] = {"compression": "none", "use_dictionary": False}
        with pq.ParquetWriter(self.new / "vectors.parquet", schema, **options) as writer:
            for start in range(0, len(hashes), _BLOCK):
                block = np.asarray(vectors[start : start + _BLOCK], np.float32)
                numbers = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), type=kind)
                some = slice(start, start + len(block))
                group = [pa.array(ids[some].to_pylist(), pa.string()), pa.array(hashes[some], pa.string()), numbers]
                writer.write_table(pa.table(group, schema=schema))

    # -- what searches --------------------------------------------------------------------------------------------

    def _write_searches(self) -> None:
        if self.search in PROPOSERS:
            self.progress.start(f"preparing the search by {self.search}", None)
            PROPOSERS[self.search].write(np.load(self.new / "vectors.npy", mmap_mode="r"), self.new)
            self._measure(self.new)
        self.progress.start("counting words", None)
        learned = self.maker.hybrid
        language = self.language or (learned.language if learned else self._most_spoken())
        k1, b = (learned.k1, learned.b) if learned else (K1, B)
        bm25 = BM25((f"{p.title} {p.text}" for p in self._every()), k1=k1, b=b, language=language)
        bm25.save(self.new / "bm25")
        vectors = np.load(self.new / "vectors.npy", mmap_mode="r")
        some = vectors[:: max(1, len(vectors) // 500)]
        self.hybrid = self._as_asked(learned or Hybrid.usual(spread_of(np.asarray(some, np.float32), vectors), bm25))

    def _most_spoken(self) -> str:
        return stems_for(p.text for p in self._every(LANGUAGE_SAMPLE))

    def _every(self, at_most: int | None = None) -> Iterator[Passage]:
        """All passages, or some that are evenly spread."""
        file = pq.ParquetFile(self.new / "passages.parquet")
        step = max(1, file.metadata.num_rows // at_most) if at_most else 1
        batches = file.iter_batches(columns=schema_of(Passage).names)
        yield from itertools.islice(from_batches(Passage, batches), 0, None, step)

    def _measure(self, data: Path) -> None:
        """How much of the exact search's result this one finds; a warning where that is little."""
        vectors = np.load(data / "vectors.npy", mmap_mode="r")
        self.recall = recall_of(PROPOSERS[self.search].open(data), vectors, self.rescore)
        if self.recall < LITTLE:
            self.progress.say(
                f"the search by {self.search} finds {self.recall:.1%} of the ten nearest here; for more, double "
                f"--rescore {self.rescore}, or take another --search: the passages lie close to each other"
            )


class _Cache:
    """Vectors of a run that was cut, so that the next one need not encode them again."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.parts = folder, folder / key
        self.taken: set[str] = set()
        for other in folder.glob("*"):
            if other != self.parts:
                shutil.rmtree(other)

    def take(self, missing: Mapping[str, int], vectors: NDArray[Any]) -> None:
        """Fill in what is here of the rows that are missing."""
        for path in sorted(self.parts.glob("*.npz")):
            with np.load(path, allow_pickle=False) as part:
                pairs = zip(part["hashes"].tolist(), part["vectors"], strict=True)
                for content, vector in pairs:
                    if content in missing:
                        vectors[missing[content]] = vector
                        self.taken.add(content)

    def keep(self, hashes: Iterable[str], vectors: NDArray[Any]) -> None:
        """Store one window."""
        self.parts.mkdir(parents=True, exist_ok=True)
        number = len(list(self.parts.glob("*.npz")))
        temporary = self.parts / "part.tmp"
        with temporary.open("wb") as file:
            np.savez(file, hashes=np.array(list(hashes)), vectors=vectors)
        temporary.replace(self.parts / f"{number:06d}.npz")

    def clear(self) -> None:
        """The index has them now."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _refuse_other_vectors(folder: Path, before: Header, made: Made, shape: Shape) -> None:
    """Raise where an index cannot be updated because its vectors are others than the ones that would come."""
    refuse_other_model(folder, before.model, made.fingerprint, made.name)
    for what, was, now in (
        ("vectors of backend", before.model.backend, made.backend),
        ("vectors of dimension", before.dim, shape.dim or before.dim),
        ("numbers of type", before.stored, shape.stored or before.stored),
    ):
        if was != now:
            raise TokayError(
                f"{folder} holds {what} {was}, and {now} was asked for; leave that option out to update the index, or "
                "make another one with --out and a new folder"
            )


def _on_disk(path: Path) -> int:
    """The size of a file, once its bytes are safe."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size
