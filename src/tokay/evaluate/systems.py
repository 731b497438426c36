"""How a system is named: what ranks passages, in one word.

``[NAME=]CORE[@WIDTH][:BACKEND][+bm25[=WEIGHT]][+rerank[=MODEL]]``, such as ``tuned@128``, ``minilm+bm25=0.2`` or
``ours=runs/demo:onnx-int8+bm25+rerank``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from tokay.errors import TokayError, did_you_mean
from tokay.models.embedder import BACKENDS, Backend
from tokay.search.hybrid import HEAVIEST

BM25, BASE, TUNED = "bm25", "base", "tuned"
OPENAI = "openai:"
WORDS = (BM25, BASE, TUNED, "minilm")
FORMS = "bm25, base, tuned, minilm, a run, a model folder, a Hub name or openai:MODEL"
_NAMED = re.compile(r"([^=+:/@~\\]+)=(.+)", re.DOTALL)
_FUSED = re.compile(r"(.+)\+bm25(?:=([^+]*))?", re.DOTALL)
_RERANKED = re.compile(r"(.+)\+rerank(?:=([^+]+))?", re.DOTALL)
_WIDTH = re.compile(r"(.+)@(\d+)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class SystemSpec:
    """What ranks passages, as a user names it.

    Attributes:
        label: what tables call it.
        core: ``bm25``, ``base``, ``tuned``, ``openai:MODEL``, or what ``Embedder.load`` takes.
        dim: Matryoshka width; None: all.
        backend: what runs the model; None: torch.
        fused: with BM25.
        weight: of BM25; None: the learned one, or the usual one.
        reranked: with a cross-encoder over it.
        reranker: that one; empty: the run's.
    """

    label: str
    core: str
    dim: int | None = None
    backend: Backend | None = None
    fused: bool = False
    weight: float | None = None
    reranked: bool = False
    reranker: str = ""

    @property
    def encoder(self) -> tuple[str, str]:
        """What makes its vectors: systems with the same one share them."""
        return self.core, self.backend or ""


def parse(text: str) -> SystemSpec:
    """A system by its name.

    Raises:
        TokayError: a part of it is none, or does not go with the rest.
    """
    if not text.strip():
        raise TokayError(f"the name of a system is empty; expected {FORMS}")
    name, left = text, text
    if (named := _NAMED.fullmatch(text)) and not Path(text).exists():
        name, left = named[1].strip(), named[2]
    reranker = weight = dim = None
    backend: Backend | None = None
    reranked = fused = False
    if not Path(left).is_dir():
        if found := _RERANKED.fullmatch(left):
            left, reranker, reranked = found[1], found[2], True
        if found := _FUSED.fullmatch(left):
            left, weight, fused = found[1], found[2], True
        for _ in range(2):  # @WIDTH and :BACKEND in either order
            if Path(left).is_dir():
                break
            if found := _WIDTH.fullmatch(left):
                left, dim = found[1], int(found[2])
            head, _, last = left.rpartition(":")
            if last in BACKENDS and head and head != "openai":
                left, backend = head, next((one for one in BACKENDS if one == last and one != "torch"), None)
    spec = SystemSpec(name, left, dim, backend, fused, _weight(weight, text), reranked, reranker or "")
    _check(spec, text)
    return spec


def parse_all(texts: Sequence[str]) -> list[SystemSpec]:
    """Several systems, each with a name of its own.

    Raises:
        TokayError: as ``parse``; or two have one name.
    """
    specs = [parse(text) for text in texts]
    for number, spec in enumerate(specs):
        for other in specs[:number]:
            if other.label == spec.label:
                raise TokayError(f"two systems are called {spec.label!r}; leave one out, or give it a NAME=SYSTEM")
    return specs


def choose_reference(labels: Sequence[str], against: str | None) -> str:
    """The system that the others are compared with: the one of that name, or the first.

    Raises:
        TokayError: there is none of that name.
    """
    if against is None:
        return labels[0]
    if against not in labels:
        raise TokayError(
            f"--against is {against!r}; expected one of the systems {', '.join(labels)}{did_you_mean(against, labels)}"
        )
    return against


def _weight(text: str | None, whole: str) -> float | None:
    if text is None:
        return None
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 <= weight <= HEAVIEST:
        raise TokayError(f"system {whole!r} gives BM25 the weight {text!r}; expected a number from 0 to {HEAVIEST:g}")
    return weight


def _check(spec: SystemSpec, text: str) -> None:
    word, at, width = spec.core.partition("@")
    if at and word in WORDS:
        raise TokayError(f"system {text!r} has the width {width!r}; expected a whole number, such as {word}@128")
    word, colon, backend = spec.core.partition(":")
    if colon and word in WORDS:
        known = ", ".join(BACKENDS)
        raise TokayError(
            f"system {text!r} has the back-end {backend!r}; expected one of {known}{did_you_mean(backend, BACKENDS)}"
        )
    word, plus, more = spec.core.partition("+")
    if plus and (word in WORDS or not Path(spec.core).exists()):
        hint = did_you_mean(more, ("bm25", "rerank"))
        raise TokayError(f"system {text!r} has +{more}; expected +bm25, then perhaps +rerank{hint}")
    if spec.dim == 0:
        raise TokayError(f"system {text!r} has the width 0; expected 1 or more")
    if spec.core == BM25 and (spec.dim is not None or spec.backend or spec.fused):
        raise TokayError(f"system {text!r}: BM25 has no width, no back-end, and is not fused with itself; say bm25")
    if spec.core.startswith(OPENAI) and spec.backend:
        raise TokayError(f"system {text!r}: an endpoint has no back-end; leave :{spec.backend} out")
    if spec.core == OPENAI:
        raise TokayError(
            f"system {text!r} names no model; expected openai:MODEL, such as openai:text-embedding-3-small"
        )
