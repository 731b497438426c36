"""A user's own labels in the place of written queries, and what came of judging them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tokay.decisions import judgments_of
from tokay.evaluate.qrels import read_labels, write_beir
from tokay.pipeline import generate
from tokay.pipeline.context import Context
from tokay.pipeline.plan import Plan
from tokay.pipeline.planning import planned
from tokay.records import Change, Failure, Part, Query
from tokay.relabel import changes_of, relabelled, summary_of
from tokay.report import write_relabel_report
from tokay.searchlog import TASK
from tokay.store import StageOutput, fingerprint

CODE = ("tokay.relabel", "tokay.decisions", "tokay.records")


class Relabelling(Context):
    """Labels that are being judged: nothing is held out, and what they say is an answer is a candidate."""

    def parts(self) -> dict[str, Part]:
        """Nothing is held out."""
        return {p.passage_id: "train" for p in self.passages()}

    def known(self) -> Mapping[str, Sequence[str]]:
        """What the labels say, for or against."""
        return {query_id: list(grades) for query_id, grades in self.labels().items()}

    def labels(self) -> dict[str, dict[str, int]]:
        """Query id -> passage id -> grade, as they were read."""
        labels: dict[str, dict[str, int]] = self.run.read_json("generate", "labels")["qrels"]
        return labels


def labelled(ctx: Context) -> None:
    """The user's queries, in the place of those that an LLM writes; a query's first answer is its seed."""
    settings, split = ctx.settings, ctx.settings.relabel.split

    def work(out: StageOutput) -> None:
        ids = {p.passage_id for p in ctx.passages()}
        labels = read_labels(settings.queries, settings.qrels, known_ids=ids, split=split)
        answers = {q: [p for p, grade in grades.items() if grade > 0] for q, grades in labels.qrels.items()}
        rows = (
            Query(query_id, answers[query_id][0], TASK, text, "train", True, "labels", settings.queries)
            for query_id, text in labels.queries.items()
        )
        out.write("queries", Query, rows)
        out.write("log", Query, ())
        out.write("failures", Failure, ())
        out.write_json("labels", {"qrels": labels.qrels, "dropped": labels.dropped})

    key = {"split": split, "labels": [fingerprint(Path(p)) for p in (settings.queries, settings.qrels)]}
    ctx.stage("generate", work, settings=key, reads=("corpus",), code=generate.CODE)


def plan(ctx: Context) -> Plan:
    """No query is written; the labels' are judged."""
    documents = len({p.document_id for p in ctx.passages()})
    own = list(ctx.run.table("generate", "queries", Query))
    return planned(ctx, documents, (), sizes={}, by_section=False, own=own)


def changes(ctx: Relabelling) -> None:
    """Each label with its judgment, counts, and the labels as they should be."""
    settings = ctx.settings.relabel

    def work(out: StageOutput) -> None:
        found = list(changes_of(ctx.labels(), judgments_of(ctx.run, ctx.decided)))
        out.write("changes", Change, found)
        out.write_json("summary", summary_of(found))
        kept = relabelled(found, settings)
        texts = {q.query_id: q.text for q in ctx.queries() if q.query_id in kept}
        write_beir(out.path / "beir", ctx.passages(), texts, kept, split=settings.split)

    key = {**settings.model_dump(mode="json"), **ctx.decided.key}
    ctx.stage("relabel", work, settings=key, reads=("corpus", "generate", "judge"), code=CODE)


def report(ctx: Context) -> dict[str, int]:
    """The counts; writes ``report.html``."""
    summary: dict[str, int] = ctx.run.read_json("relabel", "summary")
    ctx.progress.say(f"report: {write_relabel_report(ctx.run)}")
    return summary
