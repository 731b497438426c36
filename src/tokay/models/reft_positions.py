"""Which tokens are edited: counted on real tokens, row by row, wherever the padding stands.

Letters: N rows, C columns of the prompt, L tokens of this forward pass, P positions of a group.
"""

from __future__ import annotations

import dataclasses
import functools
import re

import torch
from torch import Tensor

from tokay.errors import TokayError

_FORM = re.compile(r"(?:f(?P<first>\d+))?\+?(?:l(?P<last>\d+))?")
_EXPECTED = "'f7+l7' (the first and last so many tokens), 'f3', 'l1', 'all', 'cls' or 'pooled'"


@dataclasses.dataclass(frozen=True)
class Positions:
    """What a word such as ``f7+l7`` says; ``every`` token, or the ``pooled`` vector, or so many of both ends.

    ``halves`` is of a group that was cut off the other: its share of a short row is then still the half.
    """

    first: int = 0
    last: int = 0
    every: bool = False
    pooled: bool = False
    halves: bool = False

    def __str__(self) -> str:
        if self.every or self.pooled:
            return "all" if self.every else "pooled"
        ends = "+".join(f"{letter}{n}" for letter, n in (("f", self.first), ("l", self.last)) if n)
        return f"{ends}-half" if self.halves else ends

    @property
    def groups(self) -> tuple[Positions, ...]:
        """The first and the last tokens apart, each of which gets an edit of its own where they are not tied."""
        if not (self.first and self.last):
            return (self,)
        return Positions(first=self.first, halves=True), Positions(last=self.last, halves=True)


@functools.cache
def parse_positions(text: str) -> Positions:
    """Read the word.

    Raises:
        TokayError: it is none.
    """
    if text in ("all", "pooled"):
        return Positions(every=text == "all", pooled=text == "pooled")
    found = _FORM.fullmatch("f1" if text == "cls" else text)
    first, last = (int(found[end] or 0) for end in ("first", "last")) if found else (0, 0)
    if not (first or last) or text.count("+") != (first > 0 and last > 0):
        raise TokayError(f"the positions to edit are {text!r}; expected {_EXPECTED}")
    return Positions(first, last)


@dataclasses.dataclass(frozen=True)
class Spot:
    """Places in the hidden states (N, L, D) of one forward pass.

    Attributes:
        index: (N, P), columns; None: every one.
        valid: (N, P), or (N, L) where ``index`` is None; None: all are.
        columns: ``index`` as gather and scatter take it, (N, P, D), where a width was named.
        off: ``valid`` turned round, (N, P, 1), likewise.
    """

    index: Tensor | None = None
    valid: Tensor | None = None
    columns: Tensor | None = None
    off: Tensor | None = None

    def of_width(self, width: int) -> Spot:
        """The same, made ready once for all layers of a forward pass."""
        if self.index is None or self.valid is None:
            return self
        columns = self.index[..., None].expand(-1, -1, width)
        return Spot(self.index, self.valid, columns, ~self.valid[..., None])


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What may be edited: the real tokens of the text that was given, not those that are decoded after it.

    Attributes:
        mask: bool (N, C); the first column is the first token that the model ever sees of a row.
        exact: whether tokens outside the mask must stay as they are; else they are padding, which nothing reads.
    """

    mask: Tensor
    exact: bool = False

    def rows(self, count: int) -> Prompt:
        """The same for a batch in which each row is repeated, as beams are."""
        if len(self.mask) == count:
            return self
        if count % len(self.mask):
            raise TokayError(f"the prompts have {len(self.mask)} rows and the model is given {count}; expected as many")
        return Prompt(self.mask.repeat_interleave(count // len(self.mask), 0), self.exact)

    def spot(self, spec: Positions, *, past: int, length: int) -> Spot | None:
        """Where the positions are in tokens ``past`` to ``past + length`` of the rows; None: nowhere."""
        columns = self.mask.shape[1]
        if past >= columns:
            return None
        if spec.every:
            if not self.exact and past + length <= columns:
                return Spot()
            part = self.mask[:, past : past + length]
            return Spot(None, torch.nn.functional.pad(part, (0, length - part.shape[1])))
        index, valid = _ends(self.mask, spec)
        if past or length < columns:
            index = index - past
            valid = valid & (index >= 0) & (index < length)
            index = index.clamp(0, length - 1)
        return Spot(index, valid)


def need_tokens(mask: Tensor) -> None:
    """Refuse a row without a real token; on a GPU, which would have to be waited for, it is left unedited.

    Raises:
        TokayError: with the row.
    """
    if mask.numel() == 0:
        raise TokayError(f"positions are to be edited in {len(mask)} rows of no tokens; give each row at least one")
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return
    there = mask.any(1)
    if not bool(there.all()):
        row = int(there.int().argmin())
        raise TokayError(f"row {row} has no real token, so that no position in it can be edited; leave it out")


def _ends(mask: Tensor, spec: Positions) -> tuple[Tensor, Tensor]:
    """Columns of the first p and the last s real tokens of each row, and which of them there are: (N, p + s).

    Of a row of n tokens that is too short for both, the first floor(n/2) and the last ceil(n/2), as in the paper (its
    code rounds both down), so that no token is edited twice.
    """
    count = mask.sum(1, keepdim=True)  # (N, 1)
    both = spec.halves or (spec.first and spec.last)
    parts = []
    if spec.first:
        at = torch.arange(spec.first, device=mask.device)
        parts.append((at.expand(len(mask), -1), at < (count // 2 if both else count)))
    if spec.last:
        back = torch.arange(spec.last, 0, -1, device=mask.device)  # s-th of the end, …, last
        parts.append((count - back, back <= ((count + 1) // 2 if both else count)))
    at, valid = (torch.cat([part[i] for part in parts], 1) for i in range(2))  # (N, P), counted on real tokens
    number = torch.where(mask, mask.cumsum(1) - 1, -1)  # (N, C), of each real token
    return (number[:, None, :] == at[:, :, None]).to(torch.int8).argmax(2), valid & (at >= 0)
