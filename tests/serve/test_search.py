"""The search route."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from test_indexing import index, some
from tokay.search.index import Index, Searcher
from tokay.serve import make_app
from words import WordEmbedder


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    folder = tmp_path_factory.mktemp("served") / "index"
    index(folder, some(30))
    return Searcher(Index.open(folder), WordEmbedder())


@pytest.fixture(scope="module")
def client(searcher: Searcher) -> Iterator[TestClient]:
    with TestClient(make_app({"words": searcher.embedder}, indexes={"manual": searcher})) as opened:
        yield opened


def test_answers_are_those_of_the_index(client: Any, searcher: Searcher) -> None:
    answer = client.post("/v1/search", json={"query": "glass river", "top_k": 3, "model": "manual"})
    assert answer.status_code == 200
    found = answer.json()
    assert [entry["id"] for entry in found["data"]] == [
        match.passage.passage_id for match in searcher.search(["glass river"], top=3)[0]
    ]
    assert found["data"][0].keys() == {"id", "document_id", "title", "text", "source", "score", "rank"}
    assert (found["object"], found["model"], found["usage"]) == (
        "list",
        "manual",
        {"prompt_tokens": 3, "total_tokens": 3},
    )


def test_filter_and_words(client: Any, searcher: Searcher) -> None:
    body = {"query": "glass", "filter": {"ids": ["d3", "d9"]}}
    assert {entry["id"] for entry in client.post("/v1/search", json=body).json()["data"]} == {"d3", "d9"}
    assert len(client.post("/v1/search", json={"query": "glass", "top_k": None}).json()["data"]) == 10
    for extra in ({"hybrid": True}, {"weight": 1.0}, {"hybrid": False}):
        found = client.post("/v1/search", json={"query": "glass", **extra}).json()["data"]
        expected = searcher.search(["glass"], top=10, **extra)[0]
        assert [(e["id"], e["score"]) for e in found] == [(m.passage.passage_id, m.score) for m in expected]


def test_several_indexes_are_told_apart(searcher: Searcher) -> None:
    with TestClient(make_app({"words": searcher.embedder}, indexes={"a": searcher, "b": searcher})) as opened:
        assert opened.post("/v1/search", json={"query": "glass", "model": "b"}).json()["model"] == "b"
        refused = opened.post("/v1/search", json={"query": "glass"})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == "several indexes are served: a, b; send one of them as model"


def test_what_is_served_is_listed(searcher: Searcher) -> None:
    with TestClient(make_app({"words": searcher.embedder}, indexes={"a": searcher, "words": searcher})) as opened:
        listed = {entry["id"]: entry for entry in opened.get("/v1/models").json()["data"]}
        assert opened.get("/v1/models/a").json() == listed["a"]
    assert {name: entry["serves"] for name, entry in listed.items()} == {
        "words": ["embeddings", "search"],
        "words:query": ["embeddings"],
        "words:passage": ["embeddings"],
        "a": ["search"],
    }
    assert listed["a"]["dimensions"] == [searcher.index.header.dim]


def test_without_an_index_there_is_no_route(searcher: Searcher) -> None:
    with TestClient(make_app({"words": searcher.embedder})) as opened:
        assert opened.post("/v1/search", json={"query": "glass"}).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "message", "param"),
    [
        ({"query": " "}, 400, "query is empty; send what you are looking for", "query"),
        ({}, 400, "field 'query' is missing", "query"),
        ({"query": "x", "topk": 1}, 400, "unknown field 'topk'; known here: query, top_k", "topk"),
        ({"query": "x", "top_k": 1000}, 400, "field 'top_k' is 1000; expected a whole number", "top_k"),
        (
            {"query": "x", "model": "manul"},
            404,
            "there is no index 'manul'; served here: manual; did you mean",
            "model",
        ),
        ({"query": "x", "filter": {"ids": ["nine"]}}, 400, "no passage and no document with the id 'nine'", "filter"),
        (
            {"query": "x", "filter": {"ids": []}},
            400,
            "filter.ids is empty; send the ids that may be found, or no filter",
            "filter",
        ),
        ({"query": "x", "hybrid": False, "weight": 0.1}, 400, "hybrid is false, and weight goes with BM25", "hybrid"),
        ({"query": 3}, 400, "field 'query' is 3; expected", "query"),
        ({"query": ["x"] * 9999}, 400, "field 'query' is ['x', 'x'", "query"),
        ([1], 400, "the body is a list; expected a JSON object", None),
    ],
)
def test_what_cannot_be_answered(client: Any, body: Any, status: int, message: str, param: str | None) -> None:
    answer = client.post("/v1/search", json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert message in error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_a_body_that_is_no_json(client: Any) -> None:
    for content in (b"{", b"", b"\xff"):
        answer = client.post("/v1/search", content=content)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith("the body is not ")


def test_a_lone_surrogate_is_a_query_like_another(client: Any) -> None:
    for content in (b'{"query": "glass \\ud800"}', b'{"query": "glass \\ud800", "weight": 0.5}'):
        assert client.post("/v1/search", content=content).status_code == 200


def test_a_misspelt_field_inside_another_is_named(client: Any) -> None:
    answer = client.post("/v1/search", json={"query": "glass", "filter": {"id": ["d3"]}})
    assert answer.status_code == 400
    assert "filter.id" in answer.json()["error"]["message"]
