"""What needs a CUDA device."""

from __future__ import annotations

import numpy as np
import pytest

from tiny import WORDS, tiny_base
from tokay.models.torch_embedder import TorchEmbedder
from tokay.settings import TrainSettings
from tokay.train.embedder import train_embedder
from train_data import source

pytestmark = pytest.mark.gpu


def test_vectors_are_those_of_the_cpu() -> None:
    texts = [" ".join(WORDS[i : i + 1 + i % 9]) for i in range(60)]
    on_gpu, on_cpu = (TorchEmbedder.load(tiny_base(), device=device).encode(texts) for device in ("cuda", "cpu"))
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-4)


def test_training_lowers_the_loss() -> None:
    embedder = TorchEmbedder.load(tiny_base(), device="cuda")
    settings = TrainSettings(batch_size=16, epochs=20, learning_rate=1e-3, dims=(16,))
    losses = [step.loss for step in train_embedder(embedder, [source()], settings)]
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
