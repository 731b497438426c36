"""Gecko's judge on a language model in this process, against a plain loop in float64. Random weights: mechanics only."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest
import torch

from tiny import WORDS, tiny_lm
from tokay.annotate import prompts
from tokay.annotate.judge import make_judge
from tokay.llm.door import Door
from tokay.llm.ledger import Ledger
from tokay.llm.local import LocalModel
from tokay.records import Passage, Query, Rating
from tokay.settings import JudgeSettings

QUERY = Query("q", "p2", "find the file", "which line is next", "train", True, "", "")
SHOWN = [Passage(f"p{i}", "d", WORDS[5 * i], " ".join(WORDS[7 * i : 7 * i + 9]), "", "") for i in range(6)]


def log_probability(folder: Path, context: str, continuation: str) -> float:
    """One text at a time, every logit, in float64."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    before, ids = tokenizer(context)["input_ids"], tokenizer(context + continuation)["input_ids"]
    assert ids[: len(before)] == before
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].tolist()
    return math.fsum(
        logits[t - 1][ids[t]] - math.log(math.fsum(math.exp(x) for x in logits[t - 1]))
        for t in range(len(before), len(ids))
    )


def test_likelihoods_labels_and_fusion_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    folder = tiny_lm(positions=4096)

    async def main() -> tuple[list[Rating], list[tuple[str, float, bool]]]:
        door = Door(LocalModel(str(folder), dtype=torch.float64), Ledger(tmp_path / "ledger"))
        judge = make_judge(JudgeSettings(), await door.abilities(), door)
        assert judge.version.startswith("gecko ")
        rated = [r for r in await judge.rate(door, QUERY, SHOWN) if isinstance(r, Rating)]
        decided = judge.decide(QUERY, [p.passage_id for p in SHOWN], rated)
        await door.close()
        return rated, [(j.passage_id, j.score, j.best) for j in decided]

    rated, decided = asyncio.run(main())
    values = {(r.judge, r.passage_id): r.value for r in rated}
    assert len(values) == len(rated) == 6 * (1 + 4)
    ql, rc = [], []
    for passage in SHOWN:
        context = prompts.likelihood_context(QUERY, passage, passage_chars=900)
        ql.append(log_probability(folder, context, f" {QUERY.text}"))
        assert values["likelihood", passage.passage_id] == pytest.approx(ql[-1], abs=1e-6)
        context = prompts.relevance_context(QUERY, passage, passage_chars=900)
        labels = [log_probability(folder, context, f" {label}") for label in prompts.LABELS]
        rc.append(labels[3])
        assert [values[f"relevance:{g}", passage.passage_id] for g in range(4)] == pytest.approx(labels, abs=1e-6)
    ranks = [[1 + sum(other > mine for other in scores) for mine in scores] for scores in (ql, rc)]
    fused = [1 / a + 1 / b for a, b in zip(*ranks, strict=True)]
    assert [score for _, score, _ in decided] == pytest.approx(fused, abs=1e-6)
    best = max(range(6), key=lambda i: (fused[i], i == 2, -ranks[1][i]))
    assert [i for i, (_, _, first) in enumerate(decided) if first] == [best]
