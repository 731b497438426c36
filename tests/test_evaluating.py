"""Any systems on any set through the command line, on a small run and on a BEIR folder."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tokay
from command import call
from fake_llm import FakeLLM
from tiny import WORDS, tiny_base
from tokay.evaluate.metrics import evaluate_run
from tokay.evaluating import open_set, read_results
from tokay.records import Judgment, Query, Score, Trait, from_batches, sha256_text
from tokay.search.dense import top_k, unit
from tokay.store import Run

FAST = ("train.batch_size=8", "train.epochs=1", "train.dims=[16]", "evaluate.resamples=200", "hybrid.tried_passages=0")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 40 documents, with a recording that graded three passages of every second query."""
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    texts = {f"p{i:02d}": " ".join(rng.choice(WORDS, 12, replace=False)) for i in range(40)}
    (folder / "docs.jsonl").write_text(
        "".join(json.dumps({"_id": i, "title": f"title {i}", "text": text}) + "\n" for i, text in texts.items())
    )
    ids = list(texts)
    queries = [
        {
            "query_id": f"{i}#{k}", "seed_id": i, "seed_sha256": sha256_text(text), "task": "find it",
            "query": " ".join(text.split()[-3 - k :]), "judged": k == 0,
        }
        for i, text in texts.items() for k in (0, 1)
    ]  # fmt: skip
    judgments = [
        {
            "query_id": f"{i}#0", "passage_id": ids[(n + step) % 40], "grade": grade, "best": step == 0,
            "passage_sha256": sha256_text(texts[ids[(n + step) % 40]]),
        }
        for n, i in enumerate(ids) for step, grade in ((0, 3), (1, 1), (2, 0))
    ]  # fmt: skip
    recording = folder / "recording"
    recording.mkdir()
    pq.write_table(pa.Table.from_pylist(queries), recording / "queries.parquet")
    pq.write_table(pa.Table.from_pylist(judgments), recording / "judgments.parquet")
    sets = [word for setting in FAST for word in ("--set", setting)]
    arguments = (
        folder / "docs.jsonl",
        "--llm",
        f"recorded:{recording}",
        "--base",
        tiny_base(),
        "--out",
        folder / "run",
    )
    assert call("distill", *arguments, *sets) == 0
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


@pytest.fixture(scope="module")
def beir(made: Path) -> Path:
    """The run's held-out queries as a BEIR folder: what it leaves itself."""
    return made / "run" / "evaluate" / "beir"


def results_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert call("evaluate", *arguments, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert call("evaluate", *arguments) == 1
    return " ".join(capsys.readouterr().err.split())


def test_a_run_has_the_figures_of_its_own_verdict(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    systems = ("base", "bm25", "tuned", "tuned@16", "base+bm25", "tuned+bm25")
    found = results_of(capsys, *systems, "--on", run)
    verdict = tokay.open_run(run).read_json("evaluate", "verdict")
    by_label = {row["label"].replace(" @ 32", "").replace(" @ ", "@").lower(): row for row in verdict["rows"]}
    assert found["reference"] == "base"
    assert found["queries"] == verdict["queries"]
    for row in found["systems"]:
        own = by_label[row["label"]]
        for metric in ("ndcg@10", "recall@10", "recall@100", "mrr", "judged@10"):
            assert row[metric] == pytest.approx(own[metric]), (row["label"], metric)
    tuned = next(row for row in found["systems"] if row["label"] == "tuned")
    assert tuned["comparison"]["difference"] == pytest.approx(verdict["primary"]["difference"])
    assert tuned["comparison"]["p_value"] >= tuned["p_alone"]
    assert len(found["pairs"]) == 15
    assert {one["value"]: one["queries"] for one in found["slices"] if one["trait"] == "document"} == {}  # no seen ones


def test_what_a_folder_holds(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = results_of(capsys, "bm25", "tuned", "--on", run, "--against", "tuned", "--out", tmp_path / "out")
    out = tmp_path / "out"
    assert read_results(out) == found
    assert found["reference"] == "tuned"
    scores = list(from_batches(Score, pq.ParquetFile(out / "scores.parquet").iter_batches()))
    mean = np.mean([s.value for s in scores if (s.system, s.metric) == ("bm25", "mrr")])
    assert mean == pytest.approx(found["systems"][0]["mrr"])
    assert {(s.system, s.dim) for s in scores} == {("bm25", 0), ("tuned", 32)}
    queries = list(from_batches(Query, pq.ParquetFile(out / "queries.parquet").iter_batches()))
    assert {q.part for q in queries} == {"test"}
    traits = list(from_batches(Trait, pq.ParquetFile(out / "traits.parquet").iter_batches()))
    assert {t.query_id for t in traits} == {q.query_id for q in queries}
    qrels = open_set(str(run)).on.qrels
    for label in ("bm25", "tuned"):
        ranked: dict[str, dict[str, float]] = {}
        for line in (out / "runs" / f"{label}.trec").read_text().splitlines():
            query_id, q0, passage_id, rank, score, tag = line.split(" ")
            assert (q0, tag, int(rank)) == ("Q0", label, len(ranked.setdefault(query_id, {})) + 1)
            ranked[query_id][passage_id] = float(score)
        for metric, values in evaluate_run(qrels, ranked).items():
            stored = {s.query_id: s.value for s in scores if (s.system, s.metric) == (label, metric)}
            assert values == pytest.approx({q: stored[q] for q in values})
    wins, losses = (found["examples"]["bm25"][word] for word in ("wins", "losses"))
    assert wins or losses
    for one in [*wins, *losses]:
        ours, theirs = one["ndcg@10"]["bm25"], one["ndcg@10"]["tuned"]
        assert (one in wins) == (ours > theirs)
        assert one["relevant"][0]["text"]
        assert one["query"]


def test_a_run_by_itself_is_all_its_forms(made: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("export", run, "--to", "onnx") == 0
    about = tokay.open_run(run).read_json("evaluate", "verdict")
    assert about["use"] == "base"  # so it was the base that was exported
    assert [row["label"] for row in results_of(capsys, run, "--on", run)["systems"]] == ["run", "run@16"]
    assert "is of another model than" in refusal(capsys, "tuned:onnx", "--on", run)
    for name in ("model", "export"):
        shutil.rmtree(run / name)
    shutil.copytree(run / "train" / "model", run / "model")
    assert call("export", run, "--to", "onnx") == 0
    found = results_of(capsys, run, "--on", run)
    assert [(row["label"], row["dim"]) for row in found["systems"]] == [("run", 32), ("run@16", 16), ("run:onnx", 32)]
    assert found["systems"][0]["ndcg@10"] == pytest.approx(found["systems"][2]["ndcg@10"], abs=1e-3)
    usual = results_of(capsys, "--on", run)
    assert [row["label"] for row in usual["systems"]] == [
        "base", "bm25", "tuned", "tuned@16", "tuned:onnx", "base+bm25", "tuned+bm25",
    ]  # fmt: skip
    other = results_of(capsys, f"other={made / 'run'}", "tuned", "--on", run)
    assert [row["label"] for row in other["systems"]] == ["other", "other@16", "tuned"]
    assert other["systems"][0]["ndcg@10"] == pytest.approx(other["systems"][2]["ndcg@10"])
    assert other["pairs"][1]["p_alone"] == 1.0


def test_a_model_on_a_beir_folder_is_encoded_once(
    beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tiny_base()
    found = results_of(capsys, f"tiny={base}", f"half={base}@16", "bm25", "--on", beir, "--out", tmp_path / "out")
    [kept] = (tmp_path / "out" / "vectors").glob("*.npy")
    opened = open_set(str(beir)).on
    model = tokay.Embedder.load(base)
    passages = model.encode([p.text for p in opened.passages], titles=[p.title for p in opened.passages])
    np.testing.assert_allclose(np.load(kept), unit(passages), atol=2e-6)
    queries = model.encode([q.text for q in opened.queries], kind="query", dim=16)
    indices, scores = top_k(unit(queries), passages, 40, dim=16)
    ranked = {
        q.query_id: {opened.ids[i]: float(s) for i, s in zip(*row, strict=True)}
        for q, row in zip(opened.queries, zip(indices, scores, strict=True), strict=True)
    }
    expected = np.mean(list(evaluate_run(opened.qrels, ranked)["ndcg@10"].values()))
    assert found["systems"][1]["ndcg@10"] == pytest.approx(expected)
    before = kept.stat().st_mtime_ns
    again = results_of(capsys, f"tiny={base}", f"half={base}@16", "bm25", "--on", beir, "--out", tmp_path / "out")
    assert again == found
    results_of(capsys, f"tiny={base}", "--on", beir, "--out", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "runs").iterdir()] == ["tiny.trec"]
    assert kept.stat().st_mtime_ns == before


def test_systems_of_a_run_on_another_set(run: Path, beir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on_run = results_of(capsys, "base", "tuned", "--on", run)
    elsewhere = results_of(capsys, "base", "tuned", "tuned+bm25=0.1", "--on", beir, "--run", run)
    for a, b in zip(on_run["systems"], elsewhere["systems"], strict=False):
        assert a["ndcg@10"] == pytest.approx(b["ndcg@10"])
    assert "BM25 weight 0.1 (given)" in elsewhere["systems"][2]["about"]
    assert "'base' is of a run, and --on" in refusal(capsys, "base", "--on", beir)


def test_labels_of_ones_own_over_the_runs_passages(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "q.tsv").write_text("a\tfirst words\nb\tother words\n")
    (tmp_path / "r.tsv").write_text("a 0 p00 1\nb 0 p01 2\n")
    own = ("--queries", tmp_path / "q.tsv", "--qrels", tmp_path / "r.tsv")
    found = results_of(capsys, "base", "tuned", "--on", run, *own)
    assert (found["queries"], found["passages"]) == (2, 40)
    assert "--judge grades what systems find for a run's written queries" in refusal(
        capsys, "base", "--on", run, *own, "--judge", "openai:m"
    )
    assert "comes without --qrels" in refusal(capsys, "base", "--on", run, "--queries", tmp_path / "q.tsv")


def test_a_bm25_weight_is_learned_for_a_model_that_the_run_does_not_know(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = results_of(capsys, f"tiny={tiny_base()}+bm25", "base+bm25", "--on", run)
    assert "learned on the run's training queries" in found["systems"][0]["about"]
    assert found["systems"][0]["ndcg@10"] == pytest.approx(found["systems"][1]["ndcg@10"])  # it is the base


def test_a_reranker_reads_what_a_ranking_found(beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tokay.models.cross_encoder import CrossEncoder, written
    from tokay.models.torch_cross_encoder import TorchCrossEncoder
    from tokay.models.torch_embedder import TorchEmbedder

    saved = tmp_path / "reranker"
    TorchCrossEncoder.on_top_of(TorchEmbedder.load(tiny_base(), device="cpu"), max_tokens=48).save(saved)
    words = ("bm25", f"read=bm25+rerank={saved}", "--on", beir, "--trec", tmp_path / "runs")
    found = results_of(capsys, *words)
    assert "candidates read" in found["systems"][1]["about"]
    opened, model = open_set(str(beir)).on, CrossEncoder.load(saved)
    passages = {p.passage_id: written(p.text, p.title) for p in opened.passages}
    orders: dict[str, dict[str, list[str]]] = {"bm25": {}, "read": {}}
    for name, by_query in orders.items():
        for line in (tmp_path / "runs" / f"{name}.trec").read_text().splitlines():
            query_id, _, passage_id, *_ = line.split(" ")
            by_query.setdefault(query_id, []).append(passage_id)
    for query in opened.queries:
        plain, read = (orders[name][query.query_id] for name in ("bm25", "read"))
        first = plain[:20]  # as deep as a reranker without a run reads
        logits = dict(zip(first, model.score([(query.text, passages[p]) for p in first]).tolist(), strict=True))
        assert np.ptp(list(logits.values())) > 1e-5  # ten times the rounding
        assert all(logits[a] > logits[b] - 1e-6 for a, b in itertools.pairwise(read[:20]))
        assert sorted(read[:20]) == sorted(first)
        assert read[20:] == plain[20:]


def test_an_endpoints_vectors_are_asked_for_once(
    beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = tokay.Embedder.load(tiny_base()), list[str]()

    def embed(request: dict[str, Any]) -> Any:
        asked.extend(request["input"])
        rows = [{"index": i, "embedding": v.tolist()} for i, v in enumerate(model.encode(request["input"]))]
        return 200, {}, json.dumps({"data": rows})

    with FakeLLM() as server:
        server.routes["/v1/embeddings"] = embed
        systems = ("openai:tiny", "openai:tiny@16", f"local={tiny_base()}")
        where = ("--on", beir, "--url", server.url)
        found = results_of(capsys, *systems, *where, "--out", tmp_path / "out")
        assert len(asked) == found["passages"] + found["queries"] == len(set(asked))
        assert [row["dim"] for row in found["systems"]] == [32, 16, 32]
        assert found["systems"][0]["ndcg@10"] == pytest.approx(found["systems"][2]["ndcg@10"])
        results_of(capsys, *systems, *where, "--out", tmp_path / "out")
        assert len(asked) == len(set(asked))
        assert "name --out FOLDER, where its vectors are kept" in refusal(capsys, "openai:tiny", *where)
        monkeypatch.setattr("tokay.llm.embeddings.RemoteEmbedder.is_near", False)
        fresh = ("openai:tiny", *where, "--out", tmp_path / "other")
        assert "nothing was sent to the endpoint" in refusal(capsys, *fresh)
        assert len(asked) == len(set(asked))
        assert call("evaluate", *fresh, "--yes") == 0
        assert f"to openai:tiny at {server.url} goes the text of" in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def judge() -> Iterator[FakeLLM]:
    with FakeLLM() as server:
        yield server


def test_what_nobody_judged_is_judged_once(run: Path, judge: FakeLLM, capsys: pytest.CaptureFixture[str]) -> None:
    before = results_of(capsys, "base", "bm25", "tuned", "--on", run)
    assert all(row["unjudged"] for row in before["systems"])
    for row in before["systems"]:
        assert row["ndcg@10"] <= row["at_best"]
    asking = ("base", "bm25", "tuned", "--on", run, "--judge", "openai:fake", "--judge-url", judge.url)
    assert "nothing was asked of the judge" in refusal(capsys, *asking)
    assert not judge.asked
    after = results_of(capsys, *asking, "--yes")
    asked = sum(judge.asked.values())
    assert asked > 0
    assert [row["unjudged"] for row in after["systems"]] == [0, 0, 0]
    assert all(row["judged@10"] == 1.0 for row in after["systems"])
    for row in after["systems"]:
        assert row["ndcg@10"] == pytest.approx(row["condensed"]) == pytest.approx(row["at_best"])
    store = tokay.open_run(run)
    earlier = {(j.query_id, j.passage_id) for j in store.table("judge", "judgments", Judgment)}
    kept = list(from_batches(Judgment, pq.ParquetFile(run / "pooled" / "judgments.parquet").iter_batches()))
    assert not earlier & {(j.query_id, j.passage_id) for j in kept}
    assert {j.answer_id.startswith("ledger") or bool(j.answer_id) for j in kept} == {True}
    assert not any(j.best for j in kept)

    assert results_of(capsys, *asking) == after  # nothing is left to be paid for, so nothing is asked
    assert results_of(capsys, "base", "bm25", "tuned", "--on", run) == after
    assert sum(judge.asked.values()) == asked
    shutil.rmtree(run / "pooled")
    assert results_of(capsys, *asking, "--yes") == after  # the ledger answers
    assert sum(judge.asked.values()) == asked


def test_grades_of_other_texts_are_not_used(run: Path, judge: FakeLLM, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("evaluate", "base", "--on", run, "--judge", "openai:fake", "--judge-url", judge.url, "--yes") == 0
    with Run(run, writable=True) as store:
        manifest = store.manifest()
        manifest["generate"]["outputs"]["queries.parquet"]["sha256"] = "another"
        store._save(manifest)
    found = results_of(capsys, "base", "--on", run)
    assert found["systems"][0]["unjudged"] > 0


def test_the_runs_own_model_judges_where_it_can(run: Path, judge: FakeLLM, capsys: pytest.CaptureFixture[str]) -> None:
    toml = (run / "run.toml").read_text()
    recorded = next(line for line in toml.splitlines() if line.startswith("llm ="))
    toml = toml.replace(recorded, 'llm = "openai:fake"').replace('llm_url = ""', f'llm_url = "{judge.url}"')
    (run / "run.toml").write_text(toml)
    shown = results_of(capsys, "base", "--on", run, "--judge", "run", "--yes", "--top", 3)
    assert shown["systems"][0]["unjudged"] > 0  # of the top ten, the first three were judged
    judged = pq.read_table(run / "pooled" / "judgments.parquet").num_rows
    assert 0 < judged <= 3 * shown["queries"] + shown["queries"]
    assert {row[0] for row in spent(run)} == {"judge", "probe"}


def spent(run: Path) -> list[tuple[str, int]]:
    from tokay.llm.ledger import spent_in

    return [(row.stage, row.answers) for row in spent_in(run / "ledger.sqlite")]


def test_a_budget_stops_before_it_is_passed(run: Path, judge: FakeLLM, capsys: pytest.CaptureFixture[str]) -> None:
    (run.parent / "prices.toml").write_text('[models]\n"fake" = { input = 10, output = 100 }\n')
    asking = ("base", "--on", run, "--judge", "openai:fake", "--judge-url", judge.url, "--yes")
    said = refusal(capsys, *asking, "--budget", 0.000001, "--prices", run.parent / "prices.toml")
    assert "the budget of 1e-06 USD would be passed" in said
    assert "budget: 1e-06 USD, of which the run has spent 0" in said
    assert "needs the price of openai:fake" in refusal(capsys, *asking, "--budget", 1)


def test_a_recording_cannot_judge(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is a recording, and cannot grade what it has not seen" in refusal(
        capsys, "base", "--on", run, "--judge", "run"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tunde", "--on", "{run}"), "there is no system 'tunde'; expected bm25, base, tuned, minilm, a run"),
        (("tunde", "--on", "{run}"), "did you mean 'tuned'?"),
        (("tuned@64", "--on", "{run}"), "has the width 64; its model has vectors of 32 numbers, so 1 to 32"),
        (("tuned", "tuned", "--on", "{run}"), "two systems are called 'tuned'"),
        (("tuned", "x=tuned", "--on", "{run}"), "'tuned' and 'x' are the same system"),
        (("tuned", "x={run}@32", "--on", "{run}", "--against", "y"), "--against is 'y'; expected one of"),
        (("tuned:static", "--on", "{run}"), "static"),
        (("tuned+rerank", "--on", "{run}"), "has no reranker; train one with"),
        (("bm25+rerank", "--on", "{beir}"), "has no run whose reranker to take; say +rerank=MODEL"),
        (("bm25", "--on", "{run}", "--split", "dev"), "--split is 'dev', and a run's queries are its held-out ones"),
        (("tuned:torch", "tuned", "--on", "{run}"), "are the same system"),
        (("tuned",), "there is no --on"),
        (("--on", "{beir}"), "there is no system; name some"),
        (("bm25", "--on", "{run}", "--budget", "3"), "--judge-url and --budget are of a judge"),
        (("bm25", "--on", "{run}", "--out", "{run}"), "holds other files"),
        (("bm25", "--on", "{run}", "--judge", "gpt"), "--llm is 'gpt'"),
        (("./nothing", "--on", "{run}"), "there is no model folder ./nothing"),
        (("bm25", "--on", "{beir}", "--run", "{beir}"), "is not a run folder"),
    ],
)
def test_bad_input_is_one_sentence(
    made: Path, beir: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    words = [word.format(run=made / "run", beir=beir) for word in arguments]
    assert said in refusal(capsys, *words)
    assert not (made / "run" / "compared" / "results.json").exists()


def test_an_unfinished_run_says_how_far_it_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Run(run, writable=True) as store:
        store.forget("examples")
    said = refusal(capsys, "base", "--on", run)
    assert "has not come to its verdict (done: corpus, generate, judge, mine, split, vectors); finish it with" in said


def test_the_screen_has_tables_and_texts_as_text(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("evaluate", "base", "bm25", "[bold]x=tuned", "--on", run) == 0
    shown = capsys.readouterr().out
    for words in ("What nobody judged", "All pairs", "Slices: nDCG@10", "[bold]x"):
        assert words in shown
    assert call("evaluate", "base", "--on", run) == 0
    alone = capsys.readouterr().out
    assert "difference" not in alone
    assert "All pairs" not in alone
