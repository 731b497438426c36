"""Vectors of one set by any model: made once, kept by a hash of what they follow from, or those that a run left.

Letters: Q queries, N passages, D width.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokay.errors import TokayError
from tokay.evaluate.sets import EvaluationSet
from tokay.evaluate.systems import BASE, OPENAI, TUNED, SystemSpec
from tokay.evaluate.verdict import Side
from tokay.models.cross_encoder import written
from tokay.models.locate import EXPORT, find_model
from tokay.progress import Progress
from tokay.search.dense import unit
from tokay.store import Run, fingerprint

Confirm = Callable[[Sequence[str]], bool]
"""Asked with what would leave this machine, in words, before it does."""
VECTORS = "vectors"
"""Of an evaluation's folder."""
_MANY = 1000
"""Passages of which it is said that they are encoded, also where no bar can be shown."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a system's model is: one side of a run, or a folder, a name or an endpoint by itself."""

    run: Run | None
    core: str


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A model over one set: what makes vectors of queries, and those of the set; ``about`` says how it reads."""

    queries: Callable[[Sequence[str]], NDArray[np.float32]]
    side: Side
    about: str

    @property
    def width(self) -> int:
        """D."""
        return int(self.side.passages.shape[1])


class Encoders:
    """The models of one evaluation.

    Args:
        on: the set.
        home: the run whose corpus the set's passages are, so that its vectors are theirs; None: of no run.
        folder: where vectors are kept; None: nowhere.
        url: of ``openai:`` systems.
        confirm: asked before texts are sent to an endpoint.
        progress: where to report.
    """

    def __init__(
        self,
        on: EvaluationSet,
        *,
        home: Run | None,
        folder: Path | None,
        url: str,
        confirm: Confirm,
        progress: Progress,
    ) -> None:
        self.on, self.home, self.url = on, home, url
        self.confirm, self.progress = confirm, progress
        self.kept = folder is not None
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="tokay-")
        self._folder = Path(self._temporary.name) if self._temporary else Path(str(folder))
        self._texts = [q.text for q in on.queries]
        self._made_already: dict[tuple[str, str], Encoder] = {}
        self._servers: list[Any] = []

    def close(self) -> None:
        """Give up what was not to be kept."""
        self._made_already.clear()
        for server in self._servers:
            server.close()
        if self._temporary:
            self._temporary.cleanup()

    def of(self, spec: SystemSpec, place: Place) -> Encoder:
        """The model of a system; systems with one model share it.

        Raises:
            TokayError: it cannot be loaded, or an endpoint was not to be asked or does not answer.
        """
        if spec.encoder not in self._made_already:
            self._made_already[spec.encoder] = self._made(spec, place)
        return self._made_already[spec.encoder]

    def _made(self, spec: SystemSpec, place: Place) -> Encoder:
        if spec.core.startswith(OPENAI):
            return self._remote(spec.core.removeprefix(OPENAI))
        model, digest = self._loaded(spec, place)
        about = f"reads {model.config.max_tokens} tokens" if model.config.max_tokens < 10**9 else "reads all tokens"

        def queries(texts: Sequence[str]) -> NDArray[np.float32]:
            return np.asarray(model.encode(texts, kind="query"), np.float32)

        stored = self._stored(spec, place)
        passages = stored if stored is not None else self._passages(spec, model, digest)
        return Encoder(queries, Side(queries(self._texts), passages), about)

    def _loaded(self, spec: SystemSpec, place: Place) -> tuple[Any, str]:
        from tokay import Embedder
        from tokay.vectors import with_cut

        self.progress.start(f"{spec.label}: loading", None)
        backend = spec.backend or "torch"
        if place.run is None:
            return Embedder.load(place.core, backend=backend), fingerprint(find_model(place.core))
        if place.core == BASE:
            chosen = place.run.read_json("vectors", "cut")
            base = with_cut(Embedder.load(chosen["base"], backend=backend), chosen["cut"])
            return base, fingerprint(find_model(chosen["base"]))
        tuned = place.run.path / "train" / "model"
        if spec.backend is None:
            return Embedder.load(tuned), fingerprint(tuned)
        model = Embedder.load(place.run.path, backend=backend)
        if not is_export_of_tuned(place.run):
            raise TokayError(
                f"system {spec.label!r}: {place.run.path / EXPORT} is of another model than {tuned}, since the verdict "
                "or --refit chose another; export that folder, and name the export"
            )
        return model, fingerprint(place.run.path / EXPORT)

    def _stored(self, spec: SystemSpec, place: Place) -> NDArray[np.floating] | None:
        """The vectors that a run left of its own corpus."""
        if spec.backend or self.home is None or not same_run(place.run, self.home):
            return None
        stage, file = {BASE: ("vectors", "base.npy"), TUNED: ("evaluate", "tuned.npy")}[place.core]
        path = self.home.path / stage / file
        return np.load(path, mmap_mode="r") if self.home.is_done(stage) and path.is_file() else None

    def _passages(self, spec: SystemSpec, model: Any, digest: str) -> NDArray[np.floating]:
        from tokay.vectors import encode_corpus

        key = [digest, spec.backend or "", model.config.max_tokens, self._digest]
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
        path = self._folder / VECTORS / f"{name}.npy"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            half = path.with_suffix(".half")
            if len(self.on.passages) > _MANY:
                self.progress.say(f"{spec.label}: {len(self.on.passages):,} passages are encoded; that takes a while")
            self.progress.start(f"{spec.label}: passages", len(self.on.passages))
            encode_corpus(model, iter(self.on.passages), len(self.on.passages), half, self.progress)
            half.replace(path)
        return np.asarray(np.load(path, mmap_mode="r"))

    @functools.cached_property
    def _digest(self) -> str:
        hasher = hashlib.sha256()
        for p in self.on.passages:
            hasher.update(json.dumps([p.title, p.text]).encode())
        return hasher.hexdigest()

    def _remote(self, model: str) -> Encoder:
        from tokay.llm.embeddings import RemoteEmbedder

        server = RemoteEmbedder(model, url=self.url, cache=self._folder / VECTORS / "endpoints.sqlite")
        self._servers.append(server)
        passages = [written(p.text, p.title) for p in self.on.passages]
        if (wanted := server.missing([*passages, *self._texts])) and not server.is_near:
            size = sum(len(text) for text in wanted)
            said = [
                f"to {server.name} at {server.url} goes the text of {len(wanted):,} passages and queries, {size:,} "
                f"characters, about {size / 4:,.0f} tokens of English; each text is paid for once"
            ]
            for line in said:
                self.progress.say(line)
            if not self.confirm(said):
                raise TokayError("nothing was sent to the endpoint: the plan was not confirmed (--yes confirms it)")

        def queries(texts: Sequence[str]) -> NDArray[np.float32]:
            return unit(server.encode(texts, progress=self.progress))

        vectors = unit(server.encode(passages, progress=self.progress))
        return Encoder(queries, Side(queries(self._texts), vectors), "reads what its endpoint reads")


def same_run(one: Run | None, other: Run | None) -> bool:
    """Whether both are, and are one."""
    return one is not None and other is not None and one.path.resolve() == other.path.resolve()


def is_export_of_tuned(run: Run) -> bool:
    """Whether a run's export is of its tuned model, and not of the base or a refitted one."""
    from tokay.models.space import recorded, vector_space

    return recorded(run.path / EXPORT) in ("", vector_space(run.path / "train" / "model"))
