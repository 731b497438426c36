"""Tables whose rows are documents: JSONL, CSV, Parquet, BEIR folders, datasets of the Hub."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokay.corpus.document import Block, RawDocument, Report, lay_out, one_line
from tokay.errors import MissingExtra, TokayError, did_you_mean
from tokay.records import Skipped

TEXT_COLUMNS = ("text", "body", "content", "passage", "document", "abstract")
TITLE_COLUMNS = ("title", "name", "heading", "subject")
ID_COLUMNS = ("_id", "id", "docid")
DOCUMENT_COLUMNS = ("doc_id", "document_id", "url")
"""What several rows may share: chunks that someone made of one document. Alone, the column names the row, too."""

Row = tuple[int, Mapping[str, Any]]
"""Line or row number, from 1, and the row by column."""


def read_jsonl(path: Path, report: Report) -> Iterator[RawDocument]:
    """One JSON object a line, gzip-compressed where the name ends in .gz; lines may be of any length."""
    return _documents(_jsonl_rows(path, report), path.name, _stem(path), report)


def read_csv(path: Path, report: Report) -> Iterator[RawDocument]:
    """A table with a header line; the delimiter is the commonest of comma, semicolon and tab in it.

    Raises:
        TokayError: the header has no text column.
    """
    return _documents(_csv_rows(path, report), path.name, _stem(path), report)


def read_parquet(path: Path, report: Report) -> Iterator[RawDocument]:
    """A Parquet file, read batch by batch; columns that nothing is taken from are not read.

    Raises:
        TokayError: it has no text column.
    """
    return _documents(_parquet_rows(path, report), path.name, _stem(path), report)


def read_hub(name: str, split: str, report: Report) -> Iterator[RawDocument]:
    """A dataset of the Hugging Face Hub, or of a local folder in its layout, streamed.

    Args:
        name: the dataset, or the folder.
        split: such as ``test``; empty: ``train`` where there is one, else the first.
        report: is told of the rows that cannot be used.

    Raises:
        MissingExtra: the package ``datasets`` is not installed.
        TokayError: there is no such dataset or split, or it has no text column.
    """
    return _documents(_hub_rows(name, split), name, name.rstrip("/").rpartition("/")[2], report)


# -- from rows to documents ---------------------------------------------------------------------------------


def _documents(rows: Iterable[Row], source: str, stem: str, report: Report) -> Iterator[RawDocument]:
    first_seen: dict[bytes, int] = {}  # 16 bytes of hash: ids may be long, and there may be many
    for number, row in rows:
        text, reason = _text(row)
        if reason:
            report(Skipped(source, number, reason))
            continue
        own, document = one_line(_first(row, ID_COLUMNS)), one_line(_first(row, DOCUMENT_COLUMNS))
        row_id = own or document or f"{stem}:{number}"
        if not own and _hash(row_id) in first_seen:
            row_id = f"{row_id}:{number}"  # a further row of a document
        if _hash(row_id) in first_seen:
            report(Skipped(source, number, f"duplicate id {row_id!r}, first seen on line {first_seen[_hash(row_id)]}"))
            continue
        first_seen[_hash(row_id)] = number
        title = one_line(_first(row, TITLE_COLUMNS))
        yield RawDocument(document or row_id, title, source, lay_out([Block(text)]), row_id)


def _hash(row_id: str) -> bytes:
    return hashlib.blake2b(row_id.encode(), digest_size=16).digest()


def _text(row: Mapping[str, Any]) -> tuple[str, str]:
    """The row's text, or the reason why there is none."""
    column = _column(row, TEXT_COLUMNS)
    if column is None:
        found = ", ".join(map(str, row)) or "nothing"
        return "", one_line(f"no text: found {found[:200]}; expected one of {', '.join(TEXT_COLUMNS)}")
    value = row[column]
    if value is None:
        return "", f"empty {column}"
    if not isinstance(value, str):
        return "", f"{column} is of type {type(value).__name__}, expected a string"
    return value, "" if lay_out([Block(value)]) else f"empty {column}"


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str:
    column = _column(row, names)
    value = None if column is None else row[column]
    return str(value) if isinstance(value, str | int | float) else ""


def _column(columns: Iterable[str], names: Sequence[str]) -> str | None:
    """The column that stands first in ``names``, whatever its capitals."""
    by_name = {str(column).strip().casefold(): column for column in columns}
    return next((by_name[name] for name in names if name in by_name), None)


def _need_text(columns: Sequence[str], source: str) -> None:
    if _column(columns, TEXT_COLUMNS) is None:
        raise TokayError(
            f"{source} has the columns {', '.join(columns)}; expected one of {', '.join(TEXT_COLUMNS)}: "
            f"rename the column that holds the text"
        )


def _stem(path: Path) -> str:
    return path.name.partition(".")[0] or path.name


# -- lines --------------------------------------------------------------------------------------------------


def _jsonl_rows(path: Path, report: Report) -> Iterator[Row]:
    with _lines(path, report) as lines:
        for number, text, reason in lines:
            if not text.strip() and not reason:
                continue
            row = None
            if not reason:
                row, reason = json_object(text)
            if row is None:
                report(Skipped(path.name, number, reason))
            else:
                yield number, row


def json_object(text: str) -> tuple[dict[str, Any] | None, str]:
    """The object on a line and an empty reason; or None and the reason, with the column."""
    try:
        value = json.loads(text.rstrip("\r\n"))  # or what is missing at the end would be missing in a second line
    except json.JSONDecodeError as error:
        return None, f"not JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
        return None, one_line(f"not JSON that can be read: {error}")
    if not isinstance(value, dict):
        return None, f"not a JSON object but of type {type(value).__name__}"
    return value, ""


@contextlib.contextmanager
def _lines(path: Path, report: Report) -> Iterator[Iterator[tuple[int, str, str]]]:
    """Numbered lines of a UTF-8 file, each with a reason where it cannot be decoded."""
    opener: Callable[..., Any] = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rb") as file:
        yield _decoded(file, path.name, report)


def _decoded(file: IO[bytes], source: str, report: Report) -> Iterator[tuple[int, str, str]]:
    number, offset = 0, 0
    try:
        for line in file:
            number += 1
            yield number, *decode_utf8(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, offset)
            offset += len(line)
    except (EOFError, OSError, zlib.error) as error:  # a gzip file cut short or damaged
        report(Skipped(source, number + 1, one_line(f"cannot be read on from here: {error}")))


def decode_utf8(data: bytes, offset: int = 0) -> tuple[str, str]:
    """The text and an empty reason, or a text with replacements and the reason not to use it."""
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError as error:
        where = f"byte 0x{data[error.start]:02x} at offset {offset + error.start}"
        return data.decode("utf-8", "replace"), f"not UTF-8: {where}; save the file as UTF-8"


# -- CSV ----------------------------------------------------------------------------------------------------


def _csv_rows(path: Path, report: Report) -> Iterator[Row]:
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        with _lines(path, report) as lines:
            yield from _csv_records(lines, path, report)
    finally:
        csv.field_size_limit(limit)


def _csv_records(lines: Iterator[tuple[int, str, str]], path: Path, report: Report) -> Iterator[Row]:
    first = next((line for line in lines if line[1].strip()), None)
    if first is None:
        return
    skipped_before, header, reason = first
    if reason:
        report(Skipped(path.name, 0, reason))
        return
    reasons: list[str] = []  # of the lines that the parser took in since the last row
    reader = csv.reader(_note_reasons(lines, reasons), delimiter=_delimiter(path, header), strict=True)
    try:
        columns = next(csv.reader([header], delimiter=_delimiter(path, header)))
    except csv.Error as error:
        raise TokayError(
            f"{path.name} has a first line that is not CSV ({error}); expected column names, and lines that end in a "
            f"line feed"
        ) from error
    _need_text(columns, path.name)
    while True:
        number = skipped_before + reader.line_num + 1
        reasons.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            report(Skipped(path.name, number, one_line(f"not CSV: {error}")))
            continue
        if reasons:
            report(Skipped(path.name, number, reasons[0]))
        elif len(cells) > len(columns):
            reason = f"{len(cells)} cells in a table of {len(columns)} columns; quote text that holds the delimiter"
            report(Skipped(path.name, number, reason))
        elif cells:
            yield number, dict(zip(columns, cells, strict=False))


def _note_reasons(lines: Iterator[tuple[int, str, str]], reasons: list[str]) -> Iterator[str]:
    for _, text, reason in lines:
        if reason:
            reasons.append(reason)
        yield text


def _delimiter(path: Path, header: str) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    return max(",;\t", key=header.count)


# -- Parquet and the Hub ------------------------------------------------------------------------------------


def _parquet_rows(path: Path, report: Report) -> Iterator[Row]:
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowException as error:
        report(Skipped(path.name, 0, one_line(f"cannot be read as Parquet: {error}")))
        return
    with file:
        names = file.schema_arrow.names
        _need_text(names, path.name)
        kinds = (TEXT_COLUMNS, TITLE_COLUMNS, ID_COLUMNS, DOCUMENT_COLUMNS)
        wanted = [column for kind in kinds if (column := _column(names, kind)) is not None]
        number = 0
        try:
            for batch in file.iter_batches(batch_size=1024, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            report(Skipped(path.name, number + 1, one_line(f"cannot be read on from here: {error}")))


def _hub_rows(name: str, split: str) -> Iterator[Row]:
    rows = hub_stream(name, split)
    number = 0
    try:
        for number, row in enumerate(rows, start=1):
            if number == 1:
                _need_text(list(row), f"hf:{name}")
            yield number, row
    except (TokayError, GeneratorExit):
        raise
    except Exception as error:  # of the Hub, the network or a file: half a dataset must not pass for the whole
        raise TokayError(
            f"hf:{name} broke off after {number} rows ({one_line(str(error))[:300]}); run again"
        ) from error


def hub_stream(name: str, split: str, configuration: str = "") -> Iterable[Mapping[str, Any]]:
    """The rows of one split, of a configuration where there are several, from the network or a folder, as asked for."""
    load = _datasets()
    try:
        splits = load(name, *([configuration] if configuration else []), streaming=True)
    except Exception as error:  # the library raises whatever the Hub, the network or a file format makes it raise
        raise TokayError(
            f"hf:{name} cannot be opened ({one_line(str(error))[:300]}); expected a dataset of the Hugging "
            f"Face Hub or a folder in its layout, as hf:NAME or hf:NAME:SPLIT"
        ) from error
    chosen = split or ("train" if "train" in splits else next(iter(splits)))
    if chosen not in splits:
        raise TokayError(
            f"hf:{name} has no split {chosen!r}; expected one of {', '.join(splits)}, as hf:{name}:SPLIT"
            f"{did_you_mean(chosen, splits)}"
        )
    rows: Iterable[Mapping[str, Any]] = splits[chosen]
    return rows


def _datasets() -> Callable[..., Any]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtra("reading hf:DATASET", "hub", "datasets") from error
    load: Callable[..., Any] = load_dataset
    return load
