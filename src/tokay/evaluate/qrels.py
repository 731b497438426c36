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

from tokay.errors import TokayError, did_you_mean
from tokay.records import Passage


@dataclasses.dataclass(frozen=True)
class Labels:
    """Queries with at least one relevant passage of the corpus, their graded labels, and what was left out, counted."""

    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    dropped: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Words:
    """What the user calls the things that labels come from; ``split`` is empty where it cannot be chosen."""

    queries: str = "--queries"
    qrels: str = "--qrels"
    split: str = ""


def read_labels(
    queries: str, qrels: str, *, known_ids: set[str], split: str = "test", words: Words | None = None
) -> Labels:
    """Read queries and their relevance labels.

    Args:
        queries: ``.jsonl`` (``_id``, ``text``), ``.tsv`` (id, text), ``.parquet`` (``_id``, ``text``), or a BEIR
            folder that holds one of them as ``queries.*``.
        qrels: BEIR ``.tsv`` (header, then query-id, corpus-id, score), TREC (query, 0, passage, grade), ``.parquet``
            (query_id, corpus_id, score and perhaps split), or a folder with ``qrels/<split>.tsv`` or ``qrels.*``.
        known_ids: the corpus's passage ids.
        split: rows of this split are used where a ``split`` column says so.
        words: for messages; None: those of ``tokay distill``.

    Raises:
        TokayError: a missing or unreadable file, a row that is not as described, or no label that fits the corpus.
    """
    words = words or Words()
    texts = dict(_queries(_queries_file(queries, words)))
    return checked_labels(texts, _qrels(_qrels_file(qrels, split, words), split, words), known_ids=known_ids, of=qrels)


def checked_labels(
    texts: Mapping[str, str], rows: Iterable[tuple[str, str, int]], *, known_ids: set[str], of: str
) -> Labels:
    """Labels that fit queries and corpus; the rest is counted.

    Args:
        texts: query id -> text.
        rows: (query id, passage id, grade).
        known_ids: the corpus's passage ids.
        of: whose labels they are, for messages.

    Raises:
        TokayError: fewer than two queries have a relevant passage.
    """
    unknown = stranger = ""
    wanted: dict[str, dict[str, int]] = {}
    dropped = {
        "labels of unknown passages": 0,
        "labels of unknown queries": 0,
        "queries without a relevant passage": 0,
    }
    for query_id, passage_id, grade in rows:
        if passage_id not in known_ids:
            dropped["labels of unknown passages"] += 1
            unknown = unknown or passage_id
        elif query_id not in texts:
            dropped["labels of unknown queries"] += 1
            stranger = stranger or query_id
        else:
            wanted.setdefault(query_id, {})[passage_id] = grade
    kept = {q: grades for q, grades in wanted.items() if any(grade > 0 for grade in grades.values())}
    dropped["queries without a relevant passage"] = len(wanted) - len(kept)
    if len(kept) < 2:
        hint = _hint(unknown, known_ids) or _stranger(stranger, texts)
        counts = ", ".join(f"{count:,} {what}" for what, count in dropped.items() if count)
        left_out = f" ({counts} left out)" if counts else ""
        raise TokayError(
            f"{of}: {len(kept)} queries have a relevant passage of this corpus{left_out}; expected the ids of the "
            f"corpus's _id column and of the queries' _id column{hint}"
        )
    return Labels({q: texts[q] for q in kept}, kept, dropped)


def check_labels(queries: str, qrels: str, *, split: str = "test", words: Words | None = None) -> None:
    """Raise what ``read_labels`` would raise of the files themselves, before any work is done."""
    words = words or Words()
    for _ in _queries(_queries_file(queries, words)):
        pass
    for _ in _qrels(_qrels_file(qrels, split, words), split, words):
        pass


def _hint(unknown: str, known_ids: set[str]) -> str:
    """How the labels' ids and the corpus's differ, by an example of each."""
    if not unknown or not known_ids:
        return ""
    if f"{unknown}#0" in known_ids:
        return (
            f"; the corpus split {unknown!r} into {unknown + '#0'!r} and so on: --set corpus.chunk=never keeps it whole"
        )
    return f"; the labels name {unknown!r}, the corpus has ids such as {min(known_ids)!r}"


def _stranger(query_id: str, texts: Mapping[str, str]) -> str:
    """How the labels' and the queries' ids differ, by an example of each."""
    if not query_id or not texts:
        return ""
    return f"; the labels name the query {query_id!r}, the queries have ids such as {min(texts)!r}"


def _queries_file(name: str, words: Words) -> Path:
    return _existing(name, words.queries, [f"queries.{ending}" for ending in ("jsonl", "tsv", "parquet")], words)


def _qrels_file(name: str, split: str, words: Words) -> Path:
    inside = [f"qrels/{split}.tsv", f"{split}.tsv", *(f"qrels.{ending}" for ending in ("tsv", "txt", "parquet"))]
    folder = Path(name).expanduser()
    others = sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))
    if others and not any((folder / file).is_file() for file in inside):
        raise _no_split(name, split, others, words)
    return _existing(name, words.qrels, inside, words)


def _no_split(place: str | Path, split: str, there: Iterable[str], words: Words) -> TokayError:
    there = sorted(there)
    found = f"{place} has labels of the splits {', '.join(there)}"
    if not words.split:
        return TokayError(f"{found}; expected {split!r} among them")
    return TokayError(f"{words.split} is {split!r}, and {found}; name one of these{did_you_mean(split, there)}")


def _existing(name: str, option: str, inside: list[str], words: Words) -> Path:
    """The file of that name, or the first of ``inside`` in the folder of that name."""
    path = Path(name).expanduser()
    if not name:
        raise TokayError(f"{option} is missing; {words.queries} and {words.qrels} come together")
    if path.is_dir():
        found = next((path / file for file in inside if (path / file).is_file()), None)
        if found is None:
            raise TokayError(f"{option} {name}: the folder has none of {', '.join(inside)}")
        return found
    if not path.is_file():
        raise TokayError(f"{option} {name}: there is no such file")
    return path


def _queries(path: Path) -> Iterator[tuple[str, str]]:
    if path.suffix == ".parquet":
        for number, row in enumerate(_parquet(path, ("_id", "text")), 1):
            if row["_id"] is None or not isinstance(row["text"], str):
                raise TokayError(
                    f"{path} row {number}: expected an _id and a text, got {row['_id']!r}, {row['text']!r}"
                )
            yield str(row["_id"]), row["text"]
    elif path.suffix == ".jsonl":
        for number, line in _lines(path):
            try:
                row = json.loads(line)
                query_id, text = row["_id"], row["text"]
            except (ValueError, KeyError, TypeError):
                query_id = text = None
            if query_id is None or not isinstance(text, str):
                raise TokayError(f'{path} line {number}: expected {{"_id": …, "text": …}}, got {line[:80]!r}')
            yield str(query_id), text
    elif path.suffix == ".tsv":
        for number, line in _lines(path):
            query_id, tab, text = line.partition("\t")
            if not tab:
                raise TokayError(f"{path} line {number}: expected id, a tab, and the text, got {line[:80]!r}")
            yield query_id, text
    else:
        raise TokayError(f"--queries {path}: expected a .jsonl, .tsv or .parquet file")


def _qrels(path: Path, split: str, words: Words) -> Iterator[tuple[str, str, int]]:
    if path.suffix == ".parquet":
        rows = _parquet(path, ("query_id", "corpus_id", "score"))
        splits = {str(row["split"]) for row in rows if row.get("split") is not None}
        if splits and split not in splits:
            raise _no_split(path, split, splits, words)
        for number, row in enumerate(rows, 1):
            if row.get("split", split) not in (split, None):
                continue
            if not _is_number(row["score"]):
                raise TokayError(f"{path} row {number}: expected a whole number as score, got {row['score']!r}")
            yield str(row["query_id"]), str(row["corpus_id"]), int(float(row["score"]))
        return
    for number, line in _lines(path):
        cells = next(csv.reader([line], delimiter="\t")) if "\t" in line else line.split()
        if number == 1 and len(cells) == 3 and not _is_number(cells[2]):
            continue  # BEIR's header
        if len(cells) not in (3, 4) or not _is_number(cells[-1]):
            raise TokayError(
                f"{path} line {number}: expected query-id, corpus-id, score (BEIR) or query 0 passage grade "
                f"(TREC), got {line[:80]!r}"
            )
        yield cells[0], cells[-2], int(float(cells[-1]))


def _is_number(value: Any) -> bool:
    """Whether it is, or spells, a whole number."""
    try:
        return float(value) == int(float(value))
    except (TypeError, ValueError, OverflowError):
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
    table = table.rename_columns([name.replace("-", "_") for name in table.column_names])  # BEIR's "query-id"
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
