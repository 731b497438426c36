"""``tokay compare`` and ``tokay runs``: what runs are of, how they differ, and who is better on the queries of both."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokay import open_run
from tokay.cost import costs_of
from tokay.errors import TokayError
from tokay.evaluate.family import compare_all
from tokay.evaluate.qrels import read_labels
from tokay.evaluate.significance import cannot_see, sentence
from tokay.evaluate.verdict import PRIMARY
from tokay.llm.estimate import money
from tokay.models.locate import is_run
from tokay.records import Example, Query, Score
from tokay.settings import Settings, resolve
from tokay.store import Run

DEEPEST = 4
"""Folders below the one that is searched for runs."""
MOST = 10_000
"""Folders that are looked into."""
_RESAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Summary:
    """One run in a line.

    Attributes:
        path: its folder.
        name: its folder's name, or where it lies below the folder that was searched.
        documents, base, llm: as they were named.
        state: finished, or what it has come to, or why it cannot be read.
        finished: when its last stage ended, UTC; empty before the first.
        passages, queries, examples: how many; queries of all parts, and training rows.
        verdict: its sentence, or ``state``.
        primary: tuned against base, as ``evaluate/verdict.json`` has it; None before that.
        cost: what its LLM took, in words.
    """

    path: str
    name: str
    documents: str = ""
    base: str = ""
    llm: str = ""
    state: str = "finished"
    finished: str = ""
    passages: int = 0
    queries: int = 0
    examples: int = 0
    verdict: str = ""
    primary: dict[str, Any] | None = None
    cost: str = ""


@dataclasses.dataclass(frozen=True)
class Compared:
    """Two runs: ``settings`` that differ, and ``common``, the systems of both on the queries of both."""

    a: Summary
    b: Summary
    settings: list[dict[str, Any]]
    common: dict[str, Any]


def summary_of(path: Path, *, name: str = "") -> Summary:
    """A run in a line; one that is not finished says how far it is.

    Raises:
        TokayError: it is no run, or its files are damaged.
    """
    run = open_run(path)
    manifest, settings = run.manifest(), _settings(run)
    done = list(manifest)
    state = "finished" if "evaluate" in done else f"not finished (done: {', '.join(done) or 'nothing'})"
    verdict = run.read_json("evaluate", "verdict") if "evaluate" in done else {}
    counted = {
        what: run.rows(stage, what) if stage in done else 0
        for stage, what in (("corpus", "passages"), ("generate", "queries"))
    }
    examples = run.table("examples", "examples", Example) if "examples" in done else ()
    return Summary(
        path=str(path),
        name=name or path.resolve().name,
        documents=settings.documents,
        base=settings.base,
        llm=settings.llm,
        state=state,
        finished=max((entry["finished"] for entry in manifest.values()), default=""),
        **counted,
        examples=sum(e.part == "train" for e in examples),
        verdict=verdict.get("sentence", state),
        primary=verdict.get("primary"),
        cost=_cost(run),
    )


def find_runs(folder: Path) -> list[Summary]:
    """The runs at or below a folder, the latest first; one that cannot be read says why.

    Raises:
        TokayError: there is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise TokayError(f"{folder} is no folder; expected one that holds runs")
    found = []
    for path in _run_folders(folder):
        name = str(path.relative_to(folder)) if path != folder else path.resolve().name
        try:
            found.append(summary_of(path, name=name))
        except (TokayError, OSError, KeyError, ValueError) as error:
            found.append(Summary(str(path), name, state=f"cannot be read: {error}", verdict=str(error)))
    if not found:
        raise TokayError(
            f"{folder} has no run in it, {DEEPEST} folders deep; expected what 'tokay distill … --out' made"
        )
    return sorted(sorted(found, key=lambda one: one.name), key=lambda one: one.finished, reverse=True)


def compare_runs(a: Path, b: Path) -> Compared:
    """Hold two runs against each other.

    Raises:
        TokayError: one of them is no run, or both are the same.
    """
    first, second = open_run(a), open_run(b)
    if a.resolve() == b.resolve():
        raise TokayError(f"{a} and {b} are the same run; name two")
    names = [a.resolve().name, b.resolve().name]
    if names[0] == names[1]:
        names = [str(a), str(b)]
    one, other = (summary_of(path, name=name) for path, name in zip((a, b), names, strict=True))
    return Compared(one, other, differing(_settings(first), _settings(second)), _common(first, second, names))


def differing(a: Settings, b: Settings) -> list[dict[str, Any]]:
    """Settings with another value: name, and both values."""
    ours, theirs = dict(_flat(a.model_dump(mode="json"))), dict(_flat(b.model_dump(mode="json")))
    return [{"name": name, "a": ours[name], "b": theirs[name]} for name in ours if ours[name] != theirs[name]]


def _common(a: Run, b: Run, names: list[str]) -> dict[str, Any]:
    """The systems that both have, on queries that both have: of the same text, and of the same grades."""
    for run in (a, b):
        if not run.is_done("evaluate"):
            return {"reason": f"{run.path} has not come to its verdict"}
    texts = [{q.query_id: q for q in run.table("generate", "queries", Query)} for run in (a, b)]
    values = [_values(run) for run in (a, b)]
    scored = [{query_id for found in one.values() for query_id in found} for one in values]
    shared = [
        q for q in texts[0] if q in scored[0] & scored[1] and q in texts[1] and texts[0][q].text == texts[1][q].text
    ]
    if len(shared) < 2:
        return {"reason": f"{len(shared)} held-out queries are in both, and at least 2 are needed"}
    systems = [system for system in values[0] if system in values[1]]
    table = {f"{side} {system}": [values[side][system][q] for q in shared] for system in systems for side in (0, 1)}
    pairs = [(f"1 {system}", f"0 {system}") for system in systems]
    groups = [texts[0][q].seed_id or q for q in shared]
    found = compare_all(table, groups=groups, pairs=pairs, resamples=_RESAMPLES)
    rows = [
        {"label": _label(system), "comparison": dataclasses.asdict(pair.comparison), "p_alone": pair.p_alone}
        for system, pair in zip(systems, found, strict=True)
    ]
    notes = []
    if regraded := _regraded(a, b, shared):
        notes.append(f"{regraded:,} of these queries have other grades in the two runs, so figures differ by that, too")
    if a.digest("corpus") != b.digest("corpus"):
        notes.append("The runs do not have the same passages, so each ranked its own")
    widest = max((s for s in systems if s[0] == "tuned"), key=lambda s: s[1], default=None)
    if widest is None:
        return {"reason": "both have no tuned model of one width"}
    primary = found[systems.index(widest)].comparison
    said = sentence(primary, f"tuned of {names[1]}", against=f"tuned of {names[0]}", end=cannot_see(primary))
    return {"queries": len(shared), "systems": rows, "sentence": said, "notes": notes}


def _values(run: Run) -> dict[tuple[str, int], dict[str, float]]:
    """(System, width) -> query id -> nDCG@10 of the run's own verdict."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for score in run.table("evaluate", "scores", Score):
        if score.metric == PRIMARY:
            found.setdefault((score.system, score.dim), {})[score.query_id] = score.value
    return found


def _regraded(a: Run, b: Run, query_ids: list[str]) -> int:
    """How many queries have other gains."""
    both = []
    for run in (a, b):
        beir = str(run.path / "evaluate" / "beir")
        with (run.path / "evaluate" / "beir" / "corpus.jsonl").open(encoding="utf-8") as file:
            ids = {_id_of(line) for line in file}
        both.append(read_labels(beir, beir, known_ids=ids).qrels)
    return sum(both[0].get(q) != both[1].get(q) for q in query_ids)


def _id_of(line: str) -> str:
    import json

    return str(json.loads(line)["_id"])


def _label(system: tuple[str, int]) -> str:
    return f"{system[0]} @ {system[1]}" if system[1] else system[0]


def _settings(run: Run) -> Settings:
    path = run.path / "run.toml"
    if not path.is_file():
        raise TokayError(f"{run.path} has no run.toml, which every start writes; run 'tokay distill … --out' again")
    return resolve({}, config=path)


def _cost(run: Run) -> str:
    costs = costs_of(run)
    if costs.nothing:
        return "nothing"
    tokens = costs.total.prompt + costs.total.completion
    if costs.total.price is None:
        return f"{tokens:,} tokens"
    return f"{money(costs.total.price)} {costs.currency}{'+' if costs.total.unpriced else ''}"


def _flat(data: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        if isinstance(value, dict) and before == "":
            yield from _flat(value, f"{name}.")
        else:
            yield before + name, value


def _run_folders(folder: Path) -> Iterator[Path]:
    """Folders with a manifest; nothing inside of a run is looked at."""
    level, seen = [folder], 0
    for _ in range(DEEPEST + 1):
        below: list[Path] = []
        for path in level:
            seen += 1
            if seen > MOST:
                return
            if is_run(path):
                yield path
                continue
            with contextlib.suppress(OSError), os.scandir(path) as entries:
                inside = (e for e in entries if not e.name.startswith(".") and e.is_dir(follow_symlinks=False))
                below += sorted(Path(entry.path) for entry in inside)
        level = below
