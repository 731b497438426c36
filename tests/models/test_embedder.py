from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny import WORDS, old_pooling_only, tiny_base
from tokay.errors import TokayError
from tokay.models.batching import by_token_budget
from tokay.models.embedder import Embedder
from tokay.models.format import GECKO, NONE
from tokay.models.locate import find_model
from tokay.models.torch_embedder import TorchEmbedder, pool

texts = st.lists(st.lists(st.sampled_from(WORDS), min_size=0, max_size=90).map(" ".join), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder.load(tiny_base())


@given(texts)
def test_order_and_company_do_not_matter(embedder: Embedder, batch: list[str]) -> None:
    together = embedder.encode(batch)
    alone = np.concatenate([embedder.encode([text]) for text in batch])
    np.testing.assert_allclose(together, alone, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_windows_do_not_matter(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = [" ".join(WORDS[i : i + 1 + i % 7]) for i in range(40)]
    whole = embedder.encode(batch)
    monkeypatch.setattr("tokay.models.embedder.TEXTS_PER_WINDOW", 7)
    monkeypatch.setattr(TorchEmbedder, "tokens_per_batch", 16)
    np.testing.assert_allclose(embedder.encode(iter(batch)), whole, atol=2e-6)


def test_dim_truncates_and_normalises(embedder: Embedder) -> None:
    full, cut = embedder.encode(["the stone river"]), embedder.encode(["the stone river"], dim=8)
    assert cut.shape == (1, 8)
    np.testing.assert_allclose(cut[0], full[0, :8] / np.linalg.norm(full[0, :8]), atol=1e-6)


def test_forward_by_length_is_forward(embedder: Embedder) -> None:
    ids = embedder.tokenize(["a", "the stone river cloud", "maple ocean", "iron " * 30])
    with torch.inference_mode():
        torch.testing.assert_close(
            embedder.forward_by_length(ids, tokens_per_batch=8), embedder(ids), atol=2e-6, rtol=0
        )


def test_gecko_format_places_task_and_title() -> None:
    embedder = Embedder.load(tiny_base(prompts=(GECKO.query, GECKO.passage)))
    assert embedder.config.prompts.is_gecko
    np.testing.assert_array_equal(
        embedder.encode(["stone"], titles=["river"]),
        Embedder.load(tiny_base()).encode(["title: river | text: stone"]),
    )
    assert GECKO.write_query("q", "fact checking") == "task: fact checking | query: q"
    assert GECKO.write_passage("p") == "title: none | text: p"
    assert NONE.write_passage("p", "t") == "t p"


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_pooling_ignores_padding(mode: str, side: str) -> None:
    hidden = torch.arange(24.0).reshape(2, 3, 4)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    if side == "left":
        mask = mask.flip(1)
    out = pool(hidden, mask, mode)  # type: ignore[arg-type]
    rows = hidden[0][mask[0]]
    expected = {"mean": rows.mean(0), "cls": rows[0], "lasttoken": rows[-1]}[mode]
    torch.testing.assert_close(out[0], expected)


def test_save_writes_both_pooling_forms_and_loads_again(embedder: Embedder, tmp_path: Path) -> None:
    copy = embedder.clone()
    copy.config = embedder.config.__class__("mean", True, 48, GECKO, (32, 8))
    copy.save(tmp_path)
    pooling = json.loads((tmp_path / "1_Pooling/config.json").read_text())
    assert pooling["pooling_mode"] == "mean"
    assert pooling["pooling_mode_mean_tokens"] is True
    assert pooling["pooling_mode_cls_token"] is False
    assert json.loads((tmp_path / "config.json").read_text())["matryoshka_dimensions"] == [32, 8]
    again = Embedder.load(tmp_path)
    assert again.config == copy.config
    np.testing.assert_array_equal(again.encode(["a river"], kind="query"), copy.encode(["a river"], kind="query"))


def test_old_pooling_config_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(tiny_base("cls"), folder)
    old_pooling_only(folder)
    assert Embedder.load(folder).config.pooling == "cls"


def test_plain_transformers_folder_pools_by_mean(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    shutil.copytree(tiny_base(), folder)
    (folder / "modules.json").unlink()
    config = Embedder.load(folder).config
    assert (config.pooling, config.normalize, config.max_tokens) == ("mean", True, 64)


def test_errors_say_what_to_do(embedder: Embedder, tmp_path: Path) -> None:
    with pytest.raises(TokayError, match=r"list of texts and got one string"):
        embedder.encode("one")
    with pytest.raises(TokayError, match=r"dim is 33; this model has vectors of 32"):
        embedder.encode(["one"], dim=33)
    with pytest.raises(TokayError, match=r"kind is 'documnt'; expected .* did you mean 'document'\?"):
        embedder.encode(["one"], kind="documnt")
    with pytest.raises(TokayError, match=r"long is 'head'; expected 'truncate' or 'chunk'"):
        embedder.encode(["one"], long="head")  # type: ignore[arg-type]
    with pytest.raises(TokayError, match=r"workers is 0; expected 1 or more"):
        embedder.encode(["one"], workers=0)
    with pytest.raises(TokayError, match=r"backend is 'tensorrt'; expected one of torch, onnx, onnx-int8, static"):
        Embedder.load(tiny_base(), backend="tensorrt")  # type: ignore[arg-type]
    with pytest.raises(TokayError, match=r"folder without config.json"):
        find_model(tmp_path)
    with pytest.raises(TokayError, match=r"there is no model folder ./nowhere/at/all"):
        find_model("./nowhere/at/all")
    for name in ("minilmm", "MiniLm-", "./minilm"):
        with pytest.raises(TokayError, match=r"; did you mean 'minilm'\?$"):
            find_model(name)
    with pytest.raises(TokayError, match=r"the Hugging Face Hub could not be reached; [^?]*$"):
        find_model("nothing/like-it")
    head = tmp_path / "head"
    shutil.copytree(tiny_base(), head)
    modules = json.loads((head / "modules.json").read_text())
    (head / "modules.json").write_text(json.dumps([*modules, {"type": "x.WordWeights", "path": "3_W"}]))
    with pytest.raises(TokayError, match=r"WordWeights; Tokay runs Transformer and Pooling, and behind them Dense"):
        Embedder.load(head)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(TokayError, match=r"cannot be loaded as a transformers model"):
        Embedder.load(tmp_path)


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 120))
def test_token_budget_groups(lengths: list[int], budget: int) -> None:
    ids = [[0] * n for n in lengths]
    order = sorted(range(len(ids)), key=lambda i: lengths[i])
    groups = by_token_budget(order, ids, budget)
    assert [i for group in groups for i in group] == order
    assert all(len(g) == 1 or len(g) * max(lengths[i] for i in g) <= budget for g in groups)
