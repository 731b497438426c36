"""Where a step is computed: device, precision and processes, through accelerate.

Several processes share the texts of one and the same batch: each encodes its part, all see all vectors, and gradients
are summed. So every row has the negatives of the whole batch, and two processes give what one gives.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tokay.errors import MissingExtra, TokayError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
T = TypeVar("T")

_ACCELERATE = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


class Engine:
    """Accelerate's accelerator, as far as the loop and what it trains need it.

    Raises:
        TokayError: fp16 without a GPU; a tracker that is not installed.
    """

    def __init__(self, *, precision: Precision = "auto", track: str = "", folder: Path | None = None) -> None:
        _need_accelerate()
        if track and importlib.util.find_spec(track) is None:
            raise TokayError(f"train.track is {track!r}, which is not installed: pip install {track}")
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        chosen = best_precision() if precision == "auto" else precision
        if chosen == "fp16" and not torch.cuda.is_available():
            raise TokayError("train.precision is 'fp16', which needs a GPU; use 'bf16' or 'fp32'")
        state = AcceleratorState._shared_state
        if state and state.get("_mixed_precision") != _ACCELERATE[chosen]:
            AcceleratorState._reset_state()  # accelerate keeps one precision a process; a later run may want another
        self.precision = chosen
        self.accelerator = Accelerator(
            mixed_precision=_ACCELERATE[chosen], log_with=track or None, project_dir=str(folder) if folder else None
        )
        self.track = track

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def processes(self) -> int:
        """How many share a batch."""
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs."""
        return bool(self.accelerator.is_main_process)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Products in the chosen precision; weights, sums and losses stay float32."""
        context: contextlib.AbstractContextManager[Any] = self.accelerator.autocast()
        return context

    def shared_casts(self) -> contextlib.AbstractContextManager[Any]:
        """Let all ``autocast`` contexts inside share the weights that they cast: once a step and not once a chunk.

        Casts are forgotten when the outermost context ends, also of one that is switched off.
        """
        return torch.autocast(self.device.type, enabled=False)

    def forget_casts(self) -> None:
        """Cast anew from here on."""
        torch.clear_autocast_cache()

    def backward(self, loss: Tensor) -> None:
        """Gradients of a scalar, scaled in fp16."""
        self.accelerator.backward(loss)

    def optimizer(self, plain: torch.optim.Optimizer) -> Any:
        """The same, stepping through the gradient scaler in fp16."""
        return self.accelerator.prepare_optimizer(plain, device_placement=False)

    def forget_optimizers(self) -> None:
        """Let go of finished trainings' weights and moments, which accelerate would keep as long as itself."""
        self.accelerator._optimizers.clear()

    def seed(self, seed: int, step: int) -> None:
        """Random numbers of a step: a function of seed, step and process, so that nothing has to be kept of them."""
        mixed = np.random.SeedSequence([seed, step, self.accelerator.process_index]).generate_state(1, np.uint64)
        torch.manual_seed(int(mixed[0] >> np.uint64(1)))

    def share(self, items: Sequence[T]) -> list[T]:
        """What of ``items`` this process does: every n-th, so that like work goes to each."""
        return list(items[self.accelerator.process_index :: self.processes])

    def gather(self, mine: Tensor, sizes: Sequence[int]) -> Tensor:
        """Everybody's rows, in the order of the items that ``share`` dealt out.

        Args:
            mine: (n, D), the rows of this process's items, item after item.
            sizes: rows of every item, of all processes.

        Returns:
            (sum of sizes, D), without a graph.
        """
        if self.processes == 1:
            return mine
        counts = [sum(sizes[p :: self.processes]) for p in range(self.processes)]
        padded = mine.new_zeros(max(counts), mine.shape[1])
        padded[: len(mine)] = mine
        everybody = self.accelerator.gather(padded).split(max(counts))
        pieces: list[Tensor] = [mine[:0]] * len(sizes)
        for p, rows in enumerate(everybody):
            for item, piece in zip(
                range(p, len(sizes), self.processes),
                rows[: counts[p]].split(list(sizes[p :: self.processes])),
                strict=True,
            ):
                pieces[item] = piece
        return torch.cat(pieces)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all processes, in place."""
        if self.processes == 1:
            return
        trained = [p for p in parameters if p.grad is not None]  # the same in each, as each runs the whole model
        flat = torch.cat([p.grad.reshape(-1) for p in trained if p.grad is not None])
        summed = self.accelerator.reduce(flat, reduction="sum")
        for p, part in zip(trained, summed.split([p.numel() for p in trained]), strict=True):
            p.grad = part.view_as(p)

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> float:
        """Clip the gradients, unscaled, to a norm of ``max_norm``; returns the norm that they had."""
        return float(self.accelerator.clip_grad_norm_(parameters, max_norm))

    def start_tracking(self, project: str, settings: Mapping[str, Any]) -> None:
        """Open the tracker that was asked for."""
        if self.track:
            self.accelerator.init_trackers(project, config=dict(settings))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send figures of a step to the tracker, if there is one."""
        if self.track:
            self.accelerator.log(dict(values), step=step)

    def stop_tracking(self) -> None:
        """Close the tracker."""
        if self.track:
            self.accelerator.end_training()


def is_main_process() -> bool:
    """Whether this is the one process of several that writes and reports."""
    _need_accelerate()
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def _need_accelerate() -> None:
    if importlib.util.find_spec("accelerate") is None:
        raise MissingExtra("training", "train", "accelerate")


def best_precision() -> Literal["fp32", "bf16"]:
    """bf16 where the processor multiplies it natively, which doubled the speed (docs/log.md); else fp32."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "fp32"
