"""Losses as pure functions of tensors.

Letters: B rows of a batch, C distinct passages in it, D width, d a Matryoshka width, t the temperature that divides
cosines. Vectors need not be normalised: every loss normalises, so that truncation is followed by normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def contrastive(
    queries: Tensor,
    passages: Tensor,
    *,
    target: Tensor,
    allowed: Tensor,
    allowed_queries: Tensor | None = None,
    temperature: float,
) -> Tensor:
    """InfoNCE over the columns that each row may see; Gecko's L_main is one choice of columns.

    ``L = mean_i -log( e^{s(q_i,p_i)/t} / (sum_{j in allowed_i} e^{s(q_i,p_j)/t} + sum_{j in allowed_queries_i}
    e^{s(q_i,q_j)/t}) )`` with s = cosine. Gecko (2403.20327, appendix B) allows all rows' positives, the row's *own*
    hard negative only, and the other queries (same tower). Each distinct passage is one column, where the paper
    would count a passage once for every row that has it; false negatives are columns that are not allowed.

    Args:
        queries: (B, D).
        passages: (C, D), the distinct passages of the batch.
        target: (B,) int64, the column of each row's positive.
        allowed: (B, C) bool, the columns in each row's denominator; its target is always in it.
        allowed_queries: (B, B) bool, the other queries in each row's denominator; None: no same-tower term.
        temperature: t, in cosine units.

    Returns:
        The mean over rows, a scalar.
    """
    q, p = F.normalize(queries, dim=-1), F.normalize(passages, dim=-1)
    scores = q @ p.T / temperature  # (B, C)
    positive = scores.gather(1, target[:, None]).squeeze(1)  # (B,)
    seen = allowed.scatter(1, target[:, None], True)
    columns = scores.masked_fill(~seen, -torch.inf)
    if allowed_queries is not None:
        columns = torch.cat([columns, (q @ q.T / temperature).masked_fill(~allowed_queries, -torch.inf)], dim=1)
    return (columns.logsumexp(1) - positive).mean()


def matryoshka(
    loss: Callable[[Tensor, Tensor], Tensor], queries: Tensor, passages: Tensor, *, dims: Sequence[int]
) -> Tensor:
    """Mean of a loss over truncated copies of the vectors (Kusupati et al. 2022; Gecko 3.3 with 768 and 256).

    Gecko does not publish the weights of the widths; ours are equal. With the full width alone this is the loss.
    """
    return torch.stack([loss(queries[:, :d], passages[:, :d]) for d in dims]).mean()
