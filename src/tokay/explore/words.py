"""Text search in SQLite's FTS5: what is indexed of a text, and a person's words as a query that cannot fail.

FTS5's unicode61 takes a run of letters for a word. Chinese, Japanese and others write no blanks, so each of their
characters is made a word of its own, and several of them that a person types are looked for beside each other.
"""

from __future__ import annotations

import re

_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f])"
)
_QUOTED = re.compile(r'"([^"]*)"|(\S+)')


def indexed(text: str) -> str:
    """A text as it goes into the index."""
    spaced = _UNSPACED.sub(r" \1 ", text)
    return spaced.encode("utf-8", "replace").decode("utf-8").replace("\x00", " ")


def match_of(said: str) -> str:
    """What a person typed as an FTS5 expression: all words, the last as a beginning; quoted ones in their order.

    Empty where it holds no letter and no digit.
    """
    found = [(phrase or word, bool(phrase)) for phrase, word in _QUOTED.findall(said)]
    parts = [(_phrase(text), exact) for text, exact in found]
    parts = [(phrase, exact) for phrase, exact in parts if phrase]
    if not parts:
        return ""
    *others, (last, exact) = parts
    return " ".join([*(phrase for phrase, _ in others), last if exact else f"{last}*"])


def _phrase(text: str) -> str:
    """A word as an FTS5 string; its punctuation separates, as in the index."""
    words = re.findall(r"\w+", indexed(text).replace("_", " "))
    return '"' + " ".join(words) + '"' if words else ""
