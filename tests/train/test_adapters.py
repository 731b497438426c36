"""Adapters: what is trained, that merging changes no output, what a saved folder is worth, and what is saved by it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tiny import tiny_base, tiny_lm
from tokay.errors import MissingExtra, TokayError
from tokay.models.layers import embeddings_of, layers_of, weights_print
from tokay.models.reft_config import ReftConfig
from tokay.models.torch_embedder import TorchEmbedder
from tokay.settings import TrainSettings
from tokay.train.adapters import Full, Lora, Reft, adapter_of, savings_of, set_dropout
from tokay.train.embedder import train_embedder
from train_data import base, ready, settings, source

TEXTS = ["river stone cloud", "a list of maps", "flame", "where do you find the end of an iron file"]


def lora(**changes: Any) -> TrainSettings:
    return settings(**{"adapter": "lora", "lora_rank": 4, "lora_alpha": 16, "epochs": 2, **changes})


def trained(chosen: TrainSettings) -> TorchEmbedder:
    tuned = ready(chosen)
    list(train_embedder(tuned, [source()], chosen))
    return tuned


@pytest.fixture(scope="module")
def tuned_once() -> TorchEmbedder:
    return trained(lora(learning_rate=1e-2))


@pytest.fixture
def tuned(tuned_once: TorchEmbedder) -> TorchEmbedder:
    """Trained matrices beside the base's weights, not merged."""
    return tuned_once.clone().eval()


@pytest.fixture
def saved(tuned: TorchEmbedder, tmp_path: Path) -> Path:
    adapter_of(lora()).save(tuned, tmp_path / "adapter", base_name=str(tiny_base()))
    return tmp_path / "adapter"


def trainable(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def is_of(name: str, model: TorchEmbedder) -> Tensor | None:
    """The base's weight that a name of a wrapped backbone stands for; None: it is the adapter's own."""
    plain = name.replace("base_model.model.", "").replace(".base_layer", "")
    return dict(model.named_parameters()).get(plain)


# -- the matrices ---------------------------------------------------------------------------------------------------


def test_lora_trains_its_matrices_and_nothing_else(tuned: TorchEmbedder) -> None:
    names = trainable(ready(lora()))
    assert len(names) == 2 * 6 * 2  # layers, linear maps, A and B
    assert all("lora_A" in name or "lora_B" in name for name in names)
    model = base()
    there = {name: p for name, p in tuned.named_parameters() if name not in names}
    assert len(there) == len(list(model.parameters()))
    assert all(torch.equal(p, other) for name, p in there.items() if (other := is_of(name, model)) is not None)
    assert None not in [is_of(name, model) for name in there]
    matrices = dict(tuned.named_parameters())
    assert all(matrices[name].abs().sum() > 0 for name in names)  # B began as zeros


def test_an_adapter_that_was_not_trained_changes_no_output() -> None:
    np.testing.assert_array_equal(ready(lora()).eval().encode(TEXTS), base().encode(TEXTS))


def test_merged_equals_unmerged_and_is_a_model_of_the_bases_kind(tuned: TorchEmbedder) -> None:
    before = tuned.encode(TEXTS)
    assert np.abs(before - base().encode(TEXTS)).max() > 1e-3  # or merging would have nothing to do
    adapter_of(lora()).merge(tuned)
    np.testing.assert_allclose(tuned.encode(TEXTS), before, atol=1e-6)
    assert [n for n, _ in tuned.named_parameters()] == [n for n, _ in base().named_parameters()]
    assert trainable(tuned) == set()


def test_what_is_added_is_alpha_over_rank_times_the_product() -> None:
    chosen = lora(lora_rank=2, lora_alpha=10, epochs=1)
    model = trained(chosen)
    layer = model.backbone.base_model.model.encoder.layer[1].output.dense
    added = 5 * (layer.lora_B["default"].weight @ layer.lora_A["default"].weight).detach()
    adapter_of(chosen).merge(model)
    merged = model.backbone.encoder.layer[1].output.dense.weight
    torch.testing.assert_close(merged - base().backbone.encoder.layer[1].output.dense.weight, added, atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("error:.*checkpointing:FutureWarning")
def test_lora_trains_with_gradient_checkpointing_as_without() -> None:
    plain, other = trained(lora(epochs=1)), trained(lora(epochs=1, gradient_checkpointing=True))
    np.testing.assert_allclose(other.encode(TEXTS), plain.encode(TEXTS), atol=1e-5)


def test_lora_wraps_every_linear_map_of_a_decoders_layers() -> None:
    model = TorchEmbedder.load(tiny_lm(), device="cpu")
    Lora(2, 4.0).attach(model)
    names = {name.split(".lora_A")[0].rsplit(".", 1)[-1] for name in trainable(model) if ".lora_A" in name}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_a_rank_above_the_width_is_refused() -> None:
    Lora(32, 1.0).attach(base())
    with pytest.raises(TokayError, match=r"train.lora_rank is 33 and the model is 32 wide; lower it"):
        Lora(33, 1.0).attach(base())


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"LoRA needs the package 'peft': pip install 'tokay\[train\]'"):
        Lora().attach(base())


# -- the saved folder -----------------------------------------------------------------------------------------------


def test_a_saved_adapter_loads_as_the_model_that_was_trained(tuned: TorchEmbedder, saved: Path) -> None:
    loaded = TorchEmbedder.load(saved, device="cpu")
    assert loaded.config == tuned.config
    assert loaded.config.dims == (32, 16)
    np.testing.assert_allclose(loaded.encode(TEXTS), tuned.encode(TEXTS), atol=1e-6)
    np.testing.assert_allclose(loaded.encode(TEXTS, kind="query"), tuned.encode(TEXTS, kind="query"), atol=1e-6)
    assert not any(module.training for module in loaded.modules())


def test_prompts_of_an_adapter_are_those_it_was_trained_with(tmp_path: Path) -> None:
    chosen = lora(format="gecko", epochs=1)
    model = trained(chosen)
    adapter_of(chosen).save(model, tmp_path, base_name=str(tiny_base()))
    loaded = TorchEmbedder.load(tmp_path, device="cpu")
    assert loaded.config.prompts == model.config.prompts != base().config.prompts
    np.testing.assert_allclose(loaded.encode(TEXTS, kind="query"), model.encode(TEXTS, kind="query"), atol=1e-6)


def test_a_saved_adapter_is_small_and_names_its_base(saved: Path) -> None:
    about = json.loads((saved / "tokay_adapter.json").read_text())
    assert about == {"base": str(tiny_base()), "weights": weights_print(base().backbone), "dims": [32, 16]}
    matrices = 4 * sum(p.numel() for p in ready(lora()).parameters() if p.requires_grad)
    assert matrices < (saved / "adapter_model.safetensors").stat().st_size < 1.5 * matrices
    assert not (saved / "model.safetensors").exists()


def test_peft_reads_a_saved_adapter_by_itself(tuned: TorchEmbedder, saved: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    other = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_base(), dtype=torch.float32), saved).eval()
    assert other.peft_config["default"].base_model_name_or_path == str(tiny_base())
    ids = torch.tensor(tuned.tokenize(TEXTS[:1]))
    with torch.no_grad():
        mine, theirs = (m(input_ids=ids).last_hidden_state for m in (tuned.backbone, other))
    torch.testing.assert_close(mine, theirs)


def test_an_adapter_of_other_weights_is_refused(saved: Path) -> None:
    about = json.loads((saved / "tokay_adapter.json").read_text())
    (saved / "tokay_adapter.json").write_text(json.dumps({**about, "base": str(tiny_base(seed=1))}))
    with pytest.raises(TokayError, match=rf"is an adapter of .* with weights {about['weights'][:12]}….* Load it with"):
        TorchEmbedder.load(saved, device="cpu")


def test_an_adapter_whose_base_is_gone_is_refused(saved: Path) -> None:
    about = json.loads((saved / "tokay_adapter.json").read_text())
    (saved / "tokay_adapter.json").write_text(json.dumps({**about, "base": str(saved / "nowhere")}))
    with pytest.raises(TokayError, match="nowhere"):
        TorchEmbedder.load(saved, device="cpu")


def test_an_adapter_that_is_not_finite_is_refused(tuned: TorchEmbedder, tmp_path: Path) -> None:
    with torch.no_grad():
        next(p for name, p in tuned.named_parameters() if "lora_B" in name).fill_(torch.nan)
    Lora(4, 16.0).save(tuned, tmp_path / "adapter", base_name=str(tiny_base()))
    with pytest.raises(TokayError, match=r"adapter is an adapter with numbers that are not finite; train it again$"):
        TorchEmbedder.load(tmp_path / "adapter", device="cpu")


def test_an_adapter_that_names_no_base_is_refused(saved: Path) -> None:
    (saved / "tokay_adapter.json").unlink()
    config = json.loads((saved / "adapter_config.json").read_text())
    (saved / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(TokayError, match="is an adapter and does not name its base; add base_model_name_or_path"):
        TorchEmbedder.load(saved, device="cpu")


def test_a_folder_of_pefts_own_loads_by_the_base_that_it_names(tuned: TorchEmbedder, saved: Path) -> None:
    for path in saved.iterdir():
        if not path.name.startswith("adapter_"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    loaded = TorchEmbedder.load(saved, device="cpu")
    assert loaded.config == base().config
    np.testing.assert_allclose(loaded.encode(TEXTS), tuned.encode(TEXTS), atol=1e-6)


def test_a_whole_model_has_no_adapter_to_save(tmp_path: Path) -> None:
    Full().save(base(), tmp_path / "adapter", base_name="x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("error")
def test_users_hear_nothing_of_what_peft_and_transformers_tell_each_other(tmp_path: Path) -> None:
    model = base()
    Lora(2, 4.0).attach(model)
    Lora(2, 4.0).save(model, tmp_path, base_name=str(tiny_base()))
    TorchEmbedder.load(tmp_path, device="cpu")


# -- frozen parts ---------------------------------------------------------------------------------------------------


def test_full_trains_all_unless_frozen() -> None:
    model = base()
    Full().attach(model)
    everything = trainable(model)
    assert everything == {name for name, _ in model.named_parameters()}
    Full(freeze_embeddings=True).attach(model)
    tables = {name for name in everything if name.startswith("backbone.embeddings.")}
    assert len(tables) == 5  # words, positions, types, and the norm's two
    assert trainable(model) == everything - tables
    Full(freeze_layers=1).attach(model)
    assert trainable(model) == {n for n in everything - tables if not n.startswith("backbone.encoder.layer.0.")}
    Full().merge(model)
    assert trainable(model) == set()


@pytest.mark.parametrize("layers", [2, 3])
def test_no_layer_left_to_train_is_refused(layers: int) -> None:
    message = rf"train.freeze_layers is {layers} and the model has 2 layers; leave at least one to train"
    with pytest.raises(TokayError, match=message):
        Full(freeze_layers=layers).attach(base())


@pytest.mark.parametrize(
    ("changes", "adapter"),
    [
        ({}, Full(True, 0)),
        ({"freeze_embeddings": False, "freeze_layers": 1}, Full(False, 1)),
        ({"adapter": "lora", "lora_rank": 3, "lora_alpha": 7}, Lora(3, 7.0)),
        ({"adapter": "loreft"}, Reft(ReftConfig())),
        (
            {"adapter": "direft", "reft_rank": 2, "reft_layers": (1,), "reft_positions": "f2+l1", "reft_tied": False},
            Reft(ReftConfig("direft", 2, (1,), "f2+l1", False)),
        ),
    ],
)
def test_settings_name_the_adapter(changes: dict[str, Any], adapter: object) -> None:
    assert adapter_of(settings(**changes)) == adapter


# -- what is saved --------------------------------------------------------------------------------------------------


def flops(model: TorchEmbedder) -> int:
    """Products that torch counts in a step of one text, with weights alone: attention's own are none."""
    from torch.utils.flop_counter import FlopCounterMode

    model.train()
    set_dropout(model, 0.0)
    with FlopCounterMode(display=False) as counter:
        model([[2, 5, 6, 7, 8, 9, 10, 3]]).square().sum().backward()
    counts = counter.get_flop_counts()["Global"]
    return sum(n for operation, n in counts.items() if "attention" not in str(operation))


def test_training_everything_saves_nothing() -> None:
    model = base()
    Full().attach(model)
    found = savings_of(model, base())
    total = sum(p.numel() for p in model.parameters())
    assert (found.trainable, found.total, found.bytes_saved, found.work_saved) == (total, total, 0, 0.0)


@pytest.mark.parametrize("adapter", [Full(True), Full(False, 1), Full(True, 1), Lora(4, 8.0), Reft(ReftConfig())])
def test_what_is_trained_and_its_bytes_are_counted(adapter: Any) -> None:
    model = base()
    adapter.attach(model)
    found = savings_of(model, base())
    assert found.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.total == sum(p.numel() for p in model.parameters())
    for p in model.parameters():
        if p.requires_grad:
            p.grad = torch.ones_like(p)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    optimizer.step()
    moments = [s[key] for s in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    used = sum(x.nbytes for x in [*moments, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert found.bytes_saved == 12 * sum(p.numel() for p in base().parameters()) - used


def test_frozen_parameters_by_hand() -> None:
    model = base()
    Full(freeze_layers=1).attach(model)
    width, inner = 32, 64
    layer = 4 * (width * width + width) + (width * inner + inner) + (inner * width + width) + 2 * 2 * width
    tables = (len(model.tokenizer) + 64 + 2) * width + 2 * width
    assert savings_of(model, base()).total == tables + 2 * layer + width * width + width
    assert savings_of(model, base()).trainable == layer + width * width + width
    assert savings_of(model, base()).bytes_saved == 12 * (tables + layer)


@pytest.mark.parametrize(
    ("adapter", "saved"),
    [
        (Full(True), 0.0),
        (Full(False, 1), (0 + 4) / 12),  # of two layers with three products each, the first has one left
    ],
)
def test_saved_work_by_hand(adapter: Any, saved: float) -> None:
    model = base()
    adapter.attach(model)
    assert savings_of(model, base()).work_saved == pytest.approx(saved)


def test_saved_work_of_lora_by_hand() -> None:
    model = base()
    Lora(4, 8.0).attach(model)
    weights = 2 * (4 * 32 * 32 + 2 * 32 * 64)
    matrices = 2 * (4 * 4 * (32 + 32) + 2 * 4 * (32 + 64))
    done = 4 * weights + 6 * matrices  # a frozen weight has no gradient of its own
    assert savings_of(model, base()).work_saved == pytest.approx(1 - done / (6 * weights))


def test_saved_bytes_of_lora_by_hand() -> None:
    """Its own matrices need a gradient and two moments too."""
    model = base()
    Lora(4, 8.0).attach(model)
    width, inner = 32, 64
    layer = 4 * (width * width + width) + (width * inner + inner) + (inner * width + width) + 2 * 2 * width
    tables = (len(model.tokenizer) + 64 + 2) * width + 2 * width
    whole = tables + 2 * layer + width * width + width
    matrices = 2 * (4 * 4 * (width + width) + 2 * 4 * (width + inner))
    found = savings_of(model, base())
    assert (found.trainable, found.total) == (matrices, whole + matrices)
    assert found.bytes_saved == 12 * (whole - matrices)


def test_saved_work_of_edits_by_hand() -> None:
    """No weight has a gradient, and inputs have them above the first edit alone."""
    model, last = base(), base()
    Reft(ReftConfig()).attach(model)
    assert savings_of(model, base()).work_saved == pytest.approx(1 - (2 + 4) / (2 * 6))
    Reft(ReftConfig(layers=(-1,))).attach(last)
    assert savings_of(last, base()).work_saved == pytest.approx(1 - (2 + 2) / (2 * 6))


@pytest.mark.parametrize("adapter", [Full(False, 1), Lora(4, 8.0)])
def test_saved_work_is_near_what_torch_counts(adapter: Any) -> None:
    """But for the first trained layer's input, whose gradient torch leaves out where nothing below is trained."""
    whole, some = base(), base()
    Full().attach(whole)
    adapter.attach(some)
    claimed, all_of_it = savings_of(some, whole).work_saved, flops(whole)
    input_gradient = 3 * 2 * 32 * (32 + 4) * 8 / all_of_it
    assert claimed <= 1 - flops(some) / all_of_it <= claimed + input_gradient + 1e-6


def test_savings_are_told_in_words() -> None:
    model = base()
    Full(freeze_layers=1).attach(model)
    found = savings_of(model, base())
    assert found.line() == (
        f"{found.trainable:,} of {found.total:,} parameters are trained, which saves 0 MB of gradients and optimiser "
        "state and 33% of a step's products with weights"
    )


def test_no_work_is_saved_by_a_frozen_table_and_none_is_told() -> None:
    model = base()
    Full(freeze_embeddings=True).attach(model)
    found = savings_of(model, base())
    assert found.line() == (
        f"{found.trainable:,} of {found.total:,} parameters are trained, which saves 0 MB of gradients and optimiser "
        "state"
    )
    Full().attach(model)
    assert savings_of(model, base()).line() == f"all {found.total:,} parameters are trained"


# -- dropout --------------------------------------------------------------------------------------------------------


def test_dropout_reaches_attention_of_either_kind() -> None:
    bert, llama = base(), TorchEmbedder.load(tiny_lm(), device="cpu")
    for model in (bert, llama):
        set_dropout(model, 0.4)
    assert {m.p for m in bert.modules() if isinstance(m, nn.Dropout)} == {0.4}
    assert all(layer.attention.self.dropout.p == 0.4 for layer in layers_of(bert.backbone))
    assert [layer.self_attn.attention_dropout for layer in layers_of(llama.backbone)] == [0.4, 0.4]
    ids = llama.tokenize(TEXTS)
    assert torch.equal(llama.eval()(ids), llama(ids))
    assert not torch.equal(llama.train()(ids), llama(ids))


def test_tables_are_found_in_a_decoder_too() -> None:
    model = TorchEmbedder.load(tiny_lm(), device="cpu")
    tables = {id(p) for p in embeddings_of(model.backbone)}
    assert tables == {id(model.backbone.embed_tokens.weight)}
