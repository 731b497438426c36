"""One query: where it came from, what was found and judged, the row that came of it, and why, in words."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from tokay.decisions import BY_HAND, Choice, graded
from tokay.examples import RELEVANT, make_examples, same_side
from tokay.explore.cache import role_of
from tokay.explore.shown import LIST_CHARS, long, short
from tokay.records import Candidate, Example, Judgment, Part, Passage, Query, Rating
from tokay.report.page import visible
from tokay.settings import ExampleSettings
from tokay.store import Run
from tokay.trace import Trace, answers_of, places_of

LINES = 5 * LIST_CHARS
"""Characters of a candidate that are shown at once."""


@dataclasses.dataclass(frozen=True)
class Material:
    """A query's trace with what the trace does not say: numbers of passages, their parts, ratings as records."""

    trace: Trace
    numbers: Mapping[str, int]
    parts: Mapping[str, Part]
    ratings: Sequence[Rating]


def material_of(db: sqlite3.Connection, run: Run, n: int, choice: Choice) -> Material | None:
    """All records of query ``n``, out of the cache; None: there is no such query.

    Passages that a person named and no retriever found stand after the candidates, with rank 0.
    """
    row = db.execute("SELECT * FROM queries JOIN query_texts t USING (n) WHERE n = ?", [n]).fetchone()
    if row is None:
        return None
    names = ("query_id", "seed_id", "task", "text", "part", "prompt", "answer_id")
    query = Query(**{name: row[name] for name in names}, judged=bool(row["judged"]))
    found = db.execute(
        "SELECT c.*, p.passage_id, p.document_id, p.part, t.* FROM pairs c JOIN passages p ON p.n = c.passage "
        "JOIN passage_texts t ON t.n = c.passage WHERE c.query = ? ORDER BY c.n",
        [n],
    ).fetchall()
    numbers = {r["passage_id"]: r["passage"] for r in found}
    parts = {r["passage_id"]: r["part"] for r in found}
    candidates = [(_candidate(query, r), _passage(r), _judgment(query, r)) for r in found]
    for passage_id in dict.fromkeys([*choice.grades, *([choice.positive] if choice.positive else [])]):
        if passage_id not in numbers:
            numbers[passage_id], parts[passage_id] = _number_and_part(db, passage_id)
            named = passage_at(db, numbers[passage_id])
            assert named is not None  # decisions about passages that are gone do not stand
            candidates.append((Candidate(query.query_id, passage_id, 0, 0, 0.0, 0, 0.0, 0, 0.0), named, None))
    seed = passage_at(db, row["seed"]) if row["seed"] is not None else None
    if seed:
        numbers.setdefault(seed.passage_id, row["seed"])
        parts[seed.passage_id] = db.execute("SELECT part FROM passages WHERE n = ?", [row["seed"]]).fetchone()[0]
    said = db.execute(
        "SELECT passage_id, judge, value FROM ratings JOIN passages ON n = passage WHERE query = ?", [n]
    ).fetchall()
    ratings = [Rating(query.query_id, r["passage_id"], r["judge"], r["value"], "", "") for r in said]
    with answers_of(run) as answer_of:
        places = dict.fromkeys([query.answer_id, *(p for _, _, j in candidates if j for p in places_of(j.answer_id))])
        answers = tuple((place, answer_of(place, query, candidates)) for place in places)
    in_words: dict[str, list[str]] = {}
    for r in ratings:
        if not r.judge.startswith("best-"):
            in_words.setdefault(r.passage_id, []).append(f"{r.judge} {r.value:.4g}")
    trace = Trace(
        query=query,
        seed=seed,
        candidates=tuple(candidates),
        examples=tuple(_rows(query, candidates, parts, json.loads(row["made"]))),
        answers=answers,
        ratings={passage_id: ", ".join(words) for passage_id, words in in_words.items()},
    )
    return Material(trace, numbers, parts, ratings)


def _number_and_part(db: sqlite3.Connection, passage_id: str) -> tuple[int, Part]:
    n, part = db.execute("SELECT n, part FROM passages WHERE passage_id = ?", [passage_id]).fetchone()
    return n, part


def passage_at(db: sqlite3.Connection, n: int) -> Passage | None:
    """Passage ``n``; None: there is none."""
    row = db.execute("SELECT * FROM passages JOIN passage_texts t USING (n) WHERE n = ?", [n]).fetchone()
    return _passage(row) if row else None


def rows_with(material: Material, settings: ExampleSettings, choice: Choice) -> list[Example]:
    """The rows that this query would make with what people decided, by the code that the next training runs."""
    trace = material.trace
    query = trace.query
    choices = {query.query_id: choice}
    held = [j for _, _, j in trace.candidates if j]
    return list(
        make_examples(
            [query],
            [c for c, _, _ in trace.candidates if c.rank],
            graded(held, {} if choice.empty else choices),
            material.parts if any(material.parts.values()) else None,
            settings,
            chosen={query.query_id: choice.positive} if choice.positive else {},
            rejected=[query.query_id] if choice.rejected else (),
        )
    )


# -- why ------------------------------------------------------------------------------------------------------------


def why_positive(material: Material, rows: Sequence[Example], settings: ExampleSettings, choice: Choice) -> str:
    """Why the first row's positive is what it is, or why there is no row."""
    trace = material.trace
    if choice.rejected:
        return "A person left this query out: it makes no training row, and no verdict counts it."
    if not rows:
        return _no_row(material, settings)
    positive = rows[0].positive_id
    grade = dict(zip(rows[0].candidate_ids, rows[0].grades, strict=True)).get(positive)
    if choice.positive == positive:
        return "A person accepted it." if choice.accepted else "A person chose it as the answer."
    if not settings.relabel:
        return "It is the passage that the query was written from: relabelling is off (examples.relabel)."
    if not choice.grades and not any(j for _, _, j in trace.candidates):
        return "It is the passage that the query was written from: no candidate of this query was judged."
    moved = " The query was written from another passage, which is graded lower or ranked behind it."
    tail = moved if rows[0].relabelled and trace.query.seed_id else ""
    best = next((j.best for _, p, j in trace.candidates if j and p.passage_id == positive), False)
    marked = ", and the judge marked it as the one to open first" if best else ""
    if settings.policy == "gecko":
        return f"It has the highest score of the judged candidates (Gecko's p1){marked}; its grade is {grade}.{tail}"
    usable = [g for g in rows[0].grades if g >= RELEVANT]
    among = "" if usable.count(grade or 0) < 2 or best else "; of equal grades the better-ranked candidate is taken"
    return f"It has the highest grade of this query's candidates, {grade}{marked}{among}.{tail}"


def _no_row(material: Material, settings: ExampleSettings) -> str:
    trace = material.trace
    answers = [(p, j) for _, p, j in trace.candidates if j and j.grade >= RELEVANT]
    seed = next((c for c, _, _ in trace.candidates if c.passage_id == trace.query.seed_id), None)
    k = settings.round_trip
    if k and seed is not None and not 0 < (seed.initial_rank or seed.base_rank) <= k:
        return f"No training row: its seed is not among the first {k} of the retriever (examples.round_trip)."
    if answers:
        return "No training row: what answers it belongs to documents of another part of the split."
    if not trace.candidates and not trace.query.seed_id:
        return "No training row: it has no seed, and nothing was judged for it."
    return f"No training row: no candidate has a grade of {RELEVANT} or more, so there is nothing to learn from."


def why_candidate(
    passage: Passage, grade: int | None, role: str, material: Material, settings: ExampleSettings, choice: Choice
) -> str:
    """Why a candidate is, or is not, a negative of the row; ``grade`` and ``role`` as they stand now."""
    query, part = material.trace.query, material.parts.get(passage.passage_id)
    by = " by hand" if passage.passage_id in choice.grades or choice.positive == passage.passage_id else ""
    if role == "positive":
        return f"Positive: grade {grade}{by}." if grade is not None else "Positive: the query was written from it."
    if part and not same_side(part, query.part):
        return f"Left out: it is of the {part} part, and the query of the {query.part} part."
    if grade is None:
        return "Unjudged, so it is neither a positive nor a negative."
    if grade >= RELEVANT:
        return f"Masked: grade {grade}{by} answers the query, too, so it never stands as a negative of it."
    if role == "negative":
        return f"Hard negative: grade {grade}{by}, {_rule(settings)}."
    if settings.policy != "gecko" and grade > settings.negative_max_grade:
        most = settings.negative_max_grade
        return f"Not a negative: grade {grade}{by} is above examples.negative_max_grade = {most}."
    if settings.policy == "percpos":
        return f"Not a negative: the base scores it too near the positive, or others were taken ({_rule(settings)})."
    return f"Could be a negative (grade {grade}{by}), and was not taken: {settings.negatives} a row, {_rule(settings)}."


def _rule(settings: ExampleSettings) -> str:
    if settings.policy == "gecko":
        return "the lowest score first (Gecko's pN)"
    order = {"last": "the lowest-ranked first", "first": "the best-ranked first"}
    chosen = order.get(settings.negative_choice, f"drawn at random (seed {settings.seed})")
    if settings.policy == "percpos":
        return f"of those that the base scores below {settings.percpos:.0%} of the positive, {chosen}"
    return chosen


# -- as JSON --------------------------------------------------------------------------------------------------------


def story_of(material: Material, settings: ExampleSettings, choice: Choice) -> dict[str, Any]:
    """What the query's page shows."""
    trace, query = material.trace, material.trace.query
    now = rows_with(material, settings, choice)
    roles = _roles(now)
    grades = {p.passage_id: j.grade for _, p, j in trace.candidates if j}
    standing = {j.passage_id: j for j in graded([j for _, _, j in trace.candidates if j], {query.query_id: choice})}
    scores = judge_scores(material)
    entries = []
    for candidate, passage, _ in trace.candidates:
        passage_id = passage.passage_id
        grade = standing[passage_id].grade if passage_id in standing else None
        role = roles.get(passage_id, "")
        entries.append(
            {
                **place_of(passage),
                "n": material.numbers[passage_id],
                "text": long(passage.text, limit=LINES),
                "part": material.parts.get(passage_id, ""),
                **{k: v for k, v in dataclasses.asdict(candidate).items() if k.endswith(("rank", "score"))},
                "grade": grade,
                "judge": grades.get(passage_id),
                "by_hand": passage_id in standing and standing[passage_id].prompt == BY_HAND,
                "best": passage_id in standing and standing[passage_id].best,
                "role": role,
                "seed": passage_id == query.seed_id,
                "usable": same_side(material.parts.get(passage_id) or query.part, query.part),
                "why": why_candidate(passage, grade, role, material, settings, choice),
                "said": trace.ratings.get(passage_id, ""),
                **scores.get(passage_id, {}),
            }
        )
    seed = trace.seed
    return {
        "query_id": visible(query.query_id),
        "text": long(query.text),
        "task": short(query.task),
        "part": query.part,
        "prompt": short(query.prompt),
        "seed": {**place_of(seed), "n": material.numbers[seed.passage_id], "text": long(seed.text, limit=LINES)}
        if seed
        else None,
        "why": why_positive(material, now, settings, choice),
        "positive": visible(now[0].positive_id) if now else "",
        "relabelled": bool(now) and now[0].relabelled,
        "rows": len(now),
        "changed": [(r.positive_id, r.negative_ids) for r in now]
        != [(r.positive_id, r.negative_ids) for r in trace.examples],
        "was": visible(trace.examples[0].positive_id) if trace.examples else "",
        "candidates": entries,
        "gecko": bool(scores),
        "answers": [{"place": visible(place), "text": long(text)} for place, text in trace.answers],
    }


def judge_scores(material: Material) -> dict[str, dict[str, float]]:
    """Passage id -> ``ql`` and ``rc`` (log-probabilities) with their ranks, where both scorers rated the query."""
    table: dict[str, dict[str, float]] = {}
    for rating in material.ratings:
        table.setdefault(rating.judge, {})[rating.passage_id] = rating.value
    found: dict[str, dict[str, float]] = {}
    for name, judge in (("ql", "likelihood"), ("rc", "relevance:3")):
        order = sorted(table.get(judge, {}).items(), key=lambda item: -item[1])
        for rank, (passage_id, value) in enumerate(order, 1):
            found.setdefault(passage_id, {}).update({name: value, f"{name}_rank": rank})
    return found


def place_of(passage: Passage) -> dict[str, Any]:
    """Where a passage stands."""
    return {
        "passage_id": visible(passage.passage_id),
        "document_id": visible(passage.document_id),
        "title": short(passage.title),
        "source": short(passage.source),
        "heading": short(passage.heading),
        "page": passage.page,
        "from": passage.start,
        "to": passage.end,
    }


def _roles(rows: Sequence[Example]) -> dict[str, str]:
    ids = {p for row in rows for p in (row.positive_id, *row.negative_ids, *row.relevant_ids)}
    return {passage_id: role_of(passage_id, rows) for passage_id in ids}


def _candidate(query: Query, row: sqlite3.Row) -> Candidate:
    names = ("rank", "base_rank", "base_score", "initial_rank", "initial_score", "bm25_rank", "bm25_score")
    return Candidate(query.query_id, row["passage_id"], *(row[name] for name in names))


def _judgment(query: Query, row: sqlite3.Row) -> Judgment | None:
    if row["grade"] is None:
        return None
    said = (row["grade"], row["score"], bool(row["best"]), row["prompt"], row["answer_id"])
    return Judgment(query.query_id, row["passage_id"], *said)


def _passage(row: sqlite3.Row) -> Passage:
    names = ("passage_id", "document_id", "title", "text", "sha256", "source", "heading", "page", "start", "end")
    return Passage(**{name: row[name] for name in names})


def _rows(
    query: Query, found: Sequence[tuple[Candidate, Passage, Judgment | None]], parts: Mapping[str, Part], kept: Any
) -> list[Example]:
    usable = [j for _, p, j in found if j and (not parts[p.passage_id] or same_side(parts[p.passage_id], query.part))]
    return [
        Example(
            query.query_id,
            query.task,
            query.text,
            query.seed_id,
            positive,
            negatives,
            relevant,
            [j.passage_id for j in usable],
            [j.grade for j in usable],
            bool(query.seed_id) and positive != query.seed_id,
            query.part,
        )
        for positive, negatives, relevant in kept
    ]
