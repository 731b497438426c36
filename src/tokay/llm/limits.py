"""How fast a model is asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any


class Limits:
    """Bounds the requests in flight."""

    def __init__(self, *, concurrency: int = 8) -> None:
        self._slots = asyncio.Semaphore(concurrency)

    @contextlib.asynccontextmanager
    async def slot(self, request: Mapping[str, Any]) -> AsyncIterator[None]:
        """Wait for a place among the requests in flight, and hold it."""
        async with self._slots:
            yield
