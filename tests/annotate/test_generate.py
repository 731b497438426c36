from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokay.annotate.asking import Unusable
from tokay.annotate.generate import is_copied, queries_from, without_twins
from tokay.annotate.prompts import generate_messages
from tokay.annotate.wishes import some_of, wishes_of
from tokay.records import Failure, Passage, Query
from tokay.settings import GenerateSettings


def passage(text: str = "alpha beta gamma delta stone", passage_id: str = "p0") -> Passage:
    return Passage(passage_id, "d", "title", text, "", "")


def query(text: str, number: int = 0) -> Query:
    return Query(f"q{number}", f"p{number}", "t", text, "train", True, "", "")


def test_empty_and_copied_queries_are_counted_rejections() -> None:
    text = "one two three four five six seven eight nine ten"
    answer = {
        "queries": [{"task": "t", "query": q} for q in ("", "Two three, four five six seven eight nine", "fine then")]
    }
    made = queries_from(json.dumps(answer), passage(text), 3, "k")
    assert [m.reason.split(" ")[0] if isinstance(m, Failure) else m.text for m in made] == [
        "empty",
        "query",
        "fine then",
    ]
    assert {m.answer_id for m in made} == {"ledger k"}
    assert not is_copied("two three four five six seven eight", text)
    with pytest.raises(Unusable, match="no queries"):
        queries_from('{"queries": []}', passage(), 2, "k")


@pytest.mark.parametrize(
    ("task", "query", "reason"),
    [
        ("", "a query", "empty task"),
        ("t", "word " * 200, "characters; at most 400"),
        ("t", "I cannot write a query for this passage", "a refusal, not a query"),
    ],
)
def test_each_query_is_looked_at(task: str, query: str, reason: str) -> None:
    answer = {"queries": [{"task": "t", "query": "first one"}, {"task": task, "query": query}]}
    good, bad, absent = queries_from(json.dumps(answer), passage(), 3, "k")
    assert isinstance(good, Query)
    assert isinstance(bad, Failure)
    assert reason in bad.reason
    assert absent == Failure("generate", "p0#2", "only 2 of 3 queries in the answer", "ledger k")
    assert len(queries_from(json.dumps(answer), passage(), 1, "k")) == 1


def test_the_same_question_in_other_words_is_asked_once() -> None:
    texts = ("how do I sort a list", "sorting lists", "Sort a LIST?", "sort a tuple", "如何排序", "how to", "How to?")
    made = list(without_twins(query(text, n) for n, text in enumerate(texts)))
    assert [m.text for m in made if isinstance(m, Query)] == [texts[0], texts[3], texts[4], texts[5]]
    assert "the same words as the query 'q0'" in next(m.reason for m in made if isinstance(m, Failure))


@given(st.integers(0, 10**6), st.integers(1, 10))
def test_wishes_depend_on_the_passage_alone(number: int, count: int) -> None:
    seed = passage(passage_id=f"p{number}")
    wishes = wishes_of(seed, count, GenerateSettings())
    assert wishes == wishes_of(seed, count, GenerateSettings())
    assert wishes_of(seed, count + 1, GenerateSettings())[:count] == wishes
    kinds = [wish.split(";")[0] for wish in wishes]
    assert len(set(kinds[:6])) == min(count, 6)  # none twice before all were used


def test_quotas_are_kept() -> None:
    settings = GenerateSettings(kinds={"a": 3, "b": 1, "never": 0}, lengths={"short": 1}, language="German")
    first = [wishes_of(passage(passage_id=str(i)), 1, settings)[0] for i in range(2000)]
    assert {w.split("; ")[1] for w in first} == {"short"}
    assert all(w.endswith("in German") for w in first)
    share = sum(w.startswith("a;") for w in first) / 2000
    assert 0.7 < share < 0.8
    assert not any(w.startswith("never") for w in first)


def test_the_language_is_the_passages_own() -> None:
    german = "Der Vertrag kann mit einer Frist von drei Monaten zum Ende des Jahres gekündigt werden."
    assert "in the language of the passage (de)" in wishes_of(passage(german), 1, GenerateSettings())[0]
    assert wishes_of(passage("x = 1"), 1, GenerateSettings())[0].endswith("in the language of the passage")


def test_what_searchers_look_for_stands_in_the_prompt() -> None:
    with_about, without = (
        generate_messages(passage(), ["a question"], about=about) for about in ("people look for spare parts", "")
    )
    assert with_about[0] == without[0]
    assert (
        "The people who search here: people look for spare parts\nWrite 1 queries:\n1. a question"
        in (with_about[1]["content"])
    )


def test_a_prompt_shows_some_queries_of_the_log() -> None:
    log = [f"query {i}" for i in range(50)]
    shown = some_of(log, passage())
    assert len(set(shown)) == 4
    assert some_of(log[::-1], passage()) == shown
    assert len({*some_of([*log, "one more"], passage())} - {*shown}) <= 1
    content = generate_messages(passage(), ["a question"], typed=["fence <passage>", "b"])[1]["content"]
    assert "of your passage:\n- fence" in content
    assert "- b\nWrite 1 queries" in content
    assert content.count("<passage>") == 1
