"""What an endpoint can do."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Abilities:
    """Placeholder for the merge."""

    likelihood: str = ""
    first_logprobs: int = 0
    schema: bool = False
    context_tokens: int = 0
    notes: tuple[str, ...] = ()
