"""The whole way on a small corpus with a recorded annotator and a two-layer base, through the command line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tokay
from command import call
from exploring import exploring, opened
from fake_llm import FakeLLM
from made_tasks import own_pairs
from tiny import WORDS, tiny_base
from tokay import cli
from tokay.evaluate.verdict import judge_systems
from tokay.finder import search_run
from tokay.leaking import queries_of_run
from tokay.records import Candidate, Decision, Document, Example, Judgment, Passage, Query, Score, sha256_text

HOSTILE = '<script>alert("x")</script> </pre> \u202e [bold]not markup[/bold] '
FAST = [
    "--set",
    "train.batch_size=8",
    "--set",
    "train.learning_rate=0.002",
    "--set",
    "train.dims=[16]",
    "--set",
    "evaluate.resamples=200",
]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 40 documents as JSONL, its recording, and labelled queries beside it."""
    folder = tmp_path_factory.mktemp("material")
    rng = np.random.default_rng(0)
    texts = {f"p{i:02d}": " ".join(rng.choice(WORDS, 12, replace=False)) for i in range(40)}
    texts |= {i: HOSTILE + t for i, t in texts.items() if int(i[1:]) % 4 == 1}
    (folder / "docs.jsonl").write_text(
        "".join(json.dumps({"_id": i, "title": f"title {i} \x07", "text": t}) + "\n" for i, t in texts.items())
        + "not json\n"
    )
    rows = [
        {
            "query_id": f"{i}#{k}",
            "seed_id": i,
            "seed_sha256": sha256_text(t),
            "task": "find it",
            "query": (HOSTILE if "<" in t else "") + " ".join(t.split()[-3 - k :]),
            "judged": k == 0,
        }
        for i, t in texts.items()
        for k in (0, 1)
    ]
    ids = list(texts)
    judgments = [
        {
            "query_id": f"{i}#0",
            "passage_id": ids[(n + step) % 40],
            "passage_sha256": sha256_text(texts[ids[(n + step) % 40]]),
            "grade": grade,
            "best": step == (1 if n % 5 == 0 else 0),
        }
        for n, i in enumerate(ids)
        for step, grade in ((0, 2 if n % 5 == 0 else 3), (1, 3 if n % 5 == 0 else 1), (2, 0))
    ]
    recording = folder / "recording"
    recording.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), recording / "queries.parquet")
    pq.write_table(pa.Table.from_pylist(judgments), recording / "judgments.parquet")
    (folder / "queries.tsv").write_text("".join(f"u{n}\t{texts[i].split()[3]} please\n" for n, i in enumerate(ids[:9])))
    (folder / "qrels.tsv").write_text("".join(f"u{n} 0 {i} 1\n" for n, i in enumerate(ids[:9])))
    return folder


@pytest.fixture(scope="module")
def run(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    labels = ("--queries", material / "queries.tsv", "--qrels", material / "qrels.tsv")
    arguments = (
        "distill",
        material / "docs.jsonl",
        "--llm",
        f"recorded:{material / 'recording'}",
        "--base",
        tiny_base(),
    )
    assert call(*arguments, "--out", out, *labels, *FAST) == 0
    return out


def test_stages_leave_records_that_trace_back(run: Path) -> None:
    store = tokay.open_run(run)
    passages = {p.passage_id: p for p in store.table("corpus", "passages", Passage)}
    queries = {q.query_id: q for q in store.table("generate", "queries", Query)}
    assert (len(passages), len(queries)) == (40, 80)
    assert store.rows("corpus", "skipped") == 1
    part = {d.document_id: d.part for d in store.table("split", "documents", Document)}
    judged = {(j.query_id, j.passage_id): j.grade for j in store.table("judge", "judgments", Judgment)}
    assert len(judged) == 120
    for example in store.table("examples", "examples", Example):
        query = queries[example.query_id]
        assert query.answer_id == f"recorded:recording queries.parquet {query.query_id}"
        assert query.part == example.part == part[passages[example.seed_id].document_id]
        assert example.relabelled == (example.positive_id != example.seed_id)
        if example.part == "train":
            assert part[passages[example.positive_id].document_id] == "train"
        if example.relabelled:
            assert judged[query.query_id, example.positive_id] > judged[query.query_id, example.seed_id]
    relabelled = [e for e in store.table("examples", "examples", Example) if e.relabelled]
    assert relabelled


def test_the_verdict_has_every_row(run: Path) -> None:
    verdict = tokay.open_run(run).read_json("evaluate", "verdict")
    labels = [row["label"] for row in verdict["rows"]]
    assert labels == ["BM25", "base @ 32", "base @ 16", "tuned @ 32", "tuned @ 16", "base+BM25 @ 32", "tuned+BM25 @ 32"]
    assert verdict["use"] == ("tuned" if verdict["better"] else "base")
    assert set(verdict["weights"]) == {"base", "tuned"}
    scores = list(tokay.open_run(run).table("evaluate", "scores", Score))
    mean = np.mean([s.value for s in scores if (s.system, s.dim, s.metric) == ("tuned", 16, "mrr")])
    assert mean == pytest.approx(next(r["mrr"] for r in verdict["rows"] if r["label"] == "tuned @ 16"))
    own = tokay.open_run(run).read_json("labels", "verdict")
    assert own["queries"] == 9
    assert (run / "evaluate" / "beir" / "qrels" / "test.tsv").is_file()


def test_the_model_is_used_as_it_was_trained(run: Path) -> None:
    model = tokay.Embedder.load(run / "train" / "model")
    stored = np.load(run / "evaluate" / "tuned.npy")
    passages = list(tokay.open_run(run).table("corpus", "passages", Passage))
    again = model.encode([p.text for p in passages], kind="passage", titles=[p.title for p in passages])
    np.testing.assert_allclose(again, stored, atol=2e-6)
    assert model.config.dims == (32, 16)
    assert not np.allclose(stored, np.load(run / "vectors" / "base.npy"))


class Page(HTMLParser):
    tags: list[str]

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


def test_the_report_shows_text_as_text(run: Path) -> None:
    html = (run / "report.html").read_text()
    page = Page()
    page.tags = []
    page.feed(html)
    assert "script" not in page.tags
    assert "&lt;script&gt;alert(&quot;x&quot;)" in html
    assert "\x07" not in html
    assert "\u202e" not in html
    assert not re.search(r"src\s*=|href=\"[^#]", html)
    for words in (
        "Biggest wins",
        "Biggest losses",
        "Training rows, at random",
        "about 15\u00a0%",
        "recorded:recording judgments.parquet",
        "Your own queries",
    ):
        assert words in html


def test_search_report_and_trace(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("search", run, "alpha river", "--top", "3") == 0
    shown = capsys.readouterr().out
    assert shown.count("title p") == 6
    assert "[bold]" not in shown.replace("[bold]not markup[/bold]", "")
    assert call("search", run, "alpha river", "--hybrid") == 0
    relabelled = next(e for e in tokay.open_run(run).table("examples", "examples", Example) if e.relabelled)
    assert call("trace", run, relabelled.query_id) == 0
    shown = capsys.readouterr().out
    assert "(relabelled)" in shown
    assert "grade 3 best" in shown
    (run / "report.html").unlink()
    assert call("report", run) == 0
    assert (run / "report.html").is_file()


@pytest.mark.parametrize("hybrid", [False, True])
def test_the_page_finds_what_the_command_finds(run: Path, tmp_path: Path, hybrid: bool) -> None:
    with exploring(run, tmp_path) as address, opened(address) as client:
        assert client.get("/api/run").json()["search"] == ""
        found = client.get("/api/search", params={"text": "alpha river", "top": "9", "hybrid": str(int(hybrid))}).json()
    answer = search_run(tokay.open_run(run), "alpha river", top=9, hybrid=hybrid)
    for side, expected in (("base", answer.base), ("tuned", answer.tuned)):
        assert [hit["passage_id"] for hit in found[side]] == [one.passage.passage_id for one in expected]
        other = "tuned" if side == "base" else "base"
        assert [hit[other] or 0 for hit in found[side]] == [one.other_rank for one in expected]
    assert found["use"] == answer.use


@pytest.mark.parametrize("words", [(), ("--hybrid",)])
def test_an_index_of_the_runs_corpus_answers_as_the_run_does(
    run: Path, material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert call("index", run, material / "docs.jsonl", "--out", tmp_path / "index") == 0
    capsys.readouterr()
    answers = []
    for where in (run, tmp_path / "index"):
        assert call("search", where, "alpha river", "--top", 9, "--json", *words) == 0
        answers.append(json.loads(capsys.readouterr().out))
    by_run = answers[0][answers[0]["use"]]
    by_index = answers[1]["data"]
    assert [entry["id"] for entry in by_index] == [entry["id"] for entry in by_run]
    assert [entry["text"] for entry in by_index] == [entry["text"] for entry in by_run]
    np.testing.assert_allclose([e["score"] for e in by_index], [e["score"] for e in by_run], atol=1e-5)


def test_a_share_of_the_training_documents_queries_is_kept_for_the_verdict(
    material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--llm", f"recorded:{material / 'recording'}", "--base", tiny_base(), "--out", tmp_path / "run", *FAST)
    assert call("distill", material / "docs.jsonl", *words, "--set", "split.seen_share=0.5") == 0
    store = tokay.open_run(tmp_path / "run")
    part = {d.document_id: d.part for d in store.table("split", "documents", Document)}
    queries = list(store.table("generate", "queries", Query))
    seen = {q.query_id for q in queries if q.part == "seen"}
    train = {q.query_id for q in queries if q.part == "train"}
    assert 15 <= len(seen) <= 40
    assert {part[q.seed_id] for q in queries if q.query_id in seen | train} == {"train"}
    rows = {e.query_id for e in store.table("examples", "examples", Example) if e.part == "train"}
    left_out = {q.query_id for q in queries_of_run(store) if q.part == "out"}
    assert left_out < train  # a seen query that repeats another of its passage stays, and training loses the other
    assert rows == train - left_out
    slices = store.read_json("evaluate", "verdict")["slices"]
    verdict = store.read_json("evaluate", "verdict")
    assert (slices["seen"]["queries"], slices["unseen"]["queries"]) == (len(seen), verdict["queries"])
    assert slices["unseen"]["comparison"] == verdict["primary"]
    said = capsys.readouterr()
    plan = " ".join(said.err.split())
    assert re.search(r"the verdict will be on about \d+ held-out queries, which can show 0\.\d+; \d+ of training", plan)
    assert "documents with queries in training" in said.out
    assert "those queries are measured that training did not get" in (tmp_path / "run" / "report.html").read_text()


def test_a_run_is_trained_on_again_with_its_own_settings(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("train", run, "--out", tmp_path / "model") == 0
    assert weights(tmp_path / "model") == weights(run / "train" / "model")
    assert "model:" in capsys.readouterr().out
    assert call("train", run, "--plan", "--set", "train.epochs=4") == 0
    assert re.search(r"^the run's queries \(FRet rows\): [\d,]+ rows, [\d,]+ drawn$", capsys.readouterr().out, re.M)


def weights(folder: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in tokay.Embedder.load(folder).state_dict().items()}


def found_better(*args: Any) -> tuple[Any, dict[str, Any]]:
    scores, verdict = judge_systems(*args)
    return scores, verdict | {"better": True}


def test_refit_trains_on_everything_and_search_uses_it(
    run: Path,
    material: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    arguments = (
        "distill",
        material / "docs.jsonl",
        "--llm",
        f"recorded:{material / 'recording'}",
        "--base",
        tiny_base(),
    )
    pairs = own_pairs(tokay.Embedder.load(tiny_base(), device="cpu"), tmp_path / "mine")
    guard = ("--set", f"guard.sets=['{pairs}']")
    assert call(*arguments, "--out", out, *FAST, "--refit", *guard) == 0
    said = capsys.readouterr()
    assert "train: unchanged" in said.err
    general = tokay.open_run(out).read_json("general", "general")["sets"]
    assert [one["model"] for one in general] == ["tuned", "refitted"]
    assert "refitted model: general ability" in " ".join(said.out.split())
    verdict = tokay.open_run(out).read_json("evaluate", "verdict")
    assert verdict["use"] == "base"  # twenty queries show nothing
    assert f"model: {out / 'model'}That is the base" in said.out.replace("\n", "")
    assert "refitted on all queries" in (out / "report.html").read_text()
    assert call("search", out, "alpha") == 0
    assert "base (used)" in capsys.readouterr().out
    assert weights(out / "model") == weights(tiny_base())
    monkeypatch.setattr("tokay.pipeline.evaluate.judge_systems", found_better)
    assert call(*arguments, "--out", out, *FAST, "--refit", "--set", "evaluate.resamples=300") == 0
    assert weights(out / "model") == weights(out / "refit" / "model") != weights(out / "train" / "model")
    assert "rows planned" in (out / "model" / "README.md").read_text()
    capsys.readouterr()
    assert call("search", out, "alpha") == 0
    assert "tuned (used)" in capsys.readouterr().out
    assert call(*arguments, "--out", out, *FAST) == 0  # without --refit the refitted model no longer counts
    assert not tokay.open_run(out).is_done("refit")
    assert call(*arguments, "--out", out, *FAST, *guard) == 0
    assert [one["model"] for one in tokay.open_run(out).read_json("general", "general")["sets"]] == ["tuned"]


def test_a_dry_run_leaves_the_folder_alone(run: Path, material: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    (tmp_path / "other.jsonl").write_text("".join(f'{{"_id": "{i}", "text": "words number {i}"}}\n' for i in range(30)))
    other = ("--llm", f"recorded:{material / 'recording'}", "--base", tiny_base("cls"), "--out", out, "--dry-run")
    assert call("distill", tmp_path / "other.jsonl", *other) == 0
    assert {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()} == before


def test_the_llms_answer_can_be_read(material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    with FakeLLM() as server:
        live = ("--llm", "openai:fake", "--llm-url", server.url, "--base", tiny_base(), "--out", out)
        assert call("distill", material / "docs.jsonl", *live, *FAST, "--yes") == 0
        asked = sum(server.asked.values())
        docs = (material / "docs.jsonl").read_text().splitlines()[:-1]
        (tmp_path / "more.jsonl").write_text(
            "\n".join([*docs, '{"_id": "new", "text": "something else entirely here"}'])
        )
        capsys.readouterr()
        assert call("distill", tmp_path / "more.jsonl", *live, *FAST) == 1  # nothing is paid without a new yes
        assert "the plan was not confirmed" in capsys.readouterr().err
        assert sum(server.asked.values()) == asked
        assert call("search", out, "alpha") == 1
        assert "to the end" in capsys.readouterr().err  # the corpus is another one now
        assert call("distill", material / "docs.jsonl", *live, *FAST) == 1
        assert call("distill", material / "docs.jsonl", *live, *FAST, "--yes") == 0  # the ledger answers
        assert sum(server.asked.values()) == asked
    query = next(tokay.open_run(out).table("generate", "queries", Query))
    capsys.readouterr()
    assert call("trace", out, query.query_id) == 0
    said = capsys.readouterr().out
    assert '{"queries": [{"task": "find it"' in said
    assert '{"grades": {' in said
    assert "&quot;grades&quot;" in (out / "report.html").read_text()


def test_a_live_llm_is_paid_only_after_a_yes(
    material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeLLM() as server:
        arguments = (
            "distill",
            material / "docs.jsonl",
            "--llm",
            "openai:fake",
            "--llm-url",
            server.url,
            "--base",
            tiny_base(),
            "--out",
            tmp_path / "run",
            *FAST,
        )
        assert call(*arguments, "--dry-run") == 0
        assert "at most 200 LLM calls" in capsys.readouterr().err.replace("\n", " ")
        assert call(*arguments) == 1
        assert "nothing was asked of the LLM: the plan was not confirmed (--yes confirms it)" in capsys.readouterr().err
        assert not server.asked
        assert call(*arguments, "--yes", "--set", "generate.queries_per_passage=1") == 0
        assert 110 <= sum(server.asked.values()) <= 120
    assert tokay.open_run(tmp_path / "run").rows("judge", "judgments") > 300


def test_a_log_of_real_queries_is_mined_judged_and_its_gaps_reported(
    material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = [json.loads(line) for line in (material / "docs.jsonl").read_text().splitlines()[:-1]]
    asked = [" ".join(row["text"].split()[-3:]) for row in corpus]
    (tmp_path / "log.txt").write_text("\n".join([*asked, asked[0], "zebra"]))

    def nothing_for_zebras(request: dict[str, Any]) -> str | None:
        user = request["messages"][1]["content"]
        count = user.count("</passage>")
        answer = json.dumps({"grades": {str(n + 1): 0 for n in range(count)}, "best": 0})
        return answer if "Query: zebra" in user else None

    with FakeLLM() as server:
        server.override = nothing_for_zebras
        common = ("--llm", "openai:fake", "--llm-url", server.url, "--base", tiny_base(), "--out", tmp_path / "run")
        log = ("--queries", tmp_path / "log.txt", "--set", "generate.passages=20", "--candidates", "union", "--yes")
        assert call("distill", material / "docs.jsonl", *common, *log, *FAST) == 0
    run = tokay.open_run(tmp_path / "run")
    assert 36 <= run.rows("generate", "queries") <= 40
    answered = list(run.table("judge", "answered", Query))
    assert len(answered) == len(set(asked))
    assert [q.text for q in run.table("judge", "gaps", Query)] == ["zebra"]
    parts = {d.document_id: d.part for d in run.table("split", "documents", Document)}
    for example in run.table("examples", "examples", Example):
        assert parts[example.positive_id] == example.part or (example.part, parts[example.positive_id]) == (
            "dev",
            "train",
        )
    candidates = list(run.table("mine", "candidates", Candidate))
    assert any(c.initial_rank for c in candidates)
    assert "No passage answers 1 of" in (tmp_path / "run" / "report.html").read_text()
    assert call("trace", tmp_path / "run", answered[0].query_id) == 0
    assert "grade 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a | {"--queries": "log.txt"},
            "needs an LLM that judges now; --llm recorded:recording is a recording",
        ),
        (lambda a: a | {"--candidates": "dense"}, "expected a list, each item 'base', 'initial' or 'bm25'"),
        (lambda a: a | {"--judge": "jury"}, "setting 'judge.by' is 'jury'"),
        (lambda a: a | {"documents": "./nowhere"}, "python:PACKAGE: did you mean"),  # and no emoji in its place
        (lambda a: a | {"documents": "./nowhere"}, "there is no file or folder ./nowhere"),
        (lambda a: a | {"--base": "./nowhere"}, "there is no model folder ./nowhere"),
        (lambda a: a | {"--llm": "recorded"}, "--llm recorded is the recording for python-stdlib"),
        (lambda a: a | {"--llm": "recorded:/nowhere"}, "queries.parquet is missing"),
        (
            lambda a: a | {"--llm": "claude"},
            "expected recorded, recorded:FOLDER, openai:MODEL, hf:NAME_OR_FOLDER or replay:FILE",
        ),
        (lambda a: a | {"--llm": "openai:x", "--llm-url": "ftp://x"}, "expected http://"),
        (lambda a: a | {"--set": "train.epoch=3"}, "unknown setting 'train.epoch'"),
        (lambda a: a | {"--qrels": "nowhere.tsv"}, "--queries is missing"),
        (lambda a: a | {"--out": "docs.jsonl"}, "is a file; expected a folder"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(
    change: Callable[[dict[str, str]], dict[str, str]],
    message: str,
    material: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(material)
    options = change(
        {
            "documents": "docs.jsonl",
            "--llm": "recorded:recording",
            "--base": str(tiny_base()),
            "--out": str(tmp_path / "run"),
        }
    )
    documents = options.pop("documents")
    assert call("distill", documents, *(word for pair in options.items() for word in pair)) == 1
    said = capsys.readouterr().err
    assert message in " ".join(said.split())
    assert "Traceback" not in said


def test_runs_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = {("search", "x"): "nor a run (it has no manifest.json)", ("report",): "is not a run folder"}
    for (command, *rest), message in (expected | {("trace", "q"): "is not a run folder"}).items():
        assert call(command, tmp_path, *rest) == 1
        assert message in " ".join(capsys.readouterr().err.split())


def test_the_public_names() -> None:
    assert all(getattr(tokay, name) is not None for name in tokay.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'distil'; it has"):
        tokay.distil  # noqa: B018


def test_nothing_that_a_terminal_obeys_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    cli.out.print(cli.escape("a\x1b[31mred\x1b]0;title\x07 [bold]b[/bold] \u202ec"))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "\u202e" not in shown
    assert "[bold]b[/bold]" in shown


def test_an_interrupt_says_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(path: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tokay, "open_run", interrupted)
    assert call("report", "runs/x") == 130
    assert "the same command goes on where this one stopped" in capsys.readouterr().err


def test_the_version_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("--version",), ("version",)):
        assert call(*words) == 0
        assert capsys.readouterr().out.strip() == tokay.__version__


def test_a_run_without_a_general_set_says_so(run: Path) -> None:
    found = tokay.open_run(run).read_json("general", "general")
    assert (found["checked"], found["fell"]) == (False, False)
    assert found["missing"] == ["NanoBEIR is on the Hub, and HF_HUB_OFFLINE is set; guard.sets can name local sets"]


def test_a_run_that_loses_general_ability_warns(
    material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = own_pairs(tokay.Embedder.load(tiny_base(), device="cpu"), tmp_path / "mine")
    arguments = ("--llm", f"recorded:{material / 'recording'}", "--base", tiny_base(), "--out", tmp_path / "run", *FAST)
    sets = ("--set", f"guard.sets=['{pairs}']", "--set", "train.learning_rate=0.05", "--set", "train.max_tokens=64")
    assert call("distill", material / "docs.jsonl", *arguments, *sets) == 0
    printed = capsys.readouterr()
    assert "after training, base and tuned model are compared on general texts" in printed.err
    said = " ".join(printed.out.split())
    assert "warning: general ability fell by more than 0.01: mine, Spearman's correlation 1.000 to" in said
    assert "General ability fell by more than 0.01: mine, " in (tmp_path / "run" / "report.html").read_text()
    store = tokay.open_run(tmp_path / "run")
    assert store.read_json("general", "general")["fell"]
    if store.read_json("evaluate", "verdict")["use"] == "tuned":
        assert "**Warning.** general ability fell" in (tmp_path / "run" / "model" / "README.md").read_text()
    assert call("distill", material / "docs.jsonl", *arguments, *sets) == 0
    assert "general: unchanged" in capsys.readouterr().err
    wrong = ("--set", f"guard.sets=['{tmp_path / 'gone'}']")
    assert call("distill", material / "docs.jsonl", *arguments, *wrong) == 1
    assert "there is no folder or file" in capsys.readouterr().err


def test_what_people_decide_makes_the_rows_again_and_stands_in_report_and_verdict(
    run: Path, material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    store = tokay.open_run(out)
    queries = {q.query_id: q for q in store.table("generate", "queries", Query)}
    before = list(store.table("examples", "examples", Example))
    train = [e for e in before if e.part == "train"]
    held = next(q for q in queries.values() if q.part == "test" and q.judged)
    moved = next(e for e in train if e.negative_ids)

    def decide(name: str, query_id: str, action: Any, passage_id: str = "", grade: int = -1, undoes: str = "") -> None:
        text = {p.passage_id: p.sha256 for p in store.table("corpus", "passages", Passage)}.get(passage_id, "")
        made = Decision(name, query_id, sha256_text(queries[query_id].text), action, passage_id, text, grade, undoes)
        store.decide(lambda _: made)

    decide("1", moved.query_id, "positive", moved.negative_ids[0])
    dropped = next(e for e in train if e.query_id != moved.query_id)
    decide("2", dropped.query_id, "reject")
    decide("3", held.query_id, "grade", held.seed_id, 1)
    assert call("train", out, "--out", tmp_path / "model") == 0  # from the decisions, before the table has them
    assert weights(tmp_path / "model") != weights(run / "train" / "model")
    again = ("distill", material / "docs.jsonl", "--llm", f"recorded:{material / 'recording'}", "--base", tiny_base())
    labels = ("--queries", material / "queries.tsv", "--qrels", material / "qrels.tsv")
    capsys.readouterr()
    assert call(*again, "--out", out, *labels, *FAST) == 0
    said = capsys.readouterr()
    for stage, state in (("judge", "unchanged"), ("mine", "unchanged"), ("examples", "done"), ("train", "done")):
        assert f"{stage}: {state}" in said.err
    assert "1 grades of held-out queries were given by hand, and 0 held-out queries were left out" in " ".join(
        said.out.split()
    )
    assert weights(tmp_path / "model") == weights(out / "train" / "model")
    after = list(store.table("examples", "examples", Example))
    assert next(e for e in after if e.query_id == moved.query_id).positive_id == moved.negative_ids[0]
    assert dropped.query_id not in {e.query_id for e in after}
    html = (out / "report.html").read_text()
    assert re.search(r"rejected</th><td class=\"n\">1<", html)
    assert "were given by hand" in html
    for name in ("1", "2", "3"):
        decide(f"not {name}", moved.query_id, "undo", undoes=name)
    assert call(*again, "--out", out, *labels, *FAST) == 0
    assert list(store.table("examples", "examples", Example)) == before
    assert "given by hand" not in (out / "report.html").read_text()
    assert "By hand" not in (out / "report.html").read_text()
