"""How the texts of a benchmark task are written for a model: as queries or as passages, and for which task of Gecko's.

Gecko's table 9 names a task for each set of MTEB; only a model whose format has a place for it is told
(``models.format``). All others have their own prompts: the query's for both sides of a symmetric task, since both are
of one kind, and one for each side of a search.
"""

from __future__ import annotations

from typing import Final, Literal

from tokay.models.format import SEARCH, InputFormat

Category = Literal[
    "Classification", "Clustering", "PairClassification", "Reranking", "Retrieval", "STS", "Summarization"
]
CATEGORIES: Final[tuple[Category, ...]] = (
    "Classification",
    "Clustering",
    "PairClassification",
    "Reranking",
    "Retrieval",
    "STS",
    "Summarization",
)
"""The seven of Gecko's table 1, by MTEB's names and in that table's order."""

Place = Literal["query", "document"] | None
"""Which side of a search a text is on, as MTEB says it; None: the task is symmetric."""

_QUESTIONS = "question answering"
_BY_CATEGORY = {
    "Classification": "classification",
    "MultilabelClassification": "classification",
    "PairClassification": "semantic similarity",
    "STS": "semantic similarity",
    "Clustering": SEARCH,
}
_BY_NAME = {
    "ArguAna": "semantic similarity",
    "NFCorpus": "fact checking",
    "SciFact": "fact checking",
    "FEVER": SEARCH,
    "HotpotQA": SEARCH,
    "ClimateFEVER": SEARCH,
    "TRECCOVID": SEARCH,
    "QuoraRetrieval": SEARCH,
}
_SYMMETRIC = ("QuoraRetrieval",)
"""Searches whose documents are of the queries' kind."""


def gecko_task(category: str, name: str) -> str:
    """The task of Gecko's table 9 for a set: by its MTEB name, else by its category, else question answering."""
    return _BY_NAME.get(name) or _BY_CATEGORY.get(category, _QUESTIONS)


def side_of_text(prompts: InputFormat, category: str, name: str, place: Place) -> tuple[str, str | None]:
    """``kind`` and ``task`` of ``Embedder.encode`` for a text of a task.

    Args:
        prompts: the model's format.
        category: MTEB's task type, such as ``STS``.
        name: the set's MTEB name, such as ``SciFact``; any other is none of table 9's.
        place: which side of a search it is on.
    """
    if place == "document" and not (prompts.is_gecko and name in _SYMMETRIC):
        return "passage", None
    return "query", gecko_task(category, name) if prompts.is_gecko else None
