"""A static model: the mean of one vector a token. No transformer, no torch: a table and a tokenizer.

Letters: N texts, V tokens of the vocabulary, D width.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokay.errors import MissingExtra, TokayError
from tokay.models.embedder import Embedder
from tokay.models.folder import EmbedderConfig, read_prompts
from tokay.models.locate import find_export
from tokay.models.precision import Calibration
from tokay.models.running import Ids, Vectors
from tokay.models.tokens import Tokens
from tokay.progress import Progress

FOLDER, TABLE = "static", "model.safetensors"
TEXTS_PER_SUM = 64
"""Texts whose token vectors are gathered at a time: they stay in the cache."""
WORDS_KEPT = 200_000


class StaticEmbedder(Embedder):
    """A folder that sentence-transformers loads as ``StaticEmbedding``; texts are read to their end."""

    def __init__(self, table: NDArray[np.float32], tokens: Tokens, config: EmbedderConfig) -> None:
        self.table = table
        self.tokens = tokens
        self.config = config
        self.words = Words(tokens) if is_bert(tokens) else None

    @classmethod
    def load(cls, name_or_path: str | Path) -> StaticEmbedder:  # type: ignore[override]
        """As ``Embedder.load``.

        Raises:
            TokayError: the folder has no table of token vectors.
        """
        try:
            from safetensors.numpy import load_file
        except ModuleNotFoundError as error:
            raise MissingExtra("a static model", "serve", "safetensors") from error
        folder = Path(name_or_path).expanduser()
        if not _is_static(folder):
            folder = find_export(name_or_path, f"{FOLDER}/{TABLE}", "static") / FOLDER
        try:
            table = load_file(folder / TABLE)["embedding.weight"].astype(np.float32)
        except (OSError, KeyError, ValueError) as error:
            raise TokayError(f"{folder / TABLE} holds no table 'embedding.weight': {error}") from error
        prompts, dims = read_prompts(folder)
        config = EmbedderConfig("mean", True, 10**9, prompts, dims)
        embedder = cls(table, Tokens.read(folder), config)
        embedder.calibration = Calibration.load(folder)
        return embedder

    @property
    def width(self) -> int:
        """D, the number of dimensions of a full vector."""
        return int(self.table.shape[1])

    @property
    def threads(self) -> int:
        """One: memory is what takes the time."""
        return 1

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids without special tokens, of whole texts."""
        return self.words.encode(texts) if self.words else self.tokens.encode(texts, special=False)

    def run(self, ids: Ids) -> Vectors:
        """As ``Embedder.run``; a text without tokens has the vector 0."""
        vectors = np.zeros((len(ids), self.width), np.float32)
        for start in range(0, len(ids), TEXTS_PER_SUM):
            part = ids[start : start + TEXTS_PER_SUM]
            lengths = np.fromiter(map(len, part), np.int64, len(part))
            some = np.flatnonzero(lengths)
            if not len(some):
                continue
            flat = np.fromiter(chain.from_iterable(part), np.int64, int(lengths.sum()))
            starts = np.concatenate([[0], np.cumsum(lengths[some])[:-1]])
            vectors[start + some] = np.add.reduceat(self.table[flat], starts) / lengths[some, None]
        return vectors

    def _vectors(
        self, ids: list[list[int]], counts: list[int], workers: int | None, progress: Progress
    ) -> NDArray[np.float32]:
        """There is no padding to save, so nothing is sorted."""
        del counts, workers
        progress.advance(len(ids))
        return self.run(ids)

    def _chunked(self, texts: Sequence[tuple[object, str]]) -> tuple[list[list[int]], list[int]]:
        """The mean over windows is the mean over the text."""
        return self._truncated(texts)  # type: ignore[arg-type]


class Words:
    """BERT's tokenizer on ASCII texts, by the ids of each word that was seen: five times as fast as from scratch.

    Whatever is not plain ASCII goes to the tokenizer itself, and each new word does.
    """

    WORD = re.compile(r"[a-z0-9]+|[!-/:-@\[-`{-~]")
    """What BERT's pre-tokenizer makes of lower-case ASCII: runs of letters and digits, and every other sign alone."""
    CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.special = [str(token) for token in tokens.tokenizer.get_added_tokens_decoder().values()]
        vocabulary = tokens.tokenizer.get_vocab(with_added_tokens=False)
        # a word of the vocabulary is one token, as the longest piece that fits is taken first
        self.seen = {word: [token] for word, token in vocabulary.items() if self.WORD.fullmatch(word)}
        self.lock = threading.Lock()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids without special tokens."""
        found: list[list[int]] = []
        for text in texts:
            if not self._is_plain(text):
                found += self.tokens.encode([text], special=False)
                continue
            words = self.WORD.findall(text.lower())
            try:
                found.append([token for word in words for token in self.seen[word]])
            except KeyError:
                self._learn(words)
                found.append([token for word in words for token in self.seen[word]])
        return found

    def _is_plain(self, text: str) -> bool:
        return text.isascii() and not self.CONTROL.search(text) and not any(token in text for token in self.special)

    def _learn(self, words: Sequence[str]) -> None:
        with self.lock:
            if len(self.seen) > WORDS_KEPT:
                self.seen = {}
            new = [word for word in dict.fromkeys(words) if word not in self.seen]
            self.seen |= dict(zip(new, self.tokens.encode(new, special=False), strict=True))


def is_bert(tokens: Tokens) -> bool:
    """Whether a tokenizer cuts words as BERT's lower-casing one does."""
    parts = json.loads(tokens.tokenizer.to_str())
    normalizer, before = parts["normalizer"] or {}, parts["pre_tokenizer"] or {}
    return (
        parts["model"]["type"] == "WordPiece"
        and before.get("type") == "BertPreTokenizer"
        and normalizer.get("type") == "BertNormalizer"
        and bool(normalizer.get("lowercase"))
    )


def _is_static(folder: Path) -> bool:
    modules = folder / "modules.json"
    return modules.is_file() and "StaticEmbedding" in modules.read_text(encoding="utf-8")
