"""An LLM that is asked now: Gecko's two steps through a chat endpoint, with the ledger between."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tokay.annotate import prompts
from tokay.annotate.annotator import CallPlan
from tokay.errors import TokayError
from tokay.llm.client import Endpoint, endpoint
from tokay.llm.door import AskFailed, Door, LanguageModel, NoText
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

LONGEST_QUERY = 400
"""Characters; 25 words have about 150. What is longer is no query."""

GENERATE_TOKENS = 120
JUDGE_TOKENS = 16
"""Room in the answer, a query and a candidate."""

MORE_ROOM = 16
"""Times the room when asking once more: models that think aloud need thousands of tokens before they answer."""


class _Pair(BaseModel):
    model_config = ConfigDict(extra="ignore")
    task: str
    query: str


class _Pairs(BaseModel):
    queries: list[_Pair]


class _Grades(BaseModel):
    grades: dict[int, int]
    best: int | None


class Unusable(Exception):
    """An answer that does not fit its prompt; the text says why."""


class LiveAnnotator:
    """Asks a chat model. Answers come in the order of the input, whatever the order in which the model gives them."""

    paid = True
    seeds = None

    def __init__(self, connect: Callable[[], LanguageModel], *, name: str, passage_chars: int) -> None:
        self.name = name
        self.version = f"{name} {prompts.GENERATE.version} {prompts.JUDGE.version} {passage_chars}"
        self._connect = connect
        self._passage_chars = passage_chars

    def plan(self, *, passages: int, per_passage: int, candidates: int, mean_chars: float) -> CallPlan:
        """One call a passage, one a query; prompt tokens at four characters each, the fixed text as it is."""
        write = prompts.GENERATE.characters + mean_chars
        judge = prompts.JUDGE.characters + candidates * min(mean_chars, self._passage_chars)
        tokens = passages * (write + per_passage * judge) / 4
        return CallPlan(passages * (1 + per_passage), round(tokens))

    def candidates(self, query: Query) -> list[str] | None:
        """None: it judges what was mined."""
        return None

    def generate(
        self, passages: Iterable[Passage], *, per_passage: int, progress: Progress | None = None
    ) -> Iterator[Query | Failure]:
        """Write queries; a passage whose answer cannot be used is a ``Failure``, and so is each unusable query."""

        async def write(chat: LanguageModel, passage: Passage) -> list[Query | Failure]:
            messages = prompts.generate_messages(passage, count=per_passage)

            def parse(text: str, key: str) -> list[Query | Failure]:
                return queries_from(text, passage, per_passage, key)

            done = await _ask(chat, messages, per_passage * GENERATE_TOKENS, parse)
            return [done.of("generate", passage.passage_id)] if isinstance(done, Failed) else done

        yield from self._in_order(passages, write, progress or Silent())

    def judge(
        self, items: Iterable[tuple[Query, Sequence[Passage]]], *, progress: Progress | None = None
    ) -> Iterator[Judgment | Failure]:
        """Grade the candidates of each query in one call; a query whose answer cannot be used is a ``Failure``."""

        async def grade(chat: LanguageModel, item: tuple[Query, Sequence[Passage]]) -> list[Judgment | Failure]:
            query, shown = item[0], prompts.shuffled(item[0].query_id, item[1])
            messages = prompts.judge_messages(query, shown, passage_chars=self._passage_chars)

            def parse(text: str, key: str) -> list[Judgment | Failure]:
                return grades_from(text, query, shown, key)

            done = await _ask(chat, messages, 64 + len(shown) * JUDGE_TOKENS, parse)
            return [done.of("judge", query.query_id)] if isinstance(done, Failed) else done

        yield from self._in_order(items, grade, progress or Silent())

    def _in_order(
        self, items: Iterable[T], work: Callable[[LanguageModel, T], Coroutine[Any, Any, list[R]]], progress: Progress
    ) -> Iterator[R]:
        """Run ``work`` over a sliding window of items and yield results in the items' order.

        The requests live in a loop of their own thread, since a notebook's thread already runs one; ``items`` is
        read here. Closing the iterator cancels what is in flight; what was answered before is in the ledger.
        """
        source, pending = iter(items), deque[Future[list[R]]]()
        with _loop_in_thread() as loop:
            chat = asyncio.run_coroutine_threadsafe(_call(self._connect), loop).result()
            try:
                while True:
                    for item in islice(source, WINDOW - len(pending)):
                        pending.append(asyncio.run_coroutine_threadsafe(work(chat, item), loop))
                    if not pending:
                        break
                    done = pending.popleft().result()
                    progress.advance()
                    yield from done
            finally:
                asyncio.run_coroutine_threadsafe(_finish(chat), loop).result()


@contextlib.contextmanager
def _loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="tokay-llm", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _call(connect: Callable[[], LanguageModel]) -> LanguageModel:
    return connect()  # inside the loop that will use it


async def _finish(chat: LanguageModel) -> None:
    unfinished = asyncio.all_tasks() - {asyncio.current_task()}
    for task in unfinished:
        task.cancel()
    await asyncio.gather(*unfinished, return_exceptions=True)
    await chat.close()


class Failed:
    """Why an item came to nothing, and the ledger key of what was asked last."""

    def __init__(self, reason: str, key: str) -> None:
        self.reason = reason
        self.key = key

    def of(self, stage: str, item_id: str) -> Failure:
        """The record of it."""
        return Failure(stage, item_id, self.reason, _place(self.key))


def _place(key: str) -> str:
    """Where an answer stands, as records name it."""
    return f"ledger {key}" if key else ""


async def _ask(
    chat: LanguageModel, messages: list[prompts.Message], max_tokens: int, parse: Callable[[str, str], list[R]]
) -> list[R] | Failed:
    failed = Failed("not asked", "")
    for attempt in range(TRIES):
        try:
            answer = await chat.complete(messages, max_tokens=max_tokens * MORE_ROOM**attempt, attempt=attempt)
        except NoText as error:
            failed = Failed(str(error), error.key)
            continue
        except AskFailed as error:
            return Failed(f"no answer: {error}", error.key)
        try:
            return parse(answer.text, answer.key)
        except Unusable as error:
            failed = Failed(str(error), answer.key)
    return failed


def queries_from(text: str, passage: Passage, count: int, key: str) -> list[Query | Failure]:
    """Parse a generation answer: ``count`` results, each a query or why there is none. More queries are left out.

    Raises:
        Unusable: it is not the JSON that was asked for, or holds no query.
    """
    pairs = _parse(_Pairs, text).queries[:count]
    if not pairs:
        raise Unusable("no queries in the answer")
    made: list[Query | Failure] = []
    seen: set[str] = set()
    for k in range(count):
        query_id = f"{passage.passage_id}#{k}"
        if k >= len(pairs):
            made.append(
                Failure("generate", query_id, f"only {len(pairs)} of {count} queries in the answer", _place(key))
            )
            continue
        task, query = (" ".join(part.split()) for part in (pairs[k].task, pairs[k].query))
        if fault := _fault(task, query, passage, seen):
            made.append(Failure("generate", query_id, fault, _place(key)))
            continue
        seen.add(query.casefold())
        made.append(
            Query(
                query_id=query_id,
                seed_id=passage.passage_id,
                task=task,
                text=query,
                part="train",
                judged=True,
                prompt=prompts.GENERATE.version,
                answer_id=_place(key),
            )
        )
    return made


def _fault(task: str, query: str, passage: Passage, seen: set[str]) -> str:
    """What is wrong with a written query; empty when nothing is."""
    if not task or not query:
        return "empty task" if query else "empty query"
    if max(len(task), len(query)) > LONGEST_QUERY:
        return f"query or task of {max(len(task), len(query))} characters; at most {LONGEST_QUERY} are taken"
    if query.casefold() in seen:
        return "the same query twice in an answer"
    if is_copied(query, passage.text):
        return f"query copies {COPIED_WORDS} words or more of its passage"
    return ""


def grades_from(text: str, query: Query, shown: Sequence[Passage], key: str) -> list[Judgment | Failure]:
    """Parse a judge's answer: a grade for each passage that was shown, and the best of them.

    No passage is marked best where the answer names none (null or 0), or one that it gave less than the highest
    grade.

    Raises:
        Unusable: it is not the JSON that was asked for, numbers a passage that was not shown, or a grade is missing
            or none of 0 to 3.
    """
    answer = _parse(_Grades, text)
    expected = set(range(1, len(shown) + 1))
    if missing := sorted(expected - set(answer.grades)):
        raise Unusable(f"no grade for {len(missing)} of {len(shown)} passages")
    if strange := sorted({*answer.grades, answer.best or 1} - expected):
        raise Unusable(f"passage {strange[0]} was not shown; there were {len(shown)}")
    if wrong := sorted(g for g in answer.grades.values() if g not in (0, 1, 2, 3)):
        raise Unusable(f"grade {wrong[0]} is none of 0, 1, 2, 3")
    best = answer.best if answer.best and answer.grades[answer.best] == max(answer.grades.values()) else 0
    return [
        Judgment(query.query_id, p.passage_id, answer.grades[n], n == best, prompts.JUDGE.version, _place(key))
        for n, p in enumerate(shown, 1)
    ]


def is_copied(query: str, text: str) -> bool:
    """Whether a query has a run of ``COPIED_WORDS`` words of a text."""
    words, inside = re.findall(r"\w+", query.casefold()), " ".join(re.findall(r"\w+", text.casefold()))
    runs = (words[i : i + COPIED_WORDS] for i in range(len(words) - COPIED_WORDS + 1))
    return any(f" {' '.join(run)} " in f" {inside} " for run in runs)


M = TypeVar("M", bound=BaseModel)


def _parse(model: type[M], text: str) -> M:
    """The first JSON object of an answer. Thoughts, code fences and remarks around it are passed over."""
    spoken = text.rpartition("</think>")[2]
    try:
        value, _ = json.JSONDecoder().raw_decode(spoken, max(0, spoken.find("{")))
        return model.model_validate(value)
    except (ValueError, RecursionError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise Unusable(f"not the JSON that was asked for ({why}): {' '.join(spoken.split())[:80]!r}") from error


def make_annotator(spec: str, *, url: str, ledger_path: Path, passage_chars: int) -> LiveAnnotator:
    """The live annotator that ``--llm`` names.

    Raises:
        TokayError: it names none.
    """
    kind, _, model = spec.partition(":")
    if kind != "openai" or not model:
        raise TokayError(f"--llm is {spec!r}; expected {FORMS}")
    endpoint(url)  # a wrong URL or a missing key stops the run before its work

    def connect() -> LanguageModel:
        return Door(Endpoint(model, url=url), Ledger(ledger_path))

    return LiveAnnotator(connect, name=spec, passage_chars=passage_chars)
