"""The loop: what a step does to the weights, when a training stops, and that one that was cut goes on to the bit."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tokay.errors import TokayError
from tokay.models.format import GECKO
from tokay.models.torch_embedder import TorchEmbedder
from tokay.settings import TrainSettings
from tokay.train.adapters import set_dropout
from tokay.train.checkpoints import Checkpoints
from tokay.train.dev import DevSet
from tokay.train.embedder import matryoshka_dims, prepared, train_embedder
from tokay.train.engine import Engine
from tokay.train.loop import Schedule, Step, train
from tokay.train.rates import HIGHEST, LOWEST, STEPS, find_rate
from train_data import base, dev, ready, row, settings, source

ALWAYS = 1e-9
"""Minutes between two checkpoints: one a step."""


class Scripted:
    """A trainee whose batches are its losses. Its weight, two numbers, has the gradient (3, 4) times ``slope``."""

    def __init__(self, *, slope: float = 1.0) -> None:
        self.module = nn.Linear(2, 1)
        with torch.no_grad():
            self.module.weight.fill_(1.0)
            self.module.bias.fill_(1.0)
        self.slope = slope

    def backward(self, batch: float) -> float:
        gradient = torch.tensor([[3.0, 4.0]]) * self.slope
        (self.module.weight * gradient).sum().backward()
        (self.module.bias * 0).sum().backward()
        return batch

    def kind(self, batch: float) -> str | None:
        return "all"

    def describe(self, batch: float) -> Mapping[str, Any]:
        return {"texts": [f"the text of {batch}"]}


def run(
    losses: Sequence[float],
    *,
    trainee: Scripted | None = None,
    checkpoints: Checkpoints | None = None,
    look: Any = None,
    **schedule: Any,
) -> Iterator[Step]:
    chosen = Schedule(**{"steps": len(losses), "learning_rate": 0.01, **schedule})
    return train(
        trainee or Scripted(),
        lambda start: iter(losses[start:]),
        chosen,
        engine=Engine(precision="fp32"),
        checkpoints=checkpoints,
        look=look,
    )


def trained(*, chosen: TrainSettings | None = None, **changes: Any) -> tuple[TorchEmbedder, list[float]]:
    chosen = chosen or settings(**changes)
    tuned = ready(chosen)
    return tuned, [step.loss for step in train_embedder(tuned, [source()], chosen)]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_equal(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> None:
    assert some.keys() == others.keys()
    assert [name for name in some if not torch.equal(some[name], others[name])] == []


def changed(tuned: TorchEmbedder) -> set[str]:
    """Names of the weights that are not the base's."""
    before = weights(base())
    return {name for name, value in weights(tuned).items() if not torch.equal(value, before[name])}


# -- what a training does -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_training_learns_and_repeats_to_the_bit(dropout: float) -> None:
    (first, losses), (second, again) = (trained(epochs=8, dropout=dropout) for _ in range(2))
    assert losses == again
    assert len(losses) == 20
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert_equal(weights(first), weights(second))


def test_another_seed_gives_another_training() -> None:
    assert trained(epochs=1)[1] != trained(epochs=1, seed=1)[1]


def test_a_trained_model_is_in_the_state_for_use() -> None:
    tuned, _ = trained(epochs=1)
    assert not any(module.training for module in tuned.modules())


@pytest.mark.parametrize("frozen", [True, False])
def test_embeddings_are_trained_unless_frozen(frozen: bool) -> None:
    tuned, _ = trained(epochs=1, freeze_embeddings=frozen)
    names = changed(tuned)
    assert ("backbone.embeddings.word_embeddings.weight" in names) is not frozen
    assert any(name.startswith("backbone.embeddings.") for name in names) is not frozen
    assert "backbone.encoder.layer.0.attention.self.query.weight" in names


def test_frozen_layers_stay_with_the_tables_below_them() -> None:
    tuned, _ = trained(epochs=1, freeze_embeddings=False, freeze_layers=1)
    names = changed(tuned)
    assert {name.split("layer.")[1][0] for name in names} == {"1"}
    assert len(names) == 16  # of the second layer: all


# -- a step ---------------------------------------------------------------------------------------------------------


def test_rate_rises_then_falls_to_zero() -> None:
    schedule = Schedule(steps=10, learning_rate=2.0, warmup=0.2)
    assert [schedule.rate(s) for s in range(11)] == [1.0, 2.0, *(2.0 * left / 8 for left in range(8, -1, -1))]


@given(st.integers(1, 200), st.floats(0, 1))
def test_rate_has_one_summit_and_is_never_zero_in_a_training(steps: int, warmup: float) -> None:
    schedule = Schedule(steps=steps, learning_rate=0.5, warmup=warmup)
    rates = [schedule.rate(s) for s in range(steps)]
    top = rates.index(max(rates))
    assert rates[top] == 0.5
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert min(rates) > 0


def test_each_step_moves_the_weight_by_its_rate() -> None:
    """Adam divides a constant gradient by its own size."""
    trainee = Scripted()
    at, steps = [1.0], []
    for step in run([1.0] * 10, trainee=trainee, weight_decay=0.0, warmup=0.3):
        steps.append(step)
        at.append(trainee.module.weight[0, 0].item())
    assert [step.step for step in steps] == list(range(10))
    assert [step.learning_rate for step in steps] == [
        Schedule(steps=10, learning_rate=0.01, warmup=0.3).rate(s) for s in range(10)
    ]
    assert [a - b for a, b in itertools.pairwise(at)] == pytest.approx([s.learning_rate for s in steps], rel=1e-3)


def test_gradients_are_clipped_and_their_norm_is_reported() -> None:
    trainee, moves = Scripted(), []
    for step in run([1.0] * 4, trainee=trainee, weight_decay=0.0, max_norm=1.0, warmup=0.0):
        moves.append(step.norm)
        trainee.slope *= 100  # without clipping Adam would see gradients that grow, and make smaller steps
    assert moves == pytest.approx([5, 500, 50_000, 5_000_000])
    rates = [Schedule(steps=4, learning_rate=0.01, warmup=0.0).rate(s) for s in range(4)]
    assert 1 - trainee.module.weight[0, 0].item() == pytest.approx(sum(rates), rel=1e-3)


def test_matrices_decay_and_biases_do_not() -> None:
    trainee = Scripted(slope=0.0)
    rates = [step.learning_rate for step in run([1.0] * 5, trainee=trainee, weight_decay=0.5)]
    assert trainee.module.weight[0].tolist() == pytest.approx([math.prod(1 - 0.5 * rate for rate in rates)] * 2)
    assert trainee.module.bias.item() == 1.0


# -- a loss that fails ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_before_it_reaches_the_weights(loss: float) -> None:
    trainee = Scripted()
    steps = run([1.0, 1.0, 1.0, loss, 1.0], trainee=trainee)
    kept = [trainee.module.weight.tolist() for _ in itertools.islice(steps, 3)]
    with pytest.raises(TokayError, match=rf"the loss is {loss} at step 3 of 5; lower train.learning_rate \(0.01\)"):
        next(steps)
    assert trainee.module.weight.tolist() == kept[-1]


def test_a_loss_that_runs_away_stops_at_the_step_that_it_names(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, identity="x", minutes=0)
    steps = run([1.0, 1.0, 1.0, 1.0, 30.0, 1.0], checkpoints=kept)
    assert len(list(itertools.islice(steps, 4))) == 4
    with pytest.raises(TokayError, match=r"the loss has diverged: it fell to 1 and is 3.9 now at step 4 of 6") as said:
        next(steps)
    assert str(tmp_path / "failed-batch.json") in str(said.value)
    assert json.loads((tmp_path / "failed-batch.json").read_text()) == {"texts": ["the text of 30.0"]}


@pytest.mark.parametrize(
    "losses",
    [
        [1.0, 1.0, 1.0, 20.0, 1.0, 1.0],  # one bad batch
        [10.0, *[0.1] * 60, *[9.0] * 20],  # thrice the lowest, and below where it began
    ],
)
def test_a_loss_that_is_only_rough_does_not_stop(losses: list[float]) -> None:
    assert len(list(run(losses))) == len(losses)


def test_the_batch_of_a_failed_loss_is_kept_with_its_texts(tmp_path: Path) -> None:
    chosen = settings()
    tuned = ready(chosen)
    with torch.no_grad():
        tuned.backbone.encoder.layer[1].output.dense.bias.fill_(torch.nan)
    kept = Checkpoints(tmp_path / "c", identity="x", minutes=5)
    rows = [row(i) for i in range(4)]
    with pytest.raises(TokayError, match=r"the loss is nan at step 0 of 3; its batch is in .*failed-batch.json"):
        list(train_embedder(tuned, [source(rows=rows)], chosen, checkpoints=kept))
    saved = json.loads((tmp_path / "c" / "failed-batch.json").read_text())
    assert {r["query"] for r in saved["rows"]} == {e.query for e in rows}
    assert {tuple(r["positive"]) for r in saved["rows"]} == {source().texts[e.positive_id] for e in rows}
    assert {e.query for e in rows} < set(saved["texts"])


# -- going on -------------------------------------------------------------------------------------------------------


def reported(step: Step) -> tuple[Any, ...]:
    """All but the seconds."""
    return step.step, step.loss, step.learning_rate, step.norm, step.dev


def in_two_parts(start: Any, folder: Path, cut: int) -> list[tuple[Any, ...]]:
    """The steps of a training that ends when it has yielded ``cut`` steps, and of the one that goes on."""
    kept = Checkpoints(folder, identity="x", minutes=ALWAYS)
    steps = start(kept)
    first = [reported(step) for step in itertools.islice(steps, cut)]
    steps.close()
    second = [reported(step) for step in start(Checkpoints(folder, identity="x", minutes=ALWAYS))]
    assert second[0][0] == cut - 1  # the last one was cut before its checkpoint
    return first[: cut - 1] + second


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("cut", [1, 2, 5, 8])
def test_a_training_that_was_cut_goes_on_to_the_bit(cut: int, dropout: float, tmp_path: Path) -> None:
    chosen = settings(dropout=dropout)
    models: list[TorchEmbedder] = []

    def start(kept: Checkpoints | None) -> Iterator[Step]:
        models.append(ready(chosen))
        return train_embedder(models[-1], [source()], chosen, checkpoints=kept)

    whole = [reported(step) for step in start(None)]
    assert len(whole) == 8
    assert in_two_parts(start, tmp_path, cut) == whole
    assert_equal(weights(models[0]), weights(models[2]))


def peak(trainee: Scripted, at: float) -> Any:
    """A dev figure that is best where the weight has come down to ``at``."""
    return lambda: -abs(trainee.module.weight[0, 0].item() - at)


STOPPING = {"steps": 40, "warmup": 0.0, "weight_decay": 0.0, "patience": 3, "look_every": 2}


@pytest.mark.parametrize("cut", [1, 2, 9, 11, 14, 16])
def test_early_stopping_that_was_cut_stops_where_it_would_have(cut: int, tmp_path: Path) -> None:
    trainees: list[Scripted] = []

    def start(kept: Checkpoints | None) -> Iterator[Step]:
        trainees.append(Scripted())
        look = peak(trainees[-1], 0.905)
        return run([1.0] * 40, trainee=trainees[-1], checkpoints=kept, look=look, **STOPPING)

    whole = [reported(step) for step in start(None)]
    assert len(whole) == 16
    assert in_two_parts(start, tmp_path, cut) == whole
    assert_equal(weights(trainees[0].module), weights(trainees[2].module))


# -- early stopping -------------------------------------------------------------------------------------------------


def test_early_stopping_goes_back_to_the_best_weights() -> None:
    trainee = Scripted()
    after: list[float] = []
    steps = []
    for step in run([1.0] * 40, trainee=trainee, look=peak(trainee, 0.905), **STOPPING):
        steps.append(step)
        after.append(trainee.module.weight[0, 0].item())
    assert [step.step for step in steps if step.dev is not None] == [1, 3, 5, 7, 9, 11, 13, 15]
    figures = {step.step: step.dev for step in steps if step.dev is not None}
    best = max(figures, key=lambda s: figures[s] or 0)
    assert best == 9
    assert len(steps) == best + 1 + 3 * 2  # three looks without a better figure, two steps each
    assert trainee.module.weight[0, 0].item() == after[best] != after[-1]


def test_an_equal_figure_is_no_better_one() -> None:
    trainee = Scripted()
    after = [trainee.module.weight[0, 0].item() for _ in run([1.0] * 40, trainee=trainee, look=lambda: 0.5, **STOPPING)]
    assert len(after) == 8
    assert trainee.module.weight[0, 0].item() == after[1]


def test_the_last_step_is_looked_at_and_patience_zero_never_looks() -> None:
    looks = itertools.count()
    steps = list(run([1.0] * 7, look=lambda: float(next(looks)), patience=9, look_every=5))
    assert [step.dev for step in steps] == [None] * 4 + [0.0, None, 1.0]
    assert [step.dev for step in run([1.0] * 7, look=lambda: 1.0, look_every=1)] == [None] * 7


def test_a_look_sees_the_model_without_dropout_and_the_training_goes_on_with_it() -> None:
    trainee, seen = Scripted(), []

    def look() -> float:
        seen.append(trainee.module.training)
        return 1.0

    for _ in run([1.0] * 3, trainee=trainee, look=look, patience=9, look_every=1):
        seen.append(trainee.module.training)
    assert seen == [False, True] * 3


def test_an_embedder_stops_on_its_dev_queries() -> None:
    chosen = settings(epochs=10, learning_rate=1e-6, patience=2, look_every=3)
    tuned = ready(chosen)
    queries = dev()
    steps = list(train_embedder(tuned, [source()], chosen, dev=queries))
    figures = [step.dev for step in steps if step.dev is not None]
    assert figures == pytest.approx([float(queries.measure(base()).mean())] * 3, abs=0.05)
    assert len(steps) == 9
    assert float(queries.measure(tuned).mean()) == max(figures)


# -- the sweep ------------------------------------------------------------------------------------------------------


def sweep(losses: Sequence[float], trainee: Scripted) -> float:
    taken = iter(losses)
    schedule = Schedule(steps=len(losses), learning_rate=1.0)
    return find_rate(trainee, lambda start: taken, schedule, engine=Engine(precision="fp32"))


@pytest.mark.parametrize("summit", [3, 20, 38])
def test_the_rate_is_a_tenth_of_that_of_the_lowest_loss(summit: int) -> None:
    losses = [100.0 - i for i in range(summit + 1)] + [1000.0] * STEPS
    expected = LOWEST * (HIGHEST / LOWEST) ** (summit / (STEPS - 1)) / 10
    assert sweep(losses, Scripted()) == pytest.approx(expected)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 100.0])
def test_the_sweep_ends_where_the_loss_has_doubled_or_is_no_number(loss: float) -> None:
    """What comes after it, however low, is not looked at."""
    rate = sweep([3.0, 2.0, loss, *[0.1] * STEPS], Scripted())
    assert rate == pytest.approx(LOWEST * (HIGHEST / LOWEST) ** (1 / (STEPS - 1)) / 10)


def test_the_sweep_raises_the_rate_and_puts_the_weights_back() -> None:
    trainee = Scripted()
    at: list[float] = []
    plain = trainee.backward

    def backward(batch: float) -> float:
        at.append(trainee.module.weight[0, 0].item())
        return plain(batch)

    trainee.backward = backward  # type: ignore[method-assign]
    assert sweep([50.0 - i for i in range(STEPS + 5)], trainee) == pytest.approx(HIGHEST / 10)
    assert len(at) == STEPS
    moves = [a - b for a, b in itertools.pairwise(at)]
    assert moves[-1] > 100 * moves[0] > 0
    assert trainee.module.weight.tolist() == [[1.0, 1.0]]
    assert trainee.module.weight.grad is None


def test_a_training_takes_the_rate_of_its_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings(epochs=2, find_rate=True, learning_rate=0.1)
    first, second = ready(chosen), ready(chosen)
    steps = list(train_embedder(first, [source()], chosen))
    found = max(step.learning_rate for step in steps)
    assert LOWEST / 10 <= found <= HIGHEST / 10
    plain = chosen.model_copy(update={"find_rate": False, "learning_rate": found})
    assert [reported(step) for step in train_embedder(second, [source()], plain)] == [reported(s) for s in steps]
    assert_equal(weights(first), weights(second))


def test_a_sweep_without_a_batch_ends() -> None:
    taken = itertools.count()

    def batches(start: int) -> Iterator[float]:
        assert next(taken) < 100, "the sweep asks for batches for ever"
        return iter(())

    rate = find_rate(Scripted(), batches, Schedule(steps=0, learning_rate=1e-4), engine=Engine(precision="fp32"))
    assert LOWEST / 10 <= rate <= HIGHEST / 10


# -- precision and memory -------------------------------------------------------------------------------------------


def test_bfloat16_learns_as_float32_does() -> None:
    exact, losses = trained(epochs=8)
    rough, others = trained(epochs=8, precision="bf16")
    assert others != losses  # or it was no bfloat16
    assert others == pytest.approx(losses, rel=0.05)
    assert {p.dtype for p in rough.parameters()} == {torch.float32}
    assert rough.backbone.config._attn_implementation == exact.backbone.config._attn_implementation
    _, repeated = trained(epochs=8)
    assert repeated == losses  # no precision is left over from a training before


def test_float16_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TokayError, match="'fp16', which needs a GPU; use 'bf16' or 'fp32'"):
        trained(precision="fp16")


def test_gradient_checkpointing_changes_nothing_but_what_is_computed_twice() -> None:
    found = []
    for on in (False, True):
        chosen = settings(epochs=1, dropout=0.2, gradient_checkpointing=on)
        tuned, calls = ready(chosen), []
        tuned.backbone.encoder.layer[1].intermediate.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        losses = [step.loss for step in train_embedder(tuned, [source()], chosen)]
        assert not tuned.backbone.is_gradient_checkpointing
        found.append((losses, weights(tuned), len(calls)))
    (losses, plain, once), (others, checkpointed, twice) = found
    assert others == losses
    assert twice == 2 * once
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value, rtol=1e-5, atol=1e-6)


# -- what is trained, as the settings have it -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "width", "dims"),
    [
        ((512, 384, 128), 384, (384, 128)),
        ((128,), 384, (384, 128)),
        ((64, 256, 64), 384, (384, 256, 64)),
        ((), 384, (384,)),
        ((1024,), 32, (32,)),
    ],
)
def test_dims_fit_the_width(wanted: tuple[int, ...], width: int, dims: tuple[int, ...]) -> None:
    assert matryoshka_dims(wanted, width) == dims


def test_what_is_trained_is_a_copy_that_the_settings_describe() -> None:
    model = base()
    tuned = prepared(model, settings(dims=(16, 64), format="gecko", dropout=0.3))
    assert tuned.config.dims == (32, 16)
    assert tuned.config.prompts == GECKO
    assert tuned.config.normalize
    assert model.config.dims == ()
    assert not {id(p) for p in tuned.parameters()} & {id(p) for p in model.parameters()}
    assert {m.p for m in tuned.modules() if isinstance(m, nn.Dropout)} == {0.3}
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {0.1}


def test_dropout_that_is_set_is_seen_in_every_layer() -> None:
    tuned = base()
    ids = tuned.tokenize(["river stone cloud", "flame"])
    tuned.train()
    set_dropout(tuned, 0.0)
    assert torch.equal(tuned(ids), tuned(ids))
    for layer in tuned.backbone.encoder.layer:
        set_dropout(layer.attention.self, 0.5)  # the one that transformers keeps apart
        assert not torch.equal(tuned(ids), tuned(ids))
        set_dropout(tuned, 0.0)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0, 1.0)])
def test_weights_of_widths_have_to_be_as_many(weights: tuple[float, ...]) -> None:
    message = rf"train.dim_weights has {len(weights)} weights for the 2 widths 32, 16; give one for each"
    with pytest.raises(TokayError, match=message):
        prepared(base(), settings(dims=(16,), dim_weights=weights))


@pytest.mark.parametrize("rows", [[], [row(0)]])
def test_a_source_needs_two_rows(rows: list[Any]) -> None:
    sources = [source("enough"), source("few", rows)]
    with pytest.raises(TokayError, match=rf"source 'few' has {len(rows)} training rows; expected at least 2"):
        list(train_embedder(base(), sources, settings()))


def test_a_source_of_matched_texts_needs_one() -> None:
    chosen = settings(epochs=1)
    sources = [source(), source("kept", [row(0)], matched=True)]
    assert len(list(train_embedder(ready(chosen), sources, chosen, teacher=base()))) == 4
    sources = [source(), source("kept", [], matched=True)]
    with pytest.raises(TokayError, match=r"source 'kept' has 0 training rows; expected at least 1"):
        list(train_embedder(ready(chosen), sources, chosen, teacher=base()))


def test_a_tracker_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "trackio" else object())
    with pytest.raises(TokayError, match=r"train.track is 'trackio', which is not installed: pip install trackio"):
        Engine(precision="fp32", track="trackio")


def test_dev_queries_without_patience_are_not_looked_at() -> None:
    class Unseen(DevSet):
        def measure(self, embedder: TorchEmbedder) -> Any:
            raise AssertionError("looked")

    chosen = settings(epochs=1)
    queries = dev()
    unseen = Unseen(queries.queries, queries.passages, queries.qrels)
    assert [s.dev for s in train_embedder(ready(chosen), [source()], chosen, dev=unseen)] == [None] * 3
