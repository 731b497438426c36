"""sentence-transformers' Dense: a linear map behind pooling, ``v' = f(Mv + c)``; its two files. No torch here.

Letters: D width of what comes in, W of what comes out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tokay.errors import MissingExtra, TokayError

WEIGHT, BIAS = "linear.weight", "linear.bias"
WEIGHTS = "model.safetensors"
ACTIVATIONS = {
    "Identity": "torch.nn.modules.linear.Identity",
    "Tanh": "torch.nn.modules.activation.Tanh",
    "ReLU": "torch.nn.modules.activation.ReLU",
    "GELU": "torch.nn.modules.activation.GELU",
    "Sigmoid": "torch.nn.modules.activation.Sigmoid",
}
"""f by name, as sentence-transformers writes it; each as torch makes it without arguments."""


@dataclasses.dataclass(frozen=True)
class Dense:
    """``v' = f(Mv + c)``: M (width, inner), c (width) where there is a bias, f of ``ACTIVATIONS``."""

    inner: int
    width: int
    bias: bool = True
    activation: str = "Tanh"


Step = Dense | Literal["Normalize"]
"""What may stand behind pooling."""


def dense_of(entries: Mapping[str, Any], folder: Path) -> Dense:
    """What the ``config.json`` of a Dense folder says.

    Raises:
        TokayError: it is damaged, or asks for what Tokay does not run.
    """
    path = folder / "config.json"
    try:
        inner, width = int(entries["in_features"]), int(entries["out_features"])
        activation = str(entries.get("activation_function", ACTIVATIONS["Tanh"])).rsplit(".", 1)[-1]
    except (KeyError, TypeError, ValueError) as error:
        raise TokayError(f"{path} says no in_features and out_features; save the model again") from error
    if activation not in ACTIVATIONS:
        raise TokayError(f"{path} has the activation {activation!r}; Tokay runs {', '.join(ACTIVATIONS)}")
    place = entries.get("module_input_name", "sentence_embedding")
    if {place, entries.get("module_output_name") or place} != {"sentence_embedding"} or entries.get("use_residual"):
        raise TokayError(
            f"{path} is of a map that reads or writes something else than the text's vector, or adds to it; Tokay runs "
            "plain maps of that vector"
        )
    return Dense(inner, width, bool(entries.get("bias", True)), activation)


def write_matrix(
    folder: Path,
    matrix: NDArray[np.float32],
    offset: NDArray[np.float32] | None = None,
    *,
    activation: str = "Identity",
) -> None:
    """Write a Dense folder: M (W, D), and c (W) where there is one."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    width, inner = matrix.shape
    config = {
        "in_features": inner,
        "out_features": width,
        "bias": offset is not None,
        "activation_function": ACTIVATIONS[activation],
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors = {WEIGHT: np.ascontiguousarray(matrix, np.float32)}
    if offset is not None:
        tensors[BIAS] = np.ascontiguousarray(offset, np.float32)
    save_file(tensors, folder / WEIGHTS)


def read_matrix(folder: Path) -> NDArray[np.float32]:
    """The matrix (W, D) of the Dense folder of a query side.

    Raises:
        TokayError: it is not there, or it is no linear layer.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ModuleNotFoundError as error:
        raise MissingExtra("a query side", "serve", "safetensors") from error
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if set(tensors) != {WEIGHT} or not config["activation_function"].endswith(".Identity"):
            raise ValueError("expected a linear layer without bias and activation")
        return tensors[WEIGHT].astype(np.float32)
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        raise TokayError(f"{path} holds no matrix: {error}; make the query side again with 'tokay train'") from error
