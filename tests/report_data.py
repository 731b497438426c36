"""A finished run without a pipeline: every table that the report reads, small, and as hostile as one likes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tokay.evaluate.verdict import System, hits_of, judge_systems
from tokay.records import (
    Candidate,
    Document,
    Duplicate,
    Example,
    Failure,
    Hit,
    Judgment,
    Passage,
    Query,
    Rating,
    Score,
    Skipped,
)
from tokay.settings import EvaluateSettings, resolve, to_toml
from tokay.store import Run

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</pre></details></main><iframe src=https://example.com>",
    "' onmouseover='alert(1)' x='",
    "]]><svg onload=alert(1)><style>*{display:none}</style>",
    "\x00\x07\x1b[31m\x9b \u202egnihtemos\u202c \u2066x\u2069 \ufeff\U000e0041",
    "&lt;b&gt; &amp;amp; &#60;",
    "{{7*7}} ${7*7} javascript:alert(1)",
    "http://example.com/ //example.com <base href=//example.com>",
    "<!-- <![CDATA[ <?php <table><td> <plaintext>",
)
"""As ``PLAIN``, a multiple of five: a text then stands in documents of one part, so that nothing is on both sides."""
PLAIN = ("rivers run", "stones in a field", "how glass is made", "iron and maple", "a pearl of quartz")
CANDIDATES = 6


@dataclasses.dataclass(frozen=True)
class Made:
    """The run's tables."""

    passages: list[Passage]
    queries: list[Query]
    candidates: list[Candidate]
    judgments: list[Judgment]
    ratings: list[Rating]
    examples: list[Example]


def tables_of(texts: Sequence[str], *, judge: str, documents: int) -> Made:
    """One passage and one query a document; every fifth is held out."""
    at = [texts[n % len(texts)] for n in range(documents)]
    ids = [f"p{n}{at[n][:40]}" for n in range(documents)]
    passages = [
        Passage(ids[n], f"d{n}", f"title {at[n][:60]}", f"{at[n]} body {n}", "0", f"source {at[n][:50]}", at[n][:50])
        for n in range(documents)
    ]
    queries = [
        Query(
            f"{ids[n]}#0",
            ids[n],
            f"task {at[n][:50]}",
            f"query {n} {at[n]}",
            "test" if n % 5 == 0 else "dev" if n % 5 == 1 else "train",
            True,
            f"generate {at[n][:20]}",
            f"recorded {at[n][:30]}",
        )
        for n in range(documents)
    ]
    candidates, judgments, ratings, examples = [], [], [], []
    for n, query in enumerate(queries):
        near = [ids[(n + 5 * step) % documents] for step in range(CANDIDATES)]  # of the same part
        grades = [3 if n % 7 else 1, 3 if not n % 7 else 1, *[0] * (CANDIDATES - 2)]
        best = grades.index(3)
        for rank, (passage_id, grade) in enumerate(zip(near, grades, strict=True), 1):
            q = query.query_id
            candidates.append(Candidate(q, passage_id, rank, rank, 1 - 0.1 * rank, 0, 0.0, rank, 9.0 - rank))
            judgments.append(Judgment(q, passage_id, grade, grade + 0.5, rank == best + 1, "j", query.answer_id))
            for name, value in _ratings(judge, n, rank, grade):
                ratings.append(Rating(q, passage_id, name, value, "r", query.answer_id))
        positive = near[best]
        examples.append(
            Example(
                q, query.task, query.text, ids[n], positive, [near[-1]], [positive], near, grades, best > 0, query.part
            )
        )
    return Made(passages, queries, candidates, judgments, ratings, examples)


def _ratings(judge: str, n: int, rank: int, grade: int) -> list[tuple[str, float]]:
    if judge == "gecko":
        labels = [(f"relevance:{g}", -abs(g - grade) - 0.1) for g in range(4)]
        return [("likelihood", -float(rank) - 10 + (n % 3) * (rank % 2)), *labels]
    if judge == "listwise":
        return [("listwise:0", float(grade)), ("listwise:1", float(max(0, grade - (n % 2)))), ("best-listwise:0", 0.0)]
    return []


def made_run(
    path: Path,
    *,
    texts: Sequence[str] = PLAIN,
    judge: str = "recorded",
    documents: int = 40,
    log: Sequence[str] = (),
    dims: Sequence[int] = (32, 16),
    said: Mapping[str, Any] = MappingProxyType({}),
    looks: bool = True,
) -> Run:
    """A run folder whose tuned model puts the right passage first, and whose base puts it second.

    Args:
        path: of the folder.
        texts: what its texts are made of; as many as a multiple of five.
        judge: whose ratings it has.
        documents: how many.
        log: queries of a log.
        dims: widths of the vectors.
        said: what the verdict says otherwise.
        looks: whether training looked at dev queries.
    """
    made = tables_of(texts, judge=judge, documents=documents)
    run = Run(path, writable=True)
    run.write_settings(to_toml(resolve({"documents": f"documents {texts[0][:50]}"})))
    ids = [p.passage_id for p in made.passages]
    logged = [
        Query(f"log#{n}", "", "a task", f"{text} as people ask for it", "train", True, "log", f"line {n}, 1 times")
        for n, text in enumerate(log)
    ]
    answers = [Judgment(q.query_id, ids[2], 3, 3.0, True, "j", "a") for q in logged]
    held_out = [q for q in made.queries if q.part == "test"]
    grades = {(j.query_id, j.passage_id): j.grade for j in made.judgments}
    qrels = {q.query_id: {p: g for p in ids if (g := grades.get((q.query_id, p), 0)) >= 2} for q in held_out}
    systems = _systems([ids.index(next(iter(qrels[q.query_id]))) for q in held_out], len(ids), dims)
    settings = EvaluateSettings(resamples=200)
    judged = {q: set(ids) for q in qrels}
    scores, verdict = judge_systems(systems, qrels, judged, ids, {}, settings)
    verdict |= {"weights": {"base": 0.1, "tuned": 0.1}, "use": "tuned" if verdict["better"] else "base"}
    verdict |= {"overlap": {"written": 0.3}, "slices": {"seen": {"queries": 1}}} | dict(said)
    steps = [
        {"run": 0, "step": n, "loss": 2 / (n + 1), **({"dev": 0.1 * n} if looks and n % 4 == 3 else {})}
        for n in range(12)
    ]
    story = {"steps": 12, "planned": 20, "texts": 9, "tokens": 99, "seconds": 1.5, "precision": "float32"}
    story |= {"trainable": 5, "parameters": 10, "dev": {}}

    def write(stage: str, tables: dict[str, tuple[Any, Sequence[Any]]], **values: Any) -> None:
        def work(out: Any) -> None:
            for name, (record, rows) in tables.items():
                out.write(name, record, rows)
            for name, value in values.items():
                out.write_json(name, value)
            if stage == "train":
                (out.path / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))

        run.stage(stage, work, settings={})

    bad = texts[0][:80]
    write(
        "corpus",
        {
            "passages": (Passage, made.passages),
            "skipped": (Skipped, [Skipped(bad, 1, f"not read {bad}")]),
            "duplicates": (Duplicate, [Duplicate(bad, ids[0], "exact", 1.0)]),
        },
    )
    parts = {q.seed_id: q.part for q in made.queries}
    write("split", {"documents": (Document, [Document(p.document_id, parts[p.passage_id], 1) for p in made.passages])})
    failures = [Failure("generate", bad, f"a refusal, not a query: {bad!r}", "x")]
    write("generate", {"queries": (Query, made.queries), "log": (Query, logged), "failures": (Failure, failures)})
    write("vectors", {}, cut={"cut": 128, "ndcg@10": {"128": 0.5}, "base": "minilm"})
    write("mine", {"candidates": (Candidate, made.candidates)})
    write(
        "judge",
        {
            "judgments": (Judgment, [*made.judgments, *answers]),
            "ratings": (Rating, made.ratings),
            "failures": (Failure, []),
            "answered": (Query, logged),
            "gaps": (Query, [Query("log#gap", "", "t", f"gap {bad}", "train", True, "log", bad)] if log else []),
        },
    )
    write("examples", {"examples": (Example, made.examples)})
    write("train", {}, tuned=story)
    hits = hits_of(systems, list(qrels), ids, depth=10)
    write("evaluate", {"scores": (Score, scores), "hits": (Hit, hits)}, verdict=verdict)
    return run


def _systems(right: Sequence[int], passages: int, dims: Sequence[int]) -> list[System]:
    """The right passage is first, second, and, for one query in three, nowhere with the base."""

    def ranking(place: int, lost: int) -> tuple[Any, Any]:
        rows = []
        for n, one in enumerate(right):
            others = [p for p in range(passages) if p != one][:12]
            if not (lost and n % lost == 0):
                others.insert(place, one)
            rows.append(others[:11])
        return np.array(rows, np.int64), np.tile(np.linspace(1, 0, 11, dtype=np.float32), (len(rows), 1))

    full = max(dims)
    systems = [System("BM25", 0, ranking(2, 2), ("base", full))]
    systems += [System("base", dim, ranking(1 + i, 3)) for i, dim in enumerate(dims)]
    systems += [System("tuned", dim, ranking(i, 0), ("base", dim)) for i, dim in enumerate(dims)]
    systems += [System("base+BM25", full, ranking(1, 3), ("base", full))]
    return [*systems, System("tuned+BM25", full, ranking(0, 0), ("base+BM25", full))]
