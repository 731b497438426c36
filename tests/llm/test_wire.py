from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokay.llm.ledger import Usage
from tokay.llm.wire import (
    ChatCompletion,
    NotOfThisText,
    ScoredCompletion,
    chat_answer,
    chat_body,
    first_beyond,
    likelihood_body,
    log_probability,
    usage_of,
)


@given(st.text(), st.text(min_size=1), st.sets(st.integers(0, 100)), st.lists(st.sampled_from(["<s>", "\ufffd"])))
def test_tokens_are_told_apart_wherever_they_are_cut(
    context: str, continuation: str, cuts: set[int], before: list[str]
) -> None:
    """The border is found by bytes, whatever pieces of characters the tokens are, if one begins at the continuation."""
    data, border = f"{context} {continuation}".encode(errors="replace"), len(context.encode(errors="replace"))
    text = data.decode()
    edges = sorted({0, len(data), border, *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    tokens = before + [piece.decode(errors="replace") for piece in pieces]
    expected = len(before) + sum(edge < border for edge in edges)
    assert first_beyond(tokens, text, len(data[:border].decode())) == expected


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["Grade", ":", " ", "3"], 2),
        (["<s>", "Grade", ":", " 3"], 3),
        (["Grade", ": ", "3"], 1),  # straddles: the continuation's
        (["Gra", "de: 3"], 1),
        (["whatever", " 3"], 1),  # what stands before the continuation is not looked at
        (["Grade", ":", "3"], None),
        ([" 4"], None),
        ([], None),
    ],
)
def test_the_continuations_tokens(tokens: list[str], expected: int | None) -> None:
    assert first_beyond(tokens, "Grade: 3", len("Grade:")) == expected


def test_parts_of_characters() -> None:
    assert first_beyond(["q:", " \ufffd", "\ufffd", "x"], "q: 漢x", 2) == 1
    assert first_beyond(["q:", " ", "\ufffd\ufffd", "x"], "q: \ufffd\ufffdx", 2) == 1


def echo(tokens: list[str], values: list[float | None]) -> ScoredCompletion:
    return ScoredCompletion.model_validate(
        {"choices": [{"logprobs": {"tokens": tokens, "token_logprobs": values, "text_offset": []}}]}
    )


def test_the_token_that_was_written_is_left_out() -> None:
    assert log_probability(echo(["a", " b", "!"], [None, -2.0, -9.0]), "echo", "a", " b") == (-2.0, 1)
    assert log_probability(echo(["a", " b"], [None, -2.0]), "echo", "a", " b") == (-2.0, 1)  # by a server that hides it


@pytest.mark.parametrize(
    ("said", "way", "message"),
    [
        (echo(["a", " b", "!"], [None, None, -1.0]), "echo", "no log-probability"),
        (echo(["a", " b", "!"], [None, float("-inf"), -1.0]), "echo", "no log-probability"),
        (echo([" Paris"], [-1.0]), "echo", "not the prompt's: its tokens end in ' Paris'"),
        (ScoredCompletion.model_validate({"choices": [{"logprobs": None}]}), "echo", "ignores echo"),
        (ScoredCompletion.model_validate({"choices": [{"prompt_logprobs": [3]}]}), "prompt_logprobs", "none came"),
    ],
)
def test_numbers_about_another_text_are_refused(said: ScoredCompletion, way: str, message: str) -> None:
    with pytest.raises(NotOfThisText, match=message):
        log_probability(said, way, "a", " b")


def test_prompt_logprobs_of_several_tokens_a_place() -> None:
    entries = [None, {"7": {"logprob": -2.5, "rank": 9, "decoded_token": " b"}, "8": {"logprob": -0.1, "rank": 1}}]
    said = ScoredCompletion.model_validate({"choices": [{"prompt_logprobs": entries}]})
    assert log_probability(said, "prompt_logprobs", "a", " b") == (-2.5, 1)


def test_bodies() -> None:
    request = {"model": "m", "messages": [], "max_tokens": 1, "temperature": 0}
    assert chat_body(request) == request
    body = chat_body({**request, "schema": {"type": "object"}, "top_logprobs": 4})
    assert body["response_format"]["json_schema"] == {"name": "answer", "strict": True, "schema": {"type": "object"}}
    assert (body["logprobs"], body["top_logprobs"]) == (True, 4)
    assert "schema" not in body
    assert likelihood_body("m", "t", "echo")["echo"] is True
    assert "echo" not in likelihood_body("m", "t", "prompt_logprobs")


def first_of(logprobs: Any) -> dict[str, float]:
    body = json.dumps({"choices": [{"message": {"content": "3"}, "logprobs": logprobs}]})
    return dict(chat_answer(ChatCompletion.model_validate_json(body)).first)


def test_first_tokens_keep_their_strings() -> None:
    top = [{"token": "3", "logprob": -0.5}, {"token": " 3", "logprob": -1.5}, {"token": "3", "logprob": -4}]
    assert first_of({"content": [{"token": "3", "top_logprobs": top}, {"token": "!"}]}) == {"3": -0.5, " 3": -1.5}


@pytest.mark.parametrize("garbage", [None, 3, [], {}, {"content": []}, {"content": [{"top_logprobs": [{"token": 1}]}]}])
def test_strange_log_probabilities_are_none(garbage: Any) -> None:
    assert first_of(garbage) == {}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}, Usage(9, 4, 0)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 40}}, Usage(9, 9, 0)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": "4"}, "completion_tokens": True}, Usage(9)),
        ({"prompt_tokens": -1, "prompt_tokens_details": [], "completion_tokens": 2.5}, Usage()),
        ({"prompt_tokens": 10**30}, Usage()),  # more than the ledger's columns hold
        (None, Usage()),
        ("many", Usage()),
    ],
)
def test_token_counts(told: Any, expected: Usage) -> None:
    assert usage_of(told) == expected
