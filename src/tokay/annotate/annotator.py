"""The seam that a live LLM and a recorded one share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from tokay.progress import Progress
from tokay.records import Failure, Judgment, Passage, Query, Rating


@dataclasses.dataclass(frozen=True)
class CallPlan:
    """What an annotator will ask for: calls, and prompt tokens estimated from characters."""

    calls: int
    prompt_tokens: int


class Annotator(Protocol):
    """Writes queries for passages and judges which passages answer them.

    Answers come in the order of the input. What could not be used is a ``Failure``, never a grade.
    """

    @property
    def name(self) -> str:
        """As the user named it."""

    def version(self, stage: str) -> str:
        """Changes whenever the answers of ``generate``, ``mine`` or ``judge`` may; part of the stage's key.

        Of a live model, its name and prompts; of a recording, its digest.
        """

    @property
    def paid(self) -> bool:
        """Whether asking sends text to a model that may cost money; such a plan is confirmed first."""

    @property
    def seeds(self) -> set[str] | None:
        """The passages that queries can be written for; None: any."""

    def plan(self, *, passages: int, queries: int, candidates: int, mean_chars: float) -> CallPlan:
        """What it takes to write for this many passages of this length, and to judge this many queries."""

    def generate(
        self, passages: Iterable[Passage], *, per_passage: int, progress: Progress | None = None
    ) -> Iterator[Query | Failure]:
        """Queries of each passage; their part is set by the caller."""

    def candidates(self, query: Query) -> list[str] | None:
        """Passages that this annotator wants to judge for a query; None: those that were mined."""

    def judge(
        self, items: Iterable[tuple[Query, Sequence[Passage]]], *, progress: Progress | None = None
    ) -> Iterator[Rating | Judgment | Failure]:
        """Ratings and grades of the candidates of each query, which come in the retriever's order."""
