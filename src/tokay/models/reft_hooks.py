"""What hooks do around and behind layers: where a forward pass edits, for each thread, and the edit itself.

Letters: N rows, L tokens, P positions, D width.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tokay.errors import TokayError
from tokay.models.reft_positions import Positions, Prompt, Spot
from tokay.models.reft_stack import Edit, Picked

IGNORED = -100
"""The label of a token that is not to be predicted, in transformers and torch."""


class State:
    """What holds for a forward pass."""

    def __init__(self) -> None:
        self.prompt: Prompt | None = None
        self.rows: Tensor | None = None
        self.spots: Mapping[str, Spot] | None = None
        self.picked: Picked = {}


class ThreadState(threading.local, State):
    """The same for each thread, as several may run one model; a copy of the model has its own."""

    def __deepcopy__(self, memo: Any) -> ThreadState:
        return ThreadState()

    def __reduce__(self) -> Any:
        return ThreadState, ()


class Owner(Protocol):
    """Whoever knows which edits are in force."""

    def edit(self, layer: int, hidden: Tensor) -> Tensor:
        """A layer's output (N, L, D), edited."""


class AfterLayer:
    """A hook behind one layer; an object, so that a copy of the model has hooks of its own."""

    def __init__(self, owner: Owner, layer: int) -> None:
        self.owner, self.layer = owner, layer

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """The layer's output, edited; transformers' layers give hidden states, alone or first of several."""
        if not isinstance(output, tuple):
            return self.owner.edit(self.layer, output)
        return (self.owner.edit(self.layer, output[0]), *output[1:])


def changed(hidden: Tensor, spot: Spot, change: Edit) -> Tensor:
    """Hidden states (N, L, D) with an edit at the places of a spot."""
    if spot.index is None:
        edited = change(hidden)
        return edited if spot.valid is None else torch.where(spot.valid.to(hidden.device)[..., None], edited, hidden)
    if hidden.ndim != 3:
        raise TokayError(
            f"the layers' outputs have the shape {tuple(hidden.shape)}; expected (rows, tokens, width): choose an "
            "attention that does not take the padding out, such as attn_implementation='sdpa'"
        )
    spot = spot if spot.columns is not None else spot.of_width(hidden.shape[2])
    columns, off = spot.columns, spot.off
    assert columns is not None
    assert off is not None
    if columns.device != hidden.device:  # of a model over several devices
        columns, off = columns.to(hidden.device), off.to(hidden.device)
    added = change.delta(hidden.gather(1, columns))
    added = added if added.dtype == hidden.dtype else added.to(hidden.dtype)
    return hidden.scatter_add(1, columns, added.masked_fill(off, 0))


def prompt_of(mask: Any, inputs: Tensor, specs: Mapping[str, Positions]) -> Prompt:
    """All that is given, of a caller who says nothing more."""
    if isinstance(mask, Tensor) and mask.shape == inputs.shape[:2]:
        return Prompt(mask.bool())
    if mask is not None and any(not spec.every for spec in specs.values()):
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise TokayError(
            f"attention_mask is {shape}; positions are counted on one of {tuple(inputs.shape[:2])}, rows and tokens: "
            "give that, or prompt_mask"
        )
    return Prompt(torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device))


def before_labels(labels: Tensor, mask: Tensor | None) -> Tensor:
    """Real tokens before the first label of each row, (N, L); of a row without labels all.

    Raises:
        TokayError: a row has a label and no token before it.
    """
    labelled = labels != IGNORED
    before = ~(labelled.cumsum(1) > 0)
    before = before if mask is None else before & mask.bool()
    if labels.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(before.any(1).all()):
        row = int(before.any(1).int().argmin())
        raise TokayError(
            f"row {row} has no token before its first label, so there is no prompt to edit; set the prompt's labels to "
            f"{IGNORED}, or give prompt_mask"
        )
    return before


def backbone_of(model: nn.Module, layers: nn.ModuleList) -> nn.Module:
    """The innermost module around the layers that is given tokens and their mask."""
    found = None
    for module in model.modules():  # outer ones first
        if any(inner is layers for inner in module.modules()):
            names = inspect.signature(module.forward).parameters
            found = module if {"input_ids", "attention_mask"} <= set(names) else found
    if found is None:
        raise TokayError(
            f"{type(model).__name__} takes no input_ids and attention_mask, which positions are counted on; expected "
            "a model of texts"
        )
    return found


@functools.cache
def hooks_are_inside_checkpoints() -> bool:
    """Of releases that checkpoint ``__call__``: hooks run again in the backward pass, when positions are gone."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return "__call__" in vars(GradientCheckpointingLayer)
