"""Our own ONNX export: tokens in, unit vectors out, with attention as one node.

Exporters that stop at the backbone lose pooling and normalisation, which then everybody writes again, differently
(sentence-transformers#3258, optimum#1145). Here both are inside the graph. Attention is written as onnxruntime's fused
``MultiHeadAttention``, through the attention interface that every transformers model calls, so that no model needs
rules of its own; a model without that interface is exported as it stands.

Letters: B texts, L tokens, H heads, S width of a head, D width of the model.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokay.errors import MissingExtra, TokayError, first_line
from tokay.models.onnx_cross_encoder import LOGITS
from tokay.models.onnx_embedder import OUTPUT
from tokay.models.reft_model import edit_pooled, folded
from tokay.models.torch_cross_encoder import TorchCrossEncoder
from tokay.models.torch_embedder import TorchEmbedder, pool

ATTENTION = "tokay_onnx"
TOKENS_OUT = "last_hidden_state"
"""The first output, where other tools look for token vectors; it costs nothing unless it is asked for."""


class Graph(nn.Module):
    """What is exported: int64 (B, L) ids and mask -> (B, L, D) token vectors and (B, D) vectors."""

    def __init__(self, embedder: TorchEmbedder) -> None:
        super().__init__()
        self.backbone: Any = folded(embedder.backbone)
        self.pooling = embedder.config.pooling
        self.normalize = embedder.config.normalize

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode one batch."""
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        vectors = edit_pooled(self.backbone, pool(hidden, attention_mask.bool(), self.pooling))
        return hidden, F.normalize(vectors, dim=-1) if self.normalize else vectors


class PairGraph(nn.Module):
    """What is exported of a cross-encoder: int64 (B, L) ids, mask and types -> (B, 1) logits."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Score one batch."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        logits: Tensor = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **types).logits
        return logits


def write_onnx(embedder: TorchEmbedder, path: Path) -> None:
    """Write an embedder as an ONNX graph for onnxruntime, in float32.

    Inputs are ``input_ids`` and ``attention_mask``, int64 (B, L); outputs ``last_hidden_state`` and
    ``sentence_embedding``. B and L are free.

    Raises:
        MissingExtra: onnx or onnxscript is not installed.
        TokayError: the model has parts that cannot be exported.
    """
    for package in ("onnx", "onnxscript"):
        with_extra(package)
    _write(
        Graph(embedder.clone().to("cpu").eval()),
        path,
        inputs=("input_ids", "attention_mask"),
        outputs=(TOKENS_OUT, OUTPUT),
        pad=embedder.tokens.pad,
        longest=embedder.config.max_tokens,
    )


def write_cross_encoder(model: TorchCrossEncoder, path: Path) -> None:
    """Write a cross-encoder as an ONNX graph for onnxruntime, in float32.

    Inputs are ``input_ids``, ``attention_mask`` and, where the model has them, ``token_type_ids``, int64 (B, L); the
    output is ``logits``, (B, 1). B and L are free.

    Raises:
        MissingExtra: onnx or onnxscript is not installed.
        TokayError: the model has parts that cannot be exported.
    """
    for package in ("onnx", "onnxscript"):
        with_extra(package)
    types = ("token_type_ids",) if model.has_types else ()
    _write(
        PairGraph(copy.deepcopy(model.backbone).to("cpu").eval()),
        path,
        inputs=("input_ids", "attention_mask", *types),
        outputs=(LOGITS,),
        pad=model.tokens.pad,
        longest=model.max_tokens,
    )


def _write(
    graph: Graph | PairGraph, path: Path, *, inputs: Sequence[str], outputs: Sequence[str], pad: int, longest: int
) -> None:
    with contextlib.suppress(ValueError, AttributeError):  # a model without the interface: exported as it stands
        _register()
        graph.backbone.set_attn_implementation(ATTENTION)
    ids = torch.full((2, 9), pad)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    free = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens", min=2, max=max(longest, 16))}
    try:
        with quiet():
            program = torch.onnx.export(
                graph.eval(),
                (ids, mask, *(torch.zeros_like(ids) for _ in inputs[2:])),
                dynamo=True,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=(free,) * len(inputs),
                verbose=False,
            )
    except Exception as error:  # the exporter's errors have no common base
        name = type(graph.backbone).__name__
        raise TokayError(f"{name} cannot be exported to ONNX: {first_line(error)}") from error
    assert program is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(path)
    forget_shapes_of_weights(path)


def forget_shapes_of_weights(path: Path) -> None:
    """Take the shapes of stored tensors out of a graph's notes, where some versions of torch's exporter leave them.

    Tensors have their own shapes; onnxruntime before 1.32 transposes some to quantise them, and trips over the notes.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    stored, notes = {t.name for t in model.graph.initializer}, model.graph.value_info
    kept = [note for note in notes if note.name not in stored]
    if len(kept) < len(notes):
        del notes[:]
        notes.extend(kept)
        onnx.save(model, path)


def with_extra(package: str) -> None:
    """Say which extra is missing before the work begins."""
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise MissingExtra("exporting to ONNX", "export", package)


def _register() -> None:
    from transformers import masking_utils
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def mask(*args: Any, **kwargs: Any) -> Tensor:
        allowed = masking_utils.sdpa_mask(
            *args, **kwargs | {"allow_is_bidirectional_skip": False, "allow_is_causal_skip": False}
        )
        return torch.where(allowed, 0.0, torch.finfo(torch.float32).min).to(torch.float32)  # (B, 1, L, L)

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attention)
    masking_utils.ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, mask)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention as one node: (B, H, L, S) each -> (B, L, H, S)."""
    batch, heads, length, size = query.shape
    scale = kwargs.get("scaling")
    groups = heads // key.shape[1]
    key, value = (t.repeat_interleave(groups, 1) if groups > 1 else t for t in (key, value))
    flat = [t.transpose(1, 2).reshape(batch, length, heads * size) for t in (query, key, value)]
    out = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        (*flat, None, None, mask),
        {"num_heads": heads, "scale": float(scale if scale is not None else size**-0.5)},
        dtype=query.dtype,
        shape=(batch, length, heads * size),
        version=1,
    )
    return out.reshape(batch, length, heads, size), None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter and the quantiser print and warn; a library does not."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
