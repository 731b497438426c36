"""Judges: ways of asking a model which passages answer a query, chosen by what the model can do.

A judge rates the candidates of one query (asks) and decides what the ratings come to (does not ask; ``fuse``).

====================  =====================================================  ==================================
judge                 asks                                                   needs
====================  =====================================================  ==================================
gecko                 log P(query | passage) and log P(grade | query,        log-probabilities of prompts
                      passage) of each candidate, fused by rank
relevance             the second alone                                       log-probabilities of prompts
pointwise             for one digit, of each candidate                       a chat; log-probabilities of the
                                                                             first token make it an expectation
listwise              for all grades in one answer, several times in         a chat
                      different orders
cascade               listwise once; what is disputed goes to a strong       a chat, or two
                      model, listwise
cross-encoder         a local reranker                                       nothing of the LLM
====================  =====================================================  ==================================
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from pydantic import BaseModel

from tokay.annotate import fuse, prompts
from tokay.annotate.asking import Failed, Unusable, ask, ask_likelihoods, place, read_json
from tokay.errors import TokayError
from tokay.llm.door import LanguageModel
from tokay.llm.estimate import Planned
from tokay.llm.ledger import Answer
from tokay.llm.probe import Abilities
from tokay.records import Failure, Judgment, Passage, Query, Rating
from tokay.settings import JudgeSettings

GRADE_TOKENS = 16
"""Room in a listwise answer for each candidate."""

POINTWISE_TOKENS = 8
"""Room for one digit, and for a model that puts a word before it."""

GRADE_ANSWER = 6.0
LISTWISE_ANSWER = 15.0
"""Tokens that a listwise answer takes: for each candidate, and for what stands around. Counted by MiniLM's tokenizer
in the JSON that is asked for, of 5 to 50 candidates: 5.8 to 6.0, and 14."""

POINTWISE_ANSWER = 1.0
LIKELIHOOD_ANSWER = 1.0
"""Tokens of the one digit, and the one that servers write when they are asked for none."""


def listwise_schema(shown: int) -> dict[str, Any]:
    """Of an answer about so many passages: every key is named, as OpenAI's strict mode wants it."""
    numbers = [str(number) for number in range(1, shown + 1)]
    grades = {number: {"type": "integer", "enum": list(fuse.LABELS)} for number in numbers}
    strict = {"type": "object", "additionalProperties": False}
    return {
        **strict,
        "properties": {
            "grades": {**strict, "properties": grades, "required": numbers},
            "best": {"type": "integer", "enum": list(range(1, shown + 1))},
        },
        "required": ["grades", "best"],
    }


Rated = list[Rating | Failure]


class Judge(Protocol):
    """Rates, then decides."""

    @property
    def version(self) -> str:
        """Names and hashes of its prompts, and what else its ratings depend on."""

    async def rate(self, chat: LanguageModel, query: Query, passages: Sequence[Passage]) -> Rated:
        """Ask about the candidates of a query; what could not be used is a ``Failure``."""

    def decide(self, query: Query, candidates: Sequence[str], ratings: Sequence[Rating]) -> list[Judgment]:
        """What the ratings come to. ``candidates`` are passage ids in the retriever's order."""

    def requests(self, query: Query, passages: Sequence[Passage]) -> Iterator[Planned]:
        """Each request that ``rate`` would send, for estimates.

        What depends on answers (a cascade's second step) is counted as if every query took it.
        """


class Gecko:
    """Query likelihood and relevance classification, fused by rank: Gecko's own judge (3.3 and appendix A)."""

    def __init__(self, settings: JudgeSettings) -> None:
        self._chars = settings.passage_chars
        self._k = settings.rrf_k
        self._relevance = Relevance(settings)

    @property
    def version(self) -> str:
        """Both prompts, and k."""
        return f"gecko {prompts.LIKELIHOOD.version} {self._relevance.version} k{self._k}"

    async def rate(self, chat: LanguageModel, query: Query, passages: Sequence[Passage]) -> Rated:
        """Two requests a candidate."""

        async def likelihood(passage: Passage) -> Rated:
            context = prompts.likelihood_context(query, passage, passage_chars=self._chars)
            answer = await ask_likelihoods(chat, context, [f" {query.text}"])
            if isinstance(answer, Failed):
                return [answer.of("judge", f"{query.query_id} {passage.passage_id}")]
            return [_rating(query, passage, "likelihood", answer.values[0], prompts.LIKELIHOOD, answer)]

        relevance = self._relevance.rate(chat, query, passages)
        return _flat(await asyncio.gather(relevance, *(likelihood(p) for p in passages)))

    def decide(self, query: Query, candidates: Sequence[str], ratings: Sequence[Rating]) -> list[Judgment]:
        """R = 1/(k + r_QL) + 1/(k + r_RC)."""
        return fuse.gecko(query, candidates, ratings, k=self._k)

    def requests(self, query: Query, passages: Sequence[Passage]) -> Iterator[Planned]:
        """Two a candidate; the likelihood's holds the query, too."""
        for passage in passages:
            context = prompts.likelihood_context(query, passage, passage_chars=self._chars)
            yield Planned(prompts.LIKELIHOOD.name, f"{context} {query.text}", LIKELIHOOD_ANSWER)
        yield from self._relevance.requests(query, passages)


class Relevance:
    """log P of every label after one prompt a candidate (Zhuang et al., 2310.14122)."""

    def __init__(self, settings: JudgeSettings) -> None:
        self._chars = settings.passage_chars

    @property
    def version(self) -> str:
        """Its prompt."""
        return f"{prompts.RELEVANCE.version} c{self._chars}"

    async def rate(self, chat: LanguageModel, query: Query, passages: Sequence[Passage]) -> Rated:
        """One request a candidate, all labels in it."""

        async def labels(passage: Passage) -> Rated:
            context = prompts.relevance_context(query, passage, passage_chars=self._chars)
            answer = await ask_likelihoods(chat, context, [f" {label}" for label in prompts.LABELS])
            if isinstance(answer, Failed):
                return [answer.of("judge", f"{query.query_id} {passage.passage_id}")]
            return [
                _rating(query, passage, f"relevance:{label}", value, prompts.RELEVANCE, answer)
                for label, value in zip(prompts.LABELS, answer.values, strict=True)
            ]

        return _flat(await asyncio.gather(*(labels(p) for p in passages)))

    def decide(self, query: Query, candidates: Sequence[str], ratings: Sequence[Rating]) -> list[Judgment]:
        """The likeliest label; the order is that of the expected one."""
        return fuse.relevance(query, candidates, ratings)

    def requests(self, query: Query, passages: Sequence[Passage]) -> Iterator[Planned]:
        """One a candidate."""
        for passage in passages:
            context = prompts.relevance_context(query, passage, passage_chars=self._chars)
            yield Planned(prompts.RELEVANCE.name, f"{context} 0", LIKELIHOOD_ANSWER)


class Pointwise:
    """One digit a candidate. Where the first token's log-probabilities come with it, the grade is their expectation."""

    def __init__(self, settings: JudgeSettings, abilities: Abilities) -> None:
        self._chars = settings.passage_chars
        self._top = abilities.first_logprobs

    @property
    def version(self) -> str:
        """Its prompt, and whether log-probabilities are asked for."""
        return f"{prompts.POINTWISE.version} c{self._chars}{' expected' if self._top else ''}"

    async def rate(self, chat: LanguageModel, query: Query, passages: Sequence[Passage]) -> Rated:
        """One request a candidate."""

        async def grade(passage: Passage) -> Rated:
            messages = prompts.pointwise_messages(query, passage, passage_chars=self._chars)

            def parse(answer: Answer) -> Rated:
                value = digit(answer)
                return [_rating(query, passage, "pointwise", value, prompts.POINTWISE, answer)]

            done = await ask(chat, messages, POINTWISE_TOKENS, parse, top_logprobs=self._top)
            if isinstance(done, Failed):
                return [done.of("judge", f"{query.query_id} {passage.passage_id}")]
            return done

        return _flat(await asyncio.gather(*(grade(p) for p in passages)))

    def decide(self, query: Query, candidates: Sequence[str], ratings: Sequence[Rating]) -> list[Judgment]:
        """The grade, rounded."""
        return fuse.mean_grades(query, candidates, ratings, judge="pointwise")

    def requests(self, query: Query, passages: Sequence[Passage]) -> Iterator[Planned]:
        """One a candidate."""
        for passage in passages:
            text = _text(prompts.pointwise_messages(query, passage, passage_chars=self._chars))
            yield Planned(prompts.POINTWISE.name, text, POINTWISE_ANSWER)


class Listwise:
    """All candidates in one answer, in several orders: models favour places (Liu et al., 2307.03172)."""

    def __init__(self, settings: JudgeSettings, abilities: Abilities, *, turns: int, name: str = "listwise") -> None:
        self._chars = settings.passage_chars
        self._strict = abilities.schema
        self._turns = turns
        self._name = name

    @property
    def version(self) -> str:
        """Its prompt and the number of turns."""
        return f"{prompts.LISTWISE.version} c{self._chars} x{self._turns}"

    async def rate(self, chat: LanguageModel, query: Query, passages: Sequence[Passage]) -> Rated:
        """One request a turn; a turn that came to nothing leaves the others."""
        return _flat(await asyncio.gather(*(self._turn(chat, query, passages, t) for t in range(self._turns))))

    async def _turn(self, chat: LanguageModel, query: Query, passages: Sequence[Passage], turn: int) -> Rated:
        shown = prompts.shuffled(query.query_id, passages, turn)
        messages = prompts.listwise_messages(query, shown, passage_chars=self._chars)

        def parse(answer: Answer) -> Rated:
            grades, best = read_grades(answer.text, len(shown))
            found: Rated = []
            for number, passage in enumerate(shown, 1):
                value, first = float(grades[number]), float(number == best)
                found.append(_rating(query, passage, f"{self._name}:{turn}", value, prompts.LISTWISE, answer))
                found.append(_rating(query, passage, f"best-{self._name}:{turn}", first, prompts.LISTWISE, answer))
            return found

        done = await ask(
            chat,
            messages,
            64 + len(shown) * GRADE_TOKENS,
            parse,
            schema=listwise_schema(len(shown)) if self._strict else None,
        )
        return [done.of("judge", query.query_id)] if isinstance(done, Failed) else done

    def decide(self, query: Query, candidates: Sequence[str], ratings: Sequence[Rating]) -> list[Judgment]:
        """The mean grade over the turns; the votes for the best decide among equals."""
        return fuse.mean_grades(query, candidates, ratings, judge=self._name)

    def requests(self, query: Query, passages: Sequence[Passage]) -> Iterator[Planned]:
        """One a turn."""
        for _ in range(self._turns):
            text = _text(prompts.listwise_messages(query, passages, passage_chars=self._chars))
            yield Planned(prompts.LISTWISE.name, text, LISTWISE_ANSWER + len(passages) * GRADE_ANSWER)


class Cascade:
    """A cheap judge on everything, a strong one on what is disputed (RLHN, 2505.16967).

    Undisputed is a query of which the cheap judge finds the seed best and nothing else right. Otherwise the strong
    one sees the passages that the cheap one graded 1 or more, and the seed; its grades stand in place of the others.
    """

    def __init__(self, settings: JudgeSettings, abilities: Abilities, strong: LanguageModel | None) -> None:
        self._cheap = Listwise(settings, abilities, turns=1, name="cheap")
        self._strong = Listwise(settings, Abilities(), turns=1, name="strong")
        self._strong_model = strong
        self._strong_llm = settings.strong_llm

    @property
    def version(self) -> str:
        """Both steps."""
        return f"cascade {self._cheap.version} then {self._strong_llm or 'the same'} {self._strong.version}"

    async def rate(self, chat: LanguageModel, query: Query, passages: Sequence[Passage]) -> Rated:
        """One request, or two."""
        first = await self._cheap.rate(chat, query, passages)
        ratings = [r for r in first if isinstance(r, Rating)]
        judged = self._cheap.decide(query, [p.passage_id for p in passages], ratings)
        if not is_disputed(query, judged):
            return first
        wanted = {j.passage_id for j in judged if j.grade >= 1} | {query.seed_id}
        again = [p for p in passages if p.passage_id in wanted]
        return first + (await self._strong.rate(self._strong_model or chat, query, again) if again else [])

    def decide(self, query: Query, candidates: Sequence[str], ratings: Sequence[Rating]) -> list[Judgment]:
        """The strong judge's word where it was asked, above all that it was not shown."""
        cheap = self._cheap.decide(query, candidates, ratings)
        strong = {j.passage_id: j for j in self._strong.decide(query, candidates, ratings)}
        if not strong:
            return cheap
        return [strong.get(j.passage_id) or _lowered(j) for j in cheap]

    def requests(self, query: Query, passages: Sequence[Passage]) -> Iterator[Planned]:
        """The first step, and a second one over a quarter of the candidates."""
        yield from self._cheap.requests(query, passages)
        for request in self._strong.requests(query, passages[: max(1, len(passages) // 4)]):
            yield dataclasses.replace(request, llm=self._strong_llm)


def _lowered(judgment: Judgment) -> Judgment:
    """Of a passage that the strong judge was not shown: the cheap grade, below all that it was shown."""
    return dataclasses.replace(judgment, score=judgment.score - 10.0, best=False)


def is_disputed(query: Query, judged: Sequence[Judgment]) -> bool:
    """Whether anything but "the seed answers, and it alone" was found."""
    right = {j.passage_id for j in judged if j.grade >= 2}
    return right != {query.seed_id} or not any(j.best and j.passage_id == query.seed_id for j in judged)


class CrossEncoder:
    """A local reranker in the LLM's place: free, and steadier than InfoNCE on corpus-specific data (RLHN, table 5).

    A logit x counts as grade 3 from P = 1/(1 + e^-x) >= 0.9, as 2 from 0.5, as 1 from 0.1: our choice, which a reranker
    that was not trained with a binary loss does not fit; the order is its own.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self._name = settings.cross_encoder
        self._chars = settings.passage_chars
        self._score: Callable[[Sequence[tuple[str, str]]], Awaitable[Sequence[float]]] | None = None

    @property
    def version(self) -> str:
        """The model."""
        return f"cross-encoder {self._name} c{self._chars}"

    async def rate(self, chat: LanguageModel, query: Query, passages: Sequence[Passage]) -> Rated:
        """All candidates of a query in one batch."""
        if self._score is None:
            self._score = _scorer(self._name)
        pairs = [(query.text, f"{p.title} {p.text[: self._chars]}".strip()) for p in passages]
        values = await self._score(pairs)
        source = f"cross-encoder {self._name}"
        return [
            Rating(query.query_id, p.passage_id, "cross-encoder", float(value), "", source)
            for p, value in zip(passages, values, strict=True)
        ]

    def decide(self, query: Query, candidates: Sequence[str], ratings: Sequence[Rating]) -> list[Judgment]:
        """Grades by probability; the order is that of the logits."""
        return fuse.thresholds(query, candidates, ratings, judge="cross-encoder")

    def requests(self, query: Query, passages: Sequence[Passage]) -> Iterator[Planned]:
        """None."""
        return iter(())


def _scorer(name: str) -> Callable[[Sequence[tuple[str, str]]], Awaitable[Sequence[float]]]:
    from tokay.models.cross_encoder import CrossEncoder as Model

    model, one_at_a_time = Model.load(name), asyncio.Lock()

    async def score(pairs: Sequence[tuple[str, str]]) -> Sequence[float]:
        async with one_at_a_time:
            return await asyncio.to_thread(lambda: model.score(pairs).tolist())

    return score


def chosen_judge(settings: JudgeSettings, abilities: Abilities) -> str:
    """The judge and why it is that one, in words."""
    if settings.by != "auto":
        return f"{settings.by}, as asked for"
    if abilities.likelihood:
        return "gecko, since the model gives log-probabilities of prompts"
    return "listwise, since the model gives no log-probabilities of prompts"


def make_judge(settings: JudgeSettings, abilities: Abilities, strong: LanguageModel | None = None) -> Judge:
    """The judge that the settings name, or that the model's abilities suggest.

    ``strong`` is a cascade's second model; None: the first one again.

    Raises:
        TokayError: it needs what the model cannot do.
    """
    by = settings.by if settings.by != "auto" else ("gecko" if abilities.likelihood else "listwise")
    if by in ("gecko", "relevance") and not abilities.likelihood:
        raise TokayError(
            f"judge.by={by} needs log-probabilities of prompts, which this model does not give; "
            "use listwise or pointwise, or --llm hf:MODEL, or a server such as vLLM"
        )
    if by == "cross-encoder" and not settings.cross_encoder:
        raise TokayError("judge.by=cross-encoder needs judge.cross_encoder, a model folder or a Hub name")
    makers: dict[str, Callable[[], Judge]] = {
        "gecko": lambda: Gecko(settings),
        "relevance": lambda: Relevance(settings),
        "pointwise": lambda: Pointwise(settings, abilities),
        "listwise": lambda: Listwise(settings, abilities, turns=settings.turns),
        "cascade": lambda: Cascade(settings, abilities, strong),
        "cross-encoder": lambda: CrossEncoder(settings),
    }
    return makers[by]()


# -- reading answers ------------------------------------------------------------------------------------------------


class _Grades(BaseModel):
    grades: dict[int, int]
    best: int | None


def read_grades(text: str, shown: int) -> tuple[dict[int, int], int]:
    """The grade of each number from 1 to ``shown``, and the best number; 0 where none is named, or a lower grade's.

    Raises:
        Unusable: it is not the JSON that was asked for, numbers a passage that was not shown, or a grade is missing
            or none of 0 to 3.
    """
    answer = read_json(_Grades, text)
    expected = set(range(1, shown + 1))
    if missing := sorted(expected - set(answer.grades)):
        raise Unusable(f"no grade for {len(missing)} of {shown} passages")
    if strange := sorted({*answer.grades, answer.best or 1} - expected):
        raise Unusable(f"passage {strange[0]} was not shown; there were {shown}")
    if wrong := sorted(g for g in answer.grades.values() if g not in fuse.LABELS):
        raise Unusable(f"grade {wrong[0]} is none of 0, 1, 2, 3")
    best = answer.best if answer.best and answer.grades[answer.best] == max(answer.grades.values()) else 0
    return answer.grades, best


def digit(answer: Answer) -> float:
    """The grade that a pointwise answer gives: expected under the first token's log-probabilities, else as written.

    The expectation needs that grades make up most of the first token's mass; a model that begins with a word is read.

    Raises:
        Unusable: there is no grade in it.
    """
    first: dict[int, float] = {}
    for token, value in answer.first.items():
        if token.strip() in prompts.LABELS:
            grade = int(token)
            first[grade] = _log_sum(first[grade], value) if grade in first else value
    if first and sum(math.exp(v) for v in first.values()) >= 0.5:
        return fuse.expectation(first)
    spoken = answer.text.rpartition("</think>")[2]
    found = next((c for c in spoken if c.isdigit()), "")
    if found not in prompts.LABELS or not found:
        raise Unusable(f"no grade from 0 to 3 in {' '.join(spoken.split())[:80]!r}")
    return float(found)


def _log_sum(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high + math.log1p(math.exp(low - high))


def _rating(query: Query, passage: Passage, judge: str, value: float, prompt: prompts.Prompt, answer: Answer) -> Rating:
    return Rating(query.query_id, passage.passage_id, judge, value, prompt.version, place(answer.key))


def _flat(parts: Sequence[Rated]) -> Rated:
    return [item for part in parts for item in part]


def _text(messages: Sequence[Mapping[str, str]]) -> str:
    return "\n".join(message["content"] for message in messages)
