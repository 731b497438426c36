"""An LLM that is asked now: Gecko's two steps through a chat endpoint, with the ledger between."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tokay.annotate import prompts
from tokay.annotate.annotator import CallPlan
from tokay.errors import TokayError
from tokay.llm.client import AskFailed, ChatClient, ChatModel, endpoint
from tokay.llm.ledger import Ledger
from tokay.progress import Progress, Silent
from tokay.records import Failure, Judgment, Passage, Query

T = TypeVar("T")
R = TypeVar("R")

FORMS = "recorded, recorded:FOLDER or openai:MODEL"
WINDOW = 64
"""Items read ahead of the answers: bounds memory, and keeps the client's slots full."""

TRIES = 2
"""An answer that cannot be used is asked for once more."""

COPIED_WORDS = 8
"""A query with a run of this many words of its passage is copied, not written."""

GENERATE_TOKENS = 120
JUDGE_TOKENS = 16
"""Room in the answer, a query and a candidate."""

_FENCE = re.compile(r"^```(?:json)?\s*|\s*```$")


class _Pair(BaseModel):
    model_config = ConfigDict(extra="ignore")
    task: str
    query: str


class _Pairs(BaseModel):
    queries: list[_Pair]


class _Grades(BaseModel):
    grades: dict[int, int]
    best: int


class Unusable(Exception):
    """An answer that does not fit its prompt; the text says why."""


class LiveAnnotator:
    """Asks a chat model. Answers come in the order of the input, whatever the order in which the model gives them."""

    paid = True
    seeds = None

    def __init__(self, connect: Callable[[], ChatModel], *, name: str, passage_chars: int) -> None:
        self.name = name
        self.version = f"{name} {prompts.GENERATE.version} {prompts.JUDGE.version} {passage_chars}"
        self._connect = connect
        self._passage_chars = passage_chars

    def plan(self, *, passages: int, per_passage: int, candidates: int, mean_chars: float) -> CallPlan:
        """One call a passage, one a query; prompt tokens at four characters each."""
        write = len(prompts.GENERATE.system) + mean_chars
        judge = len(prompts.JUDGE.system) + candidates * min(mean_chars, self._passage_chars)
        tokens = passages * (write + per_passage * judge) / 4
        return CallPlan(passages * (1 + per_passage), round(tokens))

    def candidates(self, query: Query) -> list[str] | None:
        """None: it judges what was mined."""
        return None

    def generate(
        self, passages: Iterable[Passage], *, per_passage: int, progress: Progress | None = None
    ) -> Iterator[Query | Failure]:
        """Write queries; a passage whose answer cannot be used is a ``Failure``, and so is each unusable query."""

        async def write(chat: ChatModel, passage: Passage) -> list[Query | Failure]:
            messages = prompts.generate_messages(passage, count=per_passage)

            def parse(text: str, key: str) -> list[Query | Failure]:
                return queries_from(text, passage, per_passage, key)

            done = await _ask(chat, messages, per_passage * GENERATE_TOKENS, parse)
            return [Failure("generate", passage.passage_id, done.reason, "")] if isinstance(done, Failed) else done

        yield from self._in_order(passages, write, progress or Silent())

    def judge(
        self, items: Iterable[tuple[Query, Sequence[Passage]]], *, progress: Progress | None = None
    ) -> Iterator[Judgment | Failure]:
        """Grade the candidates of each query in one call; a query whose answer cannot be used is a ``Failure``."""

        async def grade(chat: ChatModel, item: tuple[Query, Sequence[Passage]]) -> list[Judgment | Failure]:
            query, shown = item[0], prompts.shuffled(item[0].query_id, item[1])
            messages = prompts.judge_messages(query, shown, passage_chars=self._passage_chars)

            def parse(text: str, key: str) -> list[Judgment | Failure]:
                return grades_from(text, query, shown, key)

            done = await _ask(chat, messages, 64 + len(shown) * JUDGE_TOKENS, parse)
            return [Failure("judge", query.query_id, done.reason, "")] if isinstance(done, Failed) else done

        yield from self._in_order(items, grade, progress or Silent())

    def _in_order(
        self, items: Iterable[T], work: Callable[[ChatModel, T], Awaitable[list[R]]], progress: Progress
    ) -> Iterator[R]:
        """Run ``work`` over a sliding window of items and yield results in the items' order.

        Closing the iterator cancels what is in flight; what was answered before is in the ledger.
        """
        source = iter(items)
        with asyncio.Runner() as runner:
            chat = runner.run(_call(self._connect))
            pending: list[asyncio.Task[list[R]]] = []

            async def fill_and_wait() -> list[R] | None:
                while len(pending) < WINDOW and (more := list(islice(source, 1))):
                    pending.append(asyncio.ensure_future(work(chat, more[0])))
                return await pending.pop(0) if pending else None

            try:
                while (done := runner.run(fill_and_wait())) is not None:
                    progress.advance()
                    yield from done
            finally:
                for task in pending:
                    task.cancel()
                runner.run(chat.close())


class Failed:
    """Why an item came to nothing."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


async def _call(connect: Callable[[], ChatModel]) -> ChatModel:
    return connect()  # inside the loop that will use it


async def _ask(
    chat: ChatModel, messages: list[prompts.Message], max_tokens: int, parse: Callable[[str, str], list[R]]
) -> list[R] | Failed:
    reason = ""
    for attempt in range(TRIES):
        try:
            answer = await chat.complete(messages, max_tokens=max_tokens, attempt=attempt)
            return parse(answer.text, answer.key)
        except AskFailed as error:
            return Failed(f"no answer: {error}")
        except Unusable as error:
            reason = str(error)
    return Failed(reason)


def queries_from(text: str, passage: Passage, count: int, key: str) -> list[Query | Failure]:
    """Parse a generation answer.

    Raises:
        Unusable: it is not the JSON that was asked for, or holds no query.
    """
    pairs = _parse(_Pairs, text).queries[:count]
    if not pairs:
        raise Unusable("no queries in the answer")
    made: list[Query | Failure] = []
    for k, pair in enumerate(pairs):
        query_id, query = f"{passage.passage_id}#{k}", " ".join(pair.query.split())
        if not query:
            made.append(Failure("generate", query_id, "empty query", key))
        elif is_copied(query, passage.text):
            made.append(Failure("generate", query_id, f"query copies {COPIED_WORDS} words or more of its passage", key))
        else:
            task = " ".join(pair.task.split())
            made.append(
                Query(
                    query_id,
                    passage.passage_id,
                    task,
                    query,
                    "train",
                    True,
                    prompts.GENERATE.version,
                    f"ledger {key}",
                )
            )
    return made


def grades_from(text: str, query: Query, shown: Sequence[Passage], key: str) -> list[Judgment | Failure]:
    """Parse a judge's answer: a grade for each passage that was shown, and the best of them.

    Raises:
        Unusable: it is not the JSON that was asked for, a grade is missing or none of 0 to 3.
    """
    answer = _parse(_Grades, text)
    expected = set(range(1, len(shown) + 1))
    if missing := sorted(expected - set(answer.grades)):
        raise Unusable(f"no grade for {len(missing)} of {len(shown)} passages")
    if wrong := sorted(g for g in answer.grades.values() if g not in (0, 1, 2, 3)):
        raise Unusable(f"grade {wrong[0]} is none of 0, 1, 2, 3")
    highest = max(answer.grades[number] for number in expected)
    best = answer.best if answer.grades.get(answer.best) == highest and answer.best in expected else 0
    return [
        Judgment(query.query_id, p.passage_id, answer.grades[n], n == best, prompts.JUDGE.version, f"ledger {key}")
        for n, p in enumerate(shown, 1)
    ]


def is_copied(query: str, text: str) -> bool:
    """Whether a query has a run of ``COPIED_WORDS`` words of a text."""
    words, inside = re.findall(r"\w+", query.casefold()), " ".join(re.findall(r"\w+", text.casefold()))
    runs = (words[i : i + COPIED_WORDS] for i in range(len(words) - COPIED_WORDS + 1))
    return any(f" {' '.join(run)} " in f" {inside} " for run in runs)


M = TypeVar("M", bound=BaseModel)


def _parse(model: type[M], text: str) -> M:
    try:
        return model.model_validate_json(_FENCE.sub("", text.strip()))
    except ValidationError as error:
        raise Unusable(f"not the JSON that was asked for: {error.errors()[0]['msg']}") from error


def make_annotator(spec: str, *, url: str, ledger_path: Path, passage_chars: int) -> LiveAnnotator:
    """The live annotator that ``--llm`` names.

    Raises:
        TokayError: it names none.
    """
    kind, _, model = spec.partition(":")
    if kind != "openai" or not model:
        raise TokayError(f"--llm is {spec!r}; expected {FORMS}")
    endpoint(url)  # a wrong URL or a missing key stops the run before its work

    def connect() -> ChatModel:
        return ChatClient(model, url=url, ledger=Ledger(ledger_path))

    return LiveAnnotator(connect, name=spec, passage_chars=passage_chars)
