"""What a run spent on its LLM: by stage, and for each training row. Read from the ledger, which every request is in."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

from tokay.errors import TokayError
from tokay.llm.ledger import LEDGER, Spent, spent_in
from tokay.llm.prices import load_prices
from tokay.records import Example
from tokay.settings import resolve
from tokay.store import Run


@dataclasses.dataclass(frozen=True)
class Costs:
    """Spending by stage and model, its sum, and the number of training rows that came of it (0: none yet).

    ``currency`` is that of the run's price table; empty where the table is not there any more.
    """

    llm: str
    stages: Sequence[Spent]
    total: Spent
    currency: str
    rows: int

    @property
    def nothing(self) -> str:
        """Why nothing was spent, in one sentence; empty when something was asked."""
        if self.stages:
            return ""
        if self.llm.startswith("recorded"):
            return f"nothing was asked and nothing was spent: this run's LLM is a recording ({self.llm})"
        return f"nothing has been asked of {self.llm} yet"


def costs_of(run: Run) -> Costs:
    """What a run spent so far."""
    settings = resolve({}, config=run.path / "run.toml")
    stages = spent_in(run.path / LEDGER)
    rows = 0
    if run.is_done("examples"):
        rows = sum(example.part == "train" for example in run.table("examples", "examples", Example))
    currency = ""
    with contextlib.suppress(TokayError):  # a user's table that was moved away
        currency = load_prices(settings.prices).currency
    return Costs(settings.llm, stages, _total(stages), currency, rows)


def _total(stages: Sequence[Spent]) -> Spent:
    priced = [row.price for row in stages if row.price is not None]
    return Spent(
        stage="total",
        model="",
        answers=sum(row.answers for row in stages),
        failures=sum(row.failures for row in stages),
        prompt=sum(row.prompt for row in stages),
        cached=sum(row.cached for row in stages),
        completion=sum(row.completion for row in stages),
        seconds=sum(row.seconds for row in stages),
        price=sum(priced) if priced else None,
        unpriced=sum(row.unpriced for row in stages),
    )
