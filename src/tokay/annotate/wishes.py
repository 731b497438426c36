"""What kind of query is asked for next: uniform tasks, and quotas for length, difficulty, persona and language.

Gecko gets its diversity from many task descriptions, sampled uniformly (2403.20327, table 4: +0.2 over as they come);
Qwen3-Embedding (2506.05176) adds persona, length, difficulty and language. What a query is to be depends on nothing
but its passage's id and its number, so that a corpus that grows asks, and pays, for its new passages only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from tokay.language import language_of
from tokay.records import Passage
from tokay.settings import GenerateSettings

SHOWN = 4
"""Queries of a log that a prompt shows; our choice."""


def wishes_of(passage: Passage, count: int, settings: GenerateSettings) -> list[str]:
    """One line for each query of a passage; kinds do not repeat before all were used."""
    language = settings.language or language_of(passage.text)
    tongue = f"the language of the passage ({language})" if not settings.language and language else settings.language
    kinds = _in_order(settings.kinds, (passage.passage_id, "kind"))

    def drawn(weights: Mapping[str, float], number: int, what: str) -> str:
        return _drawn(weights, (passage.passage_id, str(number), what))

    return [
        f"{kinds[k % len(kinds)]}; {drawn(settings.lengths, k, 'length')}; "
        f"{drawn(settings.difficulties, k, 'difficulty')}; asked by {drawn(settings.personas, k, 'persona')}; "
        f"in {tongue or 'the language of the passage'}"
        for k in range(count)
    ]


def _share(salt: Sequence[str]) -> float:
    """A number in (0, 1) that depends on the salt alone."""
    digest = hashlib.sha256("\0".join(salt).encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8]) + 0.5) / 2**64


def _drawn(weights: Mapping[str, float], salt: Sequence[str]) -> str:
    """One wording, each as often as its weight says."""
    left = _share(salt) * sum(weights.values())
    for name, weight in weights.items():
        left -= weight
        if left < 0:
            return name
    return max(weights, key=lambda name: weights[name])  # rounding, or no weight at all


def _in_order(weights: Mapping[str, float], salt: Sequence[str]) -> list[str]:
    """All wordings, the first drawn by weight, then the next among the rest (Efraimidis and Spirakis 2006)."""
    wanted = {name: weight for name, weight in weights.items() if weight > 0}
    return sorted(wanted, key=lambda name: _share([*salt, name]) ** (1 / wanted[name]), reverse=True)


def some_of(log: Sequence[str], passage: Passage) -> list[str]:
    """A few queries of a log, drawn by the passage's id: a query more in the log changes few passages' prompts."""
    return sorted(log, key=lambda query: _share((passage.passage_id, "log", query)))[:SHOWN]
