"""A classifier and a language model through the one loop: the loss is the plain one, and edits alone can learn it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from reft_models import disturb, model_of
from tokay.errors import TokayError
from tokay.models.reft_config import ReftConfig
from tokay.models.reft_model import get_reft_model
from tokay.train import trainee
from tokay.train.engine import Engine
from tokay.train.heads import (
    Answered,
    CausalTrainee,
    Classifier,
    ClassifierTrainee,
    Completer,
    Labelled,
    shuffled,
)
from tokay.train.loop import Schedule, train
from train_data import base

ROWS = [Labelled([2, 20 + i % 5, *range(30, 30 + i % 3), 10 + i % 2, 3], i % 2) for i in range(24)]
ANSWERS = [Answered([1, 10 + i, 4, *range(5, 5 + i % 3)], [30 + i, 2][: 1 + i % 2]) for i in range(12)]


def classifier(seed: int = 0) -> Classifier:
    embedder = base()
    torch.manual_seed(seed)
    embedder.backbone = get_reft_model(embedder.backbone, ReftConfig(positions="all"))
    disturb(embedder.backbone)
    return Classifier(embedder, 2).eval()


def completer() -> Completer:
    torch.manual_seed(0)
    return Completer(disturb(get_reft_model(model_of("llama", causal=True), ReftConfig(positions="f2+l2")))).eval()


@pytest.fixture(params=[0, 10**6])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Activations are kept or computed twice, in many chunks."""
    monkeypatch.setitem(trainee.TOKENS_PER_CHUNK, "cpu", 16)
    return int(request.param)


def test_a_classifiers_gradients_are_those_of_one_plain_batch(kept: int) -> None:
    mine, plain = classifier(), classifier()
    loss = ClassifierTrainee(mine, Engine(precision="fp32"), tokens_kept=kept).backward(ROWS)
    wanted = F.cross_entropy(plain([row.ids for row in ROWS]), torch.tensor([row.label for row in ROWS]))
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), abs=1e-5)
    for one, other in zip(mine.parameters(), plain.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)


def test_a_language_models_gradients_are_those_of_each_answer_alone(kept: int) -> None:
    """No padding, no chunks: the loss of every answer's tokens, each alike, with edits of the prompt."""
    mine, plain = completer(), completer()
    loss = CausalTrainee(mine, Engine(precision="fp32"), tokens_kept=kept).backward(ANSWERS)
    tokens = sum(len(row.answer) for row in ANSWERS)
    whole = 0.0
    for row in ANSWERS:
        ids = torch.tensor([[*row.prompt, *row.answer]])
        labels = ids.clone()
        labels[:, : len(row.prompt)] = -100
        part = plain.model(input_ids=ids, labels=labels).loss * len(row.answer) / tokens
        part.backward()
        whole += part.item()
    assert loss == pytest.approx(whole, abs=1e-4)
    for one, other in zip(mine.model.adapters.parameters(), plain.model.adapters.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-3)


def test_edits_and_a_head_learn_to_classify() -> None:
    model = classifier()
    steps, batches = shuffled(ROWS, size=8, epochs=12, seed=0)
    losses = [
        step.loss
        for step in train(
            ClassifierTrainee(model, Engine(precision="fp32")),
            batches,
            Schedule(steps, 2e-2),
            engine=Engine(precision="fp32"),
        )
    ]
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    assert (model.predict([row.ids for row in ROWS]) == torch.tensor([row.label for row in ROWS])).float().mean() > 0.9


def test_edits_of_prompts_teach_a_language_model_its_answers() -> None:
    model, engine = completer(), Engine(precision="fp32")
    rows = [Answered([1, 10 + i, 4], [30 + i % 2, 2]) for i in range(8)]
    steps, batches = shuffled(rows, size=4, epochs=40, seed=0)
    losses = [step.loss for step in train(CausalTrainee(model, engine), batches, Schedule(steps, 3e-2), engine=engine)]
    assert losses[-1] < 0.5 * losses[0]
    found = model.model.generate(torch.tensor([row.prompt for row in rows]), max_new_tokens=2, do_sample=False)
    assert sum(out.tolist() == row.answer for out, row in zip(found[:, 3:], rows, strict=True)) >= 6


def test_batches_hold_every_row_once_an_epoch_and_go_on_from_any_step() -> None:
    steps, batches = shuffled(list(range(10)), size=4, epochs=3, seed=1)
    found = list(batches(0))
    assert len(found) == steps == 9
    assert [sorted(itertools.chain(*found[i : i + 3])) for i in (0, 3, 6)] == [list(range(10))] * 3
    assert found[:3] != found[3:6]
    assert list(batches(4)) == found[4:]


def test_empty_rows_are_refused() -> None:
    with pytest.raises(TokayError, match="there are no rows to train on; give at least one"):
        shuffled([], size=4, epochs=1, seed=0)
    empty = CausalTrainee(completer(), Engine(precision="fp32"))
    with pytest.raises(TokayError, match="row 0 of a batch has an empty answer; expected a prompt and an answer"):
        empty.backward([Answered([1], [])])
