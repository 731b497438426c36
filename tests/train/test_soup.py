"""Soups: ends, arcs and means of weights, against formulas in float64."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from tokay.train.soup import add_to_mean, choose_soup, interpolate, lerp, slerp
from train_data import base

SHARES = st.floats(0, 1)


def vectors(seed: int, *, norms: tuple[float, float] = (1.0, 1.0)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(3, 4, generator=generator) for _ in range(2))
    return a / a.norm() * norms[0], b / b.norm() * norms[1]


def arc(a: Tensor, b: Tensor, weight: float) -> np.ndarray:
    """Shoemake's formula in float64, with the angle by its cosine."""
    x, y = a.double().numpy(), b.double().numpy()
    lengths = np.linalg.norm(x), np.linalg.norm(y)
    angle = math.acos(float((x * y).sum()) / float(lengths[0] * lengths[1]))
    unit = math.sin((1 - weight) * angle) * x / lengths[0] + math.sin(weight * angle) * y / lengths[1]
    return np.asarray(unit / math.sin(angle) * ((1 - weight) * lengths[0] + weight * lengths[1]))


def moved(seed: int) -> nn.Module:
    """The tiny base with other weights."""
    generator = torch.Generator().manual_seed(seed)
    model = base()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.1)
    return model


@pytest.mark.parametrize("how", ["lerp", "slerp"])
def test_the_ends_are_base_and_tuned(how: str) -> None:
    model, tuned = base(), moved(1)
    start, end = copy.deepcopy(tuned), copy.deepcopy(tuned)
    interpolate(start, model, 0.0, how=how)  # type: ignore[arg-type]
    interpolate(end, model, 1.0, how=how)  # type: ignore[arg-type]
    for a, b in zip(start.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(end.parameters(), tuned.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_in_between_each_weight_lies_on_its_line_and_the_base_stays() -> None:
    model, tuned = base(), moved(1)
    mixed = copy.deepcopy(tuned)
    interpolate(mixed, model, 0.25)
    for m, a, b in zip(mixed.parameters(), base().parameters(), tuned.parameters(), strict=True):
        torch.testing.assert_close(m, 0.75 * a + 0.25 * b)
    for a, b in zip(model.parameters(), base().parameters(), strict=True):
        assert torch.equal(a, b)


def test_slerp_is_done_tensor_by_tensor() -> None:
    model, tuned = base(), moved(1)
    mixed = copy.deepcopy(tuned)
    interpolate(mixed, model, 0.3, how="slerp")
    for m, a, b in zip(mixed.parameters(), model.parameters(), tuned.parameters(), strict=True):
        torch.testing.assert_close(m.detach(), slerp(a.detach(), b.detach(), 0.3))


@given(st.integers(0, 10_000), SHARES, st.floats(0.1, 10), st.floats(0.1, 10))
def test_slerp_is_shoemakes_formula(seed: int, weight: float, first: float, second: float) -> None:
    a, b = vectors(seed, norms=(first, second))
    np.testing.assert_allclose(slerp(a, b, weight).numpy(), arc(a, b, weight), rtol=1e-4, atol=1e-5)


@given(st.integers(0, 10_000), SHARES, st.floats(0.1, 10))
def test_slerp_keeps_an_equal_length(seed: int, weight: float, length: float) -> None:
    a, b = vectors(seed, norms=(length, length))
    assert slerp(a, b, weight).norm().item() == pytest.approx(length, rel=1e-4)


@given(st.integers(0, 10_000), SHARES)
def test_slerp_goes_the_same_way_from_both_ends(seed: int, weight: float) -> None:
    a, b = vectors(seed, norms=(1.0, 2.0))
    torch.testing.assert_close(slerp(a, b, weight), slerp(b, a, 1 - weight), rtol=1e-4, atol=1e-5)


@given(st.integers(0, 10_000), SHARES, st.floats(-3, 3))
def test_slerp_of_parallel_tensors_is_a_line(seed: int, weight: float, factor: float) -> None:
    assume(abs(factor) > 0.01)
    a, _ = vectors(seed)
    torch.testing.assert_close(slerp(a, a * factor, weight), lerp(a, a * factor, weight), rtol=1e-4, atol=1e-5)


@given(st.integers(0, 10_000), SHARES, st.floats(1e-6, 1e-1))
def test_slerp_of_nearly_parallel_tensors_has_no_jump(seed: int, weight: float, angle: float) -> None:
    """Where the arc ends and the line begins, both are the same to the square of the angle."""
    a, b = vectors(seed)
    across = b - (a * b).sum() * a
    near = math.cos(angle) * a + math.sin(angle) * across / across.norm()
    mixed = slerp(a, near, weight)
    assert (mixed - lerp(a, near, weight)).norm().item() <= angle**2 + 1e-5
    assert torch.isfinite(mixed).all()


def test_a_tensor_of_zeros_is_mixed_along_a_line() -> None:
    a, zeros = torch.full((4,), 2.0), torch.zeros(4)
    assert slerp(a, zeros, 0.25).tolist() == [1.5] * 4
    assert slerp(zeros, a, 0.25).tolist() == [0.5] * 4
    assert slerp(zeros, zeros, 0.5).tolist() == [0.0] * 4


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_running_mean_is_the_mean(count: int) -> None:
    models = [moved(seed) for seed in range(count)]
    expected = [torch.stack(ps).double().mean(0) for ps in zip(*(m.parameters() for m in models), strict=True)]
    mean = copy.deepcopy(models[0])
    for n, model in enumerate(models[1:], 1):
        add_to_mean(mean, model, count=n)
    for p, value in zip(mean.parameters(), expected, strict=True):
        torch.testing.assert_close(p.double(), value, rtol=1e-5, atol=1e-6)


def test_the_smallest_weight_within_one_standard_error_is_chosen() -> None:
    best = np.array([0.5, 0.7, 0.9, 0.6])
    noise = np.array([0.1, -0.1, 0.1, -0.1])  # of std 0.1, so a standard error of 0.05
    found = {1.0: best, 0.8: best - 0.049 + noise, 0.6: best - 0.051 + noise, 0.4: best - 0.3}
    assert choose_soup(found) == 0.8
    assert choose_soup(dict(reversed(found.items()))) == 0.8


def test_equal_weights_of_a_soup_give_the_smallest_and_a_sure_gain_gives_the_best() -> None:
    flat = np.array([0.5, 0.2])
    assert choose_soup({1.0: flat, 0.3: flat, 0.7: flat}) == 0.3
    assert choose_soup({1.0: flat + 0.01, 0.3: flat, 0.7: flat}) == 1.0
    assert choose_soup({1.0: flat - 0.01, 0.3: flat - 0.01, 0.7: flat}) == 0.7
