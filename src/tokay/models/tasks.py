"""What clients call the two sides of a search, and the tasks of an embedder: one table for all of their words.

Sources: OpenAI's API has no word for it; Cohere's ``input_type``, Google's ``task_type`` (the eight names of the Gecko
text embedder and their successors), Jina's ``task``, NVIDIA NIM's and vLLM's ``input_type``, sentence-transformers'
prompt names. Gecko and EmbeddingGemma write a task in the query's prompt ("task: fact checking | query: …"); a
model that was trained with one prompt a side knows two kinds, and the symmetric tasks are queries on both sides.
"""

from __future__ import annotations

from typing import Literal

from tokay.errors import TokayError, did_you_mean
from tokay.models.format import SEARCH

Kind = Literal["query", "passage"]

_TASKS = {
    SEARCH: ("search_query", "retrieval_query", "retrieval.query", "code_search_query"),
    "question answering": ("question_answering",),
    "fact checking": ("fact_checking", "fact_verification"),
    "code retrieval": ("code_retrieval", "code_retrieval_query", "nl2code.query", "code.query"),
    "sentence similarity": ("semantic_similarity", "text-matching", "text_matching", "sts"),
    "classification": ("classification",),
    "clustering": ("clustering", "separation"),
}
_PASSAGES = (
    "passage",
    "document",
    "corpus",
    "search_document",
    "retrieval_document",
    "retrieval.passage",
    "code_retrieval_document",
    "nl2code.passage",
    "code.passage",
)
_QUERIES = {"query": None} | {name: task for task, names in _TASKS.items() for name in (task, *names)}
NAMES = (*_QUERIES, *_PASSAGES)
"""Every word that is understood."""


def side_of(name: str) -> tuple[Kind, str | None]:
    """The side that a word names, and the task of a query where it names one; capitals do not matter.

    Args:
        name: such as ``query``, ``RETRIEVAL_DOCUMENT``, ``search_query``, ``text-matching``.

    Raises:
        TokayError: it is none of ``NAMES``.
    """
    word = name.strip().lower() if isinstance(name, str) else ""
    if word in _PASSAGES:
        return "passage", None
    if word in _QUERIES:
        task = _QUERIES[word]
        return "query", None if task == SEARCH else task
    near = did_you_mean(word, NAMES)
    raise TokayError(f"kind is {name!r}; expected 'query', 'passage' or a task such as 'clustering'{near}")
