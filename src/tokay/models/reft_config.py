"""Which hidden states of a model are edited, and how: what a saved adapter says of itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import get_args

from tokay.errors import TokayError, did_you_mean
from tokay.models.reft import VARIANTS, Init
from tokay.models.reft_positions import Positions, parse_positions


@dataclasses.dataclass(frozen=True)
class ReftConfig:
    """Which hidden states are edited, and how.

    Attributes:
        variant: ``loreft``, ``direft``, or one of the ablations ``direft-orthogonal``, ``noreft``, ``consreft``,
            ``lobireft``.
        rank: r.
        layers: whose outputs are edited, counted from 0, or from the end below 0; empty: all.
        positions: ``f7+l7``: the first and the last so many real tokens, ``f3`` or ``l1``: those alone; ``all``;
            ``cls``: the first one; ``pooled``: the vector of the text, of an embedder.
        tied: one edit for the first and the last tokens of a layer; else one for each of the two groups.
        dropout: of the edits.
        init: ``identity`` or ``pyreft``.
        layer_list: the path of the list of layers in the model; empty: its longest list of modules of one kind.
    """

    variant: str = "loreft"
    rank: int = 4
    layers: tuple[int, ...] = ()
    positions: str = "all"
    tied: bool = True
    dropout: float = 0.0
    init: Init = "identity"
    layer_list: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no setting.

        Raises:
            TokayError: with what was expected.
        """
        if self.variant not in VARIANTS:
            hint = did_you_mean(self.variant, VARIANTS)
            raise TokayError(f"the variant of ReFT is {self.variant!r}; expected one of {', '.join(VARIANTS)}{hint}")
        if not isinstance(self.rank, int) or self.rank < 1:
            raise TokayError(f"the rank of the edits is {self.rank!r}; expected a whole number of 1 or more")
        if not isinstance(self.layers, Sequence) or isinstance(self.layers, str):
            raise TokayError(f"the layers to edit are {self.layers!r}; expected several numbers, such as (0, -1)")
        if not 0 <= self.dropout < 1:
            raise TokayError(f"the dropout of the edits is {self.dropout:g}; expected 0 or more, and below 1")
        if self.init not in get_args(Init):
            raise TokayError(f"the init of the edits is {self.init!r}; expected 'identity' or 'pyreft'")
        object.__setattr__(self, "layers", tuple(int(layer) for layer in self.layers))
        parse_positions(self.positions)

    @property
    def parts(self) -> tuple[Positions, ...]:
        """The groups of positions of a layer, each with an edit of its own."""
        spec = parse_positions(self.positions)
        return (spec,) if self.tied else spec.groups

    def layers_in(self, count: int) -> tuple[int, ...]:
        """The edited ones of so many layers, in order; none where the pooled vector is edited.

        Raises:
            TokayError: one is out of range, or named twice.
        """
        if parse_positions(self.positions).pooled:
            return ()
        for layer in self.layers:
            if not -count <= layer < count:
                raise TokayError(f"layer {layer} is to be edited and the model has {count}: 0 to {count - 1}")
        found = sorted(layer % count for layer in self.layers) if self.layers else list(range(count))
        if len(set(found)) < len(found):
            raise TokayError(f"layers {', '.join(map(str, self.layers))} name one twice; name each once")
        return tuple(found)

    def places(self, count: int) -> list[str]:
        """The names of the edits, in a model of so many layers: ``LAYER:POSITIONS``, or ``pooled``."""
        if parse_positions(self.positions).pooled:
            return ["pooled"]
        return [f"{layer}:{part}" for layer in self.layers_in(count) for part in self.parts]

    def parameters(self, *, width: int, layers: int) -> int:
        """Trained parameters in a model of a width and a number of layers, as the paper counts them."""
        return len(self.places(layers)) * VARIANTS[self.variant].count(width, self.rank)
