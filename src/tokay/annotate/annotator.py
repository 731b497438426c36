"""The seam that a live LLM and a recorded one share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from tokay.llm.estimate import Planned
from tokay.progress import Progress
from tokay.records import Failure, Judgment, Passage, Query, Rating


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

    def sample_requests(
        self,
        seeds: Iterable[Passage],
        pool: Sequence[Passage],
        *,
        per_passage: int,
        candidates: int,
        own: Sequence[Query],
    ) -> Iterator[Planned]:
        """What would be asked for these seeds, and to judge their queries and the user's own; nothing is sent.

        Args:
            seeds: the passages that queries are written for.
            pool: a sample of the corpus. It stands for queries and candidates, which do not exist yet.
            per_passage: queries of a seed.
            candidates: passages that are judged for a query.
            own: queries that a user brought, which are judged, too.
        """

    @property
    def assumes(self) -> str:
        """What ``sample_requests`` takes for granted, in one sentence; empty: nothing."""

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
