"""What requests cost, and what may be spent: prices that users edit, one budget a run, a purse before every model."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokay.errors import TokayError
from tokay.expected import faults_of
from tokay.llm.ledger import Usage, canonical

SHIPPED = Path(__file__).with_name("prices.toml")

MILLION = 1_000_000

TEMPLATE_TOKENS = 256
"""Most that a server's chat template adds to a prompt: a few tokens a message, and for some models a preamble."""

FREE_KINDS = ("hf", "replay", "recorded")
"""``--llm`` words of what runs on this machine."""

_DATED = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|\d{3}|latest)")
"""What follows a model's name in its dated versions: -2024-07-18, -20250514, @20250514, -2506, -001, -latest."""

_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Price(BaseModel):
    """Of a model, in the table's currency per million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: _Amount
    output: _Amount
    cached_input: _Amount | None = None
    """Of prompt tokens found in the server's prefix cache; None: as ``input``."""
    batch_discount: Annotated[float, Field(ge=0, le=1)] = 0.0
    checked: datetime.date | None = None

    @property
    def cached(self) -> float:
        """Of cached prompt tokens, per million."""
        return self.input if self.cached_input is None else self.cached_input

    def of(self, *, prompt: float, cached: float = 0.0, completion: float = 0.0) -> float:
        """Of so many tokens; ``cached`` are part of ``prompt``. Counts that no server can mean are taken as 0."""
        prompt, completion = max(0.0, prompt), max(0.0, completion)
        cached = min(max(0.0, cached), prompt)
        return ((prompt - cached) * self.input + cached * self.cached + completion * self.output) / MILLION

    def batched(self) -> Price:
        """Through the batch API."""
        share = 1.0 - self.batch_discount
        changes = {"input": self.input * share, "output": self.output * share, "cached_input": self.cached * share}
        return self.model_copy(update={**changes, "batch_discount": 0.0})


FREE = Price(input=0.0, output=0.0)
"""Of a model on this machine, and of answers that are played back."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")
    currency: str = "USD"
    models: dict[str, Price]


@dataclasses.dataclass(frozen=True)
class PriceTable:
    """Prices by model, all in one currency; ``path`` is the file that they stand in."""

    models: Mapping[str, Price]
    currency: str
    path: Path

    def of_model(self, model: str) -> Price | None:
        """Of the model of this name, else of the longest name of which it is a dated version; None: not known."""
        dated = [name for name in self.models if model.startswith(name) and _DATED.fullmatch(model, len(name))]
        return self.models.get(model if model in self.models else max(dated, key=len, default=""))

    def of_llm(self, llm: str) -> Price | None:
        """Of what ``--llm`` names: the table's for ``openai:MODEL``, nothing for what runs on this machine."""
        kind, _, model = llm.partition(":")
        return FREE if kind in FREE_KINDS else self.of_model(model)

    def batched(self) -> PriceTable:
        """What the models cost through their providers' batch APIs."""
        return dataclasses.replace(self, models={name: price.batched() for name, price in self.models.items()})

    def missing(self, llm: str) -> str:
        """What to do about a model without a price."""
        model = llm.partition(":")[2]
        return (
            f"the price table {self.path} has no model {model!r}; expected a line such as "
            f'"{model}" = {{ input = 0.15, output = 0.60 }} under [models], per million tokens: '
            f"add it to a copy, and name that with --prices"
        )


def load_prices(path: str = "") -> PriceTable:
    """The table in a TOML file; empty: the one that is shipped.

    Raises:
        TokayError: the file cannot be read, or is no table of prices.
    """
    file = Path(path).expanduser() if path else SHIPPED
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
        table = _Table.model_validate(data)
    except OSError as error:
        raise TokayError(f"--prices {file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TokayError(f"--prices {file} is not TOML: {error}") from error
    except ValidationError as error:
        faults = "; ".join(faults_of(error, _Table, data, what="key"))
        raise TokayError(f"--prices {file}: {faults}; write [models] as in {SHIPPED}") from error
    return PriceTable(table.models, table.currency, file)


def most_tokens(request: Mapping[str, Any]) -> tuple[int, int]:
    """Bounds of the prompt and completion tokens of a request, as ``Door`` builds it.

    A token stands for at least one byte of UTF-8, so a text has no more tokens than bytes. (A local tokenizer would
    come closer, but another model's tokens may be more.) Likelihoods are asked by sending the context before each
    continuation; a server writes at least one token to each.
    """
    if "context" in request:
        continuations = request["continuations"]
        context = _bytes(request["context"]) + TEMPLATE_TOKENS
        return sum(context + _bytes(text) for text in continuations), len(continuations)
    prompt = sum(_bytes(message["content"]) for message in request["messages"])
    schema = _bytes(canonical(request["schema"])) if "schema" in request else 0
    return prompt + schema + TEMPLATE_TOKENS, request["max_tokens"]


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


class Budget:
    """What a run may spend, over all its models and all its starts.

    Requests in flight have the most that they can cost set aside. Where that would pass the limit, a request waits
    for others to settle, since most of what was set aside comes back. It is refused when nothing is in flight any
    more and it still does not fit: so when a run stops here, all that was asked is answered and kept.

    Args:
        limit: in ``currency``; 0: none.
        spent: by earlier starts of the run.
        currency: for messages.
    """

    def __init__(self, limit: float = 0.0, *, spent: float = 0.0, currency: str = "USD") -> None:
        self.limit = limit
        self.spent = spent
        self.currency = currency
        self._held: list[float] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._over: TokayError | None = None

    @property
    def reserved(self) -> float:
        """Set aside for requests in flight; exactly 0 when there are none."""
        return math.fsum(self._held)

    async def reserve(self, amount: float) -> None:
        """Set an amount aside, at once or when there is room for it.

        Raises:
            TokayError: the limit would be passed. From then on nothing is set aside any more.
        """
        while self._over is None and self.limit and self.spent + self.reserved + amount > self.limit:
            if self._held:
                await self._next_change()
            else:
                self._over = TokayError(
                    f"the budget of {self.limit:g} {self.currency} would be passed: {self.spent:.4g} is spent, and "
                    f"the next request may cost {amount:.4g}; all answers so far are kept: run again with a larger "
                    f"--budget, and it goes on where this stopped"
                )
        if self._over:
            raise self._over
        self._held.append(amount)

    def settle(self, amount: float, cost: float) -> None:
        """Give back what was set aside, and count what was spent of it."""
        self.spent += cost
        self.release(amount)

    def release(self, amount: float) -> None:
        """Give back what was set aside: nothing was spent of it."""
        self._held.remove(amount)
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def _next_change(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future


class Purse:
    """Pays for the requests to one model, out of the run's budget.

    Args:
        price: of the model; None: not known, so that nothing is set aside and every cost is unknown.
        budget: shared by all models of a run.
    """

    def __init__(self, price: Price | None = None, budget: Budget | None = None) -> None:
        self._price = price
        self._budget = budget or Budget()

    async def reserve(self, request: Mapping[str, Any]) -> float:
        """Set aside the most that a request can cost, and say how much that is.

        Raises:
            TokayError: the budget would be passed.
        """
        prompt, completion = most_tokens(request)
        most = self._price.of(prompt=prompt, completion=completion) if self._price else 0.0
        await self._budget.reserve(most)
        return most

    def settle(self, reserved: float, usage: Usage, *, answered: bool = True) -> float | None:
        """What a request cost, in the table's currency; None: unknown.

        An answer whose tokens the server did not tell counts as the most that it can have cost.
        """
        if self._price is None:
            self._budget.release(reserved)
            return None
        told = usage.prompt > 0 or usage.completion > 0
        cost = self._price.of(prompt=usage.prompt, cached=usage.cached, completion=usage.completion)
        cost = reserved if answered and not told else cost
        self._budget.settle(reserved, cost)
        return cost

    def release(self, reserved: float) -> None:
        """Nothing was spent of it."""
        self._budget.release(reserved)
