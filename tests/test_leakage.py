from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokay.copies import apart
from tokay.examples import make_examples
from tokay.leakage import Leakage, find_leaks, in_training, overlap_of, reads_of, without_held_out
from tokay.records import Candidate, Example, Judgment, Part, Query, Read
from tokay.settings import ExampleSettings

PARTS: dict[str, Part] = {"a": "train", "b": "train", "c": "dev", "d": "test", "e": "out"}
QUERIES = [
    Query("q-a", "a", "t", "how are files opened", "train", True, "", ""),
    Query("q-b", "b", "t", "what is known of rivers", "seen", True, "", ""),
    Query("q-c", "c", "t", "which stones are heavy", "dev", True, "", ""),
    Query("q-d", "d", "t", "why do clouds float", "test", True, "", ""),
    Query("log", "", "t", "a query without a seed", "train", True, "", ""),
]
CLEAN = [Read("query", "q-a", "how are files opened"), Read("positive", "a", ""), Read("negative", "b", "")]


def look(*more: Read, parts: dict[str, Part] = PARTS, queries: list[Query] = QUERIES, **options: Any) -> Leakage:
    return find_leaks(parts, queries, {"the embedder": [*CLEAN, *more]}, **options)


def test_nothing_leaks_and_the_line_says_what_was_looked_at() -> None:
    found = look()
    assert found.leaks == []
    assert found.sentence() == (
        "leakage: none found (1 queries and 2 passages of the embedder, against 2 held-out passages and 3 held-out "
        "queries, near copies too; 1 passages and 0 queries were left out for it)"
    )
    assert "as split.near_duplicates is 0" in look(compared=False).sentence()
    assert not found.to_json()["found"]


@pytest.mark.parametrize(
    ("read", "kind", "held"),
    [
        (Read("seed", "d", ""), "passage", ""),
        (Read("positive", "d", ""), "passage", ""),
        (Read("negative", "d", ""), "passage", ""),
        (Read("candidate", "c", ""), "passage", ""),
        (Read("negative", "e", ""), "copy", "d"),
        (Read("negative", "unknown", ""), "side", ""),
        (Read("query", "q-d", "why do clouds float"), "query", ""),
        (Read("query", "q-b", "what is known of rivers"), "query", ""),  # a seen query is held out too
        (Read("query", "x", "Why do clouds float?"), "query-copy", "q-d"),
        (Read("query", "x", "clouds float why do"), "query-copy", "q-d"),
        (Read("query", "x", "what is known of the rivers"), "query-copy", "q-b"),
        (Read("query", "x", "which stones are heavy"), "query-copy", "q-c"),
    ],
)
def test_a_planted_leak_is_found(read: Read, kind: str, held: str) -> None:
    [leak] = look(read, repeats={"e": "d"}).leaks
    assert (leak.kind, leak.training, leak.role, leak.item_id, leak.held_id) == (
        kind,
        "the embedder",
        read.role,
        read.item_id,
        held,
    )
    assert look(read).counts() == {kind: 1}
    [example] = look(read).to_json()["examples"][kind]
    assert example["item_id"] == read.item_id


@pytest.mark.parametrize(
    ("seed", "part", "leaks"),
    [
        ("a", "train", 0),
        ("a", "seen", 0),  # a known document's held-out query, on purpose
        ("a", "test", 1),
        ("c", "dev", 0),
        ("c", "seen", 1),
        ("d", "test", 0),
        ("d", "train", 1),
        ("d", "seen", 1),
        ("e", "train", 1),
        ("e", "out", 0),
        ("gone", "train", 1),
    ],
)
def test_a_query_on_another_side_than_its_passage_is_found(seed: str, part: Part, leaks: int) -> None:
    found = look(queries=[Query("q", seed, "t", "some other words", part, True, "", "")])
    assert found.counts() == ({"side": leaks} if leaks else {})


def test_stages_that_were_changed_by_hand_are_named() -> None:
    found = look(altered=["split"])
    assert found.counts() == {"altered": 1}
    assert "stages whose files are not those that the run made" in found.sentence()


def test_many_leaks_are_counted_and_some_listed() -> None:
    parts: dict[str, Part] = PARTS | {f"t{i}": "test" for i in range(50)}
    found = look(*(Read("negative", f"t{i}", "") for i in range(50)), parts=parts).to_json()
    assert found["counts"] == {"passage": 50}
    assert len(found["examples"]["passage"]) == 20


def test_overlap_is_of_the_measured_queries() -> None:
    found = overlap_of(
        ["one two three", "four five six seven", "eight", "nine ten"], ["One, two: three!", "four five six seven x"]
    )
    assert (found.queries, found.equal, found.near, found.share) == (4, 1, 1, 0.5)
    assert in_training(found.to_json()) == (
        "Of 4 queries 1 stand word for word among those of training, and 1 nearly (50.0% together)."
    )
    assert overlap_of([], ["a"]).share == 0.0
    assert look(Read("query", "x", "why do clouds float")).overlap["test"].to_json() == {
        "queries": 1,
        "equal": 1,
        "near": 0,
        "share": 1.0,
    }


def example(query: str, positive: str, *negatives: str) -> Example:
    return Example(query, "t", query, "", positive, list(negatives), [positive], [], [], False, "train")


def test_rows_from_elsewhere_lose_what_is_held_out() -> None:
    texts = {
        "1": ("", "Clouds are water in the air."),
        "2": ("Clouds", "are water in the air"),
        "3": ("", "something else entirely"),
        "4": ("", "clouds"),
    }
    rows = [
        example("unrelated words here", "3"),
        example("unrelated words here", "3", "1"),
        example("unrelated words here", "2"),
        example("why do clouds float?", "3"),
        example("Clouds are water in the air", "3"),
        example("one more that stays", "3", "4"),  # a word is no passage
    ]
    held = [("A title", "clouds are water in the air"), ("", "clouds")]
    kept = without_held_out(rows, texts, ["why do clouds float"], held)
    assert [rows.index(row) for row in kept] == [0, 5]


def test_a_row_is_read_once() -> None:
    rows = [example("q", "a", "b"), example("q", "a", "c")]
    assert [(r.role, r.item_id) for r in reads_of(rows, ["a", "z"])] == [
        ("query", "q"),
        ("positive", "a"),
        ("negative", "b"),
        ("negative", "c"),
        ("candidate", "z"),
    ]


ids = st.sampled_from("abcdefghij")
words = st.lists(st.sampled_from("river stone cloud flame glass".split()), min_size=1, max_size=4).map(" ".join)


@given(
    st.dictionaries(ids, st.sampled_from(["train", "dev", "test", "out"]), min_size=10, max_size=10),
    st.lists(st.tuples(ids, words, st.booleans(), st.dictionaries(ids, st.integers(0, 3))), max_size=12),
    st.sampled_from(["graded", "gecko", "percpos"]),
    st.booleans(),
    st.randoms(),
)
def test_the_rows_that_are_made_never_leak(
    parts: dict[str, Part],
    asked: list[tuple[str, str, bool, dict[str, int]]],
    policy: Any,
    relabel: bool,
    random,  # type: ignore[no-untyped-def]
) -> None:
    queries, judgments, candidates = [], [], []
    for n, (seed, text, seen, grades) in enumerate(asked):
        part: Part = "seen" if seen and parts[seed] == "train" else parts[seed]
        queries.append(Query(f"q{n}", seed, "t", text, part, True, "", ""))
        for rank, (passage_id, grade) in enumerate(grades.items(), 1):
            judgments.append(Judgment(f"q{n}", passage_id, grade, float(grade), rank == 1, "", ""))
            candidates.append(Candidate(f"q{n}", passage_id, rank, rank, 1 / rank, 0, 0.0, 0, 0.0))
    settings = ExampleSettings(policy=policy, relabel=relabel, negatives=4)
    split = apart(queries)
    rows = [e for e in make_examples(split, candidates, judgments, parts, settings) if e.part == "train"]
    reads = list(reads_of(rows, (p for e in rows for p in e.candidate_ids)))
    found = find_leaks(parts, split, {"the embedder": reads})
    assert found.leaks == []
    assert all(one.share == 0 for one in found.overlap.values())
    random.shuffle(queries)
    assert {q.query_id: q.part for q in apart(queries)} == {q.query_id: q.part for q in split}
