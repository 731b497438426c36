"""Embeddings of an endpoint, against a server on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_llm import FakeLLM, Reply
from tokay.errors import TokayError
from tokay.llm import embeddings
from tokay.llm.embeddings import RemoteEmbedder, read_vectors
from tokay.progress import Silent

PATH = "/v1/embeddings"


def vector(text: str) -> list[float]:
    return [float(len(text)), float(ord(text[0])), 1.0]


def answer(texts: list[str], *, turned: bool = True) -> Reply:
    rows = [{"index": i, "embedding": vector(text), "object": "embedding"} for i, text in enumerate(texts)]
    body = {"data": rows[::-1] if turned else rows, "usage": {"prompt_tokens": len(texts)}}
    return 200, {}, json.dumps(body)


class Server(FakeLLM):
    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[list[str]] = []
        self.reply_to: Callable[[list[str]], Reply] = answer
        self.routes[PATH] = self.embed

    def embed(self, request: dict[str, Any]) -> Reply:
        self.inputs.append(request["input"])
        assert (request["model"], request["encoding_format"]) == ("m", "float")
        return self.next_reply() or self.reply_to(request["input"])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as fake:
        yield fake


def embedder(server: Server, tmp_path: Path) -> RemoteEmbedder:
    return RemoteEmbedder("m", url=server.url, cache=tmp_path / "kept" / "vectors.sqlite")


def test_each_text_is_asked_for_once_and_comes_back_in_order(server: Server, tmp_path: Path) -> None:
    remote = embedder(server, tmp_path)
    texts = [f"{chr(97 + i % 26)} text {i}" for i in range(150)]
    found = remote.encode([*texts, texts[0]], progress=Silent())
    assert found.tolist() == [vector(text) for text in [*texts, texts[0]]]
    assert sorted(len(batch) for batch in server.inputs) == [22, 64, 64]
    assert remote.tokens == 150
    remote.close()
    again = embedder(server, tmp_path)
    assert again.missing([*texts, "new"]) == ["new"]
    np.testing.assert_array_equal(again.encode(texts[:3], progress=Silent()), found[:3])
    assert len(server.inputs) == 3
    assert (tmp_path / "kept" / "vectors.sqlite").stat().st_mode & 0o077 == 0
    assert again.is_near
    assert again.encode([], progress=Silent()).shape == (0, 0)


def test_long_texts_make_small_batches(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "CHARACTERS", 10)
    embedder(server, tmp_path).encode(["aaaa", "bbbb", "cccc", "d" * 30, "e"], progress=Silent())
    assert sorted(map(len, server.inputs)) == [1, 1, 1, 2]


def test_what_another_try_mends_is_tried_again(server: Server, tmp_path: Path) -> None:
    server.replies = [(503, {"retry-after": "0"}, "busy"), (429, {"retry-after": "0"}, "slow down")]
    assert embedder(server, tmp_path).encode(["a"], progress=Silent()).tolist() == [vector("a")]
    assert server.inputs == [["a"]] * 3


def test_what_was_answered_before_a_refusal_is_kept(server: Server, tmp_path: Path) -> None:
    remote = embedder(server, tmp_path)
    remote.encode(["kept"], progress=Silent())
    server.reply_to = lambda texts: (400, {}, json.dumps({"error": {"message": "too long"}}))
    with pytest.raises(
        TokayError, match=r"openai:m at .* refused 1 texts, the longest of 4 characters \(HTTP 400.*too lo"
    ):
        remote.encode(["kept", "long"], progress=Silent())
    assert remote.missing(["kept", "long"]) == ["long"]


def test_an_endpoint_of_another_kind(server: Server, tmp_path: Path) -> None:
    del server.routes[PATH]
    with pytest.raises(TokayError, match=r"has no model 'm' or no /embeddings .*check the model's name and --url"):
        embedder(server, tmp_path).encode(["a"], progress=Silent())
    with pytest.raises(TokayError, match=r"^--url is 'ftp://x'"):
        RemoteEmbedder("m", url="ftp://x", cache=tmp_path / "v.sqlite")


def test_two_widths_over_several_answers(server: Server, tmp_path: Path) -> None:
    remote = embedder(server, tmp_path)
    remote.encode(["a"], progress=Silent())
    server.reply_to = lambda texts: (200, {}, json.dumps({"data": [{"index": 0, "embedding": [1.0, 2.0]}]}))
    with pytest.raises(TokayError, match="vectors of 2 and of 3 numbers; expected one width"):
        remote.encode(["a", "b"], progress=Silent())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([{"index": 0, "embedding": [1.0]}], "1 vectors for 2 texts"),
        (
            [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}],
            "2 vectors for 2 texts; expected one for",
        ),
        ([{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0, 2.0]}], "vectors of 1 and of 2 numbers"),
        ([{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": "AAAA"}], "no list of numbers"),
        ([{"embedding": []}, {"embedding": []}], "vectors of 0 numbers"),
        ([{"embedding": [float("nan")]}, {"embedding": [1.0]}], "not finite"),
        ([{"embedding": [[1.0]]}, {"embedding": [[1.0]]}], "expected one width"),
        ([{"index": "0", "embedding": [1.0]}, {"index": "1", "embedding": [1.0]}], "by its index"),
        ("what", "something else than embeddings"),
    ],
)
def test_answers_that_are_none(data: Any, said: str) -> None:
    with pytest.raises(TokayError, match=f"^E answered .*{said}"):
        read_vectors(json.dumps({"data": data}).encode(), 2, "E")


def test_bodies_that_are_none() -> None:
    for body in (b"<html>", b"[]", b"3", b'{"data": [1, 2]}', b"\xff\xfe"):
        with pytest.raises(TokayError, match="something else than embeddings"):
            read_vectors(body, 2, "E")
