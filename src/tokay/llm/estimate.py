"""What a run will ask for, before it asks: calls, tokens, price and time, as ranges that say what they assume."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from tokay.llm.prices import Price, PriceTable

SPREAD = 0.25
"""Share by which tokens may differ from the estimate: another tokenizer counts otherwise. Our choice."""

MEASURED_SPREAD = 0.1
"""The same once the model's own counts of the first passages are known. Our choice."""

LATENCY = (1.0, 4.0)
"""Seconds a call: what hosted models mostly take for answers of this length. Our assumption."""


@dataclasses.dataclass(frozen=True)
class Planned:
    """A request that a stage will send, or one of a sample of them.

    Attributes:
        prompt: name of the prompt that it is made of.
        text: all of what is sent.
        answer: tokens that an answer of the form that is asked for takes.
        stage: of the run.
        llm: who is asked, as ``--llm`` would name it; empty: the run's own.
        times: how many requests this one stands for.
    """

    prompt: str
    text: str
    answer: float
    stage: str = ""
    llm: str = ""
    times: float = 1.0


@dataclasses.dataclass(frozen=True)
class Part:
    """The requests of one prompt of one stage to one model: how many, and the tokens of all of them.

    ``shared`` are those prompt tokens that stand in the part with which all of them begin.
    """

    stage: str
    prompt: str
    llm: str
    calls: float
    tokens: float
    shared: float
    answer: float


@dataclasses.dataclass(frozen=True)
class Range:
    """From the best case to the worst."""

    low: float
    high: float


def count(requests: Iterable[Planned], count_tokens: Callable[[str], int]) -> list[Part]:
    """Tokens of the requests by stage, prompt and model, as ``count_tokens`` counts them."""
    calls, tokens, answers = (defaultdict[tuple[str, str, str], float](float) for _ in range(3))
    beginnings: dict[tuple[str, str, str], str] = {}
    for request in requests:
        key = (request.stage, request.prompt, request.llm)
        calls[key] += request.times
        tokens[key] += request.times * count_tokens(request.text)
        answers[key] += request.times * request.answer
        beginnings[key] = _shared(beginnings.get(key, request.text), request.text)
    return [
        Part(*key, calls[key], tokens[key], min(tokens[key], calls[key] * count_tokens(beginnings[key])), answers[key])
        for key in calls
    ]


def _shared(a: str, b: str) -> str:
    """What two texts begin with."""
    return a[: next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What the parts come to.

    Attributes:
        parts: what will be asked.
        table: prices.
        concurrency: requests in flight.
        spread: share by which tokens may be off.
        latency: seconds a call, at best and at worst.
        measured: of how many passages the figures were corrected by what they took; 0: none yet.
    """

    parts: Sequence[Part]
    table: PriceTable
    concurrency: int = 8
    spread: float = SPREAD
    latency: tuple[float, float] = LATENCY
    measured: int = 0

    @property
    def calls(self) -> int:
        """Requests, if each is answered so that it can be used."""
        return round(sum(part.calls for part in self.parts))

    @property
    def prompt_tokens(self) -> int:
        """Of all requests."""
        return round(sum(part.tokens for part in self.parts))

    @property
    def answer_tokens(self) -> int:
        """Of all answers."""
        return round(sum(part.answer for part in self.parts))

    @property
    def prices(self) -> Mapping[str, Price | None]:
        """Price of each model that is asked, by its ``--llm`` word; None: the table does not have it."""
        return {part.llm: self.table.of_llm(part.llm) for part in self.parts}

    def cost(self) -> float | None:
        """In the table's currency, with no token from a cache; None: a model has no price."""
        return self._cost(cached=False)

    def price(self) -> Range | None:
        """From fewer tokens, with every shared beginning cached, to more, with none; None: a model has no price."""
        low, high = self._cost(cached=True), self._cost(cached=False)
        return None if low is None or high is None else Range(low * (1 - self.spread), high * (1 + self.spread))

    def seconds(self) -> Range:
        """With ``concurrency`` requests in flight."""
        rounds = max(1.0, self.calls / self.concurrency) if self.calls else 0.0
        return Range(rounds * self.latency[0], rounds * self.latency[1])

    def corrected(self, *, prompt: float, answer: float, seconds: float, passages: int) -> Estimate:
        """After the first passages: prompt and answer tokens times what those took of theirs, ``seconds`` a call."""
        parts = [
            dataclasses.replace(p, tokens=p.tokens * prompt, shared=p.shared * prompt, answer=p.answer * answer)
            for p in self.parts
        ]
        latency = (seconds * (1 - self.spread), seconds * (1 + self.spread)) if seconds else self.latency
        return dataclasses.replace(self, parts=parts, spread=MEASURED_SPREAD, latency=latency, measured=passages)

    def change(self, other: Estimate) -> float:
        """How far another estimate is off this one, as a share: of the cost, or of the tokens where that is unknown."""
        mine, others = self.cost(), other.cost()
        if not mine or not others:
            mine, others = (float(e.prompt_tokens + e.answer_tokens) for e in (self, other))
        return others / mine - 1.0 if mine else 0.0

    def lines(self) -> list[str]:
        """In words."""
        asked = "; ".join(
            part.stage
            + (f" ({part.prompt})" if part.prompt != part.stage else "")
            + (f" by {part.llm}" if len(self.prices) > 1 else "")
            + f" {round(part.calls):,}, {round(part.tokens):,} + {round(part.answer):,} tokens"
            for part in self.parts
        )
        basis = f"by what the first {self.measured} passages took" if self.measured else "by the base's tokenizer"
        return [
            f"at most {self.calls:,} LLM calls, about {self.prompt_tokens:,} prompt and {self.answer_tokens:,} answer "
            f"tokens, give or take {self.spread:.0%} ({basis}): {asked}",
            self._price_line(),
            self._time_line(),
        ]

    def _price_line(self) -> str:
        price = self.price()
        if price is None:
            unknown = next(llm for llm, known in self.prices.items() if known is None)
            return f"price: unknown, tokens only: {self.table.missing(unknown)}"
        rates = "; ".join(
            f"{llm}: {p.input:g} in, {p.cached:g} cached, {p.output:g} out a million"
            + (f", checked {p.checked}" if p.checked else "")
            for llm, p in self.prices.items()
            if p
        )
        return f"price: {money(price.low)} to {money(price.high)} {self.table.currency} ({rates}; prices change)"

    def _time_line(self) -> str:
        seconds = self.seconds()
        return (
            f"time: {_duration(seconds.low)} to {_duration(seconds.high)}, at {self.concurrency} requests in flight "
            f"and {self.latency[0]:.2g} to {self.latency[1]:.2g} seconds each"
        )

    def _cost(self, *, cached: bool) -> float | None:
        prices = self.prices
        costs = [
            price.of(prompt=part.tokens, cached=part.shared if cached else 0.0, completion=part.answer)
            for part in self.parts
            if (price := prices[part.llm])
        ]
        return sum(costs) if len(costs) == len(self.parts) else None


def money(amount: float) -> str:
    """An amount with as many digits as say something: 12.30, 0.045."""
    return f"{amount:.2f}" if amount >= 1 or amount == 0 else f"{amount:.2g}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


def token_counter(folder: Path) -> Callable[[str], int]:
    """Counts the tokens of a text as the base would, special tokens left out."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return lambda text: len(tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])
