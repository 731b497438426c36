"""Equality with pytrec_eval (trec_eval's own C code) and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval
import scipy.stats

from tokay.evaluate.metrics import METRICS, evaluate_run
from tokay.evaluate.significance import compare, widening

pytestmark = pytest.mark.reference
NAMES = {"ndcg@10": "ndcg_cut_10", "recall@10": "recall_10", "recall@100": "recall_100", "mrr": "recip_rank"}


def test_a_thousand_random_runs_with_ties() -> None:
    rng = np.random.default_rng(0)
    ids = [f"d{i}" for i in range(150)] + ["é", "Z", "a-b", "10", "9"]
    for trial in range(1000):
        judged = rng.choice(ids, size=rng.integers(1, 30), replace=False)
        qrels = {"q": {str(d): int(rng.integers(-1, 4)) for d in judged}}
        found = rng.choice(ids, size=rng.integers(1, 140), replace=False)
        levels = int(rng.integers(1, 12))  # few levels: many ties
        noise = 1e-9 if trial % 2 else 0.0  # below float32: trec_eval sees a tie
        run = {"q": {str(d): float(rng.integers(0, levels)) / 7 + noise * float(rng.random()) for d in found}}
        theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut", "recall", "recip_rank"}).evaluate(run)["q"]
        ours = evaluate_run(qrels, run)
        for metric in METRICS:
            assert ours[metric]["q"] == pytest.approx(theirs[NAMES[metric]], abs=1e-6), (trial, metric)


def test_randomisation_test_equals_scipy() -> None:
    rng = np.random.default_rng(1)
    for n in (5, 9):
        a, b = rng.random(n), rng.random(n)
        exact = scipy.stats.permutation_test(
            (a, b), lambda x, y: (x - y).mean(), permutation_type="samples", n_resamples=np.inf
        ).pvalue
        assert compare(a, b, resamples=200_000).p_value == pytest.approx(exact, abs=0.005)


def test_bootstrap_interval_equals_scipys_at_the_widened_level() -> None:
    rng = np.random.default_rng(2)
    for n in (12, 80):
        a, b = rng.random(n), rng.random(n)
        wide = np.sqrt(n / (n - 1)) * scipy.stats.t.ppf(0.975, n - 1)  # Hesterberg 2015, section 4.3
        theirs = scipy.stats.bootstrap(
            (a - b,),
            np.mean,
            n_resamples=50_000,
            method="percentile",
            confidence_level=2 * scipy.stats.norm.cdf(wide) - 1,
            rng=3,
        ).confidence_interval
        ours = compare(a, b, resamples=50_000)
        assert ours.low == pytest.approx(theirs.low, abs=0.006)
        assert ours.high == pytest.approx(theirs.high, abs=0.006)


def test_the_widening_is_students_quantile_over_the_normal_one() -> None:
    for n in (5, 10, 50, 1000):
        exact = np.sqrt(n / (n - 1)) * scipy.stats.t.ppf(0.975, n - 1) / scipy.stats.norm.ppf(0.975)
        assert widening(n) == pytest.approx(exact, rel=1e-2 if n < 10 else 2e-4)


def test_many_queries_some_without_a_relevant_passage_or_a_ranking() -> None:
    qrels = {"a": {"x": 1}, "none": {"x": 0, "y": -1}, "missing": {"x": 1}}
    run = {"a": {"y": 1.0, "x": 1.0}, "none": {"x": 1.0}, "unlabelled": {"x": 1.0}}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut", "recall", "recip_rank"}).evaluate(run)
    ours = evaluate_run(qrels, run)
    for metric in METRICS:
        assert {q: theirs[q][NAMES[metric]] for q in theirs} == {q: ours[metric][q] for q in ("a", "none")}
        assert ours[metric]["missing"] == 0.0  # trec_eval leaves it out


def test_randomisation_test_of_groups_equals_scipy_on_their_sums() -> None:
    rng = np.random.default_rng(4)
    a, b, groups = rng.random(24), rng.random(24), np.repeat(np.arange(8), 3)
    sums = np.bincount(groups, a - b)
    exact = scipy.stats.permutation_test(
        (sums,), np.sum, permutation_type="samples", n_resamples=np.inf, vectorized=False
    ).pvalue
    assert compare(a, b, groups=groups.tolist(), resamples=200_000).p_value == pytest.approx(exact, abs=0.005)
