from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokay.errors import TokayError
from tokay.records import Passage
from tokay.settings import SplitSettings
from tokay.split import is_seen, parts_of, seen_share, split_documents


def passages(sizes: list[int], *, heading: str = "") -> list[Passage]:
    return [
        Passage(f"d{d}#{i}", f"d{d}", "", "text", "", "", heading=heading and f"{heading} {i} > sub")
        for d, size in enumerate(sizes)
        for i in range(size)
    ]


@given(st.lists(st.integers(1, 30), min_size=10, max_size=60), st.integers(0, 99), st.randoms())
def test_documents_are_never_cut_and_order_does_not_matter(sizes: list[int], seed: int, random) -> None:  # type: ignore[no-untyped-def]
    corpus = passages(sizes)
    settings = SplitSettings(seed=seed)
    documents = split_documents(corpus, settings)
    random.shuffle(corpus)
    assert split_documents(corpus, settings) == documents
    parts = parts_of(documents, corpus)
    assert all(len({parts[p.passage_id] for p in corpus if p.document_id == d.document_id}) == 1 for d in documents)
    assert sum(d.passages for d in documents) == sum(sizes)


def test_shares_are_about_what_was_asked() -> None:
    corpus = passages([7] * 100)
    sizes = Counter(parts_of(split_documents(corpus, SplitSettings(test_share=0.2, dev_share=0.1)), corpus).values())
    assert 0.17 <= sizes["test"] / 700 <= 0.23
    assert 0.08 <= sizes["dev"] / 700 <= 0.13


def test_few_documents_are_split_by_section() -> None:
    corpus = passages([40], heading="Chapter")
    documents = split_documents(corpus, SplitSettings())
    assert len(documents) == 40
    assert {d.part for d in documents} == {"train", "dev", "test"}
    assert set(parts_of(documents, corpus)) == {p.passage_id for p in corpus}


def test_too_little_to_split() -> None:
    with pytest.raises(TokayError, match=r"2 passages or sections are too few to hold one out"):
        split_documents(passages([2]), SplitSettings())


def test_queries_of_training_documents_are_held_out_by_their_ids_alone() -> None:
    settings = SplitSettings(seen_share=0.1)
    assert [seen_share(n, settings) for n in (0, 99, 100, 1000, 3000)] == [0, 0, 0.1, 0.1, 0.1]
    assert seen_share(30_000, settings) == pytest.approx(0.01)
    assert seen_share(1000, SplitSettings(seen_share=0)) == 0
    ids = [f"q{i}" for i in range(5000)]
    held = {i for i in ids if is_seen(i, 0.1, settings)}
    assert 420 <= len(held) <= 580
    assert held == {i for i in reversed(ids) if is_seen(i, 0.1, settings)}
    assert {i for i in ids if is_seen(i, 0.05, settings)} < held
    assert {i for i in ids if is_seen(i, 0.1, SplitSettings(seed=1))} != held
    assert not any(is_seen(i, 0, settings) for i in ids)
