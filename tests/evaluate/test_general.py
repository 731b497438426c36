"""General ability: a fixed sample, three states, NanoBEIR's shape out of a folder, and no wait for a Hub that is away."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_tasks import TASKS, folder_of, own_pairs, texts
from tiny import tiny_base
from tokay.errors import TokayError
from tokay.evaluate import general
from tokay.evaluate.general import PARTS, check_general, plan_of, read_general, said_of, sampled, unreachable
from tokay.evaluate.tasks import Retrieval, Similarity
from tokay.models.embedder import Embedder
from tokay.settings import GuardSettings


@pytest.fixture(scope="module")
def base() -> Embedder:
    return Embedder.load(tiny_base(), device="cpu")


def test_a_loss_is_told_from_none(base: Embedder, tmp_path: Path) -> None:
    folder = own_pairs(base, tmp_path / "mine")
    settings = GuardSettings(sets=(str(folder),))
    other = Embedder.load(tiny_base(seed=3), device="cpu")
    lost, kept = check_general(base, {"tuned": other}, settings), check_general(base, {"tuned": base}, settings)
    assert (lost["checked"], lost["fell"], lost["sets"][0]["state"]) == (True, True, "fell")
    assert lost["sets"][0]["base"] == pytest.approx(1.0, abs=1e-6)
    assert lost["sets"][0]["high"] < 0
    assert said_of(lost)[0].startswith(
        "general ability fell by more than 0.01: mine, Spearman's correlation 1.000 to 0."
    )
    assert (kept["fell"], kept["sets"][0]["state"], kept["sets"][0]["difference"]) == (False, "held", 0.0)
    assert said_of(kept)[0].startswith("general ability held: mine, Spearman's correlation 1.000 to 1.000 (+0.000")
    wide = check_general(base, {"tuned": other}, settings.model_copy(update={"margin": 1.0}))
    assert not wide["fell"]


def test_each_of_two_models_is_held_against_the_base(base: Embedder, tmp_path: Path) -> None:
    settings = GuardSettings(sets=(str(own_pairs(base, tmp_path / "mine")),))
    other = Embedder.load(tiny_base(seed=3), device="cpu")
    both = check_general(base, {"tuned": base, "refitted": other}, settings)
    assert both["fell"]
    assert [(one["model"], one["state"]) for one in both["sets"]] == [("tuned", "held"), ("refitted", "fell")]
    assert [line.partition(" by more")[0].partition(": mine")[0] for line in said_of(both)] == [
        "refitted model: general ability fell",
        "tuned model: general ability held",
    ]
    for name, model, one in zip(("tuned", "refitted"), (base, other), both["sets"], strict=True):
        alone = check_general(base, {name: model}, settings)["sets"]
        assert [one | {"sentence": ""}] == [alone[0] | {"sentence": ""}]
        assert one["sentence"] == f"{name} model: {alone[0]['sentence']}"


def test_too_few_queries_are_said_to_be_too_few(base: Embedder, tmp_path: Path) -> None:
    folder = folder_of(TASKS["retrieval"], tmp_path / "search", ".jsonl")
    found = check_general(
        base, {"tuned": Embedder.load(tiny_base(seed=3), device="cpu")}, GuardSettings(sets=(str(folder),))
    )
    one = found["sets"][0]
    assert one["metric"] == "nDCG@10"
    assert one["low"] < -0.01 < one["high"]
    assert one["state"] == "unclear"
    assert "too few to tell whether more than 0.01 was lost" in said_of(found)[0]


def test_sets_of_other_categories_are_refused(tmp_path: Path) -> None:
    folder = folder_of(TASKS["classification"], tmp_path / "classes", ".jsonl")
    with pytest.raises(TokayError, match=r"guard.sets names .*, a task of Classification; expected one of STS"):
        read_general(str(folder))


# -- the sample -----------------------------------------------------------------------------------------------------


@given(st.integers(300, 20_000), st.integers(20, 200))
def test_a_sample_is_within_its_characters_and_answers_its_queries(characters: int, longest: int) -> None:
    task = TASKS["retrieval"]
    assert isinstance(task, Retrieval)
    part = sampled(task, characters=characters, longest=longest)
    assert isinstance(part, Retrieval)
    assert len(part.queries) >= 2
    assert set(part.queries) == set(part.qrels)
    for query_id, grades in part.qrels.items():
        right = {i for i, grade in task.qrels[query_id].items() if grade > 0}
        assert right <= set(part.passages)
        assert {i for i, grade in grades.items() if grade > 0} == right
    size = sum(min(len(q), longest) for q in part.queries.values())
    size += sum(min(len(t) + len(x), longest) for t, x in part.passages.values())
    assert size <= characters or len(part.queries) == 2


@given(st.randoms(use_true_random=False))
def test_the_order_of_a_set_does_not_change_its_sample(rng: Any) -> None:
    task = TASKS["STS"]
    assert isinstance(task, Similarity)
    order = list(range(len(task.scores)))
    rng.shuffle(order)
    first, second, scores = zip(*((task.first[i], task.second[i], task.scores[i]) for i in order), strict=True)
    moved = Similarity(name=task.name, split="test", first=first, second=second, scores=scores)
    plain, other = (sampled(one, characters=900, longest=100) for one in (task, moved))
    assert isinstance(plain, Similarity)
    assert isinstance(other, Similarity)
    assert 2 <= len(plain.scores) < len(task.scores)
    rows = [set(zip(one.first, one.second, one.scores, strict=True)) for one in (plain, other)]
    assert rows[0] == rows[1]


# -- NanoBEIR -------------------------------------------------------------------------------------------------------


def nano(folder: Path) -> Path:
    """A dataset of NanoBEIR's shape: three configurations, a split for each part."""
    configs = []
    for config in ("corpus", "queries", "qrels"):
        (folder / config).mkdir(parents=True)
        files = []
        for n, part in enumerate(PARTS):
            documents = texts(12, n)
            rows = {
                "corpus": {"_id": [f"d{i}" for i in range(12)], "text": list(documents)},
                "queries": {"_id": ["q0", "q1", "q2"], "text": [documents[i] for i in (0, 4, 7)]},
                "qrels": {"query-id": ["q0", "q1", "q2", "q2"], "corpus-id": ["d0", "d4", "d7", "d8"]},
            }[config]
            pq.write_table(pa.table(rows), folder / config / f"{part}.parquet")
            files.append(f"  - split: {part}\n    path: {config}/{part}.parquet\n")
        configs.append(f"- config_name: {config}\n  data_files:\n{''.join(files)}")
    (folder / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n")
    return folder


def test_nanobeirs_parts_are_read_and_their_queries_count_alike(
    base: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets")
    spec = f"nanobeir:{nano(tmp_path / 'nano')}"
    found = read_general(spec)
    assert [task.name for task in found.tasks] == list(PARTS)
    assert {len(task.queries) for task in found.tasks if isinstance(task, Retrieval)} == {3}
    assert found.tasks[1].qrels["q2"] == {"d7": 1, "d8": 1}  # type: ignore[union-attr]
    checked = check_general(base, {"tuned": base}, GuardSettings(sets=(spec,)))
    assert [(s["name"], s["size"], s["state"]) for s in checked["sets"]] == [("NanoBEIR", "15 queries", "held")]
    monkeypatch.setattr(general, "DATASET", str(tmp_path / "nano"))
    assert read_general("nanobeir") == found
    with pytest.raises(TokayError, match=r"has no corpus of NanoMSMARCO"):
        read_general(f"nanobeir:{tmp_path}")


def test_a_hub_that_is_away_is_said_once_and_not_waited_for(
    base: Embedder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert unreachable() == "HF_HUB_OFFLINE is set"
    checked = check_general(base, {"tuned": base}, GuardSettings(), missing=unreachable())
    assert (checked["checked"], checked["fell"], checked["sets"]) == (False, False, [])
    assert said_of(checked) == [
        "general ability was not checked: NanoBEIR is on the Hub, and HF_HUB_OFFLINE is set; guard.sets can name local sets"
    ]
    both = check_general(
        base, {"tuned": base}, GuardSettings(sets=("nanobeir", str(own_pairs(base, tmp_path / "x")))), missing="no"
    )
    assert len(said_of(both)) == 2
    assert said_of(both)[1].startswith("general ability was not checked on all sets: NanoBEIR")
    assert said_of(check_general(base, {"tuned": base}, GuardSettings(sets=()))) == [
        "general ability was not checked: guard.sets names no set"
    ]


def test_a_hub_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(general, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert unreachable().endswith("does not answer")
    monkeypatch.setenv("HF_ENDPOINT", "not an address")
    assert unreachable() == "not an address does not answer"


def test_the_plan_says_what_will_be_compared() -> None:
    assert plan_of(GuardSettings(sets=())) == ""
    said = plan_of(GuardSettings(sets=("nanobeir", "data/stsb")))
    assert "(NanoBEIR, if the Hub answers, data/stsb): 500,000 characters each" in said
