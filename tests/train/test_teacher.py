"""A teacher's scores in place of grades."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tokay.errors import TokayError
from tokay.progress import Silent
from tokay.search.dense import unit
from tokay.train.embedder import maker_of
from tokay.train.teacher import taught
from tokay.trainset import check_teacher
from train_data import PASSAGES, ROWS, base, judged, settings, source


class Words:
    """Scores a pair by the words that both have; no model, so that every score is known."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        self.seen += pairs
        return np.array([len({*q.split()} & {*p.split()}) / 2 for q, p in pairs], np.float32)


def test_each_row_has_scores_of_what_was_judged_and_of_what_the_base_finds() -> None:
    embedder, teacher = base(), Words()
    kept = {name: text for name, text in PASSAGES.items() if name != "p9"}  # p9 is held out
    vectors = embedder.encode([text for _, text in kept.values()], titles=[title for title, _ in kept.values()])
    rows = [judged(2), *ROWS[3:8]]
    made = taught(source(rows=rows), teacher, embedder, unit(vectors), kept, 6, Silent())
    queries = unit(embedder.encode([row.query for row in rows], kind="query"))
    nearest = np.argsort(-(queries @ unit(vectors).T), axis=1)[:, :6]
    for row, near in zip(rows, nearest, strict=True):
        wanted = {row.positive_id, *row.candidate_ids, *(list(kept)[i] for i in near)} - {"p9"}
        assert made.taught[row.query_id].keys() == wanted
        for name, score in made.taught[row.query_id].items():
            title, text = PASSAGES[name]
            assert score == len({*row.query.split()} & {title, *text.split()}) / 2
    assert len(teacher.seen) == len(set(teacher.seen))


def test_a_batch_has_the_teachers_scores() -> None:
    scores = {"q0": {"p0": 2.5, "p5": -1.0, "p7": 0.25}}
    own = source(rows=[judged(0), judged(1)], taught=scores)
    maker = maker_of(base(), settings(distil="kl", distil_candidates=3))
    batch = maker.make([(own, row) for row in own.rows], 0)
    by_query = {row[1].query_id: i for i, row in enumerate(batch.rows)}
    assert sorted(batch.grades[by_query["q0"]].tolist()) == [-1.0, 0.25, 2.5]
    assert set(batch.grades[by_query["q1"]].tolist()) <= {0.0, 1.0, 2.0, 3.0}


def test_a_teacher_that_teaches_nothing_is_told() -> None:
    with pytest.raises(TokayError, match=r"distil_teacher needs train.distil = 'kl', and it is 'none'"):
        check_teacher(settings(distil_teacher="minilm"))
    with pytest.raises(TokayError, match=r"a mixture has no run; leave it out"):
        check_teacher(settings(distil_teacher="minilm", distil="kl"), of_run=False)
    with pytest.raises(TokayError, match="there is no model"):
        check_teacher(settings(distil_teacher="/nothing/here", distil="kl"))
    check_teacher(settings())
