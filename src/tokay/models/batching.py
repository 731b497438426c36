"""Texts of like length together: which texts one forward pass sees. No torch here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

OVERHEAD = 0.18
"""What a micro-batch costs beside its tokens, as a share of its budget (docs/log.md)."""


def by_token_budget(order: Sequence[int], ids: Sequence[Sequence[int]], budget: int) -> list[list[int]]:
    """Cut ``order`` (sorted by length, either way) into the groups that cost least.

    A group of n texts costs n times its longest, and a fixed share of the budget for being one: many short texts stand
    together, and long ones with their like. No group's padded size is above ``budget``, save of a single long text.
    """
    lengths = np.array([len(ids[i]) for i in order], np.int64)
    cost = np.zeros(len(order) + 1)  # of the first n texts
    begins = np.zeros(len(order) + 1, np.int64)  # of the group that ends there
    for end in range(1, len(order) + 1):
        first = max(0, end - max(1, budget // max(1, int(lengths[end - 1]))))
        longest = np.maximum(lengths[first:end], lengths[end - 1])
        size = longest * np.arange(end - first, 0, -1)
        total = np.where(size <= budget, cost[first:end] + size, np.inf)
        if total[-1] == np.inf:  # it is longer than the budget
            total[-1] = cost[end - 1] + size[-1]
        best = int(total.argmin())
        begins[end], cost[end] = first + best, total[best] + OVERHEAD * budget
    groups: list[list[int]] = []
    end = len(order)
    while end:
        groups.append(list(order[begins[end] : end]))
        end = int(begins[end])
    return groups[::-1]
