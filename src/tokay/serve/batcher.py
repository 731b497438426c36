"""Whose turn it is: requests from the event loop become micro-batches in as many threads as there are cores.

A request's turn is its arrival plus the time that it takes by itself. So a short one overtakes a long one that is
under way, and a long one is overtaken only by those that came while it could have been done: none waits for ever.
A micro-batch takes the next texts by turn, sorted by length, with as many tokens as run within the latency target.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tokay.models.batching import by_token_budget
from tokay.models.running import Run, Runner

_WINDOW_TEXTS = 256
"""Texts that are looked at for one micro-batch: choosing them costs some milliseconds."""
_WINDOW_BUDGETS = 8
"""… and their tokens, in budgets of a micro-batch."""
NICE = 5
"""By how much the threads that compute step back, of the 19 that there are."""
_MEMORY = 0.95
"""What a measured pace keeps of the earlier micro-batches with each new one."""


class Overloaded(Exception):
    """Too much is waiting; ``seconds`` until it is done."""

    def __init__(self, waiting: int, limit: int, seconds: float) -> None:
        super().__init__(f"{waiting:,} tokens are waiting, of at most {limit:,}; try again in {math.ceil(seconds)} s")
        self.seconds = math.ceil(seconds)


class Closing(Exception):
    """The server is shutting down."""


@dataclass
class Pace:
    """How long a model's micro-batches take: seconds = fixed + each * tokens, by least squares over the last ones.

    It begins with MiniLM on two cores. The fixed part matters: by tokens alone, small micro-batches look slow, so
    smaller ones would be made of them, which are slower still.
    """

    weight: float = 2.0
    tokens: float = 1000.0  # sums over micro-batches, as are the following
    seconds: float = 0.51
    squares: float = 1e6
    products: float = 500.0

    def add(self, tokens: int, seconds: float) -> None:
        """One more micro-batch."""
        self.weight = _MEMORY * self.weight + 1
        self.tokens = _MEMORY * self.tokens + tokens
        self.seconds = _MEMORY * self.seconds + seconds
        self.squares = _MEMORY * self.squares + tokens * tokens
        self.products = _MEMORY * self.products + tokens * seconds

    @property
    def parts(self) -> tuple[float, float]:
        """Seconds of a micro-batch, and of each token in it: both are a tenth of all or more."""
        mean, took = self.tokens / self.weight, self.seconds / self.weight
        spread = self.squares / self.weight - mean * mean
        slope = (self.products / self.weight - mean * took) / max(spread, 1e-9)
        each = min(max(slope, 0.1 * took / mean), 0.9 * took / mean)
        return took - each * mean, each

    def time_of(self, tokens: int) -> float:
        """Seconds that so many tokens take."""
        fixed, each = self.parts
        return fixed + each * tokens

    def budget(self, seconds: float, most: int) -> int:
        """Tokens that run in so many seconds, or as many as make the fixed part half of all; at most ``most``."""
        fixed, each = self.parts
        return max(1, min(most, int(max(seconds - fixed, fixed) / each)))


@dataclass(eq=False)
class _Job:
    """A request: what is left of it to be run, and its vectors so far."""

    embedder: Runner
    ids: Sequence[Sequence[int]]
    turn: float
    future: asyncio.Future[NDArray[np.float32]]
    left: list[int]  # texts that no micro-batch has taken, longest first
    vectors: NDArray[np.float32]
    todo: int  # texts without a vector

    def settle(self, error: BaseException | None = None) -> None:
        """Give the answer, on the loop that waits for it; a loop that is gone waits for nothing."""
        with contextlib.suppress(RuntimeError):
            self.future.get_loop().call_soon_threadsafe(self._settle, error)

    def _settle(self, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(self.vectors)
        else:
            self.future.set_exception(error)


def step_back() -> None:
    """Let whoever answers requests have a core before this thread, which computes (Linux; elsewhere nothing).

    With as many computing threads as cores, the event loop would wait for a turn of the scheduler, some milliseconds,
    to read a request, and again to answer it.
    """
    with contextlib.suppress(OSError, AttributeError):
        if sys.platform == "linux":
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICE)


_Place = tuple[_Job, int]
"""A text: its request, and which of it."""


@dataclass
class Batcher:
    """Runs what requests ask for; ``run`` may be called from any event loop.

    Args:
        latency_target: seconds that a micro-batch may take.
        max_waiting_tokens: of all requests together; a request that comes when nothing waits may have more.
        workers: micro-batches that run at a time, each on its share of the cores, as in ``Runner.encode``.
        observe: is told each micro-batch: texts, padded tokens, seconds.
    """

    latency_target: float
    max_waiting_tokens: int
    workers: int = 1
    observe: Callable[[int, int, float], None] = lambda texts, tokens, seconds: None
    waiting_tokens: int = field(default=0, init=False)
    _jobs: list[_Job] = field(default_factory=list, init=False)  # with texts left, by turn
    _paces: dict[Runner, Pace] = field(default_factory=dict, init=False)
    _runs: dict[Runner, Run] = field(default_factory=dict, init=False)
    _closed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._shares = contextlib.ExitStack()
        self.open()

    @property
    def takes(self) -> bool:
        """Whether requests are taken."""
        return not self._closed and all(thread.is_alive() for thread in self._threads)

    def open(self) -> None:
        """Take requests; a batcher is open until it is closed."""
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"tokay-batcher-{i}", daemon=True) for i in range(self.workers)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, embedder: Runner, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Vectors of N lists of token ids, as ``Runner.run`` gives them: (N, D). Cancelled, its work is dropped.

        Raises:
            Overloaded: too many tokens are waiting.
            Closing: ``close`` was called.
        """
        job = self._accept(embedder, ids)
        try:
            return await job.future
        finally:
            self._drop(job)

    def close(self) -> None:
        """Take nothing more, and return when all is answered that was taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._runs.clear()
        self._shares.close()

    def prepare(self, embedder: Runner) -> Pace:
        """Get ready to run a model, which may take a while: what its first request would wait for."""
        with self._changed:
            if embedder not in self._runs:
                self._runs[embedder] = self._shares.enter_context(embedder.shared(self.workers))
            return self._paces.setdefault(embedder, Pace())

    # -- the event loop's side ------------------------------------------------------------------------------------

    def _accept(self, embedder: Runner, ids: Sequence[Sequence[int]]) -> _Job:
        tokens = sum(map(len, ids))
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        vectors = np.empty((len(ids), embedder.width), np.float32)
        future = asyncio.get_running_loop().create_future()
        with self._changed:
            if not self.takes:
                raise Closing
            pace = self.prepare(embedder)
            if self.waiting_tokens and self.waiting_tokens + tokens > self.max_waiting_tokens:
                raise Overloaded(self.waiting_tokens, self.max_waiting_tokens, pace.time_of(self.waiting_tokens))
            turn = time.monotonic() + pace.time_of(tokens)
            job = _Job(embedder, ids, turn, future, order, vectors, len(ids))
            if not ids:
                job.settle()
                return job
            bisect.insort(self._jobs, job, key=lambda other: other.turn)
            self.waiting_tokens += tokens
            self._changed.notify()
        return job

    def _drop(self, job: _Job) -> None:
        """What nobody waits for any more is not run."""
        with self._changed:
            if job.left:
                self._take(job, set(job.left))

    # -- the threads' side ----------------------------------------------------------------------------------------

    def _work(self) -> None:
        step_back()
        while batch := self._next():
            self._run(batch)

    def _next(self) -> list[_Place]:
        """The next micro-batch; waits for one; empty when the batcher is closed and all is done."""
        with self._changed:
            while not self._jobs:
                if self._closed:
                    return []
                self._changed.wait()
            return self._cut()

    def _cut(self) -> list[_Place]:
        """Of the texts whose turn is near, those that cost least beside the one whose turn it is."""
        embedder = self._jobs[0].embedder
        budget = self._paces[embedder].budget(self.latency_target, embedder.tokens_per_batch)
        window = self._window(embedder, budget)
        ids = [job.ids[i] for job, i in window]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        group = next(group for group in by_token_budget(order, ids, budget) if 0 in group)
        batch = [window[i] for i in group]
        for job in {job for job, _ in batch}:
            self._take(job, {i for other, i in batch if other is job})
        return batch

    def _window(self, embedder: Runner, budget: int) -> list[_Place]:
        window: list[_Place] = []
        tokens = 0
        for job in self._jobs:
            for i in job.left if job.embedder is embedder else ():
                window.append((job, i))
                tokens += len(job.ids[i])
                if len(window) == _WINDOW_TEXTS or tokens >= _WINDOW_BUDGETS * budget:
                    return window
        return window

    def _take(self, job: _Job, taken: set[int]) -> None:
        """These texts of a request wait no longer."""
        self.waiting_tokens -= sum(len(job.ids[i]) for i in taken)
        job.left = [i for i in job.left if i not in taken]
        if not job.left:
            self._jobs.remove(job)

    def _run(self, batch: Sequence[_Place]) -> None:
        """Run a micro-batch; where it fails, each text alone, so that one request's text is not another's fault."""
        ids = [job.ids[i] for job, i in batch]
        began = time.perf_counter()
        try:
            vectors = self._runs[batch[0][0].embedder](ids)
        except Exception as error:
            self._fail(batch, error)
            return
        self._measure(batch[0][0].embedder, ids, time.perf_counter() - began)
        for (job, i), vector in zip(batch, vectors, strict=True):
            job.vectors[i] = vector
        with self._changed:
            for job, _ in batch:
                job.todo -= 1
        for job in {job for job, _ in batch if not job.todo}:
            job.settle()

    def _fail(self, batch: Sequence[_Place], error: Exception) -> None:
        if len(batch) == 1:
            batch[0][0].settle(error)
            return
        for place in batch:
            self._run([place])

    def _measure(self, embedder: Runner, ids: Sequence[Sequence[int]], seconds: float) -> None:
        tokens = len(ids) * max(map(len, ids))
        with self._changed:
            self._paces[embedder].add(tokens, seconds)
        self.observe(len(ids), tokens, seconds)
