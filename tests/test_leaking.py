"""Leakage in a whole run: planted copies are kept apart, and a run that leaks prints no verdict."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tokay
from command import call
from made_run import made_run
from test_pipeline import FAST, material, run  # noqa: F401  (fixtures: a finished run of forty documents)
from tiny import WORDS, tiny_base
from tokay.copies import apart, repeating
from tokay.errors import TokayError
from tokay.leaking import LEAK, check_run, leakage_sentence, parts_of_run, queries_of_run, refuse
from tokay.records import Copy, Document, Example, Passage, Query, Read, sha256_text, to_table
from tokay.store import Run


def said(capsys: pytest.CaptureFixture[str]) -> str:
    shown = capsys.readouterr()
    return " ".join((shown.out + shown.err).split())


@pytest.fixture(scope="module")
def repeated(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The material with twelve more documents that share 30 of 32 words, each with a query and judgments."""
    folder = tmp_path_factory.mktemp("repeated")
    common = " ".join(np.random.default_rng(7).choice(WORDS, 30, replace=False))
    texts = {f"r{i:02d}": f"{common} {WORDS[2 * i]} {WORDS[2 * i + 1]}" for i in range(12)}
    corpus = (material / "docs.jsonl").read_text()
    corpus += "".join(json.dumps({"_id": i, "title": "", "text": text}) + "\n" for i, text in texts.items())
    (folder / "docs.jsonl").write_text(corpus)
    queries = pq.read_table(material / "recording" / "queries.parquet").to_pylist()
    judgments = pq.read_table(material / "recording" / "judgments.parquet").to_pylist()
    for n, (i, text) in enumerate(texts.items()):
        words = {"query_id": f"{i}#0", "seed_id": i, "seed_sha256": sha256_text(text), "task": "find it"}
        queries.append({**words, "query": " ".join(WORDS[3 * n : 3 * n + 3]), "judged": True})
        for j, (other, what) in enumerate(texts.items()):
            judged = {"query_id": f"{i}#0", "passage_id": other, "passage_sha256": sha256_text(what)}
            judgments.append({**judged, "grade": 3 if i == other else j % 2, "best": i == other})
    (folder / "recording").mkdir()
    pq.write_table(pa.Table.from_pylist(queries), folder / "recording" / "queries.parquet")
    pq.write_table(pa.Table.from_pylist(judgments), folder / "recording" / "judgments.parquet")
    return folder


def test_documents_that_repeat_each_other_do_not_stand_on_both_sides(
    repeated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ("--llm", f"recorded:{repeated / 'recording'}", "--base", tiny_base(), "--out", out, *FAST)
    corpus = ("--set", "corpus.near_duplicates=0")
    assert call("distill", repeated / "docs.jsonl", *words, *corpus) == 0
    shown = said(capsys)
    store = tokay.open_run(out)
    assert {c.passage_id for c in store.table("split", "copies", Copy)} == {f"r{i:02d}" for i in range(12)}
    of = {d.document_id: d.part for d in store.table("split", "documents", Document)}
    parts = parts_of_run(store)
    alike = [f"r{i:02d}" for i in range(12)]
    assert [of[i] for i in alike] == ["train"] * 10 + ["test"] * 2  # a bundle holds at most a fifth of 52 passages
    assert [parts[i] for i in alike] == ["out"] * 10 + ["test"] * 2
    assert {part for i, part in parts.items() if i not in alike} == {"train", "dev", "test"}
    assert "10 passages nearly repeat one of these, and are left out of training" in shown
    assert re.search(r"12 passages nearly repeat one of another document, in 1 groups; 12 documents are kept", shown)
    assert not {q.seed_id for q in store.table("generate", "queries", Query)} & {*alike[:10]}
    given = {r.item_id for r in store.table("train", "read", Read) if r.role != "query"}
    assert given
    assert not given & {i for i, part in parts.items() if part != "train"}
    assert "leakage: none found" in shown
    assert json.loads((out / LEAK).read_text())["left_out"] == {"passages": 10, "queries": 0}
    assert "Leakage: none found" in (out / "report.html").read_text()
    # without the search for copies they stand on both sides, and a look with it finds them in training
    other = tmp_path / "other"
    words = ("--llm", f"recorded:{repeated / 'recording'}", "--base", tiny_base(), "--out", other, *FAST)
    assert call("distill", repeated / "docs.jsonl", *words, *corpus, "--set", "split.near_duplicates=0") == 0
    assert "passages without near copies, as split.near_duplicates is 0" in said(capsys)
    store = tokay.open_run(other)
    assert len({d.part for d in store.table("split", "documents", Document) if d.document_id.startswith("r")}) > 1
    drop_tables(other, {"split": "copies"})  # as a version without them left it
    settings = (other / "run.toml").read_text().split("[split]")
    (other / "run.toml").write_text(settings[0] + "[split]" + settings[1].replace("near_duplicates = 0.0", "", 1))
    assert call("report", other) == 1
    assert "near copies of held-out passages in training" in said(capsys)


def drop_tables(folder: Path, tables: dict[str, str]) -> None:
    """Make a run what an older version would have left."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for stage, name in tables.items():
        (folder / stage / f"{name}.parquet").unlink()
        del manifest[stage]["outputs"][f"{name}.parquet"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def rewrite(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    table = pq.read_table(file)
    pq.write_table(pa.Table.from_pylist([change(row) for row in table.to_pylist()], schema=table.schema), file)


def trained_documents(folder: Path) -> list[str]:
    """Documents that training has read positives of."""
    store = tokay.open_run(folder)
    document = {p.passage_id: p.document_id for p in store.table("corpus", "passages", Passage)}
    return sorted({document[r.item_id] for r in store.table("train", "read", Read) if r.role == "positive"})


def hold_out_what_was_trained(folder: Path) -> None:
    taken = trained_documents(folder)[:3]
    rewrite(
        folder / "split" / "documents.parquet", lambda d: d | ({"part": "test"} if d["document_id"] in taken else {})
    )


def swap_sides(folder: Path) -> None:
    swap = {"test": "train", "train": "test", "dev": "dev"}
    rewrite(folder / "split" / "documents.parquet", lambda d: d | {"part": swap[d["part"]]})


def train_on_a_held_out_query(folder: Path) -> None:
    store = tokay.open_run(folder)
    held = next(q.text for q in store.table("generate", "queries", Query) if q.part == "test")
    rewrite(folder / "train" / "read.parquet", lambda r: r | ({"text": held} if r["role"] == "query" else {}))


def name_a_held_out_negative(folder: Path) -> None:
    """In a run of before trainings wrote down what they read, its rows are looked at."""
    drop_tables(folder, {"train": "read"})
    store = tokay.open_run(folder)
    held = next(i for i, part in parts_of_run(store).items() if part == "test")
    rewrite(
        folder / "examples" / "examples.parquet",
        lambda e: e | ({"negative_ids": [held]} if e["part"] == "train" else {}),
    )


def call_a_training_query_held_out(folder: Path) -> None:
    store = tokay.open_run(folder)
    first = next(e.query_id for e in store.table("examples", "examples", Example) if e.part == "train")
    rewrite(folder / "generate" / "queries.parquet", lambda q: q | ({"part": "test"} if q["query_id"] == first else {}))


@pytest.mark.parametrize(
    ("tamper", "kinds"),
    [
        (hold_out_what_was_trained, {"passage", "side", "altered"}),
        (swap_sides, {"passage", "side", "altered"}),
        (train_on_a_held_out_query, {"query-copy"}),
        (name_a_held_out_negative, {"passage", "altered"}),
        (call_a_training_query_held_out, {"query", "side", "altered"}),
    ],
)
def test_a_run_that_leaks_prints_no_verdict(
    run: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tamper: Callable[[Path], None],
    kinds: set[str],
) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    sentence = tokay.open_run(out).read_json("evaluate", "verdict")["sentence"].partition(" (")[0][1:]
    assert sentence in (out / "report.html").read_text()
    tamper(out)
    for command in (("report", out), ("train", out, "--what", "reranker")):
        assert call(*command) == 1
        shown = said(capsys)
        assert "no verdict over a split that leaks: " in shown
        assert "again, which makes anew what does not fit" in shown
        assert sentence not in shown
    assert not (out / "rerank").exists()
    leak = json.loads((out / LEAK).read_text())
    assert leak["found"]
    assert kinds <= set(leak["counts"])
    assert set(leak["examples"]) == set(leak["counts"])
    assert all(example["item_id"] for examples in leak["examples"].values() for example in examples)
    html = (out / "report.html").read_text()
    assert sentence not in html
    assert "No verdict: something that it would be measured on was in training." in html
    assert leak["examples"][next(iter(leak["counts"]))][0]["item_id"] in html
    if tamper is swap_sides:
        assert call("train", out, "--keep-passages", "--out", tmp_path / "side") == 1
        assert "no verdict over a split that leaks: " in said(capsys)
        assert not (tmp_path / "side").exists()


def test_a_swapped_split_is_mended_by_the_run_itself(
    run: Path,  # noqa: F811
    material: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    before = sorted(tokay.open_run(out).table("split", "documents", Document), key=lambda d: d.document_id)
    swap_sides(out)
    words = ("--llm", f"recorded:{material / 'recording'}", "--base", tiny_base(), "--out", out, *FAST)
    assert call("distill", material / "docs.jsonl", *words) == 0
    shown = said(capsys)
    assert "split: done" in shown
    assert "train: unchanged" in shown
    assert "leakage: none found" in shown
    assert sorted(tokay.open_run(out).table("split", "documents", Document), key=lambda d: d.document_id) == before


def test_a_split_of_another_corpus_is_refused(run: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "run"
    shutil.copytree(run, out)
    table = pq.read_table(out / "split" / "documents.parquet")
    pq.write_table(table.slice(1), out / "split" / "documents.parquet")
    with pytest.raises(TokayError, match=r"/split gives no part to 'p00 > .*', so it is not the split of this corpus"):
        refuse(Run(out, writable=False))


def test_a_run_of_an_older_version_is_looked_at_anew(run: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "run"
    shutil.copytree(run, out)
    now = check_run(Run(out, writable=False))
    drop_tables(out, {"split": "copies", "train": "read"})
    before = check_run(Run(out, writable=False))
    assert before.leaks == now.leaks == []
    assert before.trainings["the embedder"] == now.trainings["the embedder"]
    assert leakage_sentence(Run(out, writable=False)) == before.sentence()
    assert {q.part for q in queries_of_run(Run(out, writable=False))} >= {"train", "dev", "test"}


def test_near_copies_among_queries_are_searched_once_for_each_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = []

    def counted(queries: Iterable[Query]) -> set[int]:
        searched.append(listed := list(queries))
        return repeating(listed)

    monkeypatch.setattr("tokay.leaking.repeating", counted)
    run = made_run(tmp_path / "run", until="generate")  # noqa: F811
    found = queries_of_run(run)
    assert queries_of_run(Run(run.path, writable=False)) == found == apart(run.table("generate", "queries", Query))
    assert len(searched) == 1
    held = next(q for q in found if q.part == "test")
    rows = [*found, dataclasses.replace(held, query_id="copy", part="train")]
    pq.write_table(to_table(Query, rows), run.path / "generate" / "queries.parquet")
    assert queries_of_run(run) == [*found, dataclasses.replace(held, query_id="copy", part="out")]
    assert len(searched) == 2


def test_a_users_own_queries_are_compared_with_those_of_training(
    run: Path,  # noqa: F811
    material: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = tokay.open_run(run)
    asked = [r.text for r in store.table("train", "read", Read) if r.role == "query" and "<" not in r.text]
    own = [asked[0].upper(), " ".join([*asked[1].split(), "please"]), "nothing of the kind was ever asked"]
    (tmp_path / "queries.tsv").write_text("".join(f"u{n}\t{text}\n" for n, text in enumerate(own)))
    (tmp_path / "qrels.tsv").write_text("".join(f"u{n} 0 p{n:02d} 1\n" for n in range(3)))
    out = tmp_path / "run"
    shutil.copytree(run, out)
    words = ("--llm", f"recorded:{material / 'recording'}", "--base", tiny_base(), "--out", out, *FAST)
    labels = ("--queries", tmp_path / "queries.tsv", "--qrels", tmp_path / "qrels.tsv")
    assert call("distill", material / "docs.jsonl", *words, *labels) == 0
    line = "Of 3 queries 1 stand word for word among those of training, and {} nearly"
    near = 1 if len(asked[1].split()) >= 4 else 0
    assert line.format(near) in said(capsys)
    assert line.format(near) in (out / "report.html").read_text()
    assert tokay.open_run(out).read_json("labels", "verdict")["in_training"]["equal"] == 1


def test_a_mixture_gives_nothing_that_is_held_out(
    run: Path,  # noqa: F811
    material: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [json.loads(line) for line in (material / "docs.jsonl").read_text().splitlines()[:-1]]
    pairs = [{"query": f"what is said on {row['_id']}", "positive": row["text"]} for row in rows]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (tmp_path / "mix.toml").write_text('[[source]]\nname = "own"\nkind = "pairs"\npath = "pairs.jsonl"\n')
    parts = parts_of_run(tokay.open_run(run))
    held = sum(part in ("test", "dev") for part in parts.values())
    words = ("--llm", f"recorded:{material / 'recording'}", "--base", tiny_base(), "--out", tmp_path / "run", *FAST)
    mixture = ("--set", f"train.mixture={tmp_path / 'mix.toml'}")
    assert call("distill", material / "docs.jsonl", *words, *mixture) == 0
    assert f"own: {held} rows hold held-out queries or passages, and are left out" in said(capsys)
