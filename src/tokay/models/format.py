"""How a query or a passage is written before it is tokenised. No torch here: clients and servers need it too.

Gecko (appendix B) writes ``task: {task} | query: {query}`` and ``title: {title} | text: {text}``; EmbeddingGemma
keeps both. Most small bases never saw these, and most clients cannot send a title, so a model says which format
it was trained with: its two prompts, as sentence-transformers stores them.
"""

from __future__ import annotations

import dataclasses

SEARCH = "search result"
"""The task that the saved query prompt names: Gecko's most frequent task for retrieval (table 9)."""


@dataclasses.dataclass(frozen=True)
class InputFormat:
    """The two prompts of a model; ``query`` may hold Gecko's task, ``passage`` its title."""

    query: str
    passage: str

    @property
    def is_gecko(self) -> bool:
        """Whether queries carry a task and passages a titled field."""
        return self.query.startswith("task: ") and self.passage.startswith("title: ")

    def write_query(self, text: str, task: str = SEARCH) -> str:
        """A query, with its task where the format has a place for one."""
        return f"task: {task} | query: {text}" if self.is_gecko else self.query + text

    def write_passage(self, text: str, title: str = "") -> str:
        """A passage with its title; formats without a title field join both with a blank, as BEIR does."""
        if self.is_gecko:
            return f"title: {title or 'none'} | text: {text}"
        return self.passage + (f"{title} {text}" if title else text)


NONE = InputFormat("", "")
GECKO = InputFormat(f"task: {SEARCH} | query: ", "title: none | text: ")


def choose_format(name: str, base: InputFormat) -> InputFormat:
    """The format that a setting names; ``auto``: the base's own, which for a base without prompts is none."""
    return {"none": NONE, "gecko": GECKO, "base": base, "auto": base}[name]
