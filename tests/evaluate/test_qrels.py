from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokay.errors import TokayError
from tokay.evaluate.qrels import Words, read_labels, write_beir
from tokay.records import Passage

KNOWN = {"p1", "p2"}


@pytest.fixture
def queries(tmp_path: Path) -> str:
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"_id": f"q{i}", "text": f"ask {i}"}) + "\n" for i in range(3)))
    return str(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("beir.tsv", "query-id\tcorpus-id\tscore\nq0\tp1\t1\nq1\tp2\t2\nq1\tgone\t1\nnone\tp1\t1\nq2\tp1\t0\n"),
        ("trec.txt", "q0 0 p1 1\nq1 Q0 p2 2\nq1 0 gone 1\nnone 0 p1 1\nq2 0 p1 0\n"),
    ],
)
def test_beir_and_trec_labels(queries: str, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    labels = read_labels(queries, str(tmp_path / name), known_ids=KNOWN)
    assert labels.qrels == {"q0": {"p1": 1}, "q1": {"p2": 2}}
    assert labels.queries == {"q0": "ask 0", "q1": "ask 1"}
    assert list(labels.dropped.values()) == [1, 1, 1]


def test_parquet_with_splits(tmp_path: Path) -> None:
    pq.write_table(pa.table({"_id": ["q0", "q1", "q2"], "text": ["a", "b", "c"]}), tmp_path / "q.parquet")
    rows = {
        "split": ["test", "test", "train"],
        "query_id": ["q0", "q1", "q2"],
        "corpus_id": ["p1"] * 3,
        "score": [1] * 3,
    }
    pq.write_table(pa.table(rows), tmp_path / "r.parquet")
    assert set(read_labels(str(tmp_path / "q.parquet"), str(tmp_path / "r.parquet"), known_ids=KNOWN).qrels) == {
        "q0",
        "q1",
    }
    (tmp_path / "q.tsv").write_text("q0\ta\nq1\tb\n")
    assert len(read_labels(str(tmp_path / "q.tsv"), str(tmp_path / "r.parquet"), known_ids=KNOWN).queries) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q0\tp1\n", r"line 1: expected query-id, corpus-id, score \(BEIR\)"),
        ("q0 0 p1 1\nq0 0 p1 high\n", r"line 2: .* got 'q0 0 p1 high'"),
        ("a b c\nx\ty\t1\n", r"0 queries have a relevant passage of this corpus"),
        ("", r"0 queries have a relevant passage"),
    ],
)
def test_labels_that_do_not_fit(queries: str, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.tsv").write_text(text)
    with pytest.raises(TokayError, match=message):
        read_labels(queries, str(tmp_path / "r.tsv"), known_ids=KNOWN)


def test_files_that_are_not_there_or_not_so(queries: str, tmp_path: Path) -> None:
    with pytest.raises(TokayError, match=r"--qrels .*none: there is no such file"):
        read_labels(queries, str(tmp_path / "none"), known_ids=KNOWN)
    with pytest.raises(TokayError, match=r"--queries is missing; --queries and --qrels come together"):
        read_labels("", queries, known_ids=KNOWN)
    (tmp_path / "q.csv").write_text("a")
    with pytest.raises(TokayError, match=r"expected a .jsonl, .tsv or .parquet file"):
        read_labels(str(tmp_path / "q.csv"), queries, known_ids=KNOWN)
    (tmp_path / "bad.jsonl").write_text('{"_id": 1}\n')
    with pytest.raises(TokayError, match=r"line 1: expected"):
        read_labels(str(tmp_path / "bad.jsonl"), queries, known_ids=KNOWN)
    pq.write_table(pa.table({"id": ["q"]}), tmp_path / "q.parquet")
    with pytest.raises(TokayError, match=r"has the columns id; missing: _id, text"):
        read_labels(str(tmp_path / "q.parquet"), queries, known_ids=KNOWN)


def test_a_beir_folder_is_read_back(tmp_path: Path) -> None:
    passages = [Passage(f"p{i}", "d", "t", "text ü", "", "") for i in (1, 2)]
    qrels = {"q0": {"p1": 3}, "q1": {"p2": 2, "p1": 0}}
    write_beir(tmp_path / "b", passages, {"q0": "a", "q1": "b"}, qrels, split="test")
    labels = read_labels(str(tmp_path / "b/queries.jsonl"), str(tmp_path / "b/qrels/test.tsv"), known_ids=KNOWN)
    assert (labels.qrels, labels.queries) == (qrels, {"q0": "a", "q1": "b"})
    assert json.loads((tmp_path / "b/corpus.jsonl").read_text().splitlines()[0]) == {
        "_id": "p1",
        "title": "t",
        "text": "text ü",
    }


def test_folders_are_looked_into(tmp_path: Path) -> None:
    passages = [Passage(i, "d", "t", "x", "", "") for i in ('a "b" c', "p2")]
    qrels = {"q0": {'a "b" c': 1}, "q1": {"p2": 1}}
    write_beir(tmp_path / "b", passages, {"q0": "a", "q1": "b"}, qrels, split="dev")
    for folder in (tmp_path / "b", tmp_path / "b/qrels"):
        known = {p.passage_id for p in passages}
        assert read_labels(str(tmp_path / "b"), str(folder), known_ids=known, split="dev").qrels == qrels
    with pytest.raises(TokayError, match=r"b has labels of the splits dev; expected 'test' among them$"):
        read_labels(str(tmp_path / "b"), str(tmp_path / "b"), known_ids=KNOWN)
    words = Words("--on", "--on", "--split")
    with pytest.raises(
        TokayError, match=r"^--split is 'dve', and .*b has labels of the splits dev; name one of these; "
    ):
        read_labels(str(tmp_path / "b"), str(tmp_path / "b"), known_ids=KNOWN, split="dve", words=words)
    (tmp_path / "b/qrels/dev.tsv").unlink()
    with pytest.raises(TokayError, match=r"^--on .*b: the folder has none of qrels/test.tsv, test.tsv"):
        read_labels(str(tmp_path / "b"), str(tmp_path / "b"), known_ids=KNOWN, words=words)


@pytest.mark.parametrize("grade", [1.5, None, "high"])
def test_a_grade_in_parquet_that_is_no_whole_number(queries: str, tmp_path: Path, grade: object) -> None:
    rows = {"query-id": ["q0", "q1"], "corpus-id": ["p1", "p2"], "score": [grade, None]}
    pq.write_table(pa.table(rows), tmp_path / "r.parquet")
    with pytest.raises(TokayError, match=r"row 1: expected a whole number as score, got"):
        read_labels(queries, str(tmp_path / "r.parquet"), known_ids=KNOWN)


def test_a_parquet_file_of_other_splits(queries: str, tmp_path: Path) -> None:
    rows = {"split": ["train", "dev"], "query_id": ["q0", "q1"], "corpus_id": ["p1", "p2"], "score": [1, 1]}
    pq.write_table(pa.table(rows), tmp_path / "r.parquet")
    with pytest.raises(TokayError, match=r"r.parquet has labels of the splits dev, train; expected 'test' among them"):
        read_labels(queries, str(tmp_path / "r.parquet"), known_ids=KNOWN)


def test_a_query_without_text_is_not_the_word_none(queries: str, tmp_path: Path) -> None:
    (tmp_path / "null.jsonl").write_text('{"_id": "q0", "text": null}\n')
    with pytest.raises(TokayError, match=r"line 1: expected"):
        read_labels(str(tmp_path / "null.jsonl"), queries, known_ids=KNOWN)
    pq.write_table(pa.table({"_id": ["q0", "q1"], "text": ["a", None]}), tmp_path / "null.parquet")
    with pytest.raises(TokayError, match=r"row 2: expected an _id and a text"):
        read_labels(str(tmp_path / "null.parquet"), queries, known_ids=KNOWN)


@pytest.mark.parametrize(
    ("known", "hint"),
    [({"p1#0", "p2#0"}, r"corpus split 'p1' into 'p1#0'.*--set corpus.chunk=never"), ({"faq:1"}, r"such as 'faq:1'")],
)
def test_ids_that_do_not_fit_are_shown(queries: str, tmp_path: Path, known: set[str], hint: str) -> None:
    (tmp_path / "r.tsv").write_text("q0\tp1\t1\nq1\tp2\t1\n")
    with pytest.raises(TokayError, match=hint):
        read_labels(queries, str(tmp_path / "r.tsv"), known_ids=known)
