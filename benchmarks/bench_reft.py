"""Claim: edits of hidden states come near LoRA with a fifteenth of its parameters, on some tasks; the table says which.

Methods are trained on the same --rows rows of each task with the same steps, each at three learning rates with the
first seed; the best on 500 other training rows is then run with the other seeds. Classification is a linear head behind
the encoder's pooled vectors; ``stdlib`` is the embedding task of a finished run (--run): trained on its rows, the rate
chosen on half of its dev queries and measured on the other half. A cell is a line of --out as soon as it is done: what
stands there is not done again. Intervals are a bootstrap over test rows, of the mean over seeds, against LoRA on all
linear maps.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from common import arguments, table
from tokay.models.reft_config import ReftConfig
from tokay.models.torch_embedder import TorchEmbedder
from tokay.settings import TrainSettings
from tokay.train.adapters import Full, Lora, Reft, adapter_of
from tokay.train.embedder import ready_to_train
from tokay.train.engine import Engine
from tokay.train.heads import Classifier, ClassifierTrainee, Labelled, shuffled
from tokay.train.loop import Schedule, train

DEV = 500
RESAMPLES = 2000
YARDSTICK = "LoRA r 8, all linear"
TASKS = {
    "sst2": ("train", "test", ("text",)),
    "rte": ("train", "validation", ("sentence1", "sentence2")),
    "cola": ("train", "dev", ("text",)),
    "banking77": ("train", "test", ("text",)),
}
"""Files of training and test rows, and columns of text."""


@dataclasses.dataclass(frozen=True)
class LoraOn:
    """LoRA on the query and value maps alone."""

    rank: int = 8

    def attach(self, model: TorchEmbedder) -> None:
        """Wrap the backbone."""
        from peft import LoraConfig, get_peft_model

        ends = ("query", "value", "q_proj", "v_proj", "attn.q", "attn.v")
        targets = [n for n, m in model.backbone.named_modules() if isinstance(m, torch.nn.Linear) and n.endswith(ends)]
        config = LoraConfig(r=self.rank, lora_alpha=2 * self.rank, target_modules=targets)
        model.backbone = get_peft_model(model.backbone, config)


@dataclasses.dataclass(frozen=True)
class Nothing:
    """The head alone."""

    def attach(self, model: TorchEmbedder) -> None:
        """Freeze all of it."""
        model.requires_grad_(False)


SLOW, MIDDLE, FAST = (3e-5, 1e-4, 3e-4), (3e-4, 1e-3, 3e-3), (1e-3, 3e-3, 1e-2)
METHODS: dict[str, tuple[Any, tuple[float, ...]]] = {
    "linear head": (Nothing(), (3e-3, 1e-2, 3e-2)),
    "LoReFT r 1": (Reft(ReftConfig(rank=1)), FAST),
    "LoReFT r 4": (Reft(ReftConfig(rank=4)), FAST),
    "LoReFT r 16": (Reft(ReftConfig(rank=16)), FAST),
    "LoReFT r 4, f3+l3": (Reft(ReftConfig(rank=4, positions="f3+l3")), FAST),
    "DiReFT r 4": (Reft(ReftConfig("direft", 4)), FAST),
    "LoRA r 8, query and value": (LoraOn(), MIDDLE),
    YARDSTICK: (Lora(8, 16.0), MIDDLE),
    "full": (Full(), SLOW),
}
"""Each with its three rates; biases and scales aside, the same optimiser for all."""


def main() -> None:
    """Train what is missing, and print the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--base", default="minilm")
    parser.add_argument("--run", type=Path, help="a finished run, for the task stdlib")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=[*TASKS, "stdlib"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after the cell that is under way then")
    parser.add_argument("--out", type=Path, default=Path("bench_reft.jsonl"))
    parser.add_argument("--plot", type=Path, help="write quality against parameters as an image (.svg or .png)")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    done = read(options.out)
    for task in options.tasks:
        for method in options.methods:
            for seed, rate in wanted(task, method, options.seeds, done):
                if time.monotonic() > until:
                    break
                cell = {"task": task, "method": method, "seed": seed, "rate": rate or best_rate(task, method, done)}
                if key(cell) not in done:
                    cell |= embed(cell, options) if task == "stdlib" else classify(cell, options)
                    done[key(cell)] = cell
                    with options.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(cell) + "\n")
    report(done, options)


def key(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes a cell another."""
    return tuple(cell[name] for name in ("task", "method", "seed", "rate"))


def read(path: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Finished cells."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {key(cell): cell for cell in map(json.loads, lines)}


def wanted(task: str, method: str, seeds: int, done: Mapping[Any, Any]) -> list[tuple[int, float]]:
    """Seeds and rates, in order; a rate of 0 is the best one of the search."""
    rates = METHODS[method][1]
    if task == "stdlib" and method == "linear head":
        return []  # a map behind the vectors is no head of an embedder
    return [*((0, rate) for rate in rates), *((seed, 0.0) for seed in range(1, seeds))]


def best_rate(task: str, method: str, done: Mapping[Any, Mapping[str, Any]]) -> float:
    """The rate with the best dev figure of the first seed."""
    tried = [done[task, method, 0, rate] for rate in METHODS[method][1]]
    return float(max(tried, key=lambda cell: cell["dev"])["rate"])


def correlation(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """Matthews' correlation of two classes."""
    value = np.corrcoef(predicted, labels)[0, 1] if predicted.std() and labels.std() else 0.0
    return float(value)


def accuracy(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """Share of right answers."""
    return float((predicted == labels).mean())


def metric_of(task: str) -> Callable[[NDArray[Any], NDArray[Any]], float]:
    """Accuracy, or of CoLA Matthews' correlation; of embeddings the mean of what queries have."""
    if task == "stdlib":
        return lambda predicted, labels: float(predicted.mean())
    return correlation if task == "cola" else accuracy


def data_of(task: str, embedder: TorchEmbedder, options: argparse.Namespace) -> dict[str, list[Labelled]]:
    """Training, dev and test rows, the same for all methods and seeds."""
    trained, tested, columns = TASKS[task]
    folder, found = options.data / task, {}
    for part, file in (("train", trained), ("test", tested)):
        rows = pq.read_table(folder / f"{file}.parquet").to_pydict()
        texts = [rows[column] for column in columns]
        found[part] = list(zip(zip(*texts, strict=True), rows["label"], strict=True))
    order = np.random.default_rng(0).permutation(len(found["train"]))
    size = min(options.rows, len(order) - DEV)
    parts = {
        "train": [found["train"][i] for i in order[:size]],
        "dev": [found["train"][i] for i in order[size : size + DEV]],
        "test": found["test"],
    }
    tokenizer, longest = embedder.tokenizer, min(128, embedder.config.max_tokens)
    return {
        part: [
            Labelled(tokenizer(*texts, truncation=True, max_length=longest)["input_ids"], int(label))
            for texts, label in rows
        ]
        for part, rows in parts.items()
    }


def classify(cell: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Train and measure a classifier."""
    engine = Engine(precision="auto")
    embedder = TorchEmbedder.load(options.base, device="cpu")
    rows = data_of(cell["task"], embedder, options)
    torch.manual_seed(cell["seed"])
    METHODS[cell["method"]][0].attach(embedder)
    labels = {part: np.array([row.label for row in some]) for part, some in rows.items()}
    model = Classifier(embedder, int(labels["train"].max()) + 1).to(engine.device)
    trained = sum(p.numel() for p in embedder.parameters() if p.requires_grad)
    steps, batches = shuffled(rows["train"], size=32, epochs=options.epochs, seed=cell["seed"])
    schedule = Schedule(steps, cell["rate"], seed=cell["seed"])
    began = time.perf_counter()
    with ready_to_train(embedder, engine, TrainSettings()):
        for step in train(ClassifierTrainee(model, engine), batches, schedule, engine=engine):
            last = step.loss
    seconds = time.perf_counter() - began
    measure = metric_of(cell["task"])
    found = {part: model.predict([row.ids for row in rows[part]]).numpy() for part in ("dev", "test")}
    made = {
        "n": len(rows["train"]),
        "parameters": trained,
        "loss": last,
        "seconds": round(seconds, 1),
        "dev": measure(found["dev"], labels["dev"]),
        "test": measure(found["test"], labels["test"]),
        "predicted": found["test"].tolist(),
        "labels": labels["test"].tolist(),
    }
    print(
        *(f"{name}={cell[name]}" for name in cell), *(f"{n}={made[n]}" for n in ("dev", "test", "seconds")), flush=True
    )
    return made


def embed(cell: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Train an embedder on a run's rows and measure it on the run's dev queries."""
    from tokay.train.embedder import prepared, train_embedder
    from tokay.tuning import read_material, settings_for

    chosen = settings_for(str(options.run), {"train.learning_rate": cell["rate"], "train.seed": cell["seed"]})
    material = read_material(str(options.run), chosen, base=options.base)
    adapter, settings = METHODS[cell["method"]][0], material.settings
    adapter = adapter_of(settings) if isinstance(adapter, Full) else adapter
    tuned = prepared(material.base, settings)
    torch.manual_seed(cell["seed"])
    adapter.attach(tuned)
    trained = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    began = time.perf_counter()
    losses = [step.loss for step in train_embedder(tuned, material.sources, settings)]
    seconds = time.perf_counter() - began
    values = material.dev.measure(tuned.eval())
    made = {
        "n": sum(len(source.rows) for source in material.sources),
        "parameters": trained,
        "loss": losses[-1],
        "seconds": round(seconds, 1),
        "dev": float(values[::2].mean()),
        "test": float(values[1::2].mean()),
        "predicted": values[1::2].tolist(),
        "labels": [0] * len(values[1::2]),
    }
    print(
        *(f"{name}={cell[name]}" for name in cell), *(f"{n}={made[n]}" for n in ("dev", "test", "seconds")), flush=True
    )
    return made


def finished(done: Mapping[Any, dict[str, Any]], task: str, method: str) -> list[dict[str, Any]]:
    """The cells at the best rate, a seed each; none while the search is not done."""
    if any((task, method, 0, rate) not in done for rate in METHODS[method][1]):
        return []
    rate = best_rate(task, method, done)
    return [cell for cell in done.values() if (cell["task"], cell["method"], cell["rate"]) == (task, method, rate)]


def interval(task: str, a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Difference of the means over seeds and its 95 % interval, by resampled test rows."""
    labels, measure = np.array(a[0]["labels"]), metric_of(task)
    sides = [[np.array(cell["predicted"]) for cell in cells] for cells in (a, b)]
    drawn = np.random.default_rng(0)

    def difference(at: NDArray[Any]) -> float:
        one, other = (float(np.mean([measure(p[at], labels[at]) for p in side])) for side in sides)
        return one - other

    whole = difference(np.arange(len(labels)))
    many = [difference(drawn.integers(0, len(labels), len(labels))) for _ in range(RESAMPLES)]
    low, high = np.quantile(many, [0.025, 0.975])
    return whole, float(low), float(high)


def report(done: Mapping[Any, dict[str, Any]], options: argparse.Namespace) -> None:
    """A table a task, and the claim."""
    held: dict[str, list[str]] = {}
    points: dict[str, list[tuple[int, float, str]]] = {}
    for task in options.tasks:
        rows = []
        yardstick = finished(done, task, YARDSTICK)
        for method in METHODS:
            cells = finished(done, task, method)
            if not cells:
                continue
            figures = [cell["test"] for cell in cells]
            row = [method, f"{cells[0]['parameters']:,}", f"{cells[0]['rate']:g}", len(cells)]
            row += [f"{100 * np.mean(figures):.1f}", f"{100 * np.std(figures):.1f}", f"{cells[0]['seconds']:.0f}"]
            points.setdefault(task, []).append((cells[0]["parameters"], float(np.mean(figures)), method))
            if yardstick and method != YARDSTICK:
                whole, low, high = (100 * value for value in interval(task, cells, yardstick))
                row.append(f"{whole:+.1f} ({low:+.1f} to {high:+.1f})")
                few = 0 < cells[0]["parameters"] <= yardstick[0]["parameters"] / 15
                if few and low > -1:
                    held.setdefault(task, []).append(method)
            rows.append([*row, ""][:8])
        if rows:
            n = next(cell["n"] for cell in done.values() if cell["task"] == task)
            print(f"\n{task}: {n:,} training rows, {options.epochs} epochs")
            table(["method", "trained", "rate", "seeds", "test", "SD", "s", "to LoRA, all linear"], rows)
    print(f"\nat most 1/15 of its parameters and above -1 point: {held or 'none'}")
    if options.plot:
        plot(points, options.plot)


def plot(points: Mapping[str, list[tuple[int, float, str]]], path: Path) -> None:
    """Quality against parameters, a panel a task; a head alone stands at the left edge."""
    import altair as alt

    left = 1000
    panels = []
    for task, found in points.items():
        rows = [{"trained": max(n, left), "test": 100 * value, "method": method} for n, value, method in found]
        base = alt.Chart(alt.Data(values=rows), width=260, height=260, title=task)
        ticks = alt.Axis(values=[10**n for n in range(3, 9)], format="~s", grid=False)
        x = alt.X("trained:Q", scale=alt.Scale(type="log"), axis=ticks, title="trained parameters, without the head")
        y = alt.Y("test:Q", scale=alt.Scale(zero=False), title="test")
        scale, legend = alt.Scale(domain=list(METHODS)), alt.Legend(title=None, labelLimit=240)
        color, shape = (kind("method:N", scale=scale, legend=legend) for kind in (alt.Color, alt.Shape))
        panels.append(base.mark_point(filled=True, size=90).encode(x=x, y=y, color=color, shape=shape))
    alt.concat(*panels, columns=3).save(str(path))


if __name__ == "__main__":
    main()
