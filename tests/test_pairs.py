"""Pairs out of documents: which text stands under which name, and what is dropped and why."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tokay import cli
from tokay.errors import TokayError
from tokay.pairs import Pair, Tally, pairs_of, write_pairs
from tokay.progress import Silent
from tokay.records import Passage, sha256_text
from tokay.train.mixture import read_mixture


def passage(text: str, *, title: str = "", heading: str = "", document: str = "d", number: int = 0) -> Passage:
    return Passage(f"{document}#{number}", document, title, text, sha256_text(text), document, heading)


def pairs(*passages: Passage, docstrings: bool = False, repeats: int = 3) -> tuple[list[tuple[str, str, str]], Tally]:
    tally = Tally()
    found = list(pairs_of(passages, tally, docstrings=docstrings, repeats=repeats))
    assert sum(tally.kinds.values()) == len(found)
    return [(pair.query, pair.positive, pair.kind) for pair in found], tally


def test_the_innermost_heading_stands_over_its_text_and_is_cut_off_it():
    found, tally = pairs(
        passage("Backup guide\n\nBackups are made at night.", title="Backup guide", heading="Backup guide"),
        passage("On Linux\n\n**On Linux** a unit runs.", title="Backup guide", heading="Backup guide > 2.1 On Linux"),
        passage("On Linux-like systems it runs, too.", title="Backup guide", heading="Backup guide > On Linux"),
        passage("Backups are kept for a month.", title="Other guide", document="e"),
    )
    assert found == [
        ("Backup guide", "Backups are made at night.", "title"),
        ("On Linux", "a unit runs.", "title"),
        ("On Linux", "-like systems it runs, too.", "title"),
        ("Other guide", "Backups are kept for a month.", "title"),
    ]
    assert tally.dropped == {}


def test_a_name_that_is_everywhere_is_taken_with_what_stands_above_it():
    many = [
        passage(
            f"This is what guide {i} says.",
            title=f"Guide number {i}",
            heading=f"Guide number {i} > The introduction",
            document=f"d{i}",
        )
        for i in range(4)
    ]
    found, _ = pairs(*many)
    assert [query for query, *_ in found] == [f"Guide number {i}: The introduction" for i in range(4)]
    found, _ = pairs(*many[:3])
    assert [query for query, *_ in found] == ["The introduction"] * 3
    found, tally = pairs(*(passage(f"a text of number {i}", title="Same title", document=f"d{i}") for i in range(4)))
    assert found == []
    assert tally.dropped == {"titles over more than 3 different texts": 4}
    found, _ = pairs(
        *(passage(f"a text of number {i}", title="Same title", document=f"d{i}") for i in range(4)), repeats=4
    )
    assert len(found) == 4


def test_what_is_dropped_is_counted():
    found, tally = pairs(
        passage("some text without a title"),
        passage("some text below one word", title="Introduction", document="e"),
        passage("Short text: short text", title="Short text", document="f"),
        passage("the same text again", title="Same title", document="g"),
        passage("the same text again", title="Same title", document="h"),
        passage("the first piece of it", title="Long title", document="i"),
        passage("the second piece of it", title="Long title", document="i", number=1),
        passage("世界上最高的山峰", title="珠穆朗玛峰", document="j"),
    )
    assert [query for query, *_ in found] == ["Same title", "Long title", "珠穆朗玛峰"]
    assert tally.dropped == {
        "texts without a title": 1,
        "titles of fewer than 2 words": 1,
        "texts of fewer than 3 words": 1,
        "pairs that were there before": 1,
        "further passages of a section": 1,
    }


FAQ = """Ask us anything about the service.

**Who can see my files?**

Only you and those you invite.

They need an account.

2. Why is it slow?
The first run reads everything.

Q: Can I keep
a backup for ever?
A: Yes, mark it as permanent.
Is that clear? It should be.

Q2: Is it free? **A:** no idea what this is"""


def test_questions_in_the_text_have_what_follows_as_their_answers():
    found, tally = pairs(passage(FAQ, title="Questions and answers"))
    assert found == [
        ("Questions and answers", "Ask us anything about the service.", "title"),
        ("Who can see my files?", "Only you and those you invite.\n\nThey need an account.", "question"),
        ("Why is it slow?", "The first run reads everything.", "question"),
        ("Can I keep a backup for ever?", "Yes, mark it as permanent.\nIs that clear? It should be.", "question"),
    ]
    assert tally.kinds == {"question": 3, "title": 1}
    assert tally.dropped == {"texts of fewer than 3 words": 1}  # the last question has no line below it


def test_a_heading_that_asks_is_a_question_even_on_every_page():
    found, _ = pairs(
        *(
            passage(
                f"What is it?\n\nA service of kind {i}.",
                title=f"Product {i}",
                heading=f"Product {i} > What is it?",
                document=f"d{i}",
            )
            for i in range(4)
        )
    )
    assert found[0] == ("Product 0: What is it?", "A service of kind 0.", "question")


def test_a_docstring_loses_the_lines_that_repeat_its_name():
    found, tally = pairs(
        passage("dumps(obj) -> str\n\nSerialise an object as JSON.", title="json.dumps(obj, *, skipkeys=False)"),
        passage("Why use it? Because it is there.", title="json.load"),
        passage("S.find(sub) -> int\nS.find(sub, start) -> int\n\nLowest index of it.", title="str.find"),
        passage("only(x) -> what there is", title="mod.only"),
        passage("A module that does things.", title="json"),
        docstrings=True,
    )
    assert found == [
        ("json.dumps(obj, *, skipkeys=False)", "Serialise an object as JSON.", "docstring"),
        ("json.load", "Why use it? Because it is there.", "docstring"),
        ("str.find", "Lowest index of it.", "docstring"),
        ("mod.only", "only(x) -> what there is", "docstring"),
    ]
    assert tally.dropped == {"titles of fewer than 2 words": 1}


def test_an_iterator_gives_the_same_as_a_list():
    passages = [passage(f"this is text number {i}", title="Some title", document=f"d{i}") for i in range(3)]
    assert list(pairs_of(iter(passages), Tally())) == list(pairs_of(passages, Tally()))


# -- files ----------------------------------------------------------------------------------------------------------


def written(path: Path) -> list[Pair]:
    return [Pair(**row) for row in pq.read_table(path).to_pylist()]


def test_corpora_and_pair_files_are_merged_and_can_be_merged_again(tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text(
        "# Backup guide\n\nThey are made at night.\n\n## How do I restore a file?\n\nPress restore, then wait.\n"
    )
    lines = [
        {"question": "How do I restore a file?", "answer": "Press restore, then wait."},
        {"question": "where is it?", "answer": ["where is it? It is over there.", "Look in the other room."]},
        {"question": "where is it?"},
        {"question": " ", "answer": "something long enough"},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\nnot json\n")
    out = tmp_path / "pairs.parquet"
    tally = write_pairs([str(docs), str(tmp_path / "p.jsonl")], out)
    assert [(p.query, p.positive, p.kind, p.source) for p in written(out)] == [
        ("Backup guide", "They are made at night.", "title", "a.md#0"),
        ("How do I restore a file?", "Press restore, then wait.", "question", "a.md#1"),
        ("where is it?", "It is over there.", "pair", "p.jsonl:2"),
        ("where is it?", "Look in the other room.", "pair", "p.jsonl:2"),
    ]
    assert tally.dropped == {
        "pairs that were there before": 1,
        "rows whose positive is missing": 1,
        "rows whose query is empty": 1,
        "rows that cannot be read": 1,
    }
    again = tmp_path / "again.parquet"
    tally = write_pairs([str(out)], again)
    assert written(again) == written(out)
    assert not tally.dropped
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.parquet", "docs", "p.jsonl", "pairs.parquet"]


def test_a_table_of_titles_and_texts_is_a_corpus(tmp_path):
    (tmp_path / "c.csv").write_text("title,text\nFirst title,the text below it\n")
    write_pairs([str(tmp_path / "c.csv")], tmp_path / "o.parquet")
    assert [(p.query, p.kind) for p in written(tmp_path / "o.parquet")] == [("First title", "title")]


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_a_table_that_is_read_as_a_corpus_is_told(tmp_path):
    (tmp_path / "c.csv").write_text("title,passage,query\nFirst title,the text below it,how so\n")
    (tmp_path / "p.csv").write_text("query,positive\nwhere is it,it is over there\n")
    heard = Heard()
    write_pairs([str(tmp_path / "c.csv"), str(tmp_path / "p.csv")], tmp_path / "o.parquet", progress=heard)
    assert [line for line in heard.lines if ".csv" in line] == [
        "c.csv has the columns title, passage, query and is read as a corpus of documents; pairs have a column query, "
        "question or anchor and one of positive, answer, body or text"
    ]


def test_bytes_that_are_no_text_are_not_called_empty(tmp_path):
    (tmp_path / "b.csv").write_bytes(bytes([0x9C, 0xFF, 0x0A]) + bytes(range(128, 256)))
    message = (
        r"^b.csv line 1: not UTF-8: byte 0x9c at offset 0; save the file as UTF-8; expected a line of column names, "
        "then rows$"
    )
    with pytest.raises(TokayError, match=message):
        write_pairs([str(tmp_path / "b.csv")], tmp_path / "o.parquet")
    (tmp_path / "e.csv").write_bytes(b"\n\n")
    with pytest.raises(TokayError, match=r"^e.csv is empty; expected a line of column names, then rows$"):
        write_pairs([str(tmp_path / "e.csv")], tmp_path / "o.parquet")
    (tmp_path / "r.csv").write_bytes(b"query,po\rsitive\na,b\n")
    with pytest.raises(TokayError, match=r"^r.csv has a first line that is not CSV \(new-line .*; expected a line of"):
        write_pairs([str(tmp_path / "r.csv")], tmp_path / "o.parquet")


def test_out_is_looked_at_before_anything_is_read(tmp_path, monkeypatch):
    (tmp_path / "p.csv").write_text("query,positive\nwhere is it,it is over there\n")
    source, out = str(tmp_path / "p.csv"), tmp_path / "o.parquet"

    def read(*_):
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr("tokay.pairs._drafts_of", read)
        with pytest.raises(TokayError, match=r"^--out /proc/o.parquet cannot be written: "):
            write_pairs([source], Path("/proc/o.parquet"))
        out.write_text("something")
        with pytest.raises(TokayError, match=r"^--out .*o.parquet is there already; name another file, or delete it$"):
            write_pairs([source], out)
    assert out.read_text() == "something"


def test_the_mixture_reads_what_is_written(tmp_path):
    (tmp_path / "p.csv").write_text("query,positive\nwhere is it,it is over there\nhow is it,it is very well\n")
    write_pairs([str(tmp_path / "p.csv")], tmp_path / "pairs.parquet")
    (tmp_path / "m.toml").write_text('[[source]]\nname = "own"\nkind = "pairs"\npath = "pairs.parquet"\n')
    (source,) = read_mixture(tmp_path / "m.toml")
    assert [row.query for row in source.rows] == ["where is it", "how is it"]


def test_nothing_is_written_where_nothing_is_found_or_asked_for_the_wrong_thing(tmp_path):
    (tmp_path / "p.csv").write_text("query,positive\na,b\n")
    source = str(tmp_path / "p.csv")
    with pytest.raises(TokayError, match=r"not one pair in .*dropped: 1 titles of fewer than 2 words"):
        write_pairs([source], tmp_path / "o.parquet")
    with pytest.raises(TokayError, match=r"is no Parquet file"):
        write_pairs([source], tmp_path / "o.csv")
    with pytest.raises(TokayError, match=r"there is no folder"):
        write_pairs([source], tmp_path / "no" / "o.parquet")
    with pytest.raises(TokayError, match=r"there is no file or folder"):
        write_pairs([str(tmp_path / "gone")], tmp_path / "o.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]
    (tmp_path / "in.parquet").touch()
    with pytest.raises(TokayError, match=r"one of the files that are read"):
        write_pairs([str(tmp_path / "in.parquet")], tmp_path / "in.parquet")


def test_the_command_prints_what_it_kept_and_dropped(tmp_path, monkeypatch, capsys):
    (tmp_path / "p.csv").write_text("query,positive\nwhere is it,it is over there\na,b\n")
    monkeypatch.setattr(
        sys, "argv", ["tokay", "pretrain-pairs", str(tmp_path / "p.csv"), "--out", str(tmp_path / "o.parquet")]
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    said = " ".join(capsys.readouterr().out.split())
    assert "1 pairs of kind pair 1 dropped: titles of fewer than 2 words pairs:" in said
