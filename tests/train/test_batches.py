"""Batches: which rows, which texts, and the mask against a slow one that follows its description."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokay.errors import TokayError
from tokay.models.format import GECKO, InputFormat
from tokay.records import Example
from tokay.train.batches import Batch, BatchMaker, Draw, Row
from tokay.train.mixture import Source
from train_data import PASSAGES, judged, row, source

PLAIN = InputFormat("", "")


def draw(*sources: Source, **changes: Any) -> Draw:
    options = {"batch_size": 8, "epochs": 1, "batching": "one-source", "seed": 0} | changes
    return Draw(sources, **options)


def ids(batch: list[Row]) -> list[str]:
    return [f"{s.name}/{e.query_id}" for s, e in batch]


def make(*rows: Row, step: int = 0, **options: Any) -> Batch:
    return BatchMaker(PLAIN, **options).make(rows, step)


def seen(batch: Batch, i: int) -> set[str]:
    """Passages in the denominator of row i."""
    return {batch.texts[batch.passage[c]] for c in range(len(batch.passage)) if batch.allowed[i, c]}


def text(passage_id: str) -> str:
    return " ".join(PASSAGES[passage_id])


# -- which rows -----------------------------------------------------------------------------------------------------


@st.composite
def draws(g: st.DrawFn) -> Draw:
    sizes = g(st.lists(st.integers(2, 30), min_size=1, max_size=3))
    weights = g(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=3, max_size=3))
    sources = [
        source(f"s{n}", [row(i % 40, query_id=f"q{i}") for i in range(size)], weight=weights[n])
        for n, size in enumerate(sizes)
    ]
    if len(sources) > 1 and g(st.booleans()):
        sources[-1] = source("shared", [row(i) for i in range(20)], share=0.25)
    return draw(
        *sources,
        batch_size=g(st.integers(2, 16)),
        epochs=g(st.integers(1, 3)),
        batching=g(st.sampled_from(["one-source", "mixed"])),
        seed=g(st.integers(0, 99)),
    )


@given(draws())
def test_batches_are_as_many_as_said_distinct_and_the_same_again(d: Draw) -> None:
    found = [ids(batch) for batch in d.batches()]
    assert len(found) == d.steps()
    assert found == [ids(batch) for batch in d.batches()]
    assert all(len(set(batch)) == len(batch) <= d.batch_size for batch in found)


@given(draws(), st.integers(0, 10))
def test_a_training_that_goes_on_sees_what_it_would_have_seen(d: Draw, start: int) -> None:
    whole = [ids(batch) for batch in d.batches()]
    assert [ids(batch) for batch in d.batches(start)] == whole[start:]


@given(draws())
def test_every_row_comes_once_before_any_comes_twice(d: Draw) -> None:
    counts: dict[str, Counter[str]] = {}
    for s, e in itertools.chain.from_iterable(d.batches()):
        counts.setdefault(s.name, Counter())[e.query_id] += 1
    for s, wanted in zip(d.sources, d.rows(), strict=True):
        found = [counts.get(s.name, Counter())[e.query_id] for e in s.rows]
        assert max(found) - min(found) <= 2  # a batch over the end of a round keeps one of what it draws twice
        assert min(found) >= wanted // len(s.rows) - 1


@given(draws())
def test_one_source_a_batch(d: Draw) -> None:
    if d.batching != "one-source":
        return
    for batch in d.batches():
        assert len({s.name for s, _ in batch}) == 1
        assert 2 * len(batch) >= min(d.batch_size, len(batch[0][0].rows))


def test_shares_are_of_all_rows_and_weights_of_their_own() -> None:
    d = draw(source("a"), source("b", weight=0.5), source("c", share=0.25), epochs=2)
    assert d.rows() == [80, 40, 40]


def test_shares_alone_have_no_measure() -> None:
    with pytest.raises(TokayError, match="give one of them a weight"):
        draw(source("a", share=0.5)).rows()


def test_mixed_batches_hold_every_source_by_its_weight() -> None:
    d = draw(source("a"), source("b"), batching="mixed", batch_size=20)
    mixes = [Counter(s.name for s, _ in batch) for batch in d.batches()]
    assert all(min(mix["a"], mix["b"]) >= 3 for mix in mixes)
    assert sum(mix["a"] for mix in mixes) == 40


def test_another_seed_is_another_order() -> None:
    first, second = (next(draw(source(), seed=seed).batches()) for seed in (0, 1))
    assert ids(first) != ids(second)


# -- what a row sees ------------------------------------------------------------------------------------------------


def slow(rows: list[Row], *, mask: bool, everybodys: bool, tower: str) -> tuple[list[set[str]], list[set[int]]]:
    """Passages (by text) and queries (by row) in each row's denominator, by the words of ``BatchMaker.make``."""
    passages, queries = [], []
    positive = [text(e.positive_id) for _, e in rows]
    for i, (s, e) in enumerate(rows):
        relevant = {text(p) for p in e.relevant_ids} if mask else set()
        answers = relevant | {positive[j] for j, (_, other) in enumerate(rows) if other.query == e.query}
        label = s.labels.get(e.query_id)
        same_class = {
            text(p)
            for other, o in rows
            for p in (o.positive_id, *o.negative_ids)
            if label is not None and other.name == s.name and other.labels.get(p) == label
        }
        there = set(positive) | {text(n) for n in e.negative_ids}
        if everybodys:
            there |= {text(n) for _, o in rows for n in o.negative_ids}
        passages.append((there - answers - same_class) | {positive[i]})
        sees = tower == "always" or (tower == "symmetric" and s.symmetric)
        queries.append(
            {
                j
                for j, (other, o) in enumerate(rows)
                if sees
                and o.query != e.query
                and positive[j] not in answers | same_class
                and not (label is not None and other.name == s.name and other.labels.get(o.query_id) == label)
            }
        )
    return passages, queries


@st.composite
def mixed_rows(g: st.DrawFn) -> list[Row]:
    """Rows over few passages and few queries, so that they meet."""
    passages = st.sampled_from([f"p{i}" for i in range(8)])
    some = st.lists(passages, max_size=3, unique=True)
    rows: list[Row] = []
    classes = {**{f"p{i}": "ab"[i % 2] for i in range(8)}, **{f"q{i}": "ab"[i % 2] for i in range(8)}}
    sources = [source("run"), source("same", symmetric=True), source("classes", symmetric=True, labels=classes)]
    for n in range(g(st.integers(2, 7))):
        s = g(st.sampled_from(sources))
        own = g(passages)
        if s.labels:
            e = row(int(own[1:]), query=f"class {n}")
            other = g(passages.filter(lambda p, own=own: classes[p] != classes[own]))
            rows.append((s, Example(**{**vars_of(e), "negative_ids": [other]})))
        else:
            query = g(st.sampled_from(["red", "green", "blue"]))
            e = row(int(own[1:]), query_id=f"{s.name}{n}", query=query, relevant_ids=[own, *g(some)])
            rows.append((s, Example(**{**vars_of(e), "negative_ids": g(some)})))
    return rows


def vars_of(e: Example) -> dict[str, Any]:
    return {name: getattr(e, name) for name in e.__dataclass_fields__}


@given(mixed_rows(), st.booleans(), st.booleans(), st.sampled_from(["symmetric", "always", "never"]))
def test_the_mask_is_the_slow_one(rows: list[Row], mask: bool, everybodys: bool, tower: Any) -> None:
    batch = make(*rows, mask_false_negatives=mask, all_negatives=everybodys, same_tower=tower)
    passages, queries = slow(rows, mask=mask, everybodys=everybodys, tower=tower)
    assert [seen(batch, i) for i in range(len(rows))] == passages
    sees = batch.allowed_queries
    found = [set(sees[i].nonzero().flatten().tolist()) if sees is not None else set() for i in range(len(rows))]
    assert found == queries
    for i, (_, e) in enumerate(rows):
        own = {batch.texts[batch.passage[c]] for c in batch.hard[i].nonzero().flatten().tolist()}
        assert own <= {text(n) for n in e.negative_ids} & seen(batch, i)
        assert batch.texts[batch.query[i]] == e.query
        assert batch.texts[batch.passage[batch.target[i]]] == text(e.positive_id)
        assert not batch.hard[i, batch.target[i]]


@given(mixed_rows())
def test_each_distinct_text_is_there_once(rows: list[Row]) -> None:
    batch = make(*rows)
    assert len(set(batch.texts)) == len(batch.texts)
    assert len(set(batch.passage.tolist())) == len(batch.passage)


def test_equal_texts_under_two_ids_are_one_column() -> None:
    twins = Source("twins", [row(0), row(1)], {**PASSAGES, "p1": PASSAGES["p0"]})
    batch = make(*((twins, e) for e in twins.rows))
    assert len(batch.passage) == 1
    assert batch.allowed.tolist() == [[True], [True]]


def test_gecko_writes_tasks_and_titles_and_a_symmetric_passage_as_a_query() -> None:
    rows = [(source(), row(0)), (source("same", symmetric=True), row(1, task="semantic similarity"))]
    texts = BatchMaker(GECKO).make(rows, 0).texts
    assert f"title: {PASSAGES['p0'][0]} | text: {PASSAGES['p0'][1]}" in texts
    assert f"task: semantic similarity | query: {text('p1')}" in texts
    assert f"task: search result | query: {row(0).query}" in texts


# -- candidates, matched texts --------------------------------------------------------------------------------------


@given(st.integers(0, 39), st.integers(2, 5), st.integers(0, 5))
def test_candidates_are_the_positive_and_some_others_with_their_grades(i: int, most: int, step: int) -> None:
    e = judged(i)
    batch = make((source(), e), candidates=most, step=step)
    listed = [c for c in batch.candidates[0].tolist() if c >= 0]
    assert listed[0] == batch.target[0]
    assert len(listed) == len(set(listed)) == min(most, 4)
    grades = {text(p): g for p, g in zip(e.candidate_ids, e.grades, strict=True)}
    for c, grade in zip(listed, batch.grades[0].tolist(), strict=False):
        assert grades[batch.texts[batch.passage[c]]] == grade
    again = make((source(), e), candidates=most, step=step)
    assert torch.equal(batch.candidates, again.candidates)


def test_a_candidate_that_is_no_negative_is_not_seen_as_one() -> None:
    batch = make((source(), judged(0)), (source(), row(20)), candidates=4)
    assert seen(batch, 0) == {text("p0"), text("p7"), text("p20")}  # its own hard negative, not all candidates
    assert (batch.candidates[1] == -1).all()


def test_matched_texts_stand_beside_the_pairs() -> None:
    kept = source("general", matched=True)
    batch = make((source(), row(0)), (source(), row(1)), (kept, row(5)))
    assert len(batch.query) == 2
    assert [batch.texts[i] for i in batch.matched.tolist()] == [text("p5")]
    assert text("p5") not in seen(batch, 0)


def test_a_batch_of_matched_texts_alone_has_no_rows() -> None:
    batch = make((source("general", matched=True), row(5)))
    assert (len(batch.query), len(batch.passage), len(batch.matched)) == (0, 0, 1)


def test_moving_a_batch_moves_its_tensors() -> None:
    batch = make((source(), row(0)), (source(), row(1))).to(torch.device("meta"))
    assert batch.allowed.device.type == batch.query.device.type == "meta"
    assert batch.texts
