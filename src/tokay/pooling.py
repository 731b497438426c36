"""Grades for what compared systems found and nobody judged: asked of the run's own kind of judge, and kept.

A shallow pool of one system's candidates favours that system: what the others found counts as not relevant. So the top
of every system goes to the judge, without a word of who found it. Grades are kept in ``RUN/pooled``, and the answers in
the run's ledger, so that no pair is paid for twice.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokay.annotate.annotator import Annotator
from tokay.errors import TokayError
from tokay.llm.client import base_url
from tokay.llm.estimate import Estimate, count, money
from tokay.llm.ledger import LEDGER, spent_in
from tokay.llm.prices import load_prices
from tokay.progress import Progress
from tokay.records import Failure, Judgment, Passage, Query, Rating
from tokay.settings import Settings, resolve
from tokay.store import Run, StageOutput

FOLDER = "pooled"
"""Of a run."""
RUNS_OWN = "run"
"""``--judge`` word for the model that judged the run's candidates."""
_ABOUT = "about"
_TABLES: tuple[tuple[str, type[Any]], ...] = (("judgments", Judgment), ("ratings", Rating), ("failures", Failure))


@dataclasses.dataclass(frozen=True)
class Asking:
    """Whom to ask, and by which settings."""

    settings: Settings
    annotator: Annotator


def asking_of(run: Run, judge: str, *, url: str = "", budget: float | None = None, prices: str | None = None) -> Asking:
    """A live judge for a run.

    Args:
        run: whose settings say how candidates are judged.
        judge: ``run``, ``openai:MODEL``, ``hf:NAME_OR_FOLDER`` or ``replay:FILE``.
        url: of an endpoint; empty: the run's.
        budget: what the run's ledger may come to; None: as the run has it.
        prices: table of prices; None: as the run has it.

    Raises:
        TokayError: it names no live model.
    """
    own = resolve({}, config=run.path / "run.toml")
    llm = own.llm if judge == RUNS_OWN else judge
    if llm.startswith("recorded"):
        raise TokayError(
            f"--judge {judge}: {llm} is a recording, and cannot grade what it has not seen; name a model that judges "
            "now, such as openai:MODEL, or leave --judge out"
        )
    values = {"llm": llm, "llm_url": url or own.llm_url, "budget": budget, "prices": prices, "batch": False}
    settings = resolve(values, config=run.path / "run.toml")
    from tokay.annotate.live import make_annotator

    annotator = make_annotator(llm, url=settings.llm_url, ledger_path=run.path / LEDGER, settings=settings)
    return Asking(settings, annotator)


def pooled_of(run: Run) -> list[Judgment]:
    """The grades of earlier evaluations; none where the run's passages or queries have changed since."""
    folder = run.path / FOLDER
    if not (folder / "judgments.parquet").is_file() or _about(folder) != _version(run):
        return []
    return list(_read(folder, "judgments", Judgment))


def judge_pool(
    run: Run,
    pool: Mapping[str, Sequence[str]],
    queries: Mapping[str, Query],
    passages: Mapping[str, Passage],
    asking: Asking,
    *,
    count_tokens: Callable[[str], int],
    confirm: Callable[[Sequence[str]], bool],
    progress: Progress,
) -> list[Judgment]:
    """Have pairs judged, and keep what came of it.

    Args:
        run: finished; it is locked meanwhile.
        pool: query id -> passage ids, in the order in which they are shown.
        queries: by id.
        passages: by id.
        asking: whom.
        count_tokens: for the estimate.
        confirm: asked with the plan, in words, where text leaves this machine.
        progress: where to report.

    Returns:
        All grades that are kept, those of earlier evaluations among them.

    Raises:
        TokayError: it was not confirmed, the budget is spent, or no request can succeed.
    """
    shown = asking.settings.mine.candidates
    items = [(queries[q], [passages[p] for p in part]) for q, ids in pool.items() for part in _parts(ids, shown)]
    if not items:
        return pooled_of(run)
    lines = plan_lines(run, items, asking, count_tokens)
    for line in lines:
        progress.say(line)
    if asking.annotator.paid and not confirm(lines):
        raise TokayError("nothing was asked of the judge: the plan was not confirmed (--yes confirms it)")
    found: dict[type, list[Any]] = {Judgment: [], Rating: [], Failure: []}
    with Run(run.path, writable=True):
        progress.start("judging what nobody judged", len(items))
        for item in asking.annotator.judge(iter(items), progress=progress):
            found[type(item)].append(item)
        # which passage is best was asked of a part of a query's candidates, so it says nothing
        found[Judgment] = [dataclasses.replace(j, best=False) for j in found[Judgment]]
        if found[Failure]:
            progress.say(
                f"{len(found[Failure]):,} answers of the judge could not be used, first: {found[Failure][0].reason}"
            )
        _keep(run, found)
    return pooled_of(run)


def plan_lines(
    run: Run, items: Sequence[tuple[Query, Sequence[Passage]]], asking: Asking, count_tokens: Callable[[str], int]
) -> list[str]:
    """What judging takes, in words."""
    pairs = sum(len(passages) for _, passages in items)
    said = [f"{pairs:,} pairs of {len({q.query_id for q, _ in items}):,} queries were found and not judged"]
    settings, annotator = asking.settings, asking.annotator
    if not annotator.paid:
        return [*said, f"{annotator.name} is asked on this machine: nothing leaves it or is paid"]
    requests = annotator.sample_requests(
        (),
        [p for _, passages in items for p in passages][:256],
        per_passage=0,
        candidates=max(1, round(pairs / len(items))),
        own=[query for query, _ in items],
    )
    estimate = Estimate(
        count(requests, count_tokens), load_prices(settings.prices), concurrency=settings.calls.concurrency
    )
    said += [*estimate.lines(), *([annotator.assumes] if annotator.assumes else [])]
    spent = sum(row.price or 0.0 for row in spent_in(run.path / LEDGER))
    if settings.budget:
        said.append(
            f"budget: {money(settings.budget)} {estimate.table.currency}, of which the run has spent {money(spent)}; "
            "it stops before it would be passed"
        )
    return [
        *said,
        f"to {', '.join(estimate.prices)} at {base_url(settings.llm_url)} goes the text of these queries and passages",
    ]


def _parts(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (ids[at : at + size] for at in range(0, len(ids), size))


def _keep(run: Run, found: Mapping[type, Sequence[Any]]) -> None:
    """Add to what is kept, in one step."""
    folder, temporary = run.path / FOLDER, run.path / f".tmp-{FOLDER}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    out = StageOutput(temporary)
    valid = folder.is_dir() and _about(folder) == _version(run)
    for name, record in _TABLES:
        earlier = list(_read(folder, name, record)) if valid else []
        out.write(name, record, [*earlier, *found[record]])
    out.write_json(_ABOUT, _version(run))
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


def _version(run: Run) -> dict[str, str]:
    """Of the texts that grades are about."""
    return {stage: run.digest(stage) for stage in ("corpus", "generate")}


def _about(folder: Path) -> Any:
    import json

    path = folder / f"{_ABOUT}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _read(folder: Path, name: str, record: type[Any]) -> Iterator[Any]:
    import pyarrow.parquet as pq

    from tokay.records import from_batches

    return from_batches(record, pq.ParquetFile(folder / f"{name}.parquet").iter_batches())
