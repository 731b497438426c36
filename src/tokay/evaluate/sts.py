"""Semantic textual similarity: what a model knew before it was tuned, and should know after."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from tokay.errors import TokayError
from tokay.evaluate.categories import cosines, spearman
from tokay.models.embedder import Embedder

Pairs = tuple[tuple[str, ...], tuple[str, ...], tuple[float, ...]]


def read_sts(path: Path) -> Pairs:
    """First sentences, second sentences and scores of a table with the columns sentence1, sentence2 and score.

    Args:
        path: .parquet, .csv, .tsv or .jsonl.

    Raises:
        TokayError: a column is missing, a score is no number, or there are fewer than two pairs.
    """
    from tokay.tables import open_table

    table = open_table(str(path))
    wanted = ("sentence1", "sentence2", "score")
    if missing := [name for name in wanted if name not in table.columns]:
        raise TokayError(f"{path} has no column {', '.join(missing)}; expected {', '.join(wanted)}")
    rows = [row for _, row in table.read(wanted)]
    if number := next((n for n, row in enumerate(rows, 1) if None in row[:2]), 0):
        raise TokayError(f"{path}: row {number} lacks a sentence; expected both in every row")
    try:
        scores = tuple(float(row[2]) for row in rows)
    except (TypeError, ValueError) as error:
        raise TokayError(f"{path}: a score is no number ({error})") from error
    if len(rows) < 2 or not all(map(math.isfinite, scores)):
        raise TokayError(f"{path} has {len(rows)} pairs; expected at least two, each with a score")
    return tuple(str(row[0]) for row in rows), tuple(str(row[1]) for row in rows), scores


def sts_spearman(embedder: Embedder, pairs: Pairs, *, dim: int | None = None) -> float:
    """Spearman's rank correlation of cosines and people's scores, ties by mean rank: MTEB's figure for STS.

    Args:
        embedder: sentences are encoded as queries, since both sides are of one kind.
        pairs: of ``read_sts``.
        dim: a Matryoshka width.
    """
    left, right, scores = pairs
    texts = list(dict.fromkeys([*left, *right]))
    vectors = embedder.encode(texts, kind="query", dim=dim)
    place = {text: i for i, text in enumerate(texts)}
    a, b = (vectors[[place[text] for text in side]] for side in (left, right))
    return spearman(np.asarray(scores), cosines(a, b))
