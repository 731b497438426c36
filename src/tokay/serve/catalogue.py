"""The models that are served: their names, the names that say a side too, their widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokay.errors import TokayError, did_you_mean
from tokay.models.embedder import Embedder
from tokay.models.tasks import side_of
from tokay.serve.refusal import Refusal

SIDES = ("query", "passage", "document")
"""What may stand behind a name and a colon, for clients that can send a model's name and nothing else."""


@dataclass(frozen=True)
class Served:
    """A model and what was asked of it by its name."""

    name: str
    embedder: Embedder
    side: str = ""
    """Of ``NAME:query`` and the like; empty where the name says none."""

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths that the model was trained for, its full one among them."""
        return tuple(sorted({*self.embedder.config.dims, self.embedder.width}))

    def width(self, wanted: int | None, field: str) -> int | None:
        """What ``dim`` is for a wish; None where there is none."""
        if wanted is None or wanted in self.widths:
            return wanted
        known = " or ".join(map(str, self.widths))
        trained = "was trained for" if len(self.widths) > 1 else "has vectors of"
        raise Refusal(400, f"{field} is {wanted}; {self.name} {trained} {known}; send that, or none", param=field)

    def kind(self, words: Mapping[str, str | None], default: str) -> str:
        """What the texts are, by every word that says so.

        Args:
            words: the request's fields by name.
            default: where none says anything.

        Raises:
            Refusal: a word is not known, or two name different sides.
        """
        said = {field: word for field, word in words.items() if word is not None}
        sides = {f"{field} {word!r}": _side(word, field) for field, word in said.items()}
        named = ({f"model '{self.name}:{self.side}'": side_of(self.side)} if self.side else {}) | sides
        if len({side for side, _ in named.values()}) > 1:
            told = " and ".join(f"{words} (a {side})" for words, (side, _) in named.items())
            raise Refusal(400, f"the request says {told}; send one of them", param=next(iter(said)))
        return next(iter(said.values()), self.side or default)


def _side(word: str, field: str) -> tuple[str, str | None]:
    try:
        return side_of(word)
    except TokayError as error:
        raise Refusal(400, str(error).replace("kind is", f"{field} is", 1), param=field) from error


class Catalogue:
    """Models by name.

    Raises:
        TokayError: there is none, or a name holds a colon.
    """

    def __init__(self, models: Mapping[str, Embedder]) -> None:
        if not models:
            raise TokayError("there is no model to serve; name a run or a model folder")
        for name in models:
            if not name or ":" in name:
                raise TokayError(
                    f"a model is named {name!r}; expected a name without a colon, which aliases are made of"
                )
        self.models = dict(models)

    def find(self, name: str) -> Served:
        """The model of a name or an alias.

        Raises:
            Refusal: 404, with the names that there are.
        """
        if name in self.models:
            return Served(name, self.models[name])
        stem, _, side = name.rpartition(":")
        if stem in self.models and side in SIDES:
            return Served(stem, self.models[stem], side)
        known = ", ".join(self.models)
        hint = did_you_mean(name, [*self.models, *self.aliases()])
        raise Refusal(
            404, f"there is no model {name!r}; served here: {known}{hint}", param="model", code="model_not_found"
        )

    def aliases(self) -> list[str]:
        """Every ``NAME:query`` and ``NAME:passage``."""
        return [f"{name}:{side}" for name in self.models for side in SIDES[:2]]
