"""The stage: three tables, the same bytes every time."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tokay.corpus import open_corpus, write_corpus
from tokay.errors import TokayError
from tokay.progress import Silent
from tokay.records import Duplicate, Passage, Skipped, schema_of, sha256_text
from tokay.settings import CorpusSettings
from tokay.store import StageOutput

TEXT = " ".join(f"word{i}" for i in range(40))


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done = 0

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount

    def say(self, line: str) -> None:
        self.lines.append(line)


def write(spec: Path, out: Path, **settings: object) -> tuple[dict[str, list[dict]], Heard]:
    out.mkdir()
    heard = Heard()
    write_corpus(
        open_corpus(str(spec)),
        CorpusSettings(**settings),
        StageOutput(out),
        count_tokens=lambda text: len(text.split()),
        progress=heard,
    )
    assert sorted(p.name for p in out.iterdir()) == [
        "duplicates.parquet",
        "passages.parquet",
        "skipped.parquet",
    ]
    for name, record in (("passages", Passage), ("skipped", Skipped), ("duplicates", Duplicate)):
        assert pq.read_schema(out / f"{name}.parquet").equals(schema_of(record))
    return {p.stem: pq.read_table(p).to_pylist() for p in out.iterdir()}, heard


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


ROWS = (
    {"id": "a", "text": TEXT},
    {"id": "b", "text": TEXT},
    {"id": "c", "text": TEXT + " more"},
    {"id": "d", "text": "Something else."},
    {"id": "d", "text": "Not this."},
    {"id": "e"},
)


def test_three_tables_and_a_line(tmp_path):
    tables, heard = write(jsonl(tmp_path / "c.jsonl", *ROWS), tmp_path / "out")
    assert [(p["passage_id"], p["text"]) for p in tables["passages"]] == [
        ("a", TEXT),
        ("d", "Something else."),
    ]
    assert all(p["sha256"] == sha256_text(p["text"]) for p in tables["passages"])
    assert [(d["passage_id"], d["kept_id"], d["kind"]) for d in tables["duplicates"]] == [
        ("b", "a", "exact"),
        ("c", "a", "near"),
    ]
    assert [(s["source"], s["line"]) for s in tables["skipped"]] == [("c.jsonl", 5), ("c.jsonl", 6)]
    assert heard.lines == [
        "2 passages; dropped 1 exact and 1 near duplicates; 2 files or rows skipped, first: "
        "c.jsonl line 5: duplicate id 'd', first seen on line 4"
    ]
    assert heard.done == 4


@pytest.mark.parametrize("near", [0.9, 0.0])
def test_the_same_bytes_again(tmp_path, near):
    path = jsonl(tmp_path / "c.jsonl", *ROWS)
    for name in ("one", "two"):
        write(path, tmp_path / name, passage_tokens=16, near_duplicates=near)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_chunk_setting(tmp_path):
    path = jsonl(tmp_path / "c.jsonl", ROWS[0])

    def ids(name: str, **settings: object) -> list[str]:
        tables, _ = write(path, tmp_path / name, passage_tokens=16, **settings)
        return [p["passage_id"] for p in tables["passages"]]

    assert ids("auto") == ids("always", chunk="always") == ["a#0", "a#1", "a#2"]
    assert ids("never", chunk="never") == ["a"]


def test_beir_rows_stay_as_they_are_unless_asked(tmp_path):
    (tmp_path / "beir").mkdir()
    jsonl(tmp_path / "beir" / "corpus.jsonl", *({"_id": r["id"], **r} for r in ROWS[:3]))
    tables, _ = write(tmp_path / "beir", tmp_path / "auto", passage_tokens=16)
    assert [(p["passage_id"], p["text"]) for p in tables["passages"]] == [(r["id"], r["text"]) for r in ROWS[:3]]
    tables, _ = write(tmp_path / "beir", tmp_path / "always", passage_tokens=16, chunk="always")
    assert [p["passage_id"] for p in tables["passages"]] == ["a#0", "a#1", "a#2", "c#2"]


def test_zero_keeps_all(tmp_path):
    tables, _ = write(jsonl(tmp_path / "c.jsonl", *ROWS), tmp_path / "out", near_duplicates=0)
    assert [p["passage_id"] for p in tables["passages"]] == ["a", "b", "c", "d"]
    assert tables["duplicates"] == []


def test_passage_ids_are_unique(tmp_path):
    rows = ({"id": "a", "text": TEXT}, {"id": "a#1", "text": "Takes the name of a chunk."})
    tables, _ = write(jsonl(tmp_path / "c.jsonl", *rows), tmp_path / "out", passage_tokens=16)
    assert [p["passage_id"] for p in tables["passages"]] == ["a#0", "a#1", "a#2"]
    assert [s["reason"] for s in tables["skipped"]] == ["passage id 'a#1' is taken by an earlier passage"]


def test_offsets_of_a_folder(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text(f"# A\n\n{TEXT}\n\n## B\n\n{TEXT[::-1]}\n")
    documents = list(open_corpus(str(folder)).documents(lambda _: None))
    tables, _ = write(folder, tmp_path / "out", passage_tokens=16)
    assert {p["heading"] for p in tables["passages"]} == {"A", "A > B"}
    for passage in tables["passages"]:
        assert documents[0].text[passage["start"] : passage["end"]] == passage["text"]


def test_python_rows_lose_identical_texts_only(tmp_path, monkeypatch):
    texts = {"f": TEXT, "g": TEXT, "h": f"{TEXT} more"}
    (tmp_path / "pkgy.py").write_text("\n".join(f"def {name}(): {text!r}" for name, text in texts.items()))
    monkeypatch.syspath_prepend(str(tmp_path))
    tables, _ = write("python:pkgy", tmp_path / "out", passage_tokens=16, near_duplicates=0)
    assert [p["passage_id"] for p in tables["passages"]] == ["pkgy.f", "pkgy.h"]
    assert [(d["passage_id"], d["kept_id"]) for d in tables["duplicates"]] == [("pkgy.g", "pkgy.f")]


def test_nothing_usable(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TokayError, match=r"nothing usable in .*empty: looked for files \.txt .*; found none"):
        write(tmp_path / "empty", tmp_path / "out1")
    (tmp_path / "empty" / "a.txt").write_bytes(b"\0")
    with pytest.raises(TokayError, match=r"1 files or rows skipped, first: a.txt: binary file"):
        write(tmp_path / "empty", tmp_path / "out2")
    path = jsonl(tmp_path / "c.jsonl", {"id": 1})
    with pytest.raises(TokayError, match=r"rows with a column text, .*first: c.jsonl line 1: no text: found id"):
        write(path, tmp_path / "out3")


def test_many_skipped_and_many_passages_stream(tmp_path):
    rows = ({"id": i, "text": "" if i % 2 else f"text number {i} of many {i * 7}"} for i in range(4000))
    tables, heard = write(jsonl(tmp_path / "c.jsonl", *rows), tmp_path / "out")
    assert len(tables["passages"]) + len(tables["duplicates"]) == len(tables["skipped"]) == heard.done == 2000
