"""Text of documents, queries and answers is data: what of it a page is given."""

from __future__ import annotations

from typing import Any

from tokay.report.page import visible

LIST_CHARS = 280
"""Of a text in a list."""
PAGE_CHARS = 20_000
"""Of a text that is read at once; the rest comes by ``start``."""


def short(text: str, limit: int = LIST_CHARS) -> str:
    """The beginning, with an ellipsis where something is left out."""
    return visible(text[:limit]) + (" …" if len(text) > limit else "")


def long(text: str, start: int = 0, limit: int = PAGE_CHARS) -> dict[str, Any]:
    """A part of a text: ``text``, where it starts, and how many characters there are in all."""
    return {"text": visible(text[start : start + limit]), "start": start, "of": len(text), "limit": limit}
