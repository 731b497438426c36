"""Claim: the default recipe is no worse than any simpler one that we tried, and better than the plain prototype.

Trains each recipe on the training rows of a finished run and measures it on that run's dev or test queries, all in
one process. Choices were made on --part dev (docs/log.md); --part test is for the table in the README.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from common import arguments, table
from tokay import open_run
from tokay.evaluate.metrics import evaluate_run
from tokay.evaluate.significance import compare
from tokay.evaluate.verdict import Side, qrels_of
from tokay.examples import make_examples
from tokay.models.embedder import Embedder
from tokay.models.format import choose_format
from tokay.records import Candidate, Document, Judgment, Passage, Query
from tokay.search.hybrid import as_run
from tokay.settings import ExampleSettings, Settings, TrainSettings
from tokay.split import parts_of
from tokay.store import Run
from tokay.train.embedder import interpolate, matryoshka_dims, train_embedder
from tokay.vectors import with_cut

PLAIN = {"learning_rate": 5e-5, "batch_size": 64, "epochs": 2, "warmup": 0.0, "same_tower": "never"}
SEEDS = {"relabel": False}

RECIPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "prototype": ({**PLAIN, "dims": (), "mask_false_negatives": False, "dropout": 0.1}, SEEDS),
    "prototype, no dropout": ({**PLAIN, "dims": (), "mask_false_negatives": False}, SEEDS),
    "default": ({}, {}),
    "seeds as positives, no mask": ({"mask_false_negatives": False}, SEEDS),
    "same tower": ({"same_tower": "always"}, {}),
    "one hard negative (last)": ({}, {"negatives": 1}),
    "one hard negative (random)": ({}, {"negatives": 1, "negative_choice": "random"}),
    "Gecko's format": ({"format": "gecko"}, {}),
    "full width only": ({"dims": ()}, {}),
    "embeddings trained": ({"freeze_embeddings": False}, {}),
    "dropout 0.1": ({"dropout": 0.1}, {}),
    "batch 64": ({"batch_size": 64}, {}),
    "batch 256": ({"batch_size": 256}, {}),
    "rate 5e-5": ({"learning_rate": 5e-5}, {}),
    "rate 2e-4": ({"learning_rate": 2e-4}, {}),
    "1 epoch": ({"epochs": 1}, {}),
    "3 epochs": ({"epochs": 3}, {}),
    "4 epochs": ({"epochs": 4}, {}),
    "temperature 0.02": ({"temperature": 0.02}, {}),
    "temperature 0.1": ({"temperature": 0.1}, {}),
    "soup 0.7": ({"soup": 0.7}, {}),
}
"""Changes of the train and the examples settings, by name; all but the prototypes are the default with one change."""


def main() -> None:
    """Train and measure the recipes that --recipes names."""
    parser = arguments(__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a finished run")
    parser.add_argument("--part", choices=("dev", "test"), default="dev")
    parser.add_argument("--recipes", default="prototype;default", help=f"separated by ';': {'; '.join(RECIPES)}")
    options = parser.parse_args()
    if not (options.run / "manifest.json").is_file():
        print(f"bench_recipes: skipped, {options.run} is no finished run (make demo makes one)", file=sys.stderr)
        return
    names = [name.strip() for name in options.recipes.split(";")]
    run = open_run(options.run)
    base = with_cut(Embedder.load("minilm"), run.read_json("vectors", "cut")["cut"])
    values, seconds = {"base": measure(run, base, options.part)}, {"base": 0.0}
    for name in names:
        began = time.perf_counter()
        tuned = train(run, base, *RECIPES[name])
        seconds[name] = time.perf_counter() - began
        values[name] = measure(run, tuned, options.part)
        print(f"{name}: {np.mean(values[name][384]):.4f} ({seconds[name]:.0f} s)", file=sys.stderr, flush=True)
    groups = [q.seed_id for q in asked(run, options.part)[0]]
    rows = []
    for name, by_dim in values.items():
        cells: list[object] = [name, f"{seconds[name]:.0f}"]
        for dim in (384, 128):
            mine, old = by_dim[dim], values["base"][dim]
            cells += [f"{np.mean(mine):.4f}", f"{np.mean(mine) / np.mean(old) - 1:+.1%}"]
        other = compare(by_dim[384], values[names[0]][384], groups=groups)
        cells.append(f"{other.difference:+.3f} ({other.low:+.3f} to {other.high:+.3f})")
        rows.append(cells)
    print(f"{options.run}, {options.part}: {len(groups)} queries")
    table(["recipe", "train s", "nDCG@10 at 384", "to base", "at 128", "to base", f"384 against {names[0]}"], rows)


def train(run: Run, base: Embedder, changes: dict[str, Any], choices: dict[str, Any]) -> Embedder:
    """A tuned copy of the base by one recipe."""
    settings = TrainSettings.model_validate(changes)
    passages = {p.passage_id: p for p in run.table("corpus", "passages", Passage)}
    examples = make_examples(
        run.table("generate", "queries", Query),
        run.table("mine", "candidates", Candidate),
        run.table("judge", "judgments", Judgment),
        parts_of(list(run.table("split", "documents", Document)), passages.values()),
        ExampleSettings.model_validate(choices),
    )
    rows = [e for e in examples if e.part == "train"]
    tuned = base.clone()
    dims = matryoshka_dims(settings.dims, base.width) if settings.dims else ()
    prompts = choose_format(settings.format, base.config.prompts)
    tuned.config = dataclasses.replace(base.config, normalize=True, prompts=prompts, dims=dims)
    for _ in train_embedder(tuned, rows, {i: (p.title, p.text) for i, p in passages.items()}, settings):
        pass
    interpolate(tuned, base, settings.soup)
    return tuned


def asked(run: Run, part: str) -> tuple[list[Query], dict[str, dict[str, int]]]:
    """The queries of a part that something answers, and their labels."""
    settings = Settings(documents="").evaluate
    queries = list(run.table("generate", "queries", Query))
    qrels, _ = qrels_of(queries, run.table("judge", "judgments", Judgment), relevant_grade=settings.relevant_grade)
    chosen = [q for q in queries if q.part == part and q.query_id in qrels]
    return chosen, {q.query_id: qrels[q.query_id] for q in chosen}


def measure(run: Run, model: Embedder, part: str) -> dict[int, list[float]]:
    """Width -> nDCG@10 of each query."""
    queries, qrels = asked(run, part)
    passages = list(run.table("corpus", "passages", Passage))
    vectors = model.encode([p.text for p in passages], titles=[p.title for p in passages])
    side = Side(model.encode([q.text for q in queries], kind="query"), vectors)
    ids = [p.passage_id for p in passages]
    found = {dim: as_run(side.rank(10, dim), list(qrels), ids) for dim in (384, 128)}
    return {dim: list(evaluate_run(qrels, result)["ndcg@10"].values()) for dim, result in found.items()}


if __name__ == "__main__":
    main()
