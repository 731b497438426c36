"""A linear map behind the query vectors, trained in seconds: passages and the model itself stay as they are.

``W = W0 + ΔW`` minimises ``ranking_loss(q W') + λ |ΔW|²`` (Frobenius). The prior W0 is the identity, or, into a space
of other vectors, the ridge regression of the passages' vectors there on those here. A weak λ learns the documents that
had queries and spoils the others: on Python's manual, λ = 0.01 gave +0.090 and -0.028 nDCG@10 by cross-validation, 0.06
+0.060 and +0.004 (docs/log.md). So λ is chosen on both: each query is asked with its document's other queries in
training, and with none of them.

Letters: Q queries, D width of the query vectors, W width of the passages', N passages.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from tokay.progress import Progress, Silent
from tokay.search.hybrid import within_one_error
from tokay.train.frozen import Asked, Frozen, Targets, ranking_loss, targets_of

STRENGTHS = (0.3, 0.1, 0.06, 0.03, 0.015)
"""λ, strongest first; no map at all is tried too."""
FOLDS = 4
ITERATIONS = 10
"""Of L-BFGS for each strength, from the map of the one before."""
RIDGE = 1e-3
"""Of the prior between two spaces, for each passage."""


@dataclasses.dataclass(frozen=True)
class Tried:
    """One strength by cross-validation: mean nDCG@10 of queries of documents with other queries, and without."""

    strength: float
    seen: float
    unseen: float


@dataclasses.dataclass(frozen=True)
class Map:
    """A trained map: the matrix (W, D), its strength (infinite: it is the prior), and all that were tried."""

    matrix: NDArray[np.float32]
    strength: float
    tried: tuple[Tried, ...]


def train_map(
    asked: Sequence[Asked],
    queries: NDArray[np.float32],
    frozen: Frozen,
    *,
    prior: NDArray[np.float32] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    progress: Progress | None = None,
) -> Map:
    """Choose the strength by cross-validation and fit the map on all queries.

    The choice is the strongest whose mean of the two qualities is within one standard error of the best.

    Args:
        asked: training-side queries.
        queries: their vectors, (Q, D).
        frozen: the passages.
        prior: W0, (W, D); None: the identity.
        strengths: λ, each above 0.
        progress: advanced by fits.
    """
    progress = progress or Silent()
    prior = np.eye(queries.shape[1], dtype=np.float32) if prior is None else prior
    order = sorted(strengths, reverse=True)
    progress.start("query map: fits", (2 * FOLDS + 1) * len(order))
    found = {kind: _validated(asked, queries, frozen, prior, order, kind, progress) for kind in ("query", "document")}
    both = {-strength: (found["query"][strength] + values) / 2 for strength, values in found["document"].items()}
    chosen = -within_one_error(both)
    tried = tuple(
        Tried(strength, float(found["query"][strength].mean()), float(values.mean()))
        for strength, values in found["document"].items()
    )
    matrix = prior
    for strength, fitted in path(queries, targets_of(asked, frozen), prior, [s for s in order if s >= chosen]):
        progress.advance()
        matrix = fitted if strength == chosen else matrix
    return Map(matrix, chosen, tried)


def ridge_prior(here: NDArray[np.float32], there: NDArray[np.float32]) -> NDArray[np.float32]:
    """The linear map (W, D) from one model's vectors (N, D) to another's (N, W) of the same texts."""
    x, y = here.astype(np.float64), there.astype(np.float64)
    gram = x.T @ x + RIDGE * len(x) * np.eye(x.shape[1])
    return np.asarray(np.linalg.solve(gram, x.T @ y).T, np.float32)


def _validated(
    asked: Sequence[Asked],
    queries: NDArray[np.float32],
    frozen: Frozen,
    prior: NDArray[np.float32],
    strengths: Sequence[float],
    kind: str,
    progress: Progress,
) -> dict[float, NDArray[np.float64]]:
    """Strength -> nDCG@10 of each query, when it, or its whole document, is not trained on; infinite: the prior."""
    keys = [one.query_id if kind == "query" else one.document_id for one in asked]
    folds = [_fold(key) for key in keys]
    found: dict[float, NDArray[np.float64]] = {math.inf: frozen.quality(asked, queries @ prior.T)}
    found |= {strength: found[math.inf].copy() for strength in strengths}
    for fold in range(FOLDS):
        held = [i for i, other in enumerate(folds) if other == fold]
        kept = [i for i, other in enumerate(folds) if other != fold]
        if not held or not kept:
            progress.advance(len(strengths))
            continue
        unseen = {asked[i].document_id for i in held} if kind == "document" else set()
        targets = targets_of([asked[i] for i in kept], frozen.without(unseen))
        for strength, matrix in path(queries[kept], targets, prior, strengths):
            found[strength][held] = frozen.quality([asked[i] for i in held], queries[held] @ matrix.T)
            progress.advance()
    return found


def path(
    queries: NDArray[np.float32], targets: Targets, prior: NDArray[np.float32], strengths: Sequence[float]
) -> Iterator[tuple[float, NDArray[np.float32]]]:
    """The map of each strength, each begun from the one before."""
    start = torch.from_numpy(queries[targets.rows.numpy()])  # (Q, D)
    where = start @ torch.from_numpy(prior).T  # (Q, W)
    change = torch.zeros(prior.shape, requires_grad=True)
    for strength in strengths:
        optimizer = torch.optim.LBFGS([change], max_iter=ITERATIONS, history_size=8, line_search_fn="strong_wolfe")

        def closure(optimizer: torch.optim.Optimizer = optimizer, strength: float = strength) -> torch.Tensor:
            optimizer.zero_grad()
            loss = ranking_loss(where + start @ change.T, targets) + strength * change.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        if len(start):
            optimizer.step(closure)  # type: ignore[no-untyped-call]
        yield strength, prior + change.detach().numpy()


def _fold(key: str) -> int:
    """A fold that depends on nothing but the key."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:4], "big") % FOLDS


def as_settings(found: Map) -> Mapping[str, object]:
    """What was tried, as JSON has it."""
    return {
        "strength": None if math.isinf(found.strength) else found.strength,
        "tried": [
            {**dataclasses.asdict(one), "strength": None if math.isinf(one.strength) else one.strength}
            for one in found.tried
        ],
    }
