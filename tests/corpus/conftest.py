from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tokay.corpus import RawDocument, open_corpus
from tokay.records import Skipped

Read = Callable[[Path | str], tuple[list[RawDocument], list[Skipped]]]


@pytest.fixture
def read() -> Read:
    """Documents and skipped input of a corpus."""

    def run(spec: Path | str) -> tuple[list[RawDocument], list[Skipped]]:
        skipped: list[Skipped] = []
        return list(open_corpus(str(spec)).documents(skipped.append)), skipped

    return run
