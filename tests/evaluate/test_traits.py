from __future__ import annotations

import pytest

from tokay.evaluate.traits import kind_of, length_of, overlap_of, traits_of
from tokay.records import Passage, Query
from tokay.search.bm25 import content_words


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("how to sort a list", "question"),
        ("is it ordered?", "question"),
        ("das sortieren einer liste\uff1f", "question"),
        ("sort list reverse", "keywords"),
        ("os.path.join on windows", "identifier"),
        ("what does snake_case mean?", "identifier"),
        ("the order of equal items is kept by it", "sentence"),
        ("sort list reverse key stable order python", "sentence"),
        ("", "keywords"),
    ],
)
def test_kinds(text: str, kind: str) -> None:
    assert kind_of(text) == kind


def test_lengths() -> None:
    assert [length_of("w " * n) for n in (1, 3, 4, 8, 9, 16, 17)] == [
        "1 to 3 words", "1 to 3 words", "4 to 8 words", "4 to 8 words",
        "9 to 16 words", "9 to 16 words", "17 words and more",
    ]  # fmt: skip
    assert length_of("\u6771\u4eac\u90fd\u306e\u5929\u6c17\u3092\u6559\u3048\u3066") == "4 to 8 words"


def test_overlap_is_with_the_relevant_passage_that_has_most() -> None:
    passages = [set(content_words(text)) for text in ("stable sorting of lists", "rivers and stones")]
    assert overlap_of("sort a list stably by river", passages) == pytest.approx(2 / 4)
    assert overlap_of("what is it", passages) == 0.0
    assert overlap_of("stones", []) == 0.0


def test_traits_of_a_set() -> None:
    passages = [Passage(f"p{i}", "d", "title", text, "", "") for i, text in enumerate(["river stone", "iron glass"])]
    queries = [Query(f"q{i}", "", "", text, "test", True, "", "") for i, text in enumerate(["river title", "stone"])]
    found = traits_of(queries, {"q0": {"p0": 2, "p1": 0}, "q1": {"p1": 1}}, passages)
    assert found["shared words"] == {"q0": "over two thirds", "q1": "under a third"}
    assert set(found["kind"]) == set(found["length"]) == {"q0", "q1"}
