"""What a run will do, in words, and a person's word that it may."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from tokay.errors import TokayError
from tokay.evaluate.significance import forecast
from tokay.llm.estimate import Estimate, money
from tokay.llm.ledger import LEDGER
from tokay.progress import Progress
from tokay.split import FEW_DOCUMENTS

FAR_OFF = 0.2
"""Share by which the corrected estimate may differ from the one that was confirmed."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run will do, before anything is paid for. ``queries`` are the user's own, of a log or with labels."""

    documents: int
    passages: int
    skipped: int
    held_out: int
    dev: int
    left_out: int
    by_section: bool
    sampled: int
    queries_per_passage: int
    queries: int
    test_queries: int
    seen_queries: int
    candidates: int
    llm: str
    paid: bool
    estimate: Estimate
    assumes: str
    answered: int
    spent: float
    budget: float
    where: str
    guard: str = ""

    def lines(self) -> list[str]:
        """The plan in words."""
        unit = f"sections (fewer than {FEW_DOCUMENTS} documents)" if self.by_section else "documents"
        total = max(1, self.passages)
        said = [
            f"{self.passages:,} passages of {self.documents:,} {unit}"
            + (f"; {self.skipped:,} inputs skipped, see corpus/skipped.parquet" if self.skipped else "")
        ]
        if self.held_out:
            said.append(
                f"held out for the verdict: {self.held_out:,} passages ({self.held_out / total:.0%}), whole "
                f"{unit.split()[0]}; {self.dev:,} more for choices ({self.dev / total:.0%})"
            )
        if self.left_out:
            said.append(f"{self.left_out:,} passages nearly repeat one of these, and are left out of training")
        if self.sampled:
            said.append(f"{self.sampled:,} passages sampled, {self.queries_per_passage} queries each, by {self.llm}")
        if self.queries:
            said.append(f"{self.queries:,} queries of your own")
        if self.test_queries:
            shown = f"about {self.test_queries:,} held-out queries, which can show {forecast(self.test_queries):.3f}"
            more = f"; {self.seen_queries:,} of training documents, {forecast(self.seen_queries):.3f}"
            said.append(
                f"the verdict will be on {shown}{more if self.seen_queries else ''} (difference in nDCG@10 that is "
                "found four times of five)"
            )
        return [*said, *([self.guard] if self.guard else [])]

    def consent(self) -> list[str]:
        """What asking the LLM takes and what leaves the machine, in words; nothing where it is a recording."""
        if self.llm.startswith("recorded"):
            return []
        said = self.costs() if self.paid else [f"{self.llm} is asked on this machine: nothing leaves it or is paid"]
        return [
            *said,
            f"{LEDGER} in the run folder keeps every request and answer, for you alone to read: it holds text of your "
            f"documents ('tokay ledger purge' empties it)",
        ]

    def costs(self) -> list[str]:
        """What is asked of the LLM, in words."""
        currency = self.estimate.table.currency
        said = [*self.estimate.lines(), *([self.assumes] if self.assumes else [])]
        if self.answered:
            price = f", for {money(self.spent)} {currency}" if self.spent else ""
            said.append(
                f"{self.answered:,} requests of this run are answered already{price}; "
                f"what is among them is not asked again"
            )
        if self.budget:
            said.append(f"budget: {money(self.budget)} {currency}; the run stops before it would be passed")
        own = ", your own queries" if self.queries else ""
        return [
            *said,
            f"to {', '.join(self.estimate.prices)} at {self.where} goes the text of the sampled passages{own}, and of "
            f"every passage that is a candidate for a query, be it sampled or not",
        ]


Confirm = Callable[[Plan], bool]
"""Whether a person agrees to pay for what a plan says."""


class Consent:
    """The plan that was shown, and whether a person agreed to it: asked once, and only by a stage that asks the LLM.

    Args:
        progress: where the plan is told.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.plan: Plan  # set by ``show``
        self.told = False
        self.confirmed = False
        self.ask: Confirm = lambda plan: False

    def show(self, plan: Plan, confirm: Confirm | None) -> None:
        """Say what will be done; the question is asked when, and only if, a stage is about to ask the LLM."""
        self.plan = plan
        for line in plan.lines():
            self.progress.say(line)
        self.told = False
        self.confirmed = not plan.paid
        self.ask = confirm or (lambda plan: False)

    def before_paying(self) -> None:
        """The first line of a stage that asks the LLM: says what that takes, once, and asks whether to go on.

        Raises:
            TokayError: the plan was not confirmed.
        """
        if not self.told:
            for line in self.plan.consent():
                self.progress.say(line)
        self.told = True
        self.confirmed = self.confirmed or self.ask(self.plan)
        if not self.confirmed:
            raise TokayError("nothing was asked of the LLM: the plan was not confirmed (--yes confirms it)")

    def correct(self, estimate: Estimate, *, passages: int) -> None:
        """Say what the first passages have shown it to take, and ask again where that is far off.

        Raises:
            TokayError: the corrected plan was not confirmed.
        """
        change, self.plan = self.plan.estimate.change(estimate), dataclasses.replace(self.plan, estimate=estimate)
        for line in estimate.lines():
            self.progress.say(line)
        if abs(change) > FAR_OFF and not self.ask(self.plan):
            raise TokayError(
                f"stopped after the first {passages} passages: the estimate changed by {change:+.0%} and was not "
                f"confirmed (--yes confirms it); what was answered is kept"
            )
