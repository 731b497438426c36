"""Answers to disk in groups: a sync takes milliseconds, and answers that come meanwhile share the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tokay.llm.ledger import Ledger

_Row = tuple[Callable[[], None], asyncio.Future[None]]
"""What writes it, and who waits for it."""


class Commits:
    """Writes to a ledger from a thread of its own, so that the event loop does not stand still for each sync.

    While one group is being written the next one gathers: a lone answer waits for nothing, and a burst of sixty costs
    two or three syncs. Who waits for ``write`` goes on when its row is on disk, as if it had been written alone.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._gathered: list[_Row] = []
        self._writing: asyncio.Future[list[Exception | None]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokay-ledger")

    async def write(self, row: Callable[[], None]) -> None:
        """Commit what ``row`` writes to the ledger. It is written also if nobody waits for it any more.

        Raises:
            TokayError: as of the ledger.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gathered.append((row, done))
        self._write_group()
        await done

    async def close(self) -> None:
        """Wait until all is written."""
        while self._writing:
            await asyncio.wait([self._writing])
        self._thread.shutdown()

    def _write_group(self) -> None:
        """Hand what has gathered to the thread, unless that is busy. It is no task: those may be cancelled."""
        if self._writing or not self._gathered:
            return
        group, self._gathered = self._gathered, []
        rows = [row for row, _ in group]
        self._writing = asyncio.get_running_loop().run_in_executor(self._thread, self._ledger.together, rows)
        self._writing.add_done_callback(partial(self._written, group))

    def _written(self, group: list[_Row], faults: asyncio.Future[list[Exception | None]]) -> None:
        self._writing = None
        self._write_group()
        for (_, done), fault in zip(group, faults.result(), strict=True):
            if done.done():
                continue  # who waited was cancelled
            if fault:
                done.set_exception(fault)
            else:
                done.set_result(None)
