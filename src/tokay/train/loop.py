"""The one training loop: parameters, a function that adds gradients, and batches. It does not know what it trains."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from tokay.errors import TokayError
from tokay.train.checkpoints import Checkpoints, State
from tokay.train.engine import Engine

B = TypeVar("B")
In = TypeVar("In", contravariant=True)


@dataclasses.dataclass(frozen=True)
class Step:
    """What one optimiser step reports; ``dev`` is the figure of a look at the dev queries, where there was one."""

    step: int
    loss: float
    learning_rate: float
    norm: float
    seconds: float
    dev: float | None = None


class Trainee(Protocol[In]):
    """What is trained. Its part of a step: the loss of a batch and its gradients."""

    module: nn.Module

    def backward(self, batch: In) -> float:
        """Add this process's part of the gradients of the batch's loss to ``.grad``; return the whole loss."""

    def kind(self, batch: In) -> str | None:
        """Losses of batches of one kind can be compared; None: this one's may rise without harm."""

    def describe(self, batch: In) -> Mapping[str, Any]:
        """The batch as JSON values, for people who look at what made a loss fail."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    ``warmup`` is the share of steps with rising rate, ``max_norm`` what gradients are clipped to. ``patience`` looks
    without a better figure end the training, which then goes back to the best one; 0: no looks. ``look_every`` counts
    steps.
    """

    steps: int
    learning_rate: float
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_norm: float = 1.0
    patience: int = 0
    look_every: int = 10
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear from 0 over the warm-up, then linear to 0."""
        rising = max(1, math.ceil(self.steps * self.warmup))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        return self.learning_rate * max(0.0, (self.steps - step) / max(1, self.steps - rising))


def train(
    trainee: Trainee[B],
    batches: Callable[[int], Iterator[B]],
    schedule: Schedule,
    *,
    engine: Engine,
    checkpoints: Checkpoints | None = None,
    look: Callable[[], float] | None = None,
) -> Iterator[Step]:
    """Run AdamW over ``batches``, yielding after every step.

    Only parameters with ``requires_grad`` are trained; biases and norms are not decayed. Same seed, batches, device
    and number of threads give the same weights, whether or not the training was cut and went on from a checkpoint.

    Args:
        trainee: what is trained, on the engine's device.
        batches: from a step on.
        schedule: how long and how fast.
        engine: device, precision, processes.
        checkpoints: where to keep them; an unfinished training that is found there goes on.
        look: a figure on dev data, higher is better; called in every process.

    Raises:
        TokayError: the loss is not finite or has diverged; the message says where its batch is.
    """
    named = {name: p for name, p in trainee.module.named_parameters() if p.requires_grad}
    trained = list(named.values())
    optimizer = engine.optimizer(
        torch.optim.AdamW(
            [
                {"params": [p for p in trained if p.ndim > 1], "weight_decay": schedule.weight_decay},
                {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=schedule.learning_rate,
        )
    )
    state = State()
    best: dict[str, Tensor] = {}
    if checkpoints is not None and (found := checkpoints.newest()):
        state, best = found.restore(named, optimizer, engine.device)
    trainee.module.train()
    for batch in batches(state.step):
        began = time.perf_counter()
        step = state.step
        rate = schedule.rate(step)
        engine.seed(schedule.seed, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = trainee.backward(batch)
        if not math.isfinite(loss):
            raise _failed(f"the loss is {loss}", batch, trainee, step, schedule, checkpoints)
        engine.sum_gradients(trained)
        norm = engine.clip(trained, schedule.max_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        kind = trainee.kind(batch)
        state.add(loss, kind or "")
        if kind is not None and state.diverged:
            smoothed, _, lowest = state.trend
            what = f"the loss has diverged: it fell to {lowest:.3g} and is {smoothed:.3g} now"
            raise _failed(what, batch, trainee, step, schedule, checkpoints)
        seen = None
        if look and schedule.patience and (state.step % schedule.look_every == 0 or state.step == schedule.steps):
            seen = _look(look, trainee.module)
            state.looks_since = 0 if seen > state.best else state.looks_since + 1
            if seen > state.best:
                state.best = seen
                best = {name: p.detach().clone() for name, p in named.items()}
        yield Step(step, loss, rate, norm, time.perf_counter() - began, seen)
        if schedule.patience and state.looks_since >= schedule.patience:
            break
        if checkpoints is not None and engine.is_main and checkpoints.is_due():
            checkpoints.save(named, optimizer, state, best)
    with torch.no_grad():
        for name, value in best.items():
            named[name].copy_(value)
    engine.forget_optimizers()
    trainee.module.eval()


def _look(look: Callable[[], float], module: nn.Module) -> float:
    module.eval()
    seen = look()
    module.train()
    return seen


def _failed(
    what: str,
    batch: B,
    trainee: Trainee[B],
    step: int,
    schedule: Schedule,
    checkpoints: Checkpoints | None,
) -> TokayError:
    where = f"; its batch is in {checkpoints.save_batch(trainee.describe(batch))}" if checkpoints is not None else ""
    return TokayError(
        f"{what} at step {step} of {schedule.steps}{where}; lower train.learning_rate ({schedule.learning_rate:g})"
    )
