"""tokay index and tokay search, as a user calls them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from command import call
from tiny import WORDS, tiny_base
from tokay.cli.search import _text_below
from tokay.models.torch_embedder import TorchEmbedder
from tokay.search.hybrid import Hybrid
from tokay.search.index import Index
from tokay.store import Run, StageOutput


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Thirty rows, with ids."""
    path = tmp_path / "docs.jsonl"
    write(path, range(30))
    return path


def write(path: Path, numbers: range) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 9, replace=False)) for _ in range(60)]
    rows = [json.dumps({"_id": f"d{i}", "title": WORDS[i], "text": texts[i]}) + "\n" for i in numbers]
    path.write_text("".join(rows))


@pytest.fixture
def made(documents: Path, tmp_path: Path) -> Path:
    assert call("index", tiny_base(), documents, "--out", tmp_path / "index") == 0
    return tmp_path / "index"


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed on both streams, in one line."""
    both = capsys.readouterr()
    return " ".join((both.out + both.err).split())


def test_index_search_change_and_search_again(
    documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "index"
    assert call("index", tiny_base(), documents, "--out", made) == 0
    assert "30 passages of 30 documents: 30 encoded, 0 as before, 0 gone" in said(capsys)
    text = json.loads(documents.read_text().splitlines()[7])["text"]
    assert call("search", made, text, "--top", 3) == 0
    shown = said(capsys)
    assert shown.startswith(f"1. {WORDS[7]} 0.")
    assert text in shown
    write(documents, range(5, 33))
    assert call("index", tiny_base(), documents, "--out", made, "--search", "binary") == 0
    done = said(capsys)
    assert "28 passages of 28 documents: 3 encoded, 25 as before, 5 gone" in done
    assert "binary search (finds 100.0% of the ten nearest)" in done
    assert call("search", made, text, "--json", "--weight", 0.3) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert [entry["rank"] for entry in data] == [1, 2, 3, 4, 5]
    assert data[0] == {**data[0], "id": "d7", "document_id": "d7", "title": WORDS[7], "text": text}
    assert data[0]["score"] > 1  # a cosine near 1, and words


def test_an_update_has_the_vectors_of_a_new_index(made: Path, documents: Path, tmp_path: Path) -> None:
    write(documents, range(10, 40))
    for out in (made, tmp_path / "anew"):
        assert call("index", tiny_base(), documents, "--out", out) == 0
    updated, anew = Index.open(made), Index.open(tmp_path / "anew")
    np.testing.assert_allclose(updated.vectors, anew.vectors, atol=1e-6)  # a batch's shape tells in the last bits
    assert updated.passages(range(30)) == anew.passages(range(30))
    rows = [json.loads(line) for line in documents.read_text().splitlines()]
    texts, titles = [row["text"] for row in rows], [row["title"] for row in rows]
    np.testing.assert_allclose(anew.vectors, TorchEmbedder.load(tiny_base()).encode(texts, titles=titles), atol=1e-6)


def test_text_of_passages_cannot_speak_to_the_terminal(
    documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents.write_text(json.dumps({"_id": "x", "title": "[bold]t", "text": "\x1b[2J \u202e file [red]end"}) + "\n")
    assert call("index", tiny_base(), documents, "--out", tmp_path / "index") == 0
    for option in ("--top=1", "--json"):
        assert call("search", tmp_path / "index", "file", option) == 0
        shown = capsys.readouterr().out
        assert "[red]end" in shown
        assert not {"\x1b", "\u202e"} & {*shown}


def test_a_run_gives_its_model_its_way_to_split_and_its_weight(
    documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Run(tmp_path / "run", writable=True) as run:
        run.write_settings('documents = "docs.jsonl"\n[corpus]\nchunk = "always"\npassage_tokens = 16\n')
        hybrids = {name: Hybrid(weight, language="german") for name, weight in (("base", 0.1), ("tuned", 0.25))}

        def evaluate(out: StageOutput) -> None:
            out.write_json("verdict", {"use": "tuned"})
            out.write_json("hybrid", {name: dataclasses.asdict(hybrid) for name, hybrid in hybrids.items()})

        run.stage("evaluate", evaluate, settings={})
    assert call("index", tmp_path / "run", documents, "--out", tmp_path / "index") == 1
    assert "has no model yet; run 'tokay distill" in said(capsys)
    with Run(tmp_path / "run", writable=True) as run:
        run.stage("model", lambda out: shutil.copytree(tiny_base(), out.path, dirs_exist_ok=True), settings={})
    text = ".\n\n".join(" ".join(WORDS[i : i + 12]) for i in (0, 12, 24))
    documents.write_text(json.dumps({"_id": "long", "text": text}) + "\n")
    assert call("index", tmp_path / "run", documents, "--out", tmp_path / "index") == 0
    header = Index.open(tmp_path / "index").header
    assert (header.passages, header.hybrid) == (3, hybrids["tuned"])
    assert header.model.name == str(tmp_path / "run")
    capsys.readouterr()
    assert call("search", tmp_path / "index", "copy", "--hybrid", "--json") == 0
    by_weight = capsys.readouterr().out
    assert call("search", tmp_path / "index", "copy", "--weight", 0.25, "--json") == 0
    assert capsys.readouterr().out == by_weight


def test_another_model_is_refused_and_the_index_stays(
    made: Path, documents: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny_base(seed=1)
    before = (made / "index.json").read_text()
    assert call("index", other, documents, "--out", made) == 1
    assert f"{made} holds vectors of the model {tiny_base()} (fingerprint" in said(capsys)
    assert call("search", made, "file", "--model", other) == 1
    assert f"and {other} is another one" in said(capsys)
    assert (made / "index.json").read_text() == before


def test_a_model_that_moved_is_found_where_it_is_now(
    documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_base(), tmp_path / "model")
    assert call("index", tmp_path / "model", documents, "--out", tmp_path / "index") == 0
    (tmp_path / "model").rename(tmp_path / "moved")
    (tmp_path / "moved" / "README.md").write_text("a card is no other model")
    assert call("search", tmp_path / "index", "file") == 1
    assert f"there is no model folder {tmp_path / 'model'}" in said(capsys)
    assert call("search", tmp_path / "index", "file", "--model", tmp_path / "moved") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--search", "hsnw"), "--search is 'hsnw'; expected one of exact, int8, binary, hnsw; did you mean 'hnsw'?"),
        (("--stored", "float8"), "--stored is 'float8'; expected one of float32, float16"),
        (("--backend", "onix"), "--backend is 'onix'; expected one of torch, onnx, onnx-int8, static; did you mean"),
        (("--dim", "33"), "--dim is 33; this model has vectors of 32 numbers, so 1 to 32"),
    ],
)
def test_options_that_do_not_exist(
    documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, str], message: str
) -> None:
    assert call("index", tiny_base(), documents, "--out", tmp_path / "index", *options) == 1
    assert message in said(capsys)


def test_a_missing_package_is_told_before_anything_is_encoded(
    documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    assert call("index", tiny_base(), documents, "--out", tmp_path / "index", "--search", "hnsw") == 1
    assert "search by hnsw needs the package 'usearch': pip install 'tokay[index]'" in said(capsys)
    assert not (tmp_path / "index" / ".encoded").exists()


def test_what_cannot_be_searched(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (("search", tmp_path / "nothing", "x"), "is neither an index (it has no index.json) nor a run"),
        (("search", made, "  "), "the query is empty; write what you are looking for, in quotes"),
        (("search", made, "x", "--weight", -1), "the weight of BM25 is -1.0; expected 0 (vectors alone) to 1000"),
        (("search", made, "x", "--backend", "static"), "holds vectors of backend 'torch', which those of 'static'"),
        (
            ("search", tmp_path, "x", "--model", "m"),
            "--model, --backend and --reranker are for an index, and",
        ),
        (("index", tiny_base(), tmp_path / "no.jsonl", "--out", made), "there is no file or folder"),
        (("index", tmp_path, tmp_path, "--out", made), "is a folder without config.json"),
    ):
        capsys.readouterr()
        assert call(*words) == 1, words
        assert message in said(capsys), words


def test_a_query_that_looks_like_an_option(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("search", made, "-x") == 2
    assert (
        'No such option: -x; a query that begins with a dash goes behind two of them: tokay search RUN_OR_INDEX -- "-x"'
    ) in said(capsys)
    assert call("search", made, "--", "-x") == 0


@pytest.mark.parametrize(
    ("title", "text", "shown"),
    [
        ("Map", "map\n====\n\nKeys to  values.", "Keys to values."),
        ("os.path.join()", "os.path.join(): joins paths", "joins paths"),
        ("Two words", "# Two\n words\n\n- an item", "an item"),
        ("Map", "Mapping of keys", "Mapping of keys"),
        ("Map", "map", "map"),
        ("", "# A text", "# A text"),
    ],
)
def test_a_title_is_not_shown_twice(title: str, text: str, shown: str) -> None:
    assert _text_below(title, text) == shown
