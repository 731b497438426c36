"""Tokay turns documents and any LLM into a text embedder that is measurably better on your own search.

Importing this loads no torch; ``Embedder.load`` does, for the back-end of that name.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokay.errors import MissingExtra, TokayError

if TYPE_CHECKING:
    from tokay.models.embedder import Embedder
    from tokay.pipeline import Distilled, Plan, distill
    from tokay.store import Run

__all__ = [
    "Distilled",
    "Embedder",
    "MissingExtra",
    "Plan",
    "Run",
    "TokayError",
    "__version__",
    "distill",
    "open_run",
]

try:
    __version__ = _version("tokay")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0"

_HOMES = {
    "Distilled": "tokay.pipeline",
    "Embedder": "tokay.models.embedder",
    "Plan": "tokay.pipeline",
    "Run": "tokay.store",
    "distill": "tokay.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tokay' has no attribute {name!r}; it has {', '.join(__all__)}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def open_run(path: str | Path) -> Run:
    """Open a finished run for reading.

    Raises:
        TokayError: there is no run folder at ``path``.
    """
    from tokay.store import Run

    return Run(Path(path), writable=False)
