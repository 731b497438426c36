"""What a reader hands over: a document as blocks of text that know their heading, page and offset."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence

from tokay.records import Skipped

Report = Callable[[Skipped], None]
"""Readers call it once for each file or row that they cannot use."""

BETWEEN = "\n\n"
"""What stands between two blocks in a document's extracted text."""

_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """A run of text under one heading (breadcrumb ``A > B``) on one page (0: no pages).

    ``start`` is the character offset of ``text`` in the document's extracted text.
    """

    text: str
    heading: str = ""
    page: int = 0
    start: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class RawDocument:
    """A document before it becomes passages.

    ``row_id`` is the id that a row brought along, and that of its passage; empty for files, whose passages
    are numbered.
    """

    document_id: str
    title: str
    source: str
    blocks: Sequence[Block]
    row_id: str = ""

    @property
    def text(self) -> str:
        """The extracted text: offsets of blocks and passages count its characters."""
        return BETWEEN.join(block.text for block in self.blocks)


def clean_text(text: str) -> str:
    r"""Text that every later stage can store: line ends are ``\n``, control characters other than ``\t`` go.

    Lone surrogates, which UTF-8 cannot write, become U+FFFD; white space at both ends goes.
    """
    text = _LINE_ENDS.sub("\n", text)
    return _SURROGATE.sub("\ufffd", _CONTROL.sub("", text)).strip()


def one_line(text: str) -> str:
    """A title or heading: cleaned, and any white space one blank."""
    return " ".join(clean_text(text).split())


def lay_out(blocks: Iterable[Block]) -> list[Block]:
    """Clean the blocks, drop the empty ones, and set each one's offset."""
    placed, start = [], 0
    for block in blocks:
        text = clean_text(block.text)
        if text:
            placed.append(dataclasses.replace(block, text=text, start=start))
            start += len(text) + len(BETWEEN)
    return placed


class Outline:
    """Collects headings and paragraphs in reading order; the blocks that come of them carry their breadcrumb.

    A heading's own words open the first block below it, so that the extracted text has them too.
    """

    def __init__(self) -> None:
        self.first_heading = ""
        self._trail: list[tuple[int, str]] = []  # levels strictly rising
        self._waiting: list[str] = []
        self._blocks: list[Block] = []

    def heading(self, level: int, text: str) -> None:
        """A heading of ``level`` (1 is the highest) begins; it ends those of the same and lower rank."""
        text = one_line(text)
        if not text:
            return
        self.first_heading = self.first_heading or text
        self._trail = [(rank, name) for rank, name in self._trail if rank < level] + [(level, text)]
        self._waiting.append(text)

    def body(self, text: str, page: int = 0) -> None:
        """A paragraph, list item, table row or code block."""
        text = clean_text(text)
        if text:
            self._blocks.append(Block(BETWEEN.join([*self._waiting, text]), self._breadcrumb(), page))
            self._waiting = []

    def _breadcrumb(self) -> str:
        return " > ".join(name for _, name in self._trail)

    def blocks(self) -> list[Block]:
        """Everything so far; a last heading without text below it is a block of its own."""
        rest = [Block(BETWEEN.join(self._waiting), self._breadcrumb())] if self._waiting else []
        return lay_out(self._blocks + rest)
