"""Text of documents, queries and answers is data: what of it a page is given."""

from __future__ import annotations

import re
from typing import Any

LIST_CHARS = 280
"""Of a text in a list."""
PAGE_CHARS = 20_000
"""Of a text that is read at once; the rest comes by ``start``."""

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]"  # controls, halves of characters, no characters
    "|[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # marks that turn the reading direction
    "|[\u200b\u2060-\u2064\ufeff\U000e0000-\U000e007f]"  # without width
)


def visible(text: str) -> str:
    """With what a reader would not see, or what would turn the reading direction, as U+FFFD."""
    return _UNSEEN.sub("\ufffd", text)


def short(text: str, limit: int = LIST_CHARS) -> str:
    """The beginning, with an ellipsis where something is left out."""
    return visible(text[:limit]) + (" …" if len(text) > limit else "")


def long(text: str, start: int = 0, limit: int = PAGE_CHARS) -> dict[str, Any]:
    """A part of a text: ``text``, where it starts, and how many characters there are in all."""
    return {"text": visible(text[start : start + limit]), "start": start, "of": len(text), "limit": limit}
