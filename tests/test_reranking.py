"""tokay train --what reranker on a small run, through the command line: folder, forms, verdict, search, refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command import call
from test_pipeline import material, run  # noqa: F401  (fixtures: a finished run of forty documents)
from tiny import tiny_base
from tokay.models.cross_encoder import CrossEncoder
from tokay.search.reranker import ABOUT, Reranker, read_about
from tokay.store import Run

FAST = (
    "--set",
    "rerank.epochs=2",
    "--set",
    "rerank.learning_rate=0.002",
    "--set",
    "rerank.candidates=4",
    "--set",
    "rerank.max_tokens=48",
    "--set",
    "rerank.depth=8",
    "--set",
    "evaluate.resamples=200",
)


@pytest.fixture(scope="module")
def reranked(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A copy of the run with rerankers of two layers and of one."""
    out = tmp_path_factory.mktemp("reranked") / "run"
    shutil.copytree(run, out)
    assert call("train", out, "--what", "reranker", *FAST, "--set", "rerank.layers=[0,1]") == 0
    return out


def test_the_folder_has_models_forms_and_a_verdict(reranked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = reranked / "rerank"
    about = read_about(folder)
    assert {form.layers for form in about.forms} == {1, 2}
    assert about.forms[0].folder == "layers-2"
    assert all(set(form.quality) == {3, 5, 8} for form in about.forms)
    verdict = json.loads((folder / "verdict.json").read_text())
    assert [row["system"] for row in verdict["rows"]] == ["tuned+BM25", "tuned+BM25+reranker"]
    assert all(row["ms"] > 0 for row in verdict["rows"])
    assert verdict["use"] == about.use
    c = verdict["rows"][1]["comparison"]
    assert c["mean_a"] == pytest.approx(verdict["rows"][1]["ndcg@10"])
    assert c["mean_b"] == pytest.approx(verdict["rows"][0]["ndcg@10"])
    page = (reranked / "report.html").read_text()
    assert "tuned+BM25+reranker" in page
    assert "The reranker: nDCG@10 of dev queries by step" in page
    training = json.loads((folder / "training.json").read_text())
    assert [story["layers"] for story in training] == [2, 1]
    assert not list(folder.rglob("*.bin")) + list(folder.rglob("*.pt"))
    assert call("train", reranked, "--what", "reranker", *FAST, "--set", "rerank.layers=[0,1]") == 0
    assert "unchanged" in capsys.readouterr().out


def test_a_plan_counts_what_training_does(reranked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(reranked.rglob("*"))
    assert call("train", reranked, "--what", "reranker", "--plan", *FAST, "--set", "rerank.layers=[1]") == 0
    said = capsys.readouterr().out
    done = json.loads((reranked / "rerank" / "training.json").read_text())[1]
    assert said.startswith("1 layers, ")
    assert f"{done['planned']:,} steps" in said
    assert f"of {done['lists']:,} queries that have one" in said
    assert int(said.split("about ")[1].split(" pairs")[0].replace(",", "")) == pytest.approx(done["pairs"], rel=0.1)
    assert sorted(reranked.rglob("*")) == before


def test_the_row_without_a_reranker_is_that_of_the_runs_verdict(reranked: Path) -> None:
    with Run(reranked, writable=False) as opened:
        rows = {row["system"]: row for row in opened.read_json("evaluate", "verdict")["rows"]}
        plain = opened.read_json("rerank", "verdict")["rows"][0]
    assert plain["ndcg@10"] == pytest.approx(rows["tuned+BM25"]["ndcg@10"])


def used(run: Path, to: Path, *, use: bool = True) -> Path:  # noqa: F811
    """A copy of a run whose verdict on the reranker is another."""
    shutil.copytree(run, to)
    about = json.loads((to / "rerank" / ABOUT).read_text())
    for form in about["forms"]:
        form["weight"] = 1.0
    (to / "rerank" / ABOUT).write_text(json.dumps({**about, "use": use, "sentence": "it was not"}))
    return to


def found(capsys: pytest.CaptureFixture[str]) -> list[tuple[str, float]]:
    return [(entry["id"], entry["score"]) for entry in json.loads(capsys.readouterr().out)["data"]]


def test_a_run_and_its_index_rerank_alike(reranked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = used(reranked, tmp_path / "run")  # noqa: F811
    settings = (run / "run.toml").read_text()
    documents = next(line.split('"')[1] for line in settings.splitlines() if line.startswith("documents"))
    assert call("index", run, documents, "--out", tmp_path / "index") == 0
    capsys.readouterr()
    assert call("search", run, "read the file", "--rerank", "--json") == 0
    own = found(capsys)
    assert call("search", tmp_path / "index", "read the file", "--rerank", "--json") == 0
    other = found(capsys)
    if json.loads((run / "evaluate" / "verdict.json").read_text())["use"] == "tuned":
        assert [p for p, _ in own] == [p for p, _ in other]
    assert call("search", tmp_path / "index", "read the file", "--hybrid", "--json") == 0
    assert found(capsys) != other
    folder = run / "rerank" / "layers-1"
    assert call("search", tmp_path / "index", "read the file", "--reranker", folder, "--json") == 0
    scores = [score for _, score in found(capsys)]
    assert scores == sorted(scores, reverse=True)
    assert call("search", run, "read the file", "--rerank", "--latency-ms", "60000", "--json") == 0
    assert len(found(capsys)) == 5


def test_one_that_did_not_help_is_left_out(reranked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = used(reranked, tmp_path / "run", use=False)  # noqa: F811
    assert call("search", run, "read the file", "--rerank") == 0
    assert "The reranker is left out, since its verdict was: it was not." in " ".join(capsys.readouterr().err.split())


def test_search_says_what_is_missing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    assert call("search", run, "read", "--rerank") == 1
    assert "has no reranker; train one with" in capsys.readouterr().err
    assert call("search", run, "read", "--latency-ms", "100") == 1
    assert "--latency-ms is of reranking" in capsys.readouterr().err


def test_a_served_run_brings_its_reranker(reranked: Path, tmp_path: Path) -> None:
    from fastapi.testclient import TestClient

    from tokay.search.index import Index, Searcher
    from tokay.serve import make_app
    from tokay.serve.start import load_models, load_rerankers

    run = used(reranked, tmp_path / "run")  # noqa: F811
    settings = (run / "run.toml").read_text()
    documents = next(line.split('"')[1] for line in settings.splitlines() if line.startswith("documents"))
    assert call("index", run, documents, "--out", tmp_path / "index") == 0
    index = Index.open(tmp_path / "index")
    searcher = Searcher(index, index.load_model())
    rerankers = load_rerankers((), [str(run)], {"manual": searcher})
    assert set(rerankers) == {"run", "manual"}
    with TestClient(make_app(load_models([str(run)]), indexes={"manual": searcher}, rerankers=rerankers)) as client:
        answer = client.post("/v1/search", json={"query": "read the file", "rerank": True})
        assert answer.status_code == 200
        expected = searcher.search(["read the file"], top=10, hybrid=True, reranker=rerankers["manual"])[0]
        assert [e["id"] for e in answer.json()["data"]] == [m.passage.passage_id for m in expected]
    assert load_rerankers((), [str(used(reranked, tmp_path / "other", use=False))]) == {}
    with TestClient(make_app(load_models([str(run)]), indexes={"manual": searcher})) as client:
        refused = client.post("/v1/search", json={"query": "read", "rerank": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "rerank")


def test_every_form_scores_alike(reranked: Path) -> None:
    folder = reranked / "rerank"
    pairs = [("open a file", "read the file and close it"), ("zip", "send a message"), ("zip", "")]
    for name in {form.folder for form in read_about(folder).forms}:
        exact = CrossEncoder.load(folder / name).score(pairs)
        for form in read_about(folder).forms:
            if form.folder == name and form.backend != "torch":
                found = CrossEncoder.load(folder / name, backend=form.backend).score(pairs)
                np.testing.assert_allclose(found, exact, atol=2e-5 if form.backend == "onnx" else 0.2)


def test_an_exported_reranker_needs_no_torch(reranked: Path) -> None:
    folder = next((reranked / "rerank" / form.folder for form in read_about(reranked / "rerank").forms), None)
    program = """
import sys
for name in ("torch", "transformers", "sentence_transformers", "onnx"):
    sys.modules[name] = None
from tokay import TokayError
from tokay.models.cross_encoder import CrossEncoder
model = CrossEncoder.load(sys.argv[1], backend="onnx")
print(model.score([("open a file", "read the file"), ("zip", "stone")]).shape)
try:
    CrossEncoder.load(sys.argv[1])
except TokayError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "(2,)",
        "a reranker in torch needs the package 'torch': pip install 'tokay[embed]'",
    ], done.stderr


def test_a_run_without_judgments_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    import pyarrow.parquet as pq

    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "judge" / "judgments.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    assert call("train", tmp_path / "run", "--what", "reranker") == 1
    assert "has no judgments, from which a reranker learns" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--what", "rerankr"), "did you mean 'reranker'"),
        (("--what", "reranker", "--out", "x"), "--out is for an embedder"),
        (("--what", "reranker", "--set", "rerank.layers=[3]"), "the base has 2 layers"),
        (("--what", "reranker", "--set", "rerank.loss=hinge"), "rerank.loss"),
        (("--what", "reranker", "--base", "/nowhere/at/all"), "there is no model folder"),
    ],
)
def test_what_a_user_can_mend(
    words: tuple[str, ...],
    says: str,
    run: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(run, tmp_path / "run")
    assert call("train", tmp_path / "run", *words, *FAST) == 1
    assert says in capsys.readouterr().err


def test_no_run_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", tmp_path, "--what", "reranker") == 1
    assert "is no run folder" in capsys.readouterr().err


def test_a_rerankers_folder_says_what_is_wrong_with_it(reranked: Path, tmp_path: Path) -> None:
    from tokay.errors import TokayError

    shutil.copytree(reranked / "rerank", tmp_path / "rerank")
    about: dict[str, Any] = json.loads((tmp_path / "rerank" / ABOUT).read_text())
    (tmp_path / "rerank" / ABOUT).write_text(json.dumps({**about, "depth": "deep"}))
    with pytest.raises(TokayError, match=r"is damaged: .*depth"):
        Reranker.load(tmp_path / "rerank")
    with pytest.raises(TokayError, match="is no reranker but an embedder"):
        Reranker.load(tiny_base())
