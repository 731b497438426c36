"""The rerank route: the clients' shape, scores of the model, and every bad input."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from tiny import WORDS, tiny_base
from tokay.models.cross_encoder import CrossEncoder
from tokay.models.embedder import Embedder
from tokay.models.torch_cross_encoder import TorchCrossEncoder
from tokay.models.torch_embedder import TorchEmbedder
from tokay.search.rerank import Rule, probability
from tokay.search.reranker import Reranker
from tokay.serve import Options, make_app

TEXTS = [" ".join(WORDS[i : i + 2 + i % 9]) for i in range(12)]


@pytest.fixture(scope="module")
def model() -> CrossEncoder:
    return TorchCrossEncoder.on_top_of(TorchEmbedder.load(tiny_base(), device="cpu"), max_tokens=32)


@pytest.fixture(scope="module")
def client(model: CrossEncoder) -> Iterator[TestClient]:
    options = Options(max_texts=20, max_tokens=300)
    rerankers = {"own": Reranker(model, Rule())}
    with TestClient(make_app({"tiny": Embedder.load(tiny_base())}, options, rerankers=rerankers)) as opened:
        yield opened


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_results_are_the_models_scores_in_order(client: Any, model: CrossEncoder, path: str) -> None:
    answer = client.post(path, json={"model": "own", "query": "open a file", "documents": TEXTS})
    assert answer.status_code == 200
    found = answer.json()
    expected = probability(model.score([("open a file", text) for text in TEXTS]))
    assert [r["index"] for r in found["results"]] == np.argsort(-expected, kind="stable").tolist()
    np.testing.assert_allclose([r["relevance_score"] for r in found["results"]], np.sort(expected)[::-1], atol=1e-6)
    assert all(r.keys() == {"index", "relevance_score"} for r in found["results"])
    assert found["model"] == "own"
    tokens = sum(map(len, model.tokenize([("open a file", text) for text in TEXTS])))
    assert found["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert found["meta"]["billed_units"] == {"search_units": 1}


def test_objects_top_n_and_documents_back(client: Any) -> None:
    body = {"query": "zip", "documents": [{"text": t} for t in TEXTS], "top_n": 3, "return_documents": True}
    found = client.post("/v1/rerank", json=body).json()["results"]
    assert len(found) == 3
    assert all(r["document"] == {"text": TEXTS[r["index"]]} for r in found)
    plain = client.post("/v1/rerank", json={**body, "documents": TEXTS, "max_chunks_per_doc": 3}).json()["results"]
    assert plain == found


def test_requests_at_a_time_are_answered_as_alone(client: Any) -> None:
    def ask(i: int) -> Any:
        body = {"query": WORDS[i], "documents": TEXTS[: 1 + i % 12]}
        return [(r["index"], pytest.approx(r["relevance_score"], abs=1e-5)) for r in post(client, body)["results"]]

    alone = [ask(i) for i in range(24)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(24))) == alone


def post(client: Any, body: Any) -> Any:
    return client.post("/v1/rerank", json=body).json()


@pytest.mark.parametrize(
    ("change", "status", "message", "param"),
    [
        ({"query": " "}, 400, "query is empty; send what you are looking for", "query"),
        ({"query": None}, 400, "field 'query' is None; expected text", "query"),
        ({"documents": []}, 400, "documents is an empty list; expected at least one text", "documents"),
        ({"documents": "a"}, 400, "field 'documents' is 'a'; expected a list", "documents"),
        ({"documents": ["a", ""]}, 400, "documents[1] is empty; expected text of at least one character", "documents"),
        ({"documents": [{"txt": "a"}]}, 400, "documents[0] is {'txt': 'a'}; expected text, or an object", "documents"),
        ({"documents": [3]}, 400, "documents[0] is 3; expected text, or an object", "documents"),
        ({"documents": ["a"] * 21}, 400, "documents has 21 items; expected at most 20", "documents"),
        (
            {"documents": ["a b c d e f g h " * 9] * 19},
            400,
            "documents have more than 300 tokens with the",
            "documents",
        ),
        ({"top_n": 0}, 400, "field 'top_n' is 0; expected a whole number", "top_n"),
        ({"model": "owm"}, 404, "there is no reranker 'owm'; served here: own; did you mean 'own'?", "model"),
    ],
)
def test_what_is_refused(client: Any, change: dict[str, Any], status: int, message: str, param: str) -> None:
    answer = client.post("/v1/rerank", json={"query": "zip", "documents": ["a"], **change})
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == param


def test_several_rerankers_are_told_apart(model: CrossEncoder) -> None:
    own = Reranker(model, Rule())
    app = make_app({"tiny": Embedder.load(tiny_base())}, rerankers={"a": own, "b": own})
    with TestClient(app) as opened:
        refused = opened.post("/v1/rerank", json={"query": "zip", "documents": ["a"]})
        assert "several rerankers are served: a, b" in refused.json()["error"]["message"]
        assert opened.post("/v1/rerank", json={"query": "zip", "documents": ["a"], "model": "b"}).json()["model"] == "b"


def test_a_score_that_is_no_number_is_refused(model: CrossEncoder) -> None:
    import copy

    import torch

    broken = TorchCrossEncoder.on_top_of(TorchEmbedder.load(tiny_base(), device="cpu"), max_tokens=32)
    with torch.no_grad():
        broken.head.weight.fill_(torch.nan)
    app = make_app({"tiny": Embedder.load(tiny_base())}, rerankers={"own": Reranker(copy.copy(broken), Rule())})
    with TestClient(app) as opened:
        answer = opened.post("/v1/rerank", json={"query": "zip", "documents": ["a"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "score_not_finite")


def test_without_a_reranker_there_is_no_route() -> None:
    with TestClient(make_app({"tiny": Embedder.load(tiny_base())})) as opened:
        assert opened.post("/v1/rerank", json={"query": "zip", "documents": ["a"]}).status_code == 404


def test_the_openapi_document_has_it(client: Any) -> None:
    document = client.get("/openapi.json").json()
    assert "RerankRequest" in document["components"]["schemas"]
    assert "/v1/rerank" in document["paths"]
    assert "/rerank" not in document["paths"]
