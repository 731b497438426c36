"""A run's tables as a training takes them: rows, the texts that they name, a teacher's scores, dev queries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tokay.decisions import Decided, decided_in, judgments_of
from tokay.errors import TokayError
from tokay.evaluate.verdict import qrels_of
from tokay.examples import make_examples
from tokay.leaking import parts_of_run, queries_of_run
from tokay.models.locate import find_model
from tokay.progress import Progress
from tokay.records import Candidate, Example, Part, Passage, Query
from tokay.sampling import sample_ids
from tokay.settings import ExampleSettings, TrainSettings
from tokay.store import Run

if TYPE_CHECKING:
    from tokay.train.dev import DevSet
    from tokay.train.mixture import Source

DEV_PASSAGES = 1000
"""Passages among which dev queries search, beside those that are judged for one of them."""


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


def run_source(rows: Sequence[Example], passages: Iterable[Passage], settings: TrainSettings) -> Source:
    """A run's training rows as a source, with the texts that the settings make them need."""
    from tokay.train.mixture import Source

    needed = {p for e in rows for p in (e.positive_id, *e.negative_ids)}
    if settings.distil != "none" and not settings.distil_teacher:
        needed |= {p for e in rows for p in e.candidate_ids}
    texts = {p.passage_id: (p.title, p.text) for p in passages if p.passage_id in needed}
    return Source("the run's queries (FRet rows)", rows, texts)


def taught_source(run: Run, source: Source, settings: TrainSettings, progress: Progress) -> Source:
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


def dev_set_of(run: Run, queries: Iterable[Query], *, relevant_grade: int) -> DevSet | None:
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
    needed |= {*sample_ids(rest, DEV_PASSAGES, salt="dev")}
    passages = {
        p.passage_id: (p.title, p.text) for p in run.table("corpus", "passages", Passage) if p.passage_id in needed
    }
    return DevSet(texts, passages, {q: qrels[q] for q in texts})
