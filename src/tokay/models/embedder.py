"""The one encode path: texts are written, tokenised, sorted by length, run in micro-batches, cut, normalised.

What runs a micro-batch is a back-end: torch (``torch_embedder``), onnxruntime (``onnx_embedder``) or a table of
token vectors (``static_embedder``). No torch here: a server needs none.

Letters: N texts, L tokens, D width of the model, d a Matryoshka width.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tokay.errors import TokayError
from tokay.models.batching import by_token_budget
from tokay.models.folder import EmbedderConfig
from tokay.models.precision import Calibration, Precision, to_precision
from tokay.models.running import Ids, Run, Runner, Vectors, mapped
from tokay.models.tasks import Kind, side_of
from tokay.models.tokens import Tokens
from tokay.progress import Progress, Silent
from tokay.search.dense import unit

Backend = Literal["torch", "onnx", "onnx-int8", "static"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
Long = Literal["truncate", "chunk"]
TEXTS_PER_WINDOW = 8192
"""Texts that are sorted together; the next window is tokenised while this one is run."""

Written = tuple[Callable[[str], str], str]
"""What writes a text, or a part of it, as the model's format has it; and the text."""
Cut = tuple[list[list[int]], list[int]]
"""Token ids of all windows, and how many of them each text has."""


class Embedder(ABC):
    """Texts in, vectors out.

    Cosine is the dot product of what ``encode`` returns: rows have length 1 when the folder has a Normalize
    module or a Matryoshka width was asked for.

    Attributes:
        config: what the folder says: pooling, prompts, cut, widths.
        tokens: its tokenizer.
        calibration: the range of each number, for int8 vectors; None where the folder has none.
    """

    tokens_per_batch: ClassVar[int] = 2048
    """Padded tokens of one micro-batch."""

    config: EmbedderConfig
    tokens: Tokens
    calibration: Calibration | None = None
    space: str = ""
    """Fingerprint of its vector space, where whoever loaded it found it out (``models.space``)."""

    @staticmethod
    def load(
        name_or_path: str | Path,
        *,
        backend: Backend = "torch",
        device: str | None = None,
        threads: int | None = None,
        merge: bool = True,
    ) -> Embedder:
        """Load a sentence-transformers folder, a plain transformers folder (mean pooling), or a Hub name.

        Args:
            name_or_path: a folder, a run, ``minilm``, or a name on the Hub.
            backend: ``torch``; or what ``tokay export`` wrote into the folder: ``onnx``, ``onnx-int8``, ``static``.
            device: of torch: ``cpu``, ``cuda``, …; None: a GPU when there is one.
            threads: of the CPU, for one micro-batch; None: as many as there are cores.
            merge: of torch: add an adapter's matrices to the base's weights, which is faster than to keep them beside.

        Raises:
            TokayError: there is no such model, it was not exported to that back-end, or it has a module that Tokay
                does not run.
            MissingExtra: the back-end's package is not installed.
        """
        if threads is not None and threads < 1:
            raise TokayError(f"threads is {threads}; expected 1 or more (this machine has {os.cpu_count()} cores)")
        if backend not in BACKENDS:
            raise TokayError(f"backend is {backend!r}; expected one of {', '.join(BACKENDS)}")
        from tokay.models.two_sides import TwoSided, is_two_sided

        folder = Path(name_or_path).expanduser()
        if is_two_sided(folder):
            if backend != "torch":
                raise TokayError(f"{folder} has a query side of its own, and no form for {backend}; leave backend out")
            return TwoSided(folder, device=device, threads=threads)
        if backend == "torch":
            from tokay.models.torch_embedder import TorchEmbedder

            return TorchEmbedder.load(name_or_path, device=device, threads=threads, merge=merge)
        if backend == "static":
            from tokay.models.static_embedder import StaticEmbedder

            return StaticEmbedder.load(name_or_path)
        from tokay.models.onnx_embedder import OnnxEmbedder

        return OnnxEmbedder.load(name_or_path, int8=backend == "onnx-int8", threads=threads)

    @property
    @abstractmethod
    def width(self) -> int:
        """D, the number of dimensions of a full vector."""

    def of(self, kind: str) -> Embedder:
        """What encodes texts of a kind: this embedder, or a side of it that is for them."""
        del kind
        return self

    @abstractmethod
    def run(self, ids: Ids) -> Vectors:
        """Vectors of one micro-batch, as the model gives them: N lists of token ids -> (N, D)."""

    def keep_once(self, kept: dict[str, Any]) -> None:  # noqa: B027  # a graph and a table have nothing to share
        """Hold what equals something in ``kept`` only once, and add the rest to it; the model is then only run."""

    @property
    def runner(self) -> Runner:
        """What runs its micro-batches: itself, or what several embedders over one base share."""
        return self

    def addressed(self, ids: Ids) -> Ids:
        """Token ids as ``runner`` takes them, which may be told whose they are."""
        return ids

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids with the special tokens, cut at ``max_tokens``."""
        return self.tokens.encode(texts, self.config.max_tokens)

    def write(self, texts: Iterable[str], *, kind: str = "passage", titles: Iterable[str] | None = None) -> list[str]:
        """The texts as the model's format has them, which is what ``tokenize`` takes; arguments as of ``encode``."""
        side, task = side_of(kind)
        return [write(text) for write, text in self._written(texts, side, titles, task)]

    def finish(self, vectors: NDArray[np.float32], dim: int | None = None) -> NDArray[np.float32]:
        """What ``run`` gives to what ``encode`` returns: cut to ``dim`` and at length 1; (N, D) -> (N, dim)."""
        return unit(vectors, dim) if self.config.normalize or dim is not None else vectors

    def __repr__(self) -> str:
        c = self.config
        widths = f", dims {', '.join(map(str, c.dims))}" if c.dims else ""
        return f"<{type(self).__name__}: {self.width} numbers{widths}; {c.max_tokens} tokens; {c.prompts}>"

    # -- encode ---------------------------------------------------------------------------------------------------

    def encode(
        self,
        texts: Iterable[str],
        *,
        kind: str = "passage",
        titles: Iterable[str] | None = None,
        task: str | None = None,
        dim: int | None = None,
        long: Long = "truncate",
        precision: Precision = "float32",
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> NDArray[Any]:
        """Encode texts in the order given.

        Args:
            texts: the texts; an iterable is consumed in windows, so only the vectors need memory.
            kind: ``query`` or ``passage``, whose prompt is put in front; or a task in any client's words
                (``RETRIEVAL_QUERY``, ``search_document``, ``text-matching``, …).
            titles: one for each passage, written as the model's format has it.
            task: Gecko's task of a query; None: what ``kind`` says, or the saved prompt's.
            dim: keep the first ``dim`` numbers of each vector and re-normalise (Matryoshka).
            long: of a text above ``max_tokens`` encode its beginning, or the mean of windows by their tokens.
            precision: of the numbers; one byte needs ``calibration``.
            workers: micro-batches that run at a time, each on its share of the cores; None: one for each core.
            progress: advanced by the number of texts.

        Returns:
            (N, D) or (N, dim), float32 unless ``precision`` says otherwise.

        Raises:
            TokayError: an argument is not one that exists, or ``texts`` is a single string.
        """
        parts = list(
            self.stream(
                texts,
                kind=kind,
                titles=titles,
                task=task,
                dim=dim,
                long=long,
                precision=precision,
                workers=workers,
                progress=progress,
            )
        )
        empty = np.zeros((0, dim or self.width), np.float32)
        return np.concatenate(parts) if parts else to_precision(empty, precision, self.calibration)

    def stream(
        self,
        texts: Iterable[str],
        *,
        kind: str = "passage",
        titles: Iterable[str] | None = None,
        task: str | None = None,
        dim: int | None = None,
        long: Long = "truncate",
        precision: Precision = "float32",
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> Iterator[NDArray[Any]]:
        """As ``encode``, window by window: corpora whose vectors do not fit into memory."""
        if isinstance(texts, str):
            raise TokayError("encode() takes a list of texts and got one string; write encode([text])")
        if dim is not None and not 1 <= dim <= self.width:
            raise TokayError(f"dim is {dim}; this model has vectors of {self.width} numbers, so 1 to {self.width}")
        if long not in ("truncate", "chunk"):
            raise TokayError(f"long is {long!r}; expected 'truncate' or 'chunk'")
        side, named = side_of(kind)
        if side == "query" and titles is not None:
            raise TokayError(f"titles are of passages, and kind is {kind!r}; leave them out, or encode passages")
        if side == "passage" and task is not None:
            raise TokayError(f"task {task!r} is of a query, and kind is {kind!r}; say kind='query'")
        window = self._truncated if long == "truncate" else self._chunked
        written = self._written(texts, side, titles, task or named)
        return self._windows(written, window, dim, precision, workers, progress or Silent())

    def _windows(
        self,
        texts: Iterator[Written],
        window: Callable[[Sequence[Written]], Cut],
        dim: int | None,
        precision: Precision,
        workers: int | None,
        progress: Progress,
    ) -> Iterator[NDArray[Any]]:
        """Windows of texts to windows of vectors; the next window is tokenised while one is run."""

        def finished(found: Cut) -> NDArray[Any]:
            vectors = self.finish(self._vectors(*found, workers, progress), dim)
            return to_precision(vectors, precision, self.calibration)

        first = list(islice(texts, TEXTS_PER_WINDOW))
        if len(first) < TEXTS_PER_WINDOW:  # all there is: a thread would take longer to start than a short query does
            if first:
                yield finished(window(first))
            return
        with ThreadPoolExecutor(1) as ahead:
            waiting = ahead.submit(window, first)
            while (found := waiting.result())[1]:
                waiting = ahead.submit(window, list(islice(texts, TEXTS_PER_WINDOW)))
                yield finished(found)

    def _vectors(
        self, ids: list[list[int]], counts: list[int], workers: int | None, progress: Progress
    ) -> NDArray[np.float32]:
        """One vector a text of its ``counts`` windows of ids, (N, D)."""
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        groups = by_token_budget(order, ids, self.tokens_per_batch)
        vectors = np.empty((len(ids), self.width), np.float32)
        batches = [[ids[i] for i in group] for group in groups]
        share = len(counts) / len(ids)
        done = 0
        with mapped(self, workers, len(batches)) as over:
            for group, part in zip(groups, over(batches), strict=True):
                vectors[group] = part
                progress.advance(round(share * (done + len(group))) - round(share * done))
                done += len(group)
        if len(ids) == len(counts):
            return vectors
        weights = np.array([len(row) for row in ids], np.float32)[:, None]
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        return np.asarray(
            np.add.reduceat(unit(vectors) * weights, starts) / np.add.reduceat(weights, starts), np.float32
        )

    def _written(
        self, texts: Iterable[str], kind: Kind, titles: Iterable[str] | None, task: str | None
    ) -> Iterator[Written]:
        """Each text with what writes it, or a part of it, as the model's format has it."""
        prompts = self.config.prompts
        texts = _checked(texts)
        if kind == "query":
            ask = partial(prompts.write_query, task=task) if task else prompts.write_query
            return ((ask, text) for text in texts)
        if titles is None:
            return ((prompts.write_passage, text) for text in texts)
        return ((partial(prompts.write_passage, title=title), text) for text, title in _pairs(texts, titles))

    def _truncated(self, texts: Sequence[Written]) -> Cut:
        return self.tokenize([write(text) for write, text in texts]), [1] * len(texts)

    def _chunked(self, texts: Sequence[Written]) -> Cut:
        windows, counts = [], []
        for write, text in texts:
            room = self.config.max_tokens - len(self.tokens.encode([write("")])[0])
            parts = self.tokens.parts(text, room) if room > 0 else [text]  # a title that fills the window alone
            windows += [write(part) for part in parts]
            counts.append(len(parts))
        return self.tokenize(windows), counts

    # -- cores ----------------------------------------------------------------------------------------------------

    @property
    def threads(self) -> int:
        """Cores that one call of ``run`` uses; 0 where the work is not the CPU's."""
        return os.cpu_count() or 1

    @contextlib.contextmanager
    def shared(self, workers: int) -> Iterator[Run]:
        """A ``run`` for several threads at a time, each with its share of the cores."""
        del workers
        yield self.run


def _checked(texts: Iterable[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TokayError(f"text {number} is {text!r:.80}; expected a string")
        yield text


def _pairs(texts: Iterable[str], titles: Iterable[str]) -> Iterator[tuple[str, str]]:
    for number, (text, title) in enumerate(zip_longest(texts, titles)):
        if text is None or not isinstance(title, str):
            raise TokayError(f"text {number} is {text!r:.80} and its title {title!r:.80}; expected one title a text")
        yield text, title
