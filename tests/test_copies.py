from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny import WORDS
from tokay import copies as copies_module
from tokay.copies import ALIKE, apart, bundles_of, copies_of, near_copies, repeated, without_copies, words_of
from tokay.corpus.dedup import HASHES, minhash, near_groups
from tokay.errors import TokayError
from tokay.records import Copy, Document, Part, Passage, Query, sha256_text
from tokay.settings import SplitSettings
from tokay.split import parts_of, split_documents, units_of


def text_of(seed: int, words: int = 40) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


def passage(passage_id: str, text: str, title: str = "") -> Passage:
    return Passage(passage_id, passage_id.split("/")[0], title, text, sha256_text(text), "")


def copies(passages: list[Passage], threshold: float = 0.8) -> list[Copy]:
    return copies_of(passages, {p.passage_id: p.document_id for p in passages}, threshold)


@given(st.lists(st.integers(0, 8), min_size=2, max_size=40), st.integers(0, 99))
def test_groups_are_what_pairs_that_share_a_bucket_connect(bases: list[int], seed: int) -> None:
    chance = np.random.default_rng(seed)
    rows = np.stack([minhash(text_of(base)) for base in bases])
    blurred = chance.random(rows.shape) < chance.choice([0.0, 0.05, 0.15], len(rows))[:, None]
    rows[blurred] = chance.integers(0, 2**32, int(blurred.sum()))
    groups = near_groups(rows, np.arange(len(rows)), 0.8)
    alike = (rows[:, None] == rows[None]).mean(axis=2) >= 0.8
    bands = (rows[:, None] == rows[None]).reshape(len(rows), len(rows), HASHES // 8, 8).all(axis=3).any(axis=2)
    reach = alike & bands  # by definition: the closure of the pairs that banding proposes and the estimate confirms
    for _ in range(len(rows)):
        reach = reach | (reach.astype(int) @ reach.astype(int) > 0)
    assert [groups.find(i) for i in range(len(rows))] == [int(np.flatnonzero(row)[0]) for row in reach]


def test_a_passage_of_another_document_with_a_word_changed_is_a_copy() -> None:
    text = text_of(0, 60)
    changed = text.rsplit(" ", 1)[0] + " otherwise"
    found = copies(
        [passage("b/0", changed), passage("a/1", text), passage("a/2", text_of(1)), passage("c/0", text_of(2))]
    )
    assert found == [Copy("a/1", "a/1"), Copy("b/0", "a/1")]
    assert copies([passage("a/1", text), passage("a/2", changed)]) == []  # one document
    assert copies([passage("a/1", text), passage("b/0", changed)], 0.0) == []


def test_short_texts_are_copies_only_with_their_titles() -> None:
    found = copies(
        [passage("a/0", "Yes.", "May I?"), passage("b/0", "Yes.", "Must I?"), passage("c/0", "Yes.", "May I?")]
    )
    assert [copy.passage_id for copy in found] == ["a/0", "c/0"]


def corpus_of(rows: list[tuple[int, int]]) -> list[Passage]:
    """(document, text) of each passage."""
    return [passage(f"d{d:02d}/{i}", text_of(text)) for i, (d, text) in enumerate(rows)]


rows_of_corpora = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 60)), min_size=20, max_size=90)


@settings(deadline=None)
@given(rows_of_corpora, st.integers(0, 9), st.randoms())
def test_nothing_repeats_across_the_split_and_order_does_not_matter(
    rows: list[tuple[int, int]],
    seed: int,
    random,  # type: ignore[no-untyped-def]
) -> None:
    corpus = corpus_of(rows)
    chosen = SplitSettings(seed=seed)
    units = units_of(corpus)
    found = copies_of(corpus, units, 0.8)
    try:
        documents = split_documents(corpus, chosen, found)
    except TokayError:
        return  # too small, or nothing that is not repeated
    parts = parts_of(documents, corpus, found)
    sides: dict[str, set[Part]] = {}
    for p in corpus:
        sides.setdefault(p.text, set()).add(parts[p.passage_id])
    assert all(len(side - {"out"}) == 1 for side in sides.values())  # equal texts: one part, and what was left out
    of = {d.document_id: d.part for d in documents}
    for p in corpus:
        mine = of[units[p.passage_id]]
        assert parts[p.passage_id] in (mine, "out")
        if mine == "test":
            assert parts[p.passage_id] == "test"  # the verdict loses nothing
    random.shuffle(corpus)
    again = copies_of(corpus, units, 0.8)
    assert again == found
    assert split_documents(corpus, chosen, again) == documents


@settings(deadline=None)
@given(rows_of_corpora, st.integers(0, 9))
def test_only_documents_with_copies_move_and_bundles_stay_together(rows: list[tuple[int, int]], seed: int) -> None:
    corpus = corpus_of(rows)
    chosen = SplitSettings(seed=seed)
    units = units_of(corpus)
    found = copies_of(corpus, units, 0.8)
    try:
        before, after = split_documents(corpus, chosen), split_documents(corpus, chosen, found)
    except TokayError:
        return
    bundles = bundles_of(found, units, chosen.test_share * len(corpus))
    bundled = {unit for bundle in bundles for unit in bundle}
    assert {a.document_id for a, b in zip(before, after, strict=True) if a != b} <= bundled
    of = {d.document_id: d.part for d in after}
    sizes = Counter(units.values())
    for bundle in bundles:
        assert len({of[unit] for unit in bundle}) == 1
        assert sum(sizes[unit] for unit in bundle) <= chosen.test_share * len(corpus)


def test_documents_are_put_together_by_what_most_of_the_smaller_repeats() -> None:
    small = [Copy(f"{d}/{i}", f"a/{i}") for d in "ab" for i in range(2)]
    units = {f"a/{i}": "a" for i in range(9)} | {f"b/{i}": "b" for i in range(4)} | {f"c/{i}": "c" for i in range(7)}
    assert ALIKE == 0.5
    assert bundles_of(small, units, 99) == [["a", "b"]]  # two of b's four
    assert bundles_of(small[:1] + small[2:3], units, 99) == []
    assert bundles_of(small, units, 12) == []  # together they are thirteen


def test_one_boilerplate_does_not_tie_a_corpus_together() -> None:
    """A hundred documents of one passage that all say the same: no bundle passes a fifth, and training keeps none."""
    corpus = [passage(f"d{i:03d}/0", "the same words in each of them") for i in range(100)]
    corpus += [passage(f"e{i:03d}/0", text_of(i)) for i in range(100)]
    units = units_of(corpus)
    found = copies_of(corpus, units, 0.8)
    bundles = bundles_of(found, units, 40)
    assert max(len(bundle) for bundle in bundles) <= 40
    parts = parts_of(split_documents(corpus, SplitSettings(), found), corpus, found)
    assert {parts[p.passage_id] for p in corpus if p.document_id.startswith("d")} == {"test", "out"}
    shares = Counter(parts.values())
    assert 0.15 <= shares["test"] / 200 <= 0.25


def test_a_corpus_of_one_sentence_is_refused() -> None:
    corpus = [passage(f"d{i:03d}/0", "the same words in each of them") for i in range(50)]
    found = copies(corpus)
    with pytest.raises(TokayError, match=r"repeats a held-out one by 0\.8 or more.*set split\.near_duplicates higher"):
        split_documents(corpus, SplitSettings(), found)
    assert split_documents(corpus, SplitSettings(near_duplicates=0.0), [])


def test_the_less_strict_side_loses() -> None:
    parts: dict[str, Part] = {"a": "train", "b": "dev", "c": "test", "d": "train", "e": "dev", "f": "train"}
    found = [Copy(i, "a") for i in "abc"] + [Copy(i, "d") for i in "de"] + [Copy("gone", "d")]
    left = without_copies(parts, found)
    assert left == parts | {"a": "out", "b": "out", "d": "out"}
    assert repeated(left, found) == {"a": "c", "b": "c", "d": "e"}


# -- queries --------------------------------------------------------------------------------------------------------

phrases = st.lists(
    st.lists(st.sampled_from("ab cd ef gh ij kl mn op qr".split()), max_size=8).map(" ".join), max_size=25
)


@given(phrases, phrases, st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_near_copies_are_those_of_comparing_all_pairs(mine: list[str], theirs: list[str], threshold: float) -> None:
    found = near_copies(mine, theirs, threshold)
    for i, text in enumerate(mine):
        a = {*words_of(text)}
        alike = [len(a & {*words_of(o)}) / len(a | {*words_of(o)}) for o in theirs]
        assert (i in found) == any(s >= threshold for s in alike)
        if i in found:
            equal = [words_of(o) == words_of(text) for o in theirs]
            best = max(range(len(theirs)), key=lambda j: (equal[j], alike[j], -j))
            assert (found[i].other, found[i].equal) == (best, equal[best])
            assert found[i].similarity == alike[best]


@given(st.integers(0, 2**32), st.sampled_from([0.3, 0.5, 0.8, 1.0]), st.integers(1, 40))
def test_parts_of_the_vocabulary_find_what_rare_words_find(seed: int, threshold: float, many: int) -> None:
    rng = np.random.default_rng(seed)
    words = [f"w{i}" for i in range(int(rng.integers(2, 60)))]
    others = [" ".join(rng.choice(words, rng.integers(1, 30))) for _ in range(40)]
    texts = [" ".join(rng.choice(words, rng.integers(1, 30))) for _ in range(10)]
    for text in rng.choice(others, 20):  # and some that differ in a few words
        held = text.split()
        held[: rng.integers(0, 3)] = [*rng.choice(words, rng.integers(0, 3)), "new"][: rng.integers(0, 4)]
        texts.append(" ".join(held) or "w0")
    found = []
    for limit in (0, many, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(copies_module, "MANY", limit)
            found.append(near_copies(texts, others, threshold))
    assert found[0] == found[1] == found[2]
    sets = [{*words_of(o)} for o in others]
    for i, text in enumerate(texts):
        a = {*words_of(text)}
        best = max(len(a & b) / len(a | b) for b in sets)
        assert (i in found[0]) == (best >= threshold)
        assert i not in found[0] or found[0][i].similarity == best


def test_what_is_equal_and_what_is_near() -> None:
    others = ["How do I close a file?", "open a file for reading and writing", "ファイル", "??"]
    found = near_copies(["how do i CLOSE a file", "file a close I do how", "read it", "ファイル", "??", "!!"], others)
    assert {i: (one.other, one.equal) for i, one in found.items()} == {
        0: (0, True),
        1: (0, False),
        3: (2, True),
        4: (3, True),
    }


def query(query_id: str, text: str, part: Part) -> Query:
    return Query(query_id, "", "", text, part, True, "", "")


@given(st.lists(st.tuples(phrases.map(lambda p: (p or ["x"])[0]), st.sampled_from(["train", "dev", "test", "seen"]))))
def test_no_query_repeats_one_of_a_stricter_part(rows: list[tuple[str, Part]]) -> None:
    queries = [query(str(i), text, part) for i, (text, part) in enumerate(rows)]
    found = apart(queries)
    assert [q.query_id for q in found] == [q.query_id for q in queries]
    for part, stricter in (("train", ("dev", "test", "seen")), ("dev", ("test", "seen"))):
        kept = [q.text for q in found if q.part == part]
        assert not near_copies(kept, [q.text for q in queries if q.part in stricter])
    assert all(after == before or after.part == "out" for before, after in zip(queries, found, strict=True))
    assert all(after == before for before, after in zip(queries, found, strict=True) if before.part in ("test", "seen"))
    assert apart(found) == found


def test_parts_of_an_older_run_are_those_without_copies() -> None:
    corpus = [passage("a/0", "x"), passage("b/0", "y")]
    assert parts_of([Document("a", "train", 1), Document("b", "test", 1)], corpus) == {"a/0": "train", "b/0": "test"}
