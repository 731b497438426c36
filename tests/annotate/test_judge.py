from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulated import SimulatedJudge
from tokay.annotate import fuse
from tokay.annotate.asking import Unusable
from tokay.annotate.judge import digit, is_disputed, listwise_schema, make_judge, read_grades
from tokay.errors import TokayError
from tokay.llm.door import AskFailed
from tokay.llm.ledger import Answer
from tokay.llm.probe import Abilities
from tokay.records import Failure, Judgment, Passage, Query, Rating
from tokay.settings import JudgeSettings

QUERY = Query("q", "p0", "find it", "stone alpha", "train", True, "", "")
ALL = Abilities(likelihood="local", first_logprobs=4, schema=True)


def passages(count: int) -> list[Passage]:
    return [Passage(f"p{i}", f"d{i}", f"title {i}", f"text {i}", "", "") for i in range(count)]


def run(
    by: str, grades: Sequence[int], *, noise: float = 0.0, abilities: Abilities = ALL, **settings: Any
) -> tuple[dict[str, Judgment], list[Rating | Failure], SimulatedJudge]:
    shown = passages(len(grades))
    truth = {QUERY.text: {p.title: grade for p, grade in zip(shown, grades, strict=True)}}
    chat = SimulatedJudge(truth, noise=noise, abilities=abilities)
    judge = make_judge(JudgeSettings.model_validate({"by": by, **settings}), abilities, chat)
    rated = asyncio.run(judge.rate(chat, QUERY, shown))
    ratings = [r for r in rated if isinstance(r, Rating)]
    decided = judge.decide(QUERY, [p.passage_id for p in shown], ratings)
    return {j.passage_id: j for j in decided}, rated, chat


@pytest.mark.parametrize("by", ["gecko", "relevance", "pointwise", "listwise", "cascade"])
@given(grades=st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_without_noise_every_judge_gives_the_true_grades(by: str, grades: list[int]) -> None:
    judged, rated, _ = run(by, grades)
    assert [judged[f"p{i}"].grade for i in range(len(grades))] == grades
    assert not [r for r in rated if isinstance(r, Failure)]
    [best] = [j for j in judged.values() if j.best]
    assert best.grade == max(grades)
    scores = [judged[f"p{i}"].score for i in range(len(grades))]
    assert max(scores) == best.score
    assert all(
        a >= b for g, a in zip(grades, scores, strict=True) for h, b in zip(grades, scores, strict=True) if g > h
    )


def test_how_often_each_judge_asks() -> None:
    grades = [3, 0, 0, 1, 0, 0, 0, 2]
    asked = {by: len(run(by, grades)[2].sent) for by in ("gecko", "relevance", "pointwise", "listwise", "cascade")}
    assert asked == {"gecko": 16, "relevance": 8, "pointwise": 8, "listwise": 2, "cascade": 2}
    assert len(run("cascade", [3, 1, 0, 0])[2].sent) == 1  # the seed answers, and it alone
    assert len(run("listwise", grades, turns=3)[2].sent) == 3


@pytest.mark.parametrize("by", ["gecko", "relevance", "pointwise", "listwise", "cascade"])
def test_what_is_estimated_is_what_is_sent(by: str) -> None:
    shown = passages(4)
    _, _, chat = run(by, [0, 3, 2, 1])
    judge = make_judge(JudgeSettings.model_validate({"by": by}), ALL, chat)
    planned = [request.text for request in judge.requests(QUERY, shown)]
    assert len(planned) == len(chat.sent)
    if by != "cascade":  # what its second step shows depends on the first
        assert sorted(len(t) for t in planned) == sorted(len(t) for t in chat.sent)


def reference(ql: Sequence[float], rc: Sequence[float], k: int, seed: int) -> tuple[list[float], int]:
    """Appendix A, written out: 1-based ranks by counting what stands before, R, and the first by R, seed, RC."""
    n = range(len(ql))

    def rank(values: Sequence[float], i: int) -> int:
        return 1 + sum(
            values[j] > values[i] or (values[j] == values[i] and (j == seed, -j) > (i == seed, -i)) for j in n
        )

    scores = [1 / (k + rank(ql, i)) + 1 / (k + rank(rc, i)) for i in n]
    first = max(n, key=lambda i: (scores[i], i == seed, -rank(rc, i)))
    return scores, first


@given(
    st.lists(st.tuples(st.integers(-30, 0), st.integers(-9, 0)), min_size=1, max_size=20),
    st.sampled_from([0, 60]),
    st.data(),
)
def test_fusion_is_the_papers(values: list[tuple[int, int]], k: int, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, len(values) - 1))
    query = Query("q", f"p{seed}", "t", "x", "train", True, "", "")
    ratings = [
        Rating("q", f"p{i}", judge, float(value), "prompt", "k")
        for i, (ql, rc) in enumerate(values)
        for judge, value in [
            ("likelihood", ql),
            *((f"relevance:{g}", rc if g == 3 else -10.0 - g) for g in range(4)),
        ]
    ]
    order = data.draw(st.permutations(ratings))
    judged = fuse.gecko(query, [f"p{i}" for i in range(len(values))], order, k=k)
    scores, first = reference([float(q) for q, _ in values], [float(r) for _, r in values], k, seed)
    assert [j.score for j in judged] == pytest.approx(scores, abs=1e-12)
    assert [j.passage_id for j in judged if j.best] == [f"p{first}"]


def test_a_candidate_that_could_not_be_rated_stays_unjudged() -> None:
    class Refuses(SimulatedJudge):
        async def logprobs(self, context: str, continuations: Sequence[str]) -> Answer:
            if "title 1\n" in context and context.endswith("Query:"):
                raise AskFailed("HTTP 400: too long", key="x")
            return await super().logprobs(context, continuations)

    shown = passages(3)
    chat = Refuses({QUERY.text: {"title 0": 3}}, abilities=ALL)
    judge = make_judge(JudgeSettings(by="gecko"), ALL, chat)
    rated = asyncio.run(judge.rate(chat, QUERY, shown))
    [failure] = [r for r in rated if isinstance(r, Failure)]
    assert failure == Failure("judge", "q p1", "no answer: HTTP 400: too long", "ledger x")
    decided = judge.decide(QUERY, ["p0", "p1", "p2"], [r for r in rated if isinstance(r, Rating)])
    assert [j.passage_id for j in decided] == ["p0", "p2"]


def test_one_turn_that_fails_leaves_the_other() -> None:
    class Stutters(SimulatedJudge):
        async def complete(self, messages: Sequence[Mapping[str, str]], **options: Any) -> Answer:
            answer = await super().complete(messages, **options)
            return answer if "<passage> 1\ntitle 0" in messages[1]["content"] else Answer("no")

    chat = Stutters({QUERY.text: {"title 0": 3}})
    judge = make_judge(JudgeSettings(by="listwise"), Abilities(), chat)
    rated = asyncio.run(judge.rate(chat, QUERY, passages(2)))
    assert sum(isinstance(r, Failure) for r in rated) == 1
    assert [j.grade for j in judge.decide(QUERY, ["p0", "p1"], [r for r in rated if isinstance(r, Rating)])] == [3, 0]


def test_grades_of_turns_are_averaged_and_doubt_is_no_answer() -> None:
    def judged(*grades: float) -> Judgment:
        ratings = [Rating("q", "p0", f"listwise:{t}", g, "", "") for t, g in enumerate(grades)]
        return fuse.mean_grades(QUERY, ["p0"], ratings, judge="listwise")[0]

    assert [judged(3, 0).grade, judged(2, 1).grade, judged(3, 2).grade, judged(1, 2, 2).grade] == [1, 1, 2, 2]


def test_disputed_is_all_but_the_seed_alone() -> None:
    def judged(*grades: int, best: int = 0) -> list[Judgment]:
        return [Judgment("q", f"p{i}", g, float(g), i == best, "", "") for i, g in enumerate(grades)]

    assert not is_disputed(QUERY, judged(3, 1, 0))
    assert is_disputed(QUERY, judged(3, 2, 0))
    assert is_disputed(QUERY, judged(1, 1, 0))
    assert is_disputed(QUERY, judged(2, 1, 0, best=1))


def test_auto_takes_what_the_model_can() -> None:
    chat = SimulatedJudge({})
    assert make_judge(JudgeSettings(), ALL, chat).version.startswith("gecko ")
    assert make_judge(JudgeSettings(), Abilities(), chat).version.startswith("listwise-")
    with pytest.raises(TokayError, match=r"judge.by=gecko needs log-probabilities of prompts, .* use listwise"):
        make_judge(JudgeSettings(by="gecko"), Abilities(), chat)
    with pytest.raises(TokayError, match=r"needs judge.cross_encoder"):
        make_judge(JudgeSettings(by="cross-encoder"), ALL, chat)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.data())
def test_grades_come_back_as_written(grades: list[int], data: st.DataObject) -> None:
    best = data.draw(st.none() | st.integers(0, len(grades)))
    text = json.dumps({"grades": {str(i + 1): g for i, g in enumerate(grades)}, "best": best})
    around = data.draw(
        st.sampled_from(["%s", "```json\n%s\n```", "<think>{hm}</think>%s", "Here it is:\n%s\nDone {}."])
    )
    found, first = read_grades(around % text, len(grades))
    assert [found[i + 1] for i in range(len(grades))] == grades
    assert first == (best if best and grades[best - 1] == max(grades) else 0)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("", "not the JSON"),
        ('{"grades": {"1": 1}, "best": 1}', "no grade for 1 of 2 passages"),
        ('{"grades": {"1": 1, "2": 7}, "best": 1}', "grade 7 is none of"),
        ('{"grades": {"1": "high", "2": 1}, "best": 1}', "not the JSON"),
        ('{"grades": {"1": 1, "2": 1, "9": 3}, "best": 1}', "passage 9 was not shown; there were 2"),
        ('{"grades": {"1": 1, "2": 1}, "best": 3}', "passage 3 was not shown"),
        ('{"grades": ' + '{"1":' * 9000, "not the JSON"),
        ("I cannot help with that.", r"not the JSON .*'I cannot help with that\.'"),
    ],
)
def test_unusable_grades(answer: str, message: str) -> None:
    with pytest.raises(Unusable, match=message):
        read_grades(answer, 2)


def test_a_digit_is_read_or_expected() -> None:
    half = math.log(0.5)
    assert digit(Answer("3")) == 3
    assert digit(Answer("Grade: 2.")) == 2
    assert digit(Answer("<think>maybe 3</think> 1")) == 1
    assert digit(Answer("3", {"3": half, " 2": half})) == pytest.approx(2.5)
    assert digit(Answer("3", {"3": math.log(0.25), " 3": math.log(0.25), "0": half})) == pytest.approx(1.5)
    assert digit(Answer("Grade 3", {"Grade": math.log(0.9), "3": math.log(0.1)})) == 3
    for text in ("", "none", "7", "high"):
        with pytest.raises(Unusable, match="no grade from 0 to 3"):
            digit(Answer(text))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.data())
def test_the_schema_takes_what_can_be_read(grades: list[int], data: st.DataObject) -> None:
    schema = listwise_schema(len(grades))
    answer = {
        "grades": {str(n): grade for n, grade in enumerate(grades, 1)},
        "best": data.draw(st.integers(1, len(grades))),
    }
    assert fits(answer, schema)
    assert read_grades(json.dumps(answer), len(grades))
    assert not fits(answer | {"best": len(grades) + 1}, schema)
    assert not fits({"grades": {**answer["grades"], "1": 4}, "best": 1}, schema)
    assert not fits({"grades": {}, "best": 1}, schema)


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """The part of JSON schema that strict mode is about: every property named, required, and no other."""
    if schema["type"] == "integer":
        return isinstance(value, int) and value in schema["enum"]
    properties = schema["properties"]
    assert sorted(schema["required"]) == sorted(properties)
    assert schema["additionalProperties"] is False
    return value.keys() == properties.keys() and all(fits(value[name], part) for name, part in properties.items())
