"""A query as a person types it, by base and tuned side by side, and what tuning moved."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from typing import Any

from tokay.errors import TokayError
from tokay.explore.shown import short
from tokay.explore.story import passage_at, place_of
from tokay.finder import Ranked, RunSearcher
from tokay.models.locate import is_hub_name
from tokay.store import Run

MOST = 50


class Search:
    """The run's models, loaded by the first search; where they cannot be, why."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._lock = threading.Lock()
        self._searcher: RunSearcher | None = None
        self.off = _missing(run)

    def find(self, db: sqlite3.Connection, text: str, *, top: int, hybrid: bool) -> dict[str, Any]:
        """The first ``top`` of both, each with its move.

        Raises:
            TokayError: there can be no search here, or the query is empty.
        """
        if self.off:
            raise TokayError(self.off)
        with self._lock:  # one query at a time: encoding takes all cores anyway
            if self._searcher is None:
                try:
                    self._searcher = RunSearcher(self.run)
                except TokayError as error:
                    self.off = f"search is off: {error}"
                    raise TokayError(self.off) from error
            ranked = self._searcher.rank(text, hybrid=hybrid)
        return {**compared(db, ranked["base"], ranked["tuned"], top), "use": self._searcher.verdict["use"]}


def compared(db: sqlite3.Connection, base: Sequence[Ranked], tuned: Sequence[Ranked], top: int) -> dict[str, Any]:
    """Both lists; an entry's ``move`` is how many places tuning moved it up, None where the other list ends before it.

    ``gone`` has the base's first ``top`` that are not among the tuned model's.
    """
    place = {name: {n: rank for rank, (n, _) in enumerate(found, 1)} for name, found in (("b", base), ("t", tuned))}

    def entry(n: int, score: float) -> dict[str, Any]:
        passage = passage_at(db, n)
        assert passage is not None  # vectors and passages are of one run
        before, after = place["b"].get(n), place["t"].get(n)
        move = before - after if before and after else None
        said = {"n": n, "score": score, "base": before, "tuned": after, "move": move}
        return {**place_of(passage), **said, "text": short(passage.text), "new": (before or top + 1) > top}

    kept = {n for n, _ in tuned[:top]}
    return {
        "base": [entry(*one) for one in base[:top]],
        "tuned": [entry(*one) for one in tuned[:top]],
        "gone": [n for n, _ in base[:top] if n not in kept],
    }


def _missing(run: Run) -> str:
    """Why there can be no search, as far as it can be told without loading a model; empty: nothing is missing."""
    for stage in ("corpus", "vectors", "train", "evaluate"):
        if not run.is_done(stage):
            return f"search is off: {stage} has not run; 'tokay distill … --out {run.path}' finishes the run"
    made = "refit" if run.is_done("refit") else "train"
    if not (run.path / made / "model" / "modules.json").is_file():
        return f"search is off: the tuned model is gone ({run.path / made / 'model'}); run 'tokay distill' again"
    base = str(run.read_json("vectors", "cut")["base"])
    if is_hub_name(base) or base == "minilm":
        return ""
    from tokay.models.locate import find_model

    try:
        find_model(base)
    except TokayError as error:
        return f"search is off: {error}"
    return ""
