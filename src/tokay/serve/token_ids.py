"""Token ids that came in place of text, back to text: LangChain sends OpenAI's unless it is told not to.

OpenAI's tokenizer is read by ``tiktoken``, which fetches its vocabulary from the network. A server fetches nothing:
where the vocabulary is not in tiktoken's cache, such requests are refused with what to do.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tokay.models.embedder import Embedder
from tokay.serve.options import TokenIds
from tokay.serve.refusal import Refusal

Ids = Sequence[int]

_URL = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
_SEND_TEXT = "send text instead of token ids (LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))"


def texts_of(ids: Sequence[Ids], embedder: Embedder, whose: TokenIds) -> list[str]:
    """Texts of lists of token ids.

    Raises:
        Refusal: an id is none of the tokenizer's, or the tokenizer is not here.
    """
    decode = _decoder_of_model(embedder) if whose == "model" else _cl100k()
    return [_decoded(row, decode, f"input[{at}]", whose) for at, row in enumerate(ids)]


def _decoded(row: Ids, decode: Callable[[Ids], str], field: str, whose: TokenIds) -> str:
    try:
        text = decode(row)
    except (KeyError, OverflowError) as error:
        name = "this model's tokenizer" if whose == "model" else whose
        raise Refusal(400, f"{field} holds an id that is none of {name}; {_SEND_TEXT}", param="input") from error
    if not text:
        raise Refusal(400, f"{field} is empty when it is decoded; expected ids of some text", param="input")
    return text


def _decoder_of_model(embedder: Embedder) -> Callable[[Ids], str]:
    tokenizer = embedder.tokens.tokenizer
    size = tokenizer.get_vocab_size()

    def decode(row: Ids) -> str:
        if max(row) >= size:  # the library leaves unknown ids out
            raise KeyError(max(row))
        return str(tokenizer.decode(row, skip_special_tokens=True))

    return decode


def has_cl100k() -> bool:
    """Whether OpenAI's tokenizer can be used without the network."""
    return importlib.util.find_spec("tiktoken") is not None and _cached().is_file()


def _cl100k() -> Callable[[Ids], str]:
    if not has_cl100k():
        raise Refusal(
            400,
            "input holds token ids, and this server has no cl100k_base vocabulary to read them with; "
            f"{_SEND_TEXT}, or have the server's owner install tiktoken and its vocabulary",
            param="input",
            code="token_ids_not_supported",
        )
    return _read_cl100k()


@functools.cache
def _read_cl100k() -> Callable[[Ids], str]:
    import tiktoken

    decode: Callable[[Ids], str] = tiktoken.get_encoding("cl100k_base").decode
    return decode


def _cached() -> Path:
    """Where tiktoken looks before it asks the network (tiktoken/load.py)."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    return Path(folder or Path(tempfile.gettempdir()) / "data-gym-cache") / hashlib.sha1(_URL.encode()).hexdigest()
