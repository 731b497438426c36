"""Is an export still the model? Cosine of each text's vector, and nDCG on queries with labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokay.evaluate.metrics import evaluate_run
from tokay.models.embedder import Embedder
from tokay.search.dense import top_k, unit
from tokay.search.hybrid import as_run


@dataclasses.dataclass(frozen=True)
class Material:
    """What both models are asked: passages by id, and labelled queries where there are some.

    Attributes:
        ids: of the N passages.
        texts: of the passages, without titles.
        titles: of the passages.
        queries: query id -> text.
        qrels: query id -> passage id -> gain; passages among ``ids``.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    titles: Sequence[str]
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]


@dataclasses.dataclass(frozen=True)
class Bar:
    """What an export must reach to be called good; None: not asked."""

    mean_cosine: float | None
    least_cosine: float | None
    lost_ndcg: float
    kept_share: float = 0.0


BARS = {
    "onnx": Bar(0.99999, 0.9999, 0.001),
    "onnx-int8": Bar(0.99, None, 0.005),
    "static": Bar(None, None, 1.0, kept_share=0.8),
}
"""The same graph in another runtime is the same model but for rounding; one byte a weight is nearly the same; a table
of token vectors is another model, which must keep four fifths of the nDCG@10 to stand in for it."""


@dataclasses.dataclass(frozen=True)
class Parity:
    """What was found.

    Attributes:
        texts: N passages and Q queries.
        queries: Q, those with labels.
        mean_cosine: of all texts.
        least_cosine: of all texts.
        ndcg: nDCG@10 of the model, and of the export; None without labels.
        faults: what falls short of the bar; empty when it is good.
    """

    texts: int
    queries: int
    mean_cosine: float
    least_cosine: float
    ndcg: tuple[float, float] | None
    faults: list[str]

    @property
    def good(self) -> bool:
        """Whether the export may stand in for the model."""
        return not self.faults

    def sentence(self) -> str:
        """One line of what was found."""
        parts = [f"cosine of {self.texts:,} texts {self.mean_cosine:.5f} on average, {self.least_cosine:.5f} at least"]
        if self.ndcg:
            exact, found = self.ndcg
            parts.append(f"nDCG@10 {found:.4f} for {exact:.4f} on {self.queries:,} queries ({found - exact:+.4f})")
        return "; ".join(parts)


@dataclasses.dataclass(frozen=True)
class Vectors:
    """One model's vectors of the material: passages (N, D), queries (Q, D)."""

    passages: NDArray[np.float32]
    queries: NDArray[np.float32]


def vectors_of(embedder: Embedder, material: Material, progress: Any = None) -> Vectors:
    """Encode the material."""
    return Vectors(
        embedder.encode(material.texts, titles=material.titles, progress=progress),
        embedder.encode(list(material.queries.values()), kind="query", progress=progress),
    )


def compare_vectors(exact: Vectors, found: Vectors, material: Material, bar: Bar) -> Parity:
    """Hold an export's vectors against the model's.

    Raises:
        ValueError: they are of another number of texts.
    """
    cosines = np.concatenate([cosines_of(exact.passages, found.passages), cosines_of(exact.queries, found.queries)])
    ndcg = (_ndcg(exact, material), _ndcg(found, material)) if material.qrels else None
    parity = Parity(len(cosines), len(material.qrels), float(cosines.mean()), float(cosines.min()), ndcg, [])
    return dataclasses.replace(parity, faults=list(_faults(parity, found, bar)))


def _faults(parity: Parity, found: Vectors, bar: Bar) -> Any:
    if not all(np.isfinite(part).all() for part in (found.passages, found.queries)):
        yield "some vectors are not numbers"
    if bar.mean_cosine is not None and not parity.mean_cosine >= bar.mean_cosine:
        yield f"cosine is {parity.mean_cosine:.5f} on average; expected {bar.mean_cosine} or more"
    if bar.least_cosine is not None and not parity.least_cosine >= bar.least_cosine:
        yield f"the least cosine is {parity.least_cosine:.5f}; expected {bar.least_cosine} or more"
    if parity.ndcg:
        exact, now = parity.ndcg
        if not exact - now <= bar.lost_ndcg:
            yield f"nDCG@10 falls by {exact - now:.4f}; expected at most {bar.lost_ndcg}"
        if not now >= bar.kept_share * exact:
            yield f"nDCG@10 is {now / exact:.0%} of the model's; expected {bar.kept_share:.0%} or more"


def cosines_of(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine of each row of ``a`` with its row of ``b``: (N, D) twice -> (N,)."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} vectors against {len(b)}")
    if a.shape[1] != b.shape[1]:  # a table may be narrower than its model
        a, b = (unit(part, min(a.shape[1], b.shape[1])) for part in (a, b))
    wide, other = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1) * np.linalg.norm(other, axis=1)
    return np.asarray((wide * other).sum(1) / np.maximum(lengths, 1e-12))


def _ndcg(vectors: Vectors, material: Material) -> float:
    asked = [i for i, query_id in enumerate(material.queries) if query_id in material.qrels]
    names = [q for q in material.queries if q in material.qrels]
    ranking = top_k(unit(vectors.queries[asked]), unit(vectors.passages), 10)
    values = evaluate_run(material.qrels, as_run(ranking, names, material.ids))["ndcg@10"].values()
    return float(np.mean(list(values)))
