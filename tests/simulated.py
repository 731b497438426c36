"""A judge of known noise behind the model's seam: it knows the true grades and answers every kind of question."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tokay.llm.ledger import Answer, Usage
from tokay.llm.probe import Abilities

_SHOWN = re.compile(r"<passage>(?: \d+)?\n(.*?)\n(.*?)\n</passage>", re.DOTALL)


class SimulatedJudge:
    """Answers from the true grades, one of ``noise`` times with another grade.

    Args:
        grades: query text -> passage title -> grade; titles name the passages.
        noise: probability that a grade is replaced by a random one.
        count_tokens: for the usage that it reports; None: words.
    """

    name = "simulated"

    def __init__(
        self, grades: Mapping[str, Mapping[str, int]], *, noise: float = 0.0, abilities: Abilities | None = None
    ) -> None:
        self._grades = grades
        self._noise = noise
        self._abilities = abilities or Abilities()
        self.sent: list[str] = []

    async def abilities(self) -> Abilities:
        return self._abilities

    async def close(self) -> None:
        pass

    async def complete(self, messages: Sequence[Mapping[str, str]], **options: Any) -> Answer:
        text = "\n".join(m["content"] for m in messages)
        self.sent.append(text)
        query = _query(messages[-1]["content"])
        titles = [title for title, _ in _SHOWN.findall(messages[-1]["content"])]
        grades = [self._grade(query, title, text) for title in titles]
        if "one digit" in messages[0]["content"]:
            return Answer(str(grades[0]), self._first(grades[0], options.get("top_logprobs", 0)), usage=Usage(1))
        best = max(range(len(grades)), key=lambda i: (grades[i], -i)) + 1
        return Answer(json.dumps({"grades": {str(n): g for n, g in enumerate(grades, 1)}, "best": best}), key="k")

    async def logprobs(self, context: str, continuations: Sequence[str]) -> Answer:
        self.sent.append(context + max(continuations, key=len))
        title = _SHOWN.findall(context)[-1][0]
        if context.endswith("Grade:"):
            grade = self._grade(_query(context), title, context)
            values = tuple(-abs(int(label) - grade) - 0.1 for label in continuations)
        else:
            [query] = continuations
            values = (-10.0 + self._grade(query.strip(), title, context) + 0.5 * _share(context, query),)
        return Answer(values=values, tokens=tuple(len(c.split()) for c in continuations), key="k")

    def _grade(self, query: str, title: str, salt: str) -> int:
        true = self._grades[query].get(title, 0)
        if _share(query, title, salt) >= self._noise:
            return true
        return int(4 * _share("other", query, title, salt))

    def _first(self, grade: int, top: int) -> dict[str, float]:
        weights = {str(g): math.exp(-2.0 * abs(g - grade)) for g in range(4)}
        total = sum(weights.values())
        return {label: math.log(weight / total) for label, weight in weights.items()} if top else {}


def _query(text: str) -> str:
    return re.findall(r"^Query: (.*)$", text, re.MULTILINE)[-1]


def _share(*salt: str) -> float:
    return int.from_bytes(hashlib.sha256("\0".join(salt).encode()).digest()[:8]) / 2**64
