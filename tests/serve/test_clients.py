"""The clients that people have, against a running server: the same vectors as in this process."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiny import WORDS
from tokay.models.embedder import Embedder
from tokay.serve.token_ids import has_cl100k, texts_of

TEXTS = ["how do I sort a list", "file", " ".join(WORDS[:50]), "river stone", "Ünïcode \u2603 text"]


def same(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.array(got, np.float32), expected, atol=2e-6)


# -- openai -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(url: str) -> Any:
    import openai

    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def rows(answer: Any) -> list[Any]:
    return [item.embedding for item in answer.data]


def test_openai_asks_for_base64_and_gets_the_same_vectors(client: Any, embedder: Embedder) -> None:
    answer = client.embeddings.create(model="tiny", input=TEXTS)
    same(rows(answer), embedder.encode(TEXTS, kind="passage"))
    assert [item.index for item in answer.data] == list(range(len(TEXTS)))
    assert answer.model == "tiny"
    tokens = sum(map(len, embedder.tokenize(embedder.write(TEXTS))))
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)


@pytest.mark.parametrize("form", ["float", "base64"])
def test_both_formats_carry_the_same_float32(url: str, client: Any, embedder: Embedder, form: Any) -> None:
    answer = client.embeddings.create(model="tiny", input="river stone", encoding_format=form)
    found = answer.data[0].embedding
    if form == "base64":
        import base64

        assert isinstance(found, str)
        found = np.frombuffer(base64.b64decode(found), "<f4")
    same(found, embedder.encode(["river stone"])[0])


def test_a_string_gives_one_vector(client: Any, embedder: Embedder) -> None:
    same(rows(client.embeddings.create(model="tiny", input="file")), embedder.encode(["file"]))


@pytest.mark.parametrize("dim", [8, 16, 32])
def test_dimensions_are_cut_and_at_length_1(client: Any, embedder: Embedder, dim: int) -> None:
    same(rows(client.embeddings.create(model="tiny", input=TEXTS, dimensions=dim)), embedder.encode(TEXTS, dim=dim))


def test_openai_asynchronously(url: str, embedder: Embedder) -> None:
    import openai

    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            asked = [client.embeddings.create(model="tiny", input=text) for text in TEXTS]
            return [rows(answer)[0] for answer in await asyncio.gather(*asked)]

    same(asyncio.run(ask()), embedder.encode(TEXTS))


def test_the_models_are_listed_with_their_aliases(client: Any) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["tiny", "other", "tiny:query", "tiny:passage", "other:query", "other:passage"]
    about = {"dimensions": [8, 16, 32], "max_tokens": 64, "serves": ["embeddings"], "vector_space": ""}
    assert client.models.retrieve("tiny:query").model_extra == about


def test_two_models_in_one_process(client: Any, other: Embedder) -> None:
    same(rows(client.embeddings.create(model="other", input=TEXTS)), other.encode(TEXTS))


# -- openai-node ------------------------------------------------------------------------------------------------------

NODE = """
const { OpenAI } = require("openai");
const asked = JSON.parse(require("fs").readFileSync(0, "utf8"));
const bodies = [];
const watched = (url, init) => { bodies.push(JSON.parse(init.body)); return fetch(url, init); };
const client = new OpenAI({ baseURL: process.argv[1] + "/v1", apiKey: "none", maxRetries: 0, fetch: watched });
(async () => {
  const answers = [];
  for (const body of asked) {
    try {
      const answer = await client.embeddings.create(body);
      answers.push({ vectors: answer.data.map((row) => row.embedding), usage: answer.usage });
    } catch (error) {
      answers.push({ status: error.status, param: error.param, code: error.code, message: error.message });
    }
  }
  console.log(JSON.stringify({ answers, bodies }));
})();
"""


@pytest.mark.reference
def test_openai_node(url: str, embedder: Embedder) -> None:
    """Runs where node finds the package: ``npm install openai`` in a folder, its node_modules in NODE_PATH."""
    node = shutil.which("node")
    if node is None or subprocess.run([node, "-e", "require.resolve('openai')"], capture_output=True).returncode:
        pytest.skip("node does not find the package openai (NODE_PATH)")
    asked: list[dict[str, Any]] = [
        {"model": "tiny", "input": "river stone"},
        {"model": "tiny", "input": TEXTS},
        {"model": "tiny", "input": TEXTS, "dimensions": 8},
        {"model": "tiny", "input": TEXTS, "encoding_format": "float"},
        {"model": "tiny:query", "input": TEXTS},
        {"model": "tiny", "input": TEXTS, "input_type": "search_query"},
        {"model": "tiny", "input": "a", "dimensions": 9},
    ]
    ran = subprocess.run([node, "-e", NODE, url], input=json.dumps(asked), capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    forms = [body.get("encoding_format") for body in found["bodies"]]
    assert forms == ["base64", "base64", "base64", "float", "base64", "base64", "base64"]
    *answers, refused = found["answers"]
    plain, query = embedder.encode(TEXTS), embedder.encode(TEXTS, kind="query")
    expected = [embedder.encode(["river stone"]), plain, embedder.encode(TEXTS, dim=8), plain, query, query]
    for answer, vectors in zip(answers, expected, strict=True):
        same(answer["vectors"], vectors)
    assert answers[0]["usage"]["prompt_tokens"] == len(embedder.tokenize(embedder.write(["river stone"]))[0])
    assert (refused["status"], refused["param"]) == (400, "dimensions")
    assert "dimensions is 9; tiny was trained for 8 or 16 or 32" in refused["message"]


# -- whose side a text is on ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "extra", "kind"),
    [
        ("tiny:query", {}, "query"),
        ("tiny:passage", {}, "passage"),
        ("tiny:document", {}, "passage"),
        ("tiny", {"input_type": "search_query"}, "query"),
        ("tiny", {"input_type": "search_document"}, "passage"),
        ("tiny", {"input_type": "query"}, "query"),
        ("tiny", {"task_type": "RETRIEVAL_QUERY"}, "query"),
        ("tiny", {"task_type": "RETRIEVAL_DOCUMENT"}, "passage"),
        ("tiny", {"task": "retrieval.query"}, "query"),
        ("tiny", {"task": "retrieval.passage", "unknown": {"to": "us"}}, "passage"),
        ("tiny", {"prompt_name": "query"}, "query"),
        ("tiny:query", {"task": "retrieval.query"}, "query"),
        ("other", {"task_type": "FACT_VERIFICATION"}, "fact checking"),
    ],
)
def test_every_clients_word_for_a_side(
    client: Any, embedder: Embedder, other: Embedder, model: str, extra: dict[str, Any], kind: str
) -> None:
    answer = client.embeddings.create(model=model, input=TEXTS, extra_body=extra)
    same(rows(answer), (other if model == "other" else embedder).encode(TEXTS, kind=kind))
    assert answer.model == model


def test_sides_that_contradict_each_other_are_refused(client: Any) -> None:
    import openai

    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="tiny:query", input="a", extra_body={"input_type": "search_document"})
    assert caught.value.body == {
        "message": "the request says model 'tiny:query' (a query) and input_type 'search_document' (a passage); send "
        "one of them",
        "type": "invalid_request_error",
        "param": "input_type",
        "code": None,
    }


# -- LangChain, LlamaIndex --------------------------------------------------------------------------------------------


def test_langchain_that_sends_text(url: str, embedder: Embedder) -> None:
    from langchain_openai import OpenAIEmbeddings

    def model(name: str) -> Any:
        return OpenAIEmbeddings(model=name, base_url=f"{url}/v1", api_key="none", check_embedding_ctx_length=False)

    same(model("tiny:passage").embed_documents(TEXTS), embedder.encode(TEXTS))
    same(model("tiny:query").embed_query(TEXTS[0]), embedder.encode(TEXTS[:1], kind="query")[0])


def vocabulary() -> str | None:
    """Of cl100k_base, which llama-index carries in tiktoken's cache form."""
    import importlib.util

    spec = importlib.util.find_spec("llama_index")
    places = [Path(place) / "core/_static/tiktoken_cache" for place in (spec and spec.submodule_search_locations) or ()]
    return next((str(place) for place in places if place.is_dir()), None)


def test_langchain_that_sends_openais_token_ids(url: str, embedder: Embedder, monkeypatch: Any) -> None:
    from langchain_openai import OpenAIEmbeddings

    if (place := vocabulary()) is None:
        pytest.skip("no cl100k_base vocabulary on this machine")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", place)
    assert has_cl100k()
    model = OpenAIEmbeddings(
        model="tiny", base_url=f"{url}/v1", api_key="none", tiktoken_model_name="text-embedding-3-small"
    )
    same(model.embed_documents(TEXTS), embedder.encode(TEXTS))


def test_token_ids_without_a_vocabulary_are_refused_with_what_to_do(
    client: Any, monkeypatch: Any, tmp_path: Any
) -> None:
    import openai

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="tiny", input=[[1, 2], [3]])
    assert caught.value.body == {
        "message": "input holds token ids, and this server has no cl100k_base vocabulary to read them with; send text "
        "instead of token ids (LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False)), or have the server's "
        "owner install tiktoken and its vocabulary",
        "type": "invalid_request_error",
        "param": "input",
        "code": "token_ids_not_supported",
    }


def test_token_ids_of_the_models_own_tokenizer(embedder: Embedder) -> None:
    from tokay.serve.refusal import Refusal

    ids = embedder.tokenize(["river stone", "file"])
    assert texts_of(ids, embedder, "model") == ["river stone", "file"]
    with pytest.raises(Refusal, match=r"^input\[1\] holds an id that is none of this model's tokenizer; send text"):
        texts_of([ids[0], [10**6]], embedder, "model")
    with pytest.raises(Refusal, match=r"^input\[0\] is empty when it is decoded"):
        texts_of([[ids[0][0]]], embedder, "model")


def test_llama_index(url: str, embedder: Embedder) -> None:
    from llama_index.embeddings.openai import OpenAIEmbedding

    def model(name: str) -> Any:
        return OpenAIEmbedding(model_name=name, api_base=f"{url}/v1", api_key="none")

    same(model("tiny:passage").get_text_embedding_batch(TEXTS), embedder.encode(TEXTS))
    same(model("tiny:query").get_query_embedding(TEXTS[0]), embedder.encode(TEXTS[:1], kind="query")[0])


# -- google-genai -----------------------------------------------------------------------------------------------------


def gemini(url: str, **more: Any) -> Any:
    from google import genai
    from google.genai import types

    return genai.Client(api_key="key", http_options=types.HttpOptions(base_url=url), **more)


@pytest.mark.parametrize("vertex", [False, True])
def test_google_genai_by_key_and_in_its_vertex_form(url: str, other: Embedder, vertex: bool) -> None:
    from google.genai import types

    client = gemini(url, vertexai=True) if vertex else gemini(url)

    def ask(texts: list[str], **config: Any) -> list[Any]:
        found = client.models.embed_content(
            model="other", contents=texts, config=types.EmbedContentConfig(**config) if config else None
        )
        return [embedding.values for embedding in found.embeddings]

    same(ask(TEXTS), other.encode(TEXTS))
    same(ask(TEXTS, task_type="RETRIEVAL_QUERY"), other.encode(TEXTS, kind="query"))
    same(ask(TEXTS, task_type="FACT_VERIFICATION"), other.encode(TEXTS, kind="fact checking"))
    titled = other.encode(TEXTS, titles=["glass"] * len(TEXTS), dim=32)
    same(ask(TEXTS, task_type="RETRIEVAL_DOCUMENT", title="glass", output_dimensionality=32), titled)


def test_google_genai_reads_our_errors(url: str) -> None:
    from google.genai import errors

    client = gemini(url)
    with pytest.raises(errors.ClientError) as caught:
        client.models.embed_content(model="nosuch", contents=["a"])
    assert (caught.value.code, caught.value.status) == (404, "NOT_FOUND")
    assert caught.value.message == "there is no model 'nosuch'; served here: tiny, other"


def test_embed_content_of_one_text(url: str, embedder: Embedder) -> None:
    import httpx

    def ask(**body: Any) -> Any:
        return httpx.post(f"{url}/v1beta/models/tiny:embedContent", json=body).json()

    content = {"parts": [{"text": "river "}, {"text": "stone"}]}
    same(ask(content=content)["embedding"]["values"], embedder.encode(["river stone"])[0])
    asked = ask(content=content, taskType="RETRIEVAL_QUERY", outputDimensionality=8)
    same(asked["embedding"]["values"], embedder.encode(["river stone"], kind="query", dim=8)[0])
    asked = ask(content=content, task_type="TASK_TYPE_UNSPECIFIED", output_dimensionality=8)
    same(asked["embedding"]["values"], embedder.encode(["river stone"], dim=8)[0])
    asked = ask(content=content, embedContentConfig={"taskType": "RETRIEVAL_QUERY"})
    same(asked["embedding"]["values"], embedder.encode(["river stone"], kind="query")[0])


def test_predict_tells_what_was_read(url: str, embedder: Embedder) -> None:
    import httpx

    path = "/v1/projects/p/locations/l/publishers/google/models/tiny:predict"
    instances = [{"content": "file", "task_type": "RETRIEVAL_QUERY"}, {"content": " ".join(WORDS)}]
    found = httpx.post(url + path, json={"instances": instances, "parameters": {"outputDimensionality": 16}}).json()
    first, second = (entry["embeddings"] for entry in found["predictions"])
    same(first["values"], embedder.encode(["file"], kind="query", dim=16)[0])
    assert first["statistics"] == {"truncated": False, "token_count": len(embedder.tokenize(["query: file"])[0])}
    assert second["statistics"] == {"truncated": True, "token_count": 64}
