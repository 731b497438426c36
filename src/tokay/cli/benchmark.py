"""``tokay benchmark``: models on standard sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from tokay.cli.screen import Backends, Screen, escape, one_of, out, print_wide
from tokay.errors import TokayError

if TYPE_CHECKING:
    from tokay.evaluate.benchmark import Contestant, Result
    from tokay.evaluate.tasks import Task

EXAMPLES = (
    "\b\ntokay benchmark minilm runs/docs --tasks data/stsb --tasks data/scifact --out results\n"
    "tokay benchmark runs/docs --tasks clustering:data/banking77 --dim 128\n"
    "tokay benchmark runs/docs --tasks 'mteb:MTEB(eng, v2)' --out results"
)


def benchmark(
    models: Annotated[
        list[str],
        typer.Argument(help="Runs, model folders, minilm, or Hub names.", metavar="MODEL…"),
    ],
    tasks: Annotated[
        list[str],
        typer.Option(
            "--tasks",
            help="A folder (docs/benchmarks.md), CATEGORY:FOLDER, or mteb:TASK with data of the Hub. Repeatable.",
        ),
    ],
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="A folder for results in MTEB's layout, one file a task.")
    ] = None,
    split: Annotated[str, typer.Option(help="Of folders; default: test, else dev, validation or all.")] = "",
    dim: Annotated[int | None, typer.Option(min=1, help="A Matryoshka width; default: all of it.")] = None,
    max_tokens: Annotated[int, typer.Option(min=0, help="Cut of every text; 0: the model's own.")] = 0,
    samples_per_label: Annotated[
        int, typer.Option(min=0, help="Few-shot texts of a class in classifications; 0: as MTEB has it, mostly 8.")
    ] = 0,
    backend: Backends = None,
) -> None:
    """Measure models on standard sets, by MTEB's categories and rules, beside what is published of Gecko."""
    from tokay.evaluate.benchmark import open_contestant
    from tokay.evaluate.taskfolders import read_task, task_path
    from tokay.models.embedder import BACKENDS
    from tokay.store import fingerprint

    chosen = one_of(backend or "torch", "--backend", BACKENDS)
    assert chosen is not None  # there is a default
    screen = Screen()
    results: list[Result] = []
    with screen.bars:
        screen.start("reading", None)
        local = {t: read_task(t, split=split, samples_per_label=samples_per_label) for t in tasks if not _of_mteb(t)}
        _check_names(local)
        revisions = {t: fingerprint(task_path(t)) for t in local}
        of_mteb = [t for t in tasks if _of_mteb(t)]
        if of_mteb:
            from tokay.evaluate.mteb import TASKS, find_tasks, run_mteb

            for name in of_mteb:
                find_tasks(name.removeprefix(TASKS))
        for name in models:
            model = open_contestant(name, backend=chosen, dim=dim, max_tokens=max_tokens)
            screen.say(f"{model.label}: texts are read to {model.embedder.config.max_tokens} tokens")
            for spec, task in local.items():
                results.append(_measured(model, task, out_folder, revisions[spec], screen))
            for spec in of_mteb:
                screen.start(f"{model.label}: {spec}", None)
                results += run_mteb(model, spec.removeprefix(TASKS), out=out_folder)
    _print_results(results)
    _print_published(results)
    if out_folder is not None:
        out.print(f"results: {escape(str(out_folder))}/results", soft_wrap=True)


def _measured(model: Contestant, task: Task, out_folder: Path | None, revision: str, screen: Screen) -> Result:
    from tokay.evaluate.benchmark import run_task, write_result

    result = run_task(model, task, progress=screen)
    if out_folder is not None:
        write_result(out_folder, model, result, dataset_revision=revision)
    return result


def _print_results(results: Sequence[Result]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("model", "task", "category", "split", "size", "metric", "score", "s"):
        table.add_column(name, justify="right" if name in ("score", "s") else "left", no_wrap=name in ("score", "s"))
    for r in results:
        cells = (r.model, r.task, r.category, r.split, r.size, r.metric)
        table.add_row(*map(escape, cells), f"{100 * r.main:.2f}", f"{r.seconds:.0f}")
    print_wide(table)
    for task, left_out in {r.task: r.left_out for r in results}.items():
        if left_out:
            said = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
            out.print(escape(f"{task}: not used: {said}"), soft_wrap=True)


def _print_published(results: Sequence[Result]) -> None:
    """Means by category beside Gecko's, which are over all sets of MTEB's."""
    from tokay.evaluate.published import GECKO, averages

    table = Table(title="Means by category, in points", title_justify="left", box=None, pad_edge=False)
    heads = ("model", "category", "mean", "sets", "of MTEB's", *GECKO)
    for n, name in enumerate(heads):
        table.add_column(name, justify="left" if n < 2 else "right")
    partial = False
    for model in dict.fromkeys(r.model for r in results):
        for mean in averages((r.category, r.task, r.main) for r in results if r.model == model):
            partial |= not mean.comparable
            published = (f"{points:.2f}" for points in mean.gecko)
            table.add_row(
                escape(model),
                mean.category,
                f"{mean.points:.2f}",
                str(mean.sets),
                f"{mean.theirs} of {mean.of}",
                *published,
            )
    print_wide(table)
    if partial:
        out.print(
            "Gecko's columns are averages over all sets of a category (2403.20327, table 1); where fewer, or others, "
            "were measured here, the two cannot be compared.",
            soft_wrap=True,
        )


def _of_mteb(task: str) -> bool:
    return task.startswith("mteb:")


def _check_names(tasks: dict[str, Task]) -> None:
    """Refuse two sets of one name, whose results would be one file."""
    seen: dict[str, str] = {}
    for spec, task in tasks.items():
        if task.name in seen:
            raise TokayError(f"--tasks {seen[task.name]} and {spec} are both called {task.name}; rename a folder")
        seen[task.name] = spec
