from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from simulated import SimulatedJudge
from tiny import WORDS, tiny_base
from tokay.annotate.judge import make_judge
from tokay.llm.probe import Abilities
from tokay.models.cross_encoder import CrossEncoder
from tokay.records import Passage, Query, Rating
from tokay.settings import JudgeSettings

pytestmark = pytest.mark.reference


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer classifier with one output over the tiny base's tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    path = tmp_path_factory.mktemp("cross")
    tokenizer = AutoTokenizer.from_pretrained(tiny_base())
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=1,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_logits_equal_sentence_transformers(folder: Path) -> None:
    from sentence_transformers import CrossEncoder as Reference
    from torch import nn

    rng = np.random.default_rng(0)
    pairs = [
        (" ".join(rng.choice(WORDS, 4)), " ".join(rng.choice(WORDS, int(length))))
        for length in rng.integers(1, 100, 40)  # some are longer than 64 positions
    ]
    reference = Reference(str(folder), device="cpu").predict(pairs, activation_fn=nn.Identity())
    np.testing.assert_allclose(CrossEncoder.load(folder).score(pairs), reference, atol=1e-5)


def test_it_judges_in_the_llms_place(folder: Path) -> None:
    query = Query("q", "p0", "t", "open a file", "train", True, "", "")
    shown = [Passage(f"p{i}", "d", "", f"{WORDS[i]} {WORDS[i + 9]} file", "", "") for i in range(6)]
    chat = SimulatedJudge({})
    judge = make_judge(JudgeSettings(by="cross-encoder", cross_encoder=str(folder)), Abilities(), chat)
    ratings = [r for r in asyncio.run(judge.rate(chat, query, shown)) if isinstance(r, Rating)]
    judged = judge.decide(query, [p.passage_id for p in shown], ratings)
    assert not chat.sent
    logits = CrossEncoder.load(folder).score([(query.text, p.text) for p in shown])
    assert [j.score for j in judged] == pytest.approx(logits.tolist(), abs=1e-5)
    assert [j.passage_id for j in judged if j.best] == [f"p{int(np.argmax(logits))}"]
    probabilities = 1 / (1 + np.exp(-logits))
    assert [j.grade for j in judged] == [int(sum(p >= t for t in (0.1, 0.5, 0.9))) for p in probabilities]
