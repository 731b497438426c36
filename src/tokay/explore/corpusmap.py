"""The corpus on a plane, as the base sees it and as the tuned model does; worked out once, beside the page."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokay.explore.cache import FOLDER, state_of
from tokay.explore.layout import aligned, kept_neighbours, layout
from tokay.explore.shown import short
from tokay.search.dense import unit
from tokay.store import Run

log = logging.getLogger("tokay.explore")

MOST = 5000
"""Points that are shown: more would cover each other."""
TITLE_CHARS = 80
NEIGHBOURS = 10
"""Of a point, which are compared between the two spaces."""
_GRID = 10_000
"""Coordinates are whole numbers up to this."""


class CorpusMap:
    """The map of a run: off (and why), being worked out, or there.

    Args:
        run: with vectors of base and tuned.
        connect: gives this thread's connection to the cache.
    """

    def __init__(self, run: Run, connect: Callable[[], sqlite3.Connection]) -> None:
        self.run, self.connect = run, connect
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None
        self._points: dict[str, Any] | None = None
        made = "refit" if run.is_done("refit") else "evaluate"
        self.vectors = {"before": run.path / "vectors" / "base.npy", "after": run.path / made / "tuned.npy"}
        missing = [stage for stage in ("vectors", made) if not run.is_done(stage)]
        self.off = f"there is no map: {missing[0]} has not run" if missing else ""
        if not self.off and (gone := [path for path in self.vectors.values() if not path.is_file()]):
            self.off = f"there is no map: {gone[0]} is gone"

    def state(self) -> dict[str, Any]:
        """``off``, ``working``, or ``ready`` with points; asking starts the work."""
        with self._lock:
            if self._points is not None:
                return self._points
            if self.off:
                return {"state": "off", "reason": self.off}
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="map", daemon=True)
                self._worker.start()
        return {"state": "working"}

    def wait(self) -> None:
        """Until it is there, for tests."""
        self.state()
        if self._worker is not None:
            self._worker.join()

    def _work(self) -> None:
        try:
            made = self._cached()
            points = self._as_json(**made)
        except Exception:
            log.exception("the map failed")
            self.off = "there is no map: working it out failed; the terminal says why"
            return
        with self._lock:
            self._points = points

    def _cached(self) -> dict[str, NDArray[Any]]:
        folder = self.run.cache_folder(FOLDER)
        path = folder / f"map-{state_of(self.run)}.npz"
        try:
            with np.load(path) as found:
                return dict(found)
        except (OSError, ValueError, zipfile.BadZipFile):
            pass
        made = self._made()
        for old in folder.glob("map-*.npz"):
            old.unlink()
        temporary = path.with_suffix(".new.npz")
        np.savez(temporary, **made)  # type: ignore[arg-type]
        temporary.replace(path)
        return made

    def _made(self) -> dict[str, NDArray[Any]]:
        rows = _sample(self.vectors["before"])
        before, after = (unit(np.load(path, mmap_mode="r")[rows].astype(np.float32)) for path in self.vectors.values())
        first = layout(before)
        second = aligned(layout(after, start=first), first)
        return {"n": rows, "before": first, "after": second, "kept": kept_neighbours(before, after, NEIGHBOURS)}

    def _as_json(
        self, n: NDArray[Any], before: NDArray[Any], after: NDArray[Any], kept: NDArray[Any]
    ) -> dict[str, Any]:
        rows = n.tolist()
        both = np.concatenate([before, after]) if len(rows) else np.zeros((1, 2))
        low, high = np.percentile(both, 0.2, axis=0), np.percentile(both, 99.8, axis=0)
        wide = max(float((high - low).max()), 1e-9)
        low = low - (wide - (high - low)) / 2  # the shorter side stands in the middle
        grid = [np.clip((p - low) / wide * _GRID, 0, _GRID).round().astype(int).tolist() for p in (before, after)]
        found = self.connect().execute(
            "SELECT p.n, passage_id, title, part, seeds FROM passages p JOIN passage_texts t USING (n) "
            f"WHERE p.n IN ({','.join(map(str, rows))})"
        )
        said = {r["n"]: (short(r["title"] or r["passage_id"], TITLE_CHARS), r["part"], bool(r["seeds"])) for r in found}
        return {
            "state": "ready",
            "grid": _GRID,
            "of": self.run.rows("corpus", "passages"),
            "neighbours": min(NEIGHBOURS, max(0, len(rows) - 1)),
            "n": rows,
            "before": grid[0],
            "after": grid[1],
            "kept": kept.tolist(),
            "titles": [said[i][0] for i in rows],
            "parts": [said[i][1] for i in rows],
            "seeds": [said[i][2] for i in rows],
        }


def _sample(path: Path) -> NDArray[np.int64]:
    """At most ``MOST`` rows, by a hash of their numbers."""
    count = len(np.load(path, mmap_mode="r"))
    if count <= MOST:
        return np.arange(count)
    order = sorted(range(count), key=lambda i: hashlib.sha256(i.to_bytes(8, "big")).digest())
    return np.sort(np.array(order[:MOST], np.int64))
