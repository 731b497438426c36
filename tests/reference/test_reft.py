"""Edits against the published formulas, written here once more in float64 with torch's own orthogonal matrices.

The recipe of the golden tensors: R (d x r) is ``torch.nn.utils.parametrizations.orthogonal`` of a linear map's weight,
as the paper's own code keeps it; W and b are a linear map's; ``h + Rᵀ(Wh + b - Rh)`` and its ablations as section 3 of
arXiv 2404.03592 has them; gradients are autograd's with respect to W, b and h. R is copied into the free matrix, whose
gradient is compared in the tangent space, where alone both parametrisations agree.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reft_models import disturb, ids_of, model_of
from tiny import tiny_base
from tokay.models.reft import VARIANTS, Intervention
from tokay.models.reft_config import ReftConfig
from tokay.models.reft_merge import save_merged
from tokay.models.reft_model import get_reft_model
from tokay.models.torch_embedder import TorchEmbedder
from tokay.train.adapters import Reft

pytestmark = pytest.mark.reference

WIDTH, RANK = 24, 3

FORMULAS: dict[str, Callable[..., Tensor]] = {
    "loreft": lambda h, w, b, r: h + (h @ w.T + b - h @ r) @ r.T,
    "direft-orthogonal": lambda h, w, b, r: h + (h @ w.T + b) @ r.T,
    "consreft": lambda h, w, b, r: h + (b - h @ r) @ r.T,
    "lobireft": lambda h, w, b, r: h + b @ r.T,
    "noreft": lambda h, w, b, r: h + (h @ w.T + b - h @ r) @ r.T,
    "direft": lambda h, w, b, r: h + (h @ w.T + b) @ r.T,
}
"""Of hidden states h (…, d), W (r, d), b (r) and R (d, r); without the constraint R is W₂ᵀ."""
FREE = ("noreft", "direft")


class Golden(nn.Module):
    """A formula with the reference's parameters."""

    def __init__(self, name: str, *, width: int = WIDTH, rank: int = RANK) -> None:
        super().__init__()
        self.name = name
        self.rotate = nn.Linear(rank, width, bias=False).double()  # its weight is (d, r)
        if name not in FREE:
            self.rotate = nn.utils.parametrizations.orthogonal(self.rotate)
        self.source = nn.Linear(width, rank).double()

    def forward(self, hidden: Tensor) -> Tensor:
        return FORMULAS[self.name](hidden, self.source.weight, self.source.bias, self.rotate.weight)


def twins(name: str, seed: int = 0, **sizes: int) -> tuple[Golden, Intervention]:
    """The formula, and Tokay's edit with the same numbers."""
    torch.manual_seed(seed)
    golden = Golden(name, **sizes)
    width, rank = golden.source.in_features, golden.source.out_features
    edit = VARIANTS[name](width, rank).double()
    with torch.no_grad():
        edit.bias.copy_(golden.source.bias)
        if hasattr(edit, "weight"):
            edit.weight.copy_(golden.source.weight)
        if name in FREE:
            edit.out.copy_(golden.rotate.weight.T)
        else:
            edit.free.copy_(golden.rotate.weight)
    return golden, edit


@pytest.mark.parametrize("name", FORMULAS)
def test_forward_and_gradients_are_the_formulas(name: str) -> None:
    golden, edit = twins(name)
    hidden = torch.randn(4, 7, WIDTH, dtype=torch.float64)
    mine, other = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    goal = torch.randn_like(hidden)
    for model, given in ((edit, mine), (golden, other)):
        out = model(given)
        ((out - goal).square().mean() + out.sin().sum()).backward()
    torch.testing.assert_close(edit(mine), golden(other), atol=1e-10, rtol=0)
    torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=0)
    torch.testing.assert_close(edit.bias.grad, golden.source.bias.grad, atol=1e-5, rtol=0)
    if hasattr(edit, "weight"):
        torch.testing.assert_close(edit.weight.grad, golden.source.weight.grad, atol=1e-5, rtol=0)
    if name in FREE:
        torch.testing.assert_close(edit.out.grad.T, golden.rotate.weight.grad, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [name for name in FORMULAS if name not in FREE])
def test_the_subspaces_gradient_is_that_of_moving_along_the_manifold(name: str) -> None:
    """Finite differences of the formula along tangents of the orthonormal matrices."""
    golden, edit = twins(name)
    hidden, goal = torch.randn(2, 5, WIDTH, dtype=torch.float64), torch.randn(2, 5, WIDTH, dtype=torch.float64)
    (edit(hidden) - goal).square().sum().backward()
    r, source = golden.rotate.weight.detach(), golden.source
    for seed in range(5):
        step = torch.randn(r.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        tangent = step - r @ (r.T @ step + step.T @ r) / 2
        triangle = (r.T @ tangent).tril(-1)
        tangent = tangent - r @ (r.T @ tangent - (triangle - triangle.T))  # of the QR chart, which fixes the basis

        def loss(by: float, tangent: Tensor = tangent) -> float:
            q, upper = torch.linalg.qr(r + by * tangent)
            q = q * upper.diagonal().sign()
            out = FORMULAS[name](hidden, source.weight, source.bias, q)
            return float((out - goal).square().sum())

        slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
        assert float((edit.free.grad * tangent).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-5)


def test_the_loss_after_two_hundred_steps_is_the_references() -> None:
    """A different parametrisation takes other steps; over five seeds both arrive at the same loss."""
    reached: dict[str, list[float]] = {"golden": [], "edit": []}
    for seed in range(5):
        golden, edit = twins("loreft", seed)
        data = torch.Generator().manual_seed(seed)
        hidden = torch.randn(128, WIDTH, generator=data, dtype=torch.float64)
        mix = torch.randn(WIDTH, 2, generator=data, dtype=torch.float64)
        goal = hidden + torch.tanh(hidden @ mix) @ mix.T
        for name, model in (("golden", golden), ("edit", edit)):
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
            for _ in range(200):
                optimizer.zero_grad()
                loss = (model(hidden) - goal).square().mean()
                loss.backward()
                optimizer.step()
            reached[name].append(loss.item())
    golden_loss, edit_loss = (np.mean(reached[name]) for name in ("golden", "edit"))
    start = float((hidden - goal).square().mean())
    assert edit_loss < 0.8 * start
    assert edit_loss == pytest.approx(golden_loss, rel=0.05)


def test_the_references_rotation_dies_of_weight_decay_and_this_one_does_not() -> None:
    golden, edit = twins("loreft")
    hidden = torch.randn(16, WIDTH, dtype=torch.float64)
    for model in (golden, edit):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)  # its default decay, 0.01
        for _ in range(2):
            optimizer.zero_grad()
            model(hidden).square().mean().backward()
            optimizer.step()
    rotation = edit.rotation  # type: ignore[attr-defined]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(RANK, dtype=torch.float64), atol=1e-6, rtol=0)
    assert golden.rotate.weight.norm() < 1e-3 * RANK**0.5


# -- what the paper counts -------------------------------------------------------------------------------------------

INSTRUCT = {"rank": 4, "layers": (3, 9, 18, 24), "positions": "f5+l5", "tied": False}
COUNTS = [
    ("llama-7b", {"rank": 8, "positions": "f7+l7"}, 2_097_408, 0.0311),
    ("llama-13b", {"rank": 8, "positions": "f7+l7"}, 3_277_120, 0.0252),
    ("llama-7b", INSTRUCT, 262_176, 0.0039),
    ("roberta-base", {"rank": 1, "positions": "f3", "tied": False}, 18_444, 0.0148),
    ("roberta-large", {"rank": 1, "positions": "f3", "tied": False}, 49_176, 0.0138),
]
"""Parameters and per cent of the model's, of tables 1, 2 and 4."""


def config_of(name: str) -> Any:
    from transformers import LlamaConfig, RobertaConfig

    sizes = {
        "llama-7b": (4096, 32, 32, 11_008),
        "llama-13b": (5120, 40, 40, 13_824),
        "roberta-base": (768, 12, 12, 3072),
        "roberta-large": (1024, 24, 16, 4096),
    }
    width, layers, heads, inner = sizes[name]
    made = LlamaConfig if name.startswith("llama") else RobertaConfig
    more = (
        {"vocab_size": 32_000} if name.startswith("llama") else {"vocab_size": 50_265, "max_position_embeddings": 514}
    )
    return made(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inner, **more)


@pytest.mark.parametrize(("name", "changes", "count", "share"), COUNTS)
def test_the_papers_parameters_are_counted_from_configs_alone(
    name: str, changes: dict[str, Any], count: int, share: float
) -> None:
    from transformers import LlamaForCausalLM, RobertaModel

    config = config_of(name)
    made = ReftConfig(**changes)
    assert made.parameters(width=config.hidden_size, layers=config.num_hidden_layers) == count
    with torch.device("meta"):
        model = LlamaForCausalLM(config) if name.startswith("llama") else RobertaModel(config)
    total = sum(p.numel() for p in model.parameters())
    assert 100 * count / total == pytest.approx(share, abs=6e-5)


def test_an_attached_adapter_has_the_counted_parameters() -> None:
    config = ReftConfig(rank=2, positions="f2+l3", tied=False, layers=(0, 2))
    model = get_reft_model(model_of("llama"), config)
    found = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found == config.parameters(width=32, layers=3) == 4 * (2 * 2 * 32 + 2)


# -- other people's code --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["all", "pooled"])
def test_a_merged_model_is_the_same_in_sentence_transformers(tmp_path: Path, positions: str) -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["river stone cloud", "a list of maps", "flame"]
    model = TorchEmbedder.load(tiny_base(), device="cpu")
    Reft(ReftConfig(layers=(-1,) if positions == "all" else (), positions=positions)).attach(model)
    disturb(model.backbone)
    save_merged(model, tmp_path / "merged")
    other = SentenceTransformer(str(tmp_path / "merged"), device="cpu")
    assert [type(module).__name__ for module in other] == ["Transformer", "Pooling", "Dense", "Normalize"]
    np.testing.assert_allclose(other.encode(texts), model.encode(texts), atol=1e-5)
    assert np.abs(model.encode(texts) - TorchEmbedder.load(tiny_base(), device="cpu").encode(texts)).max() > 1e-2


@pytest.mark.parametrize("positions", ["all", "f1+l2"])
def test_an_exported_graph_has_the_edits(tmp_path: Path, positions: str) -> None:
    import onnxruntime

    from tokay.export.onnx import write_onnx

    texts = ["river stone", "a list of maps and an iron file"]
    model = TorchEmbedder.load(tiny_base(), device="cpu")
    Reft(ReftConfig(positions=positions)).attach(model)
    disturb(model.backbone)
    write_onnx(model.eval(), tmp_path / "model.onnx")
    ids, mask = (array.astype(np.int64) for array in model.tokens.padded(model.tokenize(texts)))
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    _, found = session.run(None, {"input_ids": ids, "attention_mask": mask})
    np.testing.assert_allclose(found, model.encode(texts), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_transformers_trainer_trains_the_edits(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    model = get_reft_model(model_of("llama", causal=True), ReftConfig(positions="f2+l2"))
    rows = [{"input_ids": row, "labels": torch.cat([torch.full((4,), -100), row[4:]])} for row in ids_of(8, 7)]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    told = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=30,
        per_device_train_batch_size=8,
        learning_rate=2e-2,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        weight_decay=0.01,
    )
    trainer = Trainer(model=model, args=told, train_dataset=rows)
    first = trainer.evaluate(rows)["eval_loss"]
    trainer.train()
    assert trainer.evaluate(rows)["eval_loss"] < 0.8 * first
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.startswith("adapters.")}


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_compiled_model_edits_the_same(family: str) -> None:
    model = disturb(get_reft_model(model_of(family), ReftConfig(positions="f2+l3")))
    compiled = torch.compile(model, backend="eager")
    mask = torch.ones_like(ids_of())
    mask[0, 5:] = 0
    for inputs in ({"input_ids": ids_of(), "attention_mask": mask}, {"input_ids": ids_of()[:, :4]}):
        with torch.no_grad():
            mine, other = (m(**inputs).last_hidden_state for m in (compiled, model))
        torch.testing.assert_close(mine, other)
    compiled(input_ids=ids_of()).last_hidden_state.square().mean().backward()
    found = [p.grad.clone() for p in model.adapters.parameters()]
    model.zero_grad()
    model(input_ids=ids_of()).last_hidden_state.square().mean().backward()
    for mine, other in zip(found, model.adapters.parameters(), strict=True):
        torch.testing.assert_close(mine, other.grad)
