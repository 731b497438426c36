"""BM25 over words and code identifiers, on bm25s (Lù 2024): a library's scoring, our tokens."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

K1 = 0.9
B = 0.4
"""The settings of Pyserini's and BEIR's BM25 baselines (Lin et al. 2021; Thakur et al. 2021)."""

_WORD = re.compile(r"\w+(?:\.\w+)*")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_PART_NOT_ASCII = re.compile(r"[^\W\d_]+|\d+")  # capitals inside a word are told apart in ASCII only

STOP_WORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these "
    "they this to was will with".split()
)
"""Lucene's English list."""


_ASKING = frozenset("how what which when where who why do does did can could should i you we my your me".split())


class BM25:
    """An index in memory. Equal scores are in order of index; a passage without a query word is no hit."""

    def __init__(self, texts: Iterable[str], *, k1: float = K1, b: float = B) -> None:
        import bm25s

        self._prepare()
        tokens = [[self._ids.setdefault(token, len(self._ids)) for token in self._tokens(text)] for text in texts]
        self._index = bm25s.BM25(k1=k1, b=b, method="lucene")
        if self._ids:
            self._index.index((tokens, dict(self._ids)), create_empty_token=False, show_progress=False)

    def _prepare(self) -> None:
        self._stem = _stemmer()
        self._stemmed: dict[str, str] = {}
        self._ids: dict[str, int] = {}

    def save(self, folder: Path) -> None:
        """Write the index into a folder of its own, which is made."""
        folder.mkdir()
        if self._ids:
            self._index.save(folder, corpus=None, show_progress=False)

    @classmethod
    def load(cls, folder: Path) -> BM25:
        """Open what ``save`` wrote; the scores are mapped into memory, not read."""
        import bm25s

        opened = cls.__new__(cls)
        opened._prepare()
        opened._index = bm25s.BM25(method="lucene")
        if any(folder.iterdir()):
            opened._index = bm25s.BM25.load(folder, mmap=True, load_corpus=False, show_progress=False)
            opened._ids = opened._index.vocab_dict
        return opened

    def search(
        self, queries: Sequence[str], k: int, *, among: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Indices int64 and scores float32 of the best k, both (Q, k); index -1 and score 0 where there is none.

        Args:
            queries: as people type them.
            k: results a query.
            among: the only indices that may be found, in ascending order; None: all.
        """
        indices = np.full((len(queries), k), -1, np.int64)
        scores = np.zeros((len(queries), k), np.float32)
        for row, query in enumerate(queries):
            known = [self._ids[token] for token in self._tokens(query) if token in self._ids]
            if not known:
                continue
            found = np.asarray(self._index.get_scores_from_ids(known), np.float32)
            hits = np.flatnonzero(found > 0) if among is None else among[found[among] > 0]
            best = hits[np.lexsort((hits, -found[hits]))[:k]]
            indices[row, : len(best)] = best
            scores[row, : len(best)] = found[best]
        return indices, scores

    def _tokens(self, text: str) -> Iterator[str]:
        for token in tokenize(text):
            stem = self._stemmed.get(token)
            if stem is None:
                stem = self._stemmed[token] = self._stem(token)
            yield stem


def content_words(text: str) -> list[str]:
    """Stems of a text's words without stop words and without the words of questions: what it is about."""
    stem = _stemmer()
    return [stem(word) for word in re.findall(r"\w+", text.lower()) if word not in STOP_WORDS | _ASKING]


@functools.cache
def _stemmer() -> Callable[[str], str]:
    import Stemmer

    stem: Callable[[str], str] = Stemmer.Stemmer("english").stemWord
    return stem


def tokenize(text: str) -> Iterator[str]:
    """Words in lower case without stop words; ``os.path.join``, ``snake_case`` and ``camelCase`` whole and in parts."""
    for match in _WORD.finditer(text):
        word = match.group()
        whole = word.lower()
        if whole in STOP_WORDS:
            continue
        yield whole
        parts = (_PART if word.isascii() else _PART_NOT_ASCII).findall(word)
        if parts != [word]:  # "__init__" has one part, and is asked for as "init"
            yield from (part.lower() for part in parts)
