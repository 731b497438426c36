from __future__ import annotations

from pathlib import Path

import pytest

from tokay.errors import TokayError
from tokay.records import Judgment
from tokay.searchlog import answered_by, read_log


def test_equal_queries_are_one_and_counted(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("\ufeffsort a list\n\nopen  a file\nSort a  LIST\n\tsort a list \n")
    queries = list(read_log(tmp_path / "log.txt"))
    assert [(q.query_id, q.text, q.answer_id, q.seed_id) for q in queries] == [
        ("log#1", "sort a list", "log.txt line 1, 3 times", ""),
        ("log#3", "open a file", "log.txt line 3, 1 times", ""),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "has no query"), (b"\n \n", "has no query"), (b"caf\xe9", r"is not UTF-8: .* at byte 3")],
)
def test_logs_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "log.txt").write_bytes(content)
    with pytest.raises(TokayError, match=message):
        list(read_log(tmp_path / "log.txt"))


def test_a_query_goes_where_its_answer_is_and_a_gap_nowhere(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("one\ntwo\nthree\n")
    queries = list(read_log(tmp_path / "log.txt"))
    judgments = [
        Judgment("log#1", "a", 2, 2.0, False, "", ""),
        Judgment("log#1", "b", 3, 3.0, True, "", ""),
        Judgment("log#2", "a", 1, 1.0, True, "", ""),
    ]
    found = answered_by(queries, judgments, {"a": "train", "b": "test"})
    assert [(q.query_id, q.part, part) for q, part in found] == [
        ("log#1", "test", "test"),
        ("log#2", "train", None),
        ("log#3", "train", None),
    ]
