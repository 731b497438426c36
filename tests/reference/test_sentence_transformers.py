"""Equality with sentence-transformers: the folder it loads, the vectors it gives, the loss it computes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tiny import WORDS, tiny_base
from tokay.models.embedder import Embedder
from tokay.models.format import GECKO
from tokay.train.losses import contrastive, matryoshka

pytestmark = pytest.mark.reference
TEXTS = [" ".join(WORDS[i : i + 1 + (7 * i) % 70]) for i in range(0, 90, 5)]


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
@pytest.mark.parametrize("normalize", [True, False])
def test_same_vectors_from_the_same_folder(pooling: str, normalize: bool) -> None:
    from sentence_transformers import SentenceTransformer

    folder = tiny_base(pooling, normalize=normalize)
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(Embedder.load(folder).encode(TEXTS), theirs, atol=2e-6)


def test_a_saved_model_loads_there_with_its_prompts_and_widths(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    ours = Embedder.load(tiny_base())
    ours.config = dataclasses.replace(ours.config, prompts=GECKO, dims=(32, 16), max_tokens=24)
    ours.save(tmp_path)
    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    assert theirs.prompts["query"] == "task: search result | query: "
    assert theirs.max_seq_length == 24
    np.testing.assert_allclose(ours.encode(TEXTS, kind="query"), theirs.encode_query(TEXTS), atol=2e-6)
    np.testing.assert_allclose(ours.encode(TEXTS), theirs.encode_document(TEXTS), atol=2e-6)
    cut = theirs.encode_document(TEXTS, truncate_dim=16, normalize_embeddings=True)
    np.testing.assert_allclose(ours.encode(TEXTS, dim=16), cut, atol=2e-6)


def test_minilm_gives_the_vectors_that_sentence_transformers_gives() -> None:
    from sentence_transformers import SentenceTransformer

    from tokay.models.locate import find_model

    theirs = SentenceTransformer(str(find_model("minilm")), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(Embedder.load("minilm").encode(TEXTS), theirs, atol=2e-6)


def test_loss_equals_multiple_negatives_ranking_with_matryoshka() -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.losses import MatryoshkaLoss, MultipleNegativesRankingLoss

    model = SentenceTransformer(str(tiny_base()), device="cpu").eval()
    ours = Embedder.load(tiny_base())
    queries, passages = TEXTS[:8], TEXTS[8:16]
    plain = MultipleNegativesRankingLoss(model, scale=20.0)
    theirs = MatryoshkaLoss(model, plain, matryoshka_dims=[32, 16], matryoshka_weights=[0.5, 0.5])
    features = [model.preprocess(texts) for texts in (queries, passages)]
    with torch.no_grad():
        expected = theirs(features, torch.zeros(8)).item()
        q, p = ours(ours.tokenize(queries)), ours(ours.tokenize(passages))

    def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        everything = torch.ones(8, 8, dtype=torch.bool)
        return contrastive(a, b, target=torch.arange(8), allowed=everything, temperature=0.05)

    assert matryoshka(loss, q, p, dims=(32, 16)).item() == pytest.approx(expected, abs=1e-5)
