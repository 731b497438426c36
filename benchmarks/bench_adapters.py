"""Claim: a further adapter over a base that is served already costs little memory, and a merged one no time.

LoRA adapters of random numbers over --base are loaded in three ways, each in a process of its own: each model alone,
as ``tokay serve`` does, and as ``tokay serve --no-merge`` does. The first table has the weights that are held, counted
once each, and what the second and each further adapter added to the memory of the process (the first one brings peft):
all that is resident, in which pages of a file count as often as they are mapped, and what is no page of a file. The
second has texts a second, merged and beside in turn.
"""

from __future__ import annotations

import argparse
import multiprocessing
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
    parser.add_argument("--texts", type=int, default=128, help="of Python's manual, evenly spread")
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
                rows.append([way, *process.apply(measure, (way, words))])
        with spawn.Pool(1) as process:
            rates = process.apply(speeds, (words[1], options))
    print(f"{options.base} and {options.adapters} LoRA adapters of rank {options.rank}")
    table(["", "weights, MB", "resident, MB", "each adapter, MB", "of it no file, MB"], rows)
    table(["", "texts/s", "to merged"], rates)


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


def measure(way: str, words: Sequence[str]) -> list[str]:
    """A row of the first table."""
    from tokay import Embedder
    from tokay.serve.start import load_models

    kept: dict[str, Any] = {}
    loaded: list[Any] = []
    taken = []
    for word in words:
        if way == WAYS[0]:
            loaded.append(Embedder.load(word))
            loaded[-1].encode(["The first text is the slowest."])
        else:
            loaded += load_models([word], merge=way == WAYS[1], kept=kept).values()
        taken.append(memory())
    held = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for model in loaded
        for tensor in (*model.backbone.parameters(), *model.backbone.buffers())
    }
    resident, anonymous = ([mb[i] for mb in taken] for i in range(2))
    each = [(mb[-1] - mb[1]) / (len(words) - 2) for mb in (resident, anonymous)]
    return [f"{sum(held.values()) / 1e6:.0f}", f"{resident[-1]:.0f}", *(f"{mb:.1f}" for mb in each)]


def memory() -> tuple[float, float]:
    """MB of this process now: resident, and of that what is no page of a file."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    found = {name: int(rest.split()[0]) * 1024 / 1e6 for name, _, rest in (line.partition(":") for line in lines)}
    return found["Rss"], found["Anonymous"]


def speeds(adapter: str, options: argparse.Namespace) -> list[list[str]]:
    """The second table: medians over rounds, and of the ratios in each."""
    from tokay import Embedder
    from tokay.corpus import open_corpus, whole

    passages = [whole(d) for d in open_corpus("python-stdlib").documents(lambda skipped: None)]
    texts = [p.text for p in passages[:: len(passages) // options.texts]][: options.texts]
    models = {"merged": Embedder.load(adapter), "beside": Embedder.load(adapter, merge=False)}
    rates: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(options.rounds + 1):  # the first warms up
        for name, model in models.items():
            began = time.perf_counter()
            model.encode(texts)
            rates[name].append(len(texts) / (time.perf_counter() - began))
    rows = []
    for name, all_rounds in rates.items():
        ratio = statistics.median(a / b for a, b in zip(all_rounds[1:], rates["merged"][1:], strict=True))
        rows.append([name, f"{statistics.median(all_rounds[1:]):.1f}", f"{ratio:.2f}"])
    return rows


if __name__ == "__main__":
    main()
