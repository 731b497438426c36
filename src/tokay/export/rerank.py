"""A reranker as ONNX in float32 and int8, each held against the model on real candidates before it gets its name."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokay.export.int8 import SCHEMES, choose_int8
from tokay.export.onnx import write_cross_encoder
from tokay.models.onnx_cross_encoder import OnnxCrossEncoder
from tokay.models.onnx_embedder import FILES
from tokay.models.torch_cross_encoder import TorchCrossEncoder

DYNAMIC = tuple(name for name in SCHEMES if name.startswith("dynamic"))
"""Ranges taken from calibration texts were far worse for embedders (docs/log.md), and take longest."""
ROUNDING = 1e-4
"""In logits: what a runtime may change; where all logits of a list are nearly equal, a correlation says nothing."""
Lists = Sequence[Sequence[tuple[str, str]]]
"""Pairs of each query."""


@dataclasses.dataclass(frozen=True)
class Bar:
    """What an export must reach."""

    mean_correlation: float
    lost_ndcg: float


BARS = {"onnx": Bar(0.9999, 0.001), "onnx-int8": Bar(0.98, 0.005)}
"""The same graph in another runtime is the same model but for rounding; one byte a weight is nearly the same."""


@dataclasses.dataclass(frozen=True)
class PairParity:
    """What was found of an exported reranker.

    Attributes:
        pairs: that were read.
        correlation: of each query's logits with the model's, on average.
        least: the lowest.
        ndcg: nDCG@10 of the model, and of the export.
        faults: what falls short of the bar; empty when it is good.
    """

    pairs: int
    correlation: float
    least: float
    ndcg: tuple[float, float]
    faults: list[str]

    @property
    def good(self) -> bool:
        """Whether the export may stand in for the model."""
        return not self.faults

    def sentence(self) -> str:
        """One line of what was found."""
        exact, found = self.ndcg
        return (
            f"logits of {self.pairs:,} pairs correlate by {self.correlation:.4f} within a query, {self.least:.3f} at "
            f"least; nDCG@10 {found:.4f} for {exact:.4f} ({found - exact:+.4f})"
        )


@dataclasses.dataclass(frozen=True)
class ExportedReranker:
    """What came of one form; a form that falls short is not kept."""

    backend: str
    bytes: int
    parity: PairParity
    scheme: str = ""


def export_reranker(
    model: TorchCrossEncoder,
    folder: Path,
    lists: Lists,
    exact: NDArray[np.float32],
    quality: Callable[[NDArray[np.float32]], float],
) -> list[ExportedReranker]:
    """Write ``onnx/model.onnx`` and ``onnx/model_qint8.onnx`` into a reranker's folder, and keep those that hold.

    Args:
        model: the reranker, saved in ``folder``.
        folder: gets the graphs.
        lists: real candidates of some queries.
        exact: the model's logits of all pairs, list after list.
        quality: nDCG@10 that such logits give.
    """

    def read(path: Path) -> NDArray[np.float32]:
        graph = OnnxCrossEncoder(path, model.tokens, model.max_tokens)
        return graph.score([pair for one in lists for pair in one])

    def closeness(path: Path) -> NDArray[np.float64]:
        return correlations(exact, read(path), [len(one) for one in lists])

    done = []
    paths = {"onnx": folder / FILES[False], "onnx-int8": folder / FILES[True]}
    write_cross_encoder(model, paths["onnx"])
    tried = choose_int8(paths["onnx"], paths["onnx-int8"], (), closeness, schemes=DYNAMIC)
    for backend, path in paths.items():
        found = read(path)
        parity = compare_logits(
            exact, found, [len(one) for one in lists], (quality(exact), quality(found)), BARS[backend]
        )
        scheme = tried[-1].scheme if backend == "onnx-int8" else ""
        done.append(ExportedReranker(backend, path.stat().st_size, parity, scheme))
        if not parity.good:
            path.unlink()
    return done


def compare_logits(
    exact: NDArray[np.float32], found: NDArray[np.float32], sizes: Sequence[int], ndcg: tuple[float, float], bar: Bar
) -> PairParity:
    """Hold an export's logits against the model's; both list after list, of these sizes."""
    close = correlations(exact, found, sizes)
    faults = []
    if not np.isfinite(found).all():
        faults.append("some scores are not numbers")
    if not close.mean() >= bar.mean_correlation:
        faults.append(f"logits correlate by {close.mean():.4f}; expected {bar.mean_correlation} or more")
    if not ndcg[0] - ndcg[1] <= bar.lost_ndcg:
        faults.append(f"nDCG@10 falls by {ndcg[0] - ndcg[1]:.4f}; expected at most {bar.lost_ndcg}")
    return PairParity(len(exact), float(close.mean()), float(close.min()), ndcg, faults)


def correlations(exact: NDArray[np.float32], found: NDArray[np.float32], sizes: Sequence[int]) -> NDArray[np.float64]:
    """Pearson's correlation of two models' logits within each list; 1 where they differ by a shift and rounding."""
    ends = np.cumsum([0, *sizes])
    values = []
    for start, end in itertools.pairwise(ends.tolist()):
        a, b = (np.asarray(part[start:end], np.float64) for part in (exact, found))
        a, b = a - a.mean(), b - b.mean()
        lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
        alike = float(np.abs(a - b).max()) < ROUNDING
        values.append(1.0 if alike else float(a @ b) / max(lengths, 1e-12))
    return np.array(values)
