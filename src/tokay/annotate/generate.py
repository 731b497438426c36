"""Passage to queries: reading what a model wrote, and what of it is not taken."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from pydantic import BaseModel, ConfigDict

from tokay.annotate import prompts
from tokay.annotate.asking import Unusable, place, read_json
from tokay.records import Failure, Passage, Query
from tokay.search.bm25 import content_words

COPIED_WORDS = 8
"""A query with a run of this many words of its passage is copied, not written."""

LONGEST_QUERY = 400
"""Characters; 25 words have about 150. What is longer is no query."""

GENERATE_TOKENS = 120
"""Room in the answer for each query."""

QUERY_ANSWER = 45.0
"""Tokens that a query and its task take in an answer. Counted by MiniLM's tokenizer in the examples of the prompt:
35 to 44, and 9 for what stands around all of them."""

_REFUSED = re.compile(r"\b(i (?:cannot|can't|can not|won't|am unable)|as an ai\b|i'm sorry|no query)", re.IGNORECASE)


class _Pair(BaseModel):
    model_config = ConfigDict(extra="ignore")
    task: str
    query: str


class _Pairs(BaseModel):
    queries: list[_Pair]


def queries_from(text: str, passage: Passage, count: int, key: str) -> list[Query | Failure]:
    """Parse a generation answer: ``count`` results, each a query or why there is none. More queries are left out.

    Raises:
        Unusable: it is not the JSON that was asked for, or holds no query.
    """
    pairs = read_json(_Pairs, text).queries[:count]
    if not pairs:
        raise Unusable("no queries in the answer")
    made: list[Query | Failure] = []
    for k in range(count):
        query_id = f"{passage.passage_id}#{k}"
        if k >= len(pairs):
            reason = f"only {len(pairs)} of {count} queries in the answer"
            made.append(Failure("generate", query_id, reason, place(key)))
            continue
        task, query = (" ".join(part.split()) for part in (pairs[k].task, pairs[k].query))
        if fault := fault_of(task, query, passage):
            made.append(Failure("generate", query_id, fault, place(key)))
            continue
        made.append(
            Query(
                query_id=query_id,
                seed_id=passage.passage_id,
                task=task,
                text=query,
                part="train",
                judged=True,
                prompt=prompts.GENERATE.version,
                answer_id=place(key),
            )
        )
    return made


def fault_of(task: str, query: str, passage: Passage) -> str:
    """What is wrong with a written query; empty when nothing is."""
    if not task or not query:
        return "empty task" if query else "empty query"
    if max(len(task), len(query)) > LONGEST_QUERY:
        return f"query or task of {max(len(task), len(query))} characters; at most {LONGEST_QUERY} are taken"
    if _REFUSED.match(query):
        return f"a refusal, not a query: {query[:60]!r}"
    if is_copied(query, passage.text):
        return f"query copies {COPIED_WORDS} words or more of its passage"
    return ""


def is_copied(query: str, text: str) -> bool:
    """Whether a query has a run of ``COPIED_WORDS`` words of a text."""
    words, inside = re.findall(r"\w+", query.casefold()), " ".join(re.findall(r"\w+", text.casefold()))
    runs = (words[i : i + COPIED_WORDS] for i in range(len(words) - COPIED_WORDS + 1))
    return any(f" {' '.join(run)} " in f" {inside} " for run in runs)


def without_twins(items: Iterable[Query | Failure]) -> Iterator[Query | Failure]:
    """Later queries with the same words as an earlier one become failures.

    Words are stems without stop words, in any order, so that "how do I sort a list" and "sorting lists" are one
    question. Two seeds that make people ask the same would be each other's false negatives.
    """
    first: dict[Sequence[str], str] = {}
    for item in items:
        if isinstance(item, Failure):
            yield item
            continue
        words = tuple(sorted(set(content_words(item.text)))) or tuple(re.findall(r"\w+", item.text.casefold()))
        if words in first:
            yield Failure("generate", item.query_id, f"the same words as the query {first[words]!r}", item.answer_id)
            continue
        first[words] = item.query_id
        yield item
