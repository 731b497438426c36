"""Edits that are one affine map behind the model, as that map: exact, or refused with the reason.

An edit has no weight to be added to: what follows it in the model is not linear. But behind the last layer of a model
that ends there, an edit of every token is ``h + Bᵀ(Ah + b)`` of each token vector, and so of their mean, of the first
and of the last: ``v' = (I + BᵀA)v + Bᵀb`` of the pooled vector, before it is normalised. The same holds of an edit of
the pooled vector itself.

Letters: D width, N vectors.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tokay.errors import TokayError
from tokay.models.layers import layers_of
from tokay.models.reft import Intervention
from tokay.models.reft_model import ReftModel
from tokay.models.torch_embedder import TorchEmbedder


@dataclasses.dataclass(frozen=True)
class Affine:
    """``v' = Mv + c`` of pooled vectors that are not normalised: M (D, D), c (D)."""

    matrix: NDArray[np.float32]
    offset: NDArray[np.float32]

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors of the plain model to those of the edited one, (N, D)."""
        return np.asarray(vectors @ self.matrix.T + self.offset, np.float32)


@torch.no_grad()
def affine_of(model: ReftModel) -> Affine:
    """The adapter in force as an affine map.

    Raises:
        TokayError: it is none, with the reason.
    """
    adapter, last = model.adapter, model.layer_count - 1
    places = list(adapter.edits)
    if places not in (["pooled"], [f"{last}:all"]):
        raise TokayError(
            f"the edits at {', '.join(places[:4])}{', …' if len(places) > 4 else ''} cannot be merged: layers behind "
            f"them are not linear, and some tokens alone are no map of the vector; only an edit of layer {last} at "
            "'all' positions can, or one of the 'pooled' vector"
        )
    if places != ["pooled"] and not _ends_there(model):
        raise TokayError(
            f"the edit of layer {last} cannot be merged: {type(model.model).__name__} has a norm or a head behind its "
            "last layer, which is not linear; keep the adapter as it is"
        )
    edit = adapter.edits[places[0]]
    assert isinstance(edit, Intervention)
    a, bias, b = (None if part is None else part.double() for part in edit.build())
    assert bias is not None
    assert b is not None
    matrix = torch.eye(model.width, dtype=torch.float64, device=b.device) + (0 if a is None else b.T @ a)
    return Affine(matrix.float().cpu().numpy(), (b.T @ bias).float().cpu().numpy())


def save_merged(embedder: TorchEmbedder, folder: Path) -> None:
    """Write base and edit as a sentence-transformers folder with a Dense module, which needs no Tokay to be run.

    Args:
        embedder: with an adapter that is an affine map; it is left as it is.
        folder: made where it is not there.

    Raises:
        TokayError: the adapter is no such map, with the reason.
    """
    if not isinstance(embedder.backbone, ReftModel):
        raise TokayError("there are no edits to merge; expected an embedder with an adapter such as loreft")
    affine = affine_of(embedder.backbone)
    made = nn.Linear(len(affine.offset), len(affine.offset))
    with torch.no_grad():
        made.weight.copy_(torch.from_numpy(affine.matrix))
        made.bias.copy_(torch.from_numpy(affine.offset))
    head = embedder.head.behind(made)
    config = dataclasses.replace(embedder.config, steps=head.steps)
    TorchEmbedder(embedder.backbone.model, embedder.tokenizer, config, head).save(folder)


def _ends_there(model: ReftModel) -> bool:
    """Whether the last layer's output is the model's, seen on three tokens."""
    seen: list[Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    handle = layers_of(model.model, model.layer_list)[-1].register_forward_hook(keep)
    training = model.training
    model.eval()
    try:
        ids = torch.arange(1, 4, device=next(model.model.parameters()).device)[None]  # 0 may be padding, and zeros
        with model.disable_adapter():
            out = model(input_ids=ids)
    finally:
        handle.remove()
        model.train(training)
    found = getattr(out, "last_hidden_state", None)
    return found is not None and found.shape == seen[0].shape and torch.equal(found, seen[0])
