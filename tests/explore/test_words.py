"""Text search: whatever is typed is a query, and a text is found by its own words."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokay.explore.words import indexed, match_of


def found(text: str, said: str) -> bool:
    db = sqlite3.connect(":memory:")
    db.execute("CREATE VIRTUAL TABLE w USING fts5(words, content='', tokenize=\"unicode61 remove_diacritics 2\")")
    db.execute("INSERT INTO w (rowid, words) VALUES (1, ?)", [indexed(text)])
    match = match_of(said)
    return bool(match and db.execute("SELECT rowid FROM w WHERE w MATCH ?", [match]).fetchall())


@pytest.mark.parametrize(
    ("said", "there"),
    [
        ("csv", True),
        ("CSV read", True),
        ("dict", True),  # the last word is a beginning
        ("dict csv", False),
        ('"dict" read', False),
        ("csv.dictreader", True),
        ('"read a file"', True),
        ('"a read file"', False),
        ("naive", True),
        ("xml", False),
        ("NEAR(csv OR *", False),
        ('"', False),
        ("* ^ - : ( )", False),
    ],
)
def test_words_phrases_and_beginnings(said: str, there: bool) -> None:
    assert found("csv.DictReader: read a file, naïve NEAR or", said) is there


@pytest.mark.parametrize(
    ("said", "there"), [("検索", True), ("索検", False), ("日本", True), ("本 全文", True), ("中国", False)]
)
def test_languages_without_blanks(said: str, there: bool) -> None:
    assert found("全文検索と日本語の文", said) is there


@given(st.text(max_size=60), st.text(max_size=60))
def test_whatever_is_typed_is_a_query(text: str, said: str) -> None:
    found(text, said)


@given(st.lists(st.text("abcxyzäß日本", min_size=1, max_size=6), min_size=1, max_size=6))
def test_a_text_is_found_by_its_own_words(words: list[str]) -> None:
    text = " ".join(words)
    assert found(f"before {text} after", text)
    assert found(f"before {text} after", f'"{text}"')
