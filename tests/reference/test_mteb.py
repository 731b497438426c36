"""Equality with mteb 2: each category by mteb's own task code on made data, and results that mteb loads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from made_tasks import TASKS
from tiny import tiny_base
from tokay.evaluate.benchmark import Contestant, open_contestant, run_task, write_result
from tokay.evaluate.categories import _thresholds, spearman
from tokay.evaluate.published import SAMPLES, SETS
from tokay.evaluate.tasks import (
    Classification,
    Clustering,
    Pairs,
    Reranking,
    Retrieval,
    Similarity,
    Summarization,
    Task,
)
from tokay.models.format import GECKO

mteb = pytest.importorskip("mteb", reason="mteb is not installed (extra 'mteb')")
datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.reference

from tokay.evaluate.mteb import TokayEncoder, find_tasks, meta_of, register  # noqa: E402


@pytest.fixture(scope="module", params=[("", ""), ("query: ", "passage: "), (GECKO.query, GECKO.passage)])
def model(request: pytest.FixtureRequest) -> Contestant:
    return open_contestant(str(tiny_base(prompts=request.param)), device="cpu")


def metadata(task: Task) -> Any:
    return mteb.TaskMetadata(
        name=task.name,
        description="made",
        reference=None,
        dataset={"path": "made/made", "revision": "1"},
        type=task.category,
        category="t2t",
        modalities=["text"],
        eval_splits=[task.split],
        eval_langs=["eng-Latn"],
        main_score=task.main,
        date=None,
        domains=None,
        task_subtypes=None,
        license=None,
        annotations_creators=None,
        dialect=None,
        sample_creation=None,
        bibtex_citation=None,
    )


def theirs(task: Task) -> Any:
    """The same data as a task of mteb's."""
    from mteb.abstasks import (
        AbsTaskClassification,
        AbsTaskClustering,
        AbsTaskClusteringLegacy,
        AbsTaskPairClassification,
        AbsTaskRetrieval,
        AbsTaskSTS,
    )
    from mteb.abstasks.text.summarization import AbsTaskSummarization

    rows: Callable[[dict[str, Sequence[Any]]], Any] = datasets.Dataset.from_dict
    more: dict[str, Any] = {}
    match task:
        case Similarity():
            base = AbsTaskSTS
            data = rows({"sentence1": task.first, "sentence2": task.second, "score": task.scores})
        case Pairs():
            base = AbsTaskPairClassification
            data = rows({"sentence1": task.first, "sentence2": task.second, "labels": task.labels})
        case Classification():
            base = AbsTaskClassification
            data = rows({"text": task.test, "label": task.test_labels})
            more = {"samples_per_label": task.samples_per_label, "is_cross_validation": not task.train}
            if not task.train:
                more["train_split"] = task.split
        case Clustering() if task.drawn:
            base, more = AbsTaskClustering, {"max_fraction_of_documents_to_embed": None}
            data = rows({"sentences": task.sets[0][0], "labels": task.sets[0][1]})
        case Clustering():
            base = AbsTaskClusteringLegacy
            data = rows({"sentences": [list(s) for s, _ in task.sets], "labels": [list(t) for _, t in task.sets]})
        case Summarization():
            base, more = AbsTaskSummarization, {"min_score": 0, "max_score": 5}
            data = rows(
                {
                    "text": [str(n) for n in range(len(task.human))],
                    "human_summaries": [list(row) for row in task.human],
                    "machine_summaries": [list(row) for row in task.machine],
                    "relevance": [list(row) for row in task.relevance],
                }
            )
        case Retrieval():
            base, data = AbsTaskRetrieval, searched(task.queries, task.passages, task.qrels, None)
        case Reranking():
            base = AbsTaskRetrieval
            queries, passages, qrels, top = {}, {}, {}, {}
            for n, (query, right, wrong) in enumerate(zip(task.queries, task.positives, task.negatives, strict=True)):
                ids = {f"apositive_{n}_{i:05}": text for i, text in enumerate(right)}
                ids |= {f"negative_{n}_{i:05}": text for i, text in enumerate(wrong)}
                queries[str(n)], top[str(n)] = query, list(ids)
                qrels[str(n)] = {i: int(i.startswith("apositive")) for i in ids}
                passages |= {i: ("", text) for i, text in ids.items()}
            data = searched(queries, passages, qrels, top)
        case _:
            raise AssertionError(task)
    kind = type("Made", (base,), {"metadata": metadata(task), **more})
    made = kind()
    if isinstance(task, Classification) and task.train:
        made.dataset = {task.split: data, "train": rows({"text": task.train, "label": task.train_labels})}
    else:
        made.dataset = {task.split: data}
    if isinstance(task, Retrieval | Reranking):
        made.dataset = {"default": made.dataset}
    else:
        made.dataset = {"default": datasets.DatasetDict(made.dataset)}
    made.data_loaded = True
    return made


def searched(queries: Any, passages: Any, qrels: Any, top: Any) -> Any:
    return {
        "corpus": datasets.Dataset.from_list([{"id": i, "title": t, "text": x} for i, (t, x) in passages.items()]),
        "queries": datasets.Dataset.from_list([{"id": i, "text": x} for i, x in queries.items()]),
        "relevant_docs": {q: dict(grades) for q, grades in qrels.items()},
        "top_ranked": top,
    }


@pytest.mark.parametrize("name", TASKS)
def test_a_category_is_measured_as_mteb_does(name: str, model: Contestant) -> None:
    task = TASKS[name]
    ours = run_task(model, task)
    found = mteb.evaluate(TokayEncoder.of(model), theirs(task), cache=None, co2_tracker=False, show_progress_bar=False)
    wanted = found.task_results[0].scores[task.split][0]
    assert ours.main == pytest.approx(wanted["main_score"], abs=1e-5)  # mteb rounds means of rankings to five digits
    shared = {k: v for k, v in ours.scores.items() if k in wanted and isinstance(v, float) and wanted[k] is not None}
    assert len(shared) >= 2
    assert shared == pytest.approx({k: wanted[k] for k in shared}, abs=1e-5)


def test_a_side_of_mteb_is_written_as_gecko_writes_it() -> None:
    model = open_contestant(str(tiny_base(prompts=(GECKO.query, GECKO.passage))), device="cpu")
    seen: list[str] = []
    plain = model.embedder.tokenize
    model.embedder.tokenize = lambda batch: seen.extend(batch) or plain(batch)  # type: ignore[method-assign, func-returns-value]
    for name in ("retrieval", "STS"):
        mteb.evaluate(TokayEncoder.of(model), theirs(TASKS[name]), cache=None, co2_tracker=False)
    assert any(text.startswith("task: fact checking | query: ") for text in seen)
    assert any(text.startswith("title: title ") and " | text: " in text for text in seen)
    assert any(text.startswith("title: none | text: ") for text in seen)
    assert any(text.startswith("task: semantic similarity | query: ") for text in seen)


def test_results_are_read_by_mteb(tmp_path: Path) -> None:
    model = open_contestant(str(tiny_base()), device="cpu", dim=8, max_tokens=16)
    result = run_task(model, TASKS["STS"])
    path = write_result(tmp_path, model, result, dataset_revision="abc")
    meta = meta_of(model)
    cache = mteb.ResultCache(tmp_path)
    assert path == cache.get_task_result_path("STSBenchmark", meta)
    loaded = cache.load_task_result("STSBenchmark", meta)
    assert loaded is not None
    assert loaded.get_score() == pytest.approx(result.main, abs=1e-6)
    assert loaded.dataset_revision == "abc"
    assert loaded.scores["test"][0]["languages"] == ["eng-Latn"]
    again = cache.load_results(include_remote=False, load_experiments="match_name")
    assert [(r.model_name, t.task_name) for r in again.model_results for t in r.task_results] == [
        (model.name, "STSBenchmark")
    ]


def test_a_registered_model_is_loaded_by_its_name() -> None:
    folder = str(tiny_base())
    register(folder, name="acme/docs")
    encoder = mteb.get_model("acme/docs", device="cpu")
    assert isinstance(encoder, TokayEncoder)
    assert isinstance(encoder, mteb.EncoderProtocol)
    assert encoder.mteb_model_meta.name == encoder.model.name == "acme/docs"
    narrow = mteb.get_model("acme/docs", device="cpu", embed_dim=32)
    assert narrow.model.dim == 32
    task = TASKS["STS"]
    found = mteb.evaluate(encoder, theirs(task), cache=None, co2_tracker=False).task_results[0]
    assert found.get_score() == pytest.approx(run_task(open_contestant(folder, device="cpu"), task).main, abs=1e-6)


def test_the_sets_that_gecko_averages_are_mtebs() -> None:
    tasks = mteb.get_benchmark("MTEB(eng, v1)").tasks
    by: dict[str, set[str]] = {}
    for task in tasks:
        by.setdefault(task.metadata.type, set()).add(task.metadata.name)
    assert by == {category: set(names) for category, names in SETS.items()}
    taken = {t.metadata.name: t.samples_per_label for t in tasks if t.metadata.type == "Classification"}
    assert {name: n for name, n in taken.items() if n != 8} == SAMPLES
    mains = {t.metadata.name: t.metadata.main_score for t in tasks}
    for task in TASKS.values():
        some = next(n for n in SETS[task.category] if n != "MindSmallReranking")  # it merges queries
        assert mains[some] == task.main


def test_an_unknown_task_is_named_with_the_nearest() -> None:
    from tokay.errors import TokayError

    assert [t.metadata.name for t in find_tasks("SciFact")] == ["SciFact"]
    assert len(find_tasks("MTEB(eng, v1)")) == 56
    with pytest.raises(TokayError, match=r"mteb has no task or benchmark 'SciFacts'; did you mean 'SciFact'\?"):
        find_tasks("SciFacts")


def test_spearman_is_scipys() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    for levels in (2, 5, 1000):
        a, b = rng.integers(0, levels, 60).astype(float), rng.random(60).round(1)
        assert spearman(a, b) == pytest.approx(float(spearmanr(a, b).statistic), abs=1e-12)


def test_thresholds_do_not_split_ties_as_in_mteb() -> None:
    made = theirs(TASKS["pairs"])
    rng = np.random.default_rng(0)
    for levels in (1, 2, 4, 300):
        for _ in range(20):
            scores, labels = rng.integers(0, levels, 40).astype(np.float32), rng.integers(0, 2, 40)
            labels[:2] = 0, 1
            wanted = made._compute_metrics_values(scores.tolist(), labels, True)
            assert _thresholds(scores, labels) == pytest.approx(wanted, abs=1e-9)
