"""Dev queries with their passages: what early stopping and the choice of a soup look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tokay.evaluate.metrics import evaluate_run
from tokay.models.embedder import Embedder
from tokay.search.dense import top_k, unit
from tokay.search.hybrid import as_run


@dataclasses.dataclass(frozen=True)
class DevSet:
    """Queries of documents that training does not see, and the passages that they are searched among.

    ``queries`` is id -> text, ``passages`` id -> (title, text), ``qrels`` query id -> passage id -> grade.
    """

    queries: Mapping[str, str]
    passages: Mapping[str, tuple[str, str]]
    qrels: Mapping[str, Mapping[str, int]]

    def measure(self, embedder: Embedder) -> NDArray[np.float64]:
        """nDCG@10 of each query, in the order of ``queries``."""
        titles, texts = zip(*self.passages.values(), strict=True)
        vectors = unit(embedder.encode(texts, titles=titles))
        asked = unit(embedder.encode(list(self.queries.values()), kind="query"))
        run = as_run(top_k(asked, vectors, 10), list(self.queries), list(self.passages))
        values = evaluate_run(self.qrels, run)["ndcg@10"]
        return np.array([values[query_id] for query_id in self.queries])
