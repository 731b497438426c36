"""From anything that a user calls a corpus to passages: ``open_corpus``, then ``write_corpus``."""

from tokay.corpus.chunk import chunk, whole
from tokay.corpus.document import Block, RawDocument
from tokay.corpus.read import write_corpus
from tokay.corpus.source import Source, open_corpus

__all__ = [
    "Block",
    "RawDocument",
    "Source",
    "chunk",
    "open_corpus",
    "whole",
    "write_corpus",
]
