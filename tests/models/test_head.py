"""Dense and Normalize modules behind pooling: what is read, refused, saved, hashed and trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reft_models import disturb
from tiny import tiny_base, with_steps
from tokay.errors import TokayError
from tokay.models.dense import Dense
from tokay.models.embedder import Embedder
from tokay.models.folder import read_config
from tokay.models.reft_config import ReftConfig
from tokay.models.reft_merge import save_merged
from tokay.models.space import vector_space
from tokay.models.torch_embedder import TorchEmbedder
from tokay.train.adapters import Adapter, Full, Lora, Reft

TEXTS = ["river stone cloud", "a list of maps", "flame"]
STEPS = (Dense(32, 24, True, "Tanh"), "Normalize", Dense(24, 12, False, "Identity"))


@pytest.mark.parametrize("normalize", [True, False])
def test_a_vector_is_that_of_its_modules_in_their_order(tmp_path: Path, normalize: bool) -> None:
    folder = with_steps(tmp_path, STEPS, normalize=normalize)
    model = TorchEmbedder.load(folder, device="cpu")
    assert (model.width, model.hidden_width, model.config.steps) == (12, 32, STEPS)
    pooled = TorchEmbedder.load(tiny_base(normalize=False), device="cpu").encode(TEXTS)
    first, second = (linear.state_dict() for linear in model.head.maps)
    inner = np.tanh(pooled @ first["weight"].numpy().T + first["bias"].numpy())
    inner /= np.linalg.norm(inner, axis=1, keepdims=True)
    wanted = inner @ second["weight"].numpy().T
    wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True) if normalize else wanted
    np.testing.assert_allclose(model.encode(TEXTS), wanted, atol=1e-5)
    assert model.encode(TEXTS, dim=4).shape == (3, 4)


def test_saving_and_copying_keep_it(tmp_path: Path) -> None:
    folder = with_steps(tmp_path / "a", STEPS)
    model = TorchEmbedder.load(folder, device="cpu")
    model.save(tmp_path / "b")
    again = TorchEmbedder.load(tmp_path / "b", device="cpu")
    assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))
    assert np.array_equal(model.clone().eval().encode(TEXTS), model.encode(TEXTS))
    assert vector_space(tmp_path / "b") == vector_space(folder)


def test_the_vector_space_is_another_with_other_maps(tmp_path: Path) -> None:
    folders = [
        tiny_base(),
        with_steps(tmp_path / "1", STEPS),
        with_steps(tmp_path / "2", STEPS, seed=1),
        with_steps(tmp_path / "3", (STEPS[0], STEPS[2])),
        with_steps(tmp_path / "4", (Dense(32, 24, True, "ReLU"), *STEPS[1:])),
    ]
    assert len({vector_space(folder) for folder in folders}) == len(folders)


def test_an_export_without_weights_says_whose_space_it_is(tmp_path: Path) -> None:
    folder = with_steps(tmp_path, STEPS)
    (folder / "model.safetensors").unlink()
    (folder / "export.json").write_text(json.dumps({"vector_space": "abc", "forms": {}}))
    assert vector_space(folder) == "abc"


def test_a_merged_adapter_is_loaded_again(tmp_path: Path) -> None:
    for name, base in (("plain", tiny_base()), ("mapped", with_steps(tmp_path / "base", STEPS))):
        model = TorchEmbedder.load(base, device="cpu")
        Reft(ReftConfig(layers=(-1,))).attach(model)
        disturb(model.backbone)
        save_merged(model.eval(), tmp_path / name)
        merged = Embedder.load(tmp_path / name, device="cpu")
        np.testing.assert_allclose(merged.encode(TEXTS), model.encode(TEXTS), atol=1e-5)
        assert len(merged.config.steps) == len(model.config.steps) + 1


@pytest.mark.parametrize("adapter", [Full(), Full(freeze_layers=1), Lora(2), Reft(ReftConfig(rank=2))])
def test_training_changes_the_maps_of_full_finetuning_alone(tmp_path: Path, adapter: Adapter) -> None:
    base = with_steps(tmp_path / "base", STEPS)
    model = TorchEmbedder.load(base, device="cpu")
    before = {name: value.clone() for name, value in model.head.state_dict().items()}
    adapter.attach(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        model.train()(model.tokenize(TEXTS)).square().mean().backward()
        optimizer.step()
    kept = [torch.equal(value, before[name]) for name, value in model.head.state_dict().items()]
    assert not any(kept) if isinstance(adapter, Full) else all(kept)
    vectors = model.eval().encode(TEXTS)
    assert np.abs(vectors - TorchEmbedder.load(base, device="cpu").encode(TEXTS)).max() > 1e-4
    if isinstance(adapter, Full):
        model.save(tmp_path / "tuned")
    else:
        adapter.save(model, tmp_path / "tuned", base_name=str(base))
    np.testing.assert_allclose(Embedder.load(tmp_path / "tuned", device="cpu").encode(TEXTS), vectors, atol=1e-5)


def rewritten(folder: Path, file: str, **changes: Any) -> Path:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_what_cannot_be_run_is_refused(tmp_path: Path) -> None:
    def fresh(name: str) -> Path:
        return with_steps(tmp_path / name, STEPS)

    config = "2_Dense/config.json"
    with pytest.raises(TokayError, match=r"has the activation 'Softsign'; Tokay runs Identity, Tanh, ReLU"):
        read_config(rewritten(fresh("f"), config, activation_function="torch.nn.modules.activation.Softsign"))
    with pytest.raises(TokayError, match=r"Tokay runs plain maps of that vector"):
        read_config(rewritten(fresh("residual"), config, use_residual=True))
    with pytest.raises(TokayError, match=r"Tokay runs plain maps of that vector"):
        read_config(rewritten(fresh("tokens"), config, module_input_name="token_embeddings"))
    with pytest.raises(TokayError, match=r"says no in_features and out_features; save the model again"):
        read_config(rewritten(fresh("size"), config, in_features=None))
    with pytest.raises(TokayError, match=r"maps vectors of 31 numbers and is given 32"):
        Embedder.load(rewritten(fresh("width"), config, in_features=31))
    with pytest.raises(TokayError, match=r"model.safetensors does not fit the config.json beside it"):
        Embedder.load(rewritten(fresh("bias"), config, bias=False))
    torn = fresh("torn") / "2_Dense" / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:40])
    with pytest.raises(TokayError, match=r"2_Dense/model.safetensors cannot be read: .*; fetch or save"):
        Embedder.load(tmp_path / "torn")
    shutil.move(
        fresh("pickle") / "2_Dense" / "model.safetensors", tmp_path / "pickle" / "2_Dense" / "pytorch_model.bin"
    )
    with pytest.raises(TokayError, match=r"has its weights as a pickle, which Tokay does not open"):
        Embedder.load(tmp_path / "pickle")
    modules = json.loads((fresh("order") / "modules.json").read_text())
    (tmp_path / "order" / "modules.json").write_text(json.dumps([modules[0], modules[2], modules[1], modules[3]]))
    with pytest.raises(TokayError, match=r"has the modules Transformer, Dense, Pooling, Normalize; Tokay runs"):
        read_config(tmp_path / "order")


def test_adapters_over_bases_with_other_maps_are_not_run_together(tmp_path: Path) -> None:
    from tokay.serve.start import load_models

    places = []
    for name, seed in (("red", 0), ("blue", 0), ("green", 1)):
        base = with_steps(tmp_path / f"base-{name}", STEPS, seed=seed)
        model = TorchEmbedder.load(base, device="cpu")
        Reft(ReftConfig()).attach(model)
        disturb(model.backbone, seed=len(places))
        model.backbone.base_name = str(base)
        model.save(tmp_path / name)
        places.append(tmp_path / name)
    alone = {place.name: Embedder.load(place, device="cpu").encode(TEXTS) for place in places}
    models = load_models([str(place) for place in places])
    for name, vectors in alone.items():
        np.testing.assert_allclose(models[name].encode(TEXTS), vectors, atol=2e-6)
    assert models["red"].runner is models["blue"].runner is not models["green"].runner
