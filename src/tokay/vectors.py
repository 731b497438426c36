"""Vectors of a whole corpus, and the cut that suits it.

The first lines of a passage often say what it is about; more text can dilute a mean-pooled vector. How many
tokens to read is therefore a choice, made with the base model on training-side queries, for base and tuned alike.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokay.evaluate.metrics import evaluate_run
from tokay.models.embedder import Embedder
from tokay.progress import Progress
from tokay.records import Passage, Query
from tokay.search.dense import top_k, unit
from tokay.search.hybrid import as_run

CUTS = (128, 256)
"""Tokens: what small models are trained with, and half of it, which is twice as fast."""

MARGIN = 0.01
"""A longer cut must gain this much nDCG@10. Written queries dwell on details deep in a passage more than people's
own do, so they favour long cuts: on Python's manual they gain 0.009 from 256 tokens, where independent human
questions lose 0.013."""

SAMPLE = 1500
"""Passages that the cut is tried on."""

WINDOW = 8192


def with_cut(embedder: Embedder, cut: int) -> Embedder:
    """The same weights reading at most ``cut`` tokens."""
    embedder.config = dataclasses.replace(embedder.config, max_tokens=cut)
    return embedder


def encode_corpus(
    embedder: Embedder, passages: Iterator[Passage], count: int, path: Path, progress: Progress
) -> NDArray[np.float32]:
    """Encode passages in their order into a ``.npy`` file: float32 (N, D), mapped into memory, not held in it."""
    vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, embedder.width))
    at = 0
    while window := list(islice(passages, WINDOW)):
        texts, titles = [p.text for p in window], [p.title for p in window]
        vectors[at : at + len(window)] = unit(embedder.encode(texts, titles=titles, progress=progress))
        at += len(window)
    vectors.flush()
    return vectors


def choose_cut(quality: Mapping[int, float]) -> int:
    """The shortest cut within ``MARGIN`` of the best."""
    if len(quality) == 1:
        return next(iter(quality))
    best = max(quality.values())
    return min(cut for cut, value in quality.items() if value >= best - MARGIN)


def try_cuts(
    embedder: Embedder,
    passages: Iterable[Passage],
    queries: Sequence[Query],
    *,
    cuts: Sequence[int],
    progress: Progress,
) -> dict[int, float]:
    """nDCG@10 of a model at each cut: queries against a sample of passages with all their seeds among them.

    Args:
        embedder: the base; a cut above its own limit is tried at that limit.
        passages: the corpus.
        queries: training-side; the seed counts as the one relevant passage.
        cuts: tokens.
        progress: advanced by the number of texts.

    Returns:
        Cut -> nDCG@10; a single NaN when there is nothing to choose or to measure on.
    """
    cuts = sorted({min(cut, embedder.config.max_tokens) for cut in cuts})
    if not queries or len(cuts) == 1:
        return {cuts[0]: math.nan}
    sample = _sample(passages, {q.seed_id for q in queries})
    ids = [p.passage_id for p in sample]
    known = set(ids)
    asked = [q for q in queries if q.seed_id in known]
    qrels = {q.query_id: {q.seed_id: 1} for q in asked}
    written = [embedder.config.prompts.write_passage(p.text, p.title) for p in sample]
    lengths = [len(row) for row in embedder.tokenize(written)]
    query_vectors = unit(embedder.encode([q.text for q in asked], kind="query"))
    vectors: NDArray[np.float32] = np.zeros((len(sample), embedder.width), np.float32)
    quality: dict[int, float] = {}
    limit, done = embedder.config.max_tokens, 0
    for cut in cuts:
        again = [i for i, length in enumerate(lengths) if length > done]  # the rest has the same vector at both cuts
        progress.start(f"base at {cut} tokens, on a sample", len(again))
        if again:
            chosen = [sample[i] for i in again]
            texts, titles = [p.text for p in chosen], [p.title for p in chosen]
            vectors[again] = unit(with_cut(embedder, cut).encode(texts, titles=titles, progress=progress))
        run = as_run(top_k(query_vectors, vectors, 10), (q.query_id for q in asked), ids)
        quality[cut] = float(np.mean(list(evaluate_run(qrels, run)["ndcg@10"].values())))
        done = cut
    with_cut(embedder, limit)
    return quality


def _sample(passages: Iterable[Passage], seeds: set[str]) -> list[Passage]:
    """At most ``SAMPLE`` passages, seeds first, in the order of a hash of their ids."""

    def key(item: Passage) -> tuple[bool, bytes]:
        return item.passage_id not in seeds, hashlib.sha256(item.passage_id.encode("utf-8", "surrogatepass")).digest()

    kept: list[Passage] = []
    for passage in passages:
        kept.append(passage)
        if len(kept) >= 4 * SAMPLE:
            kept = sorted(kept, key=key)[:SAMPLE]
    return sorted(kept, key=key)[:SAMPLE]
