"""What a paid run says it will cost, asks, corrects, keeps to, and tells afterwards; through the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tokay
from command import call
from fake_llm import FakeLLM
from tiny import WORDS, tiny_base
from tokay.corpus import open_corpus
from tokay.llm.estimate import Estimate, Planned, count, money, token_counter
from tokay.llm.ledger import spent_in
from tokay.llm.prices import load_prices
from tokay.pipeline import Plan, corpus, generate, planning, run_distillation, split
from tokay.pipeline.context import Context
from tokay.pipeline.start import annotator_of
from tokay.progress import Silent
from tokay.records import Example
from tokay.settings import Settings, resolve
from tokay.store import Run

FAST = (
    "generate.queries_per_passage=1",
    "mine.candidates=4",
    "judge.turns=1",
    "train.batch_size=8",
    "train.epochs=1",
    "train.dims=[16]",
    "evaluate.resamples=200",
)
TABLE = 'currency = "EUR"\n[models]\n"fake" = { input = 10, cached_input = 1, output = 100 }\n'


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 documents, and a price table with the fake model in it."""
    folder = tmp_path_factory.mktemp("material")
    rng = np.random.default_rng(0)
    rows = (
        {"_id": f"p{i:02d}", "title": "", "text": " ".join(rng.choice(WORDS, 12, replace=False))} for i in range(40)
    )
    (folder / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "prices.toml").write_text(TABLE)
    return folder


@pytest.fixture
def server() -> Iterator[FakeLLM]:
    with FakeLLM() as fake:
        fake.usage = lambda request, answer: {
            "prompt_tokens": count_of(request),
            "completion_tokens": count_words(answer),
        }
        yield fake


count_words = token_counter(tiny_base())


def count_of(request: dict[str, Any]) -> int:
    return sum(count_words(message["content"]) for message in request["messages"])


def distill(material: Path, server: FakeLLM, out: Path, *more: object, prices: bool = True) -> int:
    sets = (word for setting in FAST for word in ("--set", setting))
    table = ("--prices", material / "prices.toml") if prices else ()
    place = ("--llm", "openai:fake", "--llm-url", server.url, "--base", tiny_base(), "--out", out)
    return call("distill", material / "docs.jsonl", *place, *table, *sets, *more)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return " ".join((captured.err + captured.out).split())


def settings_of(material: Path, server: FakeLLM, *, prices: str = "") -> Settings:
    values = {"documents": str(material / "docs.jsonl"), "llm": "openai:fake", "llm_url": server.url}
    own = {"base": str(tiny_base()), "prices": prices}
    return resolve(values | own, overrides=FAST)


def test_a_dry_run_sends_nothing_and_counts_calls_and_prompts_exactly(
    material: Path, server: FakeLLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert distill(material, server, tmp_path / "run", "--dry-run") == 0
    assert not server.asked
    assert not server.keys
    shown = said(capsys)
    assert "at most 80 LLM calls" in shown
    told = re.search(r"generate 40, ([\d,]+) \+ 1,800 tokens; judge \(listwise\) 40, ([\d,]+)", shown)
    assert told
    assert re.search(r"price: 0\.\d+ to [\d.]+ EUR \(openai:fake: 10 in, 1 cached, 100 out a million; prices", shown)
    assert "time: 10 seconds to 40 seconds, at 8 requests in flight and 1 to 4 seconds each" in shown
    assert f"to openai:fake at {server.url} goes the text of the sampled passages" in shown

    assert distill(material, server, tmp_path / "run", "--yes") == 0
    by_stage = {row.stage: row for row in spent_in(tmp_path / "run" / "ledger.sqlite")}
    exact, sampled = (int(figure.replace(",", "")) for figure in told.groups())
    lines = 40  # messages are joined by a line break, which this tokenizer does not count
    assert abs(exact - by_stage["generate"].prompt) <= lines
    assert sampled == pytest.approx(by_stage["judge"].prompt, rel=0.1)


def test_without_a_price_tokens_are_told_and_a_budget_is_refused(
    material: Path, server: FakeLLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert distill(material, server, tmp_path / "run", "--dry-run", prices=False) == 0
    shown = said(capsys)
    assert "prompt and 3,360 answer tokens" in shown
    assert "price: unknown, tokens only: the price table " in shown
    assert distill(material, server, tmp_path / "run", "--yes", "--budget", 5, prices=False) == 1
    shown = said(capsys)
    assert "--budget 5 needs the price of openai:fake, but the price table" in shown
    assert """has no model 'fake'; expected a line such as "fake" = { input = 0.15""" in shown
    assert distill(material, server, tmp_path / "run", "--prices", material / "none.toml", prices=False) == 1
    assert "none.toml cannot be read" in said(capsys)
    assert not server.asked


def write_queries(
    material: Path, server: FakeLLM, out: Path, answers: Callable[[Plan], bool]
) -> list[tuple[Plan, int]]:
    """A run up to its queries with a user who answers; the plans that were shown, and the requests sent by then."""
    plans: list[tuple[Plan, int]] = []
    settings = settings_of(material, server, prices=str(material / "prices.toml"))

    def confirm(plan: Plan) -> bool:
        plans.append((plan, sum(server.asked.values())))
        return answers(plan)

    with Run(out, writable=True) as run:
        source, annotator = open_corpus(settings.documents), annotator_of(settings, out)
        ctx = Context(settings, run, source, annotator, tiny_base(), Silent())
        corpus.corpus(ctx)
        split.split(ctx)
        ctx.consent.show(planning.plan(ctx), confirm)
        generate.generate(ctx)
    return plans


def test_an_estimate_that_held_is_not_asked_about_again(material: Path, server: FakeLLM, tmp_path: Path) -> None:
    server.usage = lambda request, answer: {"prompt_tokens": count_of(request), "completion_tokens": 45}
    [(plan, sent)] = write_queries(material, server, tmp_path / "run", lambda plan: True)
    assert (sent, plan.estimate.measured) == (0, 0)
    assert max(server.asked.values()) == 1  # the first twenty count


@pytest.mark.parametrize("thoughts", [1000, 0])
def test_an_estimate_that_was_far_off_is_corrected_and_asked_about_again(
    material: Path, server: FakeLLM, tmp_path: Path, thoughts: int
) -> None:
    server.usage = lambda request, answer: {"prompt_tokens": 2 * count_of(request), "completion_tokens": 45 + thoughts}
    with pytest.raises(tokay.TokayError, match=r"stopped after the first 20 passages: .* by \+\d+% and was not conf"):
        write_queries(material, server, tmp_path / "run", lambda plan: not plan.estimate.measured)
    assert sum(server.asked.values()) == 20
    plans = write_queries(material, server, tmp_path / "other", lambda plan: True)
    [(first, _), (second, sent)] = plans
    assert sent == 20 + 20
    assert second.estimate.measured == 20
    assert second.estimate.prompt_tokens == pytest.approx(2 * first.estimate.prompt_tokens, rel=0.02)
    assert second.estimate.answer_tokens == pytest.approx(first.estimate.answer_tokens * (45 + thoughts) / 45, rel=0.02)
    # What was answered before the stop was paid for once: the run goes on, and measures nothing that is not new.
    [_] = write_queries(material, server, tmp_path / "run", lambda plan: True)
    assert max(server.asked.values()) == 2  # by two runs


def test_yes_answers_the_second_question_too_and_the_new_figure_is_shown(
    material: Path, server: FakeLLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.usage = lambda request, answer: {"prompt_tokens": 3 * count_of(request), "completion_tokens": 45}
    assert distill(material, server, tmp_path / "run", "--yes") == 0
    shown = said(capsys)
    assert "give or take 25% (by the base's tokenizer)" in shown
    assert "give or take 10% (by what the first 20 passages took)" in shown


def test_nothing_is_sent_without_a_yes(
    material: Path, server: FakeLLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert distill(material, server, tmp_path / "run") == 1
    assert "nothing was asked of the LLM: the plan was not confirmed (--yes confirms it)" in said(capsys)
    assert not server.asked


def test_a_budget_stops_the_run_and_a_larger_one_goes_on(
    material: Path, server: FakeLLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.usage = lambda request, answer: {"prompt_tokens": 1000, "completion_tokens": 100}  # 0.02 each
    assert distill(material, server, tmp_path / "run", "--yes", "--budget", "0.5") == 1
    shown = said(capsys)
    assert "budget: 0.5 EUR; the run stops before it would be passed" in shown
    told = re.search(r"the budget of 0\.5 EUR would be passed: ([\d.]+) is spent, and the next request may", shown)
    assert told
    answered = sum(server.asked.values())
    assert 20 < answered <= 25
    [row] = spent_in(tmp_path / "run" / "ledger.sqlite")
    assert (row.answers, row.failures) == (answered, 0)  # all that was asked was kept
    assert row.price == pytest.approx(0.02 * answered) == float(told[1])
    assert distill(material, server, tmp_path / "run", "--yes", "--budget", "0.5") == 1
    assert sum(server.asked.values()) == answered  # earlier starts count
    capsys.readouterr()
    assert distill(material, server, tmp_path / "run", "--yes", "--budget", "5") == 0
    assert f"{answered} requests of this run are answered already, for {money(0.02 * answered)} EUR" in said(capsys)
    assert max(server.asked.values()) == 1

    assert call("cost", tmp_path / "run") == 0
    table = capsys.readouterr().out
    requests = {
        name: int(n) for name, n in re.findall(r"^(generate|judge|probe|total) +(?:fake)? +(\d+)", table, re.MULTILINE)
    }
    assert requests["generate"] == 40
    assert requests["generate"] + requests["judge"] == sum(server.asked.values())
    assert requests["total"] == sum(server.asked.values()) + requests["probe"]
    assert "price EUR" in table
    run = tokay.open_run(tmp_path / "run")
    rows = sum(e.part == "train" for e in run.table("examples", "examples", Example))
    spent = sum(row.price or 0 for row in spent_in(tmp_path / "run" / "ledger.sqlite"))
    assert spent >= 0.02 * sum(server.asked.values())
    assert f"{spent:.4f}" in table
    assert f"{spent / rows:.6f}" in table
    assert f"{rows} training rows, " in table


def test_a_run_without_prices_tells_its_tokens(
    material: Path, server: FakeLLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.override = lambda request: "no JSON"
    settings = settings_of(material, server)
    with pytest.raises(tokay.TokayError, match="wrote no usable query"):
        run_distillation(settings, tmp_path / "run", confirm=lambda plan: True)
    assert call("cost", tmp_path / "run") == 0
    shown = said(capsys)
    assert "unknown" in shown
    assert "per training row" not in shown
    assert "80 answers have no price" in shown  # each was asked for once more


def test_a_recorded_run_cost_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for llm, sentence in (
        ("recorded:somewhere", "nothing was asked and nothing was spent: this run's LLM is a recording (recorded:some"),
        ("openai:m", "nothing has been asked of openai:m yet"),
    ):
        (tmp_path / "manifest.json").write_text("{}")
        (tmp_path / "run.toml").write_text(f'documents = "d"\nllm = "{llm}"\n')
        assert call("cost", tmp_path) == 0
        assert sentence in said(capsys)


def test_figures_by_hand() -> None:
    table = load_prices()
    texts = [f"alpha beta {word} delta" for word in ("gamma", "stone", "river")]
    requests = [Planned("p", text, 10.0, "judge", "openai:gpt-4o-mini", times=100.0) for text in texts]
    [part] = count(requests, lambda text: len(text.split()))
    assert (part.calls, part.tokens, part.shared, part.answer) == (300, 1200, 600, 3000)
    estimate = Estimate([part], table)
    price = estimate.price()
    assert price is not None
    assert price.low == pytest.approx(0.75 * (600 * 0.15 + 600 * 0.075 + 3000 * 0.6) / 1e6)
    assert price.high == pytest.approx(1.25 * (1200 * 0.15 + 3000 * 0.6) / 1e6)
    assert (estimate.seconds().low, estimate.seconds().high) == (300 / 8, 4 * 300 / 8)
    assert estimate.change(estimate.corrected(prompt=1, answer=2, seconds=0, passages=20)) == pytest.approx(
        3000 * 0.6 / (1200 * 0.15 + 3000 * 0.6)
    )
    assert Estimate([], table).price() is not None
    assert Estimate([], table).seconds().high == 0
