"""What exports are compared on, made of words."""

from __future__ import annotations

from tiny import WORDS
from tokay.export.parity import Material


def material(count: int = 40) -> Material:
    texts = [" ".join(WORDS[i : i + 3 + i % 20]) for i in range(count)]
    ids = [f"p{i}" for i in range(count)]
    queries = {f"q{i}": " ".join(WORDS[i : i + 3]) for i in range(0, count, 2)}
    return Material(ids, texts, [""] * count, queries, {f"q{i}": {f"p{i}": 1} for i in range(0, count, 2)})
