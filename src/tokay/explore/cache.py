"""A run's tables in one SQLite file, made once: what pages are filtered from.

The narrow tables hold what is filtered by, and numbers in place of ids; texts stand apart, so that a scan reads few
bytes. Numbers are rows of the run's own tables, from 0: of passages, those of its vectors.

=============  =====================================================================================================
passages       part, and as what queries use it: seed, positive, negative
queries        of ``generate``, then of the log; what became of each: candidates, best grade, row, gain
pairs          candidates and judgments of a query, by rank, with the role in the training row
ratings        what each judge said
texts          of passages and queries; ``words_*`` are the indexes of their words
=============  =====================================================================================================
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokay.errors import TokayError
from tokay.explore.words import indexed
from tokay.leaking import parts_of_run, queries_of_run
from tokay.progress import Progress, Silent
from tokay.records import Candidate, Example, Judgment, Part, Passage, Query, Rating, Score
from tokay.store import Run

FOLDER = "explore"
VERSION = 1
"""Of the schema: another one is made anew."""

_SCHEMA = """
CREATE TABLE passages (n INTEGER PRIMARY KEY, passage_id TEXT NOT NULL, document_id TEXT NOT NULL, part TEXT NOT NULL,
  length INTEGER NOT NULL, seeds INTEGER NOT NULL, positives INTEGER NOT NULL, negatives INTEGER NOT NULL);
CREATE TABLE passage_texts (n INTEGER PRIMARY KEY, title TEXT, text TEXT, source TEXT, heading TEXT, page INTEGER,
  start INTEGER, end INTEGER, sha256 TEXT);
CREATE VIRTUAL TABLE words_passages USING fts5(words, content='', detail='full',
  tokenize="unicode61 remove_diacritics 2");
CREATE TABLE queries (n INTEGER PRIMARY KEY, query_id TEXT NOT NULL, seed INTEGER, part TEXT NOT NULL,
  judged INTEGER NOT NULL, candidates INTEGER NOT NULL, best INTEGER, rows INTEGER NOT NULL,
  relabelled INTEGER NOT NULL, positive INTEGER, gain REAL);
CREATE TABLE query_texts (n INTEGER PRIMARY KEY, seed_id TEXT, task TEXT, text TEXT, prompt TEXT, answer_id TEXT,
  made TEXT);
CREATE VIRTUAL TABLE words_queries USING fts5(words, content='', detail='full',
  tokenize="unicode61 remove_diacritics 2");
CREATE TABLE pairs (n INTEGER PRIMARY KEY, query INTEGER NOT NULL, passage INTEGER NOT NULL, rank INTEGER NOT NULL,
  grade INTEGER, best INTEGER, role TEXT NOT NULL, part TEXT NOT NULL, base_rank INTEGER, base_score REAL,
  initial_rank INTEGER, initial_score REAL, bm25_rank INTEGER, bm25_score REAL, score REAL, prompt TEXT,
  answer_id TEXT);
CREATE TABLE ratings (query INTEGER NOT NULL, passage INTEGER NOT NULL, judge TEXT, value REAL);
"""
_INDEXES = """
CREATE UNIQUE INDEX passages_id ON passages (passage_id);
CREATE INDEX passages_document ON passages (document_id);
CREATE INDEX passages_part ON passages (part);
CREATE UNIQUE INDEX queries_id ON queries (query_id);
CREATE INDEX queries_seed ON queries (seed);
CREATE INDEX queries_gain ON queries (gain, n);
CREATE INDEX pairs_query ON pairs (query, n);
CREATE INDEX pairs_passage ON pairs (passage, n);
CREATE INDEX pairs_grade ON pairs (grade, n);
CREATE INDEX pairs_role ON pairs (role, n);
CREATE INDEX ratings_query ON ratings (query);
ANALYZE;
"""


def cache_of(run: Run, progress: Progress | None = None) -> Path:
    """The run's cache file; one of an earlier state of the run is replaced.

    Raises:
        TokayError: the run cannot be written, or this Python's SQLite has no FTS5.
    """
    try:
        folder = run.cache_folder(FOLDER)
        path = folder / f"{state_of(run)}.sqlite"
        if path.is_file():
            return path
        for old in folder.glob("*.sqlite"):
            old.unlink()
        temporary = folder / f".{os.getpid()}.new"
        temporary.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(temporary)) as db:
            _fill(db, run, progress or Silent())
        temporary.replace(path)
    except OSError as error:
        raise TokayError(
            f"{run.path} cannot be written ({error.strerror}), and the page keeps an index beside the run; copy the "
            "run to where you may write"
        ) from error
    except sqlite3.OperationalError as error:
        raise TokayError(f"the index of {run.path} could not be made: SQLite says {error}") from error
    return path


def state_of(run: Run) -> str:
    """Another one whenever a stage's outputs are others."""
    contents = {name: run.digest(name) for name in run.manifest()}
    return hashlib.sha256(json.dumps([VERSION, contents], sort_keys=True).encode()).hexdigest()[:16]


def connect(path: Path) -> sqlite3.Connection:
    """For reading; rows can be asked by name."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
    db.row_factory = sqlite3.Row
    return db


def _fill(db: sqlite3.Connection, run: Run, progress: Progress) -> None:
    db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -131072;" + _SCHEMA)
    build = _Build(db, run, progress)
    if run.is_done("corpus"):
        build.passages()
    if run.is_done("generate"):
        build.queries()
    if run.is_done("judge"):
        build.ratings()
    build.uses()
    progress.start("sorting", None)
    db.executescript(_INDEXES)
    db.commit()


class _Build:
    """The tables in their order; what a later one needs of an earlier is kept by id."""

    def __init__(self, db: sqlite3.Connection, run: Run, progress: Progress) -> None:
        self.db, self.run, self.progress = db, run, progress
        self.passage: dict[str, int] = {}
        self.query: dict[str, int] = {}
        self.part: dict[str, Part] = {}
        self.used: dict[str, Counter[int]] = {name: Counter() for name in ("seeds", "positives", "negatives")}

    def insert(self, table: str, width: int, rows: Iterable[tuple[Any, ...]]) -> None:
        self.db.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * width)})", rows)

    def passages(self) -> None:
        """Passages, and the words of their titles and texts."""
        run = self.run
        if run.is_done("split"):
            self.part = parts_of_run(run)
        self.progress.start("indexing passages", run.rows("corpus", "passages"))
        narrow: list[tuple[Any, ...]] = []
        words: list[tuple[int, str]] = []

        def rows() -> Iterator[tuple[Any, ...]]:
            for n, p in enumerate(run.table("corpus", "passages", Passage)):
                self.passage[p.passage_id] = n
                ids = (_plain(p.passage_id), _plain(p.document_id))
                narrow.append((n, *ids, self.part.get(p.passage_id, ""), len(p.text)))
                words.append((n, indexed(f"{p.passage_id} {p.title} {p.text}")))
                if len(words) == 4096:
                    self.words("passages", words)
                place = (_plain(p.source), _plain(p.heading), p.page, p.start, p.end, p.sha256)
                yield (n, _plain(p.title), _plain(p.text), *place)
                self.progress.advance()

        self.insert("passage_texts", 9, rows())
        self.words("passages", words)
        self.db.executemany("INSERT INTO passages VALUES (?,?,?,?,?,0,0,0)", narrow)

    def words(self, table: str, found: list[tuple[int, str]]) -> None:
        self.db.executemany(f"INSERT INTO words_{table} (rowid, words) VALUES (?,?)", found)
        found.clear()

    def queries(self) -> None:
        """Queries, then their pairs, then what became of them."""
        run = self.run
        tables = [("generate", "queries")]
        tables += [("judge", "answered"), ("judge", "gaps")] if run.is_done("judge") else [("generate", "log")]
        part_of = {q.query_id: q.part for q in queries_of_run(run)}  # which knows what nearly repeats what
        found: dict[str, Query] = {}
        for stage, table in tables:
            for query in run.table(stage, table, Query):
                self.query.setdefault(query.query_id, len(self.query))
                part = part_of.get(query.query_id, query.part)
                found.setdefault(query.query_id, dataclasses.replace(query, part=part))
        rows: dict[str, list[Example]] = defaultdict(list)
        if run.is_done("examples"):
            for example in run.table("examples", "examples", Example):
                rows[example.query_id].append(example)
        best = self.pairs(rows)
        gains = self.gains()
        self.progress.start("indexing queries", len(found))
        narrow: list[tuple[Any, ...]] = []
        words: list[tuple[int, str]] = []
        for n, (query_id, q) in enumerate(found.items()):
            made, seed = rows[query_id], self.passage.get(q.seed_id)
            positive = self.passage.get(made[0].positive_id) if made else None
            candidates, grade = best.get(query_id, (0, None))
            relabelled = bool(made) and made[0].relabelled
            state = (q.judged, candidates, grade, len(made), relabelled, positive, gains.get(query_id))
            narrow.append((n, _plain(query_id), seed, q.part, *state))
            words.append((n, indexed(f"{query_id} {q.text}")))
            kept = json.dumps([[e.positive_id, e.negative_ids, e.relevant_ids] for e in made])
            said = (_plain(q.seed_id), _plain(q.task), _plain(q.text), q.prompt, _plain(q.answer_id), kept)
            self.insert("query_texts", 7, [(n, *said)])
            named = {"positives": {e.positive_id for e in made}, "negatives": {p for e in made for p in e.negative_ids}}
            for use, ids in {"seeds": {q.seed_id}, **named}.items():
                self.used[use].update(self.passage[p] for p in ids if p in self.passage)
            self.progress.advance()
        self.words("queries", words)
        self.insert("queries", 11, narrow)

    def gains(self) -> dict[str, float]:
        """Query id -> nDCG@10 of tuned less that of base, at full width."""
        if not self.run.is_done("evaluate"):
            return {}
        values: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
        for score in self.run.table("evaluate", "scores", Score):
            if score.metric == "ndcg@10" and score.system in ("base", "tuned"):
                values[score.system, score.dim][score.query_id] = score.value
        full = max((dim for system, dim in values if system == "tuned"), default=0)
        base = values.get(("base", full), {})
        return {q: value - base[q] for q, value in values.get(("tuned", full), {}).items() if q in base}

    def pairs(self, rows: dict[str, list[Example]]) -> dict[str, tuple[int, int | None]]:
        """Candidates and judgments together; returns query id -> how many, and the best grade."""
        run = self.run
        judged: dict[str, dict[str, Judgment]] = defaultdict(dict)
        for j in run.table("judge", "judgments", Judgment) if run.is_done("judge") else ():
            judged[j.query_id][j.passage_id] = j
        mined: dict[str, list[Candidate]] = defaultdict(list)
        for c in run.table("mine", "candidates", Candidate) if run.is_done("mine") else ():
            mined[c.query_id].append(c)
        self.progress.start("indexing candidates", len(self.query))
        best: dict[str, tuple[int, int | None]] = {}

        def pairs() -> Iterator[tuple[Any, ...]]:
            for query_id, query in self.query.items():
                self.progress.advance()
                made, known = rows.get(query_id, []), judged.get(query_id, {})
                found = sorted(mined.get(query_id, ()), key=lambda c: c.rank)
                there = {c.passage_id for c in found}
                found += [Candidate(query_id, p, 0, 0, 0.0, 0, 0.0, 0, 0.0) for p in known if p not in there]
                best[query_id] = len(found), max((j.grade for j in known.values()), default=None)
                for c in found:
                    passage, j = self.passage.get(c.passage_id), known.get(c.passage_id)
                    if passage is None:
                        continue
                    role = role_of(c.passage_id, made)
                    said = (j.score, j.prompt, _plain(j.answer_id)) if j else (None, None, None)
                    yield (
                        None,
                        query,
                        passage,
                        c.rank,
                        j.grade if j else None,
                        j.best if j else None,
                        role,
                        self.part.get(c.passage_id, ""),
                        *(c.base_rank, c.base_score, c.initial_rank, c.initial_score, c.bm25_rank, c.bm25_score),
                        *said,
                    )

        self.insert("pairs", 17, pairs())
        return best

    def ratings(self) -> None:
        """What each judge said."""
        found = self.run.table("judge", "ratings", Rating)
        known = ((self.query.get(r.query_id), self.passage.get(r.passage_id), r) for r in found)
        rows = ((q, p, r.judge, r.value) for q, p, r in known if q is not None and p is not None)
        self.insert("ratings", 4, rows)

    def uses(self) -> None:
        """How often passages are seeds, positives and negatives."""
        for name, counts in self.used.items():
            self.db.executemany(f"UPDATE passages SET {name} = ? WHERE n = ?", [(c, n) for n, c in counts.items()])


def role_of(passage_id: str, rows: Iterable[Example]) -> str:
    """What a passage is in a query's training rows: positive, negative, relevant (so never a negative), or nothing."""
    roles = {"positive": set[str](), "negative": set[str](), "relevant": set[str]()}
    for row in rows:
        roles["positive"].add(row.positive_id)
        roles["negative"].update(row.negative_ids)
        roles["relevant"].update(row.relevant_ids)
    return next((role for role, ids in roles.items() if passage_id in ids), "")


def _plain(text: str) -> str:
    """Without halves of characters, which UTF-8 does not hold; NULs stay."""
    return text.encode("utf-8", "replace").decode("utf-8")
