"""Parts of a transformers model by its structure, not by a table of model names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import nn

from tokay.errors import TokayError


def layers_of(model: nn.Module, path: str = "") -> nn.ModuleList:
    """The model's layers, first to last: its longest list of modules of one kind, of those in no other list.

    Args:
        model: a transformers model, or what holds one.
        path: of the list in the model, where it is another one, such as ``model.layers``.

    Raises:
        TokayError: it has no such list.
    """
    if path:
        try:
            found = model.get_submodule(path)
        except AttributeError:
            found = None
        if not isinstance(found, nn.ModuleList) or not len(found):
            raise TokayError(f"{path!r} is no list of layers of {type(model).__name__}; name one, or leave it out")
        return found
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len({type(layer) for layer in m}) == 1]
    inner = {id(m) for one in lists for layer in one for m in layer.modules()}  # such as the experts of a layer
    lists = [one for one in lists if id(one) not in inner]
    if not lists:
        raise TokayError(
            f"{type(model).__name__} has no list of layers of one kind, so it cannot be seen where its layers are; "
            "choose adapter=full and freeze_layers=0, or another base"
        )
    return max(lists, key=len)


def embeddings_of(model: nn.Module) -> Iterator[nn.Parameter]:
    """The lookup tables of tokens, positions and types, with the norm that some models put beside them."""
    for module in model.modules():
        tables = [child for child in module.children() if isinstance(child, nn.Embedding)]
        is_all = tables and not any(isinstance(inner, nn.ModuleList) for inner in module.modules())
        for part in [module] if is_all else tables:
            yield from part.parameters()


def weights_print(model: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of the weights, in float32: equal for equal models."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
