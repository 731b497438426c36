"""Tables of texts to learn from, whatever the format: JSONL, CSV, TSV, Parquet, plain lines, datasets of the Hub.

Unlike the corpus's readers these know no columns of their own: who reads a table says what it needs (``find_columns``),
and a row that cannot be read is an error unless the caller wants to be told of it.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import gzip
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokay.corpus.document import clean_text, one_line
from tokay.corpus.rows import decode_utf8, hub_stream, json_object
from tokay.errors import MissingExtra, TokayError, did_you_mean

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".tsv", ".parquet", ".txt")
SPLIT = "split"
"""The column that says, in files of several splits, which one a row is of."""

Row = tuple[int, Mapping[str, Any]]
"""Line or row number, from 1, and the row by column."""

Report = Callable[[int, str], None]
"""Is called with the number of a row that cannot be read, and the reason."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table that has been found; its rows are read, as often as wanted, one after the other.

    Attributes:
        name: of the file or dataset, for messages.
        unit: what its numbers count: lines of text files, else rows.
        columns: of JSONL and of the Hub, those of the first rows.
        rows: reads some columns; is told where to report what cannot be read.
        split: only rows that say so in the column ``split`` are read; empty: all.
    """

    name: str
    unit: str
    columns: tuple[str, ...]
    rows: Callable[[Sequence[str], Report], Iterator[Row]]
    split: str = ""

    def read(self, columns: Sequence[str], report: Report | None = None) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Number and values of each row, in the order of ``columns``; a value that a row lacks is None.

        Args:
            columns: which ones; others are not read where the format allows it.
            report: is told of rows that cannot be read; None: they are errors.

        Raises:
            TokayError: the file breaks off, or no row is of the split.
        """
        wanted = [*columns, SPLIT] if self.split and SPLIT not in columns else columns
        others: dict[str, None] = {}
        matched = False
        for number, row in self.rows(wanted, report or self._fail):
            if self.split and str(row.get(SPLIT)) != self.split:
                others.setdefault(str(row.get(SPLIT)))
                continue
            matched = True
            yield number, tuple(row.get(column) for column in columns)
        if others and not matched:
            raise TokayError(
                f"{self.name} has no rows of the split {self.split!r}; it has {_some(others)}: name one with split = …"
                f"{did_you_mean(self.split, others)}"
            )

    def _fail(self, number: int, reason: str) -> None:
        raise TokayError(f"{self.name} {self.unit} {number}: {reason}")


def open_table(source: str, *, split: str = "") -> Table:
    """Find a table and its columns.

    Args:
        source: a file, a folder that has one file a split, ``hf:DATASET`` or ``hf:DATASET:SPLIT``.
        split: which one, where there are several; empty: ``train`` (on the Hub: the first, where there is no such).

    Raises:
        TokayError: there is no such file or split, it is empty, or of a kind that is not read.
    """
    if source.startswith("hf:"):
        return _open_hub(source.removeprefix("hf:"), split)
    path = Path(source).expanduser()
    if path.is_dir():
        return dataclasses.replace(_open_file(_file_of(path, split or "train")), split="")
    table = _open_file(path)
    if SPLIT in table.columns:
        return dataclasses.replace(table, split=split or "train")
    if split:
        raise TokayError(f"{path.name} has no column {SPLIT!r}, so no split {split!r}; it has {_some(table.columns)}")
    return table


def is_table(path: Path) -> bool:
    """Whether the name is that of a table."""
    return path.name.lower().endswith(SUFFIXES)


def _file_of(folder: Path, split: str) -> Path:
    found = [path for suffix in SUFFIXES if (path := folder / f"{split}{suffix}").is_file()]
    if len(found) == 1:
        return found[0]
    there = sorted(path.name for path in folder.iterdir() if is_table(path))
    raise TokayError(
        f"{folder} has {len(found) or 'no'} tables of the split {split!r} ({_some(there)}); expected one file "
        f"{split}.parquet, .jsonl, .csv, .tsv or .txt: name it, or a split of these"
    )


def _open_file(path: Path) -> Table:
    name = path.name.lower()
    if not path.is_file():
        raise TokayError(f"there is no file {path}; expected a table ({' '.join(SUFFIXES)}), a folder or hf:DATASET")
    if not is_table(path):
        raise TokayError(f"{path} is of another kind; expected a table ({' '.join(SUFFIXES)}), a folder or hf:DATASET")
    if name.endswith(".parquet"):
        return Table(path.name, "row", _parquet_columns(path), functools.partial(_parquet_rows, path))
    if name.endswith((".csv", ".tsv")):
        return Table(path.name, "line", _csv_columns(path), functools.partial(_csv_rows, path))
    if name.endswith(".txt"):
        return Table(path.name, "line", ("text",), functools.partial(_txt_rows, path))
    rows = functools.partial(_jsonl_rows, path)
    return Table(path.name, "line", _first_columns(rows, path.name), rows)


def _first_columns(rows: Callable[[Sequence[str], Report], Iterator[Row]], name: str) -> tuple[str, ...]:
    reasons: list[str] = []
    first = itertools.islice(rows((), lambda number, reason: reasons.append(f"line {number}: {reason}")), 100)
    columns = tuple(dict.fromkeys(str(column) for _, row in first for column in row))
    if not columns and reasons:
        raise TokayError(f"{name} {reasons[0]}")
    if not columns:
        raise TokayError(f"{name} is empty; expected rows with columns")
    return columns


# -- formats --------------------------------------------------------------------------------------------------------


def _lines(path: Path, report: Report) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 file, without those that cannot be decoded."""
    opener: Callable[..., Any] = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rb") as file:
        for number, line in enumerate(file, 1):
            text, reason = decode_utf8(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
            if reason:
                report(number, reason)
            elif text.strip():
                yield number, text


def _jsonl_rows(path: Path, columns: Sequence[str], report: Report) -> Iterator[Row]:
    for number, line in _lines(path, report):
        row, reason = json_object(line)
        if row is None:
            report(number, reason)
        else:
            yield number, row


def _txt_rows(path: Path, columns: Sequence[str], report: Report) -> Iterator[Row]:
    return ((number, {"text": line.strip()}) for number, line in _lines(path, report))


def _csv_columns(path: Path) -> tuple[str, ...]:
    expected = "expected a line of column names, then rows"

    def fail(number: int, reason: str) -> None:
        raise TokayError(f"{path.name} line {number}: {reason}; {expected}")

    header = next((line for _, line in _lines(path, fail)), None)
    if header is None:
        raise TokayError(f"{path.name} is empty; {expected}")
    try:
        return tuple(name.strip() for name in next(csv.reader([header], delimiter=_delimiter(path, header))))
    except csv.Error as error:
        raise TokayError(f"{path.name} has a first line that is not CSV ({error}); {expected}") from error


def _csv_rows(path: Path, columns: Sequence[str], report: Report) -> Iterator[Row]:
    names = _csv_columns(path)
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            above, header = next((number, line) for number, line in enumerate(file, 1) if line.strip())
            reader = csv.reader(file, delimiter=_delimiter(path, header), strict=True)
            yield from _csv_cells(reader, names, above, report)
    except UnicodeDecodeError as error:
        raise TokayError(f"{path.name} is not UTF-8: {error.reason} at byte {error.start}") from error
    finally:
        csv.field_size_limit(limit)


def _csv_cells(reader: Any, names: Sequence[str], above: int, report: Report) -> Iterator[Row]:
    while True:
        number = above + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            report(number, f"not CSV: {error}")
            continue
        if len(cells) > len(names):
            report(number, f"{len(cells)} cells under {len(names)} columns; quote text that holds the delimiter")
        elif cells:
            yield number, dict(zip(names, cells, strict=False))


def _delimiter(path: Path, header: str) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)


def _parquet_columns(path: Path) -> tuple[str, ...]:
    try:
        with pq.ParquetFile(path) as file:
            if not file.metadata.num_rows:
                raise TokayError(f"{path.name} is empty; expected rows")
            return tuple(file.schema_arrow.names)
    except (pa.ArrowException, OSError) as error:
        raise TokayError(f"{path.name} cannot be read as Parquet: {one_line(str(error))}") from error


def _parquet_rows(path: Path, columns: Sequence[str], report: Report) -> Iterator[Row]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024, columns=list(dict.fromkeys(columns))):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise TokayError(
            f"{path.name} cannot be read beyond row {number}: {one_line(str(error))}; fetch or write it again"
        ) from error


def _open_hub(name: str, split: str) -> Table:
    dataset, _, written = name.partition(":")
    if not dataset:
        raise TokayError("hf: names no dataset; expected hf:DATASET or hf:DATASET:SPLIT")
    if split and written and split != written:
        raise TokayError(f"hf:{name} and split = {split!r} name two splits; leave one of them out")
    rows = functools.partial(_hub_rows, dataset, written or split)
    return Table(f"hf:{dataset}", "row", _first_columns(rows, f"hf:{dataset}"), rows)


def _hub_rows(name: str, split: str, columns: Sequence[str], report: Report) -> Iterator[Row]:
    number = 0
    try:
        for number, row in enumerate(hub_stream(name, split), 1):
            yield number, row
    except (TokayError, MissingExtra, GeneratorExit):
        raise
    except Exception as error:  # of the Hub, the network or a file: half a dataset must not pass for the whole
        raise TokayError(
            f"hf:{name} broke off after {number} rows ({one_line(str(error))[:300]}); run again"
        ) from error


# -- columns --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Role:
    """What a column is for, and the names by which it is known: tiers, of which the first that is there counts."""

    name: str
    known: tuple[tuple[str, ...], ...]
    optional: bool = False


QUERY = Role("query", (("query", "question", "title", "anchor"),))
POSITIVE = Role("positive", (("positive", "answer", "body", "text"),))


def find_columns(
    table: Table, roles: Sequence[Role], renames: Mapping[str, str], *, also: Sequence[str] = ()
) -> dict[str, str]:
    """Role -> column: what ``renames`` says, else the one column that is known by such a name, whatever its capitals.

    Args:
        table: whose columns.
        roles: what is needed.
        renames: role -> column, by the user.
        also: further roles that ``renames`` may name.

    Raises:
        TokayError: a column is missing or could be one of several; the message lists the columns.
    """
    has = f"{table.name} has the columns {_some(table.columns)}"
    names = [*(role.name for role in roles), *also]
    for role_name, column in renames.items():
        if role_name not in names:
            raise TokayError(
                f"columns names {role_name!r}, which is not read here; known: {', '.join(names)}"
                f"{did_you_mean(role_name, names)}"
            )
        if column not in table.columns:
            raise TokayError(f"{has}; {role_name} = {column!r} is not among them{did_you_mean(column, table.columns)}")
    found = dict(renames)
    free = [column for column in table.columns if column not in renames.values()]
    for role in roles:
        if role.name in found:
            continue
        tiers = ([c for c in free if c.strip().casefold() in tier] for tier in role.known)
        columns = next((tier for tier in tiers if tier), [])
        mend = f'columns = {{ {role.name} = "COLUMN" }}'
        if len(columns) > 1:
            raise TokayError(f"{has}; {_some(columns)} could each be the {role.name}: say which, {mend}")
        if columns:
            found[role.name] = columns[0]
        elif not role.optional:
            known = ", ".join(name for tier in role.known for name in tier)
            raise TokayError(f"{has}; expected one for the {role.name} ({known}): say which, {mend}")
    return found


def _some(names: Iterable[str], most: int = 20) -> str:
    """The names in a row, cut where there are very many."""
    listed = [one_line(str(name)) for name in names]
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(listed[:most]) or "none") + rest


# -- values ---------------------------------------------------------------------------------------------------------


def text_of(value: Any) -> tuple[str, str]:
    """A cell's text, cleaned, and an empty reason; or the reason why there is none."""
    if value is None:
        return "", "is missing"
    if value != value:
        return "", "is NaN"
    if not isinstance(value, str):
        return "", f"is of type {type(value).__name__}, not text"
    text = clean_text(value)
    return text, "" if text else "is empty"


def label_of(value: Any) -> tuple[str, str]:
    """A cell's class as text, and an empty reason; or the reason why there is none."""
    if isinstance(value, bool | int):
        return str(int(value)), ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value)), ""
    return text_of(value)


class Faults:
    """Collects rows that cannot be trained on, so that one error tells of all of them."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._numbers: dict[str, list[int]] = {}  # reason -> the first rows
        self._counts: dict[str, int] = {}

    def add(self, number: int, reason: str) -> None:
        """A row, and what is wrong with it."""
        self._counts[reason] = self._counts.get(reason, 0) + 1
        first = self._numbers.setdefault(reason, [])
        if len(first) < 5:
            first.append(number)

    def check(self) -> None:
        """Raise a TokayError if there were any: the first row of each fault, and how many there are."""
        if not self._counts:
            return
        said = []
        for reason, numbers in self._numbers.items():
            count = self._counts[reason]
            more = f" ({count:,} rows, first {', '.join(map(str, numbers))})" if count > 1 else ""
            said.append(f"{self._table.unit} {numbers[0]}: {reason}{more}")
        if len(said) > 3:
            said[3:] = [f"and {len(said) - 3} faults of other kinds"]
        raise TokayError(f"{self._table.name} {'; '.join(said)}; mend or remove what cannot be used")
