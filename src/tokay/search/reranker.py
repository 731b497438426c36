"""A reranker that is ready for use: a cross-encoder in the form that suits, and the rule that was chosen for it.

A run's ``rerank`` folder has ``rerank.json``: whether the verdict was for it, the forms that there are (layers x
precision) with their quality by depth, and how each is used. How long they take is another matter on every machine, so
it is measured where it is asked for, when a budget in milliseconds is given. Any other CrossEncoder folder is used as
it stands, and orders alone what it reads.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from tokay.errors import TokayError
from tokay.expected import faults_of
from tokay.models.cross_encoder import Backend, CrossEncoder
from tokay.models.locate import is_run
from tokay.search.rerank import Reranked, Rule, rerank

ABOUT = "rerank.json"
FOLDER = "rerank"
"""Of a run."""
_TIMED, _ROUNDS = (4, 16), 5
"""Pairs that are timed: two sizes, whose difference says what one more takes; and how often, of which the median."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Form(_Section):
    """One way to run a reranker.

    Attributes:
        folder: of the CrossEncoder, within the reranker's.
        backend: what runs it.
        layers: of its backbone.
        weight: of ``Rule``.
        ceiling: of ``Rule``.
        quality: depth -> nDCG@10 of dev queries.
    """

    folder: str
    backend: Backend
    layers: int
    weight: float
    ceiling: float
    quality: dict[int, float]


class About(_Section):
    """``rerank.json``: what a run's reranker says of itself; the first form is used unless a budget chooses."""

    format: Literal[1] = 1
    use: bool
    sentence: str
    depth: int
    top: int
    pair_tokens: int
    forms: list[Form]


def read_about(folder: Path) -> About:
    """What a reranker's folder says.

    Raises:
        TokayError: it is none, or damaged.
    """
    path = folder / ABOUT
    again = "train it again with 'tokay train RUN --what reranker'"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return About.model_validate(data)
    except FileNotFoundError:
        raise TokayError(f"{folder} has no {ABOUT}; {again}") from None
    except ValidationError as error:
        raise TokayError(f"{path} is damaged: {'; '.join(faults_of(error, About, data, what='entry'))}; {again}") from (
            error
        )
    except ValueError as error:
        raise TokayError(f"{path} is damaged: it is not JSON ({error}); {again}") from error


@dataclasses.dataclass(frozen=True)
class Pace:
    """How long a query's reranking takes: milliseconds, of which some for being one and the rest for each pair."""

    fixed: float
    each: float

    def of(self, depth: int) -> float:
        """Milliseconds at a depth."""
        return self.fixed + self.each * depth


def measure_pace(model: CrossEncoder, tokens: int) -> Pace:
    """Time a model on pairs of so many tokens, on this machine, in some tenths of a second."""
    pair = ("what is this", "text " * tokens)
    pairs = [(pair[0], model.tokens.parts(pair[1], max(1, tokens - 8))[0])] * max(_TIMED)

    def took(count: int) -> float:
        times = []
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            model.score(pairs[:count])
            times.append(1000 * (time.perf_counter() - began))
        return statistics.median(times)

    took(_TIMED[0])  # the first call is the slowest
    few, many = (took(count) for count in _TIMED)
    each = max((many - few) / (_TIMED[1] - _TIMED[0]), 0.1 * many / _TIMED[1])
    return Pace(max(0.0, few - each * _TIMED[0]), each)


def choose(about: About, paces: Mapping[int, Pace], budget: float) -> tuple[int, int]:
    """The form (by number) and depth of the best quality within a budget of milliseconds; of equal ones the fastest.

    Raises:
        TokayError: none is fast enough.
    """
    table = [
        (quality, -paces[number].of(depth), number, depth)
        for number, form in enumerate(about.forms)
        for depth, quality in form.quality.items()
    ]
    within = [row for row in table if -row[1] <= budget]
    if not within:
        least = min(-row[1] for row in table)
        raise TokayError(
            f"reranking takes {least:,.0f} ms at the least on this machine, and the budget is {budget:g} ms; raise "
            "it, or search without a reranker"
        )
    best = max(within)
    return best[2], best[3]


class Scores(Protocol):
    """What reads pairs: a cross-encoder, or what runs one somewhere else."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Logits of (query, passage) pairs, (N,)."""


M = TypeVar("M", bound=Scores, covariant=True)


class Reranker(Generic[M]):
    """A cross-encoder with the rule that it is used by."""

    def __init__(self, model: M, rule: Rule, about: About | None = None) -> None:
        self.model, self.rule, self.about = model, rule, about

    @classmethod
    def load(
        cls,
        where: str | Path,
        *,
        backend: Backend | None = None,
        latency_ms: float | None = None,
        threads: int | None = None,
        measure: Callable[[CrossEncoder, int], Pace] = measure_pace,
    ) -> Reranker[CrossEncoder]:
        """Load a run's reranker, the folder of one, or any CrossEncoder.

        Args:
            where: a run, a reranker's folder, or a CrossEncoder's folder or Hub name.
            backend: take this form; None: the first, or the best within ``latency_ms``.
            latency_ms: what reranking one query may take on this machine.
            threads: of the CPU; None: as many as there are cores.
            measure: how paces are measured.

        Raises:
            TokayError: there is none, or of another kind, or none is fast enough.
        """
        folder = Path(where).expanduser()
        if is_run(folder):
            folder = folder / FOLDER
            if not (folder / ABOUT).is_file():
                raise TokayError(f"{where} has no reranker; train one with 'tokay train {where} --what reranker'")
        if not (folder / ABOUT).is_file():
            model = CrossEncoder.load(where, backend=backend or "torch", threads=threads)
            rule = Rule()
            if latency_ms is not None:
                pace = measure(model, model.max_tokens)
                depth = int((latency_ms - pace.fixed) / pace.each)
                if depth < 1:
                    raise TokayError(
                        f"reranking takes {pace.of(1):,.0f} ms at the least on this machine, and the budget is "
                        f"{latency_ms:g} ms; raise it, or search without a reranker"
                    )
                rule = Rule(depth=min(100, depth))
            return Reranker(model, rule)
        about = read_about(folder)
        kept = [form for form in about.forms if backend in (None, form.backend)]
        if not kept:
            known = ", ".join(dict.fromkeys(form.backend for form in about.forms))
            raise TokayError(f"{folder} has no reranker for backend {backend!r}; it has {known}")
        about = about.model_copy(update={"forms": kept})
        models: dict[int, CrossEncoder] = {}

        def loaded(number: int) -> CrossEncoder:
            if number not in models:
                form = kept[number]
                models[number] = CrossEncoder.load(folder / form.folder, backend=form.backend, threads=threads)
            return models[number]

        number, depth = 0, about.depth
        if latency_ms is not None:
            paces = {n: measure(loaded(n), about.pair_tokens) for n in range(len(kept))}
            number, depth = choose(about, paces, latency_ms)
        form = kept[number]
        return Reranker(loaded(number), Rule(form.weight, depth, form.ceiling, about.top), about)

    def rerank(
        self,
        query: str,
        indices: NDArray[np.int64],
        scores: NDArray[np.float32],
        texts: Callable[[Sequence[int]], Sequence[str]],
        *,
        top: int | None = None,
    ) -> Reranked:
        """Rerank one query's candidates.

        Args:
            query: as a person typed it.
            indices: (k,) best first.
            scores: (k,) theirs.
            texts: passages as rerankers read them, by index.
            top: results for which the order shall be right; None: as the rule has it.
        """
        rule = self.rule if top is None else dataclasses.replace(self.rule, top=top)

        def scorer(some: NDArray[np.int64]) -> NDArray[np.float32]:
            return self.model.score([(query, text) for text in texts(some.tolist())])

        return rerank(indices, scores, scorer, rule)
