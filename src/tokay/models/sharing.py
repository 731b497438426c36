"""Equal weights of several models, held once: adapters over one base differ from it in a part of their tensors.

Each model keeps modules of its own, and no tensor is written once it is shared, so threads may run them at a time. It
does not matter what left the tensors equal: adapters, frozen layers, or one model under two names.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn


def keep_once(module: nn.Module, kept: dict[str, Any]) -> None:
    """Let a module use the tensors of ``kept`` that are bit for bit its own, and add its others to them.

    The module must only be run from then on: training it would change the others.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = kept.setdefault(_print(tensor), tensor.data)


def _print(tensor: Tensor) -> str:
    """Equal where device, type, shape and bytes are."""
    data = tensor.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(data.view(torch.uint8).numpy().tobytes()).hexdigest()
    return f"{tensor.device} {tensor.dtype} {tuple(tensor.shape)} {digest}"
