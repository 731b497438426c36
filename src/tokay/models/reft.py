"""Edits of hidden states: LoReFT, DiReFT and the paper's other forms (Wu et al. 2024, arXiv 2404.03592).

Each of them is ``h + Bᵀ(Ah + b)``; they differ in what A and B are made of. So one path runs them all, stacked ones of
several adapters too, and what a form is stands in its ``maps``.

Letters: D width of the model, r rank, h a hidden state.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tokay.errors import TokayError

Init = Literal["identity", "pyreft"]
Maps = tuple[Tensor | None, Tensor, Tensor]
"""A (r, D), or None where it is zero; b (r); B (r, D)."""


class Intervention(nn.Module):
    """An edit of hidden states of one place: a layer and a group of positions in it.

    Args:
        width: D.
        rank: r, at most D.
        dropout: of the edit while training; the reference has it on the whole edited state.
        init: ``identity``: nothing is changed at the start; ``pyreft``: W and b as ``nn.Linear`` draws them.

    Raises:
        TokayError: the rank is above the width.
    """

    kind: ClassVar[str]
    matrices: ClassVar[int] = 2
    """Of r x D, that are trained."""

    def __init__(self, width: int, rank: int, *, dropout: float = 0.0, init: Init = "identity") -> None:
        super().__init__()
        if rank > width:
            raise TokayError(f"the rank of the edits is {rank} and the model is {width} wide; lower the rank")
        self.width, self.rank, self.dropout = width, rank, dropout
        self.bias = nn.Parameter(torch.zeros(rank))
        self.changes = 0
        self._kept: tuple[Any, dict[torch.dtype | None, Maps]] | None = None
        self.make(init)
        if init == "pyreft":
            nn.init.uniform_(self.bias, -1 / math.sqrt(width), 1 / math.sqrt(width))

    def make(self, init: Init) -> None:
        """Make the matrices."""
        raise NotImplementedError

    def build(self) -> Maps:
        """A, b and B of the parameters."""
        raise NotImplementedError

    @classmethod
    def count(cls, width: int, rank: int) -> int:
        """Trained parameters: ``2rD + r`` of LoReFT and DiReFT."""
        return cls.matrices * rank * width + rank

    @property
    def state(self) -> tuple[Any, ...]:
        """Another one where the weights may be others; fused optimisers do not count what they write."""
        weights = self._parameters.values()  # they are all its own, and the general way to them takes a while
        told = ((p.data_ptr(), 0 if p.is_inference() else p._version) for p in weights if p is not None)
        return (self.changes, *told)

    def train(self, mode: bool = True) -> Intervention:
        """As of any module."""
        self.changes += 1
        super().train(mode)
        return self

    def maps(self, kind: torch.dtype | None = None) -> Maps:
        """A, b and B, in a type where one is named; without gradients made once for the weights that there are."""
        if torch.compiler.is_compiling():
            return _cast(self.build(), kind)
        if self.training or torch.is_grad_enabled():
            self.changes += 1
            return _cast(self.build(), kind)
        state, kept = self.state, self._kept
        if kept is None or kept[0] != state:
            kept = self._kept = (state, {})
        if kind not in kept[1]:
            kept[1][kind] = _cast(self.build(), kind)
        return kept[1][kind]

    def delta(self, hidden: Tensor) -> Tensor:
        """What is added to hidden states: (…, D) -> (…, D)."""
        with uncast(hidden, training=self.training):
            low, b = self.low(hidden)
            added = low @ b
        return nn.functional.dropout(added, self.dropout, True) if self.dropout and self.training else added

    def low(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """``Ah + b``, (…, r), and B in the type of the hidden states."""
        a, bias, b = self.maps(hidden.dtype)
        if a is None:
            return bias.expand(*hidden.shape[:-1], self.rank), b
        return nn.functional.linear(hidden, a, bias), b

    def forward(self, hidden: Tensor) -> Tensor:
        """Edited hidden states, (…, D); padding among them too."""
        with uncast(hidden, training=self.training):
            mixed = torch.is_autocast_enabled(hidden.device.type)
            if mixed or (self.dropout and self.training):  # autocast would bring the sum to half precision
                return hidden + self.delta(hidden).to(hidden.dtype)
            flat = hidden.reshape(-1, self.width)
            low, b = self.low(flat)
            return torch.addmm(flat, low, b).view_as(hidden)

    def scale(self, weight: float) -> None:
        """Make the edit ``weight`` times as large, in place: 0 is none, 1 leaves it.

        Raises:
            TokayError: a scaled edit of this form is none of this form.
        """
        raise TokayError(f"{self.kind} cannot be weakened towards no edit; choose loreft or direft")

    def extra_repr(self) -> str:
        """Its sizes."""
        return f"{self.width}, rank={self.rank}"


def uncast(hidden: Tensor, *, training: bool = False) -> contextlib.AbstractContextManager[Any]:
    """Autocast kept off edits in use, which it would cast to half precision and back at every layer.

    Not in training, where a pass without gradients is to give what the one with them gives.
    """
    kind = hidden.device.type
    if training or torch.is_grad_enabled() or torch.compiler.is_compiling() or not torch.is_autocast_enabled(kind):
        return contextlib.nullcontext()
    return torch.autocast(kind, enabled=False)


def _cast(maps: Maps, kind: torch.dtype | None) -> Maps:
    a, bias, b = maps
    if kind is None or b.dtype == bias.dtype == kind:
        return maps
    return None if a is None else a.to(kind), bias.to(kind), b.to(kind)


def orthonormal(free: Tensor) -> Tensor:
    """R (r, D) with orthonormal rows out of any matrix (D, r) of full rank, by a thin QR in at least float32.

    The signs are those with which the triangle has a positive diagonal, so R is a function of the matrix, is the matrix
    itself (transposed) where that is orthonormal, and does not change when it is scaled: weight decay, which scales it,
    leaves R where it is. The reference's parametrisation keeps the orthonormal matrix itself, which decay sets to zero.
    """
    full = free if free.dtype in (torch.float32, torch.float64) else free.float()
    q, triangle = torch.linalg.qr(full)
    sign = torch.where(triangle.diagonal() < 0, -1.0, 1.0).to(full.dtype)
    rotation: Tensor = (q * sign).T.to(free.dtype)
    return rotation


def _linear(rank: int, width: int) -> nn.Parameter:
    """W (r, D) as ``nn.Linear`` draws it."""
    return nn.Parameter(nn.init.kaiming_uniform_(torch.empty(rank, width), a=math.sqrt(5)))


class _Rotated(Intervention):
    """Forms with an R of orthonormal rows, held as a free matrix (D, r)."""

    def make(self, init: Init) -> None:
        """A random orthonormal R."""
        self.free = nn.Parameter(nn.init.orthogonal_(torch.empty(self.width, self.rank)))

    @property
    def rotation(self) -> Tensor:
        """R (r, D)."""
        return orthonormal(self.free)


class LoReFT(_Rotated):
    """``h + Rᵀ(Wh + b - Rh)``, R with orthonormal rows (section 3.2).

    At the start W = R and b = 0, which is exactly no edit; the reference draws W and b and so begins with one.
    """

    kind = "loreft"

    def make(self, init: Init) -> None:
        """R at random, and W equal to it."""
        super().make(init)
        self.weight = _linear(self.rank, self.width)
        if init == "identity":
            with torch.no_grad():
                self.weight.copy_(self.rotation)

    def build(self) -> Maps:
        """A = W - R, B = R."""
        rotation = self.rotation
        return self.weight - rotation, self.bias, rotation

    @torch.no_grad()
    def scale(self, weight: float) -> None:
        """W goes along the line from R, and b from 0."""
        self.weight.copy_(torch.lerp(self.rotation, self.weight, weight))
        self.bias.mul_(weight)


class DiReFT(Intervention):
    """``h + W₂ᵀ(W₁h + b)``, nothing orthonormal (section 3.2, equation 3); pyreft calls it ``NodireftIntervention``.

    W₁ = 0 and b = 0 at the start, which is exactly no edit.
    """

    kind = "direft"

    def make(self, init: Init) -> None:
        """W₂ at random."""
        self.weight = _linear(self.rank, self.width)
        self.out = _linear(self.rank, self.width)
        if init == "identity":
            nn.init.zeros_(self.weight)

    def build(self) -> Maps:
        """A = W₁, B = W₂."""
        return self.weight, self.bias, self.out

    @torch.no_grad()
    def scale(self, weight: float) -> None:
        """W₁ and b become smaller."""
        self.weight.mul_(weight)
        self.bias.mul_(weight)


class OrthogonalDiReFT(_Rotated):
    """``h + Rᵀ(Wh + b)``, an ablation of the paper's; pyreft calls it ``DireftIntervention``.

    W = 0 and b = 0 at the start.
    """

    kind = "direft-orthogonal"

    def make(self, init: Init) -> None:
        """R at random."""
        super().make(init)
        self.weight = _linear(self.rank, self.width)
        if init == "identity":
            nn.init.zeros_(self.weight)

    def build(self) -> Maps:
        """A = W, B = R."""
        return self.weight, self.bias, self.rotation

    @torch.no_grad()
    def scale(self, weight: float) -> None:
        """W and b become smaller."""
        self.weight.mul_(weight)
        self.bias.mul_(weight)


class NoReFT(Intervention):
    """``h + W₂ᵀ(W₁h + b - W₂h)``: LoReFT without orthonormal rows, an ablation. W₁ = W₂ and b = 0 at the start."""

    kind = "noreft"

    def make(self, init: Init) -> None:
        """W₂ at random, and W₁ equal to it."""
        self.out = _linear(self.rank, self.width)
        self.weight = _linear(self.rank, self.width)
        if init == "identity":
            with torch.no_grad():
                self.weight.copy_(self.out)

    def build(self) -> Maps:
        """A = W₁ - W₂, B = W₂."""
        return self.weight - self.out, self.bias, self.out

    @torch.no_grad()
    def scale(self, weight: float) -> None:
        """W₁ goes along the line from W₂, and b from 0."""
        self.weight.copy_(torch.lerp(self.out, self.weight, weight))
        self.bias.mul_(weight)


class ConsReFT(_Rotated):
    """``h + Rᵀ(b - Rh)``: the subspace is set to a constant, an ablation. No parameters make it the identity."""

    kind = "consreft"
    matrices = 1

    def build(self) -> Maps:
        """A = -R, B = R."""
        rotation = self.rotation
        return -rotation, self.bias, rotation


class LobiReFT(_Rotated):
    """``h + Rᵀb``: a vector is added, an ablation. b = 0 at the start."""

    kind = "lobireft"
    matrices = 1

    def build(self) -> Maps:
        """A = 0, B = R."""
        return None, self.bias, self.rotation

    @torch.no_grad()
    def scale(self, weight: float) -> None:
        """The vector becomes shorter."""
        self.bias.mul_(weight)


class Folded(Intervention):
    """Any of the others with A, b and B as numbers, for graphs that know no QR."""

    kind = "folded"

    def __init__(self, edit: Intervention) -> None:
        nn.Module.__init__(self)
        self.width, self.rank, self.dropout, self.changes, self._kept = edit.width, edit.rank, 0.0, 0, None
        a, bias, b = (None if part is None else part.detach().clone() for part in edit.build())
        for name, part in (("a", a), ("bias", bias), ("b", b)):
            self.register_buffer(name, part)

    def build(self) -> Maps:
        """The numbers."""
        return self.a, self.bias, self.b  # type: ignore[return-value]


VARIANTS: dict[str, type[Intervention]] = {
    one.kind: one for one in (LoReFT, DiReFT, OrthogonalDiReFT, NoReFT, ConsReFT, LobiReFT)
}
