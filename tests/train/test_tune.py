"""A whole tuning: what it writes, what it refuses, and that a cut one ends with the same bytes as an uncut one."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from tiny import tiny_base
from tokay.errors import TokayError
from tokay.models.torch_embedder import TorchEmbedder
from tokay.progress import Silent
from tokay.settings import TrainSettings
from tokay.train import tune as tune_module
from tokay.train.card import card
from tokay.train.checkpoints import Checkpoints
from tokay.train.embedder import draw_of, maker_of
from tokay.train.mixture import Source
from tokay.train.soup import add_to_mean, choose_soup, interpolate
from tokay.train.tune import SOUP_WEIGHTS, Tuned, identity_of, settings_hash, tune
from train_data import ROWS, base, dev, files_end_at, row, settings, source

ALWAYS = 1e-9
"""Minutes between two checkpoints: one a step."""


class Told(Silent):
    """Keeps what is said; ends the process, so to speak, when it has heard of so many steps."""

    def __init__(self, *, cut: int = 0) -> None:
        self.left = cut
        self.lines: list[str] = []
        self.tasks: list[tuple[str, int | None]] = []
        self.steps = 0

    def start(self, what: str, total: int | None) -> None:
        self.tasks.append((what, total))

    def say(self, line: str) -> None:
        self.lines.append(line)

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.steps += amount
        self.left -= bool(note)
        if note and not self.left:
            raise KeyboardInterrupt


def tuning(
    folder: Path, chosen: TrainSettings, *, sources: Sequence[Source] = (), told: Told | None = None, **more: Any
) -> Tuned:
    return tune(
        more.pop("base", None) or base(),
        sources or [source()],
        chosen,
        **{
            "model": folder / "model",
            "logs": folder / "logs",
            "checkpoints": folder / "checkpoints",
            "progress": told or Told(),
            "base_name": str(tiny_base()),
            **more,
        },
    )


def weights(folder: Path) -> list[Tensor]:
    return [p.detach() for p in TorchEmbedder.load(folder / "model", device="cpu").parameters()]


def written(folder: Path) -> dict[str, bytes]:
    """All bytes of the model, by file."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in (folder / "model").rglob("*") if p.is_file()}


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "logs" / "metrics.jsonl").read_text().splitlines()]


# -- what it writes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keeps", [True, False])
def test_a_tuning_writes_a_model_a_line_a_step_and_its_story(tmp_path: Path, keeps: bool) -> None:
    told, model = Told(), base()
    chosen = settings(max_tokens=0)
    done = tuning(tmp_path, chosen, told=told, base=model, checkpoints=tmp_path / "kept" if keeps else None)
    loaded = TorchEmbedder.load(tmp_path / "model", device="cpu")
    assert loaded.config.dims == (32, 16)
    assert loaded.config.normalize
    assert np.isfinite(loaded.encode(["river stone"])).all()
    lines = journal(tmp_path)
    assert [(line["run"], line["step"]) for line in lines] == [(0, step) for step in range(8)]
    assert all(line.keys() >= {"loss", "learning_rate", "norm", "seconds", "tokens"} for line in lines)
    assert all(min(line[key] for key in ("loss", "learning_rate", "norm", "tokens")) > 0 for line in lines)
    assert json.loads((tmp_path / "logs" / "tuned.json").read_text()) == json.loads(json.dumps(vars(done)))
    maker = maker_of(model, chosen)
    batches = [maker.make(rows, 0).texts for rows in draw_of([source()], chosen).batches()]
    assert done == Tuned(
        base=str(tiny_base()),
        settings=settings_hash(chosen),
        sources={"run": 120},
        steps=8,
        planned=8,
        runs=1,
        seconds=done.seconds,
        texts=sum(len(texts) for texts in batches),
        tokens=sum(len(ids) for texts in batches for ids in model.tokenize(texts)),
        useful=done.useful,
        precision="fp32",
        loss=lines[-1]["loss"],
        trainable=sum(p.numel() for n, p in model.named_parameters() if "embeddings" not in n),
        parameters=sum(p.numel() for p in model.parameters()),
        soup=1.0,
        dev={},
    )
    assert 0 < done.useful <= 1
    assert told.tasks == [("training", 8)]
    assert told.steps == 8
    assert len(told.lines) == 1
    assert "parameters are trained" in told.lines[0]
    assert {path.name for path in tmp_path.iterdir()} == {"model", "logs"}  # no checkpoint is left


def test_the_base_is_left_as_it_is(tmp_path: Path) -> None:
    model = base()
    tuning(tmp_path, settings(epochs=1, runs=2, soup=0.5, dropout=0.3, max_tokens=0), base=model)
    assert model.config == base().config
    assert not any(module.training for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {0.1}
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), base().parameters(), strict=True))


def test_what_was_tuned_is_better_on_its_own_queries(tmp_path: Path) -> None:
    queries = dev()
    tuning(tmp_path, settings(epochs=10))
    tuned = TorchEmbedder.load(tmp_path / "model", device="cpu")
    assert queries.measure(tuned).mean() > queries.measure(base()).mean() + 0.05


def test_lora_leaves_an_adapter_beside_the_merged_model(tmp_path: Path) -> None:
    done = tuning(tmp_path, settings(adapter="lora", lora_rank=2))
    adapter, model = (TorchEmbedder.load(f, device="cpu") for f in (tmp_path / "logs" / "adapter", tmp_path / "model"))
    np.testing.assert_allclose(adapter.encode(["river stone"]), model.encode(["river stone"]), atol=1e-6)
    assert adapter.config == model.config
    assert done.trainable < 0.2 * done.parameters
    assert done.parameters == sum(p.numel() for p in base().parameters())


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_a_tuning_repeats_to_the_bit_whatever_was_drawn_before(tmp_path: Path, adapter: str) -> None:
    chosen = settings(adapter=adapter, lora_rank=2, epochs=1, dropout=0.1)
    for name, drawn in (("one", 1), ("two", 2)):
        torch.manual_seed(drawn)
        tuning(tmp_path / name, chosen)
    assert written(tmp_path / "one") == written(tmp_path / "two")


def test_runs_of_lora_begin_with_matrices_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[Tensor] = []

    def train_nothing(tuned: TorchEmbedder, *_: Any, **__: Any) -> Any:
        began.append(next(p.detach().clone() for n, p in tuned.named_parameters() if "lora_A" in n))
        return iter(())

    monkeypatch.setattr(tune_module, "train_embedder", train_nothing)
    for seed in (0, 0, 1):
        torch.manual_seed(99)
        tuning(tmp_path / "x", settings(adapter="lora", lora_rank=2, runs=2, seed=seed), checkpoints=None)
    (a, b), (c, d), (e, f) = zip(began[::2], began[1::2], strict=True)
    assert torch.equal(a, c)
    assert torch.equal(b, d)
    assert torch.equal(b, e)  # the second run has the seed after the first one's
    assert not torch.equal(a, b)
    assert not torch.equal(e, f)


def test_a_mixture_is_trained_with_texts_that_stay_where_the_base_has_them(tmp_path: Path) -> None:
    kept = source("kept", ROWS[20:36], matched=True, weight=2.0)
    chosen = settings(epochs=4, batching="mixed")
    done = tuning(tmp_path / "both", chosen, sources=[source(rows=ROWS[:20]), kept])
    assert done.sources == {"run": 80, "kept": 128}
    assert done.steps == math.ceil(208 / 16)
    alone = tuning(tmp_path / "one", chosen.model_copy(update={"epochs": 10}), sources=[source(rows=ROWS[:20])])
    assert alone.steps == done.steps
    texts = [text for _, text in (source().texts[e.positive_id] for e in kept.rows)]
    before = base().encode(texts)
    both, one = (TorchEmbedder.load(tmp_path / name / "model", device="cpu").encode(texts) for name in ("both", "one"))
    assert (both * before).sum(1).mean() > (one * before).sum(1).mean() + 0.01


# -- soups ----------------------------------------------------------------------------------------------------------


def test_runs_are_averaged(tmp_path: Path) -> None:
    tuning(tmp_path / "three", settings(epochs=1, runs=3, seed=4))
    for seed in (4, 5, 6):
        tuning(tmp_path / str(seed), settings(epochs=1, seed=seed))
    runs = [weights(tmp_path / str(seed)) for seed in (4, 5, 6)]
    for mean, some in zip(weights(tmp_path / "three"), zip(*runs, strict=True), strict=True):
        torch.testing.assert_close(mean, torch.stack(some).mean(0), atol=1e-6, rtol=0)
    assert any(not torch.equal(a, b) for a, b in zip(*runs[:2], strict=True))
    assert [line["run"] for line in journal(tmp_path / "three")] == [0] * 3 + [1] * 3 + [2] * 3


@pytest.mark.parametrize("how", ["lerp", "slerp"])
def test_a_soup_lies_between_base_and_tuned(tmp_path: Path, how: str) -> None:
    tuning(tmp_path / "whole", settings(epochs=1))
    done = tuning(tmp_path / "soup", settings(epochs=1, soup=0.3, merge=how))
    assert done.soup == 0.3
    expected = TorchEmbedder.load(tmp_path / "whole" / "model", device="cpu")
    interpolate(expected, base(), 0.3, how=how)  # type: ignore[arg-type]
    for a, b in zip(weights(tmp_path / "soup"), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b.detach())


def test_the_soup_is_pulled_once_from_the_mean_of_runs(tmp_path: Path) -> None:
    tuning(tmp_path / "soup", settings(epochs=1, runs=2, soup=0.5))
    tuning(tmp_path / "first", settings(epochs=1))
    tuning(tmp_path / "second", settings(epochs=1, seed=1))
    first, second = (TorchEmbedder.load(tmp_path / n / "model", device="cpu") for n in ("first", "second"))
    add_to_mean(first, second, count=1)
    for a, b, c in zip(weights(tmp_path / "soup"), first.parameters(), base().parameters(), strict=True):
        torch.testing.assert_close(a, (b + c).detach() / 2, atol=1e-6, rtol=0)


def test_auto_chooses_the_soup_on_dev_queries(tmp_path: Path) -> None:
    queries = dev()
    done = tuning(tmp_path / "auto", settings(epochs=6, learning_rate=1e-2, soup="auto"), dev=queries)
    tuning(tmp_path / "whole", settings(epochs=6, learning_rate=1e-2))
    found = {}
    for weight in SOUP_WEIGHTS:
        mixed = TorchEmbedder.load(tmp_path / "whole" / "model", device="cpu")
        interpolate(mixed, base(), weight)
        found[weight] = queries.measure(mixed)
    assert done.dev == pytest.approx({f"{weight:g}": values.mean() for weight, values in found.items()})
    assert done.soup == choose_soup(found)
    assert min(SOUP_WEIGHTS) < done.soup < 1  # or there would be nothing to see
    chosen = TorchEmbedder.load(tmp_path / "whole" / "model", device="cpu")
    interpolate(chosen, base(), done.soup)
    for a, b in zip(weights(tmp_path / "auto"), chosen.parameters(), strict=True):
        torch.testing.assert_close(a, b.detach())
    assert json.loads((tmp_path / "auto" / "logs" / "tuned.json").read_text())["dev"] == done.dev


def test_runs_are_let_go_when_they_are_in_the_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen runs must not take the memory of sixteen models with their moments."""
    alive: list[weakref.ref[nn.Parameter]] = []
    still: list[int] = []
    plain = tune_module.prepared

    def prepared(*args: Any) -> TorchEmbedder:
        gc.collect()
        still.append(sum(ref() is not None for ref in alive))
        tuned = plain(*args)
        alive.append(weakref.ref(tuned.backbone.encoder.layer[0].output.dense.weight))
        return tuned

    monkeypatch.setattr(tune_module, "prepared", prepared)
    tuning(tmp_path, settings(epochs=1, runs=5))
    assert max(still) <= 2  # the mean, which began as the first run, and the one before


# -- what is refused, before the first step -------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"soup": "auto"}, {"patience": 2}])
def test_what_needs_dev_queries_is_refused_without(tmp_path: Path, changes: dict[str, Any]) -> None:
    told = Told()
    with pytest.raises(TokayError, match=r"train.soup=auto and train.patience need dev queries, and there are none"):
        tuning(tmp_path, settings(**changes), told=told)
    assert told.tasks == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "more", "said"),
    [
        ({"freeze_layers": 2}, {}, "leave at least one to train"),
        ({"adapter": "lora", "lora_rank": 64}, {}, "train.lora_rank is 64"),
        ({"dim_weights": (1.0,)}, {}, "train.dim_weights has 1 weights"),
        ({"track": "trackio"}, {}, "train.track is 'trackio'"),
        ({}, {"sources": [source("few", ROWS[:1])]}, "source 'few' has 1 training rows"),
    ],
)
def test_whatever_can_be_seen_is_said_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], more: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(tune_module, "train_embedder", lambda *_, **__: pytest.fail("a training began"))
    if "track" in changes:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "trackio" else object())
    with pytest.raises(TokayError, match=said):
        tuning(tmp_path, settings(**changes), **more)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(("minutes", "times"), [(5.0, 8), (0.0, 1)])
def test_a_disk_without_room_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: float, times: int
) -> None:
    needed = times * 4 * sum(p.numel() for p in base().parameters())
    free = [needed - 1, needed]
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": free[0]}))
    with pytest.raises(TokayError, match="MB free and this training writes up to"):
        tuning(tmp_path, settings(epochs=1, checkpoint_minutes=minutes))
    assert list(tmp_path.iterdir()) == []
    free.pop(0)
    tuning(tmp_path, settings(epochs=1, checkpoint_minutes=minutes))
    assert (tmp_path / "model").exists()


# -- cut and gone on ------------------------------------------------------------------------------------------------

LONG = settings(epochs=2, runs=2, dropout=0.2, soup=0.7, checkpoint_minutes=ALWAYS)
"""Two runs of five steps."""

STEPS = [(run, step) for run in range(2) for step in range(5)]


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uncut")
    tuning(folder, LONG)
    return folder


def assert_as_uncut(folder: Path, uncut: Path) -> None:
    assert written(folder) == written(uncut)
    lines, expected = journal(folder), journal(uncut)
    assert [(line["run"], line["step"]) for line in lines] == STEPS
    assert [line["loss"] for line in lines] == [line["loss"] for line in expected]
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize("cut", [1, 2, 4, 5, 6, 7, 10])
def test_a_tuning_that_was_cut_goes_on_to_the_same_bytes(tmp_path: Path, uncut: Path, cut: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        tuning(tmp_path, LONG, told=Told(cut=cut))
    assert not (tmp_path / "model").exists()
    told = Told()
    tuning(tmp_path, LONG, told=told)
    assert_as_uncut(tmp_path, uncut)
    done = {1: [], 2: [1], 4: [3], 5: [4], 6: [5], 7: [5, 1], 10: [5, 4]}[cut]  # of each run that was begun
    said = [f"training, run {run} of 2 goes on from step {step} of 5" for run, step in enumerate(done, 1)]
    assert [line for line in told.lines if "goes on" in line] == said
    assert told.steps == 10


def test_half_a_line_of_a_killed_process_is_dropped(tmp_path: Path, uncut: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        tuning(tmp_path, LONG, told=Told(cut=7))
    with (tmp_path / "checkpoints" / "metrics.jsonl").open("a") as file:
        file.write('{"run": 1, "step": 2, "lo')
    tuning(tmp_path, LONG)
    assert_as_uncut(tmp_path, uncut)


def cut_with(folder: Path, monkeypatch: pytest.MonkeyPatch, *, due: set[tuple[int, int]], cut: int) -> None:
    """A tuning that is cut after so many steps and had checkpoints after these (run, step)."""
    asked = {0: -1, 1: -1}

    def is_due(kept: Checkpoints) -> bool:
        run = int(kept.folder.name.removeprefix("run-"))
        asked[run] += 1
        return (run, asked[run]) in due

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "is_due", is_due)
        with pytest.raises(KeyboardInterrupt):
            tuning(folder, LONG, told=Told(cut=cut))


@pytest.mark.parametrize(
    ("due", "cut"),
    [
        (set(), 4),
        (set(), 8),
        ({(0, 1)}, 4),
        ({(0, 1)}, 8),
        ({(1, 2)}, 10),
        ({(0, 1), (1, 3)}, 10),  # of run 0 less is left than of run 1
        ({(0, 3), (1, 0)}, 9),
    ],
)
def test_the_journal_has_each_step_once_whenever_checkpoints_were_written(
    tmp_path: Path, uncut: Path, monkeypatch: pytest.MonkeyPatch, due: set[tuple[int, int]], cut: int
) -> None:
    cut_with(tmp_path, monkeypatch, due=due, cut=cut)
    tuning(tmp_path, LONG)
    assert_as_uncut(tmp_path, uncut)


def test_what_was_computed_is_counted_over_all_parts_of_a_cut_tuning(tmp_path: Path, uncut: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        tuning(tmp_path, LONG, told=Told(cut=8))
    done = tuning(tmp_path, LONG)
    whole = json.loads((uncut / "logs" / "tuned.json").read_text())
    assert done.texts >= whole["texts"]
    assert done.tokens >= whole["tokens"]


def test_a_model_that_cannot_be_written_is_written_when_there_is_room(
    tmp_path: Path, uncut: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(TorchEmbedder, "save", full)
        with pytest.raises(TokayError, match=r"cannot be written to .*model \(No space left on device\); make room"):
            tuning(tmp_path, LONG)
    done = tuning(tmp_path, LONG)
    assert_as_uncut(tmp_path, uncut)
    assert math.isfinite(done.loss)
    json.loads((tmp_path / "logs" / "tuned.json").read_text(), parse_constant=pytest.fail)  # NaN is no JSON


def test_a_model_that_the_system_refuses_to_write_is_one_sentence(tmp_path: Path) -> None:
    """The weights have 120 kB."""
    with files_end_at(60_000), pytest.raises(TokayError, match="the model cannot be written to"):
        tuning(tmp_path, settings(epochs=1, checkpoint_minutes=0))


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"tokens_kept": 0}, True),
        ({"checkpoint_minutes": 2 * ALWAYS}, True),
        ({"soup": 1.0}, True),
        ({"learning_rate": 1e-3}, False),
        ({"precision": "bf16"}, False),
        ({"dims": (8,)}, False),
    ],
)
def test_checkpoints_of_other_settings_are_refused_where_they_matter(
    tmp_path: Path, changes: dict[str, Any], same: bool
) -> None:
    with pytest.raises(KeyboardInterrupt):
        tuning(tmp_path, LONG, told=Told(cut=4))
    changed, told = LONG.model_copy(update=changes), Told()
    if same:
        tuning(tmp_path, changed, told=told)
        assert "training, run 1 of 2 goes on from step 3 of 5" in told.lines
        return
    with pytest.raises(TokayError, match="is a checkpoint of another training"):
        tuning(tmp_path, changed, told=told)
    tuning(tmp_path, changed, drop_others=True)
    assert [(line["run"], line["step"]) for line in journal(tmp_path)] == STEPS


@pytest.mark.parametrize(
    "sources",
    [
        [source("other")],
        [source(rows=ROWS[::-1])],
        [source(rows=[row(0, query="another"), *ROWS[1:]])],
        [source(symmetric=True)],
        [source(weight=2.0)],
        [source(share=0.5)],
        [source(matched=True)],
        [source(labels={"q0": "a"})],
        [dataclasses.replace(source(), texts={**source().texts, "p0": ("", "another")})],
        [source(), source("more")],
    ],
)
def test_the_identity_is_of_all_that_is_trained_on(sources: list[Source]) -> None:
    assert identity_of("base", sources, LONG) != identity_of("base", [source()], LONG)
    assert identity_of("other", sources, LONG) != identity_of("base", sources, LONG)
    assert identity_of("base", sources, LONG) == identity_of("base", sources, LONG)


def test_the_identity_does_not_depend_on_the_order_of_texts_and_labels() -> None:
    one = source(labels={"q0": "a", "q1": "b"})
    other = dataclasses.replace(
        one, texts=dict(reversed(source().texts.items())), labels=dict(reversed(one.labels.items()))
    )
    assert identity_of("base", [one], LONG) == identity_of("base", [other], LONG)


# -- the card -------------------------------------------------------------------------------------------------------

HOSTILE = "a|b `c`\n## Hacked\n---\r\n| x | <y>"


def story(**changes: Any) -> dict[str, Any]:
    plain = {
        "base": "BAAI/bge-small",
        "settings": "0123456789abcdef",
        "sources": {"run": 1200},
        "steps": 8,
        "planned": 8,
        "runs": 2,
        "seconds": 12.3,
        "texts": 100,
        "tokens": 12_345,
        "useful": 0.981,
        "precision": "fp32",
        "loss": 1.0,
        "trainable": 1000,
        "parameters": 2000,
        "soup": 0.7,
        "dev": {},
    }
    return {**plain, **changes}


def verdict(**changes: Any) -> dict[str, Any]:
    figures = {"ndcg@10": 0.51234, "recall@10": 0.6, "recall@100": 0.7, "mrr": 0.4}
    return {
        "queries": 50,
        "sentence": "The tuned model is better.",
        "rows": [{"label": "base @ 384", **figures}, {"label": "tuned @ 384", **figures, "ndcg@10": 0.6}],
        **changes,
    }


def head(text: str) -> dict[str, Any]:
    found = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(found, dict)
    return found


def test_a_card_says_what_was_done() -> None:
    chosen = settings(epochs=7)
    text = card(story(), chosen, data="ten rows.", dims=(384, 128, 64), verdict=verdict())
    assert head(text)["base_model"] == "BAAI/bge-small"
    assert "# `BAAI/bge-small`, tuned by Tokay" in text
    assert "Vectors of 384 numbers, cut to 128, 64 without training again" in text
    assert "50 queries of held-out documents. The tuned model is better." in text
    assert "| tuned @ 384 | 0.600 | 0.600 | 0.700 | 0.400 |" in text
    assert "- `run`: 1,200 rows planned" in text
    assert "- 8 of 8 steps, 2 run(s), 12,345 tokens, 98.1% of the computed ones; 12 s in fp32" in text
    assert "weight of the tuned model against its base: 0.7" in text
    assert "epochs = `7`" in text
    assert "temperature" not in text  # it has its default


def test_a_card_without_a_verdict_claims_nothing() -> None:
    text = card(story(), TrainSettings(), data="ten rows.", dims=(), verdict={})
    assert "## Results\n\nNot evaluated.\n" in text
    assert "other than the defaults of this version: none" in text
    assert "|---" not in text


def test_names_break_no_card() -> None:
    chosen = settings(mixture=HOSTILE)
    text = card(story(base=HOSTILE, sources={HOSTILE: 3}), chosen, data="x", dims=(32,), verdict=verdict())
    lines = text.splitlines()
    assert "base_model" not in head(text)
    assert [line for line in lines if line.startswith("#")] == [
        next(line for line in lines if line.startswith("# ")),
        "## Results",
        "## Training",
    ]
    assert lines.count("---") == 2
    assert len([line for line in lines if line.startswith("|")]) == 4
    assert all(line.count("`") % 2 == 0 for line in lines if not line.startswith("```"))


def test_what_is_said_of_the_data_breaks_no_card() -> None:
    text = card(story(), settings(), data=f"passages of {HOSTILE}", dims=(32,), verdict=verdict())
    assert "## Hacked" not in text.splitlines()
    assert text.splitlines().count("---") == 2


@pytest.mark.parametrize("name", ["models/mine/x", "/models/mine", "./mine", "minilm", "a/b\nc: d"])
def test_a_folder_is_not_named_as_a_model_of_the_hub(name: str) -> None:
    assert "base_model" not in head(card(story(base=name), settings(), data="x", dims=(32,), verdict={}))


def test_a_folder_that_is_there_is_not_a_model_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "base_model" not in head(card(story(base="models/mine"), settings(), data="x", dims=(32,), verdict={}))


def test_the_card_of_a_real_tuning_renders(tmp_path: Path) -> None:
    done = tuning(tmp_path, settings(epochs=1))
    text = card(json.loads(json.dumps(dataclasses.asdict(done))), settings(), data="x", dims=(32, 16), verdict={})
    assert f"# `{tiny_base()}`, tuned by Tokay" in text
    assert "- 3 of 3 steps, 1 run(s)" in text
