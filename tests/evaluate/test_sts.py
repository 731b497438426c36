"""Semantic similarity: what a table has to look like, and scipy's correlation over cosines done by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

from tiny import WORDS, tiny_base
from tokay.errors import TokayError
from tokay.evaluate.sts import Pairs, read_sts, sts_spearman
from tokay.models.embedder import Embedder

PAIRS: Pairs = (
    tuple(" ".join(WORDS[i : i + 4]) for i in range(12)),
    tuple(" ".join(WORDS[i + 1 + i % 3 : i + 6]) for i in range(12)),
    tuple(float(i % 5) for i in range(12)),
)


def table(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pair(score: Any = 1.0) -> dict[str, Any]:
    return {"sentence1": "a list", "sentence2": "a map", "score": score}


def by_hand(embedder: Embedder, pairs: Pairs, *, dim: int | None = None) -> float:
    left, right = (np.asarray(embedder.encode(side, kind="query", dim=dim), np.float64) for side in pairs[:2])
    cosines = [float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(left, right, strict=True)]
    return float(spearmanr(cosines, pairs[2]).statistic)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_pairs(tmp_path: Path, suffix: str) -> None:
    rows = [{"score": s, "sentence1": a, "more": "x", "sentence2": b} for a, b, s in zip(*PAIRS, strict=True)]
    path = tmp_path / f"sts.{suffix}"
    if suffix == "jsonl":
        table(path, *rows)
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        comma = {"csv": ",", "tsv": "\t"}[suffix]
        lines = [comma.join(rows[0]), *(comma.join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    assert read_sts(path) == PAIRS


@pytest.mark.parametrize("missing", ["sentence1", "sentence2", "score"])
def test_a_missing_column_is_named(tmp_path: Path, missing: str) -> None:
    rows = [{key: value for key, value in pair().items() if key != missing}] * 3
    with pytest.raises(TokayError, match=rf"sts.jsonl has no column {missing}; expected sentence1, sentence2, score"):
        read_sts(table(tmp_path / "sts.jsonl", *rows))


@pytest.mark.parametrize("score", ["high", None, [1], ""])
def test_a_score_that_is_no_number_is_refused(tmp_path: Path, score: Any) -> None:
    with pytest.raises(TokayError, match=r"sts.jsonl: a score is no number"):
        read_sts(table(tmp_path / "sts.jsonl", pair(), pair(score), pair()))


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused(tmp_path: Path, score: float) -> None:
    with pytest.raises(TokayError, match=r"sts.jsonl has 3 pairs; expected at least two, each with a score"):
        read_sts(table(tmp_path / "sts.jsonl", pair(), pair(score), pair()))


def test_one_pair_has_no_ranks(tmp_path: Path) -> None:
    with pytest.raises(TokayError, match=r"sts.jsonl has 1 pairs; expected at least two"):
        read_sts(table(tmp_path / "sts.jsonl", pair()))


def test_a_sentence_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokayError, match=r"sts.jsonl"):
        read_sts(table(tmp_path / "sts.jsonl", pair(), {"sentence1": "a", "score": 1.0}, pair()))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dim", [None, 8])
def test_the_figure_is_scipys_over_cosines(normalize: bool, dim: int | None) -> None:
    embedder = Embedder.load(tiny_base(normalize=normalize, prompts=("query: ", "passage: ")), device="cpu")
    found = sts_spearman(embedder, PAIRS, dim=dim)
    assert found == pytest.approx(by_hand(embedder, PAIRS, dim=dim), abs=1e-9)
    assert abs(found) < 0.9  # or another figure could be the same


def test_both_sentences_are_read_as_queries() -> None:
    """Their prompt is the query's: another one for passages changes nothing."""
    some, other = (
        sts_spearman(Embedder.load(tiny_base(prompts=(query, "result")), device="cpu"), PAIRS)
        for query in ("", "river stone cloud flame")
    )
    assert some == sts_spearman(Embedder.load(tiny_base(prompts=("", "glass")), device="cpu"), PAIRS)
    assert some != other


def test_texts_that_come_often_and_ties_of_scores_do_no_harm() -> None:
    embedder = Embedder.load(tiny_base(), device="cpu")
    left, right, _ = PAIRS
    pairs = ((*left, left[0], right[1]), (*right, left[0], left[1]), (*[1.0, 2.0] * 6, 2.0, 1.0))
    assert sts_spearman(embedder, pairs) == pytest.approx(by_hand(embedder, pairs), abs=1e-9)


def test_the_order_of_pairs_and_of_their_sides_does_not_matter() -> None:
    embedder = Embedder.load(tiny_base(), device="cpu")
    left, right, scores = PAIRS
    expected = sts_spearman(embedder, PAIRS)
    assert sts_spearman(embedder, (right, left, scores)) == pytest.approx(expected)
    assert sts_spearman(embedder, (left[::-1], right[::-1], scores[::-1])) == pytest.approx(expected)
