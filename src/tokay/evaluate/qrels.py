"""Labels that a user brings, and the BEIR folder that a run leaves."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokay.errors import TokayError
from tokay.records import Passage


@dataclasses.dataclass(frozen=True)
class Labels:
    """Queries with at least one relevant passage of the corpus, their graded labels, and what was left out, counted."""

    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    dropped: dict[str, int]


def read_labels(queries: str, qrels: str, *, known_ids: set[str], split: str = "test") -> Labels:
    """Read queries and their relevance labels.

    Args:
        queries: ``.jsonl`` (``_id``, ``text``), ``.tsv`` (id, text) or ``.parquet`` (``_id``, ``text``).
        qrels: BEIR ``.tsv`` (header, then query-id, corpus-id, score), TREC (query, 0, passage, grade) or ``.parquet``
            (query_id, corpus_id, score and perhaps split).
        known_ids: the corpus's passage ids.
        split: rows of this split are used where a ``split`` column says so.

    Raises:
        TokayError: a missing or unreadable file, a row that is not as described, or no label that fits the corpus.
    """
    texts = dict(_queries(_existing(queries, "--queries")))
    wanted: dict[str, dict[str, int]] = {}
    dropped = {
        "labels of unknown passages": 0,
        "labels of unknown queries": 0,
        "queries without a relevant passage": 0,
    }
    for query_id, passage_id, grade in _qrels(_existing(qrels, "--qrels"), split):
        if passage_id not in known_ids:
            dropped["labels of unknown passages"] += 1
        elif query_id not in texts:
            dropped["labels of unknown queries"] += 1
        else:
            wanted.setdefault(query_id, {})[passage_id] = grade
    kept = {q: grades for q, grades in wanted.items() if any(grade > 0 for grade in grades.values())}
    dropped["queries without a relevant passage"] = len(wanted) - len(kept)
    if len(kept) < 2:
        raise TokayError(
            f"{qrels}: {len(kept)} queries have a relevant passage of this corpus ({dropped}); expected the ids of the "
            "corpus's _id column and of the queries' _id column"
        )
    return Labels({q: texts[q] for q in kept}, kept, dropped)


def check_labels(queries: str, qrels: str) -> None:
    """Raise what ``read_labels`` would raise of the files themselves, before any work is done."""
    for _ in _queries(_existing(queries, "--queries")):
        pass
    for _ in _qrels(_existing(qrels, "--qrels"), "test"):
        pass


def _existing(name: str, option: str) -> Path:
    path = Path(name).expanduser()
    if not name:
        raise TokayError(f"{option} is missing; --queries and --qrels come together")
    if not path.is_file():
        raise TokayError(f"{option} {name}: there is no such file")
    return path


def _queries(path: Path) -> Iterator[tuple[str, str]]:
    if path.suffix == ".parquet":
        yield from ((str(r["_id"]), str(r["text"])) for r in _parquet(path, ("_id", "text")))
    elif path.suffix == ".jsonl":
        for number, line in _lines(path):
            try:
                row = json.loads(line)
                yield str(row["_id"]), str(row["text"])
            except (ValueError, KeyError, TypeError) as error:
                raise TokayError(
                    f'{path} line {number}: expected {{"_id": …, "text": …}}, got {line[:80]!r}'
                ) from error
    elif path.suffix == ".tsv":
        for number, line in _lines(path):
            query_id, tab, text = line.partition("\t")
            if not tab:
                raise TokayError(f"{path} line {number}: expected id, a tab, and the text, got {line[:80]!r}")
            yield query_id, text
    else:
        raise TokayError(f"--queries {path}: expected a .jsonl, .tsv or .parquet file")


def _qrels(path: Path, split: str) -> Iterator[tuple[str, str, int]]:
    if path.suffix == ".parquet":
        for row in _parquet(path, ("query_id", "corpus_id", "score")):
            if row.get("split", split) in (split, None):
                yield str(row["query_id"]), str(row["corpus_id"]), int(row["score"])
        return
    for number, line in _lines(path):
        cells = line.split("\t") if "\t" in line else line.split()
        if number == 1 and len(cells) == 3 and not _is_number(cells[2]):
            continue  # BEIR's header
        if len(cells) not in (3, 4) or not _is_number(cells[-1]):
            raise TokayError(
                f"{path} line {number}: expected query-id, corpus-id, score (BEIR) or query 0 passage grade "
                f"(TREC), got {line[:80]!r}"
            )
        yield cells[0], cells[-2], int(float(cells[-1]))


def _is_number(text: str) -> bool:
    try:
        return float(text) == int(float(text))
    except (ValueError, OverflowError):
        return False


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise TokayError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error


def _parquet(path: Path, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise TokayError(f"{path} is not a Parquet file: {error}") from error
    if missing := [name for name in columns if name not in table.column_names]:
        raise TokayError(f"{path} has the columns {', '.join(table.column_names)}; missing: {', '.join(missing)}")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def write_beir(
    folder: Path,
    passages: Iterable[Passage],
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    *,
    split: str,
) -> None:
    """Write corpus.jsonl, queries.jsonl and qrels/<split>.tsv, as BEIR's loaders read them; grades below 1 are kept."""
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for p in passages:
            file.write(json.dumps({"_id": p.passage_id, "title": p.title, "text": p.text}, ensure_ascii=False) + "\n")
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as file:
        for query_id, text in queries.items():
            file.write(json.dumps({"_id": query_id, "text": text}, ensure_ascii=False) + "\n")
    with (folder / "qrels" / f"{split}.tsv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["query-id", "corpus-id", "score"])
        writer.writerows((q, p, grade) for q, grades in qrels.items() for p, grade in grades.items())
