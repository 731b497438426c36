"""The one training loop: parameters, a loss and batches. It does not know what it trains."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from tokay.errors import TokayError

B = TypeVar("B")


@dataclasses.dataclass(frozen=True)
class Step:
    """What one optimiser step reports."""

    step: int
    loss: float
    learning_rate: float
    seconds: float


def rate_at(step: int, *, steps: int, warmup: float) -> float:
    """Factor on the learning rate: linear from 0 over ``warmup`` of the steps, then linear to 0."""
    rising = max(1, math.ceil(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return max(0.0, (steps - step) / max(1, steps - rising))


def train(
    module: nn.Module,
    loss_of: Callable[[B], Tensor],
    batches: Iterable[B],
    *,
    steps: int,
    learning_rate: float,
    warmup: float,
    weight_decay: float,
    seed: int,
    max_norm: float = 1.0,
) -> Iterator[Step]:
    """Run AdamW with linear warm-up and decay over ``batches``, yielding after every step.

    Only parameters with ``requires_grad`` are trained; biases and norms are not decayed. Gradients are clipped to
    ``max_norm``. Same seed, same batches and same number of threads give the same weights.

    Raises:
        TokayError: the loss is not finite.
    """
    torch.manual_seed(seed)
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=learning_rate,
    )
    module.train()
    for step, batch in enumerate(batches):
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate_at(step, steps=steps, warmup=warmup)
        loss = loss_of(batch)
        if not torch.isfinite(loss):
            raise TokayError(f"the loss is {loss.item()} at step {step}; lower train.learning_rate ({learning_rate})")
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, max_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield Step(step, loss.item(), optimizer.param_groups[0]["lr"], time.perf_counter() - began)
    module.eval()
