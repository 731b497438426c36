from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokay.report.measures import (
    copied_share,
    grades_agree,
    kendall_tau,
    longest_run,
    mean_interval,
    ranks_agree,
    tenths,
    weighted_kappa,
    wilson,
    words_of,
)

words = st.lists(st.sampled_from("river stone glass iron cloud maple".split()), min_size=1, max_size=12)


@given(words, words)
def test_the_longest_run_is_the_longest_common_substring_of_words(asked: list[str], inside: list[str]) -> None:
    runs = {tuple(asked[i:j]) for i in range(len(asked)) for j in range(i + 1, len(asked) + 1)}
    others = {tuple(inside[i:j]) for i in range(len(inside)) for j in range(i + 1, len(inside) + 1)}
    expected = max((len(run) for run in runs & others), default=0)
    assert longest_run(" ".join(asked).upper(), ", ".join(inside)) == expected


def test_a_run_is_of_whole_words() -> None:
    assert longest_run("one two", "onetwo twofold") == 0
    assert longest_run("", "a") == longest_run("a", "") == 0


def test_the_copied_share_is_of_content_words() -> None:
    words = words_of("Sorting", "a list of rivers")
    assert copied_share("how do I sort the river by stones", words) == pytest.approx(2 / 3)
    assert copied_share("what is the", words) is None


def test_tenths_sum_to_one_and_take_the_ends() -> None:
    assert tenths([0.0, 0.05, 0.95, 1.0]) == [0.5, *[0.0] * 8, 0.5]
    assert tenths([]) == [0.0] * 10


@given(st.integers(0, 50), st.integers(1, 50))
def test_a_shares_interval_holds_it_and_mirrors(some: int, more: int) -> None:
    trials = some + more
    low, high = wilson(some, trials)
    assert 0 <= low <= some / trials <= high <= 1
    assert wilson(trials - some, trials) == pytest.approx((1 - high, 1 - low))


def test_a_means_interval_holds_it_and_draws_groups_together() -> None:
    values = [0.0, 1.0] * 50
    low, high = mean_interval(values)
    assert low < 0.5 < high
    pairs = [str(n // 2) for n in range(100)]  # each group has both: its mean never moves
    assert mean_interval(values, pairs) == pytest.approx((0.5, 0.5))


@given(st.lists(st.integers(0, 5), min_size=2, max_size=8), st.integers(1, 9))
def test_tau_does_not_mind_the_scale(values: list[int], factor: int) -> None:
    a, b = np.array(values, float), np.arange(len(values), dtype=float)
    tau = kendall_tau(a, b)
    if len({*values}) == 1:
        assert tau is None
    else:
        assert kendall_tau(a * factor + 3, b) == tau
        assert kendall_tau(-a, b) == pytest.approx(-tau)
        assert kendall_tau(a, a) == pytest.approx(1.0)


def test_two_judges_of_one_mind_and_two_of_opposite() -> None:
    first = {f"q{n}": {f"p{i}": float(i) for i in range(5)} for n in range(4)}
    opposite = {q: {p: -value for p, value in said.items()} for q, said in first.items()}
    same, other = ranks_agree(first, first), ranks_agree(first, opposite)
    assert same is not None
    assert other is not None
    assert (same.value, same.first_same, same.queries, same.pairs) == (1.0, 1.0, 4, 20)
    assert same.counts == {(rank, rank): 4 for rank in range(1, 6)}
    assert (other.value, other.first_same) == (-1.0, 0.0)
    assert ranks_agree(first, {"q9": {"p": 1.0}}) is None
    assert ranks_agree(first, {"q0": {"p0": 1.0, "p1": 1.0}}) is None  # nothing is told apart


def test_grades_agree_over_what_both_gave() -> None:
    first = {f"q{n}": {"a": float(n % 4), "b": 0.0, "only here": 3.0} for n in range(12)}
    second = {q: {p: v for p, v in said.items() if p != "only here"} for q, said in first.items()}
    found = grades_agree(first, second)
    assert found is not None
    assert (found.value, found.low, found.high, found.pairs) == (1.0, 1.0, 1.0, 24)
    assert sum(found.counts.values()) == 24
    assert grades_agree(first, {"q0": {"a": 0.0}}) is None  # one grade alone
    assert grades_agree(first, {}) is None


def test_kappa_counts_far_grades_more() -> None:
    near, far = np.diag([5.0] * 4), np.diag([5.0] * 4)
    near[0, 1] = far[0, 3] = 4
    assert 1.0 > weighted_kappa(near) > weighted_kappa(far)
