"""Run files as trec_eval, ir-measures and ranx read them: query Q0 passage rank score tag."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tokay.errors import TokayError
from tokay.evaluate.many import Ranked


def file_name(label: str) -> str:
    """A system's file: what no file system minds."""
    return re.sub(r"[^\w.+@-]+", "_", label).strip("_.") + ".trec"


def write_runs(folder: Path, systems: Iterable[Ranked], *, depth: int) -> list[Path]:
    """Write one file a system.

    Scores are written so that float32 reads them back as they were.

    Raises:
        TokayError: an id has a blank, which the format cannot hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for one in systems:
        _check("query", one.orders)
        _check("passage", {p for order in one.orders.values() for p in order})
        path = folder / file_name(one.label)
        while path in paths:  # labels that differ in what a file name cannot hold
            path = path.with_name(f"{path.stem}_.trec")
        with path.open("w", encoding="utf-8") as file:
            for query_id, order in one.orders.items():
                scores = one.run[query_id]
                file.writelines(
                    f"{query_id} Q0 {p} {rank} {scores[p]:.9g} {path.stem}\n" for rank, p in enumerate(order[:depth], 1)
                )
        paths.append(path)
    return paths


def _check(what: str, ids: Iterable[str]) -> None:
    if bad := next((one for one in ids if not one or re.search(r"\s", one)), None):
        raise TokayError(
            f"a TREC run cannot hold the {what} id {bad!r}, which has a blank; rename it, or leave --trec out"
        )
