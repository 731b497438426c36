"""``tokay evaluate``: any systems on any set, held against each other, and what came of it in a folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tokay import open_run
from tokay.contenders import Contenders
from tokay.encoders import VECTORS, Confirm
from tokay.errors import TokayError
from tokay.evaluate.many import EXAMPLES, Ranked, Results, hits_of_runs, judge_many
from tokay.evaluate.sets import EvaluationSet, beir_set, hub_set, own_set, written_set
from tokay.evaluate.systems import choose_reference, parse_all
from tokay.evaluate.trec import write_runs
from tokay.evaluate.unjudged import TOP, pool, tops_of
from tokay.leaking import queries_of_run, refuse
from tokay.llm.estimate import token_counter
from tokay.models.locate import find_model, is_run
from tokay.pooling import asking_of, judge_pool, pooled_of
from tokay.progress import Progress, Silent
from tokay.records import Hit, Judgment, Passage, Query, Score, Trait
from tokay.settings import EvaluateSettings, HybridSettings, resolve
from tokay.store import Run, StageOutput

RESULTS = "results"
"""Of an evaluation's folder: ``results.json``."""
CALIBRATION = "calibration"
"""Of a folder: ``calibration.json``, which ``tokay calibrate`` writes."""
RUNS = "runs"
"""Of an evaluation's folder: TREC run files, as deep as systems rank."""
_HALF = ".half"
COMPARED = "compared"
"""Of a run: where evaluations on it go that name no other folder."""


def mteb_set(name: str, split: str) -> EvaluationSet:
    """As of ``evaluate.mteb.retrieval_set``; mteb is loaded for it alone."""
    from tokay.evaluate.mteb import retrieval_set

    return retrieval_set(name, split=split)


PREFIXES: dict[str, Callable[[str, str], EvaluationSet]] = {
    "hf:": lambda name, split: hub_set(name, split=split),
    "mteb:": lambda name, split: mteb_set(name, split),
}
"""What ``--on`` may begin with: (the rest, split) -> the set."""


@dataclasses.dataclass(frozen=True)
class Opened:
    """A set, and the run that it is of; None: of none."""

    on: EvaluationSet
    run: Run | None


@dataclasses.dataclass(frozen=True)
class JudgeOptions:
    """A live judge of what nobody judged: ``name`` as ``pooling.asking_of`` has it; ``top`` of each ranking."""

    name: str
    url: str = ""
    budget: float | None = None
    prices: str | None = None
    top: int = TOP


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What ``evaluate`` gives: ``summary`` is ``results.json``; ``folder`` is None where nothing was kept."""

    summary: dict[str, Any]
    folder: Path | None


def open_set(on: str, *, queries: str = "", qrels: str = "", split: str = "test") -> Opened:
    """The set that ``--on`` names.

    Args:
        on: a run, a BEIR folder, ``hf:NAME``; or any corpus, with both of the following.
        queries: labelled queries in place of the set's own.
        qrels: their labels.
        split: of the labels, where there are several.

    Raises:
        TokayError: there is no such set, its queries, labels and passages do not fit together, or a run's split leaks.
    """
    if is_run(Path(on).expanduser()):
        run = open_run(Path(on).expanduser())
        check_finished(run)
        if queries or qrels:
            passages = list(run.table("corpus", "passages", Passage))
            return Opened(own_set(on, passages, queries=queries, qrels=qrels, split=split), run)
        if split != "test":
            raise TokayError(
                f"--split is {split!r}, and a run's queries are its held-out ones; leave it out, or name labels with "
                "--queries and --qrels"
            )
        refuse(run)
        return Opened(set_of_run(run), run)
    for prefix, opened in PREFIXES.items():
        if on.startswith(prefix) and not (queries or qrels):
            return Opened(opened(on.removeprefix(prefix), split), None)
    return Opened(beir_set(on, queries=queries, qrels=qrels, split=split), None)


def check_finished(run: Run) -> None:
    """Refuse a run that has not come to its verdict.

    Raises:
        TokayError: with what it has come to.
    """
    if not run.is_done("evaluate"):
        done = [stage for stage in run.manifest() if stage != "model"]
        raise TokayError(
            f"{run.path} has not come to its verdict (done: {', '.join(done) or 'nothing'}); finish it with "
            f"'tokay distill … --out {run.path}'"
        )


def set_of_run(run: Run) -> EvaluationSet:
    """A run's held-out queries with the grades of its judge, those of earlier evaluations among them."""
    return written_set(
        str(run.path),
        list(run.table("corpus", "passages", Passage)),
        queries_of_run(run),
        [*run.table("judge", "judgments", Judgment), *pooled_of(run)],
        relevant_grade=settings_of(run).relevant_grade,
    )


def settings_of(run: Run | None) -> EvaluateSettings:
    """Of a run, or the defaults."""
    return EvaluateSettings() if run is None else resolve({}, config=run.path / "run.toml").evaluate


def evaluate(
    systems: Sequence[str],
    on: str,
    *,
    queries: str = "",
    qrels: str = "",
    split: str = "test",
    run: str = "",
    against: str | None = None,
    out: Path | None = None,
    trec: Path | None = None,
    url: str = "",
    judge: JudgeOptions | None = None,
    examples: int = EXAMPLES,
    settings: EvaluateSettings | None = None,
    confirm: Confirm | None = None,
    progress: Progress | None = None,
) -> Evaluated:
    """Hold systems against each other on one set.

    Args:
        systems: as ``evaluate.systems`` names them; none: what a run has, where ``on`` is one.
        on: as of ``open_set``.
        queries: likewise.
        qrels: likewise.
        split: likewise.
        run: that ``base`` and ``tuned`` are of; empty: ``on``, where it is one.
        against: label of the reference; None: the first system.
        out: folder of the results; None: ``RUN/compared`` on a run, else none.
        trec: folder of TREC run files; None: ``OUT/runs``.
        url: of ``openai:`` systems.
        judge: has what nobody judged judged; None: it stays unjudged and is counted.
        examples: wins and losses that are kept with texts.
        settings: depth, resamples, seed; None: the run's, or the defaults.
        confirm: asked before text is sent anywhere; None: nothing is sent.
        progress: where to report.

    Raises:
        TokayError: anything that the caller can mend, in one sentence.
    """
    progress, confirm = progress or Silent(), confirm or (lambda lines: False)
    specs = parse_all(systems)
    progress.start("reading", None)
    opened = open_set(on, queries=queries, qrels=qrels, split=split)
    named = _run_named(run) if run else opened.run
    settings = settings or settings_of(opened.run)
    if not specs:
        specs = parse_all(_usual(opened.run))
    if judge is not None and (opened.run is None or queries):
        raise TokayError("--judge grades what systems find for a run's written queries; name a run with --on alone")
    folder = out or (opened.run.path / COMPARED if opened.run is not None else None)
    check_out(folder)
    hybrid = resolve({}, config=opened.run.path / "run.toml").hybrid if opened.run else HybridSettings()
    contenders = Contenders(
        opened.on,
        home=opened.run,
        run=named,
        folder=folder,
        url=url,
        settings=settings,
        hybrid=hybrid,
        confirm=confirm,
        progress=progress,
    )
    try:
        specs = contenders.check(specs)
        reference = choose_reference([spec.label for spec in specs], against)
        ranked = [contenders.rank(spec) for spec in specs]
    finally:
        contenders.close()
    current = opened.on
    if judge is not None and opened.run is not None:
        current = _judged(opened.run, current, ranked, judge, confirm, progress)
    progress.start("comparing", None)
    results = judge_many(ranked, current, reference=reference, settings=settings, examples=examples)
    if folder is not None:
        write_results(folder, results, ranked, current)
    if trec is not None or folder is not None:
        written = write_runs(trec or Path(str(folder)) / RUNS, ranked, depth=settings.depth)
        if trec is None:  # our own folder: systems of an earlier evaluation leave it with their scores
            for path in written[0].parent.glob("*.trec"):
                if path not in written:
                    path.unlink()
    return Evaluated(results.summary, folder)


def check_out(folder: Path | None) -> None:
    """Refuse a file, or a folder that holds something else than an evaluation; nothing is made yet.

    Raises:
        TokayError: with what is in the way.
    """
    if folder is None or not folder.exists():
        return
    if not folder.is_dir():
        raise TokayError(f"--out {folder} is a file; expected a folder to write the results into")
    found = sorted(path.name for path in folder.iterdir())
    ours = f"{RESULTS}.json" in found or {*found} <= {VECTORS, RUNS, _HALF, f"{CALIBRATION}.json"}
    if is_run(folder) or not ours:
        raise TokayError(f"--out {folder} holds other files, such as {found[0]}; name another folder")


def write_results(folder: Path, results: Results, ranked: Sequence[Ranked], on: EvaluationSet) -> None:
    """``results.json``, and as tables scores, hits, queries and traits; each file is replaced in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    half = folder / _HALF
    half.mkdir(exist_ok=True)
    out = StageOutput(half)
    out.write("scores", Score, results.scores)
    out.write("hits", Hit, hits_of_runs(ranked, depth=TOP))
    out.write("queries", Query, on.queries)
    out.write("traits", Trait, _traits(on))
    out.write_json(RESULTS, results.summary)
    for path in half.iterdir():
        path.replace(folder / path.name)
    half.rmdir()


def read_results(folder: Path) -> dict[str, Any]:
    """``results.json`` of an evaluation's folder.

    Raises:
        TokayError: there is none.
    """
    path = folder / f"{RESULTS}.json"
    if not path.is_file():
        raise TokayError(f"{folder} has no {RESULTS}.json; expected what 'tokay evaluate … --out' wrote")
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def _judged(
    run: Run,
    on: EvaluationSet,
    ranked: Sequence[Ranked],
    judge: JudgeOptions,
    confirm: Confirm,
    progress: Progress,
) -> EvaluationSet:
    """The set with grades of what any of the systems has in its top; seeds of queries that had no grade among them."""
    asking = asking_of(run, judge.name, url=judge.url, budget=judge.budget, prices=judge.prices)
    queries = {q.query_id: q for q in on.queries}
    wanted = pool_of_run(run, on, ranked, top=judge.top)
    counter = token_counter(find_model(resolve({}, config=run.path / "run.toml").base))
    passages = {p.passage_id: p for p in on.passages}
    judge_pool(run, wanted, queries, passages, asking, count_tokens=counter, confirm=confirm, progress=progress)
    return set_of_run(run)


def pool_of_run(run: Run, on: EvaluationSet, ranked: Iterable[Ranked], *, top: int = TOP) -> dict[str, list[str]]:
    """Query id -> passages that the judge has not seen: of every system's top, and the seed where nothing is graded.

    A query's seed stands for an answer as long as nothing is graded; once something is, it needs a grade of its own.
    """
    graded: dict[str, set[str]] = {}
    for j in [*run.table("judge", "judgments", Judgment), *pooled_of(run)]:
        graded.setdefault(j.query_id, set()).add(j.passage_id)
    seeds = {q.query_id: [q.seed_id] for q in on.queries if q.seed_id and q.query_id not in graded}
    asked = [q.query_id for q in on.queries]
    return pool([seeds, *(tops_of(one.orders, asked, k=top) for one in ranked)], graded, asked)


def _usual(run: Run | None) -> list[str]:
    if run is None:
        raise TokayError("there is no system; name some, such as: tokay evaluate bm25 minilm --on FOLDER")
    return ["base", "bm25", f"tuned={run.path}", "base+bm25", "tuned+bm25"]


def _run_named(name: str) -> Run:
    run = open_run(name)
    check_finished(run)
    return run


def _traits(on: EvaluationSet) -> Iterable[Trait]:
    return (Trait(q, trait, value) for trait, of in on.all_traits().items() for q, value in of.items())
