"""Samples whose choice and order depend on nothing but salt and ids, whatever the order of the corpus."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable
from typing import TypeVar

from tokay.records import Passage

T = TypeVar("T")


def sample_ids(ids: Iterable[str], count: int, *, salt: str) -> list[str]:
    """The first ``count`` ids of a shuffle."""
    return _first(ids, count, salt, lambda i: i)


def sample_passages(passages: Iterable[Passage], count: int, *, salt: str) -> list[Passage]:
    """The first ``count`` passages of a shuffle."""
    return _first(passages, count, salt, lambda p: p.passage_id)


def _first(items: Iterable[T], count: int, salt: str, id_of: Callable[[T], str]) -> list[T]:
    def place(item: T) -> bytes:
        return hashlib.sha256(f"{salt}\0{id_of(item)}".encode("utf-8", "surrogatepass")).digest()

    return heapq.nsmallest(count, items, key=place)
