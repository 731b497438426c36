"""Weights of several models into one: towards the base, along a line or an arc, and the mean of several runs.

A tuned model between its base and itself keeps most of what it gained and forgets less (WiSE-FT, Wortsman et al.
2109.01903; LM-Cocktail, 2311.13534); the mean of runs that differ in their seed is better than each (model soups,
Wortsman et al. 2203.05482; Gemini Embedding, 2503.07891).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tokay.models.reft_model import ReftModel
from tokay.search.hybrid import within_one_error

PARALLEL = 1e-3
"""Angle in radians below which an arc is a line."""


@torch.no_grad()
def interpolate(tuned: nn.Module, base: nn.Module, weight: float, *, how: Literal["lerp", "slerp"] = "lerp") -> None:
    """Set the tuned model, in place, to the point ``weight`` of the way from its base to itself.

    Args:
        tuned: weight 1 leaves it.
        base: of the same architecture; weight 0 is it.
        weight: 0 to 1.
        how: ``lerp``, ``(1 - w) base + w tuned``; ``slerp`` goes along the arc between the two tensors' directions, as
            Qwen3-Embedding's checkpoints are merged (2506.05176), with lengths interpolated linearly.

    Of a model that edits hidden states over the base's own weights, the edits become ``weight`` times as large.

    Raises:
        TokayError: such edits cannot be made smaller.
    """
    edits = [edit for m in tuned.modules() if isinstance(m, ReftModel) for edit in m.adapter.edits.values()]
    for edit in edits:
        edit.scale(weight)  # type: ignore[operator]
    own = {id(parameter) for edit in edits for parameter in edit.parameters()}
    merge = lerp if how == "lerp" else slerp
    others = (parameter for parameter in tuned.parameters() if id(parameter) not in own)
    for mine, other in zip(others, base.parameters(), strict=True):
        mine.copy_(merge(other.detach().to(mine), mine, weight))


def lerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The point ``weight`` of the way from ``a`` to ``b`` on a line."""
    return torch.lerp(a, b, weight)


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The same on the arc between two tensors, each seen as one vector; a line where they are parallel or zero.

    ``(sin((1-w) θ) a/|a| + sin(w θ) b/|b|) / sin θ``, times ``(1-w) |a| + w |b|`` (Shoemake, SIGGRAPH 1985).
    """
    sizes = a.norm(), b.norm()
    if not all(size > 0 for size in sizes):
        return lerp(a, b, weight)
    u, v = a / sizes[0], b / sizes[1]
    angle = 2 * math.atan2(float((u - v).norm()), float((u + v).norm()))  # exact for small angles, where acos is not
    if angle < PARALLEL or math.pi - angle < PARALLEL:
        return lerp(a, b, weight)
    direction: Tensor = (math.sin((1 - weight) * angle) * u + math.sin(weight * angle) * v) / math.sin(angle)
    return direction * torch.lerp(sizes[0], sizes[1], weight)


@torch.no_grad()
def add_to_mean(mean: nn.Module, model: nn.Module, *, count: int) -> None:
    """Take one more model into a running mean of ``count``, in place: the soup of all, without holding them."""
    for mine, other in zip(mean.parameters(), model.parameters(), strict=True):
        mine.lerp_(other.detach().to(mine), 1 / (count + 1))


def choose_soup(found: Mapping[float, NDArray[np.float64]]) -> float:
    """The smallest weight of the tuned model whose dev quality is within one standard error of the best.

    Args:
        found: weight -> quality of each dev query.
    """
    return within_one_error(found)
