"""Which language a text is in: py3langid (Lui and Baldwin 2012) identifies it, and only where it is sure."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from tokay.search.bm25 import ENGLISH, NO_LANGUAGE

SURE = 0.9
"""Probability from which a language counts as known."""

LANGUAGE_SAMPLE = 200
"""Passages whose language is told, of a corpus."""

_SNOWBALL = {
    "ar": "arabic", "hy": "armenian", "eu": "basque", "ca": "catalan", "cs": "czech", "da": "danish", "nl": "dutch",
    "en": "english", "eo": "esperanto", "et": "estonian", "fi": "finnish", "fr": "french", "de": "german",
    "el": "greek", "hi": "hindi", "hu": "hungarian", "id": "indonesian", "ga": "irish", "it": "italian",
    "lt": "lithuanian", "ne": "nepali", "no": "norwegian", "nb": "norwegian", "nn": "norwegian", "fa": "persian",
    "pl": "polish", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "es": "spanish",
    "sv": "swedish", "ta": "tamil", "tr": "turkish",
}  # fmt: skip


def language_of(text: str) -> str:
    """ISO 639-1 code of a text's language; empty when it is not sure."""
    code, probability = _identifier().classify(text)
    return str(code) if probability >= SURE else ""


def stems_for(texts: Iterable[str]) -> str:
    """Whose stems fit texts: the language that most of them are in, by Snowball's name.

    English where no language is sure; none where there are no stems of it, such as Chinese.
    """
    from Stemmer import algorithms

    votes: dict[str, int] = {}
    for text in texts:
        if code := language_of(text):
            votes[code] = votes.get(code, 0) + 1
    if not votes:
        return ENGLISH
    name = _SNOWBALL.get(max(votes, key=lambda code: votes[code]), NO_LANGUAGE)
    return name if name in algorithms() else NO_LANGUAGE


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
