"""Batches: which rows, which texts, and the mask against a slow one that follows its description."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokay.errors import TokayError
from tokay.models.format import GECKO, InputFormat
from tokay.train.batches import Batch, BatchMaker, Draw, Row
from tokay.train.mixture import Source
from train_data import PASSAGES, judged, row, source

PLAIN = InputFormat("", "")


def draw(
    *sources: Source,
    batch_size: int = 8,
    epochs: int = 1,
    batching: Literal["one-source", "mixed"] = "one-source",
    seed: int = 0,
) -> Draw:
    return Draw(sources, batch_size, epochs, batching, seed)


def sized(name: str, size: int, **changes: Any) -> Source:
    return source(name, [row(i % 40, query_id=f"q{i}") for i in range(size)], **changes)


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
    sources = [sized(f"s{n}", size, weight=weights[n]) for n, size in enumerate(sizes)]
    if len(sources) > 1 and g(st.booleans()):
        sources[-1] = sized("shared", 20, share=0.25)
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
def test_one_source_a_batch_and_as_many_of_each_as_its_rows_need(d: Draw) -> None:
    d = dataclasses.replace(d, batching="one-source")
    found: Counter[str] = Counter()
    for batch in d.batches():
        (name,) = {s.name for s, _ in batch}
        found[name] += 1
        assert 2 * len(batch) >= min(d.batch_size, len(batch[0][0].rows))
    for s, rows in zip(d.sources, d.rows(), strict=True):
        assert found[s.name] == math.ceil(rows / min(d.batch_size, len(s.rows)))


@given(st.integers(2, 9), st.integers(1, 5), st.integers(1, 3), st.integers(0, 9))
def test_batches_that_fill_a_round_are_full_and_hold_each_row_once(
    size: int, batches: int, epochs: int, seed: int
) -> None:
    d = draw(sized("a", size * batches), batch_size=size, epochs=epochs, seed=seed)
    found = [ids(batch) for batch in d.batches()]
    assert all(len(batch) == size for batch in found)
    rounds = [sorted(itertools.chain(*found[at : at + batches])) for at in range(0, len(found), batches)]
    assert rounds == [sorted(f"a/q{i}" for i in range(size * batches))] * epochs


@given(st.integers(2, 8), st.integers(1, 4))
def test_a_source_smaller_than_a_batch_is_a_batch(size: int, epochs: int) -> None:
    batches = [ids(batch) for batch in draw(sized("a", size), batch_size=8, epochs=epochs).batches()]
    assert [sorted(batch) for batch in batches] == [sorted(f"a/q{i}" for i in range(size))] * epochs


@given(st.lists(st.integers(10, 40), min_size=1, max_size=3), st.integers(2, 10), st.integers(0, 9))
def test_mixed_batches_are_full_as_long_as_no_round_ends(sizes: list[int], batch_size: int, seed: int) -> None:
    sources = [sized(f"s{n}", 2 * size, weight=0.5) for n, size in enumerate(sizes)]  # a batch has at most 10
    d = draw(*sources, batch_size=batch_size, batching="mixed", seed=seed)
    found = list(d.batches())
    assert all(len(batch) == batch_size for batch in found)
    counts = Counter(s.name for batch in found for s, _ in batch)
    assert all(counts[s.name] >= rows for s, rows in zip(sources, d.rows(), strict=True))
    assert counts.total() - sum(d.rows()) < batch_size


@given(draws())
def test_rows_are_weight_times_size_and_a_share_of_the_sum(d: Draw) -> None:
    total = sum(d.rows())
    for s, rows in zip(d.sources, d.rows(), strict=True):
        expected = s.share * total if s.share else d.epochs * s.weight * len(s.rows)
        assert abs(rows - expected) <= 1


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


@pytest.mark.parametrize("batching", ["one-source", "mixed"])
def test_another_seed_is_another_order_of_rows_and_of_sources(batching: Any) -> None:
    found = [
        list(itertools.chain(*draw(source("a"), source("b"), seed=s, batching=batching).batches())) for s in (0, 1)
    ]
    first, second = (ids(rows) for rows in found)
    assert [name for name in first if name[0] == "a"] != [name for name in second if name[0] == "a"]
    assert [name[0] for name in first] != [name[0] for name in second]


def test_what_fills_the_last_mixed_batch_is_drawn_as_the_rest_is() -> None:
    sources = sized("a", 39), sized("b", 20, weight=0.05)
    draws = [draw(*sources, batch_size=24, batching="mixed", seed=seed) for seed in range(20)]
    mixes = [Counter(s.name for batch in d.batches() for s, _ in batch) for d in draws]
    assert sum(mix["b"] for mix in mixes) < 40  # one row in forty; eight more rows are drawn


def test_each_round_and_each_source_has_its_own_order() -> None:
    batches = [ids(batch) for batch in draw(sized("a", 8), sized("b", 8), epochs=2).batches()]
    orders = {tuple(name.split("/")[1] for name in batch) for batch in batches}
    assert len(orders) == len(batches) == 4


def test_sources_take_turns_by_chance() -> None:
    turns = [batch[0][0].name for batch in draw(source("a"), source("b"), batch_size=4).batches()]
    assert Counter(turns) == {"a": 10, "b": 10}
    assert turns != sorted(turns)


# -- what a row sees ------------------------------------------------------------------------------------------------


def pairs(rows: list[Row]) -> list[Row]:
    return [(s, e) for s, e in rows if not s.matched]


def slow(every: list[Row], *, mask: bool, everybodys: bool, tower: str) -> tuple[list[set[str]], list[set[int]]]:
    """Passages (by text) and queries (by row) in each row's denominator, by the words of ``BatchMaker.make``."""
    rows = pairs(every)
    passages, queries = [], []
    positive = [text(e.positive_id) for _, e in rows]
    for i, (s, e) in enumerate(rows):
        relevant = {text(p) for p in e.relevant_ids if p in PASSAGES} if mask else set()
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
    known = st.lists(passages | st.just("of another corpus"), max_size=3, unique=True)
    rows: list[Row] = []
    classes = {**{f"p{i}": "ab"[i % 2] for i in range(8)}, **{f"q{i}": "ab"[i % 2] for i in range(8)}}
    sources = [
        source("run"),
        source("more"),
        source("same", symmetric=True),
        source("classes", symmetric=True, labels=classes),
        source("kept", matched=True),
    ]
    for n in range(g(st.integers(2, 7))):
        s = g(st.sampled_from(sources))
        own = g(passages)
        if s.labels:
            e = row(int(own[1:]), query=f"class {n}")
            others = [p for p in (f"p{i}" for i in range(8)) if classes[p] != classes[own]]
            negatives = g(st.lists(st.sampled_from(others), min_size=1, max_size=2, unique=True))
            rows.append((s, dataclasses.replace(e, negative_ids=negatives)))
        else:
            query = g(st.sampled_from(["red", "green", "blue"]))
            e = row(int(own[1:]), query_id=f"{s.name}{n}", query=query, relevant_ids=[own, *g(known)])
            rows.append((s, dataclasses.replace(e, negative_ids=g(some))))
    return rows


@given(mixed_rows(), st.booleans(), st.booleans(), st.sampled_from(["symmetric", "always", "never"]))
def test_the_mask_is_the_slow_one(rows: list[Row], mask: bool, everybodys: bool, tower: Any) -> None:
    batch = make(*rows, mask_false_negatives=mask, all_negatives=everybodys, same_tower=tower)
    passages, queries = slow(rows, mask=mask, everybodys=everybodys, tower=tower)
    assert [seen(batch, i) for i in range(len(batch.query))] == passages
    sees = batch.allowed_queries
    found = [set(sees[i].nonzero().flatten().tolist()) if sees is not None else set() for i in range(len(batch.query))]
    assert found == queries
    for i, (_, e) in enumerate(pairs(rows)):
        own = {batch.texts[batch.passage[c]] for c in batch.hard[i].nonzero().flatten().tolist()}
        assert own == {text(n) for n in e.negative_ids} & seen(batch, i) - {text(e.positive_id)}
        assert batch.texts[batch.query[i]] == e.query
        assert batch.texts[batch.passage[batch.target[i]]] == text(e.positive_id)
        assert not batch.hard[i, batch.target[i]]


@given(mixed_rows(), st.integers(0, 4))
def test_each_distinct_text_is_there_once_and_none_for_nothing(rows: list[Row], candidates: int) -> None:
    batch = make(*rows, candidates=candidates)
    assert len(set(batch.texts)) == len(batch.texts)
    assert len(set(batch.passage.tolist())) == len(batch.passage)
    assert {*batch.query.tolist(), *batch.passage.tolist(), *batch.matched.tolist()} == set(range(len(batch.texts)))
    kept = [text(e.positive_id) for s, e in rows if s.matched]
    assert [batch.texts[i] for i in batch.matched.tolist()] == kept
    assert batch.rows == tuple(rows)


@given(mixed_rows(), st.randoms())
def test_the_order_of_rows_does_not_matter(rows: list[Row], chance: Any) -> None:
    order = list(range(len(pairs(rows))))
    chance.shuffle(order)
    there, here = (make(*some, all_negatives=True) for some in (pairs(rows), [pairs(rows)[i] for i in order]))
    assert [seen(there, i) for i in order] == [seen(here, n) for n in range(len(order))]
    if there.allowed_queries is not None:
        assert here.allowed_queries is not None
        assert torch.equal(there.allowed_queries[order][:, order], here.allowed_queries)


def test_a_row_sees_every_positive_and_its_own_negatives_and_by_choice_everybodys() -> None:
    rows = [(source(), row(i, negative_ids=[f"p{i + 10}", f"p{i + 20}"])) for i in range(2)]
    assert seen(make(*rows), 0) == {text("p0"), text("p1"), text("p10"), text("p20")}
    more = make(*rows, all_negatives=True)
    assert seen(more, 0) == {text(p) for p in ("p0", "p1", "p10", "p20", "p11", "p21")}
    assert more.hard.sum(1).tolist() == [2, 2]  # still its own


def test_what_was_judged_to_answer_is_no_negative_unless_it_shall_be() -> None:
    rows = [(source(), row(0, relevant_ids=["p0", "p1", "p9"], negative_ids=["p9"])), (source(), row(1))]
    masked, bare = make(*rows), make(*rows, mask_false_negatives=False)
    assert (seen(masked, 0), seen(masked, 1)) == ({text("p0")}, {text("p0"), text("p1")})
    assert seen(bare, 0) == {text("p0"), text("p1"), text("p9")}
    assert (int(masked.hard.sum()), int(bare.hard.sum())) == (0, 1)


def test_positives_of_one_query_hide_each_other_even_where_nothing_is_masked() -> None:
    rows = [(source(), row(i, query="which?")) for i in range(2)] + [(source(), row(2))]
    batch = make(*rows, mask_false_negatives=False, same_tower="always")
    assert [seen(batch, i) for i in range(2)] == [{text("p0"), text("p2")}, {text("p1"), text("p2")}]
    assert batch.allowed_queries is not None
    assert batch.allowed_queries.tolist() == [[False, False, True], [False, False, True], [True, True, False]]


def test_other_queries_are_seen_by_rows_of_symmetric_sources_or_by_all_or_by_none() -> None:
    rows = [(source(), row(0)), (source("same", symmetric=True), row(1)), (source(), row(2))]
    found = {tower: make(*rows, same_tower=tower).allowed_queries for tower in ("symmetric", "always", "never")}
    assert found["symmetric"] is not None
    assert found["symmetric"].tolist() == [[False] * 3, [True, False, True], [False] * 3]
    assert found["always"] is not None
    assert found["always"].tolist() == [[False, True, True], [True, False, True], [True, True, False]]
    assert found["never"] is None
    assert make(rows[0], rows[2]).allowed_queries is None


def test_a_query_whose_positive_answers_a_row_is_not_seen_by_it() -> None:
    same = source("same", symmetric=True)
    rows = [(same, row(0, relevant_ids=["p0", "p1"])), (same, row(1)), (same, row(2))]
    sees, bare = (make(*rows, mask_false_negatives=mask).allowed_queries for mask in (True, False))
    assert sees is not None
    assert sees.tolist() == [[False, False, True], [True, False, True], [True, True, False]]
    assert bare is not None
    assert bare.sum() == 6


def test_a_class_is_no_negative_of_itself_but_one_of_that_name_elsewhere_is() -> None:
    labels = {"q0": "a", "p0": "a", "q1": "a", "p1": "a", "q2": "a", "p2": "a", "p3": "b"}
    one, two = (source(name, symmetric=True, labels=labels) for name in ("one", "two"))
    rows = [*((one, row(i, negative_ids=["p3"])) for i in range(2)), (two, row(2))]
    batch = make(*rows, mask_false_negatives=False)
    assert [seen(batch, i) for i in range(3)] == [
        {text("p0"), text("p2"), text("p3")},
        {text("p1"), text("p2"), text("p3")},
        {text("p0"), text("p1"), text("p2")},
    ]
    assert batch.allowed_queries is not None
    assert batch.allowed_queries.tolist() == [[False, False, True], [False, False, True], [True, True, False]]


def test_equal_texts_under_two_ids_are_one_column() -> None:
    twins = Source("twins", [row(0), row(1)], {**PASSAGES, "p1": PASSAGES["p0"]})
    batch = make(*((twins, e) for e in twins.rows))
    assert len(batch.passage) == 1
    assert batch.allowed.tolist() == [[True], [True]]


def test_a_negative_with_the_text_of_the_positive_is_none() -> None:
    twins = Source("twins", [row(0, negative_ids=["p1"])], {**PASSAGES, "p1": PASSAGES["p0"]})
    batch = make((twins, twins.rows[0]))
    assert batch.allowed.tolist() == [[True]]
    assert batch.hard.tolist() == [[False]]


def test_gecko_writes_tasks_and_titles_and_a_symmetric_passage_as_a_query() -> None:
    rows = [
        (source(), row(0)),
        (source("same", symmetric=True), row(1, task="semantic similarity")),
        (source("facts"), row(2, task="fact checking")),
    ]
    texts = BatchMaker(GECKO).make(rows, 0).texts
    assert f"task: semantic similarity | query: {row(1).query}" in texts
    assert f"task: fact checking | query: {row(2).query}" in texts
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
    beside = make((source(), row(39)), (source(), e), candidates=most, step=step)
    there = [beside.texts[beside.passage[c]] for c in beside.candidates[1].tolist() if c >= 0]
    assert there == [batch.texts[batch.passage[c]] for c in listed]  # whatever else is in the batch


def test_each_step_and_each_seed_takes_other_candidates() -> None:
    def chosen(step: int, seed: int) -> frozenset[str]:
        batch = make((source(), judged(0)), candidates=2, step=step, seed=seed)
        return frozenset(batch.texts[batch.passage[c]] for c in batch.candidates[0].tolist())

    everything = {frozenset({text("p0"), text(p)}) for p in ("p3", "p7", "p11")}
    assert {chosen(step, 0) for step in range(20)} == everything
    assert {chosen(0, seed) for seed in range(20)} == everything


def test_rows_of_a_step_take_different_ones() -> None:
    rows = [(source(), judged(i)) for i in range(20)]
    batch = make(*rows, candidates=2)
    assert set(batch.grades[:, 1].tolist()) == {0, 1, 2}


def test_rows_without_a_judged_positive_list_nothing() -> None:
    unjudged = dataclasses.replace(judged(1), candidate_ids=["p8", "p12"], grades=[1, 0])
    batch = make((source(), judged(0)), (source(), unjudged), (source(), row(20)), candidates=3)
    assert (batch.candidates >= 0).sum(1).tolist() == [3, 0, 0]
    assert make((source(), judged(0))).candidates.shape == (1, 0)


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
    here = make((source("same", symmetric=True), row(0)), (source(), judged(1)), candidates=2)
    there = here.to(torch.device("meta"))
    for field in dataclasses.fields(Batch):
        before, after = getattr(here, field.name), getattr(there, field.name)
        if isinstance(before, torch.Tensor):
            assert (after.device.type, after.shape, after.dtype) == ("meta", before.shape, before.dtype)
        else:
            assert after == before


# -- what once went wrong -------------------------------------------------------------------------------------------


def pair(query: str, positive: str) -> Row:
    """Of a symmetric source whose texts are their names."""
    names = source("same", symmetric=True)
    texts = {name: ("", name) for name in "abcd"}
    e = row(0, query_id=query, query=query, positive_id=positive, relevant_ids=[positive])
    return dataclasses.replace(names, texts=texts), e


def test_the_text_of_a_positive_is_no_negative_as_another_rows_query() -> None:
    sees = make(pair("a", "b"), pair("b", "c")).allowed_queries
    assert sees is not None
    assert not sees.any()


def test_the_text_of_a_query_is_no_negative_as_another_rows_positive() -> None:
    batch = make(pair("a", "b"), pair("c", "a"))
    assert seen(batch, 0) == {"b"}
    assert seen(batch, 1) == {"a", "b"}


def test_a_text_in_two_sources_keeps_its_class_in_each() -> None:
    one = source("one", symmetric=True, labels={"q0": "a", "p0": "a", "q1": "a", "p1": "a", "p3": "b"})
    two = source("two", symmetric=True, labels={"q2": "m", "p2": "m", "p0": "n"})
    rows = [*((one, row(i, negative_ids=["p3"])) for i in range(2)), (two, row(2, negative_ids=["p0"]))]
    assert text("p0") not in seen(make(*rows, mask_false_negatives=False), 1)


def test_candidates_of_equal_text_are_listed_once() -> None:
    twins = Source("twins", [judged(0)], {**PASSAGES, "p3": PASSAGES["p0"]})
    batch = make((twins, judged(0)), candidates=4)
    listed = [c for c in batch.candidates[0].tolist() if c >= 0]
    assert len(listed) == len(set(listed)) == 3
    assert batch.grades[0, 0] == 3


@given(draws())
def test_batches_of_one_source_are_full_and_no_row_runs_ahead(d: Draw) -> None:
    d = dataclasses.replace(d, batching="one-source")
    counts: dict[str, dict[str, int]] = {s.name: {e.query_id: 0 for e in s.rows} for s in d.sources}
    for batch in d.batches():
        of = counts[batch[0][0].name]
        assert len(batch) == min(d.batch_size, len(of))
        for _, e in batch:
            of[e.query_id] += 1
        assert max(of.values()) - min(of.values()) <= 1 or len(batch) < len(of)
    for s, rows in zip(d.sources, d.rows(), strict=True):
        assert sum(counts[s.name].values()) >= rows
        assert max(counts[s.name].values()) - min(counts[s.name].values()) <= 1


@pytest.mark.parametrize("batching", ["one-source", "mixed"])
def test_no_source_is_without_rows(batching: Any) -> None:
    d = draw(sized("a", 1, weight=0.5), batching=batching)
    assert d.rows() == [1]
    assert len(list(d.batches())) == d.steps() == 1
