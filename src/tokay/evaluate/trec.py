"""Run files as trec_eval, ir-measures and ranx read them: query Q0 passage rank score tag."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from tokay.evaluate.many import Ranked


def file_name(label: str) -> str:
    """A system's file: what no file system minds."""
    return (re.sub(r"[^\w.+@-]+", "_", label).strip("_.") or "system") + ".trec"


def write_runs(folder: Path, systems: Iterable[Ranked], *, depth: int) -> list[Path]:
    """Write one file a system.

    Scores are written so that float32 reads them back as they were. A blank in an id, which the format cannot hold, is
    written as in a URL.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for one in systems:
        path = folder / file_name(one.label)
        while path in paths:  # labels that differ in what a file name cannot hold
            path = path.with_name(f"{path.stem}_.trec")
        with path.open("w", encoding="utf-8") as file:
            for query_id, order in one.orders.items():
                scores = one.run[query_id]
                file.writelines(
                    f"{word(query_id)} Q0 {word(p)} {rank} {scores[p]:.9g} {path.stem}\n"
                    for rank, p in enumerate(order[:depth], 1)
                )
        paths.append(path)
    return paths


def word(one: str) -> str:
    """An id without blanks."""
    return one if one.split() == [one] else re.sub(r"\s", lambda blank: quote(blank[0]), one)
