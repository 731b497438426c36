from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokay.annotate.recorded import DEMO, RecordedAnnotator, sign, similarity_of, write_signatures
from tokay.errors import TokayError
from tokay.records import Failure, Judgment, Passage, Query, sha256_text

LONG = " ".join(f"word{i} and its neighbour{i % 7}" for i in range(60))


def passage(passage_id: str, text: str) -> Passage:
    return Passage(passage_id, passage_id, "", text, sha256_text(text), "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    queries = [
        {
            "query_id": f"{p}#{k}",
            "seed_id": p,
            "seed_sha256": sha256_text(text),
            "task": "t",
            "query": f"q {p} {k}",
            "judged": k == 1,
        }
        for p, text in (("a", LONG), ("b", "text of b"), ("gone", "x"))
        for k in (0, 1)
    ]
    judgments = [
        {"query_id": "a#1", "passage_id": p, "passage_sha256": sha256_text(t), "grade": g, "best": p == "a"}
        for p, t, g in (("b", "text of b", 0), ("a", LONG, 3), ("gone", "x", 1))
    ]
    pq.write_table(pa.Table.from_pylist(queries), tmp_path / "queries.parquet")
    pq.write_table(pa.Table.from_pylist(judgments), tmp_path / "judgments.parquet")
    return tmp_path


def test_plays_back_and_leaves_unjudged_pairs_unjudged(folder: Path) -> None:
    annotator = RecordedAnnotator(folder)
    corpus = {p.passage_id: p for p in (passage("a", LONG), passage("b", "text of b"), passage("c", "never seen"))}
    made = list(annotator.generate(corpus.values(), per_passage=2))
    queries = [q for q in made if isinstance(q, Query)]
    assert [q.query_id for q in queries] == ["a#0", "a#1", "b#0", "b#1"]
    assert [q.judged for q in queries] == [False, True, False, True]
    assert annotator.candidates(queries[1]) == ["b", "a", "gone"]
    assert annotator.candidates(queries[0]) == []
    graded = list(annotator.judge([(q, list(corpus.values())) for q in queries]))
    assert [(g.query_id, g.passage_id, g.grade, g.best) for g in graded if isinstance(g, Judgment)] == [
        ("a#1", "a", 3, True),
        ("a#1", "b", 0, False),
    ]
    assert [q.query_id for q in annotator.generate(corpus.values(), per_passage=1) if isinstance(q, Query)] == [
        "a#0",
        "b#0",
    ]


def test_a_changed_text_goes_without_unless_nearly_the_same(folder: Path) -> None:
    near = LONG.replace("word7 ", "term7 ")
    far = passage("a", LONG[: len(LONG) // 2])
    [failure] = [x for x in RecordedAnnotator(folder).generate([passage("a", near)], per_passage=2) if x.item_id == "a"]  # type: ignore[union-attr]
    assert isinstance(failure, Failure)
    assert "text differs from the recorded one" in failure.reason
    assert write_signatures([passage("a", LONG), passage("b", "text of b")], {"a"}, folder / "signatures.parquet") == 1
    annotator = RecordedAnnotator(folder)
    assert annotator.match(passage("a", near))[0] == "near"
    assert annotator.match(far)[0] == "changed"
    assert annotator.match(passage("b", "another text"))[0] == "changed"
    queries = [q for q in annotator.generate([passage("a", near)], per_passage=2) if isinstance(q, Query)]
    assert "nearly the same: 0.9" in queries[0].answer_id
    [judged] = list(annotator.judge([(queries[1], [far])]))
    assert isinstance(judged, Failure)


def test_one_byte_signatures_estimate_jaccard() -> None:
    a, b = LONG, LONG + " " + " ".join(f"other{i}" for i in range(80))
    shingles = [{tuple(t.split()[i : i + 3]) for i in range(len(t.split()) - 2)} for t in (a, b)]
    exact = len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])
    assert similarity_of(sign(a), sign(b)) == pytest.approx(exact, abs=0.12)
    assert similarity_of(sign(a), sign(a)) == 1.0
    assert similarity_of(sign(a), sign("nothing like it at all, not one phrase")) < 0.05


def test_broken_recordings(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(TokayError, match=r"queries.parquet is missing; --llm recorded:FOLDER expects"):
        RecordedAnnotator(tmp_path / "none")
    (folder / "judgments.parquet").write_text("not parquet")
    with pytest.raises(TokayError, match=r"judgments.parquet is not a Parquet file"):
        RecordedAnnotator(folder)
    pq.write_table(pa.table({"query_id": ["a"]}), folder / "judgments.parquet")
    with pytest.raises(TokayError, match=r"missing: passage_id, passage_sha256, grade, best"):
        RecordedAnnotator(folder)


def test_the_demo_recording_is_whole() -> None:
    annotator = RecordedAnnotator(DEMO)
    assert len(annotator.seeds) == 1560
    assert annotator.name == "recorded"
    assert pq.read_table(DEMO / "judgments.parquet").num_rows == 15600
    assert pq.read_table(DEMO / "queries.parquet").num_rows == 3120
