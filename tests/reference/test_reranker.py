"""Rerankers against sentence-transformers: the folder's scores, and the losses' values and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tiny import WORDS, _tokenizer, tiny_base
from tokay.export.onnx import write_cross_encoder
from tokay.models.cross_encoder import CrossEncoder
from tokay.models.folder import EmbedderConfig
from tokay.models.format import NONE
from tokay.models.onnx_cross_encoder import OnnxCrossEncoder
from tokay.models.torch_cross_encoder import TorchCrossEncoder
from tokay.models.torch_embedder import TorchEmbedder
from tokay.train.losses import listwise, pointwise

pytestmark = pytest.mark.reference

RANDOM = np.random.default_rng(0)
PAIRS = [
    (" ".join(RANDOM.choice(WORDS, 1 + i % 6)), " ".join(RANDOM.choice(WORDS, int(length))))
    for i, length in enumerate(RANDOM.integers(1, 90, 40))
]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
}


def embedder(family: str, **changes: Any) -> TorchEmbedder:
    """A tiny model of a family, random weights that are large enough to tell pairs apart."""
    from transformers import AutoConfig, AutoModel

    tokenizer = _tokenizer("[CLS] $A [SEP]", 64)
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, initializer_range=0.3, **SIZES | changes
    )
    torch.manual_seed(0)
    return TorchEmbedder(AutoModel.from_config(config).eval(), tokenizer, EmbedderConfig("mean", True, 64, NONE))


FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("bert", {}),
    ("roberta", {"type_vocab_size": 2}),
    ("distilbert", {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64}),
    ("electra", {"embedding_size": 32}),
]


@pytest.mark.parametrize(("family", "changes"), FAMILIES)
@pytest.mark.parametrize("layers", [0, 1])
def test_sentence_transformers_predicts_the_same(
    family: str, changes: dict[str, Any], layers: int, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder as Reference

    made = TorchCrossEncoder.on_top_of(embedder(family, **changes), layers=layers, max_tokens=48, seed=3)
    made.has_types = made.has_types and family != "distilbert"
    made.scale_logits(3.0, 0.5)
    made.save(tmp_path)
    ours = CrossEncoder.load(tmp_path, device="cpu")
    theirs = Reference(str(tmp_path), device="cpu")
    assert theirs.max_seq_length == ours.max_tokens == 48
    logits = ours.score(PAIRS)
    assert logits.std() > 1e-3
    np.testing.assert_allclose(logits, theirs.predict(PAIRS, activation_fn=nn.Identity()), atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), theirs.predict(PAIRS), atol=1e-5)
    np.testing.assert_allclose(ours.score(PAIRS, workers=3), logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "changes"), FAMILIES)
def test_the_graph_gives_the_models_logits(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    made = TorchCrossEncoder.on_top_of(embedder(family, **changes), max_tokens=48)
    made.save(tmp_path)
    made = TorchCrossEncoder.load(tmp_path, device="cpu")
    write_cross_encoder(made, tmp_path / "onnx" / "model.onnx")
    graph = OnnxCrossEncoder.load(tmp_path)
    assert graph.max_tokens == 48
    np.testing.assert_allclose(graph.score(PAIRS), made.score(PAIRS), atol=1e-5)
    np.testing.assert_allclose(graph.score(PAIRS, workers=2), graph.score(PAIRS, workers=1), atol=1e-5)


def test_a_cross_encoder_that_they_saved(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder as Reference

    made = TorchCrossEncoder.on_top_of(TorchEmbedder.load(tiny_base(), device="cpu"))
    made.scale_logits(30.0, 0.0)
    made.save(tmp_path / "ours")
    theirs = Reference(str(tmp_path / "ours"), device="cpu")
    theirs.save_pretrained(str(tmp_path / "theirs"))
    np.testing.assert_allclose(
        CrossEncoder.load(tmp_path / "theirs", device="cpu").score(PAIRS),
        theirs.predict(PAIRS, activation_fn=nn.Identity()),
        atol=1e-5,
    )


# -- losses ---------------------------------------------------------------------------------------------------------


class Given(nn.Module):
    """Stands for a model: the scores of pairs are given."""

    num_labels = 1
    device = torch.device("cpu")

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores

    def preprocess(self, pairs: Any, **options: Any) -> dict[str, Tensor]:
        return {"at": torch.tensor([int(passage) for _, passage in pairs])}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"scores": self.scores[features["at"]][:, None]}


@pytest.fixture
def their(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Their losses, which ask whether they were given a CrossEncoder."""
    from sentence_transformers.cross_encoder.losses import binary_cross_entropy, list_net

    monkeypatch.setattr(list_net, "CrossEncoder", Given)
    monkeypatch.setattr(binary_cross_entropy, "CrossEncoder", Given)
    return list_net.ListNetLoss, binary_cross_entropy.BinaryCrossEntropyLoss


@pytest.mark.parametrize("seed", range(4))
def test_listwise_is_their_list_net_less_an_entropy(their: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = [2, 5, 3, 7]
    listed = torch.arange(7)[None] < torch.tensor(sizes)[:, None]
    grades = torch.randint(0, 4, (4, 7), generator=generator).float()
    flat = torch.randn(sum(sizes), generator=generator, requires_grad=True)
    scores = torch.zeros(4, 7).masked_scatter(listed, flat)
    ours = listwise(scores, grades, listed, teacher_temperature=0.5)
    (gradient,) = torch.autograd.grad(ours, flat)
    ends = np.cumsum([0, *sizes])
    documents = [[str(i) for i in range(ends[n], ends[n + 1])] for n in range(4)]
    labels = [grades[n, :size] / 0.5 for n, size in enumerate(sizes)]
    theirs = their[0](Given(flat))([["q"] * 4, documents], labels)
    (their_gradient,) = torch.autograd.grad(theirs, flat)
    entropy = torch.stack([-(label.softmax(0) * label.log_softmax(0)).sum() for label in labels]).mean()
    torch.testing.assert_close(ours + entropy, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, their_gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_pointwise_is_their_binary_cross_entropy(their: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    grades = torch.randint(0, 4, (3, 5), generator=generator).float()
    flat = torch.randn(15, generator=generator, requires_grad=True)
    ours = pointwise(flat.view(3, 5), grades, torch.ones(3, 5, dtype=torch.bool), highest=3)
    (gradient,) = torch.autograd.grad(ours, flat)
    theirs = their[1](Given(flat))([["q"] * 15, [str(i) for i in range(15)]], grades.flatten() / 3)
    (their_gradient,) = torch.autograd.grad(theirs, flat)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, their_gradient, rtol=1e-5, atol=1e-5)
