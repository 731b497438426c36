"""Every bad input, with the exact status and words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from fakes import Slow
from serving import serving

LIMITS = {"max_body": 2_500_000, "max_tokens": 3_000, "max_texts": 100}


@pytest.fixture(scope="module")
def place() -> Iterator[str]:
    with serving({"fake": Slow(), "second": Slow(sign=-1)}, **LIMITS) as url:
        yield url


def post(place: str, body: Any, path: str = "/v1/embeddings", **more: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(place + path, content=content, timeout=30, **more)


def error(status: int, message: str, param: str | None, code: str | None = None) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


IDS = "a list of such lists"
CASES: list[tuple[Any, int, str, str | None, str | None]] = [
    ({"input": ""}, 400, "input is empty; expected text of at least one character", "input", None),
    ({"input": ["a", ""]}, 400, "input[1] is empty; expected text of at least one character", "input", None),
    ({"input": []}, 400, "input is an empty list; expected at least one text", "input", None),
    ({"input": [[]]}, 400, "input[0] is an empty list; expected at least one token id", "input", None),
    (
        {"input": ["a"] * 10_000},
        400,
        "input has 10,000 items; expected at most 100: send the rest in more requests",
        "input",
        None,
    ),
    (
        {"input": ["a " * 60] * 99},
        400,
        "input has more than 3,000 tokens: 3,840 in the first 64 of 99 texts; send fewer texts a request",
        "input",
        "max_tokens_per_request",
    ),
    (
        {"input": 5},
        400,
        "input is 5; expected text, a list of texts, a list of token ids, or a list of such lists",
        "input",
        None,
    ),
    (
        {"input": None},
        400,
        "input is None; expected text, a list of texts, a list of token ids, or a list of such lists",
        "input",
        None,
    ),
    (
        {"input": {"text": "a"}},
        400,
        "input is {'text': 'a'}; expected text, a list of texts, a list of token ids, or a list of such lists",
        "input",
        None,
    ),
    ({"input": ["a", 1]}, 400, "input[1] is 1; expected text, as the item before it", "input", None),
    ({"input": [True]}, 400, "input[0] is True; expected text or a list of token ids", "input", None),
    ({"input": [1, 2.5]}, 400, "input[1] is 2.5; expected a token id, a whole number of at least 0", "input", None),
    (
        {"input": [[1], [-2]]},
        400,
        "input[1][0] is -2; expected a token id, a whole number of at least 0",
        "input",
        None,
    ),
    ({"input": [[1], "a"]}, 400, "input[1] is 'a'; expected text or a list of token ids", "input", None),
    ({"input": " "}, 400, "text 0 of input is ' ', which has no token of this model; leave it out", "input", None),
    ({}, 400, "field 'input' is missing", "input", None),
    ({"input": "a", "model": None}, 400, "field 'model' is None; expected text", "model", None),
    ({"input": "a", "model": 3}, 400, "field 'model' is 3; expected text", "model", None),
    (
        {"input": "a", "model": "fak"},
        404,
        "there is no model 'fak'; served here: fake, second; did you mean 'fake'?",
        "model",
        "model_not_found",
    ),
    (
        {"input": "a", "model": "fake:quest"},
        404,
        "there is no model 'fake:quest'; served here: fake, second; did you mean 'fake:query'?",
        "model",
        "model_not_found",
    ),
    (
        {"input": "a", "dimensions": 3},
        400,
        "dimensions is 3; fake was trained for 2 or 4; send that, or none",
        "dimensions",
        None,
    ),
    (
        {"input": "a", "dimensions": 0},
        400,
        "field 'dimensions' is 0; expected a whole number of at least 1",
        "dimensions",
        None,
    ),
    (
        {"input": "a", "dimensions": "2"},
        400,
        "field 'dimensions' is '2'; expected a whole number of at least 1",
        "dimensions",
        None,
    ),
    (
        {"input": "a", "dimensions": 2.0},
        400,
        "field 'dimensions' is 2.0; expected a whole number of at least 1",
        "dimensions",
        None,
    ),
    (
        {"input": "a", "encoding_format": "hex"},
        400,
        "field 'encoding_format' is 'hex'; expected 'float' or 'base64'",
        "encoding_format",
        None,
    ),
    (
        {"input": "a", "input_type": "search_kuery"},
        400,
        "input_type is 'search_kuery'; expected 'query', 'passage' or a task such as 'clustering'; did you mean "
        "'search_query'?",
        "input_type",
        None,
    ),
    (
        {"input": ["a", "nan", "b"]},
        422,
        "text 1 of input gives a vector that is not finite, which no search can use; the model fails on it: leave it "
        "out (the others are 2 of 3)",
        "input",
        "vector_not_finite",
    ),
    ({"input": ["a", "boom"]}, 500, "the server failed on this request; its log says why", None, None),
    ([], 400, "the body is a list; expected a JSON object", None, None),
    (b"", 400, "the body is not JSON: Expecting value: line 1 column 1 (char 0)", None, None),
    (b'{"input": "a"', 400, "the body is not JSON: Expecting ',' delimiter: line 1 column 14 (char 13)", None, None),
    (b'{"input": NaN}', 400, "the body is not JSON: NaN is no number of JSON", None, None),
    (b"[" * 100_000, 400, "the body is not JSON: it is nested too deeply", None, None),
    (
        b'{"input": "\xff\xfe"}',
        400,
        "the body is not UTF-8: byte 0xff at position 11; expected JSON in UTF-8",
        None,
        None,
    ),
    (
        b" " * 2_500_001,
        413,
        "the body has more than 2,500,000 bytes; send fewer texts a request",
        None,
        "request_too_large",
    ),
]


@pytest.mark.parametrize(("body", "status", "message", "param", "code"), CASES, ids=lambda v: str(v)[:40])
def test_what_is_refused_says_why(
    place: str, body: Any, status: int, message: str, param: str | None, code: str | None
) -> None:
    sent = {"model": "fake", **body} if isinstance(body, dict) else body
    found = post(place, sent)
    assert found.json() == error(status, message, param, code)
    assert found.status_code == status


def test_a_long_message_is_sent_short(place: str) -> None:
    message = post(place, {"model": "x" * 100_000, "input": "a"}).json()["error"]["message"]
    assert len(message) < 500
    assert message.endswith("served here: fake, second")


def test_what_is_unusual_and_right_is_answered(place: str) -> None:
    def vectors(value: Any, **more: Any) -> Any:
        found = post(place, {"model": "fake", "input": value, **more})
        assert found.status_code == 200, found.text
        return np.array([row["embedding"] for row in found.json()["data"]], np.float32)

    long = vectors("a " * 500_000)  # 1 MB: its beginning is read
    np.testing.assert_array_equal(long, Slow().encode(["a " * 500_000]))
    assert vectors("\ud800 a").shape == (1, 4)
    nulls = dict.fromkeys(("dimensions", "encoding_format", "user", "input_type", "task_type", "task", "prompt_name"))
    assert vectors(["a"] * 100, **nulls, extra=[1]).shape == (100, 4)
    assert post(place, {"model": "fake", "input": "a"}, headers={"content-type": "text/plain"}).status_code == 200


def test_a_body_in_chunks_is_cut_where_it_is_too_large(place: str) -> None:
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(60):
            sent += 100_000
            yield b" " * 100_000

    found = httpx.post(f"{place}/v1/embeddings", content=chunks())
    assert found.status_code == 413
    assert found.json() == error(
        413, "the body has more than 2,500,000 bytes; send fewer texts a request", None, "request_too_large"
    )


def test_a_failing_text_is_not_its_neighbours_fault(place: str) -> None:
    import concurrent.futures

    texts = ["a", "boom", "b", "nan", "c"] * 8
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda text: post(place, {"model": "fake", "input": text}).status_code, texts))
    assert found == [{"boom": 500, "nan": 422}.get(text, 200) for text in texts]


GOOGLES: list[tuple[str, Any, int, str, str]] = [
    ("nosuch:embedContent", {"content": {"parts": [{"text": "a"}]}}, 404, "NOT_FOUND", "there is no model 'nosuch'; served here: fake, second"),
    ("fake:embedContent", {"content": {"parts": [{"text": ""}]}}, 400, "INVALID_ARGUMENT", "content holds an empty text; expected at least one character"),
    ("fake:embedContent", {}, 400, "INVALID_ARGUMENT", "field 'content' is missing"),
    ("fake:embedContent", {"content": "a"}, 400, "INVALID_ARGUMENT", "field 'content' is 'a'; expected an object"),
    (
        "fake:embedContent",
        {"content": {"parts": [{"text": "a"}]}, "outputDimensionality": 3},
        400,
        "INVALID_ARGUMENT",
        "outputDimensionality is 3; fake was trained for 2 or 4; send that, or none",
    ),
    (
        "fake:embedContent",
        {"content": {"parts": [{"text": "a"}]}, "taskType": "RETRIEVAL_QUERRY"},
        400,
        "INVALID_ARGUMENT",
        "taskType is 'RETRIEVAL_QUERRY'; expected 'query', 'passage' or a task such as 'clustering'; did you mean "
        "'retrieval_query'?",
    ),
    (
        "fake:batchEmbedContents",
        {"requests": [{"content": {"parts": [{"text": "a"}]}}] * 101},
        400,
        "INVALID_ARGUMENT",
        "requests has 101 items; expected at most 100: send the rest in more requests",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "word", "message"), GOOGLES)
def test_googles_clients_are_told_in_googles_shape(
    place: str, path: str, body: Any, status: int, word: str, message: str
) -> None:
    found = post(place, body, f"/v1beta/models/{path}")
    assert found.json() == {"error": {"code": status, "message": message, "status": word}}
    assert found.status_code == status


def test_paths_that_are_not_there(place: str) -> None:
    found = httpx.get(f"{place}/v1/completions")
    assert found.json() == error(404, "there is no GET /v1/completions here; /docs lists what there is", None)
    found = httpx.get(f"{place}/v1/embeddings")
    assert (found.status_code, found.headers["allow"]) == (405, "POST")
    assert found.json() == error(405, "there is no GET /v1/embeddings here; /docs lists what there is", None)


# -- keys -------------------------------------------------------------------------------------------------------------


def test_a_key_opens_by_any_of_the_three_headers() -> None:
    with serving({"fake": Slow()}, api_keys=("one", "two")) as url:
        good = [
            {"Authorization": "Bearer one"},
            {"authorization": "bearer two"},
            {"x-goog-api-key": "one"},
            {"api-key": "two"},
        ]
        for headers in good:
            assert post(url, {"model": "fake", "input": "a"}, headers=headers).status_code == 200
        for headers in ({"Authorization": "Basic one"}, {"api-key": ""}, {}):
            found = post(url, {"model": "fake", "input": "a"}, headers=headers)
            assert found.json()["error"]["message"] == (
                "there is no key; send it as 'Authorization: Bearer KEY', 'x-goog-api-key: KEY' or 'api-key: KEY'"
            )
            assert (found.status_code, found.json()["error"]["code"]) == (401, "invalid_api_key")
        found = post(url, b"a" * 1_000_000, headers={"Authorization": "Bearer on"})
        assert found.json()["error"]["message"].startswith("the key is not one of this server's; send it as")
        found = post(url, {}, "/v1beta/models/fake:embedContent", headers={"x-goog-api-key": "no"})
        assert found.json()["error"]["status"] == "UNAUTHENTICATED"
        assert [httpx.get(url + path).status_code for path in ("/healthz", "/readyz", "/metrics", "/v1/models")] == [
            200,
            200,
            401,
            401,
        ]


# -- metrics ----------------------------------------------------------------------------------------------------------


def test_metrics_count_requests_texts_tokens_and_micro_batches() -> None:
    with serving({"fake": Slow()}) as url:
        post(url, {"model": "fake", "input": ["a b", "c"]})
        post(url, {"model": "fake", "input": ""})
        post(url, {"model": "fake", "input": "a"}, "/nowhere")
        text = httpx.get(f"{url}/metrics").text
    for line in (
        'tokay_requests_total{route="/v1/embeddings",status="200"} 1.0',
        'tokay_requests_total{route="/v1/embeddings",status="400"} 1.0',
        'tokay_requests_total{route="other",status="404"} 1.0',
        'tokay_tokens_total{model="fake"} 3.0',
        'tokay_texts_total{model="fake"} 2.0',
        "tokay_batch_texts_sum 2.0",
        "tokay_waiting_tokens 0.0",
        'tokay_request_seconds_count{route="/v1/embeddings"} 2.0',
    ):
        assert line in text.splitlines(), line
