"""Attention for bfloat16 on a CPU: the same products, with this one step in float32.

torch's CPU kernel of scaled dot-product attention differentiates bfloat16 five times as slowly as float32 (torch
2.13, docs/log.md), which eats what bfloat16 gains everywhere else. Its share of the work is small, so it is done in
float32 between two casts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

NAME = "sdpa_float32"


@contextlib.contextmanager
def float32_attention(model: nn.Module) -> Iterator[None]:
    """A transformers model that attends in float32 meanwhile, where it uses torch's attention at all."""
    backbones: list[Any] = [m for m in model.modules() if hasattr(m, "set_attn_implementation")]
    chosen = [m for m in backbones if getattr(m.config, "_attn_implementation", "") == "sdpa"]
    _register()
    for backbone in chosen:
        backbone.set_attn_implementation(NAME)
    try:
        yield
    finally:
        for backbone in chosen:
            backbone.set_attn_implementation("sdpa")


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """(N, heads, L, D/heads) each; the mask is boolean or is added."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    given = query.dtype
    mask = attention_mask if attention_mask is None or attention_mask.dtype == torch.bool else attention_mask.float()
    with torch.autocast(query.device.type, enabled=False):
        out, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **options)
    return out.to(given), None
