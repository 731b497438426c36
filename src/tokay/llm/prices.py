"""What requests cost, and what may be spent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokay.llm.ledger import Usage


class Purse:
    """Knows no price yet: every request costs an unknown amount."""

    def reserve(self, request: Mapping[str, Any]) -> float:
        """Set aside the most that a request can cost."""
        return 0.0

    def settle(self, reserved: float, usage: Usage) -> float | None:
        """What a request cost; None: unknown."""
        return None

    def release(self, reserved: float) -> None:
        """Nothing was spent of it."""
