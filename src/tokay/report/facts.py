"""A run's tables, read once for the whole report."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from tokay.evaluate.verdict import PRIMARY
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
from tokay.report.measures import Opinions
from tokay.store import Run


@dataclasses.dataclass(frozen=True)
class Mined:
    """Of the candidates of a query: its seed's rank, fused and the base's own (0: not among them), and scores.

    ``scores`` are the base model's cosines by passage id; a passage that the base did not return has none.
    """

    candidates: int
    seed_rank: int
    seed_base_rank: int
    scores: Mapping[str, float]


class Facts:
    """What a run's tables say. Each is read when it is first asked for."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @functools.cached_property
    def verdict(self) -> dict[str, Any]:
        """Of the held-out queries."""
        found: dict[str, Any] = self.run.read_json("evaluate", "verdict")
        return found

    @functools.cached_property
    def queries(self) -> dict[str, Query]:
        """Those that were written, and those of a log that something answers."""
        tables = (self.run.table(*table, Query) for table in (("generate", "queries"), ("judge", "answered")))
        return {q.query_id: q for q in itertools.chain(*tables)}

    @functools.cached_property
    def passages(self) -> dict[str, Passage]:
        """All of them."""
        return {p.passage_id: p for p in self.run.table("corpus", "passages", Passage)}

    @functools.cached_property
    def documents(self) -> list[Document]:
        """With their parts."""
        return list(self.run.table("split", "documents", Document))

    @functools.cached_property
    def duplicates(self) -> Counter[str]:
        """By kind."""
        return Counter(d.kind for d in self.run.table("corpus", "duplicates", Duplicate))

    @functools.cached_property
    def skipped(self) -> list[Skipped]:
        """Inputs that could not be read."""
        return list(self.run.table("corpus", "skipped", Skipped))

    @functools.cached_property
    def failures(self) -> list[Failure]:
        """Answers that were not used."""
        return [f for stage in ("generate", "judge") for f in self.run.table(stage, "failures", Failure)]

    @functools.cached_property
    def examples(self) -> list[Example]:
        """Of all parts."""
        return list(self.run.table("examples", "examples", Example))

    @functools.cached_property
    def relabelled(self) -> tuple[int, int]:
        """How many judged queries have another best positive than their seed, of how many with a seed and a row.

        A query's first row has its best positive; its further ones are further right passages.
        """
        first: dict[str, bool] = {}
        for e in self.examples:
            if e.seed_id and e.query_id in self.grades:
                first.setdefault(e.query_id, e.relabelled)
        return sum(first.values()), len(first)

    @functools.cached_property
    def grades(self) -> dict[str, dict[str, int]]:
        """Query id -> passage id -> grade."""
        found: dict[str, dict[str, int]] = defaultdict(dict)
        for j in self.run.table("judge", "judgments", Judgment):
            found[j.query_id][j.passage_id] = j.grade
        return dict(found)

    @functools.cached_property
    def mined(self) -> dict[str, Mined]:
        """By query; queries without candidates have none."""
        found: dict[str, list[Candidate]] = defaultdict(list)
        for c in self.run.table("mine", "candidates", Candidate):
            found[c.query_id].append(c)
        seeds = {q: query.seed_id for q, query in self.queries.items()}
        made = {}
        for query_id, candidates in found.items():
            seed = next((c for c in candidates if c.passage_id == seeds.get(query_id)), None)
            scores = {c.passage_id: c.base_score for c in candidates if c.base_rank}
            made[query_id] = Mined(len(candidates), seed.rank if seed else 0, seed.base_rank if seed else 0, scores)
        return made

    @functools.cached_property
    def judges(self) -> list[str]:
        """Whose opinions the ratings table has; votes for the best are no opinions of their own."""
        found = dict.fromkeys(r.judge for r in self.run.table("judge", "ratings", Rating))
        return [judge for judge in found if not judge.startswith("best-")]

    def opinions(self, *judges: str) -> list[Opinions]:
        """What some judges said."""
        found: list[dict[str, dict[str, float]]] = [defaultdict(dict) for _ in judges]
        place = {judge: i for i, judge in enumerate(judges)}
        for r in self.run.table("judge", "ratings", Rating):
            if r.judge in place:
                found[place[r.judge]][r.query_id][r.passage_id] = r.value
        return [dict(one) for one in found]

    @functools.cached_property
    def scores(self) -> dict[tuple[str, int], dict[str, float]]:
        """(System, width) -> query id -> nDCG@10."""
        found: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
        for s in self.run.table("evaluate", "scores", Score):
            if s.metric == PRIMARY:
                found[s.system, s.dim][s.query_id] = s.value
        return dict(found)

    @functools.cached_property
    def full(self) -> int:
        """The whole width of the vectors."""
        return max(int(row["dim"]) for row in self.verdict["rows"])

    @functools.cached_property
    def hits(self) -> dict[str, dict[str, list[Hit]]]:
        """``base`` or ``tuned`` at full width -> query id -> its first ten passages."""
        labels = {f"{system} @ {self.full}": system for system in ("base", "tuned")}
        found: dict[str, dict[str, list[Hit]]] = {system: defaultdict(list) for system in labels.values()}
        for hit in self.run.table("evaluate", "hits", Hit):
            if hit.system in labels:
                found[labels[hit.system]][hit.query_id].append(hit)
        return found

    def steps(self, stage: str) -> Sequence[Mapping[str, Any]]:
        """The lines of a training's ``metrics.jsonl``: one an optimiser step."""
        path = self.run.path / stage / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return [json.loads(line) for line in lines if line]
