"""Kendall's tau equals scipy's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokay.evaluate.calibrate import kendall_tau

pytestmark = pytest.mark.reference


@given(st.lists(st.tuples(st.integers(0, 6), st.floats(0, 1).map(lambda x: round(x, 1))), min_size=2, max_size=30))
def test_tau_b_with_ties(pairs: list[tuple[int, float]]) -> None:
    from scipy.stats import kendalltau

    x, y = zip(*pairs, strict=True)
    assert kendall_tau(x, y) == pytest.approx(kendalltau(x, y).statistic, nan_ok=True)
