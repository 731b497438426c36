"""Two sides of one question: queries of documents that training knows, and queries of documents that it does not.

People search the documents that a model was tuned on, and add new ones. A held-out query of a training document
(``seen``) says what tuning gives the first, a query of a held-out document (``unseen``) what it gives the second.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokay.evaluate.metrics import METRICS, evaluate_run
from tokay.evaluate.significance import can_show, compare, sentence
from tokay.search.hybrid import Ranking, as_run
from tokay.settings import EvaluateSettings

SEEN, UNSEEN = "seen", "unseen"
TITLES = {SEEN: "Documents with queries in training", UNSEEN: "Held-out documents"}
PRIMARY = "ndcg@10"


def slice_of(
    base: Ranking,
    tuned: Ranking,
    qrels: Mapping[str, Mapping[str, int]],
    ids: Sequence[str],
    groups: Mapping[str, str],
    settings: EvaluateSettings,
) -> dict[str, Any]:
    """Base and tuned on the queries of one slice, as JSON values; fewer than two queries: their number alone.

    Args:
        base: rankings of the queries of ``qrels``, in its order.
        tuned: the same queries.
        qrels: query id -> passage id -> gain.
        ids: passage ids, by index.
        groups: query id -> what makes queries dependent.
        settings: of the evaluate stage.
    """
    if len(qrels) < 2:
        return {"queries": len(qrels)}
    measured = {
        name: evaluate_run(qrels, as_run(ranking, list(qrels), ids))
        for name, ranking in (("base", base), ("tuned", tuned))
    }
    ours, theirs = measured["tuned"][PRIMARY], measured["base"][PRIMARY]
    comparison = compare(
        [ours[q] for q in qrels],
        [theirs[q] for q in qrels],
        groups=[groups.get(q, q) for q in qrels],
        resamples=settings.resamples,
        seed=settings.seed,
    )
    means = {
        name: {metric: float(np.mean(list(values[metric].values()))) for metric in METRICS}
        for name, values in measured.items()
    }
    return {
        "queries": len(qrels),
        **means,
        "comparison": dataclasses.asdict(comparison),
        "sentence": sentence(comparison, "tuned"),
        "can_show": can_show(comparison),
    }
