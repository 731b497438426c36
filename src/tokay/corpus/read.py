"""The corpus stage: documents to passages, with what was skipped and what was dropped as said before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

from tokay.corpus.chunk import CountTokens, chunk, whole
from tokay.corpus.dedup import Twin, TwinFinder
from tokay.corpus.document import RawDocument, Report
from tokay.corpus.source import Source
from tokay.errors import TokayError
from tokay.progress import Progress, track
from tokay.records import Duplicate, Passage, Skipped, from_batches
from tokay.settings import CorpusSettings
from tokay.store import StageOutput

_ALL = "all-passages"


def write_corpus(
    source: Source,
    settings: CorpusSettings,
    out: StageOutput,
    *,
    count_tokens: CountTokens,
    progress: Progress,
) -> None:
    """Read a corpus and write the tables ``passages``, ``skipped`` and ``duplicates``.

    Passages are streamed to a temporary table and from there, without the duplicates, to their own: no more
    than one document and the hashes of all passages are in memory. The same input gives the same bytes.

    Args:
        source: from ``open_corpus``.
        settings: how to split and what to drop.
        out: where to; the temporary table is deleted at the end.
        count_tokens: of the tokenizer of the model to be trained.
        progress: is told of every document, and of the counts in the end.

    Raises:
        TokayError: not one passage came of it.
    """
    as_they_are = source.keep_whole and settings.chunk != "always"
    finder = TwinFinder(0.0 if as_they_are else settings.near_duplicates)
    skipped = _SkippedFile(out.path / "skipped.jsonl")
    split = _splitter(source, settings, count_tokens)
    documents = track(source.documents(skipped.add), progress, f"reading {source.spec}")
    read = out.write(_ALL, Passage, _passages(documents, split, finder, skipped.add))
    skipped.close()
    if not read:
        raise TokayError(_nothing(source, skipped))

    twins = finder.twins() if _look_for_twins(source, settings) else {}
    temporary = out.path / f"{_ALL}.parquet"
    kept = out.write("passages", Passage, (p for number, p in enumerate(_again(temporary)) if number not in twins))
    out.write("skipped", Skipped, skipped.rows())
    out.write("duplicates", Duplicate, _duplicates(temporary, twins))
    temporary.unlink()
    skipped.path.unlink()
    progress.say(_summary(kept, skipped, twins))


def _look_for_twins(source: Source, settings: CorpusSettings) -> bool:
    """BEIR rows are named by judgments that others made: even identical ones stay."""
    if source.kind == "beir":
        return settings.chunk == "always" and settings.near_duplicates > 0
    return source.kind == "python" or settings.near_duplicates > 0


def _splitter(
    source: Source, settings: CorpusSettings, count_tokens: CountTokens
) -> Callable[[RawDocument], Iterator[Passage]]:
    if settings.chunk == "never" or (settings.chunk == "auto" and source.keep_whole):
        return lambda document: iter([whole(document)])
    return lambda document: chunk(document, budget=settings.passage_tokens, count_tokens=count_tokens)


def _passages(
    documents: Iterator[RawDocument],
    split: Callable[[RawDocument], Iterator[Passage]],
    finder: TwinFinder,
    report: Report,
) -> Iterator[Passage]:
    taken: set[bytes] = set()  # 64 bits of hash of each id
    for document in documents:
        for passage in split(document):
            known = hashlib.blake2b(passage.passage_id.encode(), digest_size=8).digest()
            if known in taken:
                report(Skipped(passage.source, 0, f"passage id {passage.passage_id!r} is taken by an earlier passage"))
                continue
            taken.add(known)
            finder.add(passage.text, passage.sha256)
            yield passage


def _again(table: Path) -> Iterator[Passage]:
    with pq.ParquetFile(table) as file:
        yield from from_batches(Passage, file.iter_batches(batch_size=1024))


def _duplicates(table: Path, twins: dict[int, Twin]) -> Iterator[Duplicate]:
    wanted = {twin.kept for twin in twins.values()}
    kept_ids: dict[int, str] = {}
    with pq.ParquetFile(table) as file:
        batches = file.iter_batches(columns=["passage_id"])
        ids = (passage_id for batch in batches for passage_id in batch.column(0).to_pylist())
        for number, passage_id in enumerate(ids):
            if number in wanted:
                kept_ids[number] = passage_id
            elif number in twins:
                twin = twins[number]
                yield Duplicate(passage_id, kept_ids[twin.kept], twin.kind, twin.similarity)


class _SkippedFile:
    """Keeps records on disk until the passages are through, since there may be as many as rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.first: Skipped | None = None
        self._file = path.open("w", encoding="utf-8", errors="surrogatepass")

    def add(self, skipped: Skipped) -> None:
        self.count += 1
        self.first = self.first or skipped
        self._file.write(json.dumps([skipped.source, skipped.line, skipped.reason]) + "\n")

    def close(self) -> None:
        self._file.close()

    def rows(self) -> Iterator[Skipped]:
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                yield Skipped(*json.loads(line))


def _nothing(source: Source, skipped: _SkippedFile) -> str:
    what = f"nothing usable in {source.spec}: looked for {source.expected}"
    if skipped.first is None:
        return f"{what}; found none: name another corpus"
    return f"{what}; {skipped.count:,} files or rows skipped, first: {_where(skipped.first)}"


def _where(skipped: Skipped) -> str:
    line = f" line {skipped.line}" if skipped.line else ""
    return f"{skipped.source}{line}: {skipped.reason}"


def _summary(kept: int, skipped: _SkippedFile, twins: dict[int, Twin]) -> str:
    exact = sum(twin.kind == "exact" for twin in twins.values())
    line = f"{kept:,} passages; dropped {exact:,} exact and {len(twins) - exact:,} near duplicates"
    if skipped.first is None:
        return f"{line}; nothing skipped"
    return f"{line}; {skipped.count:,} files or rows skipped, first: {_where(skipped.first)}"
