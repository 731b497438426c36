"""What the stages of a run share: its settings, its folder, who annotates, the base, and what is read again and again.

A stage is a function of it that says two things: what its outputs depend on, and the work.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokay.annotate.annotator import Annotator
from tokay.corpus import Source
from tokay.decisions import Decided, decided_in
from tokay.language import LANGUAGE_SAMPLE, stems_for
from tokay.leaking import parts_of_run, passages_of, queries_of_run
from tokay.pipeline.plan import Consent
from tokay.progress import Progress
from tokay.records import Part, Passage, Query
from tokay.search.bm25 import AUTO, BM25
from tokay.settings import Settings
from tokay.store import Run, StageOutput, fingerprint

if TYPE_CHECKING:
    from tokay.models.torch_embedder import TorchEmbedder
    from tokay.train.mixture import Source as MixtureSource

STAGES = 11
"""Of every run; some have more."""


class Context:
    """A run that is being made.

    Args:
        settings: resolved.
        run: open for writing.
        source: the documents.
        annotator: writes and judges queries.
        base: folder of the model that is tuned.
        progress: where to report.
    """

    def __init__(
        self,
        settings: Settings,
        run: Run,
        source: Source,
        annotator: Annotator,
        base: Path,
        progress: Progress,
    ) -> None:
        self.settings = settings
        self.run = run
        self.source = source
        self.annotator = annotator
        self.base_folder = base
        self.base_print = fingerprint(base)
        more = (bool(settings.qrels), settings.refit, "initial" in settings.mine.retrievers)
        self.progress = _Numbered(progress, STAGES + sum(more))
        self.done: list[str] = []
        self.consent = Consent(self.progress)

    def stage(
        self,
        name: str,
        work: Callable[[StageOutput], None],
        *,
        settings: Mapping[str, Any],
        reads: Sequence[str],
        code: Sequence[str],
    ) -> None:
        """``Run.stage``, and a line on what became of it."""
        self.progress.number += 1
        result = self.run.stage(name, work, settings=settings, reads=reads, code=code)
        if result.fresh:
            self.done.append(name)
        self.progress.say(f"{name}: {'done' if result.fresh else 'unchanged'} ({result.seconds:.1f} s)")

    def passages(self) -> Iterator[Passage]:
        """Of the corpus, in its order."""
        return passages_of(self.run)

    def asked(self) -> Iterator[Query]:
        """Queries that candidates are mined and judged for: the LLM's, then those of the user's log."""
        return itertools.chain(*(self.run.table("generate", table, Query) for table in ("queries", "log")))

    def queries(self) -> Iterator[Query]:
        """Queries with their parts: the LLM's, and, once it is judged, what of the log some passage answers."""
        return iter(queries_of_run(self.run))

    def parts(self) -> dict[str, Part]:
        """Passage id -> part."""
        return parts_of_run(self.run)

    def known(self) -> Mapping[str, Sequence[str]]:
        """Query id -> passages that somebody says answer it, beside the seed."""
        return {}

    @functools.cached_property
    def decided(self) -> Decided:
        """What people decided, as it stands when the judgments are there; a later decision waits for the next start."""
        return decided_in(self.run)

    @functools.cached_property
    def mixture(self) -> Sequence[MixtureSource]:
        """Sources of training rows beside the run's own."""
        from tokay.train.mixture import read_mixture

        path = self.settings.train.mixture
        return read_mixture(Path(path), seed=self.settings.train.seed) if path else ()

    def base(self) -> TorchEmbedder:
        """The base with the run's format and, once it is chosen, the run's cut."""
        from tokay.models.torch_embedder import TorchEmbedder
        from tokay.vectors import with_cut

        embedder = TorchEmbedder.load(self.base_folder)
        if self.run.is_done("vectors"):
            with_cut(embedder, self.run.read_json("vectors", "cut")["cut"])
        return embedder

    def tuned(self) -> TorchEmbedder:
        """The model that the train stage left."""
        from tokay.models.torch_embedder import TorchEmbedder

        return TorchEmbedder.load(self.run.path / "train" / "model")

    def bm25(self, k1: float, b: float) -> BM25:
        """Words of the corpus, titles among them."""
        texts = (f"{p.title} {p.text}" for p in self.passages())
        return BM25(texts, k1=k1, b=b, language=self.language)

    @functools.cached_property
    def language(self) -> str:
        """Whose stems BM25 takes."""
        said = self.settings.hybrid.language
        if said != AUTO:
            return said
        count = self.run.rows("corpus", "passages")
        return stems_for(p.text for p in itertools.islice(self.passages(), 0, None, max(1, count // LANGUAGE_SAMPLE)))


class _Numbered:
    """Puts the number of the stage before what it reports."""

    def __init__(self, inner: Progress, stages: int) -> None:
        self.inner = inner
        self.stages = stages
        self.number = 0
        self.advance = inner.advance
        self.say = inner.say

    def start(self, what: str, total: int | None) -> None:
        self.inner.start(f"{self.number}/{self.stages} {what}", total)
