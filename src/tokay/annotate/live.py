"""An LLM that is asked now: Gecko's two steps through the door, with the ledger between."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from tokay.annotate import prompts
from tokay.annotate.asking import Failed, ask
from tokay.annotate.generate import GENERATE_TOKENS, QUERY_ANSWER, queries_from, without_twins
from tokay.annotate.judge import chosen_judge, make_judge
from tokay.annotate.wishes import some_of, wishes_of
from tokay.errors import TokayError
from tokay.llm.door import LanguageModel
from tokay.llm.estimate import Planned
from tokay.llm.ledger import Answer, spent_in
from tokay.llm.open import AHEAD, ModelSpec, read_spec
from tokay.llm.prices import Budget, Purse, load_prices
from tokay.llm.probe import Abilities
from tokay.progress import Progress, Silent
from tokay.records import Failure, Judgment, Passage, Query, Rating
from tokay.searchlog import TASK, read_log
from tokay.settings import GenerateSettings, JudgeSettings, Settings

T = TypeVar("T")
R = TypeVar("R")

JUDGED_SAMPLE = 32
"""Queries whose judging prompts are counted for an estimate."""

QUERY_WORDS = 12
QUERY_CHARACTERS = 80
"""Of a query that stands in for one that does not exist yet: 3 to 25 words are asked for. Characters count where words
are not divided by blanks."""

GRACE = 30.0
"""Seconds that answers in flight are waited for when the run is interrupted: they are paid for."""

_SCORING = (prompts.LIKELIHOOD, prompts.RELEVANCE, prompts.POINTWISE, prompts.LISTWISE)

Connect = Callable[[str, str], LanguageModel]
"""(``--llm`` word, stage of the run) -> a model to ask, inside the loop that will use it."""


class LiveAnnotator:
    """Asks a model. Answers come in the order of the input, whatever the order in which the model gives them.

    Args:
        name: the model that is asked, as ``connect`` knows it.
        connect: opens a model.
        generate: how queries are written.
        judge: how candidates are judged.
        models: what ``name`` stands for, and the strong judge's model if there is one; none: asking may be paid.
        log: queries that people typed, of which each passage's prompt shows some.
    """

    seeds = None

    def __init__(
        self,
        name: str,
        connect: Connect,
        *,
        generate: GenerateSettings,
        judge: JudgeSettings,
        models: Sequence[ModelSpec] = (),
        log: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.paid = any(model.paid for model in models) or not models
        self._models = models
        self._ahead = max((model.ahead for model in models), default=AHEAD)
        self._connect = connect
        self._generate = generate
        self._judge = judge
        self._log = log

    def version(self, stage: str) -> str:
        """Model and prompts; settings are part of a stage's key by themselves."""
        used = {"generate": (prompts.GENERATE,), "judge": _SCORING}.get(stage, ())
        asked = self._models if stage == "judge" else self._models[:1]
        names = [model.version for model in asked] if used and asked else [self.name]
        return " ".join([*names, *(prompt.version for prompt in used)]) if used else ""

    def sample_requests(
        self,
        seeds: Iterable[Passage],
        pool: Sequence[Passage],
        *,
        per_passage: int,
        candidates: int,
        own: Sequence[Query],
    ) -> Iterator[Planned]:
        """Every generation prompt as it will be; judging prompts of a sample, each for as many as it stands for."""
        written = 0
        for passage in seeds:
            text = "\n".join(message["content"] for message in self._generation(passage, per_passage))
            yield Planned(prompts.GENERATE.name, text, per_passage * QUERY_ANSWER, "generate", self.name)
            written += per_passage
        judge = make_judge(self._judge, _likely_abilities(self.name, self._judge))
        for queries, times in ((_stand_ins(pool), written), (own, len(own))):
            sample = queries[:JUDGED_SAMPLE]
            for start, query in enumerate(sample):
                shown = [pool[(start + step) % len(pool)] for step in range(min(candidates, len(pool)))]
                for request in judge.requests(query, shown):
                    share = request.times * times / len(sample)
                    yield dataclasses.replace(request, stage="judge", llm=request.llm or self.name, times=share)

    @property
    def assumes(self) -> str:
        """What is only found out by asking."""
        if any(model.batch for model in self._models):
            return "asked in batches: the provider takes minutes to a day for each, whatever the time above"
        if self._judge.by != "auto" or self.name.startswith("hf:"):
            return ""
        return (
            "judge: counted as listwise; a server that turns out to give log-probabilities of prompts is asked by "
            "Gecko's own judge instead, two short requests a candidate (--judge listwise prevents it)"
        )

    def candidates(self, query: Query) -> list[str] | None:
        """None: it judges what was mined."""
        return None

    def generate(
        self, passages: Iterable[Passage], *, per_passage: int, progress: Progress | None = None
    ) -> Iterator[Query | Failure]:
        """Write queries; a passage whose answer cannot be used is a ``Failure``, and so is each unusable query."""

        async def prepare(models: _Models) -> Callable[[Passage], Coroutine[Any, Any, list[Query | Failure]]]:
            chat = models(self.name)

            async def write(passage: Passage) -> list[Query | Failure]:
                messages = self._generation(passage, per_passage)

                def parse(answer: Answer) -> list[Query | Failure]:
                    return queries_from(answer.text, passage, per_passage, answer.key)

                done = await ask(chat, messages, per_passage * GENERATE_TOKENS, parse)
                return [done.of("generate", passage.passage_id)] if isinstance(done, Failed) else done

            return write

        yield from without_twins(self._in_order("generate", passages, prepare, progress or Silent()))

    def _generation(self, passage: Passage, per_passage: int) -> list[prompts.Message]:
        wishes = wishes_of(passage, per_passage, self._generate)
        typed = some_of(self._log, passage)
        return prompts.generate_messages(passage, wishes, about=self._generate.about, typed=typed)

    def judge(
        self, items: Iterable[tuple[Query, Sequence[Passage]]], *, progress: Progress | None = None
    ) -> Iterator[Rating | Judgment | Failure]:
        """Rate and grade the candidates of each query; a request whose answer cannot be used is a ``Failure``."""
        progress = progress or Silent()

        async def prepare(
            models: _Models,
        ) -> Callable[[tuple[Query, Sequence[Passage]]], Coroutine[Any, Any, list[Rating | Judgment | Failure]]]:
            chat, strong = models(self.name), models(self._judge.strong_llm or self.name)
            abilities = await chat.abilities()
            judge = make_judge(self._judge, abilities, strong)
            progress.say(f"judge: {chosen_judge(self._judge, abilities)}")
            for note in abilities.notes:
                progress.say(f"{self.name}: {note}")

            async def grade(item: tuple[Query, Sequence[Passage]]) -> list[Rating | Judgment | Failure]:
                query, passages = item
                rated = await judge.rate(chat, query, passages)
                ratings = [r for r in rated if isinstance(r, Rating)]
                return [*rated, *judge.decide(query, [p.passage_id for p in passages], ratings)]

            return grade

        yield from self._in_order("judge", items, prepare, progress)

    def _in_order(
        self,
        stage: str,
        items: Iterable[T],
        prepare: Callable[[_Models], Awaitable[Callable[[T], Coroutine[Any, Any, list[R]]]]],
        progress: Progress,
    ) -> Iterator[R]:
        """Run what ``prepare`` gives over a sliding window of items and yield results in the items' order.

        The requests live in a loop of their own thread, since a notebook's thread already runs one; ``items`` is
        read here. Ctrl-C sends nothing more and waits for what was sent, at most ``GRACE`` seconds or until it comes
        again. Closing the iterator, and errors, cancel what is in flight. What was answered is in the ledger.
        """
        source, pending = iter(items), deque[Future[list[R]]]()
        models = _Models(self._connect, stage)
        with _loop_in_thread() as loop:
            try:
                work = asyncio.run_coroutine_threadsafe(_call(prepare, models), loop).result()
                while True:
                    for item in islice(source, self._ahead - len(pending)):
                        pending.append(asyncio.run_coroutine_threadsafe(work(item), loop))
                    if not pending:
                        break
                    done = pending.popleft().result()
                    progress.advance()
                    yield from done
            except KeyboardInterrupt:
                progress.say("interrupted: waiting for the answers to what was sent; Ctrl-C again gives them up")
                batched = any(model.batch for model in self._models)  # the provider keeps those answers for us
                asyncio.run_coroutine_threadsafe(models.drain(0.0 if batched else GRACE), loop).result()
                raise
            finally:
                asyncio.run_coroutine_threadsafe(_finish(models), loop).result()


def _likely_abilities(name: str, settings: JudgeSettings) -> Abilities:
    """What a model can do, before it is asked: a local one and one whose judge needs them gives log-probabilities."""
    likely = name.startswith("hf:") or settings.by in ("gecko", "relevance")
    return Abilities(likelihood="assumed" if likely else "")


def _stand_ins(pool: Sequence[Passage]) -> list[Query]:
    """Queries of usual length, for estimates: the first words of passages."""
    return [
        Query(p.passage_id, p.passage_id, TASK, _opening(p.text), "train", True, prompt="", answer_id="") for p in pool
    ]


def _opening(text: str) -> str:
    return " ".join(text.split()[:QUERY_WORDS])[:QUERY_CHARACTERS]


class _Models:
    """The models that a stage asks, each opened once, inside the loop that uses it."""

    def __init__(self, connect: Connect, stage: str) -> None:
        self._connect = connect
        self._stage = stage
        self._open: dict[str, LanguageModel] = {}

    def __call__(self, name: str) -> LanguageModel:
        """The model that ``--llm`` would name so."""
        if name not in self._open:
            self._open[name] = self._connect(name, self._stage)
        return self._open[name]

    async def drain(self, seconds: float) -> None:
        """Send nothing more, and wait for the answers to what was sent."""
        await asyncio.gather(*(model.drain(seconds) for model in self._open.values()))

    async def close(self) -> None:
        """Close all of them."""
        for model in self._open.values():
            await model.close()


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


async def _call(prepare: Callable[[_Models], Awaitable[R]], models: _Models) -> R:
    return await prepare(models)


async def _finish(models: _Models) -> None:
    unfinished = asyncio.all_tasks() - {asyncio.current_task()}
    for task in unfinished:
        task.cancel()
    await asyncio.gather(*unfinished, return_exceptions=True)
    await models.close()


def make_annotator(spec: str, *, url: str, ledger_path: Path, settings: Settings, to_ask: bool = True) -> LiveAnnotator:
    """The live annotator that ``--llm`` names; where it is not ``to_ask``, for an estimate, no key is needed.

    Raises:
        TokayError: it names none.
    """
    models = [read_spec(spec, url=url, batch=settings.batch, calls=settings.calls, to_ask=to_ask)]
    if (strong := settings.judge.strong_llm) and strong != spec:
        batch = settings.batch and strong.startswith("openai:")
        where = settings.judge.strong_url or url
        models.append(read_spec(strong, url=where, batch=batch, calls=settings.calls, to_ask=to_ask))
    known = {model.spec: model for model in models}
    table = load_prices(settings.prices)
    table = table.batched() if settings.batch else table
    for model in models:
        if settings.budget and table.of_llm(model.spec) is None:
            raise TokayError(
                f"--budget {settings.budget:g} needs the price of {model.spec}, but {table.missing(model.spec)}"
            )
    earlier = sum(row.price or 0.0 for row in spent_in(ledger_path))
    budget = Budget(settings.budget, spent=earlier, currency=table.currency)

    def connect(name: str, stage: str) -> LanguageModel:
        return known[name].open(ledger_path, stage=stage, purse=Purse(table.of_llm(name), budget))

    log = [query.text for query in read_log(Path(settings.log))] if settings.log else []
    return LiveAnnotator(spec, connect, generate=settings.generate, judge=settings.judge, models=models, log=log)
