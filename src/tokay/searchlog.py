"""A user's own search log: real queries without labels.

They have no seed. Candidates are mined and judged for them like for any other; one that nothing answers is kept out
of training and reported as a gap in the documents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tokay.errors import TokayError
from tokay.examples import RELEVANT
from tokay.records import Judgment, Part, Query

TASK = "Given what someone typed into a search box, find a passage that answers it."
"""The task of a query that says none: stated as Gecko's are."""

PROMPT = "log"


def read_log(path: Path) -> Iterator[Query]:
    """Queries of a text file, one a line; equal ones, capitals and blanks aside, are one, in the order of first use.

    Ids are ``log#<line>``; ``answer_id`` says how often the query stands in the file. The part is set after judging.

    Raises:
        TokayError: the file cannot be read, is not UTF-8, or has no query.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise TokayError(f"--queries {path} is not UTF-8: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise TokayError(f"--queries {path} cannot be read: {error.strerror}") from error
    first: dict[str, tuple[int, str]] = {}
    times: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        text = " ".join(line.split())
        if not text:
            continue
        key = text.casefold()
        first.setdefault(key, (number, text))
        times[key] = times.get(key, 0) + 1
    if not first:
        raise TokayError(f"--queries {path} has no query; expected a text file with one a line")
    for key, (number, text) in first.items():
        source = f"{path.name} line {number}, {times[key]} times"
        yield Query(f"log#{number}", "", TASK, text, "train", True, PROMPT, source)


def answered_by(
    queries: Iterable[Query], judgments: Iterable[Judgment], parts: Mapping[str, Part]
) -> list[tuple[Query, Part | None]]:
    """Each query with the part of the passage that answers it best; None where nothing of grade >= 2 does.

    A query goes where its answer is, so that no held-out document is seen in training through it.
    """
    best: dict[str, Judgment] = {}
    for j in judgments:
        old = best.get(j.query_id)
        if j.grade >= RELEVANT and (old is None or (j.grade, j.best, j.score) > (old.grade, old.best, old.score)):
            best[j.query_id] = j
    found: list[tuple[Query, Part | None]] = []
    for query in queries:
        judgment = best.get(query.query_id)
        part = parts[judgment.passage_id] if judgment else None
        found.append((dataclasses.replace(query, part=part) if part else query, part))
    return found
