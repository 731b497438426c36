"""The report's measures beside scipy's and scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest

from tokay.report.measures import kendall_tau, weighted_kappa, wilson

pytestmark = pytest.mark.reference


def test_kendalls_tau_is_scipys() -> None:
    from scipy.stats import kendalltau

    rng = np.random.default_rng(0)
    for _ in range(300):
        n = int(rng.integers(2, 25))
        a, b = (rng.integers(0, 6, n).astype(float) for _ in range(2))
        expected, ours = kendalltau(a, b).statistic, kendall_tau(a, b)
        assert (ours is None) == bool(np.isnan(expected))
        if ours is not None:
            assert ours == pytest.approx(expected, abs=1e-12)


def test_wilsons_interval_is_scipys() -> None:
    from scipy.stats import binomtest

    for successes, trials in [(0, 1), (1, 1), (3, 20), (65, 1560), (999, 1000)]:
        expected = binomtest(successes, trials).proportion_ci(method="wilson")
        assert wilson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_weighted_kappa_is_scikit_learns() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    for _ in range(100):
        a = rng.integers(0, 4, 40)
        b = np.where(rng.random(40) < 0.6, a, rng.integers(0, 4, 40))
        table = np.zeros((4, 4))
        np.add.at(table, (a, b), 1)
        expected = sklearn.cohen_kappa_score(a, b, weights="quadratic", labels=[0, 1, 2, 3])
        assert weighted_kappa(table) == pytest.approx(expected, abs=1e-12)
