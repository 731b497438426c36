from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokay.errors import TokayError
from tokay.llm.door import AskFailed, Door
from tokay.llm.ledger import Answer, Ledger, Usage, spent_in
from tokay.llm.limits import Limits
from tokay.llm.prices import FREE, SHIPPED, Budget, Price, Purse, load_prices, most_tokens
from tokay.llm.probe import Abilities

PRICE = Price(input=2.0, cached_input=0.5, output=8.0)


def test_tokens_times_price_by_hand() -> None:
    assert PRICE.of(prompt=1_000_000) == 2.0
    assert PRICE.of(prompt=1000, cached=400, completion=10) == pytest.approx((600 * 2 + 400 * 0.5 + 10 * 8) / 1e6)
    assert Price(input=1, output=1).of(prompt=7, cached=7) == pytest.approx(7e-6)  # no price of its own: as input
    assert PRICE.of(prompt=10, cached=99, completion=-5) == pytest.approx(10 * 0.5 / 1e6)
    half = Price(input=2.0, cached_input=0.5, output=8.0, batch_discount=0.5).batched()
    assert (half.input, half.cached, half.output) == (1.0, 0.25, 4.0)


def test_the_shipped_table_is_sound_and_dated() -> None:
    table = load_prices()
    assert table.currency == "USD"
    assert len(table.models) > 20
    assert all(price.checked for price in table.models.values())
    assert all(price.cached <= price.input <= price.output for price in table.models.values())
    assert table.models["gpt-4o-mini"].of(prompt=1e6, cached=5e5, completion=1e5) == pytest.approx(0.1725)
    assert "check them" in SHIPPED.read_text()


@pytest.mark.parametrize(
    ("model", "entry"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),  # dated, with a price of its own
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4"),
        ("claude-sonnet-4@20250514", "claude-sonnet-4"),
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("gemini-2.5-flash-latest", "gemini-2.5-flash"),
        ("gemini-2.5-flash-lite-001", "gemini-2.5-flash-lite"),
        ("gpt-4o-audio-preview", None),
        ("gpt-4", None),
        ("my-gpt-4o", None),
        ("", None),
    ],
)
def test_a_name_stands_for_its_dated_versions_and_for_nothing_else(model: str, entry: str | None) -> None:
    table = load_prices()
    assert table.of_model(model) == (table.models[entry] if entry else None)


def test_what_runs_here_is_free() -> None:
    table = load_prices()
    assert table.of_llm("hf:some/model") == table.of_llm("replay:file") == FREE
    assert table.of_llm("openai:gpt-4o") == table.models["gpt-4o"]
    assert table.of_llm("openai:unknown") is None
    assert '"unknown" = { input = 0.15, output = 0.60 } under [models]' in table.missing("openai:unknown")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("models = [", "is not TOML"),
        ("", "key 'models' is missing; write \\[models\\] as in"),
        ("[models]\nx = { input = -1, output = 1 }", "'models.x.input' is -1; expected a number of at least 0; write"),
        ("[models]\nx = { input = nan, output = 1 }", "'models.x.input' is nan; expected a finite number"),
        ("[models]\nx = { input = 1 }", "key 'models.x.output' is missing"),
        (
            "[models]\nx = { input = 1, output = 1, ouput = 2 }",
            "unknown key 'models.x.ouput'; known here: input, .*; did you mean 'models.x.output'",
        ),
    ],
)
def test_a_table_that_is_none_is_one_sentence(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "mine.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(TokayError, match=rf"--prices .*mine\.toml.*{message}"):
        load_prices(str(file))


@given(st.text(), st.text(max_size=20), st.integers(1, 99))
def test_no_text_has_more_tokens_than_the_bound(text: str, more: str, room: int) -> None:
    prompt, completion = most_tokens({"messages": [{"role": "user", "content": text}], "max_tokens": room})
    assert (prompt, completion) >= (len(text.encode("utf-8", "surrogatepass")), room)
    likelihoods = most_tokens({"context": text, "continuations": [more, more]})
    assert likelihoods[0] >= 2 * len((text + more).encode("utf-8", "surrogatepass"))
    assert likelihoods[1] == 2


Asked = st.tuples(
    st.text(max_size=400),
    st.integers(1, 400),  # max_tokens
    st.floats(0, 1),  # how much of the most it takes
    st.sampled_from(["answers", "answers", "says nothing of usage", "fails", "is cancelled"]),
)


@given(
    st.lists(Asked, max_size=30),
    st.floats(1e-6, 0.02),
    st.floats(0, 0.01),
    st.integers(1, 8),
    st.randoms(use_true_random=False),
)
def test_the_budget_is_never_passed(
    asked: list[tuple[str, int, float, str]], limit: float, earlier: float, slots: int, order: random.Random
) -> None:
    budget = Budget(limit, spent=earlier)
    purses = [Purse(PRICE, budget), Purse(Price(input=30.0, output=60.0), budget), Purse(None, budget)]
    costs: list[float] = []
    refused_with_requests_in_flight = 0
    in_flight = 0

    async def one(slot: asyncio.Semaphore, text: str, room: int, share: float, end: str) -> None:
        nonlocal in_flight, refused_with_requests_in_flight
        request = {"messages": [{"role": "user", "content": text}], "max_tokens": room}
        purse = order.choice(purses)
        async with slot:
            try:
                reserved = await purse.reserve(request)
            except TokayError:
                refused_with_requests_in_flight += in_flight > 0
                return
            in_flight += 1
            for _ in range(order.randrange(4)):
                await asyncio.sleep(0)
            in_flight -= 1
            prompt, completion = most_tokens(request)
            if end == "is cancelled":
                purse.release(reserved)
                return
            took = Usage(int(prompt * share), int(prompt * share * share), int(completion * share))
            took = took if end == "answers" else Usage()
            costs.append(purse.settle(reserved, took, answered=end != "fails") or 0.0)

    async def main() -> None:
        slot = asyncio.Semaphore(slots)
        await asyncio.gather(*(one(slot, *a) for a in asked))

    asyncio.run(main())
    assert budget.reserved == 0
    assert budget.spent == pytest.approx(earlier + math.fsum(costs))
    assert budget.spent <= max(limit, earlier) * (1 + 1e-9)
    assert refused_with_requests_in_flight == 0


class Meter:
    """A backend whose requests finish when the test says so."""

    name = "openai:meter"
    model = "meter"

    def __init__(self, slots: int) -> None:
        self.limits = Limits(concurrency=slots)
        self.sent: list[str] = []
        self.fails = False

    async def send(self, request: Mapping[str, Any], key: str = "") -> Answer:
        self.sent.append(request["messages"][0]["content"])
        await asyncio.sleep(0.001 * (len(self.sent) % 3))
        usage = Usage(prompt=1000, cached=500, completion=100)
        if self.fails:
            raise AskFailed("HTTP 400: no", spent=Answer(usage=usage))
        return Answer("yes", usage=usage)

    async def abilities(self) -> Abilities:
        return Abilities()

    async def close(self) -> None:
        pass


def asked_through(meter: Meter, ledger: Path, budget: Budget, *, times: int = 60) -> list[Answer | BaseException]:
    async def main() -> list[Answer | BaseException]:
        door = Door(meter, Ledger(ledger), stage="judge", purse=Purse(PRICE, budget))
        try:
            questions = ([{"role": "user", "content": f"{n:04d}" * 300}] for n in range(times))
            return await asyncio.gather(*(door.complete(q, max_tokens=100) for q in questions), return_exceptions=True)
        finally:
            await door.close()

    return asyncio.run(main())


def test_a_run_that_would_pass_its_budget_stops_with_all_answers_kept_and_goes_on_with_a_larger_one(
    tmp_path: Path,
) -> None:
    each = PRICE.of(prompt=1000, cached=500, completion=100)
    meter, budget = Meter(slots=8), Budget(10 * each)
    outcomes = asked_through(meter, tmp_path / "l", budget)
    [row] = spent_in(tmp_path / "l")
    kept = [o for o in outcomes if isinstance(o, Answer)]
    assert len(meter.sent) == len(kept) == row.answers == 9  # a tenth might have cost more than was left
    assert row.price == pytest.approx(9 * each)
    assert (row.stage, row.prompt, row.cached, row.completion, row.failures) == ("judge", 9000, 4500, 900, 0)
    said = {str(o) for o in outcomes if not isinstance(o, Answer)}
    assert len(said) == 1
    assert "the budget of 0.0205 USD would be passed: 0.01845 is spent, and the next request may cost" in said.pop()

    more = Meter(slots=8)
    again = asked_through(more, tmp_path / "l", Budget(100 * each, spent=row.price or 0.0))
    assert all(isinstance(o, Answer) for o in again)
    assert len(more.sent) == 51
    assert not set(more.sent) & set(meter.sent)


def test_failures_are_paid_for_too(tmp_path: Path) -> None:
    budget = Budget()
    for fails in (True, False):
        meter = Meter(slots=1)
        meter.fails = fails
        asked_through(meter, tmp_path / "l", budget, times=2)
    [row] = spent_in(tmp_path / "l")
    assert row.price == pytest.approx(4 * PRICE.of(prompt=1000, cached=500, completion=100)) == budget.spent
    assert (row.answers, row.failures) == (2, 0)


def test_without_a_price_tokens_are_counted(tmp_path: Path) -> None:
    async def main() -> None:
        door = Door(Meter(slots=1), Ledger(tmp_path / "l"), stage="generate")
        await door.complete([{"role": "user", "content": "?"}], max_tokens=1)
        await door.close()

    asyncio.run(main())
    [row] = spent_in(tmp_path / "l")
    assert (row.prompt, row.price, row.unpriced) == (1000, None, 1)


def test_a_ledger_that_is_not_there_spent_nothing(tmp_path: Path) -> None:
    assert spent_in(tmp_path / "none") == []
    (tmp_path / "begun").touch()
    assert spent_in(tmp_path / "begun") == []
    (tmp_path / "odd").write_text("not a database, but long enough to be read as a header of one")
    with pytest.raises(TokayError, match=r"cannot be read: file is not a database"):
        spent_in(tmp_path / "odd")
