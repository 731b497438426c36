"""BM25 over words and code identifiers, on bm25s (Lù 2024): a library's scoring, our tokens."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokay.errors import TokayError, did_you_mean

K1 = 0.9
B = 0.4
"""The settings of Pyserini's and BEIR's BM25 baselines (Lin et al. 2021; Thakur et al. 2021)."""
ENGLISH = "english"
AUTO = "auto"
"""In place of a language: that of most texts."""
NO_LANGUAGE = "none"
"""Neither stems nor stop words."""

_WORD = re.compile(r"\w+(?:\.\w+)*")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_PART_NOT_ASCII = re.compile(r"[^\W\d_]+|\d+")  # capitals inside a word are told apart in ASCII only
_NO_BLANKS = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
"""Kana and Han, which are written without blanks between words."""

STOP_WORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these "
    "they this to was will with".split()
)
"""Lucene's English list."""


ASKING = frozenset("how what which when where who why do does did can could should i you we my your me".split())
_ABOUT = "tokay.json"


class BM25:
    """An index in memory. Equal scores are in order of index; a passage without a query word is no hit.

    Args:
        texts: the passages.
        k1: how slowly the gain of a further occurrence falls.
        b: how much long passages are held back, 0 to 1.
        language: whose stems and stop words are used, as ``languages`` names them.

    Raises:
        TokayError: there is no stemmer for the language.
    """

    def __init__(self, texts: Iterable[str], *, k1: float = K1, b: float = B, language: str = ENGLISH) -> None:
        import bm25s

        self._prepare(language)
        self.k1, self.b = k1, b
        tokens = [[self._ids.setdefault(token, len(self._ids)) for token in self._tokens(text)] for text in texts]
        self.passages = len(tokens)
        self._index = bm25s.BM25(k1=k1, b=b, method="lucene")
        if self._ids:
            self._index.index((tokens, dict(self._ids)), create_empty_token=False, show_progress=False)

    def _prepare(self, language: str) -> None:
        self.language = language
        self._stem, self._stop_words = stemmer_of(language), stop_words(language)
        self._stemmed: dict[str, str] = {}
        self._ids: dict[str, int] = {}

    def save(self, folder: Path) -> None:
        """Write the index into a folder of its own, which is made."""
        folder.mkdir()
        about = {"k1": self.k1, "b": self.b, "language": self.language, "passages": self.passages}
        (folder / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
        if self._ids:
            self._index.save(folder, corpus=None, show_progress=False)

    @classmethod
    def load(cls, folder: Path) -> BM25:
        """Open what ``save`` wrote; the scores are mapped into memory, not read."""
        import bm25s

        about: dict[str, Any] = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        opened = cls.__new__(cls)
        opened._prepare(about["language"])
        opened.k1, opened.b, opened.passages = about["k1"], about["b"], about["passages"]
        opened._index = bm25s.BM25(method="lucene")
        if len(list(folder.iterdir())) > 1:
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
            found = self.scores(query)
            best = best_of(found, k, among=among)
            indices[row, : len(best)] = best
            scores[row, : len(best)] = found[best]
        return indices, scores

    def scores(self, query: str) -> NDArray[np.float32]:
        """Of every passage, (N,); 0 where it has no word of the query."""
        known = [self._ids[token] for token in self._tokens(query) if token in self._ids]
        if not known:
            return np.zeros(self.passages, np.float32)
        return np.asarray(self._index.get_scores_from_ids(known), np.float32)

    def terms(self, query: str) -> list[str]:
        """A query's different terms, in order: what is looked for."""
        return list(dict.fromkeys(self._tokens(query)))

    def idf(self, term: str) -> float:
        """``ln(1 + (N - df + 0.5) / (df + 0.5))``, Lucene's."""
        df = 0
        if (token := self._ids.get(term)) is not None:
            starts = self._index.scores["indptr"]
            df = int(starts[token + 1] - starts[token])
        return float(np.log1p((self.passages - df + 0.5) / (df + 0.5)))

    def _tokens(self, text: str) -> Iterator[str]:
        for token in tokenize(text, self._stop_words):
            stem = self._stemmed.get(token)
            if stem is None:
                stem = self._stemmed[token] = self._stem(token)
            yield stem


def best_of(scores: NDArray[np.float32], k: int, *, among: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Indices of the k highest scores above 0, best first, equal ones by index.

    Args:
        scores: of every passage, (N,).
        k: how many.
        among: the only indices that may be found, in ascending order; None: all.
    """
    hits = np.flatnonzero(scores > 0) if among is None else among[scores[among] > 0]
    if len(hits) > 4 * k:
        bar = np.partition(scores[hits], -k)[-k]
        hits = hits[scores[hits] >= bar]
    return np.asarray(hits[np.lexsort((hits, -scores[hits]))[:k]], np.int64)


def content_words(text: str) -> list[str]:
    """Stems of a text's words without stop words and without the words of questions: what it is about."""
    stem = stemmer_of(ENGLISH)
    return [stem(word) for word in re.findall(r"\w+", text.lower()) if word not in STOP_WORDS | ASKING]


def languages() -> list[str]:
    """The languages that there are stems of: Snowball's algorithms by name, and ``none``."""
    import Stemmer

    return [NO_LANGUAGE, *Stemmer.algorithms()]


@functools.cache
def stemmer_of(language: str) -> Callable[[str], str]:
    """Word in lower case -> stem.

    Raises:
        TokayError: there is no stemmer for the language.
    """
    import Stemmer

    if language == NO_LANGUAGE:
        return str
    if language not in Stemmer.algorithms():
        raise TokayError(
            f"there are no stems for the language {language!r}{did_you_mean(language, languages())}; expected one of "
            f"{', '.join(languages())}"
        )
    stem: Callable[[str], str] = Stemmer.Stemmer(language).stemWord
    return stem


def check_language(language: str, option: str) -> None:
    """Raise where there are no stems of the language that an option or a setting names."""
    if language != AUTO and language not in languages():
        raise TokayError(
            f"{option} is {language!r}, of which there are no stems{did_you_mean(language, [AUTO, *languages()])}; "
            f"expected auto or one of {', '.join(languages())}"
        )


def stop_words(language: str) -> frozenset[str]:
    """Of a language: Lucene's list for English, bm25s's for those that it has; no word for any other."""
    from bm25s import stopwords

    if language == ENGLISH:
        return STOP_WORDS
    return frozenset(getattr(stopwords, f"STOPWORDS_{language.upper()}", ()))


def tokenize(text: str, stop_words: frozenset[str] = STOP_WORDS) -> Iterator[str]:
    """Words in lower case without stop words; ``os.path.join``, ``snake_case`` and ``camelCase`` whole and in parts.

    Text without blanks between words, such as Chinese, is told in pairs of neighbouring characters.
    """
    for match in _WORD.finditer(text):
        word = match.group()
        whole = word.lower()
        if whole in stop_words:
            continue
        if not word.isascii() and _NO_BLANKS.search(word):
            yield from _pairs(word)
            continue
        yield whole
        parts = (_PART if word.isascii() else _PART_NOT_ASCII).findall(word)
        if parts != [word]:  # "__init__" has one part, and is asked for as "init"
            yield from (part.lower() for part in parts)


def _pairs(word: str) -> Iterator[str]:
    """Neighbouring characters of the runs without blanks, as Lucene's CJKAnalyzer has them; the rest as words."""
    end = 0
    for run in _NO_BLANKS.finditer(word):
        if word[end : run.start()]:
            yield word[end : run.start()].lower()
        letters = run.group()
        yield from (letters[i : i + 2] for i in range(max(1, len(letters) - 1)))
        end = run.end()
    if word[end:]:
        yield word[end:].lower()
