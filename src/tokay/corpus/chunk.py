"""From documents to passages: split on structure within a token budget, or leave whole."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from tokay.corpus.document import Block, RawDocument
from tokay.records import Passage, sha256_text

CountTokens = Callable[[str], int]

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # written without blanks: each sign is a word
_BREAKS = tuple(  # from coarse to fine
    re.compile(pattern)
    for pattern in (
        r"\n[^\S\n]*\n",  # between paragraphs
        r"(?<=[.!?])\s+|(?<=[.!?][\"')\]])\s+|(?<=[\u3002\uff01\uff1f])",  # between sentences
        r"\n",  # between lines
        rf"\s+|(?<=[{_CJK}])|(?=[{_CJK}])",  # between words
    )
)
_SURELY_LONG = 100  # characters a token: a longer text is split without being counted first; packing mends it


@dataclasses.dataclass(frozen=True, slots=True)
class _Span:
    """A stretch of the extracted text, and the block that it lies in."""

    start: int
    end: int
    block: Block


def whole(document: RawDocument) -> Passage:
    """The document as one passage; its id is the row's, or the document's."""
    text = document.text
    return _passage(document, text, _Span(0, len(text), document.blocks[0]), document.row_id or document.document_id)


def chunk(document: RawDocument, *, budget: int, count_tokens: CountTokens) -> Iterator[Passage]:
    """Split a document into passages of at most ``budget`` tokens.

    A passage lies under one heading and on one page. Blocks that are too long are split into paragraphs,
    these into sentences, lines and words; neighbours are then put together, from the left, as long as they
    fit. Only white space is left out, and only between passages.

    Args:
        document: its ``row_id``, if any, is the id of its passage when there is only one; other passages are
            called ``<row or document id>#<n>``, n from 0.
        budget: tokens of ``text``, without title and heading; a single word of more is a passage that
            exceeds it.
        count_tokens: tokens of a string.
    """
    text = document.text

    def fits(start: int, end: int) -> bool:
        return end - start <= budget * _SURELY_LONG and count_tokens(text[start:end]) <= budget

    pieces = (piece for block in document.blocks for piece in _split(text, _span(block), fits))
    runs = itertools.groupby(pieces, key=lambda piece: (piece.block.heading, piece.block.page))
    spans = itertools.chain.from_iterable(_pack(list(run), fits) for _, run in runs)
    head = list(itertools.islice(spans, 2))
    if len(head) == 1 and document.row_id:
        yield _passage(document, text, head[0], document.row_id)
        return
    stem = document.row_id or document.document_id
    for number, span in enumerate(itertools.chain(head, spans)):
        yield _passage(document, text, span, f"{stem}#{number}")


def _span(block: Block) -> _Span:
    return _Span(block.start, block.start + len(block.text), block)


def _split(text: str, span: _Span, fits: Callable[[int, int], bool], level: int = 0) -> Iterator[_Span]:
    """Pieces that fit, as coarse as may be; a word that does not fit is a piece, too."""
    if level == len(_BREAKS) or fits(span.start, span.end):
        yield span
        return
    start = span.start
    for end, following in itertools.chain(_breaks(text, span, level), [(span.end, span.end)]):
        piece = _stripped(text, start, end, span.block)
        if piece.start < piece.end:
            yield from _split(text, piece, fits, level + 1)
        start = following


def _breaks(text: str, span: _Span, level: int) -> Iterable[tuple[int, int]]:
    return (found.span() for found in _BREAKS[level].finditer(text, span.start, span.end))


def _stripped(text: str, start: int, end: int, block: Block) -> _Span:
    piece = text[start:end]
    return _Span(start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip()), block)


def _pack(pieces: Sequence[_Span], fits: Callable[[int, int], bool]) -> Iterator[_Span]:
    """Put neighbours together, as many as fit. Galloping: there may be hundreds of words in a passage."""
    first = 0
    while first < len(pieces):
        last, step = first, 1
        while step:
            ahead = last + step
            if ahead < len(pieces) and fits(pieces[first].start, pieces[ahead].end):
                last, step = ahead, step * 2
            else:
                step //= 2
        yield _Span(pieces[first].start, pieces[last].end, pieces[first].block)
        first = last + 1


def _passage(document: RawDocument, text: str, span: _Span, passage_id: str) -> Passage:
    words = text[span.start : span.end]
    return Passage(
        passage_id=passage_id,
        document_id=document.document_id,
        title=document.title,
        text=words,
        sha256=sha256_text(words),
        source=document.source,
        heading=span.block.heading,
        page=span.block.page,
        start=span.start,
        end=span.end,
    )
