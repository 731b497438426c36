"""Claim: edits of hidden states cost less than LoRA to train, next to nothing to run, and a hundred of them are small.

The first table has seconds of a training step (forward, backward, AdamW) of --base on one micro-batch, the methods in
turn, medians over rounds and of the ratios in each; and what a step keeps in memory: activations that autograd saves,
gradients and moments. ``no adapter`` is the frozen base with a trained bias at the end of its first layer: edits of all
layers can take no less. ``pyreft's arithmetic`` is LoReFT with the orthogonal parametrisation of torch, read twice a
call, as the reference has it. The second has encoding with edits against without. The third has a hundred adapters
over one base: their size, and micro-batches in which each text is for another adapter.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from common import arguments, table
from tokay.models.reft_bank import Bank, Row
from tokay.models.reft_config import ReftConfig
from tokay.models.reft_model import ReftModel
from tokay.models.torch_embedder import TorchEmbedder
from tokay.train.adapters import Lora, Reft


class Reference(nn.Module):
    """``h + Rᵀ(Wh + b - Rh)`` with R kept orthonormal by torch's own parametrisation, and looked up twice a call."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.rotate = nn.utils.parametrizations.orthogonal(nn.Linear(width, rank, bias=False))
        self.source = nn.Linear(width, rank)

    def delta(self, hidden: Tensor) -> Tensor:
        """What is added."""
        return (self.source(hidden) - self.rotate(hidden)) @ self.rotate.weight

    def forward(self, hidden: Tensor) -> Tensor:
        """Edited hidden states."""
        return hidden + self.delta(hidden)


def main() -> None:
    """Print three tables."""
    parser = arguments(__doc__)
    parser.add_argument("--base", default="minilm")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--texts", type=int, default=16, help="of a micro-batch")
    parser.add_argument("--tokens", type=int, default=64, help="of a text")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--adapters", type=int, default=100)
    options = parser.parse_args()
    torch.manual_seed(0)
    steps(options)
    encoding(options)
    adapters(options)


def load(options: argparse.Namespace) -> TorchEmbedder:
    """A fresh base."""
    return TorchEmbedder.load(options.base, device=options.device)


def edited(options: argparse.Namespace, **changes: Any) -> TorchEmbedder:
    """The base with edits that change something."""
    model = load(options)
    Reft(ReftConfig(**{"rank": options.rank, **changes})).attach(model)
    with torch.no_grad():
        for parameter in model.backbone.adapters.parameters():
            parameter.add_(1e-3 * torch.randn_like(parameter))
    return model


def reference(options: argparse.Namespace) -> TorchEmbedder:
    """The same places with the reference's arithmetic."""
    model = edited(options)
    edits = model.backbone.adapter.edits
    for place in list(edits):
        edits[place] = Reference(model.width, options.rank).to(options.device)
    return model


def lora(options: argparse.Namespace, targets: tuple[str, ...] = ()) -> TorchEmbedder:
    """LoRA of rank 8, on all linear maps or on some."""
    model = load(options)
    if not targets:
        Lora(8).attach(model)
        return model
    from peft import LoraConfig, get_peft_model

    model.backbone = get_peft_model(model.backbone, LoraConfig(r=8, target_modules=list(targets)))
    return model


def bare(options: argparse.Namespace) -> TorchEmbedder:
    """The frozen base with the last bias of its first layer trained: what edits of all layers take at least."""
    model = load(options).requires_grad_(False)
    biases = [m.bias for m in model.backbone.encoder.layer[0].modules() if isinstance(m, nn.LayerNorm)]
    biases[-1].requires_grad_(True)
    return model


def ids_of(options: argparse.Namespace) -> list[list[int]]:
    """Token ids of a micro-batch; what they are does not matter."""
    generator, words = torch.Generator().manual_seed(0), load(options).tokens.tokenizer.get_vocab_size()
    return torch.randint(words // 2, words, (options.texts, options.tokens), generator=generator).tolist()


def wait(options: argparse.Namespace) -> None:
    """Until the device has done what it was told."""
    if options.device.startswith("cuda"):
        torch.cuda.synchronize()


def in_turn(work: Mapping[str, Callable[[], object]], options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each, round by round; two rounds warm up."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for number in range(options.rounds + 2):
        for name, do in work.items():
            wait(options)
            began = time.perf_counter()
            do()
            wait(options)
            if number > 1:
                taken[name].append(time.perf_counter() - began)
    return taken


def ratio(taken: Mapping[str, list[float]], name: str, other: str) -> str:
    """Median of the ratios of each round."""
    return f"{statistics.median(a / b for a, b in zip(taken[name], taken[other], strict=True)):.3f}"


def steps(options: argparse.Namespace) -> None:
    """The first table."""
    ids = ids_of(options)
    models = {
        "no adapter": bare(options),
        "LoReFT": edited(options),
        "DiReFT": edited(options, variant="direft"),
        "LoReFT, f7+l7": edited(options, positions="f7+l7"),
        "LoRA r 8, query and value": lora(options, ("query", "value")),
        "LoRA r 8, all linear": lora(options),
        "pyreft's arithmetic": reference(options),
    }
    work, kept = {}, {}
    for name, model in models.items():
        model.train()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4)

        def step(model: Any = model, optimizer: Any = optimizer) -> None:
            model(ids).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        work[name] = step
        kept[name] = (sum(p.numel() for p in trained), saved_bytes(model, ids) + 12 * sum(p.numel() for p in trained))
    taken = in_turn(work, options)
    rows = [
        [
            name,
            f"{kept[name][0]:,}",
            f"{1e3 * statistics.median(seconds):.1f}",
            ratio(taken, name, "LoRA r 8, all linear"),
            ratio(taken, name, "LoRA r 8, query and value"),
            ratio(taken, name, "pyreft's arithmetic"),
            f"{kept[name][1] / 1e6:.1f}",
        ]
        for name, seconds in taken.items()
    ]
    print(f"{options.base}, {options.texts} texts of {options.tokens} tokens on {options.device}, rank {options.rank}")
    head = ["a training step", "parameters", "ms", "to LoRA, all", "to LoRA, q v", "to pyreft's", "MB kept"]
    table(head, rows)


def saved_bytes(model: Any, ids: list[list[int]]) -> int:
    """Bytes that autograd keeps for a backward pass, each piece of memory once, weights left out."""
    pieces: dict[int, int] = {}
    held: list[Tensor] = []
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(value: Tensor) -> Tensor:
        place = value.untyped_storage().data_ptr()
        if place not in weights:
            pieces[place] = value.untyped_storage().nbytes()
            held.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        model(ids).square().mean()
    return sum(pieces.values())


def encoding(options: argparse.Namespace) -> None:
    """The second table."""
    ids = ids_of(options)
    models = {
        "plain": load(options),
        "LoReFT": edited(options),
        "LoReFT, f7+l7": edited(options, positions="f7+l7"),
    }
    taken = in_turn({name: functools.partial(model.eval().run, ids) for name, model in models.items()}, options)
    rows = [[n, f"{1e3 * statistics.median(seconds):.1f}", ratio(taken, n, "plain")] for n, seconds in taken.items()]
    table(["encoding", "ms", "to plain"], rows)


def adapters(options: argparse.Namespace) -> None:
    """The third table."""
    ids = ids_of(options)
    first = edited(options)
    plain: ReftModel = first.backbone
    bank = Bank(first)
    places = [bank.take(plain)]
    while len(places) < options.adapters:
        plain.add_adapter("next", ReftConfig(rank=options.rank))
        with torch.no_grad():
            for parameter in plain.adapter.parameters():
                parameter.add_(1e-3 * torch.randn_like(parameter))
        places.append(bank.take(plain))
    single = edited(options).eval()
    mixed = [Row(row, places[i % len(places)]) for i, row in enumerate(ids)]
    alike = [Row(row, places[0]) for row in ids]
    work = {
        "one adapter alone": lambda: single.run(ids),
        "of the bank, one for all texts": lambda: bank.run(alike),
        "of the bank, another for each text": lambda: bank.run(mixed),
    }
    taken = in_turn(work, options)
    print(f"{options.adapters} adapters of rank {options.rank} in every layer: {bank.stack.bytes / 1e6:.1f} MB")
    rows = [
        [n, f"{1e3 * statistics.median(seconds):.1f}", ratio(taken, n, "one adapter alone")]
        for n, seconds in taken.items()
    ]
    table(["a micro-batch", "ms", "to one alone"], rows)


if __name__ == "__main__":
    main()
