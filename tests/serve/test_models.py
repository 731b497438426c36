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
