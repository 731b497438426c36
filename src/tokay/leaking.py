"""A run's tables held against its split: near copies and parts as they stand now, and no verdict over a leak."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokay.copies import copies_of, repeated, repeating
from tokay.errors import TokayError
from tokay.leakage import HELD_OUT, Leakage, find_leaks, reads_of, without_held_out
from tokay.records import Copy, Document, Example, Part, Passage, Query, Read
from tokay.settings import SplitSettings
from tokay.split import parts_of, units_of
from tokay.store import Run

LEAK = "leak.json"
"""In the run folder: what was looked at, and what was found."""

TRAININGS = {"initial": "the mining embedder", "train": "the embedder", "rerank": "the reranker"}
"""Stages that train something, and what that is. ``refit`` is not one: its model is measured on nothing."""

_Table = tuple[Path, str, str, tuple[int, int, int]]
"""Run folder, stage, table, and what changes when the file does."""

LOOKED_AT = ("corpus", "split", "generate", "judge", "examples")
"""Stages whose files are compared with what the manifest says of them."""


def passages_of(run: Run) -> Iterator[Passage]:
    """The run's passages."""
    return run.table("corpus", "passages", Passage)


def parts_of_run(run: Run) -> dict[str, Part]:
    """Passage id -> part, near copies of held-out passages ``out``; a run of before they were looked for is searched.

    Raises:
        TokayError: the split lacks a document.
    """
    return _parts(run, _copies(run))


def _copies(run: Run) -> list[Copy]:
    if run.has("split", "copies"):
        return list(run.table("split", "copies", Copy))
    return copies_of(passages_of(run), units_of(passages_of(run)), _threshold(run))


def _parts(run: Run, copies: Sequence[Copy]) -> dict[str, Part]:
    documents = list(run.table("split", "documents", Document))
    try:
        return parts_of(documents, passages_of(run), copies)
    except KeyError as error:
        raise TokayError(
            f"{run.path}/split gives no part to {error.args[0]!r}, so it is not the split of this corpus; run "
            f"'tokay distill … --out {run.path}' again"
        ) from error


def queries_of_run(run: Run) -> list[Query]:
    """Queries with their parts: the LLM's, and, once it is judged, what of a log some passage answers.

    Those that nearly repeat a query of a stricter part are ``out``.
    """
    names = [("generate", "queries"), *([("judge", "answered")] if run.is_done("judge") else [])]
    tables = [(run.path.absolute(), *name, run.changed(*name)) for name in names]
    gone = _repeating(tuple(tables))
    return [dataclasses.replace(q, part="out") if i in gone else q for i, q in enumerate(_asked(tables))]


@functools.lru_cache(maxsize=2)
def _repeating(tables: tuple[_Table, ...]) -> frozenset[int]:
    """Numbers of the queries that repeat one of a stricter part, searched once for each content of the files."""
    return frozenset(repeating(_asked(tables)))


def _asked(tables: Iterable[_Table]) -> Iterator[Query]:
    return itertools.chain(*(Run(path, writable=False).table(stage, name, Query) for path, stage, name, _ in tables))


def sources_apart(run: Run, sources: Sequence[Any], say: Callable[[str], None]) -> list[Any]:
    """Sources of rows beside a run's own, without rows that hold something of what its verdict is measured on."""
    if not sources:
        return []
    parts = parts_of_run(run)
    queries = [q.text for q in queries_of_run(run) if q.part in HELD_OUT]
    passages = [(p.title, p.text) for p in passages_of(run) if parts[p.passage_id] in HELD_OUT]
    found = []
    for source in sources:
        kept = without_held_out(source.rows, source.texts, queries, passages)
        if gone := len(source.rows) - len(kept):
            say(f"{source.name}: {gone:,} rows hold held-out queries or passages, and are left out")
        if not kept:
            raise TokayError(
                f"every row of the mixture's source {source.name!r} holds something that is held out from the run's "
                "training; leave that source out"
            )
        found.append(dataclasses.replace(source, rows=kept))
    return found


def check_run(
    run: Run, trainings: Mapping[str, Iterable[Read]] | None = None, queries: Sequence[Query] | None = None
) -> Leakage:
    """Hold what trainings were given against the run's split.

    ``leak.json`` tells of those that the run has trained, and of any that must not be.

    Args:
        run: from its judgments on.
        trainings: what is about to be trained, by name; None: what the run's stages have trained.
        queries: with their parts; None: the run's own.

    Raises:
        TokayError: the split is not that of the corpus.
    """
    copies = _copies(run)
    parts = _parts(run, copies)
    found = find_leaks(
        parts,
        queries_of_run(run) if queries is None else queries,
        _given(run) if trainings is None else trainings,
        repeats=repeated(parts, copies),
        altered=[stage for stage in LOOKED_AT if run.is_done(stage) and not run.intact(stage)],
        compared=_threshold(run) > 0,
    )
    if trainings is None or found.leaks:
        run.write_text(LEAK, json.dumps(found.to_json(), indent=1, ensure_ascii=False) + "\n")
    return found


def refuse(
    run: Run, trainings: Mapping[str, Iterable[Read]] | None = None, queries: Sequence[Query] | None = None
) -> Leakage:
    """``check_run``, which goes on only where nothing leaks.

    Raises:
        TokayError: something leaks; or as of ``check_run``.
    """
    found = check_run(run, trainings, queries)
    if found.leaks:
        raise TokayError(refusal(run, found))
    return found


def refusal(run: Run, found: Leakage) -> str:
    """Why there is no verdict, in one sentence."""
    what = found.sentence().removeprefix("leakage: ")
    return (
        f"no verdict over a split that leaks: {what}, such as {found.leaks[0].item_id!r} ({LEAK} lists them); run "
        f"'tokay distill … --out {run.path}' again, which makes anew what does not fit"
    )


def leakage_sentence(run: Run) -> str:
    """What ``leak.json`` says in one line."""
    said: str = json.loads((run.path / LEAK).read_text(encoding="utf-8"))["sentence"]
    return said


def _given(run: Run) -> dict[str, Iterable[Read]]:
    """What each training of the run was given; of a run that did not write it down, its training rows."""
    given: dict[str, Iterable[Read]] = {
        name: run.table(stage, "read", Read) for stage, name in TRAININGS.items() if run.has(stage, "read")
    }
    rows = reads_of(e for e in run.table("examples", "examples", Example) if e.part == "train")
    return given if run.has("train", "read") else {TRAININGS["train"]: rows, **given}


def _threshold(run: Run) -> float:
    path = run.path / "run.toml"
    settings = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return float(settings.get("split", {}).get("near_duplicates", SplitSettings().near_duplicates))
