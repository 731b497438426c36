"""A run whose answers were exported is repeated by the export: the same tables, no server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tokay
from fake_batch import FakeBatches, Row
from fake_llm import FakeLLM, answer_to
from tiny import WORDS, tiny_base, tiny_lm
from tokay.llm.batch import Batch
from tokay.llm.ledger import LEDGER, Ledger

FAST = (
    "corpus.passage_tokens=40",
    "generate.queries_per_passage=1",
    "mine.candidates=4",
    "train.batch_size=8",
    "train.epochs=1",
    "train.dims=[16]",
    "evaluate.resamples=100",
)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    for d in range(12):
        lines = [" ".join(WORDS[(7 * d + 11 * s + 3 * w) % len(WORDS)] for w in range(30)) for s in range(2)]
        (folder / f"{d}.md").write_text("\n\n".join(f"# Part {i} of {d}\n\n{line}" for i, line in enumerate(lines)))
    return folder


def run(documents: Path, out: Path, llm: str, *more: str) -> dict[str, bytes]:
    """What the LLM's two stages leave."""
    tokay.distill(
        str(documents), out=out, llm=llm, base=str(tiny_base()), overrides=(*FAST, *more), confirm=lambda plan: True
    )
    return {f"{s}/{f.name}": f.read_bytes() for s in ("generate", "judge") for f in sorted((out / s).iterdir())}


def said(request: dict[str, Any]) -> str:
    """The fake LLM's answers, but for one passage that it will not write of: failures are repeated, too."""
    return "I would rather not" if "Part 0 of 3" in str(request) else answer_to(request["messages"])


@pytest.fixture(scope="module")
def live(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    out = tmp_path_factory.mktemp("live") / "run"
    with FakeLLM() as server:
        server.override = said
        return out, run(documents, out, "openai:m", f"llm_url={server.url}", "judge.by=listwise")


def test_a_replayed_run_makes_the_same_tables(
    documents: Path, live: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    out, tables = live
    assert tokay.open_run(out).rows("generate", "failures") > 0
    ledger = Ledger(out / LEDGER)
    ledger.export(tmp_path / "answers.jsonl.gz")
    ledger.close()
    assert run(documents, tmp_path / "run", f"replay:{tmp_path}/answers.jsonl.gz", "judge.by=listwise") == tables
    keys = [tokay.open_run(path).manifest()["judge"]["key"] for path in (out, tmp_path / "run")]
    assert keys[0] != keys[1]  # another source of answers is another stage key, though the answers are equal


def test_a_run_in_batches_makes_the_same_tables(
    documents: Path, live: tuple[Path, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokay.llm.batch.FIRST_POLL", 0.01)
    monkeypatch.setitem(Batch.__init__.__kwdefaults__, "quiet", 0.1)  # type: ignore[arg-type]

    def row(body: dict[str, Any]) -> Row:
        completion = {"choices": [{"message": {"content": said(body)}}]}
        return {"response": {"status_code": 200, "body": completion}, "error": None}

    with FakeBatches() as batches:
        batches.row = row
        more = (f"llm_url={batches.url}", "judge.by=listwise", "batch=true")
        assert run(documents, tmp_path / "run", "openai:m", *more) == live[1]
        assert 2 <= len(batches.batches) <= 6  # one or two a stage, not one an item


def test_a_model_in_this_process_is_asked_and_fails_with_a_reason(documents: Path, tmp_path: Path) -> None:
    """Random weights write no JSON: what is proven is the way there and back."""
    with pytest.raises(tokay.TokayError, match=r"wrote no usable query for \d+ passages; first reason: "):
        run(documents, tmp_path / "local", f"hf:{tiny_lm(positions=4096)}", "generate.passages=4")
    ledger = Ledger(tmp_path / "local" / LEDGER)
    assert sum(ledger.counts()[name] for name in ("answers", "failures")) >= 4
