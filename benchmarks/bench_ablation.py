"""Claim: each step of the default recipe was kept or left because of a measurement, and here are the others.

Trains recipes on the training rows of a finished run and measures each on that run's dev queries, or on labelled
queries of one's own, at every width, and on STS pairs. A recipe and seed is a line of --out as soon as it is done: what
stands there is not done again, so that the table survives being cut.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import arguments, table
from tokay import open_run
from tokay.evaluate.metrics import evaluate_run
from tokay.evaluate.qrels import read_labels
from tokay.evaluate.significance import compare
from tokay.evaluate.sts import Pairs, read_sts, sts_spearman
from tokay.evaluate.verdict import Side, qrels_of
from tokay.examples import make_examples
from tokay.leaking import parts_of_run, queries_of_run
from tokay.models.torch_embedder import TorchEmbedder
from tokay.progress import Silent
from tokay.records import Candidate, Example, Judgment, Passage, Query
from tokay.search.hybrid import as_run
from tokay.settings import ExampleSettings, TrainSettings
from tokay.store import Run
from tokay.train.mixture import Source, read_mixture
from tokay.train.tune import tune
from tokay.trainset import dev_set_of, run_source, taught_source
from tokay.vectors import with_cut

Changes = dict[str, Any]

HARD = {"negatives": 1, "negative_choice": "random"}
DISTIL = {"distil": "kl", "distil_weight": 0.5}

START: tuple[Changes, Changes] = ({"epochs": 2}, {"positives": 1, "negatives": 0})
"""What every recipe changes: the defaults of before there were any of these measurements."""

LADDER: dict[str, tuple[Changes, Changes]] = {
    "seeds": ({"mask_false_negatives": False}, {"relabel": False}),
    "+ relabelled positives": ({"mask_false_negatives": False}, {}),
    "+ false-negative mask": ({}, {}),
    "+ hard negative": ({}, HARD),
    "+ graded distillation": (DISTIL, HARD),
    "+ same tower": ({**DISTIL, "same_tower": "always"}, HARD),
    "+ hardness": ({**DISTIL, "same_tower": "always", "hardness": 5.0}, HARD),
    "+ spread-out": ({**DISTIL, "same_tower": "always", "hardness": 5.0, "spread_out": 0.1}, HARD),
    "+ soup": ({**DISTIL, "same_tower": "always", "hardness": 5.0, "spread_out": 0.1, "soup": "auto"}, HARD),
}
"""Each with all that stands above it."""

SINGLE: dict[str, tuple[Changes, Changes]] = {
    "graded distillation": (DISTIL, {}),
    "margin distillation": ({"distil": "margin", "distil_weight": 5.0}, {}),
    "distillation, 8 candidates": ({**DISTIL, "distil_candidates": 8}, {}),
    "distillation 1": ({"distil": "kl"}, {}),
    "margin mask 0.1": ({"false_negative_margin": 0.1}, {}),
    "all rows' hard negatives": ({"all_negatives": True}, HARD),
    "two positives": ({}, {"positives": 2}),
    "1 epoch": ({"epochs": 1}, {}),
    "3 epochs": ({"epochs": 3}, {}),
    "4 epochs": ({"epochs": 4}, {}),
    "batch 64": ({"batch_size": 64}, {}),
    "batch 256": ({"batch_size": 256}, {}),
    "batch 1024": ({"batch_size": 1024, "epochs": 4}, {}),
    "temperature 0.02": ({"temperature": 0.02}, {}),
    "temperature 0.1": ({"temperature": 0.1}, {}),
    "rate 5e-5": ({"learning_rate": 5e-5}, {}),
    "rate 2e-4": ({"learning_rate": 2e-4}, {}),
    "embeddings trained": ({"freeze_embeddings": False}, {}),
    "3 layers frozen": ({"freeze_layers": 3}, {}),
    "LoRA": ({"adapter": "lora", "learning_rate": 1e-3}, {}),
    "3 runs averaged": ({"runs": 3}, {}),
    "soup 0.7": ({"soup": 0.7}, {}),
    "slerp 0.7": ({"soup": 0.7, "merge": "slerp"}, {}),
    "titles in the mixture": ({"batch_size": 128, "mixture": "titles"}, {}),
    "fp32": ({"precision": "fp32"}, {}),
    "4 epochs, hard negative, distillation": ({**DISTIL, "epochs": 4}, HARD),
    "4 epochs, hard negative, distillation, titles": ({**DISTIL, "epochs": 4, "mixture": "titles"}, HARD),
    "4 epochs, distillation": ({**DISTIL, "epochs": 4}, {}),
    "3 epochs, hard negative": ({"epochs": 3}, HARD),
    "3 epochs, hard negative, two positives": ({"epochs": 3}, {**HARD, "positives": 2}),
    "3 epochs, hard negative, two positives, soup": ({"epochs": 3, "soup": "auto"}, {**HARD, "positives": 2}),
    "prototype": (
        {
            "learning_rate": 5e-5,
            "batch_size": 64,
            "warmup": 0.0,
            "dims": (384,),
            "mask_false_negatives": False,
            "dropout": 0.1,
        },
        {"relabel": False},
    ),
}
"""The third rung with one change, unless the name says more. Three epochs, a hard negative and two positives became the
default."""

HOT: Changes = {"learning_rate": 1e-3, "epochs": 3}

FORGETTING: dict[str, tuple[Changes, Changes]] = {
    "hot": (HOT, {}),
    "hot, soup": ({**HOT, "soup": "auto"}, {}),
    "hot, slerp": ({**HOT, "soup": "auto", "merge": "slerp"}, {}),
    "hot, soup 0.5": ({**HOT, "soup": 0.5}, {}),
    "hot, 3 runs averaged": ({**HOT, "runs": 3}, {}),
    "hot, replay": ({**HOT, "mixture": "replay"}, {}),
    "hot, matching": ({**HOT, "mixture": "matching"}, {}),
}
"""Means against forgetting, at ten times the default rate: at the default there was nothing to prevent."""

MIXTURES = {
    "replay": 'name = "rte"\nkind = "nli"\npath = "{data}/rte"\nshare = 0.2',
    "matching": 'name = "cola"\nkind = "texts"\npath = "{data}/cola"\nshare = 0.2',
}
"""General text from --data: a fifth of the rows of every epoch."""

DEFAULT: tuple[Changes, Changes] = ({"epochs": 3}, {**HARD, "positives": 2})
TAUGHT: Changes = {"distil": "kl", "distil_candidates": 8}

DISTILLATION: dict[str, tuple[Changes, Changes]] = {
    "default": DEFAULT,
    "default, grades": ({**DEFAULT[0], **TAUGHT, "distil_weight": 0.5}, DEFAULT[1]),
    "default, grades, weight 2": ({**DEFAULT[0], **TAUGHT, "distil_weight": 2.0}, DEFAULT[1]),
    "default, teacher": ({**DEFAULT[0], **TAUGHT, "distil_weight": 0.5, "distil_teacher": "--teacher"}, DEFAULT[1]),
    "default, teacher, weight 2": (
        {**DEFAULT[0], **TAUGHT, "distil_weight": 2.0, "distil_teacher": "--teacher"},
        DEFAULT[1],
    ),
    "default, teacher, weight 10": (
        {**DEFAULT[0], **TAUGHT, "distil_weight": 10.0, "distil_teacher": "--teacher"},
        DEFAULT[1],
    ),
}
"""KL over eight candidates beside InfoNCE, from the judge's grades or from the cross-encoder that --teacher names."""

RECIPES = LADDER | SINGLE | FORGETTING | DISTILLATION


@dataclasses.dataclass(frozen=True)
class Bench:
    """A run to train on, and what is asked of the result."""

    run: Run
    base: TorchEmbedder
    passages: list[Passage]
    queries: Mapping[str, str]
    groups: list[str]
    qrels: Mapping[str, Mapping[str, int]]
    sts: Pairs | None
    hold_out: bool
    data: Path
    teacher: str = ""

    def measure(self, model: TorchEmbedder) -> dict[str, Any]:
        """nDCG@10 of each query at each width, and the STS correlation."""
        vectors = model.encode([p.text for p in self.passages], titles=[p.title for p in self.passages])
        side = Side(model.encode(list(self.queries.values()), kind="query"), vectors)
        ids = [p.passage_id for p in self.passages]
        values = {}
        for dim in (384, 256, 128, 64):
            found = as_run(side.rank(10, dim), list(self.queries), ids)
            values[str(dim)] = list(evaluate_run(self.qrels, found)["ndcg@10"].values())
        return {"ndcg@10": values, "sts": sts_spearman(model, self.sts) if self.sts else float("nan")}

    def train(self, recipe: str, seed: int) -> tuple[TorchEmbedder, dict[str, Any]]:
        """A tuned copy of the base, and what training said of itself."""
        changes, choices = RECIPES[recipe]
        kind = changes.get("mixture", "")
        if changes.get("distil_teacher"):
            changes = {**changes, "distil_teacher": self.teacher}
        settings = TrainSettings.model_validate({**START[0], **changes, "mixture": "", "seed": seed})
        rows = list(self.rows(ExampleSettings.model_validate({**START[1], **choices, "seed": seed})))
        beside = [self.titles()] if kind == "titles" else self.mixture(kind) if kind else []
        own = run_source(rows, self.passages, settings)
        if settings.distil_teacher:
            own = taught_source(self.run, own, settings, Silent())
        sources = [own, *beside]
        dev = dev_set_of(self.run, queries_of_run(self.run), relevant_grade=2)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            done = tune(
                self.base,
                sources,
                settings,
                model=path / "model",
                logs=path,
                checkpoints=None,
                progress=Silent(),
                dev=dev,
            )
            return TorchEmbedder.load(path / "model"), dataclasses.asdict(done)

    def rows(self, choices: ExampleSettings) -> Iterator[Example]:
        """The run's training rows; all rows where nothing is held out."""
        examples = make_examples(
            queries_of_run(self.run),
            self.run.table("mine", "candidates", Candidate),
            self.run.table("judge", "judgments", Judgment),
            parts_of_run(self.run) if self.hold_out else None,
            choices,
        )
        return (e for e in examples if e.part == "train" or not self.hold_out)

    def mixture(self, kind: str) -> list[Source]:
        """General text."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "mixture.toml"
            path.write_text(f"[[source]]\n{MIXTURES[kind].format(data=self.data.resolve())}\n", encoding="utf-8")
            return list(read_mixture(path))

    def titles(self) -> Source:
        """Title and text of the passages of training documents, as another source: half of the rows of an epoch."""
        parts = parts_of_run(self.run)
        chosen = [p for p in self.passages if (parts[p.passage_id] == "train" or not self.hold_out) and p.title]
        texts = {f"titles/{p.passage_id}": ("", p.text) for p in chosen}
        rows = [
            Example(f"titles/{p.passage_id}", "", p.title, i, i, [], [i], [], [], False, "train")
            for p, i in zip(chosen, texts, strict=True)
        ]
        return Source("titles", rows, texts, share=0.5)


def main() -> None:
    """Train and measure the recipes that --recipes names, and print the table of all that --out has."""
    parser = arguments(__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a finished run to train on")
    parser.add_argument("--part", choices=("dev", "test"), default="dev")
    parser.add_argument("--labels", type=Path, help="a BEIR folder with queries to measure on, in place of --part")
    parser.add_argument("--split", default="train", help="of --labels")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation.jsonl"))
    parser.add_argument(
        "--recipes",
        default="ladder",
        help=f"ladder, single, forgetting, distillation, or recipes by ';': {'; '.join(RECIPES)}",
    )
    parser.add_argument("--teacher", default="", help="a cross-encoder's folder, for recipes with a teacher")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--against", default="+ false-negative mask")
    options = parser.parse_args()
    if not (options.run / "manifest.json").is_file():
        print(f"bench_ablation: skipped, {options.run} is no finished run (make demo makes one)", file=sys.stderr)
        return
    of = {"ladder": LADDER, "single": SINGLE, "forgetting": FORGETTING, "distillation": DISTILLATION, "": {}}
    names = list(of.get(options.recipes, ())) or [name.strip() for name in options.recipes.split(";") if name.strip()]
    if unknown := [name for name in names if name not in RECIPES]:
        parser.error(f"unknown recipe {unknown[0]!r}; known: {'; '.join(RECIPES)}")
    if not options.teacher and (taught := [name for name in names if RECIPES[name][0].get("distil_teacher")]):
        parser.error(f"the recipe {taught[0]!r} needs --teacher")
    bench = open_bench(options)
    done = read(options.out)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seeds):
        for name in ["base", *names]:
            if (name, seed if name != "base" else 0) in done:
                continue
            began = time.perf_counter()
            model, story = (bench.base, {}) if name == "base" else bench.train(name, seed)
            trained = time.perf_counter() - began
            entry = {"recipe": name, "seed": seed, "seconds": trained, **bench.measure(model), "story": story}
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            done[name, seed] = entry
            print(f"{name}, seed {seed}: {np.mean(entry['ndcg@10']['384']):.4f} ({trained:.0f} s)", file=sys.stderr)
    show(done, bench, options)


def open_bench(options: Any) -> Bench:
    """The run with the queries that are asked."""
    run = open_run(options.run)
    base = with_cut(TorchEmbedder.load("minilm"), run.read_json("vectors", "cut")["cut"])
    passages = list(run.table("corpus", "passages", Passage))
    sts = (
        options.data / "stsb" / ("test.parquet" if options.part == "test" else "dev.parquet") if options.data else None
    )
    pairs = read_sts(sts) if sts and sts.is_file() else None
    if options.labels:
        known = {p.passage_id for p in passages}
        labels = read_labels(str(options.labels), str(options.labels), known_ids=known, split=options.split)
        return Bench(
            run,
            base,
            passages,
            labels.queries,
            list(labels.queries),
            labels.qrels,
            pairs,
            False,
            options.data,
            options.teacher,
        )
    queries = list(run.table("generate", "queries", Query))
    qrels, _ = qrels_of(queries, run.table("judge", "judgments", Judgment), relevant_grade=2)
    asked = [q for q in queries if q.part == options.part and q.query_id in qrels]
    texts = {q.query_id: q.text for q in asked}
    return Bench(
        run,
        base,
        passages,
        texts,
        [q.seed_id for q in asked],
        {q: qrels[q] for q in texts},
        pairs,
        True,
        options.data,
        options.teacher,
    )


def read(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """What is done already; half a line of a killed process is not."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    entries = [json.loads(line) for line in lines if line.endswith("}")]
    return {(entry["recipe"], entry["seed"]): entry for entry in entries}


def show(done: Mapping[tuple[str, int], dict[str, Any]], bench: Bench, options: Any) -> None:
    """One line a recipe: means over seeds, and the difference to one of them with its interval."""
    base = done["base", 0]
    head = [
        "recipe",
        "seeds",
        "train s",
        *(f"@{d}" for d in base["ndcg@10"]),
        "to base",
        "STS",
    ]
    against = mean(done, options.against)
    if len(against):
        head.append(f"against {options.against}")
    rows = []
    for name in dict.fromkeys(name for name, _ in done):
        own = [entry for (other, _), entry in done.items() if other == name]
        values = mean(done, name)
        widths = [f"{np.mean([np.mean(e['ndcg@10'][d]) for e in own]):.4f}" for d in base["ndcg@10"]]
        gain = np.mean(values) / np.mean(base["ndcg@10"]["384"]) - 1
        row = [name, len(own), f"{np.mean([e['seconds'] for e in own]):.0f}", *widths, f"{gain:+.1%}"]
        row.append(f"{100 * (np.mean([e['sts'] for e in own]) - base['sts']):+.2f}")
        if len(against):
            c = compare(values, against, groups=bench.groups)
            row.append(f"{c.difference:+.4f} ({c.low:+.4f} to {c.high:+.4f})")
        rows.append(row)
    print(f"{options.run}, {options.labels or options.part}: {len(bench.queries)} queries; STS: points lost or gained")
    table(head, rows)


def mean(done: Mapping[tuple[str, int], dict[str, Any]], name: str) -> Sequence[float]:
    """nDCG@10 of each query at the full width, the mean over seeds."""
    found = [entry["ndcg@10"]["384"] for (other, _), entry in done.items() if other == name]
    return np.mean(found, axis=0).tolist() if found else []


if __name__ == "__main__":
    main()
