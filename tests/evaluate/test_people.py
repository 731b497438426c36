from __future__ import annotations

import numpy as np
import pytest

from tokay.evaluate.calibrate import PEOPLE
from tokay.evaluate.people import BETWEEN, BETWEEN_LIKE_THE_LOG, checked, effective, for_people, margins_of
from tokay.records import Score
from tokay.settings import EvaluateSettings

SETTINGS = EvaluateSettings(resamples=400)


def scores_of(base: list[float], tuned: list[float], dim: int = 8) -> list[Score]:
    return [
        Score(system, dim, f"q{i}", "ndcg@10", value)
        for system, values in (("base", base), ("tuned", tuned))
        for i, value in enumerate(values)
    ]


def test_without_a_log_the_interval_alone_is_wider() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(400) / 2
    scores = scores_of(base.tolist(), (base + rng.normal(0.05, 0.2, 400)).tolist())
    narrow = [*scores, *scores_of([0.0] * 400, [1.0] * 400, dim=4), Score("tuned", 8, "q0", "mrr", 9.0)]
    found = for_people(narrow, {}, SETTINGS)  # other widths and metrics do not count
    assert found == for_people(scores, {}, SETTINGS)
    assert found["difference"] == pytest.approx(0.05, abs=0.02)
    half = 1.96 * np.hypot(0.2 / np.sqrt(400), BETWEEN * 0.2)
    assert (found["high"] - found["low"]) / 2 == pytest.approx(half, rel=0.1)
    assert (found["between"], found["log"], found["effective"]) == (BETWEEN, 0, 400)


def test_with_a_log_of_hard_queries_hard_ones_count_for_more() -> None:
    """The tuned system is better by 0.2 on the half that is hard for the base, and like it on the other."""
    rng = np.random.default_rng(0)
    margins = rng.random(400)
    gain = np.where(margins < 0.5, 0.2, 0.0) + rng.normal(0, 0.05, 400)
    scores = scores_of([0.5] * 400, (0.5 + gain).tolist())
    named = {f"q{i}": margin for i, margin in enumerate(margins.tolist())}
    plain = for_people(scores, {}, SETTINGS, margins=named)
    hard = for_people(scores, {}, SETTINGS, margins=named, log=(rng.random(300) * 0.5).tolist())
    same = for_people(scores, {}, SETTINGS, margins=named, log=rng.random(4000).tolist())
    assert plain["difference"] == pytest.approx(0.1, abs=0.02)
    assert same["difference"] == pytest.approx(0.1, abs=0.02)
    assert hard["difference"] > 0.16
    assert hard["between"] == BETWEEN_LIKE_THE_LOG < plain["between"]
    assert hard["effective"] < 400
    assert "like your log" in hard["sentence"]
    assert "like your log" not in plain["sentence"]


def test_queries_of_one_passage_count_as_one() -> None:
    rng = np.random.default_rng(0)
    once = rng.normal(0.1, 0.3, 50)
    scores = scores_of([0.0] * 200, np.repeat(once, 4).tolist())
    grouped = for_people(scores, {f"q{i}": str(i // 4) for i in range(200)}, SETTINGS)
    alone = for_people(scores, {}, SETTINGS)
    assert grouped["high"] - grouped["low"] > 1.1 * (alone["high"] - alone["low"])


def test_margins_do_not_depend_on_the_order_of_passages() -> None:
    rng = np.random.default_rng(0)
    scores = {f"p{i}": float(x) for i, x in enumerate(rng.random(40))}
    found = margins_of({"q": scores, "turned": dict(reversed(scores.items())), "none": {}})
    best = sorted(scores.values(), reverse=True)
    assert found == {"q": pytest.approx(best[0] - best[9]), "turned": found["q"], "none": 0.0}


def test_effective_queries() -> None:
    assert effective([2.0] * 7) == pytest.approx(7)
    assert effective([1.0, 0.0, 0.0]) == pytest.approx(1)


def test_how_far_it_was_checked_in_words() -> None:
    figures = {
        "pairs": 190,
        "queries": {PEOPLE: 809},
        "claims": 90,
        "agreement": 1.0,
        "contradicted": 0,
        "coverage": 0.957,
        "tau": 0.87,
    }
    assert checked(figures, "SciFact's claims") == (
        "checked on 190 pairs of systems over 809 queries of SciFact's claims: 90 called better or worse, 100% of them "
        "with people's sign, 0 refuted; 96% of people's differences in the interval; tau 0.87"
    )
    assert "0 called better or worse, 0 refuted" in checked({**figures, "claims": 0, "agreement": None}, "x")
