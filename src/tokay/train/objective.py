"""Settings to one loss of a batch's vectors: which terms, at which widths, how they are weighed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import Tensor

from tokay.settings import TrainSettings
from tokay.train.batches import Batch
from tokay.train.losses import contrastive, embedding_match, graded_kl, margin_mse, matryoshka, spread_out

GRADES = 3
"""The highest grade, so that MarginMSE compares cosines with shares of it."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss of a batch, as a function of its texts' vectors.

    ``dims`` are the Matryoshka widths. Every term is taken at each of them, and they are averaged by
    ``settings.dim_weights``.
    """

    settings: TrainSettings
    dims: tuple[int, ...]

    def __call__(self, vectors: Tensor, batch: Batch, teacher: Tensor | None) -> Tensor:
        """(T, D) vectors of the batch's texts and (M, D) of the base's for ``matched`` -> the loss."""
        terms = []
        if len(batch.query):
            queries, passages = vectors[batch.query], vectors[batch.passage]
            terms.append(self._at_widths(lambda q, p: self._rows(q, p, batch), queries, passages))
        if teacher is not None:
            terms.append(self._at_widths(embedding_match, vectors[batch.matched], teacher))
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def _at_widths(self, loss: Callable[..., Tensor], *vectors: Tensor) -> Tensor:
        return matryoshka(loss, *vectors, dims=self.dims, weights=self.settings.dim_weights or None)

    def _rows(self, queries: Tensor, passages: Tensor, batch: Batch) -> Tensor:
        s = self.settings
        total = contrastive(
            queries,
            passages,
            target=batch.target,
            allowed=batch.allowed,
            allowed_queries=batch.allowed_queries,
            hard=batch.hard,
            hardness=s.hardness,
            margin=s.false_negative_margin,
            temperature=s.temperature,
        )
        if s.spread_out:
            total = total + s.spread_out * (spread_out(queries) + spread_out(passages[batch.target]))
        if s.distil == "kl":
            total = total + s.distil_weight * graded_kl(
                queries,
                passages,
                columns=batch.candidates,
                grades=batch.grades,
                temperature=s.temperature,
                teacher_temperature=s.distil_temperature,
            )
        elif s.distil == "margin":
            total = total + s.distil_weight * margin_mse(
                queries, passages, target=batch.target, columns=batch.candidates, grades=batch.grades, scale=1 / GRADES
            )
        return total
