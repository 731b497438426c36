"""Text to token ids, by the ``tokenizers`` library alone: the same ids with and without transformers."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokay.errors import MissingExtra, TokayError

_OF_PAIRS = -1
"""In place of a limit: the tokenizer cuts pairs now, and has to be told again how to cut texts."""


class PairIds(list[int]):
    """Token ids of a query and a passage that are read together; ``second`` is where the passage's part begins."""

    def __init__(self, ids: Iterable[int], second: int) -> None:
        super().__init__(ids)
        self.second = second

    def __reduce__(self) -> tuple[Any, ...]:
        return PairIds, (list(self), self.second)


class Tokens:
    """A tokenizer that several threads may use.

    Args:
        tokenizer: of the ``tokenizers`` library; it becomes this object's own.
        pad: the id that fills a micro-batch up.
        left: whether padding stands on the left.
    """

    def __init__(self, tokenizer: Any, *, pad: int, left: bool) -> None:
        self.tokenizer = tokenizer
        self.tokenizer.no_padding()
        self.pad = pad
        self.left = left
        self.tokenizer.no_truncation()
        self._limit: int | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Tokens, pad=self.pad, left=self.left), (self.tokenizer,)

    @classmethod
    def read(cls, folder: Path) -> Tokens:
        """The tokenizer of a model's folder.

        Raises:
            TokayError: there is no ``tokenizer.json``, or it cannot be read.
        """
        try:
            from tokenizers import Tokenizer
        except ModuleNotFoundError as error:
            raise MissingExtra("a model without torch", "serve", "tokenizers") from error

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise TokayError(f"{folder} has no tokenizer.json; expected a model as tokay export writes it")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises Exception itself
            raise TokayError(f"{path} is no tokenizer: {error}") from error
        about = folder / "tokenizer_config.json"
        entries = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
        token = entries.get("pad_token") or "[PAD]"
        name = token["content"] if isinstance(token, dict) else token
        return cls(tokenizer, pad=tokenizer.token_to_id(name) or 0, left=entries.get("padding_side") == "left")

    def encode(self, texts: Sequence[str], limit: int | None = None, *, special: bool = True) -> list[list[int]]:
        """Token ids.

        Args:
            texts: any strings; a lone surrogate, which is no text, is read as U+FFFD.
            limit: tokens to keep of each, special tokens among them; None: all.
            special: put the special tokens around each.
        """
        clean = [text if text.isascii() else whole(text) for text in texts]
        with self._lock:  # truncation is the tokenizer's state
            if limit != self._limit:
                if limit is None:
                    self.tokenizer.no_truncation()
                else:
                    self.tokenizer.enable_truncation(limit)
                self._limit = limit
            return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(clean, add_special_tokens=special)]

    def encode_pairs(self, pairs: Sequence[tuple[str, str]], limit: int) -> list[PairIds]:
        """Token ids of (query, passage) pairs with their special tokens, as the tokenizer puts two texts together.

        A long passage is cut; a query is cut too where it would fill more than half of the window.

        Args:
            pairs: any strings, read as ``encode`` reads them.
            limit: tokens of a pair, special tokens among them.
        """
        queries = {query: whole(query) for query, _ in pairs}
        tokens = dict(zip(queries, self.encode(list(queries.values()), special=False), strict=True))
        for query, ids in tokens.items():
            if len(ids) > limit // 2:
                queries[query] = self.parts(queries[query], limit // 2)[0]
        clean = [(queries[query], passage if passage.isascii() else whole(passage)) for query, passage in pairs]
        with self._lock:
            self.tokenizer.enable_truncation(limit, strategy="only_second")
            self._limit = _OF_PAIRS
            found = self.tokenizer.encode_batch(clean)
        return [PairIds(e.ids, e.type_ids.index(1) if 1 in e.type_ids else len(e.ids)) for e in found]

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json``, without a cut of its own."""
        with self._lock:
            self.tokenizer.no_truncation()
            self._limit = None
            self.tokenizer.save(str(folder / "tokenizer.json"))

    def fingerprint(self) -> str:
        """Equal for tokenizers that give the same ids and padding."""
        with self._lock:
            self.tokenizer.no_truncation()
            self._limit = None
            return hashlib.sha256(f"{self.pad} {self.left} {self.tokenizer.to_str()}".encode()).hexdigest()

    def padded(self, ids: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """N lists of token ids as one array (N, L), filled up to the longest, and its mask: 1 for tokens."""
        longest = max(len(row) for row in ids)
        tokens = np.full((len(ids), longest), self.pad, np.int64)
        mask = np.zeros_like(tokens)
        for i, row in enumerate(ids):
            part = slice(longest - len(row), None) if self.left else slice(len(row))
            tokens[i, part] = row
            mask[i, part] = 1
        return tokens, mask

    def types(self, ids: Sequence[PairIds]) -> NDArray[np.int64]:
        """Beside ``padded``, what says which text a token is of: 1 in a passage's part and 0 elsewhere, (N, L)."""
        longest = max(len(row) for row in ids)
        types = np.zeros((len(ids), longest), np.int64)
        for i, row in enumerate(ids):
            start = longest - len(row) if self.left else 0
            types[i, start + row.second : start + len(row)] = 1
        return types

    def count(self, text: str) -> int:
        """Tokens of a text, special tokens left out."""
        return len(self.encode([text], special=False)[0])

    def parts(self, text: str, tokens: int) -> list[str]:
        """Cut a text into parts of at most ``tokens`` tokens, before words where it can; at least one part."""
        with self._lock:
            self.tokenizer.no_truncation()
            self._limit = None
            encoding = self.tokenizer.encode(whole(text), add_special_tokens=False)
        offsets, words = encoding.offsets, encoding.word_ids
        starts = [0]
        while len(offsets) - starts[-1] > tokens:
            end = starts[-1] + tokens
            while end > starts[-1] and words[end] is not None and words[end] == words[end - 1]:
                end -= 1
            starts.append(end if end > starts[-1] else starts[-1] + tokens)
        cuts = [0, *(offsets[i][0] for i in starts[1:]), len(text)]
        return [text[a:b] for a, b in itertools.pairwise(cuts)]


def whole(text: str) -> str:
    """The text with pairs of surrogates joined and lone ones, which no tokenizer takes, replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
