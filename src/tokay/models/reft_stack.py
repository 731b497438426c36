"""Edits of many adapters as one: each row of a batch takes the matrices of its own adapter.

Letters: K adapters of a place, G places of one shape, N rows, P positions, r the highest rank, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tokay.errors import TokayError, did_you_mean
from tokay.models.reft import Intervention, uncast
from tokay.models.reft_positions import Positions

PLAIN = "__base__"
"""The name of the plain model, as peft has it."""


class Edit(Protocol):
    """What changes hidden states of one place."""

    def __call__(self, hidden: Tensor) -> Tensor:
        """Edited ones, (N, P, D)."""

    def delta(self, hidden: Tensor) -> Tensor:
        """What is added to them, (N, P, D)."""


@dataclasses.dataclass
class _Place:
    """One place's matrices: A and B (K + 1, r, D), b (K + 1, r); the first are zeros, of adapters that have none."""

    a: Tensor
    bias: Tensor
    b: Tensor
    slots: dict[int, int]  # place of an adapter in the stack -> its place here

    def add(self, adapter: int, a: Tensor | None, bias: Tensor, b: Tensor) -> None:
        """Put one more behind the others."""
        rank = max(len(b), self.b.shape[1])
        a = torch.zeros_like(b) if a is None else a
        self.a = torch.cat([_to_rank(self.a, rank), _to_rank(a[None], rank)])
        self.b = torch.cat([_to_rank(self.b, rank), _to_rank(b[None], rank)])
        self.bias = torch.cat([_to_rank(self.bias, rank), _to_rank(bias[None], rank)])
        self.slots[adapter] = len(self.b) - 1


@dataclasses.dataclass(frozen=True)
class _Group:
    """Places that the same adapters have, in one shape: A and B (G, K + 1, r, D), b (G, K + 1, r).

    ``slots`` (adapters) has the place among the K + 1 of each adapter of the stack.
    """

    places: tuple[tuple[int, str], ...]
    slots: Tensor
    a: Tensor
    bias: Tensor
    b: Tensor

    def of_rows(self, rows: Tensor, count: int) -> Iterator[tuple[int, str, _Rows]]:
        """The matrices of each row at each of the places."""
        if count % len(rows):
            raise TokayError(f"adapter_names has {len(rows)} names and the model is given {count} rows; name one a row")
        at = self.slots[rows.to(self.slots.device)]
        at = at if count == len(rows) else at.repeat_interleave(count // len(rows))
        parts = (part.index_select(1, at).unbind() for part in (self.a, self.bias, self.b))  # (G, N, …) each
        for (layer, name), a, bias, b in zip(self.places, *parts, strict=True):
            yield layer, name, _Rows(a, bias, b)


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The matrices of a batch's rows: A and B (N, r, D), b (N, r)."""

    a: Tensor
    bias: Tensor
    b: Tensor

    def delta(self, hidden: Tensor) -> Tensor:
        """``Bᵀ(Ah + b)`` of each row, (N, P, D)."""
        with uncast(hidden):
            low, b = self._low(hidden)
            return torch.bmm(low, b)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Edited hidden states, (N, P, D)."""
        with uncast(hidden):
            if torch.is_autocast_enabled(hidden.device.type):
                return hidden + self.delta(hidden).to(hidden.dtype)
            low, b = self._low(hidden)
            return torch.baddbmm(hidden, low, b)

    def _low(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """``Ah + b``, (N, P, r), and B."""
        a, bias, b = self._in(hidden.dtype)
        return torch.baddbmm(bias[:, None], hidden, a.mT), b

    def _in(self, kind: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        if self.a.dtype == kind:
            return self.a, self.bias, self.b
        return self.a.to(kind), self.bias.to(kind), self.b.to(kind)


Picked = dict[int, list[tuple[str, Edit]]]
"""Of one batch: layer -> its edits, each with the name of its positions."""


class Stack:
    """The edits of adapters over one base, without gradients."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.names: dict[str, int] = {PLAIN: 0}
        self.specs: dict[str, Positions] = {}
        self._places: dict[tuple[int, str], _Place] = {}
        self._made_of: dict[str, Any] = {}
        self._grouped: list[_Group] | None = None

    @torch.no_grad()
    def add(self, name: str, edits: nn.ModuleDict, parts: Sequence[Positions]) -> int:
        """Take in an adapter; returns its place in the stack."""
        number = self.names.setdefault(name, len(self.names))
        for place, edit in edits.items():
            assert isinstance(edit, Intervention)
            layer, _, part = place.partition(":")
            key = (int(layer), part) if part else (-1, place)
            a, bias, b = (None if m is None else m.detach().clone() for m in edit.build())
            assert bias is not None
            assert b is not None
            if key not in self._places:
                none = torch.zeros(1, *b.shape, device=b.device, dtype=b.dtype)
                self._places[key] = _Place(none, none[..., 0], none, {})
            self._places[key].add(number, a, bias, b)
        self.specs |= {str(part): part for part in parts if not part.pooled}
        self._made_of[name] = _state(edits)
        self._grouped = None
        return number

    def place(self, name: str | None) -> int:
        """The place of an adapter; 0 is the plain model's.

        Raises:
            TokayError: there is none of that name.
        """
        name = PLAIN if name is None else name
        if name not in self.names:
            known = ", ".join(self.names)
            raise TokayError(f"there is no adapter {name!r}; there are {known}{did_you_mean(name, self.names)}")
        return self.names[name]

    def is_of(self, adapters: Mapping[str, Any]) -> bool:
        """Whether it holds these adapters as they are now."""
        return self._made_of == {name: _state(adapter.edits) for name, adapter in adapters.items()}

    def pick(self, rows: Tensor, count: int) -> Picked:
        """The edits of all layers for a batch of ``count`` rows; ``rows`` has the place of each one's adapter."""
        found: Picked = {}
        for group in self._groups(pooled=False):
            for layer, name, edit in group.of_rows(rows, count):
                found.setdefault(layer, []).append((name, edit))
        return found

    def pooled(self, rows: Tensor, count: int) -> Edit | None:
        """The edit of pooled vectors, likewise."""
        found = [edit for group in self._groups(pooled=True) for _, _, edit in group.of_rows(rows, count)]
        return found[0] if found else None

    def _groups(self, *, pooled: bool) -> list[_Group]:
        if self._grouped is None:
            self._grouped = self._group()
        return [group for group in self._grouped if (group.places[0][0] < 0) == pooled]

    @torch.no_grad()
    def _group(self) -> list[_Group]:
        """Places of one shape together, so that a batch takes its rows of all of them at once; each stays a view."""
        alike: dict[Any, list[tuple[int, str]]] = {}
        for (layer, name), place in self._places.items():
            kind = (layer < 0, place.b.shape, place.b.dtype, place.b.device, tuple(place.slots.items()))
            alike.setdefault(kind, []).append((layer, name))
        return [self._one(places) for places in alike.values()]

    def _one(self, names: list[tuple[int, str]]) -> _Group:
        places = [self._places[name] for name in names]
        slots = [places[0].slots.get(number, 0) for number in range(len(self.names))]
        a, bias, b = (torch.stack([getattr(place, part) for place in places]) for part in ("a", "bias", "b"))
        for i, place in enumerate(places):
            place.a, place.bias, place.b = a[i], bias[i], b[i]
        return _Group(tuple(names), torch.tensor(slots, device=b.device), a, bias, b)

    @property
    def bytes(self) -> int:
        """Of all matrices."""
        return sum(m.nbytes for place in self._places.values() for m in (place.a, place.bias, place.b))


def _to_rank(part: Tensor, rank: int) -> Tensor:
    """(K, r, …) with zeros up to a rank."""
    missing = rank - part.shape[1]
    return torch.cat([part, part.new_zeros(len(part), missing, *part.shape[2:])], 1) if missing else part


def _state(edits: Any) -> list[Any]:
    return [edit.state for edit in edits.values()]
