"""What a verdict on written queries says of people's: the difference that they may be expected to see.

Written queries differ from people's in ways that no number of them makes up for, so the interval is widened by what the
two kinds differed by where both were known (``evaluate.calibrate``). With a log, written queries that are as hard for
the base as the log's count for more, and the kinds differ by less.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from tokay.evaluate.calibrate import PEOPLE
from tokay.evaluate.metrics import Run
from tokay.evaluate.significance import compare, widened
from tokay.evaluate.verdict import PRIMARY
from tokay.records import Score
from tokay.search.hybrid import margin_of
from tokay.search.learn import shares_like
from tokay.settings import EvaluateSettings

BETWEEN: Final = 0.17
"""How far the means of written and of people's queries are apart, in standard deviations of a query's difference: on
SciFact's train claims (docs/log.md)."""
BETWEEN_LIKE_THE_LOG: Final = 0.1
"""The same where written queries are weighed to be as hard as those of a log: 0 on the held-out ones, 0.11 on all."""
CHECKED: Final = (
    "such intervals were checked on 276 pairs of systems over SciFact's 300 test claims: of those off zero 100 % had "
    "people's sign (with a log 99 %), 99 % (98 %) of people's differences lay inside, and the order of the systems "
    "agreed with people's by Kendall's tau of 0.85 (0.84); not checked on your data unless you give labels "
    "('tokay calibrate')"
)
"""How far verdicts with these figures were checked (docs/log.md)."""


def margins_of(run: Run) -> dict[str, float]:
    """Query id -> how far a system's best score is above its tenth: small where the query is hard for it."""
    return {q: margin_of(np.sort(np.array(list(scores.values())))[::-1]) for q, scores in run.items()}


def for_people(
    scores: Iterable[Score],
    groups: Mapping[str, str],
    settings: EvaluateSettings,
    *,
    ours: str = "tuned",
    theirs: str = "base",
    margins: Mapping[str, float] | None = None,
    log: Sequence[float] = (),
) -> dict[str, Any]:
    """The difference of two systems that people may be expected to see, as JSON values.

    Args:
        scores: of both systems at their full width, and perhaps of others.
        groups: query id -> what makes queries dependent.
        settings: of the evaluate stage.
        ours: one system.
        theirs: the other.
        margins: of ``margins_of`` the base, of the written queries.
        log: the same of a user's queries, in any order; empty: there is no log, and each written query counts once.
    """
    values: dict[tuple[str, int], dict[str, float]] = {}
    for score in scores:
        if score.metric == PRIMARY and score.system in (ours, theirs):
            values.setdefault((score.system, score.dim), {})[score.query_id] = score.value
    full = max(dim for _, dim in values)
    a, b = values[ours, full], values[theirs, full]
    shares = None
    if len(log) and margins is not None:
        shares = shares_like(np.array([margins[q] for q in a]), np.asarray(log, np.float64)).tolist()
    comparison = compare(
        list(a.values()),
        [b[q] for q in a],
        groups=[groups.get(q, q) for q in a],
        shares=shares,
        resamples=settings.resamples,
        seed=settings.seed,
    )
    between = BETWEEN if shares is None else BETWEEN_LIKE_THE_LOG
    low, high = widened(comparison, between)
    like = ", counted like your log" if shares else ""
    expected = f"{low:+.3f} to {high:+.3f}"
    loss = "" if low > 0 or high < 0 else "; a loss is not excluded: some labels or a log of theirs would tell more"
    return {
        **dataclasses.asdict(comparison),
        "low": low,
        "high": high,
        "between": between,
        "log": len(log),
        "effective": effective(shares) if shares else float(comparison.queries),
        "sentence": f"On people's own queries expect a difference of {expected} nDCG@10 (95 %{like}){loss}",
        "checked": CHECKED,
    }


def effective(shares: Sequence[float]) -> float:
    """Queries that a weighted sample is worth: (sum of weights)^2 / sum of squared weights (Kish 1965)."""
    weights = np.asarray(shares, np.float64)
    return float(weights.sum()) ** 2 / float(weights @ weights)


def checked(figures: Mapping[str, Any], on: str) -> str:
    """In words, how far verdicts were checked.

    Args:
        figures: of ``Calibration.figures``.
        on: what they were checked on.
    """
    right = "" if figures["agreement"] is None else f", {figures['agreement']:.0%} of them with people's sign"
    return (
        f"checked on {figures['pairs']:,} pairs of systems over {figures['queries'][PEOPLE]:,} queries of {on}: "
        f"{figures['claims']:,} called better or worse{right}, {figures['contradicted']} refuted; "
        f"{figures['coverage']:.0%} of people's differences in the interval; tau {figures['tau'] or 0:.2f}"
    )
