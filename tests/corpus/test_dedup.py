"""MinHash against exact Jaccard, and what is dropped for what."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokay.corpus.dedup import HASHES, TwinFinder, minhash
from tokay.records import sha256_text


def jaccard(a, b):
    """Estimated from signatures."""
    return float(np.mean(a == b))


def exact_jaccard(a: str, b: str) -> float:
    def shingles(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", text.casefold())
        return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}

    return len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))


def twins(*texts: str, near: float = 0.9) -> list[tuple[int, int, str]]:
    finder = TwinFinder(near)
    for text in texts:
        finder.add(text, sha256_text(text))
    return [(t.dropped, t.kept, t.kind) for _, t in sorted(finder.twins().items())]


def changed(text: str, count: int, seed: int) -> str:
    words, rng = text.split(), random.Random(seed)
    for _ in range(count):
        words[rng.randrange(len(words))] = f"new{rng.randrange(10**6)}"
    return " ".join(words)


def sample(seed: int, length: int = 200) -> str:
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(5000)}" for _ in range(length))


@pytest.mark.parametrize("count", [0, 1, 3, 10, 30, 100])
def test_estimate_is_near_the_exact_similarity(count):
    errors = []
    for seed in range(20):
        a = sample(seed)
        b = changed(a, count, seed)
        errors.append(jaccard(minhash(a), minhash(b)) - exact_jaccard(a, b))
    assert np.max(np.abs(errors)) < 4 * 0.5 / np.sqrt(HASHES)
    assert abs(np.mean(errors)) < 0.03


def test_signatures_do_not_depend_on_platform_or_version():
    assert minhash("The quick brown fox jumps over the lazy dog").tolist()[:4] == [
        111219824,
        868237579,
        113650049,
        1461426790,
    ]
    assert minhash("d").shape == (HASHES,)
    assert minhash("").dtype == np.uint32


@given(st.text(alphabet="aB ß.é\u0130_漢\n1", max_size=60))
@settings(max_examples=50, deadline=None)
def test_case_punctuation_and_white_space_do_not_matter(text):
    assert jaccard(minhash(text), minhash(text)) == 1.0
    words = " ... ".join(re.findall(r"\w+", text.casefold()))
    assert jaccard(minhash(text), minhash(words)) == 1.0


def test_long_texts_are_hashed_in_parts():
    text = " ".join(f"w{i}" for i in range(10_000))
    assert jaccard(minhash(text), minhash(text + " one two")) > 0.97


def test_the_first_is_kept():
    a = sample(0)
    assert twins(a, sample(1), a, changed(a, 2, 0)) == [(2, 0, "exact"), (3, 0, "near")]
    assert twins(changed(a, 2, 0), a) == [(1, 0, "near")]
    assert twins() == []
    assert twins("one") == []


def test_a_copy_of_a_dropped_passage_is_dropped_for_the_kept_one():
    a = sample(0)
    b = changed(a, 2, 0)
    assert twins(a, b, b) == [(1, 0, "near"), (2, 0, "near")]


def test_short_texts_are_compared_exactly_only():
    assert twins("Yes, sir", "yes sir", "Yes, sir") == [(2, 0, "exact")]
    assert twins("yes my sir", "Yes, my sir!") == [(1, 0, "near")]


def test_no_threshold_leaves_near_duplicates():
    a = sample(0)
    assert twins(a, changed(a, 1, 0), a, near=0.0) == [(2, 0, "exact")]


@pytest.mark.parametrize("near", [0.3, 0.6, 0.9])
def test_what_is_left_is_not_alike(near):
    """Against comparing every pair: the same signatures, no banding."""
    texts = [changed(sample(seed % 12, 60), seed % 5, seed) for seed in range(120)]
    rows = np.stack([minhash(text) for text in texts])
    expected: list[tuple[int, int]] = []
    kept: list[int] = []
    for number, row in enumerate(rows):
        close = [other for other in kept if jaccard(row, rows[other]) >= near]
        if close:
            expected.append((number, close[0]))
        else:
            kept.append(number)
    found = [(dropped, first) for dropped, first, _ in twins(*texts, near=near)]
    assert not {first for _, first in found} & {dropped for dropped, _ in found}
    assert len(set(found) ^ set(expected)) <= len(expected) * 0.1  # banding may miss a pair at the threshold
    assert len(expected) > 20


def test_a_crowded_bucket_ends():
    common = " ".join(f"c{i}" for i in range(40))
    texts = [common + " " + sample(seed, 8) for seed in range(2000)]
    assert len(twins(*texts, near=0.95)) < 100
