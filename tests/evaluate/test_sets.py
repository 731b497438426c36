from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tokay.errors import TokayError
from tokay.evaluate.sets import beir_set, hub_set, own_set, written_set
from tokay.records import Judgment, Passage, Query

CORPUS = [{"_id": f"d{i}", "title": f"t{i}", "text": f"river stone {i}"} for i in range(5)]
QUERIES = [{"_id": f"q{i}", "text": f"stone {i}"} for i in range(4)]
LABELS = [("q0", "d0", 2), ("q0", "d1", 0), ("q1", "d1", 1), ("q2", "d2", 0), ("q3", "gone", 1), ("none", "d0", 1)]


def jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    jsonl(beir / "corpus.jsonl", CORPUS)
    jsonl(beir / "queries.jsonl", QUERIES)
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in LABELS)]
    (beir / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return beir


def test_a_beir_folder(folder: Path) -> None:
    found = beir_set(str(folder))
    assert [p.passage_id for p in found.passages] == found.ids == [f"d{i}" for i in range(5)]
    assert found.primary == ["q0", "q1"]
    assert found.qrels == {"q0": {"d0": 2, "d1": 0}, "q1": {"d1": 1}}
    assert found.judged == {"q0": {"d0", "d1"}, "q1": {"d1"}}
    assert found.dropped == {
        "labels of unknown passages": 1, "labels of unknown queries": 1, "queries without a relevant passage": 1,
    }  # fmt: skip
    assert found.group_of("q0") == "q0"


def test_the_hub_has_the_same_set_in_three_layouts(folder: Path) -> None:
    tables = {"corpus": CORPUS, "queries": QUERIES}
    labels = [{"query-id": q, "corpus-id": d, "score": s} for q, d, s in LABELS]

    def stream(where: tuple[str, str]) -> Any:
        def rows(name: str, split: str, configuration: str) -> Any:
            if name == "n" and configuration in tables:
                return tables[configuration]
            if (name, configuration) == where and split == "test":
                return [{key.replace("-", "_") if name == "n" else key: v for key, v in row.items()} for row in labels]
            raise TokayError("there is none")

        return rows

    local = beir_set(str(folder))
    for where in (("n-qrels", ""), ("n", "default"), ("n", "qrels")):
        found = hub_set("n", stream=stream(where))
        assert (found.ids, found.qrels, found.judged) == (local.ids, local.qrels, local.judged)
        assert [q.text for q in found.queries] == [q.text for q in local.queries]
        assert [(p.title, p.text) for p in found.passages] == [(p.title, p.text) for p in local.passages]
    with pytest.raises(TokayError, match="hf:n has no labels of the split 'dev' in n-qrels or its configurations"):
        hub_set("n", split="dev", stream=stream(("n", "default")))
    with pytest.raises(TokayError, match=r"hf:n has the columns a, b; expected _id among them"):
        hub_set("n", stream=lambda *_: [{"a": 1, "b": 2}])


def test_a_folder_in_the_hubs_layout(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    hub = tmp_path / "hub"
    hub.mkdir()
    jsonl(hub / "corpus.jsonl", CORPUS)
    jsonl(hub / "queries.jsonl", QUERIES)
    jsonl(hub / "test.jsonl", ({"query-id": q, "corpus-id": d, "score": s} for q, d, s in LABELS))
    files = [("corpus", "corpus", "corpus"), ("queries", "queries", "queries"), ("default", "test", "test")]
    entries = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: {split}\n    path: {file}.jsonl\n"
        for name, split, file in files
    )
    (hub / "README.md").write_text(f"---\nconfigs:\n{entries}---\n")
    assert hub_set(str(hub)).qrels == beir_set(str(folder)).qrels


def test_labels_of_a_users_own(folder: Path, tmp_path: Path) -> None:
    queries = jsonl(tmp_path / "mine.jsonl", [{"_id": "a", "text": "one"}, {"_id": "b", "text": "two"}])
    qrels = tmp_path / "mine.tsv"
    qrels.write_text("a 0 d1 1\nb 0 d2 3\n")
    found = beir_set(str(folder / "corpus.jsonl"), queries=str(queries), qrels=str(qrels))
    assert found.qrels == {"a": {"d1": 1}, "b": {"d2": 3}}
    again = own_set("x", found.passages, queries=str(queries), qrels=str(qrels))
    assert again.qrels == found.qrels
    for given, said in (
        ({"queries": str(queries)}, "--queries comes without --qrels"),
        ({"qrels": str(qrels)}, "--qrels comes without --queries"),
    ):
        with pytest.raises(TokayError, match=said):
            beir_set(str(folder), **given)


def test_ids_that_do_not_match_are_shown(folder: Path) -> None:
    (folder / "qrels" / "test.tsv").write_text("q0 0 D0 1\nq1 0 D1 1\n")
    with pytest.raises(
        TokayError, match=r"0 queries have a relevant passage.*the labels name 'D0', the corpus has ids"
    ):
        beir_set(str(folder))
    (folder / "qrels" / "test.tsv").write_text("Q0 0 d0 1\nQ1 0 d1 1\n")
    with pytest.raises(TokayError, match="the labels name the query 'Q0', the queries have ids such as 'q0'"):
        beir_set(str(folder))
    (folder / "qrels" / "test.tsv").write_text("q0 0 d0 1\n")
    with pytest.raises(TokayError, match="1 queries have a relevant passage"):
        beir_set(str(folder))


def test_empty_queries_other_splits_and_no_set(folder: Path, tmp_path: Path) -> None:
    jsonl(folder / "queries.jsonl", [{"_id": "q0", "text": " "}, {"_id": "q1", "text": "x"}])
    with pytest.raises(TokayError, match=r"query 'q0' is empty \(1 are\)"):
        beir_set(str(folder))
    with pytest.raises(TokayError, match=r"--split is 'dev', and .* has labels of the splits test"):
        beir_set(str(folder), split="dev")
    with pytest.raises(TokayError, match=r"it has no queries\.\*; expected a run, a BEIR folder"):
        beir_set(str(tmp_path))
    with pytest.raises(TokayError, match="it is no folder"):
        beir_set(str(tmp_path / "nothing"))


def test_written_queries_with_grades() -> None:
    passages = [Passage(f"p{i}", "d", "", f"river {i}", "", "") for i in range(4)]

    def query(name: str, seed: str, part: Any) -> Query:
        return Query(name, seed, "", name, part, True, "", "")

    def grade(name: str, passage: str, value: int) -> Judgment:
        return Judgment(name, passage, value, float(value), False, "", "")

    queries = [
        query("judged", "p0", "test"), query("seed", "p1", "test"), query("nothing", "p2", "test"),
        query("known", "p0", "seen"), query("training", "p3", "train"),
    ]  # fmt: skip
    judgments = [
        grade("judged", "p0", 3), grade("judged", "p1", 1), grade("nothing", "p2", 1), grade("known", "p0", 2),
        grade("training", "p3", 3),
    ]  # fmt: skip
    found = written_set("r", passages, queries, judgments, relevant_grade=2)
    assert found.qrels == {"judged": {"p0": 3, "p1": 0}, "seed": {"p1": 3}, "known": {"p0": 2}}
    assert found.primary == ["judged", "seed"]
    assert found.judged["judged"] == {"p0", "p1"}
    assert found.group_of("judged") == found.group_of("known") == "p0"
    assert found.dropped == {"queries that nothing judged answers": 1}
    assert found.all_traits()["document"] == {"judged": "unseen", "seed": "unseen", "known": "seen in training"}
    with pytest.raises(TokayError, match="r has 1 queries with a relevant passage; expected at least 2"):
        written_set("r", passages, queries[:1], judgments, relevant_grade=2)


def test_a_retrieval_task_of_mteb_is_the_set_that_it_names() -> None:
    pytest.importorskip("mteb", reason="mteb is not installed (extra 'mteb')")
    from tokay.evaluate.mteb import retrieval_set

    tables = {"corpus": CORPUS, "queries": QUERIES}
    labels = [{"query-id": q, "corpus-id": d, "score": s} for q, d, s in LABELS]
    asked: list[str] = []

    def stream(name: str, split: str, configuration: str) -> Any:
        asked.append(name)
        if configuration in tables:
            return tables[configuration]
        if configuration == "default" and name == "mteb/scifact" and split == "test":
            return labels
        raise TokayError("there is none")

    found = retrieval_set("SciFact", stream=stream)
    assert (found.name, found.qrels) == ("mteb:SciFact", hub_set("mteb/scifact", stream=stream).qrels)
    assert {name.removesuffix("-qrels") for name in asked} == {"mteb/scifact"}
    with pytest.raises(TokayError, match=r"mteb:STSBenchmark is STS, .*run 'tokay benchmark MODEL --tasks mteb:STS"):
        retrieval_set("STSBenchmark", stream=stream)
    with pytest.raises(TokayError, match=r"mteb has no task or benchmark 'SciFakt'; did you mean 'SciFact'"):
        retrieval_set("SciFakt", stream=stream)
