"""Runs made by hand, without a model: every stage's tables, small or large, plain or hostile."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tiny import WORDS
from tokay.examples import make_examples
from tokay.records import (
    Candidate,
    Document,
    Example,
    Failure,
    Judgment,
    Part,
    Passage,
    Query,
    Rating,
    Score,
    sha256_text,
)
from tokay.settings import ExampleSettings
from tokay.split import parts_of
from tokay.store import Run, StageOutput

HOSTILE = (
    "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">",
    "</textarea></script><style>*{display:none}</style>&lt;b&gt;",
    "nul \x00 bell \x07 escape \x1b[31m zero\u200bwidth",
    "\u202egnp.exe turned \u2066 round \u2069",
    "half \ud800 a character".encode("utf-8", "replace").decode(),
    "javascript:alert(1) {title} {token} ${token} %s",
    "مرحبا بالعالم שלום",
    "全文検索 と 日本語 の 文",
)


def made_run(
    path: Path,
    *,
    passages: int = 40,
    queries: int = 20,
    texts: Sequence[str] = (),
    candidates: int = 6,
    words: int = 12,
    until: str = "evaluate",
    settings: dict[str, Any] | None = None,
) -> Run:
    """A run whose passages are drawn words, each fourth document held out; ``texts`` are the first passages."""
    drawn = np.random.default_rng(0)
    some = [" ".join(row) for row in drawn.choice(WORDS, (passages, words))]
    some[: len(texts)] = texts
    corpus = [
        Passage(f"p{i}", f"d{i // 4}", f"title {i} {t[:40]}", t, sha256_text(t), f"f{i // 4}.md", "part", 1, 0, len(t))
        for i, t in enumerate(some)
    ]
    part_of: list[Part] = ["train", "train", "dev", "test"]
    documents = [Document(f"d{i}", part_of[i % 4], 4) for i in range((passages + 3) // 4)]
    seeds = [corpus[i * passages // queries] for i in range(queries)]
    parts = parts_of(documents, corpus)
    asked = [
        Query(
            f"{s.passage_id}#0",
            s.passage_id,
            "find it",
            f"{s.text[:300]} ?",
            parts[s.passage_id],
            i % 3 > 0,
            "write",
            f"recorded q {i}",
        )
        for i, s in enumerate(seeds)
    ]
    mined, judged, rated = [], [], []
    for i, query in enumerate(asked):
        if not query.judged:
            continue
        seed = int(query.seed_id[1:])
        others = drawn.choice(passages, candidates, replace=False)
        found = list(dict.fromkeys([seed, *(int(o) for o in others)]))[:candidates]
        for rank, n in enumerate(found, 1):
            base_rank, bm25_rank = {1: 1, 2: 13, 3: 0}.get(rank, rank - 2), rank * 2 * (rank != 4)
            mined.append(Candidate(query.query_id, f"p{n}", rank, base_rank, 1 / rank, 0, 0.0, bm25_rank, 9.0 / rank))
            if rank < candidates:
                grade = (3, 2, 1, 0, 0)[(rank - 1) % 5] if i % 4 else (1, 3, 0, 1, 0)[(rank - 1) % 5]
                judged.append(
                    Judgment(
                        query.query_id, f"p{n}", grade, grade + 0.1 / rank, grade == 3, "judge", f"recorded {i} {n}"
                    )
                )
                rated.append(Rating(query.query_id, f"p{n}", "likelihood", -10.0 * rank, "", ""))
                rated.append(Rating(query.query_id, f"p{n}", "relevance:3", -1.0 - (3 - grade), "", ""))
    scores = [
        Score(system, 8, q.query_id, "ndcg@10", float(value))
        for system in ("base", "tuned")
        for q, value in zip(asked, drawn.random(len(asked)).round(2), strict=True)
        if q.part == "test"
    ]

    with Run(path, writable=True) as run:

        def stage(name: str, work: Callable[[StageOutput], Any], *reads: str) -> None:
            run.stage(name, lambda out: (work(out), None)[1], settings={}, reads=reads)

        def vectors(file: str, seed: int) -> Callable[[StageOutput], None]:
            made = np.random.default_rng(0).normal(size=(passages, 8))
            made += seed * np.random.default_rng(seed).normal(size=(passages, 8)) / 3
            unit = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
            return lambda out: np.save(out.path / file, unit)

        def vectors_stage(out: StageOutput) -> None:
            vectors("base.npy", 0)(out)
            out.write_json("cut", {"base": str(path / "no such model"), "cut": 64, "ndcg@10": {}})

        def evaluated(out: StageOutput) -> None:
            vectors("tuned.npy", 1)(out)
            out.write("scores", Score, scores)
            verdict = {"sentence": "tuned is better by a lot", "better": True, "use": "tuned", "queries": 5}
            out.write_json("verdict", verdict)

        def examples(out: StageOutput) -> None:
            chosen = ExampleSettings.model_validate(settings or {})
            out.write("examples", Example, make_examples(asked, mined, judged, parts, chosen))

        order: list[tuple[str, Callable[[StageOutput], Any], tuple[str, ...]]] = [
            ("corpus", lambda out: out.write("passages", Passage, corpus), ()),
            ("split", lambda out: out.write("documents", Document, documents), ("corpus",)),
            (
                "generate",
                lambda out: (
                    out.write("queries", Query, asked),
                    out.write("log", Query, ()),
                    out.write("failures", Failure, ()),
                ),
                ("corpus", "split"),
            ),
            ("vectors", vectors_stage, ("corpus", "generate")),
            ("mine", lambda out: out.write("candidates", Candidate, mined), ("generate",)),
            (
                "judge",
                lambda out: (
                    out.write("judgments", Judgment, judged),
                    out.write("ratings", Rating, rated),
                    out.write("answered", Query, ()),
                    out.write("gaps", Query, ()),
                ),
                ("mine",),
            ),
            ("examples", examples, ("judge",)),
            ("train", lambda out: (out.path / "model").mkdir(), ("examples",)),
            ("evaluate", evaluated, ("train",)),
        ]
        for name, work, reads in order:
            stage(name, work, *reads)
            if name == until:
                break
        values = "".join(f"{name} = {json.dumps(value)}\n" for name, value in (settings or {}).items())
        run.write_settings(f'documents = "made"\n[examples]\n{values}')
    return Run(path, writable=False)
