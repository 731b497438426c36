"""Edits through Tokay's training: every loss and batch size, a tuning with its folder, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reft_models import disturb
from tiny import tiny_base
from tokay.errors import TokayError
from tokay.models.embedder import Embedder
from tokay.models.reft_model import ReftModel
from tokay.models.space import vector_space
from tokay.models.torch_embedder import TorchEmbedder
from tokay.progress import Silent
from tokay.settings import TrainSettings
from tokay.store import MANIFEST
from tokay.train.adapters import adapter_of
from tokay.train.embedder import train_embedder
from tokay.train.soup import interpolate
from tokay.train.tune import tune
from train_data import base, dev, judged, ready, settings, source

TEXTS = ["river stone cloud", "a list of maps", "flame", "where do you find the end of an iron file"]


def reft(**changes: Any) -> TrainSettings:
    return settings(**{"adapter": "loreft", "learning_rate": 2e-2, "epochs": 2, **changes})


def trained(chosen: TrainSettings) -> tuple[TorchEmbedder, list[float]]:
    tuned = ready(chosen)
    rows = [judged(i) for i in range(40)]
    return tuned, [step.loss for step in train_embedder(tuned, [source(rows=rows)], chosen)]


@pytest.mark.parametrize("adapter", ["loreft", "direft"])
@pytest.mark.parametrize("positions", ["all", "f1+l1", "cls", "pooled"])
def test_the_edits_alone_are_trained_and_the_loss_falls(adapter: str, positions: str) -> None:
    tuned, losses = trained(reft(adapter=adapter, reft_positions=positions, epochs=4))
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    plain = dict(base().backbone.named_parameters())
    for name, parameter in tuned.backbone.model.named_parameters():
        assert torch.equal(parameter, plain[name])
    assert np.abs(tuned.eval().encode(TEXTS) - base().encode(TEXTS)).max() > 1e-3


@pytest.mark.parametrize("changes", [{"distil": "kl"}, {"same_tower": "always", "spread_out": 0.5}, {"dims": (16, 8)}])
@pytest.mark.parametrize("positions", ["all", "f1+l1"])
def test_batches_in_pieces_give_what_whole_ones_give(changes: dict[str, Any], positions: str) -> None:
    """GradCache, with every loss: positions of one chunk are not those of the next."""
    chosen = reft(reft_positions=positions, epochs=1, learning_rate=1e-3, **changes)
    whole, losses = trained(chosen)
    pieces, again = trained(chosen.model_copy(update={"tokens_kept": 0}))
    np.testing.assert_allclose(again, losses, atol=1e-5)
    np.testing.assert_allclose(pieces.eval().encode(TEXTS), whole.eval().encode(TEXTS), atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*checkpointing:FutureWarning")
def test_gradient_checkpointing_changes_nothing() -> None:
    chosen = reft(reft_positions="f1+l1", epochs=1, learning_rate=1e-3)
    plain, _ = trained(chosen)
    other, _ = trained(chosen.model_copy(update={"gradient_checkpointing": True}))
    np.testing.assert_allclose(other.eval().encode(TEXTS), plain.eval().encode(TEXTS), atol=1e-5)


def test_a_tuning_leaves_a_model_of_some_kilobytes(tmp_path: Path) -> None:
    done = tune(
        base(),
        [source()],
        reft(),
        model=tmp_path / "model",
        logs=tmp_path / "logs",
        checkpoints=tmp_path / "checkpoints",
        progress=Silent(),
        base_name=str(tiny_base()),
    )
    assert done.trainable == 2 * (2 * 4 * 32 + 4)
    loaded = Embedder.load(tmp_path / "model", device="cpu")
    assert isinstance(loaded, TorchEmbedder)
    assert isinstance(loaded.backbone, ReftModel)
    assert (loaded.config.dims, loaded.config.normalize) == ((32, 16), True)
    assert np.abs(loaded.encode(TEXTS) - base().encode(TEXTS)).max() > 1e-3
    beside = Embedder.load(tmp_path / "logs" / "adapter", device="cpu")
    np.testing.assert_array_equal(loaded.encode(TEXTS), beside.encode(TEXTS))
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8000
    about = json.loads((tmp_path / "model" / "tokay_adapter.json").read_text())
    assert about["base"] == str(tiny_base())
    assert vector_space(tmp_path / "model") != vector_space(tiny_base())
    assert vector_space(tmp_path / "model") == vector_space(tmp_path / "logs" / "adapter")


def test_a_runs_model_may_be_edits_alone(tmp_path: Path) -> None:
    tuned = disturb(ready(reft()).backbone)
    model = ready(reft())
    model.backbone = tuned
    adapter_of(reft()).save(model, tmp_path / "model", base_name=str(tiny_base()))
    (tmp_path / MANIFEST).write_text("{}")
    np.testing.assert_array_equal(Embedder.load(tmp_path, device="cpu").encode(TEXTS), model.eval().encode(TEXTS))


def test_a_cut_training_goes_on(tmp_path: Path) -> None:
    from tokay.train.checkpoints import Checkpoints

    chosen = reft(epochs=2)
    straight, _ = trained(chosen)
    kept = Checkpoints(tmp_path, identity="x", minutes=1e-9)
    first = train_embedder(ready(chosen), [source(rows=[judged(i) for i in range(40)])], chosen, checkpoints=kept)
    for _ in range(4):
        next(first)
    other = ready(chosen)
    steps = list(train_embedder(other, [source(rows=[judged(i) for i in range(40)])], chosen, checkpoints=kept))
    assert steps[0].step > 0
    np.testing.assert_array_equal(other.eval().encode(TEXTS), straight.eval().encode(TEXTS))


@pytest.mark.parametrize("adapter", ["loreft", "direft"])
def test_a_soup_with_the_base_makes_the_edits_smaller(adapter: str) -> None:
    tuned = ready(reft(adapter=adapter, reft_positions="pooled"))
    disturb(tuned.backbone)
    tuned.config = dataclasses.replace(tuned.config, normalize=False)
    plain = tuned.clone()
    with torch.no_grad(), plain.backbone.disable_adapter():
        before = plain(plain.tokenize(TEXTS))
        whole = tuned(tuned.tokenize(TEXTS))
        interpolate(tuned, base(), 0.3)
        found = tuned(tuned.tokenize(TEXTS))
    torch.testing.assert_close(found, torch.lerp(before, whole, 0.3), atol=1e-5, rtol=1e-4)


def test_an_automatic_soup_is_chosen_on_dev_queries(tmp_path: Path) -> None:
    done = tune(
        base(),
        [source()],
        reft(soup="auto"),
        model=tmp_path / "model",
        logs=tmp_path / "logs",
        checkpoints=None,
        progress=Silent(),
        dev=dev(),
        base_name=str(tiny_base()),
    )
    assert done.soup in {0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0}
    assert len(done.dev) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": 2}, "train.runs is 2 with train.adapter=loreft, whose edits are in another subspace in each run"),
        ({"reft_positions": "f"}, "the positions to edit are 'f'; expected"),
        ({"reft_layers": (2,)}, "layer 2 is to be edited and the model has 2: 0 to 1"),
        ({"reft_rank": 33}, "the rank of the edits is 33 and the model is 32 wide; lower the rank"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TokayError, match=message):
        adapter_of(reft(**changes)).attach(base())
