"""The listwise and the pointwise loss against loops in float64, and what must not matter."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tokay.train.losses import listwise, pointwise


def drawn(seed: int, rows: int = 5, width: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, grades and which candidates there are: at least one a row, the first ones."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, width, generator=generator, dtype=torch.float64) * 3
    grades = torch.randint(0, 4, (rows, width), generator=generator).double()
    sizes = torch.randint(1, width + 1, (rows, 1), generator=generator)
    return scores, grades, torch.arange(width)[None] < sizes


def kl_by_loop(scores: Tensor, grades: Tensor, listed: Tensor, t: float) -> float:
    total, rows = 0.0, 0
    for s, g, there in zip(scores.tolist(), grades.tolist(), listed.tolist(), strict=True):
        pairs = [(a, b) for a, b, c in zip(s, g, there, strict=True) if c]
        if len(pairs) < 2:
            continue
        over_p = sum(math.exp(b / t) for _, b in pairs)
        over_s = sum(math.exp(a) for a, _ in pairs)
        rows += 1
        for a, b in pairs:
            p, q = math.exp(b / t) / over_p, math.exp(a) / over_s
            total += p * math.log(p / q)
    return total / rows if rows else 0.0


def bce_by_loop(scores: Tensor, grades: Tensor, listed: Tensor, highest: float) -> float:
    terms = []
    for s, g, there in zip(scores.tolist(), grades.tolist(), listed.tolist(), strict=True):
        for a, b, c in zip(s, g, there, strict=True):
            if c:
                p, y = 1 / (1 + math.exp(-a)), b / highest
                terms.append(-(y * math.log(p) + (1 - y) * math.log(1 - p)))
    return sum(terms) / len(terms) if terms else 0.0


@pytest.mark.parametrize("seed", range(5))
def test_listwise_is_its_formula(seed: int) -> None:
    scores, grades, listed = drawn(seed)
    found = listwise(scores, grades, listed, teacher_temperature=0.5)
    assert float(found) == pytest.approx(kl_by_loop(scores, grades, listed, 0.5), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_pointwise_is_its_formula(seed: int) -> None:
    scores, grades, listed = drawn(seed)
    found = pointwise(scores, grades, listed, highest=3)
    assert float(found) == pytest.approx(bce_by_loop(scores, grades, listed, 3), abs=1e-12)


@given(st.integers(0, 1000))
def test_what_is_not_listed_does_not_matter(seed: int) -> None:
    scores, grades, listed = drawn(seed)
    for loss in (
        lambda s, g: listwise(s, g, listed, teacher_temperature=1.0),
        lambda s, g: pointwise(s, g, listed, highest=3),
    ):
        given_scores = scores.clone().requires_grad_()
        value = loss(given_scores, grades)
        value.backward()
        assert given_scores.grad is not None
        assert (given_scores.grad[~listed] == 0).all()
        other = loss(torch.where(listed, scores, 1e4), torch.where(listed, grades, 99.0))
        assert float(other) == pytest.approx(float(value.detach()), abs=1e-12)


@given(st.integers(0, 1000), st.floats(-20, 20))
def test_a_shift_of_a_list_does_not_matter_to_its_order(seed: int, shift: float) -> None:
    scores, grades, listed = drawn(seed)
    a = listwise(scores, grades, listed, teacher_temperature=0.5)
    assert float(listwise(scores + shift, grades, listed, teacher_temperature=0.5)) == pytest.approx(float(a), abs=1e-9)


def test_nothing_to_learn_is_no_loss() -> None:
    scores, grades, _ = drawn(0)
    nothing = torch.zeros(5, 7, dtype=torch.bool)
    assert float(listwise(scores, grades, nothing, teacher_temperature=1.0)) == 0
    assert float(pointwise(scores, grades, nothing, highest=3)) == 0
    whole = ~nothing
    assert float(listwise(grades / 0.5, grades, whole, teacher_temperature=0.5)) == pytest.approx(0, abs=1e-12)
