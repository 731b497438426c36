"""``tokay calibrate``: a run's verdict held against queries and labels that people gave.

Written and people's queries are ranked together, as one set, so that no system is another one on the other half.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokay import open_run
from tokay.contenders import Contenders
from tokay.encoders import Confirm
from tokay.errors import TokayError
from tokay.evaluate.calibrate import (
    PEOPLE,
    WRITTEN,
    Calibration,
    Population,
    between_of,
    by_overlap,
    calibrate,
    check_sizes,
    unseen_coverage,
)
from tokay.evaluate.many import Ranked
from tokay.evaluate.metrics import evaluate_run
from tokay.evaluate.people import BETWEEN, BETWEEN_LIKE_THE_LOG, checked, effective, margins_of
from tokay.evaluate.sets import EvaluationSet, own_set
from tokay.evaluate.systems import BASE, parse_all
from tokay.evaluate.traits import overlap_of
from tokay.evaluate.verdict import PRIMARY
from tokay.evaluating import CALIBRATION, COMPARED, check_finished, check_out, set_of_run
from tokay.models.folder import read_config
from tokay.models.locate import is_run
from tokay.progress import Progress, Silent
from tokay.records import Passage
from tokay.search.bm25 import content_words
from tokay.search.learn import shares_like
from tokay.settings import resolve
from tokay.store import Run

ASKED_BY = "asked by"
"""The trait of a joined set's queries that says their kind."""
LIKE = "like people's"
"""Written queries, counted so that they are as hard for the base as people's."""
TIMES = (0.25, 0.5, 2.0, 4.0)
"""Weights of BM25 that are systems of their own, in learned ones."""
RESAMPLES = 2_000


@dataclasses.dataclass(frozen=True)
class Both:
    """Written and people's queries, ranked by every system.

    Attributes:
        on: of ``joined``.
        ranked: each system on all queries.
        margins: query id -> how far the base's best score is above its tenth.
        folder: of vectors and ``calibration.json``.
    """

    on: EvaluationSet
    ranked: Sequence[Ranked]
    margins: Mapping[str, float]
    folder: Path

    @property
    def labels(self) -> list[str]:
        """The systems' names."""
        return [one.label for one in self.ranked]


def calibrate_run(
    run: str,
    systems: Sequence[str] = (),
    *,
    queries: str,
    qrels: str,
    split: str = "test",
    out: Path | None = None,
    url: str = "",
    resamples: int = RESAMPLES,
    confirm: Confirm | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Hold a run's verdicts on its held-out written queries against people's queries.

    Args:
        run: a finished run's folder.
        systems: beside those that a run has (``systems_of_run``), as ``evaluate.systems`` names them.
        queries: people's queries.
        qrels: their labels.
        split: of the labels, where there are several.
        out: folder of vectors and ``calibration.json``; None: ``RUN/compared``.
        url: of ``openai:`` systems.
        resamples: of each comparison.
        confirm: asked before text is sent anywhere; None: nothing is sent.
        progress: where to report.

    Returns:
        ``calibration.json``: ``rows``, of the interval as it is and widened, without and with people's queries as a
        log; ``systems`` with their means; ``slices`` by lexical overlap; ``sentence``.

    Raises:
        TokayError: anything that the caller can mend, in one sentence.
    """
    progress = progress or Silent()
    both = rank_both(
        run,
        systems,
        queries=queries,
        qrels=qrels,
        split=split,
        out=out,
        url=url,
        confirm=confirm or (lambda lines: False),
        progress=progress,
    )
    progress.start("comparing", None)
    summary = summary_of(both, resamples=resamples)
    both.folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    (both.folder / f"{CALIBRATION}.json").write_text(text + "\n", encoding="utf-8")
    return summary


def rank_both(
    run: str,
    systems: Sequence[str],
    *,
    queries: str,
    qrels: str,
    split: str,
    out: Path | None,
    url: str = "",
    confirm: Confirm,
    progress: Progress,
) -> Both:
    """Rank all of it: the arguments are those of ``calibrate_run``."""
    if not is_run(Path(run).expanduser()):
        raise TokayError(f"{run} is no run folder; expected one that 'tokay distill … --out' made")
    if not queries or not qrels:
        raise TokayError(
            "--queries and --qrels are not both there; expected people's queries and their labels, since a verdict "
            "cannot be checked without"
        )
    opened = open_run(Path(run).expanduser())
    check_finished(opened)
    progress.start("reading", None)
    passages = list(opened.table("corpus", "passages", Passage))
    people = own_set(queries, passages, queries=queries, qrels=qrels, split=split)
    on = joined(set_of_run(opened), people)
    folder = out or opened.path / COMPARED
    check_out(folder)
    settings = resolve({}, config=opened.path / "run.toml")
    contenders = Contenders(
        on,
        home=opened,
        run=opened,
        folder=folder,
        url=url,
        settings=settings.evaluate,
        hybrid=settings.hybrid,
        confirm=confirm,
        progress=progress,
    )
    try:
        specs = contenders.check(parse_all([*systems_of_run(opened), *systems]))
        check_sizes(len(specs), *(len(ids_of(on, kind)) for kind in (WRITTEN, PEOPLE)))
        ranked = [contenders.rank(spec) for spec in specs]
    finally:
        contenders.close()
    base = next(one for one in ranked if one.label == BASE)
    return Both(on, ranked, margins_of(base.run), folder)


def systems_of_run(run: Run) -> list[str]:
    """BM25, base and tuned at each width, the tuned one's exports, and both with BM25 at several weights."""
    dims = sorted(read_config(run.path / "train" / "model")[0].dims, reverse=True)
    learned = {name: about["weight"] for name, about in run.read_json("evaluate", "hybrid").items()}
    fused = [
        f"{name}+bm25={times * learned[name]:.4g}"
        for name, some in ((BASE, TIMES), ("tuned", (0.5, 2.0)))
        for times in some
        if learned[name]
    ]
    return [
        "bm25",
        "base",
        *(f"base@{dim}" for dim in dims[1:]),
        f"tuned={run.path}",
        "base+bm25",
        "tuned+bm25",
        *fused,
    ]


def joined(written: EvaluationSet, people: EvaluationSet) -> EvaluationSet:
    """Both as one set over the same passages; a query's id begins with its kind, and its kind is a trait."""
    queries, qrels, judged, groups = [], {}, {}, {}
    kinds: dict[str, str] = {}
    for kind, one in ((WRITTEN, written), (PEOPLE, people)):
        primary = {*one.primary}
        for query in one.queries:
            if query.query_id in primary:
                name = f"{kind} {query.query_id}"
                queries.append(dataclasses.replace(query, query_id=name))
                qrels[name], judged[name] = one.qrels[query.query_id], one.judged.get(query.query_id, set())
                groups[name], kinds[name] = f"{kind} {one.group_of(query.query_id)}", kind
    return EvaluationSet(
        people.name, people.passages, queries, qrels, judged, groups, traits={ASKED_BY: kinds}, dropped=people.dropped
    )


def ids_of(on: EvaluationSet, kind: str) -> list[str]:
    """Ids of a joined set's queries of one kind."""
    return [query_id for query_id, own in on.traits[ASKED_BY].items() if own == kind]


def summary_of(both: Both, *, resamples: int, seed: int = 0) -> dict[str, Any]:
    """What ``calibrate_run`` gives.

    Args:
        both: of ``rank_both``.
        resamples: of each comparison.
        seed: of these.
    """
    written, people = (population_of(both, kind) for kind in (WRITTEN, PEOPLE))
    margin = {kind: np.array([both.margins[q] for q in ids_of(both.on, kind)]) for kind in (WRITTEN, PEOPLE)}
    shares = shares_like(margin[WRITTEN], margin[PEOPLE]).tolist()
    how: dict[str, Any] = {"resamples": resamples, "seed": seed}
    plain = calibrate(both.labels, written, people, **how)
    alike = calibrate(both.labels, dataclasses.replace(written, shares=shares), people, **how)
    means = zip(both.ranked, plain.written, alike.written, plain.people, strict=True)
    return {
        "labels": both.on.name,
        "dropped": dict(both.on.dropped),
        "rows": [
            _row("written queries", plain, 0.0),
            _row("… widened", plain, BETWEEN),
            _row("people's queries as a log", alike, 0.0),
            _row("… widened", alike, BETWEEN_LIKE_THE_LOG),
        ],
        "effective": effective(shares),
        "systems": [
            {"system": one.label, WRITTEN: w, LIKE: like, PEOPLE: p, "about": one.about} for one, w, like, p in means
        ],
        "slices": [
            {"from": low, "to": high, **(_row("", one, BETWEEN) if one else {})}
            for low, high, one in by_overlap(both.labels, written, people, **how)
        ],
        "sentence": checked(plain.widened(BETWEEN).figures(), both.on.name),
    }


def population_of(both: Both, kind: str) -> Population:
    """The systems on one kind of queries."""
    on, ids = both.on, ids_of(both.on, kind)
    asked = {q: on.qrels[q] for q in ids}
    answers = {q: [p for p, gain in gains.items() if gain > 0] for q, gains in asked.items()}
    needed = {p for relevant in answers.values() for p in relevant}
    words = {p.passage_id: {*content_words(f"{p.title} {p.text}")} for p in on.passages if p.passage_id in needed}
    texts = {q.query_id: q.text for q in on.queries}
    return Population(
        np.array([list(evaluate_run(asked, one.run)[PRIMARY].values()) for one in both.ranked]),
        groups=[on.group_of(q) for q in ids],
        overlap=[overlap_of(texts[q], [words[p] for p in answers[q]]) for q in ids],
    )


def _row(name: str, calibration: Calibration, between: float) -> dict[str, Any]:
    found = calibration.widened(between)
    return {
        "row": name,
        **found.figures(),
        "learned": between_of(calibration.pairs),
        "unseen systems": unseen_coverage(calibration),
    }
