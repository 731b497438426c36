"""What can be served: runs, and adapters over one base, several in one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import serving
from tiny import tiny_base
from tokay.errors import TokayError
from tokay.models.embedder import Embedder
from tokay.serve.start import load_models


def adapter(folder: Path, seed: int) -> Path:
    """A LoRA of random weights over the tiny base, as peft writes it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    torch.manual_seed(seed)
    config = LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False)
    get_peft_model(AutoModel.from_pretrained(tiny_base()), config).save_pretrained(folder)
    return folder


def test_two_adapters_over_one_base_in_one_process(tmp_path: Path) -> None:
    import openai

    texts = ["river stone", "sort a list"]
    places = [f"base={tiny_base()}", str(adapter(tmp_path / "red", 1)), f"blue={adapter(tmp_path / 'b', 2)}"]
    models = load_models(places)
    with serving(models) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        found: dict[str, Any] = {}
        for name in models:
            answer = client.embeddings.create(model=name, input=texts)
            found[name] = np.array([row.embedding for row in answer.data])
            np.testing.assert_allclose(found[name], models[name].encode(texts), atol=2e-6)
    assert list(found) == ["base", "red", "blue"]
    assert min(np.abs(found["red"] - found["base"]).max(), np.abs(found["red"] - found["blue"]).max()) > 1e-3


def tensors(model: Embedder) -> dict[str, Any]:
    """Weights by the names that they have in the base."""
    from tokay.models.torch_embedder import TorchEmbedder

    assert isinstance(model, TorchEmbedder)
    return {name.replace(".base_layer", ""): value for name, value in model.backbone.named_parameters()}


@pytest.mark.parametrize("merge", [True, False])
def test_adapters_over_one_base_hold_equal_weights_once(tmp_path: Path, merge: bool) -> None:
    texts = ["river stone", "sort a list", "how do you join two strings"]
    places = [adapter(tmp_path / "red", 1), adapter(tmp_path / "blue", 2)]
    models = load_models([str(tiny_base()), *map(str, places)], merge=merge)
    for place in places:
        alone = Embedder.load(place, merge=merge)
        np.testing.assert_array_equal(models[place.name].encode(texts), alone.encode(texts))
        np.testing.assert_allclose(alone.encode(texts), Embedder.load(place).encode(texts), atol=1e-6)
    base, red, blue = map(tensors, models.values())
    for name, value in base.items():
        changed = merge and name.endswith(("query.weight", "value.weight"))
        others = {red[name].data_ptr(), blue[name].data_ptr()}
        assert len(others | {value.data_ptr()}) == (3 if changed else 1), name
    assert len({id(model.tokens) for model in models.values()}) == 1
    own = [name for name in red if "lora_" in name]
    assert len(own) == (0 if merge else 8)
    assert all(red[name].data_ptr() != blue[name].data_ptr() for name in own)


@pytest.mark.parametrize("merge", [True, False])
def test_requests_to_several_adapters_at_a_time_are_not_mixed_up(tmp_path: Path, merge: bool) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import httpx2

    places = [str(adapter(tmp_path / name, seed)) for seed, name in enumerate(("red", "blue", "green"))]
    texts = [f"{a} {b}" for a in ("river", "stone", "cloud", "flame", "iron") for b in ("list", "map", "file", "key")]
    wanted = {Path(place).name: Embedder.load(place, merge=merge).encode(texts) for place in places}
    models = load_models(places, merge=merge)

    with serving(models) as url, httpx2.Client(base_url=url) as client:

        def ask(number: int) -> float:
            name, at = list(wanted)[number % 3], number % len(texts)
            answer = client.post("/v1/embeddings", json={"model": name, "input": texts[at]}).json()
            return float(np.abs(np.array(answer["data"][0]["embedding"]) - wanted[name][at]).max())

        with ThreadPoolExecutor(16) as threads:
            assert max(threads.map(ask, range(600))) < 2e-6


def test_adapters_are_kept_beside_in_torch_alone() -> None:
    with pytest.raises(TokayError, match=r"^--no-merge is for adapters in torch, and --backend is onnx; leave one of"):
        load_models([str(tiny_base())], backend="onnx", merge=False)


def test_a_model_under_two_names_is_held_once() -> None:
    one, two = load_models([f"a={tiny_base()}", f"b={tiny_base()}"]).values()
    assert {n: t.data_ptr() for n, t in tensors(one).items()} == {n: t.data_ptr() for n, t in tensors(two).items()}


def test_a_run_is_served_by_its_model(tmp_path: Path) -> None:
    run = tmp_path / "mine"
    run.mkdir()
    (run / "manifest.json").write_text(json.dumps({}))
    with pytest.raises(TokayError, match=r"mine is a run that has no model yet; finish it with tokay distill"):
        load_models([str(run)])
    (run / "model").symlink_to(tiny_base())
    models = load_models([str(run)])
    assert list(models) == ["mine"]
    np.testing.assert_array_equal(models["mine"].encode(["file"]), Embedder.load(tiny_base()).encode(["file"]))


def test_what_run_gives_is_finished_as_encode_has_it() -> None:
    embedder = Embedder.load(
        tiny_base("cls", normalize=False, prompts=("task: search result | query: ", "title: none | text: "))
    )
    texts = ["glass", "iron"]
    assert embedder.write(texts, kind="clustering") == [
        "task: clustering | query: glass",
        "task: clustering | query: iron",
    ]
    written = embedder.write(texts, titles=["a", ""])
    assert written == ["title: a | text: glass", "title: none | text: iron"]
    for dim in (None, 8, 32):
        vectors = embedder.finish(embedder.run(embedder.tokenize(written)), dim)
        np.testing.assert_allclose(vectors, embedder.encode(texts, titles=["a", ""], dim=dim), atol=1e-6)


def edits(folder: Path, seed: int, **changes: Any) -> Path:
    """An adapter of edits over the tiny base, as Tokay writes it."""
    from reft_models import disturb
    from tokay.models.reft_config import ReftConfig
    from tokay.models.reft_model import get_reft_model
    from tokay.models.torch_embedder import TorchEmbedder

    model = TorchEmbedder.load(tiny_base(), device="cpu")
    model.backbone = get_reft_model(model.backbone, ReftConfig(**changes))
    disturb(model.backbone, seed=seed)
    model.backbone.base_name = str(tiny_base())
    model.save(folder)
    return folder


def test_edits_over_one_base_are_served_by_name_and_run_together(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import httpx2

    places = [
        edits(tmp_path / "red", 1),
        edits(tmp_path / "blue", 2, variant="direft", rank=2, positions="f2+l1", tied=False),
        edits(tmp_path / "green", 3, positions="pooled"),
    ]
    texts = ["river stone", "sort a list", "how do you join two strings"]
    alone = {place.name: Embedder.load(place, device="cpu").encode(texts) for place in places}
    models = load_models([f"base={tiny_base()}", *map(str, places)])
    assert len({id(model.runner) for name, model in models.items() if name != "base"}) == 1
    runner = models["red"].runner
    ids = models["red"].tokenize(texts)
    mixed = runner.run([row for name in alone for row in models[name].addressed(ids)])
    for at, name in enumerate(alone):
        found = models[name].finish(mixed[3 * at : 3 * at + 3])
        np.testing.assert_allclose(found, alone[name], atol=2e-6)
        np.testing.assert_allclose(models[name].encode(texts), alone[name], atol=2e-6)
    np.testing.assert_allclose(models["base"].finish(runner.run(ids)), models["base"].encode(texts), atol=2e-6)
    shared = {p.data_ptr() for p in models["base"].backbone.parameters()}  # type: ignore[attr-defined]
    assert {p.data_ptr() for p in models["red"].backbone.parameters()} == shared  # type: ignore[attr-defined]
    with serving(models) as url, ThreadPoolExecutor(8) as pool:

        def ask(name: str) -> Any:
            body = {"model": name, "input": texts}
            answer = httpx2.post(f"{url}/v1/embeddings", json=body).json()
            return name, np.array([row["embedding"] for row in answer["data"]])

        for name, vectors in pool.map(ask, [*alone] * 8):
            np.testing.assert_allclose(vectors, alone[name], atol=2e-6)


def test_edits_of_two_bases_are_not_run_together(tmp_path: Path) -> None:
    from reft_models import disturb
    from tokay.models.reft_model import get_reft_model
    from tokay.models.torch_embedder import TorchEmbedder

    other = TorchEmbedder.load(tiny_base(seed=1), device="cpu")
    other.backbone = disturb(get_reft_model(other.backbone))
    other.save(tmp_path / "blue")
    models = load_models([str(edits(tmp_path / "red", 1)), str(tmp_path / "blue")])
    assert models["red"].runner is not models["blue"].runner
    np.testing.assert_allclose(
        models["blue"].encode(["river"]), Embedder.load(tmp_path / "blue").encode(["river"]), atol=2e-6
    )
