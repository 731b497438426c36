"""A benchmark task as data, and what a model scores on it: one class for each of MTEB's categories.

A task knows which texts it needs encoded and on which side of a search they are; ``Encode`` does it. Data comes from
local folders (``evaluate.taskfolders``); sets of the Hub go through mteb itself (``evaluate.mteb``).
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from tokay.evaluate.categories import (
    SAMPLES_PER_LABEL,
    Scores,
    class_scores,
    cluster_scores,
    cluster_sets_scores,
    cross_validated,
    few_shot,
    pair_scores,
    rerank_scores,
    retrieval_scores,
    sts_scores,
    summary_scores,
)
from tokay.evaluate.sides import Category, Place
from tokay.search.dense import top_k, unit
from tokay.search.hybrid import as_run

DEPTH = 100
"""Passages of a ranking."""


class Encode(Protocol):
    """Texts to vectors, (N, D): on a side of a search, or of a symmetric task; titles are of documents."""

    def __call__(self, texts: Sequence[str], place: Place, titles: Sequence[str] | None = None) -> NDArray[np.float32]:
        """Vectors in the order of the texts."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """What every task has.

    Attributes:
        name: MTEB's, where the set is one of its; else the folder's.
        split: that is measured.
        left_out: rows that are not used, counted by reason.
    """

    name: str
    split: str
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)

    category: ClassVar[Category]
    main: ClassVar[str]
    """The score that MTEB reports."""

    @abstractmethod
    def measure(self, encode: Encode) -> Scores:
        """All scores, by mteb's names."""

    @property
    @abstractmethod
    def size(self) -> str:
        """How much is measured, in words."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Similarity(Task):
    """Pairs of sentences, and how alike people find them."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    scores: tuple[float, ...]

    category = "STS"
    main = "cosine_spearman"

    def measure(self, encode: Encode) -> Scores:
        """Spearman's correlation of cosines and people's scores."""
        return sts_scores(*both_sides(encode, self.first, self.second), self.scores)

    @property
    def size(self) -> str:
        """Pairs."""
        return f"{len(self.scores):,} pairs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs(Task):
    """Pairs of sentences that belong together (1) or not (0)."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    labels: tuple[int, ...]

    category = "PairClassification"
    main = "max_ap"

    def measure(self, encode: Encode) -> Scores:
        """Average precision over all thresholds."""
        return pair_scores(*both_sides(encode, self.first, self.second), self.labels)

    @property
    def size(self) -> str:
        """Pairs, and those that belong together."""
        return f"{len(self.labels):,} pairs, {sum(self.labels):,} positive"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Texts and their classes; without training texts, the others are cross-validated."""

    train: tuple[str, ...]
    train_labels: tuple[int | str, ...]
    test: tuple[str, ...]
    test_labels: tuple[int | str, ...]
    samples_per_label: int = SAMPLES_PER_LABEL

    category = "Classification"
    main = "accuracy"

    def measure(self, encode: Encode) -> Scores:
        """Accuracy of logistic regression on few-shot samples; only the drawn training texts are encoded."""
        test = encode(self.test, None)
        if not self.train:
            return cross_validated(test, self.test_labels, samples_per_label=self.samples_per_label)
        experiments = few_shot(self.train_labels, samples_per_label=self.samples_per_label)
        drawn = sorted({i for rows in experiments for i in rows})
        train = np.zeros((len(self.train), test.shape[1]), np.float32)
        train[drawn] = encode([self.train[i] for i in drawn], None)
        return class_scores(train, self.train_labels, test, self.test_labels, experiments)

    @property
    def size(self) -> str:
        """Texts and classes."""
        return f"{len(self.test):,} texts, {len(set(self.test_labels)):,} classes"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clustering(Task):
    """Sets of texts and their classes: one, of which samples are drawn; or whole ones, each clustered on its own."""

    sets: tuple[tuple[tuple[str, ...], tuple[int | str, ...]], ...]
    drawn: bool = True

    category = "Clustering"
    main = "v_measure"

    def measure(self, encode: Encode) -> Scores:
        """V-measure of mini-batch k-means."""
        vectors = [(encode(texts, None), labels) for texts, labels in self.sets]
        return cluster_scores(*vectors[0]) if self.drawn else cluster_sets_scores(vectors)

    @property
    def size(self) -> str:
        """Texts and sets."""
        sets = "" if self.drawn else f" in {len(self.sets):,} sets"
        return f"{sum(len(texts) for texts, _ in self.sets):,} texts{sets}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reranking(Task):
    """Queries, each with candidates of its own, right ones and others."""

    queries: tuple[str, ...]
    positives: tuple[tuple[str, ...], ...]
    negatives: tuple[tuple[str, ...], ...]

    category = "Reranking"
    main = "map_at_1000"

    def measure(self, encode: Encode) -> Scores:
        """Mean average precision of the candidates by cosine."""
        texts = list(dict.fromkeys(t for lists in (self.positives, self.negatives) for row in lists for t in row))
        place = {text: i for i, text in enumerate(texts)}
        queries, passages = unit(encode(self.queries, "query")), unit(encode(texts, "document"))
        qrels: dict[str, dict[str, int]] = {}
        run: dict[str, dict[str, float]] = {}
        for n, (right, wrong) in enumerate(zip(self.positives, self.negatives, strict=True)):
            ids = {f"apositive_{i:05}": text for i, text in enumerate(right)}  # mteb's ids: they decide ties
            ids |= {f"negative_{i:05}": text for i, text in enumerate(wrong)}
            qrels[str(n)] = {i: int(i.startswith("apositive")) for i in ids}
            found = passages[[place[text] for text in ids.values()]] @ queries[n]
            run[str(n)] = dict(zip(ids, found.tolist(), strict=True))
        return rerank_scores(qrels, run)

    @property
    def size(self) -> str:
        """Queries and candidates."""
        candidates = sum(map(len, self.positives)) + sum(map(len, self.negatives))
        return f"{len(self.queries):,} queries, {candidates:,} candidates"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval(Task):
    """Queries (id -> text), passages (id -> title, text) and qrels (query id -> passage id -> grade)."""

    queries: Mapping[str, str]
    passages: Mapping[str, tuple[str, str]]
    qrels: Mapping[str, Mapping[str, int]]

    category = "Retrieval"
    main = "ndcg_at_10"

    def rank(self, encode: Encode) -> dict[str, dict[str, float]]:
        """Query id -> passage id -> cosine, of the best ``DEPTH``."""
        titles, texts = zip(*self.passages.values(), strict=True)
        passages = unit(encode(texts, "document", titles))
        queries = unit(encode(list(self.queries.values()), "query"))
        return as_run(top_k(queries, passages, DEPTH), list(self.queries), list(self.passages))

    def measure(self, encode: Encode) -> Scores:
        """nDCG@10 over all passages."""
        return retrieval_scores(self.qrels, self.rank(encode))

    @property
    def size(self) -> str:
        """Queries and passages."""
        return f"{len(self.queries):,} queries, {len(self.passages):,} passages"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summarization(Task):
    """Texts' summaries by people and by machines, and people's scores of the latter."""

    human: tuple[tuple[str, ...], ...]
    machine: tuple[tuple[str, ...], ...]
    relevance: tuple[tuple[float, ...], ...]

    category = "Summarization"
    main = "cosine_spearman"

    def measure(self, encode: Encode) -> Scores:
        """Mean rank correlation of cosines and people's scores."""

        def by_text(lists: Sequence[Sequence[str]]) -> list[NDArray[np.float32]]:
            vectors = encode([text for row in lists for text in row], None)
            return np.split(vectors, np.cumsum([len(row) for row in lists])[:-1])

        return summary_scores(by_text(self.machine), by_text(self.human), self.relevance)

    @property
    def size(self) -> str:
        """Texts and machines' summaries."""
        return f"{len(self.human):,} texts, {sum(map(len, self.machine)):,} summaries"


def both_sides(
    encode: Encode, first: Sequence[str], second: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of both sides; a text that comes often is encoded once."""
    texts = list(dict.fromkeys([*first, *second]))
    vectors = encode(texts, None)
    place = {text: i for i, text in enumerate(texts)}
    return vectors[[place[text] for text in first]], vectors[[place[text] for text in second]]
