"""What can be told of a query before it is searched: its kind, length and language, and the words that it shares.

Slices of a result are by these. All are rough on purpose: they say where systems differ, not what a query is.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence

from tokay.language import language_of
from tokay.records import Passage, Query
from tokay.search.bm25 import ASKING, STOP_WORDS, content_words

KIND, LENGTH, LANGUAGE, OVERLAP = "kind", "length", "language", "shared words"
UNSURE = "not sure"
_CODE = re.compile(r"\w_\w|\w\.\w|[a-z][A-Z]|\w\(\)")
_LENGTHS = ((3, "1 to 3 words"), (8, "4 to 8 words"), (16, "9 to 16 words"))
_FEW = 6
"""Words up to which a query without a function word is keywords."""


def traits_of(
    queries: Sequence[Query], qrels: Mapping[str, Mapping[str, int]], passages: Sequence[Passage]
) -> dict[str, dict[str, str]]:
    """Trait -> query id -> value; no language where the package that tells languages (extra llm) is not installed."""
    needed = {p for gains in qrels.values() for p, gain in gains.items() if gain > 0}
    words = {p.passage_id: set(content_words(f"{p.title} {p.text}")) for p in passages if p.passage_id in needed}
    found: dict[str, dict[str, str]] = {name: {} for name in (KIND, LENGTH, LANGUAGE, OVERLAP)}
    tells = importlib.util.find_spec("py3langid") is not None
    for query in queries:
        relevant = [words[p] for p, gain in qrels[query.query_id].items() if gain > 0 and p in words]
        found[KIND][query.query_id] = kind_of(query.text)
        found[LENGTH][query.query_id] = length_of(query.text)
        if tells:
            found[LANGUAGE][query.query_id] = language_of(query.text) or UNSURE
        found[OVERLAP][query.query_id] = _thirds(overlap_of(query.text, relevant))
    return found


def kind_of(text: str) -> str:
    """A question, keywords, a sentence, or something with an identifier in it."""
    words = re.findall(r"\w+", text.lower())
    if _CODE.search(text):
        return "identifier"
    if text.rstrip().endswith(("?", "\uff1f")) or (words and words[0] in ASKING):
        return "question"
    return "keywords" if len(words) <= _FEW and not STOP_WORDS & {*words} else "sentence"


def length_of(text: str) -> str:
    """In words; of scripts without blanks, in letters by two."""
    count = max(len(text.split()), len(re.findall(r"[\u3040-\u30ff\u3400-\u9fff]", text)) // 2)
    return next((name for most, name in _LENGTHS if count <= most), "17 words and more")


def overlap_of(query: str, relevant: Sequence[set[str]]) -> float:
    """The share of a query's content words that the relevant passage has which has most of them."""
    words = set(content_words(query))
    return max((len(words & one) / len(words) for one in relevant), default=0.0) if words else 0.0


def _thirds(share: float) -> str:
    return "under a third" if share < 1 / 3 else "up to two thirds" if share <= 2 / 3 else "over two thirds"
