"""Readers of tables: columns by convention, and every row that cannot be used is told of."""

from __future__ import annotations

import gzip
import json
import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokay.corpus import open_corpus
from tokay.errors import MissingExtra, TokayError
from tokay.records import Skipped


def write_lines(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


def test_jsonl_takes_columns_by_convention(tmp_path, read):
    path = write_lines(
        tmp_path / "a.jsonl",
        json.dumps({"body": "first", "name": "One", "url": "u1", "more": [1]}),
        json.dumps({"TEXT": "second", "subject": " Two\n x", "doc_id": 7}),
        json.dumps({"abstract": "third"}),
    )
    documents, skipped = read(path)
    assert [(d.document_id, d.row_id, d.title, d.text) for d in documents] == [
        ("u1", "u1", "One", "first"),
        ("7", "7", "Two x", "second"),
        ("a:3", "a:3", "", "third"),
    ]
    assert {d.source for d in documents} == {"a.jsonl"}
    assert skipped == []


def test_jsonl_says_which_lines_it_cannot_use_and_why(tmp_path, read):
    path = write_lines(
        tmp_path / "a.jsonl",
        b"\xef\xbb\xbf" + b'{"_id": "x", "text": "good"}',
        '{"text": ',
        '["text"]',
        '{"title": "no text"}',
        '{"text": "  "}',
        '{"text": null}',
        '{"text": ["a"]}',
        "",
        '{"_id": "x", "text": "again"}',
        b'{"text": "caf\xe9"}',
        "[" * 100_000,
        '{"text": ' + "9" * 10_000 + "}",
        '{"_id": "y", "text": "good too"}',
    )
    documents, skipped = read(path)
    assert [d.row_id for d in documents] == ["x", "y"]
    reasons = {s.line: s.reason for s in skipped}
    assert sorted(reasons) == [2, 3, 4, 5, 6, 7, 9, 10, 11, 12]
    assert reasons[2].startswith("not JSON: Expecting value at column")
    assert reasons[3] == "not a JSON object but of type list"
    assert reasons[4].startswith("no text: found title; expected one of text, body, content")
    assert reasons[5] == reasons[6] == "empty text"
    assert reasons[7] == "text is of type list, expected a string"
    assert reasons[9] == "duplicate id 'x', first seen on line 1"
    offset = path.read_bytes().index(b"\xe9")
    assert reasons[10] == f"not UTF-8: byte 0xe9 at offset {offset}; save the file as UTF-8"
    assert reasons[11].startswith("not JSON")
    assert {s.source for s in skipped} == {"a.jsonl"}


def test_control_characters_and_lone_surrogates_are_made_storable(tmp_path, read):
    path = write_lines(tmp_path / "a.jsonl", r'{"text": "\u0000a\r\nb\tc\ud800 \u0007d", "_id": "\udc00"}')
    documents, _ = read(path)
    assert documents[0].text == "a\nb\tc\ufffd d"
    assert documents[0].row_id == "\ufffd"


def test_gzip_and_its_damage(tmp_path, read):
    whole = gzip.compress(b"".join(b'{"text": "row %d"}\n' % i for i in range(5000)), mtime=0)
    (tmp_path / "a.jsonl.gz").write_bytes(whole)
    documents, skipped = read(tmp_path / "a.jsonl.gz")
    assert (len(documents), documents[0].row_id, skipped) == (5000, "a:1", [])
    (tmp_path / "b.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    documents, skipped = read(tmp_path / "b.jsonl.gz")
    assert 0 < len(documents) < 5000
    assert skipped[-1].reason.startswith("cannot be read on from here: ")
    (tmp_path / "c.jsonl.gz").write_bytes(b"no gzip")
    assert read(tmp_path / "c.jsonl.gz")[1][0].reason.startswith("cannot be read on from here: ")


def test_jsonl_is_not_loaded_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("w") as file:
        for i in range(5_000):
            file.write(json.dumps({"_id": i, "text": f"row {i} " + "word " * 200}) + "\n")
    tracemalloc.start()
    count = sum(1 for _ in open_corpus(str(path)).documents(lambda _: None))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 5_000
    assert peak < path.stat().st_size / 4  # what grows are the hashes of the ids


def test_a_huge_line_is_read(tmp_path, read):
    text = "word " * 200_000
    documents, _ = read(write_lines(tmp_path / "a.jsonl", json.dumps({"text": text})))
    assert len(documents[0].text) == len(text) - 1
    documents, _ = read(write_lines(tmp_path / "a.csv", "text", text))
    assert len(documents[0].text) == len(text) - 1


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "\t")])
def test_csv_and_its_delimiters(tmp_path, read, name, delimiter):
    lines = [["id", "Title", "content"], ["1", "One", '"two\nlines, quoted; ""so"""'], ["", "Two", "plain"]]
    path = write_lines(tmp_path / name, *(delimiter.join(line) for line in lines))
    documents, skipped = read(path)
    assert [(d.row_id, d.title, d.text) for d in documents] == [
        ("1", "One", 'two\nlines, quoted; "so"'),
        ("a:4", "Two", "plain"),
    ]
    assert skipped == []


def test_csv_says_which_rows_it_cannot_use(tmp_path, read):
    path = write_lines(
        tmp_path / "a.csv",
        b"\xef\xbb\xbfid,text",
        "1,one",
        "2",
        "3,",
        b'4,"caf\xe9',
        'still 4"',
        "1,again",
        "5,five",
    )
    documents, skipped = read(path)
    assert [d.row_id for d in documents] == ["1", "5"]
    assert [s.line for s in skipped] == [3, 4, 5, 7]
    assert skipped[0].reason.startswith("no text: found id")
    assert skipped[1].reason == "empty text"
    assert skipped[2].reason.startswith("not UTF-8: byte 0xe9 at offset")
    assert skipped[3].reason == "duplicate id '1', first seen on line 2"


def test_csv_of_another_encoding_is_skipped_whole(tmp_path, read):
    (tmp_path / "a.csv").write_bytes("id,text\n1,one\n".encode("utf-16"))
    documents, skipped = read(tmp_path / "a.csv")
    assert documents == []
    assert skipped == [Skipped("a.csv", 0, "not UTF-8: byte 0xff at offset 0; save the file as UTF-8")]


def test_csv_limit_is_given_back(tmp_path, read):
    import csv

    before = csv.field_size_limit()
    read(write_lines(tmp_path / "a.csv", "text", "x" * (before + 1)))
    assert csv.field_size_limit() == before


def test_parquet_and_its_empty_rows(tmp_path, read):
    table = pa.table({"docid": [1, 2, 3, 1], "passage": ["one", None, "", "again"], "vector": [[0.0]] * 4})
    pq.write_table(table, tmp_path / "a.parquet")
    documents, skipped = read(tmp_path / "a.parquet")
    assert [(d.row_id, d.text) for d in documents] == [("1", "one")]
    assert [(s.line, s.reason) for s in skipped] == [
        (2, "empty passage"),
        (3, "empty passage"),
        (4, "duplicate id '1', first seen on line 1"),
    ]


def test_a_broken_parquet_file_is_skipped(tmp_path, read):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    documents, skipped = read(tmp_path / "a.parquet")
    assert documents == []
    assert skipped[0].reason.startswith("cannot be read as Parquet: ")


def test_a_table_without_text_column_is_an_error(tmp_path, read):
    with pytest.raises(TokayError, match=r"a.csv has the columns id, txt; expected one of text, body.*rename"):
        read(write_lines(tmp_path / "a.csv", "id,txt", "1,one"))
    pq.write_table(pa.table({"x": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(TokayError, match=r"a.parquet has the columns x; expected one of"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_beir_folder(tmp_path, read, form):
    rows = [{"_id": "d1", "title": "T", "text": "one", "metadata": {"text": "x"}}]
    if form == "jsonl":
        write_lines(tmp_path / "corpus.jsonl", *map(json.dumps, rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "corpus.parquet")
    write_lines(tmp_path / "queries.jsonl", '{"_id": "q", "text": "query"}')
    source = open_corpus(str(tmp_path))
    assert (source.kind, source.keep_whole) == ("beir", True)
    documents, _ = read(tmp_path)
    assert [(d.document_id, d.row_id, d.title, d.text) for d in documents] == [("d1", "d1", "T", "one")]


def test_hub_dataset_of_a_local_folder(tmp_path, read):
    pytest.importorskip("datasets")
    for split, count in (("train", 2), ("test", 1)):
        write_lines(tmp_path / f"{split}.jsonl", *(f'{{"content": "{split} {i}", "id": {i}}}' for i in range(count)))
    source = open_corpus(f"hf:{tmp_path}")
    assert (source.kind, source.keep_whole) == ("hub", False)
    assert [d.text for d in read(f"hf:{tmp_path}")[0]] == ["train 0", "train 1"]
    assert [d.text for d in read(f"hf:{tmp_path}:test")[0]] == ["test 0"]
    with pytest.raises(TokayError, match=r"has no split 'dev'; expected one of train, test, as hf:"):
        read(f"hf:{tmp_path}:dev")
    before = source.fingerprint()
    write_lines(tmp_path / "test.jsonl", '{"content": "changed"}')
    assert source.fingerprint() != before


def test_hub_needs_its_extra(monkeypatch, read):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"needs the package 'datasets': pip install 'tokay\[hub\]'"):
        read("hf:some/name")


def test_what_is_no_corpus(tmp_path):
    with pytest.raises(TokayError, match=r"there is no file or folder nowhere; expected a folder.*hf:nowhere"):
        open_corpus("nowhere")
    with pytest.raises(TokayError, match=r"is a file of another kind; expected .* name their folder"):
        open_corpus(str(write_lines(tmp_path / "a.pdf", "x")))
    with pytest.raises(TokayError, match=r"names no dataset; expected hf:DATASET"):
        open_corpus("hf:")
    with pytest.raises(TokayError, match=r"names no package; expected python:PACKAGE"):
        open_corpus("python:a-b/c")
    with pytest.raises(TokayError, match=r"python:no_such_thing cannot be imported here"):
        open_corpus("python:no_such_thing")


def test_fingerprint_follows_the_documents(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", '{"text": "one"}')
    first = open_corpus(str(path)).fingerprint()
    assert open_corpus(str(path)).fingerprint() == first
    write_lines(path, '{"text": "two"}')
    assert open_corpus(str(path)).fingerprint() != first


def test_chunks_of_one_document_stay_together(tmp_path, read):
    path = write_lines(
        tmp_path / "a.jsonl",
        json.dumps({"_id": "c1", "doc_id": "manual", "text": "first"}),
        json.dumps({"_id": "c2", "doc_id": "manual", "text": "second"}),
        json.dumps({"doc_id": "other.pdf", "text": "third"}),
        json.dumps({"doc_id": "other.pdf", "text": "fourth"}),
    )
    documents, skipped = read(path)
    assert [(d.document_id, d.row_id) for d in documents] == [
        ("manual", "c1"),
        ("manual", "c2"),
        ("other.pdf", "other.pdf"),
        ("other.pdf", "other.pdf:4"),
    ]
    assert skipped == []


def test_csv_that_would_lose_text_is_told_of(tmp_path, read):
    path = write_lines(tmp_path / "a.csv", "id,text", "1,hello, world", "2,fine", '3,"never closed', "4,gone")
    documents, skipped = read(path)
    assert [d.row_id for d in documents] == ["2"]
    assert skipped[0].reason == "3 cells in a table of 2 columns; quote text that holds the delimiter"
    assert skipped[1].reason == "not CSV: unexpected end of data"
    (tmp_path / "mac.csv").write_bytes(b"id,text\r1,one\r")
    with pytest.raises(TokayError, match="first line that is not CSV"):
        read(tmp_path / "mac.csv")
