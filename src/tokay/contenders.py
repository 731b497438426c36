"""The systems of ``tokay evaluate``: from their names to rankings of one set."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokay import open_run
from tokay.encoders import Confirm, Encoders, Place, is_export_of_tuned, same_run
from tokay.errors import TokayError, did_you_mean
from tokay.evaluate.fusion import Material, learn_hybrid, some_of
from tokay.evaluate.many import Ranked
from tokay.evaluate.rerank import as_ranking
from tokay.evaluate.sets import EvaluationSet
from tokay.evaluate.systems import BASE, FORMS, OPENAI, TUNED, WORDS, SystemSpec
from tokay.evaluate.systems import BM25 as WORDS_ALONE
from tokay.evaluate.verdict import Side, qrels_of
from tokay.finder import about_of
from tokay.language import LANGUAGE_SAMPLE, stems_for
from tokay.leaking import queries_of_run
from tokay.models.cross_encoder import written
from tokay.models.locate import EXPORT, find_model, is_hub_name, is_run
from tokay.progress import Progress
from tokay.records import Judgment, Query
from tokay.search.bm25 import BM25
from tokay.search.dense import unit
from tokay.search.hybrid import Hybrid, Ranking, as_run, pools_of, spread_of
from tokay.settings import EvaluateSettings, HybridSettings
from tokay.store import Run


class Contenders:
    """Ranks one set's passages by any system.

    Args:
        on: the set.
        home: the run whose corpus the set's passages are, so that its vectors are theirs; None: of no run.
        run: the run that ``base`` and ``tuned`` are of; None: there is none.
        folder: where vectors are kept; None: nowhere.
        url: of ``openai:`` systems.
        settings: depth of the rankings.
        hybrid: how weights of BM25 are learned.
        confirm: asked before texts are sent to an endpoint.
        progress: where to report.
    """

    def __init__(
        self,
        on: EvaluationSet,
        *,
        home: Run | None,
        run: Run | None,
        folder: Path | None,
        url: str = "",
        settings: EvaluateSettings,
        hybrid: HybridSettings,
        confirm: Confirm,
        progress: Progress,
    ) -> None:
        self.on, self.home, self.run = on, home, run
        self.settings, self.hybrid_settings = settings, hybrid
        self.progress = progress
        self.encoders = Encoders(on, home=home, folder=folder, url=url, confirm=confirm, progress=progress)
        self.texts = [q.text for q in on.queries]
        self._hybrids: dict[tuple[str, str], tuple[Hybrid, str]] = {}

    def close(self) -> None:
        """Give up what was not to be kept."""
        self.encoders.close()

    # -- names ----------------------------------------------------------------------------------------------------

    def check(self, specs: Sequence[SystemSpec]) -> list[SystemSpec]:
        """The systems with each plain run in place of its forms: all widths of its tuned model, and its exports.

        Raises:
            TokayError: a name is of nothing, or there is no run to take ``base`` or ``tuned`` of.
        """
        found: list[SystemSpec] = []
        for spec in specs:
            place = self._place(spec)
            if spec.reranked and not spec.reranker:
                about_of(self._run_of_reranker(spec, place).path)
            plain = dataclasses.replace(spec, label="") == SystemSpec("", spec.core)
            forms = [spec]
            if place.run is not None and plain and spec.core not in (BASE, TUNED):
                forms = self._forms(spec, place.run)
            if same_run(place.run, self.run) and place.core == TUNED:
                forms = [dataclasses.replace(form, core=TUNED) for form in forms]  # its vectors are there already
            found += forms
        labels = [spec.label for spec in found]
        if twice := next((label for label in labels if labels.count(label) > 1), ""):
            raise TokayError(f"two systems are called {twice!r}; leave one out, or give it a NAME=SYSTEM")
        bare = [dataclasses.replace(spec, label="") for spec in found]
        for number, spec in enumerate(bare):
            if spec in bare[:number]:
                first, second = labels[bare.index(spec)], labels[number]
                raise TokayError(f"{first!r} and {second!r} are the same system; leave one out")
        return found

    def _place(self, spec: SystemSpec) -> Place:
        core = spec.core
        if core == WORDS_ALONE or core.startswith(OPENAI):
            if core != WORDS_ALONE and not self.encoders.kept:
                raise TokayError(f"{core} is asked text by text; name --out FOLDER, where its vectors are kept")
            return Place(None, core)
        if core in (BASE, TUNED):
            if self.run is None:
                raise TokayError(
                    f"system {spec.label!r} is of a run, and --on {self.on.name} is none; name one with --run, or the "
                    "run's folder in its place"
                )
            return Place(self.run, core)
        folder = Path(core).expanduser()
        if is_run(folder):
            run = open_run(folder)
            if not run.is_done("train"):
                raise TokayError(f"system {core!r} is a run that has no tuned model yet; finish it with tokay distill")
            return Place(run, TUNED)
        if not folder.is_dir() and "/" not in core and (core not in WORDS):
            hint = did_you_mean(core, WORDS)
            if hint or not is_hub_name(core):
                raise TokayError(f"there is no system {core!r}; expected {FORMS}{hint}")
        find_model(core)
        return Place(None, core)

    def _forms(self, spec: SystemSpec, run: Run) -> list[SystemSpec]:
        name = spec.label if spec.label != spec.core else Path(spec.core).resolve().name
        dims = _config_dims(run)
        forms = [dataclasses.replace(spec, label=name)]
        forms += [dataclasses.replace(spec, label=f"{name}@{dim}", dim=dim) for dim in sorted(dims, reverse=True)[1:]]
        about = run.path / EXPORT / "export.json"
        kept = json.loads(about.read_text(encoding="utf-8")).get("forms", {}) if about.is_file() else {}
        for backend in ("onnx", "onnx-int8", "static"):
            if kept.get(backend, {}).get("kept") and is_export_of_tuned(run):
                forms.append(dataclasses.replace(spec, label=f"{name}:{backend}", backend=backend))
        return forms

    def _run_of_reranker(self, spec: SystemSpec, place: Place) -> Run:
        run = place.run or self.run
        if run is None:
            raise TokayError(f"system {spec.label!r} has no run whose reranker to take; say +rerank=MODEL")
        return run

    # -- rankings -------------------------------------------------------------------------------------------------

    def rank(self, spec: SystemSpec) -> Ranked:
        """A system's ranking of all queries.

        Raises:
            TokayError: a width above the model's, or no such export or reranker.
        """
        dim, about = 0, [] if spec.core != WORDS_ALONE else [f"k1 {self.bm25.k1:g}, b {self.bm25.b:g}"]
        if spec.core == WORDS_ALONE:
            ranking = self.bm25.search(self.texts, self.settings.depth)
        else:
            encoder = self.encoders.of(spec, self._place(spec))
            side = encoder.side
            dim = spec.dim or encoder.width
            if dim > encoder.width:
                raise TokayError(
                    f"system {spec.label!r} has the width {dim}; its model has vectors of {encoder.width} numbers, so "
                    f"1 to {encoder.width}"
                )
            about.append(encoder.about)
            cut = None if dim == encoder.width else dim
            ranking = side.rank(self.settings.depth, cut)
            if spec.fused:
                hybrid, how = self._hybrid(spec, side)
                about.append(f"BM25 weight {hybrid.weight:.3g} ({how})")
                ranking = hybrid.rank(self._pools(ranking, side, cut), self.settings.depth)
        if spec.reranked:
            ranking, how = self._reranked(spec, ranking)
            about.append(how)
        run = as_run(ranking, (q.query_id for q in self.on.queries), self.on.ids)
        return Ranked(spec.label, dim, run, "; ".join(part for part in about if part))

    def _pools(self, ranking: Ranking, side: Side, cut: int | None) -> list[Any]:
        passages = side.passages if cut is None else unit(np.asarray(side.passages, np.float32), cut)
        queries = unit(side.queries, cut)
        return list(pools_of(ranking, self.bm25, self.texts, queries, passages, depth=self.settings.depth))

    @functools.cached_property
    def bm25(self) -> BM25:
        """The run's where the passages are its own, else one with the usual settings."""
        if self.home is not None and self.home.is_done("evaluate"):
            return BM25.load(self.home.path / "evaluate" / "bm25")
        self.progress.start("BM25", None)
        texts = [f"{p.title} {p.text}" for p in self.on.passages]
        step = max(1, len(texts) // LANGUAGE_SAMPLE)
        try:
            language = stems_for(itertools.islice(texts, 0, None, step))
        except ImportError:  # the package that tells languages comes with an extra
            language = "english"
        return BM25(texts, language=language)

    def _hybrid(self, spec: SystemSpec, side: Side) -> tuple[Hybrid, str]:
        if spec.weight is not None:
            return Hybrid(spec.weight, {}, self.bm25.k1, self.bm25.b, self.bm25.language), "given"
        place = self._place(spec)
        if self.home is not None and same_run(place.run, self.home):
            return Hybrid.from_json(self.home.read_json("evaluate", "hybrid")[place.core]), "the run's"
        if spec.encoder not in self._hybrids:
            self._hybrids[spec.encoder] = self._learned(spec, side)
        return self._hybrids[spec.encoder]

    def _learned(self, spec: SystemSpec, side: Side) -> tuple[Hybrid, str]:
        """On the run's queries that are not held out, as the base's is; the usual one where there are none."""
        chosen: list[Query] = []
        qrels: dict[str, dict[str, int]] = {}
        if self.home is not None:
            queries = [q for q in queries_of_run(self.home) if q.part in ("train", "dev")]
            judgments = self.home.table("judge", "judgments", Judgment)
            qrels, _ = qrels_of(queries, judgments, relevant_grade=self.settings.relevant_grade)
            chosen = some_of([q for q in queries if q.query_id in qrels], self.hybrid_settings)
        if not chosen:
            spread = spread_of(unit(side.queries), np.asarray(side.passages))
            return Hybrid.usual(spread, self.bm25), "not learned"
        asked = Side(self.encoders.of(spec, self._place(spec)).queries([q.text for q in chosen]), side.passages)
        place = {p: i for i, p in enumerate(self.on.ids)}
        material = Material(asked, chosen, qrels, place, self.settings.depth)
        return learn_hybrid(self.bm25, material, self.hybrid_settings)[0], "learned on the run's training queries"

    def _reranked(self, spec: SystemSpec, ranking: Ranking) -> tuple[Ranking, str]:
        from tokay.search.reranker import Reranker

        reranker = Reranker.load(spec.reranker or self._run_of_reranker(spec, self._place(spec)).path)
        texts = [written(p.text, p.title) for p in self.on.passages]
        self.progress.start(f"{spec.label}: reranking", len(self.texts))
        found = []
        for text, indices, scores in zip(self.texts, *ranking, strict=True):
            there = indices >= 0
            found.append(reranker.rerank(text, indices[there], scores[there], lambda some: [texts[i] for i in some]))
            self.progress.advance()
        read = float(np.mean([one.read for one in found])) if found else 0.0
        places = as_ranking(found, self.settings.depth)
        # by place, so that rounded scores make no ties
        scores = -np.arange(self.settings.depth, dtype=np.float32)[None].repeat(len(found), 0)
        return (places[0], scores), f"{read:.1f} candidates read"


def _config_dims(run: Run) -> Sequence[int]:
    from tokay.models.folder import read_config

    return read_config(run.path / "train" / "model")[0].dims
