"""A learning rate by a short sweep (Smith 2015, arXiv 1506.01186): raise it step by step and watch the loss."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from tokay.train.engine import Engine
from tokay.train.loop import Schedule, Trainee

B = TypeVar("B")

LOWEST, HIGHEST, STEPS = 1e-6, 1e-2, 40
SMOOTH = 0.7


def find_rate(
    trainee: Trainee[B], batches: Callable[[int], Iterator[B]], schedule: Schedule, *, engine: Engine
) -> float:
    """A tenth of the rate at which the smoothed loss is lowest, on a sweep from 1e-6 to 1e-2; weights are put back.

    The sweep has at most 40 steps, on the training's own first batches, and ends when the loss has doubled.
    """
    trained = [p for p in trainee.module.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    optimizer = engine.optimizer(torch.optim.AdamW(trained, weight_decay=schedule.weight_decay))
    trainee.module.train()
    smoothed, lowest, best = math.nan, math.inf, LOWEST
    endless = itertools.chain.from_iterable(batches(0) for _ in range(STEPS))
    for number, batch in enumerate(itertools.islice(endless, STEPS)):
        rate = LOWEST * (HIGHEST / LOWEST) ** (number / (STEPS - 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = trainee.backward(batch)
        smoothed = loss if math.isnan(smoothed) else SMOOTH * smoothed + (1 - SMOOTH) * loss
        if smoothed < lowest:
            lowest, best = smoothed, rate
        if not math.isfinite(loss) or smoothed > 2 * lowest:
            break
        engine.sum_gradients(trained)
        engine.clip(trained, schedule.max_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    engine.forget_optimizers()
    trainee.module.zero_grad(set_to_none=True)
    with torch.no_grad():
        for p, value in zip(trained, before, strict=True):
            p.copy_(value)
    return best / 10
