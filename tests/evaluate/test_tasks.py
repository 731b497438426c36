"""Local task folders: every category and format, the sets as people keep them, and what is said of bad ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_tasks import TASKS, columns_of, folder_of, texts, write
from tiny import tiny_base
from tokay.errors import TokayError
from tokay.evaluate.benchmark import Contestant, open_contestant, run_task
from tokay.evaluate.categories import cosines, few_shot, pair_scores, sts_scores, summary_scores
from tokay.evaluate.published import GECKO, averages, mteb_name
from tokay.evaluate.sides import side_of_text
from tokay.evaluate.taskfolders import read_task
from tokay.evaluate.tasks import (
    Classification,
    Clustering,
    Reranking,
    Retrieval,
    Summarization,
)
from tokay.models.format import GECKO as GECKO_FORMAT
from tokay.models.format import InputFormat


@pytest.fixture(scope="module")
def model() -> Contestant:
    return open_contestant(str(tiny_base()), device="cpu")


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".tsv"])
@pytest.mark.parametrize("name", TASKS)
def test_a_folder_gives_the_task_that_was_written(name: str, suffix: str, tmp_path: Path, model: Contestant) -> None:
    task = TASKS[name]
    lists = isinstance(task, Reranking | Summarization) or (isinstance(task, Clustering) and not task.drawn)
    if suffix == ".tsv" and isinstance(task, Clustering) and not task.drawn:
        pytest.skip("a cell of TSV holds no list")
    folder = folder_of(task, tmp_path / task.name, suffix)
    if suffix == ".tsv" and lists:
        with pytest.raises(TokayError, match=r"is no list of (texts|numbers)"):
            read_task(str(folder))
        return
    read = read_task(str(folder), samples_per_label=getattr(task, "samples_per_label", 0))
    assert (type(read), read.name, read.split, read.size) == (type(task), task.name, task.split, task.size)
    if isinstance(task, Retrieval):
        kept = {q: grades for q, grades in task.qrels.items() if any(grades.values())}
        assert read == Retrieval(
            name=task.name, split="test", queries={q: task.queries[q] for q in kept}, passages=task.passages, qrels=kept
        )
    elif suffix != ".tsv" and not lists:
        assert read == task
    assert run_task(model, read).main == pytest.approx(run_task(model, task).main, abs=1e-6)


def test_the_first_split_that_is_there_is_measured_or_the_one_that_is_named(tmp_path: Path) -> None:
    for split, shift in (("train", 0), ("validation", 1), ("dev", 2)):
        write(tmp_path / f"{split}.jsonl", {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [shift, 3]})
    assert read_task(str(tmp_path)).split == "dev"
    assert read_task(str(tmp_path), split="validation").scores == (1.0, 3.0)  # type: ignore[attr-defined]
    with pytest.raises(TokayError, match=r"is no task: it has .*; expected .* or a table test \("):
        read_task(str(tmp_path), split="test")


def test_a_category_can_be_named(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", columns_of(TASKS["classification"]))
    assert isinstance(read_task(str(tmp_path)), Classification)
    assert isinstance(read_task(f"clustering:{tmp_path}"), Clustering)
    with pytest.raises(TokayError, match=r"'clusters' is no category; .*; did you mean 'Clustering'\?"):
        read_task(f"clusters:{tmp_path}")
    with pytest.raises(
        TokayError, match=r"test.jsonl has the columns text, label; STS needs sentence1, sentence2, score"
    ):
        read_task(f"STS:{tmp_path}")
    with pytest.raises(TokayError, match=r"has no corpus.jsonl or corpus.parquet; expected a BEIR folder"):
        read_task(f"retrieval:{tmp_path}")


def test_pairs_may_count_their_classes_the_other_way_round(tmp_path: Path) -> None:
    names = ["entailment", "not_entailment", "entailment"]
    columns = {"sentence1": ["a", "b", "c"], "sentence2": ["d", "e", "f"], "label": [0, 1, 0], "label_text": names}
    write(tmp_path / "test.jsonl", columns)
    assert read_task(str(tmp_path)).labels == (1, 0, 1)  # type: ignore[attr-defined]
    write(tmp_path / "test.jsonl", {**columns, "label": [1, 0, 1]})
    assert read_task(str(tmp_path)).labels == (1, 0, 1)  # type: ignore[attr-defined]


def test_texts_of_several_classes_are_left_out_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "all.jsonl", {"text": list(texts(12, 0)), "label": [-1, 0, 1, -1, *[0, 1] * 4]})
    task = read_task(str(tmp_path))
    assert isinstance(task, Classification)
    assert (len(task.test), task.left_out) == (10, {"texts without a single label": 2})


STS = {"sentence1": ["a", "b"], "sentence2": ["c", "d"]}
TEXT = {"text": list(texts(12, 0))}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1, 2]}, r"fits no category: test.jsonl has the columns a; expected those of one \(.*STS: sentence1"),
        ({**STS, "score": [1, 7]}, r"test.jsonl line 2: score is 7, out of MTEB's range of 0 to 5: scale it"),
        ({**STS, "score": [1, -1]}, r"line 2: score is -1, out of MTEB's range"),
        ({**STS, "score": [1, "x"]}, r"line 2: score is 'x', no number"),
        ({**STS, "score": [2, 2]}, r"has 2 pairs, all of one score; expected at least two scores"),
        ({**STS, "label": [1, 1]}, r"has 2 pairs, all of label 1; expected labels 0 and 1"),
        ({**STS, "label": [1, 2]}, r"line 2: label is '2', not 0 or 1"),
        ({"sentence1": ["a"], "sentence2": ["b"], "score": [1]}, r"test.jsonl has 1 rows; expected at least two"),
        ({**STS, "sentence1": ["a", ""], "score": [1, 2]}, r"line 2: sentence1 is empty"),
        ({**TEXT, "label": [1] * 12}, r"all 12 texts have one label; expected at least two classes"),
        ({"text": ["a", "b"], "label": [0, 1]}, r"has 2 texts and no file train .* expected at least 10"),
        ({**TEXT, "label": [-1] * 12}, r"none of 12 texts has a label"),
        (
            {"query": ["a", "b"], "positive": [["x"], []], "negative": [[], ["y"]]},
            r"none of 2 queries has both positive and negative candidates",
        ),
        ({"query": ["a", "b"], "positive": ["x", "z"], "negative": [["y"]] * 2}, r"positive is no list of texts"),
        (
            {"human_summaries": [["a"]] * 2, "machine_summaries": [["b", "c"]] * 2, "relevance": [[1], [2]]},
            r"line 1: 2 machine_summaries and 1 scores of relevance; expected one each",
        ),
        (
            {"human_summaries": [["a"]] * 2, "machine_summaries": [["b", "c"]] * 2, "relevance": [[1, 9], [2, 3]]},
            r"relevance holds one that is 9, out of MTEB's range of 0 to 5",
        ),
        (
            {"human_summaries": [["a"]] * 2, "machine_summaries": [["b", "c"]] * 2, "relevance": [[1, 1], [2, 2]]},
            r"the summaries of every text have one score",
        ),
        ({"sentences": [["a"], ["b"]], "labels": [[1, 2], [1]]}, r"line 1: 1 texts and 2 labels; expected one a text"),
        ({"sentences": [["a"], ["b"]], "labels": [[1], [1]]}, r"every set has texts of one class"),
    ],
)
def test_a_bad_table_is_one_sentence(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", columns)
    with pytest.raises(TokayError, match=message) as caught:
        read_task(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_training_split_of_one_class_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", {"text": ["a", "b"], "label": [0, 1]})
    write(tmp_path / "train.jsonl", {"text": ["a", "b"], "label": [0, 0]})
    with pytest.raises(TokayError, match=r"all 2 training texts have one label"):
        read_task(str(tmp_path))


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        TokayError, match=r"there is no folder or file .*nothing; expected one with a task, or mteb:TASK"
    ):
        read_task(str(tmp_path / "nothing"))
    (tmp_path / "readme.md").write_text("x")
    with pytest.raises(TokayError, match=r"is no task: it has readme.md; expected corpus, queries and qrels \(BEIR\)"):
        read_task(str(tmp_path))


# -- sides, and what is published -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("category", "name", "place", "gecko", "own"),
    [
        ("Classification", "Any", None, ("query", "classification"), ("query", None)),
        ("STS", "STS12", None, ("query", "semantic similarity"), ("query", None)),
        ("Clustering", "Any", None, ("query", "search result"), ("query", None)),
        ("Retrieval", "SciFact", "query", ("query", "fact checking"), ("query", None)),
        ("Retrieval", "SciFact", "document", ("passage", None), ("passage", None)),
        ("Retrieval", "ArguAna", "query", ("query", "semantic similarity"), ("query", None)),
        ("Retrieval", "NQ", "query", ("query", "question answering"), ("query", None)),
        ("Retrieval", "QuoraRetrieval", "document", ("query", "search result"), ("passage", None)),
        ("Reranking", "Any", "query", ("query", "question answering"), ("query", None)),
    ],
)
def test_sides_are_those_of_geckos_table_9(category: str, name: str, place: Any, gecko: Any, own: Any) -> None:
    assert side_of_text(GECKO_FORMAT, category, name, place) == gecko
    assert side_of_text(InputFormat("query: ", "passage: "), category, name, place) == own


def test_a_mean_is_comparable_only_over_the_same_sets() -> None:
    means = averages([("STS", "STS12", 0.7), ("STS", "mine", 0.9), ("Summarization", "SummEval", 0.3)])
    assert [(m.category, round(m.points, 6), m.sets, m.theirs, m.of, m.comparable) for m in means] == [
        ("STS", 80.0, 2, 1, 10, False),
        ("Summarization", 30.0, 1, 1, 1, True),
    ]
    assert means[1].gecko == tuple(row[6] for row in GECKO.values())
    assert (mteb_name("STSB"), mteb_name("mine")) == ("STSBenchmark", "mine")


def test_geckos_average_is_that_of_its_categories() -> None:
    """The eighth number of each row, over 56 sets: a slip of the pen in the table would show."""
    from tokay.evaluate.published import SETS

    sizes = [len(names) for names in SETS.values()]
    assert sum(sizes) == 56
    for row in GECKO.values():
        assert np.average(row[:7], weights=sizes) == pytest.approx(row[7], abs=0.02)


# -- what must not matter -------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.floats(0.1, 50))
def test_neither_order_nor_length_of_vectors_matters(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 20, 6)).astype(np.float32)
    scores, labels = rng.integers(0, 6, 20).astype(float), rng.integers(0, 2, 20)
    labels[:2], scores[:2] = (0, 1), (0, 1)
    order = rng.permutation(20)
    plain, other = (
        sts_scores(a, b, scores.tolist()),
        sts_scores(scale * a[order], b[order], scores[order].tolist()),
    )
    assert other == pytest.approx(plain, abs=1e-6)
    cosine = {k: v for k, v in pair_scores(a, b, labels.tolist()).items() if k.startswith("cosine")}
    moved = pair_scores(scale * a[order], b[order], labels[order].tolist())
    assert {k: moved[k] for k in cosine} == pytest.approx(cosine, abs=1e-6)
    assert np.all(np.abs(cosines(a, b)) <= 1 + 1e-6)


@given(st.lists(st.integers(0, 3), min_size=4, max_size=60))
def test_experiments_draw_as_many_of_each_class_as_there_are(labels: list[int]) -> None:
    for rows in few_shot(labels, samples_per_label=5):
        drawn = [labels[i] for i in rows]
        assert len(set(rows)) == len(rows)
        assert {label: drawn.count(label) for label in set(labels)} == {
            label: min(5, labels.count(label)) for label in set(labels)
        }


def test_texts_whose_scores_are_all_equal_have_no_say_in_summaries() -> None:
    rng = np.random.default_rng(0)
    machine, human = ([rng.normal(size=(4, 5)).astype(np.float32) for _ in range(3)] for _ in range(2))
    relevance = [[1.0, 2.0, 3.0, 4.0], [2.0] * 4, [4.0, 1.0, 2.0, 2.0]]
    kept = summary_scores([machine[0], machine[2]], [human[0], human[2]], [relevance[0], relevance[2]])
    assert summary_scores(machine, human, relevance) == kept


def test_a_model_that_gives_all_texts_one_vector_is_told_from_a_bad_score() -> None:
    class Flat(Contestant):
        def encoder(self, *_: Any) -> Any:
            return lambda texts, place, titles=None: np.ones((len(texts), 4), np.float32)

    flat = Flat("flat", "0", open_contestant(str(tiny_base()), device="cpu").embedder)
    with pytest.raises(TokayError, match=re.escape("flat gives all texts of STSBenchmark one similarity")):
        run_task(flat, TASKS["STS"])
