"""Checkpoints of a training: whole or not there, and never those of another training.

A checkpoint is written into a hidden folder and renamed when all of it is on the disk. ``state.json`` names its files
with their sizes, so that a damaged one is not taken for a whole one; the one before is kept until then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokay.errors import TokayError

STATE = "state.json"

DIVERGED = 3.0
"""Training has diverged when the smoothed loss stands at so many times its lowest value, and above where it began."""

SMOOTH = 0.9
"""Of the smoothed loss: how much of it is the one before."""


@dataclasses.dataclass
class State:
    """What a training remembers beside weights and moments: it is in every checkpoint."""

    step: int = 0
    best: float = -math.inf
    looks_since: int = 0
    kind: str = ""
    trends: dict[str, list[float]] = dataclasses.field(default_factory=dict)  # kind -> smoothed, first, lowest loss

    def add(self, loss: float, kind: str = "") -> None:
        """Take in the loss of a step; losses of one kind of batch are compared with each other alone."""
        smoothed, first, lowest = self.trends.get(kind, (loss, loss, math.inf))
        smoothed = SMOOTH * smoothed + (1 - SMOOTH) * loss
        self.trends[kind] = [smoothed, first, min(lowest, smoothed)]
        self.kind = kind
        self.step += 1

    @property
    def trend(self) -> tuple[float, float, float]:
        """Smoothed, first and lowest loss of the last step's kind."""
        smoothed, first, lowest = self.trends.get(self.kind, (math.nan, math.nan, math.inf))
        return smoothed, first, lowest

    @property
    def diverged(self) -> bool:
        """Whether the loss of the last step's kind has run away."""
        smoothed, first, lowest = self.trend
        return smoothed > max(DIVERGED * lowest, first)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One that is whole; ``step`` is how many steps were done."""

    path: Path
    step: int

    def restore(
        self, named: Mapping[str, nn.Parameter], optimizer: Any, device: torch.device
    ) -> tuple[State, dict[str, Tensor]]:
        """Set weights and moments; returns the state, and the best weights of a look so far."""
        from safetensors.torch import load_file

        saved = load_file(self.path / "weights.safetensors")
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(saved[name])
        optimizer.load_state_dict(torch.load(self.path / "optimizer.pt", map_location="cpu", weights_only=True))
        best_file = self.path / "best.safetensors"
        best = {n: v.to(device) for n, v in load_file(best_file).items()} if best_file.is_file() else {}
        return State(**json.loads((self.path / STATE).read_text(encoding="utf-8"))["state"]), best


class Checkpoints:
    """The checkpoints of one training, in a folder of their own.

    Args:
        folder: made when the first is written.
        identity: says what is trained on what; a checkpoint of another identity is refused.
        minutes: between two; 0: none are written.
        drop_others: a checkpoint of another identity is removed, where the folder is the caller's own.
    """

    def __init__(self, folder: Path, *, identity: str, minutes: float, drop_others: bool = False) -> None:
        self.folder = folder
        self.drop_others = drop_others
        self.identity = identity
        self.minutes = minutes
        self.last = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time for one."""
        return self.minutes > 0 and time.monotonic() - self.last >= 60 * self.minutes

    def newest(self) -> Checkpoint | None:
        """The last whole one.

        Raises:
            TokayError: it belongs to another training.
        """
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            with contextlib.suppress(OSError, ValueError, KeyError):
                entries = json.loads((path / STATE).read_text(encoding="utf-8"))
                if all((path / name).stat().st_size == size for name, size in entries["files"].items()):
                    if entries["identity"] != self.identity and self.drop_others:
                        self.clear()
                        return None
                    if entries["identity"] != self.identity:
                        raise TokayError(
                            f"{path} is a checkpoint of another training (other model, data or settings); delete "
                            f"{self.folder} to start anew, or write somewhere else"
                        )
                    return Checkpoint(path, entries["state"]["step"])
        return None

    def save(self, named: Mapping[str, nn.Parameter], optimizer: Any, state: State, best: Mapping[str, Tensor]) -> None:
        """Write one, then drop the older ones.

        Raises:
            TokayError: the disk is full; the checkpoint before is still there.
        """
        final, temporary = self.folder / f"step-{state.step:08d}", self.folder / ".tmp-step"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            self._write(temporary, named, optimizer, state, best)
            shutil.rmtree(final, ignore_errors=True)
            temporary.replace(final)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise TokayError(
                f"a checkpoint cannot be written to {self.folder} ({error.strerror or error}); make room and start "
                "again: the training goes on from the checkpoint before"
            ) from error
        for other in self.folder.glob("step-*"):
            if other != final:  # a damaged one of a later step goes too
                shutil.rmtree(other)
        self.last = time.monotonic()

    def _write(
        self,
        folder: Path,
        named: Mapping[str, nn.Parameter],
        optimizer: Any,
        state: State,
        best: Mapping[str, Tensor],
    ) -> None:
        _save_tensors({name: p.detach().contiguous() for name, p in named.items()}, folder / "weights.safetensors")
        if best:
            _save_tensors(dict(best), folder / "best.safetensors")
        _torch_save(optimizer.state_dict(), folder / "optimizer.pt")
        files = {path.name: path.stat().st_size for path in folder.iterdir()}
        text = json.dumps({"identity": self.identity, "state": dataclasses.asdict(state), "files": files})
        with (folder / STATE).open("w", encoding="utf-8") as file:
            file.write(text)
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())

    def save_batch(self, batch: Mapping[str, Any]) -> Path:
        """Keep a batch that made the loss fail, as JSON, for people to look at."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "failed-batch.json"
        path.write_text(json.dumps(batch, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    def clear(self) -> None:
        """Remove them all: the training is done."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path)
    except SafetensorError as error:  # how safetensors reports a full disk
        raise OSError(str(error)) from error


def _torch_save(value: Any, path: Path) -> None:
    try:
        torch.save(value, path)
    except RuntimeError as error:  # how torch's writer reports a full disk
        raise OSError(str(error)) from error


def need_room(folder: Path, bytes_needed: int) -> None:
    """Stop before the first step when a place cannot take what the training will write; nothing is left there.

    Raises:
        TokayError: nothing can be written there, with the reason; or too little, with both figures.
    """
    free = shutil.disk_usage(need_writable(folder)).free
    if free < bytes_needed:
        raise TokayError(
            f"{folder} has {free / 1e6:,.0f} MB free and this training writes up to {bytes_needed / 1e6:,.0f} MB; make "
            "room, write somewhere else, or set train.checkpoint_minutes=0"
        )


def need_writable(folder: Path) -> Path:
    """The folder, or the nearest one above it that there is; nothing is left there.

    Raises:
        TokayError: nothing can be written there, with the reason.
    """
    there = folder
    while not os.access(there, os.F_OK):  # unlike Path.exists, it raises nothing where this user may not look
        there = there.parent
    try:
        with tempfile.TemporaryDirectory(dir=there):
            pass
    except OSError as error:
        raise TokayError(
            f"{folder} cannot be written: nothing can be made in {there} ({error.strerror}); write somewhere else"
        ) from error
    return there
