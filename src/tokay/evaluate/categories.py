"""The scores of MTEB's categories, from vectors and labels: each by the name and the rule that mteb 2 has for it.

Letters: N texts or pairs, D width. Vectors need not have length 1. Equal to mteb's own code on made data
(``tests/reference/test_mteb.py``). Retrieval and reranking are measured by ``evaluate.metrics``.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokay.errors import MissingExtra
from tokay.evaluate.metrics import Qrels, Run, average_precision, evaluate_run, rank_order
from tokay.search.dense import unit

Vectors = NDArray[np.float32]
Scores = dict[str, Any]

SEED: Final = 42
"""Of every draw, as in mteb."""
EXPERIMENTS: Final = 10
SAMPLES_PER_LABEL: Final = 8
"""Few-shot rows of a class, mteb's default; some of its sets take 16 or 32."""
FOLDS: Final = 5
"""Of a classification without a training split."""
CLUSTERED: Final = 16_384
"""Texts of one clustering, drawn with replacement."""


# -- correlations ---------------------------------------------------------------------------------------------------


def pearson(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Pearson's correlation; NaN where one side is constant."""
    x, y = (np.asarray(v, np.float64) - np.mean(v, dtype=np.float64) for v in (a, b))
    lengths = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / lengths if lengths > 0 else float("nan")


def spearman(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Spearman's rank correlation, ties by their mean rank; NaN where one side is constant."""
    return pearson(_ranks(a), _ranks(b))


def _ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place], np.float64)


def cosines(a: Vectors, b: Vectors) -> NDArray[np.float64]:
    """Cosine of each row of ``a`` with that of ``b``, (N, D) and (N, D) -> (N,)."""
    return np.asarray(np.vecdot(unit(a).astype(np.float64), unit(b).astype(np.float64)))


def sts_scores(a: Vectors, b: Vectors, scores: Sequence[float]) -> Scores:
    """Correlation of cosines with people's scores; MTEB's figure is ``cosine_spearman``."""
    found, wanted = cosines(a, b), np.asarray(scores, np.float64)
    by = {"pearson": pearson(wanted, found), "spearman": spearman(wanted, found)}
    return by | {f"cosine_{name}": value for name, value in by.items()}


def summary_scores(
    machine: Sequence[Vectors], human: Sequence[Vectors], relevance: Sequence[Sequence[float]]
) -> Scores:
    """Mean over texts of the correlation between a summary's best cosine with a person's, and people's scores of it.

    Texts whose scores are all equal, on either side, have no correlation and are left out.

    Args:
        machine: of each text, vectors of the machines' summaries.
        human: of each text, vectors of people's.
        relevance: of each text, one score a machine's summary.
    """
    by: dict[str, list[float]] = {"pearson": [], "spearman": []}
    for ours, theirs, wanted in zip(machine, human, relevance, strict=True):
        found = (unit(ours) @ unit(theirs).T).max(1)  # (machines,)
        if len(set(wanted)) > 1 and len(set(found.tolist())) > 1:
            by["pearson"].append(pearson(np.asarray(wanted, np.float64), found))
            by["spearman"].append(spearman(np.asarray(wanted, np.float64), found))
    means = {name: float(np.mean(values)) if values else float("nan") for name, values in by.items()}
    return means | {f"cosine_{name}": value for name, value in means.items()}


# -- pairs ----------------------------------------------------------------------------------------------------------


def pair_scores(a: Vectors, b: Vectors, labels: Sequence[int]) -> Scores:
    """How well a threshold tells pairs that belong together (label 1) from others (0), for five similarities.

    Average precision, and accuracy and F1 at the threshold that is best for each; MTEB's figure, ``max_ap``, is the
    best average precision of the five.
    """
    truth = np.asarray(labels, np.int64)
    x, y = a.astype(np.float64), b.astype(np.float64)
    cosine = cosines(a, b)
    likeness = {
        "similarity": cosine,
        "cosine": cosine,
        "manhattan": -np.abs(x - y).sum(1),
        "euclidean": -np.linalg.norm(x - y, axis=1),
        "dot": np.vecdot(x, y),
    }
    scores: Scores = {}
    for name, values in likeness.items():
        scores |= {f"{name}_{metric}": value for metric, value in _thresholds(values.astype(np.float32), truth).items()}
    for metric in ("accuracy", "ap", "f1", "precision", "recall"):
        scores[f"max_{metric}"] = max(scores[f"{name}_{metric}"] for name in likeness)
    return scores


def _thresholds(likeness: NDArray[np.float32], truth: NDArray[np.int64]) -> dict[str, float]:
    """Metrics of all thresholds that lie between two different values, and average precision over them."""
    order = np.argsort(-likeness, kind="stable")
    hits = np.cumsum(truth[order])
    taken = np.arange(1, len(order) + 1)
    ends = np.flatnonzero(np.r_[np.diff(likeness[order]) != 0, True])  # the last of equal values
    precision, recall = hits[ends] / taken[ends], hits[ends] / max(1, hits[-1])
    ap = float(np.sum(np.diff(np.r_[0.0, recall]) * precision))
    inner = ends[:-1]  # a threshold has something on both sides
    if not len(inner):
        return {"accuracy": 0.0, "ap": ap, "f1": 0.0, "precision": 0.0, "recall": 0.0}
    negatives = len(truth) - hits[-1]
    accuracy = (hits[inner] + negatives - (taken[inner] - hits[inner])) / len(truth)
    f1 = 2 * hits[inner] / (taken[inner] + max(1, hits[-1]))
    best = int(np.argmax(f1))
    at_best = {"precision": float(precision[best]), "recall": float(recall[best])} if f1[best] > 0 else {}
    return {
        "accuracy": float(accuracy.max()),
        "ap": ap,
        "f1": float(f1[best]),
        "precision": at_best.get("precision", 0.0),
        "recall": at_best.get("recall", 0.0),
    }


# -- classes --------------------------------------------------------------------------------------------------------


def few_shot(
    labels: Sequence[Hashable], *, samples_per_label: int = SAMPLES_PER_LABEL, experiments: int = EXPERIMENTS
) -> list[list[int]]:
    """Rows of each experiment's training set: the first of every class in an order that is shuffled once more each."""
    order = list(range(len(labels)))
    return [_first_of_each(order, labels, samples_per_label) for _ in range(experiments)]


def _first_of_each(order: list[int], labels: Sequence[Hashable], samples_per_label: int) -> list[int]:
    """Shuffles ``order`` in place, by one seed each time, as mteb does."""
    np.random.RandomState(SEED).shuffle(order)
    seen: dict[Hashable, int] = {}
    chosen = []
    for i in order:
        if seen.get(labels[i], 0) < samples_per_label:
            chosen.append(i)
            seen[labels[i]] = seen.get(labels[i], 0) + 1
    return chosen


def class_scores(
    train: Vectors,
    train_labels: Sequence[Hashable],
    test: Vectors,
    test_labels: Sequence[Hashable],
    experiments: Sequence[Sequence[int]],
) -> Scores:
    """Logistic regression on few-shot samples, mean over the experiments; MTEB's figure is ``accuracy``.

    Args:
        train: (N, D); only rows that an experiment takes are looked at.
        train_labels: of them.
        test: (M, D).
        test_labels: of them.
        experiments: of ``few_shot``.
    """
    each = [
        _classified(train[list(rows)], [train_labels[i] for i in rows], test, list(test_labels)) for rows in experiments
    ]
    return _means(each)


def cross_validated(
    vectors: Vectors, labels: Sequence[Hashable], *, samples_per_label: int = SAMPLES_PER_LABEL
) -> Scores:
    """As ``class_scores`` where there is no training split: few-shot samples of four fifths, measured on the fifth."""
    folds = _sklearn("model_selection").KFold(n_splits=FOLDS, shuffle=True, random_state=SEED)
    each, order = [], list[int]()
    for train, test in folds.split(range(len(labels))):
        inside = [labels[i] for i in train]
        order = order or list(range(len(train)))
        rows = train[_first_of_each(order, inside, samples_per_label)]
        each.append(_classified(vectors[rows], [labels[i] for i in rows], vectors[test], [labels[i] for i in test]))
    return _means(each)


def _classified(train: Vectors, train_labels: list[Any], test: Vectors, test_labels: list[Any]) -> dict[str, float]:
    metrics = _sklearn("metrics")
    model = _sklearn("linear_model").LogisticRegression(max_iter=100, random_state=SEED)
    found = model.fit(train, train_labels).predict(test)
    scores = {"accuracy": float(metrics.accuracy_score(test_labels, found))}
    for name in ("f1", "precision", "recall"):
        score = getattr(metrics, f"{name}_score")
        more = {} if name == "f1" else {"zero_division": 0.0}
        scores[name] = float(score(test_labels, found, average="macro", **more))
        scores[f"{name}_weighted"] = float(score(test_labels, found, average="weighted", **more))
    if len(set(test_labels)) == 2 and set(test_labels) <= {0, 1}:
        scores["ap"] = float(metrics.average_precision_score(test_labels, found))
    return scores


def _means(each: Sequence[Mapping[str, float]]) -> Scores:
    means: Scores = {name: float(np.mean([scores[name] for scores in each])) for name in each[0]}
    return means | {"scores_per_experiment": [dict(scores) for scores in each]}


# -- clusters -------------------------------------------------------------------------------------------------------


def cluster_scores(vectors: Vectors, labels: Sequence[Hashable], *, size: int = CLUSTERED) -> Scores:
    """V-measure of mini-batch k-means with as many clusters as classes, over ten draws with replacement.

    Args:
        vectors: (N, D).
        labels: of them.
        size: texts of a draw.
    """
    cluster, metrics = _sklearn("cluster"), _sklearn("metrics")
    names = np.array([str(label) for label in labels])
    rng = random.Random(SEED)
    model = cluster.MiniBatchKMeans(
        n_clusters=len(set(names.tolist())), batch_size=512, init="k-means++", n_init=1, random_state=SEED
    )
    values = []
    for _ in range(EXPERIMENTS):
        rows = rng.choices(range(len(names)), k=size)
        values.append(float(metrics.v_measure_score(names[rows], model.fit_predict(vectors[rows]))))
    return {"v_measure": float(np.mean(values)), "v_measure_std": float(np.std(values)), "v_measures": values}


def cluster_sets_scores(sets: Sequence[tuple[Vectors, Sequence[Hashable]]]) -> Scores:
    """V-measure of each set's own clustering, mean over the sets: how MTEB's first edition measures it, and Gecko."""
    cluster, metrics = _sklearn("cluster"), _sklearn("metrics")
    values = []
    for vectors, labels in sets:
        classes = len(set(labels))
        if classes < 2:
            values.append(1.0)
            continue
        model = cluster.MiniBatchKMeans(n_clusters=classes, batch_size=500, n_init="auto", random_state=SEED)
        values.append(float(metrics.v_measure_score(list(labels), model.fit(vectors).labels_)))
    return {"v_measure": float(np.mean(values)), "v_measure_std": float(np.std(values)), "v_measures": values}


# -- rankings -------------------------------------------------------------------------------------------------------


def rerank_scores(qrels: Qrels, run: Run) -> Scores:
    """Over each query's own candidates; MTEB's figure is ``map_at_1000``, mean average precision."""
    values = evaluate_run(qrels, run)
    precise = []
    for query_id, grades in qrels.items():
        gains = [grades.get(passage_id, 0) for passage_id in rank_order(run[query_id])]
        precise.append(average_precision(gains, list(grades.values())))
    return {
        "map_at_1000": float(np.mean(precise)),
        "mrr_at_1000": float(np.mean(list(values["mrr"].values()))),
        "ndcg_at_10": float(np.mean(list(values["ndcg@10"].values()))),
    }


def retrieval_scores(qrels: Qrels, run: Run) -> Scores:
    """Over rankings of a hundred; MTEB's figure is ``ndcg_at_10``."""
    names = {"ndcg@10": "ndcg_at_10", "recall@10": "recall_at_10", "recall@100": "recall_at_100", "mrr": "mrr_at_100"}
    values = evaluate_run(qrels, run)
    return {theirs: float(np.mean(list(values[ours].values()))) for ours, theirs in names.items()}


def _sklearn(module: str) -> Any:
    """A module of scikit-learn, which the core does not need."""
    import importlib

    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise MissingExtra("this category of benchmarks", "benchmark", "scikit-learn") from error
