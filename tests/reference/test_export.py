"""Exports against the libraries that load them: sentence-transformers, and transformers' own backbones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export_data import material
from tiny import WORDS, _tokenizer
from tokay.export.onnx import write_onnx
from tokay.export.write import export_model
from tokay.models.embedder import Embedder
from tokay.models.folder import EmbedderConfig
from tokay.models.format import NONE, InputFormat
from tokay.models.onnx_embedder import FILES, OnnxEmbedder
from tokay.models.torch_embedder import TorchEmbedder

pytestmark = pytest.mark.reference

TEXTS = [" ".join(WORDS[i : i + 1 + i % 25]) for i in range(60)]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
}


def backbone(family: str, **changes: Any) -> TorchEmbedder:
    """A tiny model of a family, random weights."""
    from transformers import AutoConfig, AutoModel

    tokenizer = _tokenizer("[CLS] $A [SEP]", 64)
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **SIZES | changes
    )
    torch.manual_seed(0)
    return TorchEmbedder(AutoModel.from_config(config).eval(), tokenizer, EmbedderConfig("mean", True, 64, NONE))


@pytest.mark.parametrize(
    ("family", "pooling", "side", "changes"),
    [
        ("bert", "mean", "right", {}),
        ("roberta", "cls", "right", {}),
        ("mpnet", "mean", "right", {}),
        ("xlm-roberta", "mean", "right", {}),
        ("modernbert", "mean", "right", {"local_attention": 8, "global_attn_every_n_layers": 2}),
        ("qwen3", "lasttoken", "left", {"num_key_value_heads": 2, "head_dim": 8}),
        ("llama", "mean", "right", {"num_key_value_heads": 1}),
    ],
)
def test_a_graph_of_every_family_is_the_model(
    family: str, pooling: Any, side: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = backbone(family, **changes)
    model.config = EmbedderConfig(pooling, True, 64, NONE)
    model.tokenizer.padding_side = side
    model.tokens.left = side == "left"
    write_onnx(model, tmp_path / FILES[False])
    graph = OnnxEmbedder(tmp_path / FILES[False], model.tokens, model.config)
    np.testing.assert_allclose(graph.encode(TEXTS), model.encode(TEXTS), atol=3e-6)
    np.testing.assert_allclose(graph.encode(TEXTS[3:4]), model.encode(TEXTS[3:4]), atol=3e-6)


def test_sentence_transformers_loads_what_is_exported(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = backbone("bert")
    model.config = EmbedderConfig("mean", True, 64, InputFormat("ask: ", "text: "), (32, 16))
    export_model(model, ["onnx", "static"], tmp_path, material(), keep=True)
    for folder, ours in ((tmp_path, model), (tmp_path / "static", Embedder.load(tmp_path, backend="static"))):
        theirs = SentenceTransformer(str(folder), device="cpu")
        for kind, name in (("query", "query"), ("passage", "document")):
            np.testing.assert_allclose(theirs.encode(TEXTS, prompt_name=name), ours.encode(TEXTS, kind=kind), atol=3e-6)


def test_the_first_output_is_what_other_runtimes_pool(tmp_path: Path) -> None:
    model = backbone("bert")
    write_onnx(model, tmp_path / FILES[False])
    graph = OnnxEmbedder(tmp_path / FILES[False], model.tokens, model.config)
    assert [o.name for o in graph.session.get_outputs()] == ["last_hidden_state", "sentence_embedding"]
    ids, mask = model.tokens.padded(model.tokenize(TEXTS[:5]))
    hidden = graph.session.run(["last_hidden_state"], {"input_ids": ids, "attention_mask": mask})[0]
    with torch.inference_mode():
        expected = model.backbone(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state
    np.testing.assert_allclose(hidden[mask > 0], expected.numpy()[mask > 0], atol=2e-5)
