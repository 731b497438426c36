"""A shallow pool of one system's candidates favours that system; a pool of all of them does not. On a judge that knows."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from simulated import SimulatedJudge
from tokay.annotate.live import LiveAnnotator
from tokay.evaluate.many import Ranked, judge_many
from tokay.evaluate.sets import EvaluationSet, written_set
from tokay.evaluate.unjudged import pool, tops_of
from tokay.records import Judgment, Passage, Query
from tokay.settings import EvaluateSettings, GenerateSettings, JudgeSettings

QUERIES, PASSAGES, RELEVANT = 150, 200, 12
SETTINGS = EvaluateSettings(resamples=500)


class World:
    """Queries with many right answers, and two systems that are equally good at finding them, but not the same ones."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.passages = [Passage(f"p{i}", f"d{i}", f"p{i}", "text", "", "") for i in range(PASSAGES)]
        self.queries = [Query(f"q{i}", f"p{i}", "find it", f"query {i}", "test", True, "", "") for i in range(QUERIES)]
        self.grades = {
            q.text: {f"p{i}": int(rng.integers(2, 4)) for i in rng.choice(PASSAGES, RELEVANT, replace=False)}
            for q in self.queries
        }
        self.one, self.other = (Ranked(name, 0, self._ranking(rng)) for name in ("one", "other"))
        judge = SimulatedJudge(self.grades)
        self.judge = judge
        self.annotator = LiveAnnotator(
            "simulated",
            lambda name, stage: judge,
            generate=GenerateSettings(),
            judge=JudgeSettings(by="pointwise"),  # type: ignore[arg-type,return-value]
        )

    def _ranking(self, rng: np.random.Generator) -> dict[str, dict[str, float]]:
        noise = {q.query_id: rng.normal(0, 1.2, PASSAGES) for q in self.queries}
        return {
            q.query_id: {
                f"p{i}": float((self.grades[q.text].get(f"p{i}", 0) > 0) + noise[q.query_id][i])
                for i in range(PASSAGES)
            }
            for q in self.queries
        }

    def judged(self, systems: list[Ranked]) -> list[Judgment]:
        """What the judge says of the top of these systems."""
        ids = [q.query_id for q in self.queries]
        wanted = pool([tops_of(one.orders, ids) for one in systems], {}, ids)
        texts = {p.passage_id: p for p in self.passages}
        items = [(q, [texts[p] for p in wanted[q.query_id]]) for q in self.queries]
        return [item for item in self.annotator.judge(items) if isinstance(item, Judgment)]

    def on(self, judgments: list[Judgment]) -> EvaluationSet:
        return written_set("world", self.passages, self.queries, judgments, relevant_grade=2)

    def result(self, judgments: list[Judgment]) -> dict[str, Any]:
        return judge_many([self.one, self.other], self.on(judgments), reference="other", settings=SETTINGS).summary


@pytest.fixture(scope="module")
def world() -> World:
    made = World()
    made.judge.drain = lambda seconds: asyncio.sleep(0)  # type: ignore[attr-defined]
    return made


def truth(world: World) -> list[Judgment]:
    return [
        Judgment(q.query_id, p, grade, 0.0, False, "", "")
        for q in world.queries
        for p, grade in world.grades[q.text].items()
    ]


def test_a_pool_of_one_systems_candidates_favours_it_and_a_pool_of_all_does_not(world: World) -> None:
    honest = world.result(truth(world))["systems"][0]["comparison"]
    assert honest["low"] < 0 < honest["high"]  # they are equally good

    shallow = world.result(world.judged([world.one]))
    assert shallow["systems"][0]["judged@10"] == 1.0
    assert shallow["systems"][1]["judged@10"] < 0.6
    found = shallow["systems"][0]["comparison"]
    assert found["difference"] > 0.15
    assert found["p_value"] < 0.01

    both = world.result(world.judged([world.one, world.other]))
    assert [row["judged@10"] for row in both["systems"]] == [1.0, 1.0]
    fair = both["systems"][0]["comparison"]
    assert fair["low"] < 0 < fair["high"]
    assert fair["difference"] == pytest.approx(honest["difference"], abs=0.02)
    assert found["difference"] - honest["difference"] > 0.15


def test_the_figures_beside_say_so_before_anybody_pays(world: World) -> None:
    shallow = world.result(world.judged([world.one]))["systems"]
    assert shallow[0]["condensed"] == shallow[0]["at_best"] == pytest.approx(shallow[0]["ndcg@10"])
    assert shallow[1]["at_best"] > shallow[0]["ndcg@10"] > shallow[1]["ndcg@10"]
    gap = shallow[0]["ndcg@10"] - shallow[1]["ndcg@10"]
    assert abs(shallow[0]["condensed"] - shallow[1]["condensed"]) < gap


def test_the_judge_does_not_learn_who_found_what(world: World) -> None:
    first = world.judged([world.one, world.other])
    again = world.judged([world.other, world.one])
    assert first == again
