"""Claim: a further adapter over a base that is served already costs little memory, and a merged one no time.

LoRA adapters of random numbers over --base are loaded in three ways, each in a process of its own: each model alone,
as ``tokay serve`` does, and as ``tokay serve --no-merge`` does. The table has the weights that are held, counted once
each, the resident memory that each model after the base added, and texts a second of all adapters in turn.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import arguments, table

WAYS = ("each alone", "served", "served, --no-merge")


def main() -> None:
    """Print one table."""
    parser = arguments(__doc__)
    parser.add_argument("--base", default="minilm")
    parser.add_argument("--adapters", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16, help="of every linear map of every layer, as Tokay trains")
    parser.add_argument("--texts", type=int, default=192, help="of Python's manual, evenly spread")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as place:
        with spawn.Pool(1) as process:
            process.apply(write_adapters, (options, Path(place)))
        words = [options.base, *(str(path) for path in sorted(Path(place).iterdir()))]
        rows = []
        for way in WAYS:
            with spawn.Pool(1) as process:
                rows.append([way, *process.apply(measure, (way, words, options))])
    print(f"{options.base} and {options.adapters} LoRA adapters of rank {options.rank}")
    table(["", "weights, MB", "resident, MB", "each further model, MB", "texts/s"], rows)


def write_adapters(options: argparse.Namespace, place: Path) -> None:
    """Adapters over the base, with numbers that change its vectors."""
    import torch

    from tokay.models.torch_embedder import TorchEmbedder
    from tokay.train.adapters import Lora

    for number in range(options.adapters):
        model, lora = TorchEmbedder.load(options.base), Lora(options.rank)
        lora.attach(model)
        torch.manual_seed(number)
        for name, parameter in model.backbone.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=1e-3)
        lora.save(model, place / f"adapter-{number}", base_name=options.base)


def measure(way: str, words: Sequence[str], options: argparse.Namespace) -> list[Any]:
    """A row of the table."""
    from tokay import Embedder
    from tokay.corpus import open_corpus, whole
    from tokay.serve.start import load_models

    kept: dict[str, Any] = {}
    loaded: list[Any] = []
    resident = []
    for word in words:
        if way == WAYS[0]:
            loaded.append(Embedder.load(word))
            loaded[-1].encode(["The first text is the slowest."])
        else:
            loaded += load_models([word], merge=way == WAYS[1], kept=kept).values()
        resident.append(resident_mb())
    held = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for model in loaded
        for tensor in (*model.backbone.parameters(), *model.backbone.buffers())
    }
    passages = [whole(d) for d in open_corpus("python-stdlib").documents(lambda skipped: None)]
    texts = [p.text for p in passages[:: len(passages) // options.texts]][: options.texts]
    further = (resident[-1] - resident[0]) / (len(words) - 1)
    rates = [rate(loaded[1 + i % options.adapters], texts) for i in range(options.rounds + 1)][1:]
    return [
        f"{sum(held.values()) / 1e6:.0f}",
        f"{resident[-1]:.0f}",
        f"{further:.1f}",
        f"{statistics.median(rates):.1f}",
    ]


def rate(model: Any, texts: Sequence[str]) -> float:
    """Texts a second."""
    began = time.perf_counter()
    model.encode(texts)
    return len(texts) / (time.perf_counter() - began)


def resident_mb() -> float:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
