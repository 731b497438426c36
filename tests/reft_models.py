"""Eight transformers backbones with random weights: three layers, 32 wide."""

from __future__ import annotations

import functools
from typing import Any

import torch

ENCODERS = ("bert", "roberta", "mpnet", "modernbert")
DECODERS = ("llama", "qwen3", "gemma3_text", "gpt2")
FAMILIES = ENCODERS + DECODERS
LAYERS, WIDTH, WORDS = 3, 32, 60

_OWN: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2, "n_positions": 64},
    "gemma3_text": {"head_dim": 16, "sliding_window": 8},
    "qwen3": {"head_dim": 16},
}


def model_of(family: str, *, causal: bool = False, seed: int = 0, **changes: Any) -> Any:
    """A fresh one, in evaluation."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    plain = {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "cls_token_id": 1,
        "sep_token_id": 2,
    }
    sizes = {**({} if family == "gpt2" else plain), **_OWN.get(family, {})}
    tokens = {"vocab_size": WORDS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(family, **{**sizes, **tokens, "initializer_range": 0.3, **changes})
    torch.manual_seed(seed)
    return (AutoModelForCausalLM if causal else AutoModel).from_config(config).eval()


@functools.cache
def ids_of(rows: int = 3, length: int = 9) -> torch.Tensor:
    """Token ids, none of them special."""
    return torch.randint(3, WORDS, (rows, length), generator=torch.Generator().manual_seed(1))


def disturb(model: Any, *, by: float = 0.3, seed: int = 1) -> Any:
    """The model with adapters that change something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.adapters.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator).to(parameter))
    return model
