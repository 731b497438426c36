"""Splitting: nothing lost, nothing over the budget, offsets right."""

from __future__ import annotations

import itertools
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from tokay.corpus import Block, RawDocument, chunk, whole
from tokay.corpus.document import lay_out
from tokay.records import sha256_text

WORDS = st.text(alphabet="ab .!?\n\t\"')。漢字é", max_size=120)
BLOCKS = st.lists(
    st.builds(Block, text=WORDS, heading=st.sampled_from(["", "A", "A > B"]), page=st.integers(0, 1)),
    max_size=6,
).map(lay_out)
COUNTERS = st.sampled_from([lambda text: len(text.split()), len, lambda text: len(text.encode()) // 3 + 2])


def document(*blocks: Block, row_id: str = "") -> RawDocument:
    return RawDocument("d", "Title", "source", lay_out(blocks), row_id)


def words(text: str) -> int:
    return len(text.split())


@settings(max_examples=150, deadline=None)
@given(BLOCKS.filter(bool), st.integers(3, 40), COUNTERS)
def test_passages_cover_the_document_within_the_budget(blocks, budget, count_tokens):
    made = RawDocument("d", "t", "s", blocks)
    text, end = made.text, 0
    for number, passage in enumerate(chunk(made, budget=budget, count_tokens=count_tokens)):
        assert text[passage.start : passage.end] == passage.text
        assert text[end : passage.start].strip() == ""
        end = passage.end
        one_word = re.fullmatch(r"\S+", passage.text)
        assert count_tokens(passage.text) <= budget or one_word
        assert passage.passage_id == f"d#{number}"
        assert passage.sha256 == sha256_text(passage.text)
        block = next(b for b in blocks if b.start <= passage.start < b.start + len(b.text))
        last = next(b for b in blocks if b.start < passage.end <= b.start + len(b.text))
        assert (passage.heading, passage.page) == (block.heading, block.page) == (last.heading, last.page)
    assert text[end:].strip() == ""


@settings(max_examples=50, deadline=None)
@given(BLOCKS.filter(bool), st.integers(3, 40))
def test_neighbours_that_fit_are_put_together(blocks, budget):
    passages = list(chunk(RawDocument("d", "t", "s", blocks), budget=budget, count_tokens=words))
    text = RawDocument("d", "t", "s", blocks).text
    for one, other in itertools.pairwise(passages):
        if (one.heading, one.page) == (other.heading, other.page):
            first_word = re.match(r"\S+", other.text)
            assert first_word is not None
            assert words(text[one.start : other.end]) > budget


def test_paragraphs_then_sentences_then_words():
    text = "One two. Three four.\n\nFive six seven eight nine ten eleven."
    passages = chunk(document(Block(text)), budget=4, count_tokens=words)
    assert [p.text for p in passages] == ["One two. Three four.", "Five six seven eight", "nine ten eleven."]


def test_one_heading_and_one_page_per_passage():
    blocks = [
        Block("a", "H", 1),
        Block("b", "H", 1),
        Block("c", "H", 2),
        Block("d", "I", 2),
        Block("e", "H", 2),
    ]
    passages = list(chunk(document(*blocks), budget=50, count_tokens=words))
    assert [(p.text, p.heading, p.page) for p in passages] == [
        ("a\n\nb", "H", 1),
        ("c", "H", 2),
        ("d", "I", 2),
        ("e", "H", 2),
    ]
    assert {p.title for p in passages} == {"Title"}


def test_ids_of_rows():
    short = list(chunk(document(Block("one two"), row_id="r"), budget=5, count_tokens=words))
    assert [p.passage_id for p in short] == ["r"]
    long = list(chunk(document(Block("one two three"), row_id="r"), budget=2, count_tokens=words))
    assert [p.passage_id for p in long] == ["r#0", "r#1"]
    assert {p.document_id for p in long} == {"d"}


def test_whole():
    passage = whole(document(Block("one"), Block("two"), row_id="r"))
    assert (passage.passage_id, passage.text, passage.start, passage.end) == ("r", "one\n\ntwo", 0, 8)
    assert whole(document(Block("one"))).passage_id == "d"


def test_tokens_are_counted_a_bounded_number_of_times():
    counted = 0

    def count_tokens(text: str) -> int:
        nonlocal counted
        counted += len(text)
        return words(text)

    text = "word " * 20_000
    passages = list(chunk(document(Block(text)), budget=200, count_tokens=count_tokens))
    assert len(passages) == 100
    assert counted < 60 * len(text)
