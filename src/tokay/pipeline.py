"""The running order: documents in, a better embedder and its proof out. One stage after another, nothing else.

corpus -> split -> generate -> vectors -> mine -> judge -> examples -> train -> evaluate (-> labels, refit)
-> general -> model
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import heapq
import itertools
import json
import math
import operator
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokay.annotate.annotator import Annotator
from tokay.annotate.recorded import DEMO, RecordedAnnotator
from tokay.copies import bundles_of, copies_of
from tokay.corpus import Source, open_corpus, write_corpus
from tokay.decisions import Decided, by_hand, decided_in, judgments_of
from tokay.errors import MissingExtra, TokayError
from tokay.evaluate.fusion import Material, choose_bm25, learn_hybrid, some_of
from tokay.evaluate.general import check_general, is_local, local_path, plan_of, read_general, said_of, unreachable
from tokay.evaluate.people import for_people
from tokay.evaluate.qrels import Labels, Words, check_labels, read_labels, write_beir
from tokay.evaluate.significance import forecast
from tokay.evaluate.slices import SEEN, UNSEEN, slice_of
from tokay.evaluate.verdict import (
    Side,
    hits_of,
    judge_systems,
    qrels_of,
    systems_of,
)
from tokay.examples import make_examples
from tokay.language import LANGUAGE_SAMPLE, stems_for
from tokay.leakage import overlap_of, reads_of
from tokay.leaking import leakage_sentence, parts_of_run, queries_of_run, refuse, sources_apart
from tokay.llm.client import base_url
from tokay.llm.estimate import Estimate, count, money
from tokay.llm.ledger import LEDGER, spent_in
from tokay.llm.open import forget_models
from tokay.llm.prices import PriceTable, load_prices
from tokay.mine import DEPTH, mine
from tokay.models.locate import find_model
from tokay.progress import Progress, Silent
from tokay.records import (
    Candidate,
    Change,
    Copy,
    Document,
    Example,
    Failure,
    Hit,
    Judgment,
    Part,
    Passage,
    Query,
    Rating,
    Read,
    Score,
)
from tokay.relabel import changes_of, relabelled, summary_of
from tokay.report import write_relabel_report, write_report
from tokay.search.bm25 import AUTO, BM25, check_language
from tokay.search.dense import top_k, unit
from tokay.search.hybrid import Hybrid, Ranking, margin_of
from tokay.searchlog import TASK, answered_by, read_log
from tokay.settings import ExampleSettings, Settings, TrainSettings, resolve, to_toml
from tokay.split import FEW_DOCUMENTS, is_seen, seen_share, split_documents, units_of
from tokay.store import Run, StageOutput, fingerprint

CODE: dict[str, tuple[str, ...]] = {
    "corpus": ("tokay.corpus", "tokay.records"),
    "split": ("tokay.split", "tokay.copies", "tokay.corpus.dedup", "tokay.records"),
    "generate": ("tokay.annotate", "tokay.searchlog", "tokay.records"),
    "vectors": ("tokay.vectors", "tokay.models", "tokay.search.dense", "tokay.evaluate.metrics"),
    "mine": ("tokay.mine", "tokay.search", "tokay.records"),
    "judge": ("tokay.annotate", "tokay.searchlog", "tokay.records"),
    "examples": ("tokay.examples", "tokay.decisions", "tokay.copies", "tokay.records"),
    "relabel": ("tokay.relabel", "tokay.decisions", "tokay.records"),
    "train": ("tokay.train", "tokay.models"),
    "evaluate": (
        "tokay.evaluate",
        "tokay.decisions",
        "tokay.search",
        "tokay.models",
        "tokay.vectors",
        "tokay.copies",
        "tokay.records",
    ),
    "general": ("tokay.evaluate", "tokay.search.dense", "tokay.models"),
    "model": ("tokay.train.card", "tokay.models"),
}
"""The modules whose code makes a stage's outputs: a change in one of them makes the stage run again."""


FEW_STEPS = 10
"""Steps below which training hardly moves the weights."""

TRIAL = 20
"""Passages after which a paid run's estimate is corrected by what they took."""

FAR_OFF = 0.2
"""Share by which the corrected estimate may differ from the one that was confirmed."""

DEV_PASSAGES = 1000
"""Passages among which dev queries search, beside those that are judged for one of them."""

POOL = 256
"""Passages that stand for queries and candidates in an estimate."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run will do, before anything is paid for. ``queries`` are the user's own, of a log or with labels."""

    documents: int
    passages: int
    skipped: int
    held_out: int
    dev: int
    left_out: int
    by_section: bool
    sampled: int
    queries_per_passage: int
    queries: int
    test_queries: int
    seen_queries: int
    candidates: int
    llm: str
    paid: bool
    estimate: Estimate
    assumes: str
    answered: int
    spent: float
    budget: float
    where: str
    guard: str = ""

    def lines(self) -> list[str]:
        """The plan in words."""
        unit = f"sections (fewer than {FEW_DOCUMENTS} documents)" if self.by_section else "documents"
        total = max(1, self.passages)
        said = [
            f"{self.passages:,} passages of {self.documents:,} {unit}"
            + (f"; {self.skipped:,} inputs skipped, see corpus/skipped.parquet" if self.skipped else "")
        ]
        if self.held_out:
            said.append(
                f"held out for the verdict: {self.held_out:,} passages ({self.held_out / total:.0%}), whole "
                f"{unit.split()[0]}; {self.dev:,} more for choices ({self.dev / total:.0%})"
            )
        if self.left_out:
            said.append(f"{self.left_out:,} passages nearly repeat one of these, and are left out of training")
        if self.sampled:
            said.append(f"{self.sampled:,} passages sampled, {self.queries_per_passage} queries each, by {self.llm}")
        if self.queries:
            said.append(f"{self.queries:,} queries of your own")
        if self.test_queries:
            shown = f"about {self.test_queries:,} held-out queries, which can show {forecast(self.test_queries):.3f}"
            more = f"; {self.seen_queries:,} of training documents, {forecast(self.seen_queries):.3f}"
            said.append(
                f"the verdict will be on {shown}{more if self.seen_queries else ''} (difference in nDCG@10 that is "
                "found four times of five)"
            )
        return [*said, *([self.guard] if self.guard else [])]

    def consent(self) -> list[str]:
        """What asking the LLM takes and what leaves the machine, in words; nothing where it is a recording."""
        if self.llm.startswith("recorded"):
            return []
        said = self.costs() if self.paid else [f"{self.llm} is asked on this machine: nothing leaves it or is paid"]
        return [
            *said,
            f"{LEDGER} in the run folder keeps every request and answer, for you alone to read: it holds text of your "
            f"documents ('tokay ledger purge' empties it)",
        ]

    def costs(self) -> list[str]:
        """What is asked of the LLM, in words."""
        currency = self.estimate.table.currency
        said = [*self.estimate.lines(), *([self.assumes] if self.assumes else [])]
        if self.answered:
            price = f", for {money(self.spent)} {currency}" if self.spent else ""
            said.append(
                f"{self.answered:,} requests of this run are answered already{price}; "
                f"what is among them is not asked again"
            )
        if self.budget:
            said.append(f"budget: {money(self.budget)} {currency}; the run stops before it would be passed")
        own = ", your own queries" if self.queries else ""
        return [
            *said,
            f"to {', '.join(self.estimate.prices)} at {self.where} goes the text of the sampled passages{own}, and of "
            f"every passage that is a candidate for a query, be it sampled or not",
        ]


@dataclasses.dataclass(frozen=True)
class Distilled:
    """What ``distill`` leaves: the run folder, the model that its verdict recommends, the verdict, its check."""

    path: Path
    model: Path
    verdict: dict[str, Any]
    leakage: str
    stages: tuple[str, ...]


def distill(
    documents: str,
    *,
    out: str | Path,
    llm: str | None = None,
    base: str | None = None,
    config: Path | None = None,
    overrides: Iterable[str] = (),
    confirm: Callable[[Plan], bool] | None = None,
    progress: Progress | None = None,
) -> Distilled:
    """Make an embedder that is better on these documents, and the proof of it.

    Args:
        documents: a folder, a JSONL/CSV/Parquet file, a BEIR folder, ``hf:DATASET``, ``python:PACKAGE`` or
            ``python-stdlib``.
        out: the run folder; an interrupted or changed run goes on where it was.
        llm: ``recorded`` (the default), ``recorded:FOLDER``, ``openai:MODEL``, ``hf:NAME_OR_FOLDER`` or
            ``replay:FILE``.
        base: ``minilm`` (the default), a model folder, or a name on the Hub.
        config: TOML with settings by stage.
        overrides: ``stage.name=value`` settings, which win over the file.
        confirm: asked with the plan before a paid LLM is called; None: refuse to pay.
        progress: where to report.

    Raises:
        TokayError: anything that the caller can mend, in one sentence.
    """
    values = {"documents": documents, "llm": llm, "base": base}
    settings = resolve(values, config=config, overrides=overrides)
    done = run_distillation(settings, Path(out), confirm=confirm, progress=progress)
    assert done is not None  # only a dry run ends without a result
    return done


def run_distillation(
    settings: Settings,
    out: Path,
    *,
    confirm: Callable[[Plan], bool] | None = None,
    progress: Progress | None = None,
    dry_run: bool = False,
) -> Distilled | None:
    """``distill`` with resolved settings; a dry run stops at the plan, leaves ``out`` alone and returns None."""
    progress = progress or Silent()
    source = open_corpus(settings.documents)
    base = find_model(settings.base)
    _need_torch()
    check_teacher(settings.train)
    check_language(settings.hybrid.language, "hybrid.language")
    if settings.log and settings.llm.startswith("recorded"):
        raise TokayError(f"--queries {settings.log} needs an LLM that judges now; --llm {settings.llm} is a recording")
    if settings.log:
        next(iter(read_log(Path(settings.log))))
    if settings.queries or settings.qrels:
        check_labels(settings.queries, settings.qrels)
    for spec in filter(is_local, settings.guard.sets):
        read_general(spec)
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="tokay-") as folder, Run(Path(folder, "run"), writable=True) as run:
            annotator = annotator_of(settings, run.path, to_ask=False)
            _Distillation(settings, run, source, annotator, base, progress).dry_run()
        return None
    with Run(out, writable=True) as run:
        annotator = annotator_of(settings, run.path)
        run.write_settings(to_toml(settings))
        return _Distillation(settings, run, source, annotator, base, progress).run(confirm)


def run_relabelling(
    settings: Settings,
    out: Path,
    *,
    confirm: Callable[[Plan], bool] | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Judge a user's labels (``settings.queries`` and ``settings.qrels``) and mined candidates; returns the counts.

    Raises:
        TokayError: as of ``distill``.
    """
    source, base = open_corpus(settings.documents), find_model(settings.base)
    _need_torch()
    check_labels(settings.queries, settings.qrels, split=settings.relabel.split, words=Words(split="--split"))
    if settings.llm.startswith("recorded"):
        raise TokayError(f"relabelling needs an LLM that judges now; --llm {settings.llm} is a recording")
    with Run(out, writable=True) as run:
        if run.is_done("split"):
            raise TokayError(f"--out {out} holds a run of 'tokay distill'; name another folder")
        annotator = annotator_of(settings, run.path)
        run.write_settings(to_toml(settings))
        stages = _Relabelling(settings, run, source, annotator, base, progress or Silent())
        return stages.run_relabelling(confirm)


def annotator_of(settings: Settings, run: Path, *, to_ask: bool = True) -> Annotator:
    """The annotator that ``--llm`` names; a dry run does not ask it."""
    if settings.llm == "recorded":
        if settings.documents != "python-stdlib":
            raise TokayError(
                f"--llm recorded is the recording for python-stdlib and knows nothing of {settings.documents!r}; "
                "use --llm openai:MODEL, or --llm recorded:FOLDER with a recording of these documents"
            )
        return RecordedAnnotator(DEMO)
    if settings.llm.startswith("recorded:"):
        return RecordedAnnotator(Path(settings.llm.removeprefix("recorded:")).expanduser())
    from tokay.annotate.live import make_annotator

    return make_annotator(
        settings.llm,
        url=settings.llm_url,
        ledger_path=run / LEDGER,
        settings=settings,
        to_ask=to_ask,
    )


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


class _Distillation:
    """The stages in order. Each method is one: what it depends on, and the work."""

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
        self.store = run
        self.source = source
        self.annotator = annotator
        self.base_folder = base
        self.base_print = fingerprint(base)
        extra = (bool(settings.qrels), settings.refit, "initial" in settings.mine.retrievers)
        self.progress = _Numbered(progress, 11 + sum(extra))
        self.done: list[str] = []
        self.confirmed = False
        self.consented = False
        self.ask: Callable[[Plan], bool] = lambda plan: False
        self.shown: Plan  # set by ``show_plan``

    def dry_run(self) -> None:
        self.corpus()
        self.split()
        plan = self.plan()
        for line in [*plan.lines(), *plan.consent()]:
            self.progress.say(line)

    def run(self, confirm: Callable[[Plan], bool] | None) -> Distilled:
        for name, wanted in (("labels", self.settings.qrels), ("refit", self.settings.refit)):
            if not wanted:
                self.store.forget(name)  # of an earlier start that asked for it
        self.corpus()
        self.split()
        self.show_plan(confirm)
        self.generate()
        self.vectors()
        if "initial" in self.settings.mine.retrievers:
            self.initial()
        self.mine()
        self.judge()
        forget_models()  # an LLM of this process gives its memory to the training
        self.examples()
        refuse(self.store, {"the embedder": reads_of(self.training_rows())})
        self.train()
        self.evaluate()
        if self.settings.qrels:
            self.labels()
        if self.settings.refit:
            self.refit()
        self.general()
        self.model()
        self.progress.say(f"report: {write_report(self.store)}")
        model, leakage = model_folder(self.store), leakage_sentence(self.store)
        return Distilled(self.store.path, model, self.verdict(), leakage, tuple(self.done))

    def verdict(self) -> dict[str, Any]:
        """The verdict on held-out documents, and, as ``general``, what became of the base's general ability."""
        verdict: dict[str, Any] = self.store.read_json("evaluate", "verdict")
        general = self.store.read_json("general", "general")
        return verdict | {"general": general | {"sentence": "; ".join(said_of(general))}}

    # -- helpers --------------------------------------------------------------------------------------------------

    def stage(
        self,
        name: str,
        work: Callable[[StageOutput], None],
        *,
        settings: Mapping[str, Any],
        reads: Sequence[str],
        code: str = "",
    ) -> None:
        self.progress.number += 1
        result = self.store.stage(name, work, settings=settings, reads=reads, code=CODE[code or name])
        if result.fresh:
            self.done.append(name)
        self.progress.say(f"{name}: {'done' if result.fresh else 'unchanged'} ({result.seconds:.1f} s)")

    def passages(self) -> Iterator[Passage]:
        return self.store.table("corpus", "passages", Passage)

    def asked(self) -> Iterator[Query]:
        """Queries that candidates are mined and judged for: the LLM's, then those of the user's log."""
        return itertools.chain(*(self.store.table("generate", table, Query) for table in ("queries", "log")))

    def queries(self) -> Iterator[Query]:
        """Queries with their parts: the LLM's, and, once it is judged, what of the log some passage answers."""
        return iter(queries_of_run(self.store))

    def parts(self) -> dict[str, Part]:
        return parts_of_run(self.store)

    def base(self) -> Any:
        """The base with the run's format and, once it is chosen, the run's cut."""
        from tokay.models.torch_embedder import TorchEmbedder
        from tokay.vectors import with_cut

        embedder = TorchEmbedder.load(self.base_folder)
        if self.store.is_done("vectors"):
            with_cut(embedder, self.store.read_json("vectors", "cut")["cut"])
        return embedder

    # -- stages ---------------------------------------------------------------------------------------------------

    def corpus(self) -> None:
        settings = self.settings.corpus

        def work(out: StageOutput) -> None:
            write_corpus(
                self.source,
                settings,
                out,
                count_tokens=token_counter(self.base_folder),
                progress=self.progress,
            )

        splits = settings.chunk == "always" or (settings.chunk == "auto" and not self.source.keep_whole)
        tokenizer = self.base_print if splits else ""
        key = {
            **settings.model_dump(mode="json"),
            "source": self.source.fingerprint(),
            "tokenizer": tokenizer,
        }
        self.stage("corpus", work, settings=key, reads=())

    def split(self) -> None:
        settings = self.settings.split

        def work(out: StageOutput) -> None:
            self.progress.start("looking for documents that repeat others", None)
            units = units_of(self.passages())
            copies = copies_of(self.passages(), units, settings.near_duplicates)
            before = split_documents(self.passages(), settings)
            documents = split_documents(self.passages(), settings, copies)
            if copies:
                bundles = bundles_of(copies, units, settings.test_share * len(units))
                self.progress.say(
                    f"{len(copies):,} passages nearly repeat one of another document, in "
                    f"{len({copy.group for copy in copies}):,} groups; {sum(map(len, bundles)):,} documents are kept "
                    f"with those that they repeat, for which {sum(map(operator.ne, before, documents)):,} change sides"
                )
            out.write("documents", Document, documents)
            out.write("copies", Copy, copies)

        self.stage("split", work, settings=settings.model_dump(mode="json"), reads=("corpus",))

    def plan(self) -> Plan:
        documents = list(self.store.table("split", "documents", Document))
        sizes = {part: sum(d.passages for d in documents if d.part == part) for part in ("train", "dev", "test")}
        own = list(read_log(Path(self.settings.log))) if self.settings.log else []
        sections = any(" > " in d.document_id for d in documents)
        planned = self.planned(len(documents), sizes, by_section=sections, own=own)
        return dataclasses.replace(planned, guard=plan_of(self.settings.guard))

    def planned(self, documents: int, sizes: Mapping[str, int], *, by_section: bool, own: Sequence[Query]) -> Plan:
        sampled, spent = self.sampled(), spent_in(self.store.path / LEDGER)
        written = self.written_for(sampled)
        return Plan(
            documents=documents,
            passages=self.store.rows("corpus", "passages"),
            skipped=self.store.rows("corpus", "skipped"),
            held_out=sizes.get("test", 0),
            dev=sizes.get("dev", 0),
            left_out=sum(part == "out" for part in self.parts().values()),
            by_section=by_section,
            sampled=len(sampled),
            queries_per_passage=self.settings.generate.queries_per_passage,
            queries=len(own),
            test_queries=written["test"],
            seen_queries=round(written["train"] * seen_share(written["train"], self.settings.split)),
            candidates=self.settings.mine.candidates,
            llm=self.settings.llm,
            paid=self.annotator.paid,
            estimate=self.estimate(sampled, own),
            assumes=self.annotator.assumes,
            answered=sum(row.answers for row in spent),
            spent=sum(row.price or 0.0 for row in spent),
            budget=self.settings.budget,
            where=base_url(self.settings.llm_url),
        )

    def estimate(self, sampled: Sequence[str], own: Sequence[Query], *, judging: bool = True) -> Estimate:
        """What the LLM will be asked about these passages and queries, with tokens as the base counts them."""
        if not self.annotator.paid:
            return Estimate((), load_prices())
        pool = heapq.nsmallest(POOL, self.passages(), key=lambda p: _rank("pool", p.passage_id)) if judging else []
        requests = self.annotator.sample_requests(
            self.chosen(sampled),
            pool,
            per_passage=self.settings.generate.queries_per_passage,
            candidates=self.settings.mine.candidates,
            own=own,
        )
        return Estimate(
            count(requests, token_counter(self.base_folder)), self.prices(), concurrency=self.settings.calls.concurrency
        )

    def prices(self) -> PriceTable:
        """The table, of batches where they are asked for."""
        table = load_prices(self.settings.prices)
        return table.batched() if self.settings.batch else table

    def chosen(self, ids: Iterable[str]) -> Iterator[Passage]:
        """Passages by their ids, in the order of the corpus."""
        wanted = set(ids)
        return (p for p in self.passages() if p.passage_id in wanted)

    def show_plan(self, confirm: Callable[[Plan], bool] | None) -> None:
        """Say what will be done; the question is asked when, and only if, a stage is about to ask the LLM."""
        self.shown = self.plan()
        for line in self.shown.lines():
            self.progress.say(line)
        self.consented = False
        self.confirmed = not self.shown.paid
        self.ask = confirm or (lambda plan: False)

    def before_paying(self) -> None:
        """The first line of a stage that asks the LLM: says what that takes, once, and asks whether to go on."""
        if not self.consented:
            for line in self.shown.consent():
                self.progress.say(line)
        self.consented = True
        self.confirmed = self.confirmed or self.ask(self.shown)
        if not self.confirmed:
            raise TokayError("nothing was asked of the LLM: the plan was not confirmed (--yes confirms it)")

    def refine(self, sampled: Sequence[str]) -> None:
        """Write the queries of the first passages, correct the plan by what they took, ask again if it was far off.

        They are part of the run: afterwards the ledger answers for them. Judging cannot be tried yet, for want of
        candidates; its estimate is corrected by the same factors, since model and tokenizer are the same. Not with
        batches: it would take as long as all the rest.
        """
        trial = sampled[:TRIAL]
        if not self.shown.paid or self.settings.batch or len(trial) == len(sampled):
            return
        before = self.written()
        self.progress.start(f"writing queries for the first {TRIAL} passages", TRIAL)
        per_passage = self.settings.generate.queries_per_passage
        for _ in self.annotator.generate(self.chosen(trial), per_passage=per_passage, progress=self.progress):
            pass  # the ledger keeps them
        answers, prompt, completion, seconds = self.written() - before
        if answers < TRIAL / 2 or not prompt:
            return  # they were answered by an earlier start, or the server counts no tokens
        expected, asked = self.estimate(trial, (), judging=False), min(1.0, answers / TRIAL)
        now = self.shown.estimate.corrected(
            prompt=prompt / (expected.prompt_tokens * asked),
            answer=completion / (expected.answer_tokens * asked),
            seconds=seconds / answers,
            passages=TRIAL,
        )
        change, self.shown = self.shown.estimate.change(now), dataclasses.replace(self.shown, estimate=now)
        for line in now.lines():
            self.progress.say(line)
        if abs(change) > FAR_OFF and not self.ask(self.shown):
            raise TokayError(
                f"stopped after the first {TRIAL} passages: the estimate changed by {change:+.0%} and was not "
                f"confirmed (--yes confirms it); what was answered is kept"
            )

    def written(self) -> NDArray[np.float64]:
        """Answers, prompt and completion tokens, and seconds that writing queries has taken in this run."""
        rows = [row for row in spent_in(self.store.path / LEDGER) if row.stage == "generate"]
        figures = [(row.answers, row.prompt, row.completion, row.seconds) for row in rows]
        total: NDArray[np.float64] = np.sum([(0.0, 0.0, 0.0, 0.0), *figures], axis=0)
        return total

    def sampled(self) -> list[str]:
        """Ids of the passages that queries are written for: neither choice nor order depends on that of the corpus."""
        settings = self.settings.generate
        eligible, parts = self.annotator.seeds, self.parts()
        ids = (i for i, part in parts.items() if part != "out" and (eligible is None or i in eligible))
        return heapq.nsmallest(settings.passages, ids, key=lambda i: _rank(str(settings.seed), i))

    def written_for(self, sampled: Sequence[str]) -> dict[str, int]:
        """How many queries are to be written for passages of each part."""
        parts, each = self.parts(), self.settings.generate.queries_per_passage
        return {part: each * sum(parts[i] == part for i in sampled) for part in ("train", "dev", "test")}

    def generate(self) -> None:
        settings = self.settings.generate

        def work(out: StageOutput) -> None:
            self.before_paying()
            parts, sampled, failures = self.parts(), self.sampled(), list[Failure]()
            self.refine(sampled)
            absent = sorted((self.annotator.seeds or set()) - set(parts))
            failures += [Failure("generate", i, "recorded, but not a passage of this corpus", "") for i in absent]
            share = seen_share(self.written_for(sampled)["train"], self.settings.split)
            self.progress.start("writing queries", len(sampled))

            def part_of(query: Query) -> Part:
                part = parts[query.seed_id]
                return "seen" if part == "train" and is_seen(query.query_id, share, self.settings.split) else part

            def queries() -> Iterator[Query]:
                for item in self.annotator.generate(
                    self.chosen(sampled), per_passage=settings.queries_per_passage, progress=self.progress
                ):
                    if isinstance(item, Failure):
                        failures.append(item)
                    else:
                        yield dataclasses.replace(item, part=part_of(item))

            written = out.write("queries", Query, queries())
            out.write("failures", Failure, failures)
            asked = out.write("log", Query, read_log(Path(self.settings.log)) if self.settings.log else ())
            if not written + asked:
                reason = failures[0].reason if failures else "no passage of this corpus was recorded"
                raise TokayError(
                    f"{self.settings.llm} wrote no usable query for {len(sampled)} passages; first reason: {reason}"
                )

        key = {
            **settings.model_dump(mode="json"),
            "annotator": self.annotator.version("generate"),
            "seen_share": self.settings.split.seen_share,
            "log": fingerprint(Path(self.settings.log)) if self.settings.log else "",
        }
        self.stage("generate", work, settings=key, reads=("corpus", "split"))

    def vectors(self) -> None:
        wanted = self.settings.train.max_tokens

        def work(out: StageOutput) -> None:
            from tokay.models.torch_embedder import TorchEmbedder
            from tokay.vectors import CUTS, choose_cut, encode_corpus, try_cuts, with_cut

            base = TorchEmbedder.load(self.base_folder)
            asked = [q for q in self.queries() if q.part in ("train", "dev") and q.seed_id]
            quality = try_cuts(base, self.passages(), asked, cuts=(wanted,) if wanted else CUTS, progress=self.progress)
            cut = choose_cut(quality)
            with_cut(base, cut)
            tried = {str(c): v for c, v in quality.items() if not math.isnan(v)}
            out.write_json("cut", {"base": self.settings.base, "cut": cut, "ndcg@10": tried})
            count = self.store.rows("corpus", "passages")
            self.progress.start(f"base: passages at {cut} tokens", count)
            encode_corpus(base, self.passages(), count, out.path / "base.npy", self.progress)

        key = {"cut": wanted, "name": self.settings.base, "base": self.base_print}
        self.stage("vectors", work, settings=key, reads=("corpus", "generate"))

    def initial(self) -> None:
        """Gecko's footnote 1: an embedder trained on (query, seed) with in-batch negatives only, to mine with."""
        settings = self.settings.train

        def work(out: StageOutput) -> None:
            from tokay.models.torch_embedder import TorchEmbedder

            rows = make_examples(self.queries(), (), (), self.parts(), ExampleSettings())
            self.train_on([row for row in rows if row.part == "train"], out, name="initial")
            self.encode_tuned(TorchEmbedder.load(out.path / "model"), out)

        key = {**settings.model_dump(mode="json"), "base": self.base_print, "mixture": self.mixture_print}
        self.stage("initial", work, settings=key, reads=("corpus", "split", "generate", "vectors"), code="train")

    def mine(self) -> None:
        settings = self.settings.mine
        with_initial = "initial" in settings.retrievers

        def work(out: StageOutput) -> None:
            queries = [q for q in self.asked() if q.judged]
            texts = [q.text for q in queries]
            ids = [p.passage_id for p in self.passages()]
            self.progress.start("mining candidates", None)
            proposed = {q.query_id: own for q in queries if (own := self.annotator.candidates(q)) is not None}
            words = self.bm25(self.settings.hybrid.k1[0], self.settings.hybrid.b[0])
            rankings = {
                "base": self.nearest(self.base(), texts, "vectors/base.npy"),
                "bm25": words.search(texts, DEPTH),
            }
            if with_initial:
                from tokay.models.torch_embedder import TorchEmbedder

                initial = TorchEmbedder.load(self.store.path / "initial" / "model")
                rankings["initial"] = self.nearest(initial, texts, "initial/tuned.npy")
            found = mine(queries, ids, rankings, settings, proposed=proposed, known=self.known())
            out.write("candidates", Candidate, found)

        key = {
            **settings.model_dump(mode="json"),
            "annotator": self.annotator.version("mine"),
            "base": self.base_print,
            "words": [self.settings.hybrid.language, self.settings.hybrid.k1[0], self.settings.hybrid.b[0]],
        }
        reads = ("corpus", "generate", "vectors", *(["initial"] if with_initial else []))
        self.stage("mine", work, settings=key, reads=reads)

    def nearest(self, model: Any, texts: Sequence[str], vectors: str) -> Ranking:
        passages = np.load(self.store.path / vectors, mmap_mode="r")
        return top_k(unit(model.encode(texts, kind="query")), passages, DEPTH)

    def known(self) -> Mapping[str, Sequence[str]]:
        """Query id -> passages that somebody says answer it, beside the seed."""
        return {}

    @functools.cached_property
    def language(self) -> str:
        """Whose stems BM25 takes."""
        said = self.settings.hybrid.language
        if said != AUTO:
            return said
        count = self.store.rows("corpus", "passages")
        return stems_for(p.text for p in itertools.islice(self.passages(), 0, None, max(1, count // LANGUAGE_SAMPLE)))

    def bm25(self, k1: float, b: float) -> BM25:
        texts = (f"{p.title} {p.text}" for p in self.passages())
        return BM25(texts, k1=k1, b=b, language=self.language)

    def judge(self) -> None:
        def work(out: StageOutput) -> None:
            self.before_paying()
            listed: dict[str, list[str]] = {}
            for candidate in self.store.table("mine", "candidates", Candidate):
                listed.setdefault(candidate.query_id, []).append(candidate.passage_id)
            needed = {p for ids in listed.values() for p in ids}
            texts = {p.passage_id: p for p in self.passages() if p.passage_id in needed}
            items = ((q, [texts[p] for p in listed[q.query_id]]) for q in self.asked() if q.query_id in listed)
            self.progress.start("judging candidates", len(listed))
            found: dict[type, list[Any]] = {Judgment: [], Failure: []}

            def ratings() -> Iterator[Rating]:
                for item in self.annotator.judge(items, progress=self.progress):
                    if isinstance(item, Rating):
                        yield item
                    else:
                        found[type(item)].append(item)

            out.write("ratings", Rating, ratings())
            out.write("judgments", Judgment, found[Judgment])
            out.write("failures", Failure, found[Failure])
            answered = answered_by(self.store.table("generate", "log", Query), found[Judgment], self.parts())
            out.write("answered", Query, (q for q, part in answered if part))
            out.write("gaps", Query, (q for q, part in answered if not part))

        key = {**self.settings.judge.model_dump(mode="json"), "annotator": self.annotator.version("judge")}
        reads = [stage for stage in ("corpus", "split", "generate", "mine") if self.store.is_done(stage)]
        self.stage("judge", work, settings=key, reads=reads)

    def examples(self) -> None:
        def work(out: StageOutput) -> None:
            out.write("examples", Example, self.rows_of(self.parts()))
            if self.decided.key or self.decided.stale:
                counts = self.decided.counts({q.query_id: q.part for q in self.queries()})
                out.write_json("decisions", {**self.decided.key, "counts": counts})

        key = {**self.settings.examples.model_dump(mode="json"), **self.decided.key}
        self.stage("examples", work, settings=key, reads=("corpus", "split", "generate", "mine", "judge"))

    def rows_of(self, parts: Mapping[str, Part] | None) -> Iterator[Example]:
        return rows_of(self.store, self.queries(), parts, self.settings.examples, self.decided)

    @functools.cached_property
    def decided(self) -> Decided:
        """What people decided, as it stands when the judgments are there; a later decision waits for the next start."""
        return decided_in(self.store)

    def train(self) -> None:
        settings = self.settings.train

        def work(out: StageOutput) -> None:
            self.train_on(self.training_rows(), out, name="train")

        key = {**settings.model_dump(mode="json"), "base": self.base_print, "mixture": self.mixture_print}
        self.stage("train", work, settings=key, reads=("corpus", "vectors", "examples"))

    def training_rows(self) -> list[Example]:
        return [e for e in self.store.table("examples", "examples", Example) if e.part == "train"]

    def train_on(self, rows: Sequence[Example], out: StageOutput, *, name: str) -> None:
        from tokay.train.embedder import draw_of
        from tokay.train.tune import tune

        settings = self.settings.train
        if len(rows) < 2:
            raise TokayError(f"{len(rows)} training rows; expected at least 2: write more queries (generate.passages)")
        own = run_source(rows, self.passages(), settings)
        if settings.distil_teacher:
            own = taught_source(self.store, own, settings, self.progress)
        out.write("read", Read, reads_of(own.rows, own.texts))
        others = self.mixture if name == "refit" else sources_apart(self.store, self.mixture, self.progress.say)
        sources = [own, *others]
        steps = draw_of(sources, settings).steps()
        if steps < FEW_STEPS:
            self.progress.say(
                f"only {steps} steps of training ({len(rows)} rows in batches of {settings.batch_size}): expect "
                f"little; write more queries, or try --set train.batch_size=16"
            )
        tune(
            self.base(),
            sources,
            settings,
            model=out.path / "model",
            logs=out.path,
            checkpoints=self.store.path / "checkpoints" / name,
            progress=self.progress,
            dev=self.dev_set() if settings.soup == "auto" or settings.patience else None,
            base_name=self.settings.base,
            base_print=self.base_print,
            drop_others=True,
        )

    @functools.cached_property
    def mixture(self) -> Sequence[Any]:
        """Sources beside the run's own rows."""
        from tokay.train.mixture import read_mixture

        path = self.settings.train.mixture
        return read_mixture(Path(path), seed=self.settings.train.seed) if path else ()

    @property
    def mixture_print(self) -> str:
        from tokay.train.tune import identity_of

        return identity_of("", self.mixture, self.settings.train) if self.mixture else ""

    def dev_set(self) -> Any:
        """The dev queries that somebody judged, over the passages that matter to them and some that do not."""
        return dev_set_of(self.store, self.queries(), relevant_grade=self.settings.evaluate.relevant_grade)

    def refit(self) -> None:
        """The same recipe on the queries of all documents; the verdict stays that of the model before."""

        def work(out: StageOutput) -> None:
            from tokay.models.torch_embedder import TorchEmbedder

            rows = self.rows_of(None)
            self.train_on(list(rows), out, name="refit")
            self.encode_tuned(TorchEmbedder.load(out.path / "model"), out)

        key = {
            **self.settings.train.model_dump(mode="json"),
            **self.settings.examples.model_dump(mode="json"),
            **self.decided.key,
            "base": self.base_print,
            "mixture": self.mixture_print,
        }
        self.stage(
            "refit",
            work,
            settings=key,
            reads=("corpus", "generate", "mine", "judge", "vectors", "train"),
            code="train",
        )

    def encode_tuned(self, tuned: Any, out: StageOutput) -> None:
        from tokay.vectors import encode_corpus

        count = self.store.rows("corpus", "passages")
        self.progress.start("tuned: passages", count)
        encode_corpus(tuned, self.passages(), count, out.path / "tuned.npy", self.progress)

    def evaluate(self) -> None:
        settings = self.settings.evaluate

        def work(out: StageOutput) -> None:
            from tokay.models.torch_embedder import TorchEmbedder

            base, tuned = self.base(), TorchEmbedder.load(self.store.path / "train" / "model")
            ids = [p.passage_id for p in self.passages()]
            self.encode_tuned(tuned, out)
            vectors = {
                "base": np.load(self.store.path / "vectors" / "base.npy", mmap_mode="r"),
                "tuned": np.load(out.path / "tuned.npy", mmap_mode="r"),
            }
            self.progress.start("comparing", None)
            queries = [q for q in self.queries() if q.query_id not in self.decided.rejected]
            qrels, judged = qrels_of(
                queries,
                judgments_of(self.store, self.decided),
                relevant_grade=settings.relevant_grade,
            )

            models = {"base": base, "tuned": tuned}

            def side(name: str, texts: Sequence[str]) -> Side:
                return Side(models[name].encode(texts, kind="query"), vectors[name])

            place = {passage_id: i for i, passage_id in enumerate(ids)}
            log = [q.text for q in self.store.table("generate", "log", Query)]

            def material(name: str, unseen: Sequence[Part]) -> Material:
                chosen = [q for q in queries if q.part in unseen and q.query_id in qrels]
                chosen = some_of(chosen, self.settings.hybrid)
                asked = side(name, [q.text for q in chosen])
                return Material(asked, chosen, qrels, place, settings.depth, log, side(name, log) if log else None)

            of = {"base": material("base", ("train", "dev")), "tuned": material("tuned", ("dev",))}  # unseen by each
            bm25 = choose_bm25(self.bm25, of["base"], self.settings.hybrid)
            learned = {n: learn_hybrid(bm25, one, self.settings.hybrid) for n, one in of.items()}
            hybrids = {name: hybrid for name, (hybrid, _) in learned.items()}
            bm25.save(out.path / "bm25")
            out.write_json("hybrid", {name: dataclasses.asdict(hybrid) for name, hybrid in hybrids.items()})
            out.write_json("learned", {name: seen for name, (_, seen) in learned.items()})

            test = [q for q in queries if q.part == "test" and q.query_id in qrels]
            if len(test) < 2:
                raise TokayError(
                    f"{len(test)} held-out queries; expected at least 2: raise generate.passages or split.test_share"
                )
            texts = [q.text for q in test]
            systems = systems_of(
                side("base", texts),
                side("tuned", texts),
                bm25,
                texts,
                dims=tuned.config.dims,
                hybrids=hybrids,
                depth=settings.depth,
            )
            test_qrels = {q.query_id: qrels[q.query_id] for q in test}
            scores, verdict = judge_systems(
                systems, test_qrels, judged, ids, {q.query_id: q.seed_id or q.query_id for q in test}, settings
            )
            verdict |= {"weights": weights_of(hybrids), "use": "tuned" if verdict["better"] else "base"}
            verdict |= by_hand(self.decided, {q.query_id: q.part for q in self.queries()})
            verdict["overlap"] = learned["base"][1].get("overlap", {})
            of_base = next(one.ranking for one in systems if (one.name, one.dim) == ("base", max(tuned.config.dims)))
            verdict["people"] = for_people(
                scores,
                {q.query_id: q.seed_id or q.query_id for q in test},
                settings,
                margins=dict(zip(test_qrels, map(margin_of, of_base[1]), strict=True)),
                log=[margin_of(row) for row in side("base", log).rank(settings.depth)[1]] if log else (),
            )
            sliced: dict[str, Part] = {SEEN: "seen", UNSEEN: "test"}
            verdict["slices"] = {name: self.slice(part, queries, qrels, side, ids) for name, part in sliced.items()}
            out.write("scores", Score, scores)
            out.write("hits", Hit, hits_of(systems, list(test_qrels), ids, depth=10))
            out.write_json("verdict", verdict)
            write_beir(
                out.path / "beir",
                self.passages(),
                {q.query_id: q.text for q in test},
                test_qrels,
                split="test",
            )

        key = {
            **settings.model_dump(mode="json"),
            "hybrid": self.settings.hybrid.model_dump(mode="json"),
            "base": self.base_print,
            **self.decided.key,
        }
        self.stage("evaluate", work, settings=key, reads=("corpus", "generate", "vectors", "judge", "train"))

    def general(self) -> None:
        """Base, tuned and refitted on texts of other kinds; where no set is at hand that is said, without a wait."""
        settings = self.settings.guard
        before = self.store.read_json("general", "general") if self.store.is_done("general") else {}
        away = [spec for spec in settings.sets if not is_local(spec)]
        missing = unreachable() if away and not before.get("checked") else ""
        made_by = {"train": "tuned", **({"refit": "refitted"} if self.store.is_done("refit") else {})}

        def work(out: StageOutput) -> None:
            from tokay.models.torch_embedder import TorchEmbedder

            self.progress.start("general ability", None)
            trained = {name: TorchEmbedder.load(self.store.path / made / "model") for made, name in made_by.items()}
            out.write_json("general", check_general(self.base(), trained, settings, missing=missing))

        key = {
            **settings.model_dump(mode="json"),
            "files": [fingerprint(local_path(spec)) for spec in settings.sets if is_local(spec)],
            "missing": bool(missing),
            "base": self.base_print,
        }
        self.stage("general", work, settings=key, reads=("vectors", *made_by))

    def slice(
        self,
        part: Part,
        queries: Sequence[Query],
        qrels: Mapping[str, Mapping[str, int]],
        side: Callable[[str, Sequence[str]], Side],
        ids: Sequence[str],
    ) -> dict[str, Any]:
        """Base and tuned on the queries of one part."""
        asked = [q for q in queries if q.part == part and q.query_id in qrels]
        if not asked:
            return {"queries": 0}
        base, tuned = (
            side(name, [q.text for q in asked]).rank(self.settings.evaluate.depth) for name in ("base", "tuned")
        )
        groups = {q.query_id: q.seed_id or q.query_id for q in asked}
        return slice_of(base, tuned, {q: qrels[q] for q in groups}, ids, groups, self.settings.evaluate)

    def labels(self) -> None:
        """The same systems on queries and labels that the user brought."""
        settings = self.settings.evaluate

        def work(out: StageOutput) -> None:
            from tokay.models.torch_embedder import TorchEmbedder

            ids = [p.passage_id for p in self.passages()]
            labels = read_labels(self.settings.queries, self.settings.qrels, known_ids=set(ids))
            texts = list(labels.queries.values())
            base, tuned = self.base(), TorchEmbedder.load(self.store.path / "train" / "model")
            self.progress.start("your own queries", None)
            base_side = Side(
                base.encode(texts, kind="query"),
                np.load(self.store.path / "vectors" / "base.npy", mmap_mode="r"),
            )
            tuned_side = Side(
                tuned.encode(texts, kind="query"),
                np.load(self.store.path / "evaluate" / "tuned.npy", mmap_mode="r"),
            )
            hybrids = {n: Hybrid.from_json(one) for n, one in self.store.read_json("evaluate", "hybrid").items()}
            systems = systems_of(
                base_side,
                tuned_side,
                BM25.load(self.store.path / "evaluate" / "bm25"),
                texts,
                dims=tuned.config.dims,
                hybrids=hybrids,
                depth=settings.depth,
            )
            judged = {query_id: set(gains) for query_id, gains in labels.qrels.items()}
            scores, verdict = judge_systems(systems, labels.qrels, judged, ids, {}, settings)
            out.write("scores", Score, scores)
            out.write("hits", Hit, hits_of(systems, list(labels.qrels), ids, depth=10))
            given = [r.text for r in self.store.table("train", "read", Read) if r.role == "query"]
            verdict["in_training"] = overlap_of(texts, given).to_json()
            out.write_json("verdict", verdict | {"weights": weights_of(hybrids), "dropped": labels.dropped})

        key = {
            **settings.model_dump(mode="json"),
            "labels": [fingerprint(Path(p)) for p in (self.settings.queries, self.settings.qrels) if p],
        }
        self.stage("labels", work, settings=key, reads=("corpus", "vectors", "train", "evaluate"), code="evaluate")

    def model(self) -> None:
        """The model that the verdict recommends, under one name, with its card."""

        def work(out: StageOutput) -> None:
            from tokay.models.torch_embedder import TorchEmbedder
            from tokay.train.card import card

            verdict = self.verdict()
            if verdict["use"] == "base":
                self.base().save(out.path)
                return
            made = self.store.path / ("refit" if self.store.is_done("refit") else "train")
            shutil.copytree(made / "model", out.path, copy_function=_link, dirs_exist_ok=True)
            data = (
                f"queries that {self.settings.llm} wrote for passages of {self.settings.documents}, and its judgments"
            )
            text = card(
                json.loads((made / "tuned.json").read_text(encoding="utf-8")),
                self.settings.train,
                data=data,
                dims=TorchEmbedder.load(out.path).config.dims,
                verdict=verdict,
            )
            (out.path / "README.md").write_text(text, encoding="utf-8")

        reads = ["train", "evaluate", "general", *(["refit"] if self.store.is_done("refit") else [])]
        key = {**self.settings.train.model_dump(mode="json"), "llm": self.settings.llm, "base": self.base_print}
        self.stage("model", work, settings=key, reads=reads)


class _Relabelling(_Distillation):
    """Corpus, the user's labels in place of written queries, then mining and judging as ever, and what came of it."""

    def run_relabelling(self, confirm: Callable[[Plan], bool] | None) -> dict[str, int]:
        self.corpus()
        self.labelled()
        self.show_plan(confirm)
        self.vectors()
        self.mine()
        self.judge()
        self.changes()
        summary: dict[str, int] = self.store.read_json("relabel", "summary")
        self.progress.say(f"report: {write_relabel_report(self.store)}")
        return summary

    def labelled(self) -> None:
        """The user's queries, in the place of those that an LLM writes; a query's first answer is its seed."""

        def work(out: StageOutput) -> None:
            labels = self.read()
            answers = {q: [p for p, grade in grades.items() if grade > 0] for q, grades in labels.qrels.items()}
            rows = (
                Query(query_id, answers[query_id][0], TASK, text, "train", True, "labels", self.settings.queries)
                for query_id, text in labels.queries.items()
            )
            out.write("queries", Query, rows)
            out.write("log", Query, ())
            out.write("failures", Failure, ())
            out.write_json("labels", {"qrels": labels.qrels, "dropped": labels.dropped})

        paths = (self.settings.queries, self.settings.qrels)
        key = {"split": self.settings.relabel.split, "labels": [fingerprint(Path(p)) for p in paths]}
        self.stage("generate", work, settings=key, reads=("corpus",))

    def plan(self) -> Plan:
        documents = len({p.document_id for p in self.passages()})
        own = list(self.store.table("generate", "queries", Query))
        return self.planned(documents, {}, by_section=False, own=own)

    def sampled(self) -> list[str]:
        """No query is written."""
        return []

    def read(self) -> Labels:
        ids = {p.passage_id for p in self.passages()}
        split = self.settings.relabel.split
        return read_labels(self.settings.queries, self.settings.qrels, known_ids=ids, split=split)

    def labels_read(self) -> dict[str, dict[str, int]]:
        labels: dict[str, dict[str, int]] = self.store.read_json("generate", "labels")["qrels"]
        return labels

    def parts(self) -> dict[str, Part]:
        """Nothing is held out."""
        return {p.passage_id: "train" for p in self.passages()}

    def known(self) -> Mapping[str, Sequence[str]]:
        return {query_id: list(grades) for query_id, grades in self.labels_read().items()}

    def changes(self) -> None:
        settings = self.settings.relabel

        def work(out: StageOutput) -> None:
            found = list(changes_of(self.labels_read(), judgments_of(self.store, self.decided)))
            out.write("changes", Change, found)
            out.write_json("summary", summary_of(found))
            kept = relabelled(found, settings)
            texts = {q.query_id: q.text for q in self.queries() if q.query_id in kept}
            write_beir(out.path / "beir", self.passages(), texts, kept, split=settings.split)

        reads = ("corpus", "generate", "judge")
        key = {**settings.model_dump(mode="json"), **self.decided.key}
        self.stage("relabel", work, settings=key, reads=reads)


def model_folder(run: Run) -> Path:
    """The model that the verdict recommends: the refitted or the tuned one, or the base when tuning did not help."""
    return run.path / "model"


def rows_of(
    run: Run, queries: Iterable[Query], parts: Mapping[str, Part] | None, settings: ExampleSettings, decided: Decided
) -> Iterator[Example]:
    """A run's training rows, with what people decided; ``parts`` as of ``make_examples``."""
    return make_examples(
        queries,
        run.table("mine", "candidates", Candidate),
        judgments_of(run, decided),
        parts,
        settings,
        chosen=decided.chosen,
        rejected=decided.rejected,
    )


def rows_now(run: Run, settings: ExampleSettings) -> Iterator[Example]:
    """The rows of the examples table; where people decided otherwise since, those that come of it."""
    table, decided = run.table("examples", "examples", Example), decided_in(run)
    if decided.key == decisions_read(run):
        return table
    queries, parts = queries_of_run(run), parts_of_run(run)
    return rows_of(run, queries, parts, settings, decided)


def decisions_read(run: Run) -> dict[str, str]:
    """The key of the decisions that the examples table was made with; none: an empty one."""
    if "decisions.json" not in run.manifest()["examples"]["outputs"]:
        return {}
    return {name: value for name, value in run.read_json("examples", "decisions").items() if name == "decisions"}


def run_source(rows: Sequence[Example], passages: Iterable[Passage], settings: TrainSettings) -> Any:
    """A run's training rows as a source, with the texts that the settings make them need."""
    from tokay.train.mixture import Source

    needed = {p for e in rows for p in (e.positive_id, *e.negative_ids)}
    if settings.distil != "none" and not settings.distil_teacher:
        needed |= {p for e in rows for p in e.candidate_ids}
    texts = {p.passage_id: (p.title, p.text) for p in passages if p.passage_id in needed}
    return Source("the run's queries (FRet rows)", rows, texts)


def taught_source(run: Run, source: Any, settings: TrainSettings, progress: Progress) -> Any:
    """A run's rows with a teacher's scores; no passage of a held-out document is a candidate."""
    from tokay.models.cross_encoder import CrossEncoder
    from tokay.models.torch_embedder import TorchEmbedder
    from tokay.train.teacher import taught

    parts = parts_of_run(run)
    passages = list(run.table("corpus", "passages", Passage))
    seen = [i for i, p in enumerate(passages) if parts[p.passage_id] == "train"]
    return taught(
        source,
        CrossEncoder.load(settings.distil_teacher),
        TorchEmbedder.load(find_model(run.read_json("vectors", "cut")["base"])),
        np.load(run.path / "vectors" / "base.npy")[seen],
        {passages[i].passage_id: (passages[i].title, passages[i].text) for i in seen},
        settings.distil_depth,
        progress,
    )


def check_teacher(settings: TrainSettings, *, of_run: bool = True) -> None:
    """Refuse a teacher that nothing would be learned from, before anything is paid or read.

    Raises:
        TokayError: with the setting that is missing; or there is no such model.
    """
    if not settings.distil_teacher:
        return
    if settings.distil != "kl":
        raise TokayError(
            f"train.distil_teacher needs train.distil = 'kl', and it is {settings.distil!r}: a teacher's scores have a "
            "scale of their own, which only the softmax of KL does not mind"
        )
    if not of_run:
        raise TokayError("train.distil_teacher scores what a run's base finds, and a mixture has no run; leave it out")
    find_model(settings.distil_teacher)


def dev_set_of(run: Run, queries: Iterable[Query], *, relevant_grade: int) -> Any:
    """The dev queries that somebody judged, over their candidates, their answers, and ``DEV_PASSAGES`` others.

    None where there are fewer than two.
    """
    from tokay.train.dev import DevSet

    decided = decided_in(run)
    asked = [q for q in queries if q.part == "dev" and q.query_id not in decided.rejected]
    qrels, _ = qrels_of(asked, judgments_of(run, decided), relevant_grade=relevant_grade)
    texts = {q.query_id: q.text for q in asked if q.query_id in qrels}
    if len(texts) < 2:
        return None
    needed = {c.passage_id for c in run.table("mine", "candidates", Candidate) if c.query_id in texts}
    needed |= {p for q in texts for p in qrels[q]}
    rest = (p.passage_id for p in run.table("corpus", "passages", Passage) if p.passage_id not in needed)
    needed |= {*heapq.nsmallest(DEV_PASSAGES, rest, key=lambda i: _rank("dev", i))}
    passages = {
        p.passage_id: (p.title, p.text) for p in run.table("corpus", "passages", Passage) if p.passage_id in needed
    }
    return DevSet(texts, passages, {q: qrels[q] for q in texts})


def weights_of(hybrids: Mapping[str, Hybrid]) -> dict[str, float]:
    """What the report calls the weights of BM25."""
    return {name: round(hybrid.weight, 4) for name, hybrid in hybrids.items()}


def _link(source: str, target: str) -> None:
    """A hard link where the disk has them: a stage's files are never changed in place."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def token_counter(folder: Path) -> Callable[[str], int]:
    """Counts the tokens of a text as the base would, special tokens left out."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return lambda text: len(tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])


def _rank(salt: str, passage_id: str) -> bytes:
    """Sorting by it is a shuffle that depends on nothing but salt and ids."""
    return hashlib.sha256(f"{salt}\0{passage_id}".encode("utf-8", "surrogatepass")).digest()


def _need_torch() -> None:
    import importlib.util

    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra("training", "train", package)
