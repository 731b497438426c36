"""Base against tuned on queries of held-out documents: the run's verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokay.decisions import by_hand, judgments_of
from tokay.errors import TokayError
from tokay.evaluate.fusion import Material, choose_bm25, learn_hybrid, some_of
from tokay.evaluate.people import for_people
from tokay.evaluate.qrels import write_beir
from tokay.evaluate.slices import SEEN, UNSEEN, slice_of
from tokay.evaluate.verdict import Side, hits_of, judge_systems, qrels_of, systems_of
from tokay.models.embedder import Embedder
from tokay.pipeline.context import Context
from tokay.pipeline.vectors import encode_tuned
from tokay.records import Hit, Part, Query, Score
from tokay.search.bm25 import BM25
from tokay.search.hybrid import Hybrid, margin_of
from tokay.settings import EvaluateSettings
from tokay.store import StageOutput

CODE = (
    "tokay.evaluate",
    "tokay.decisions",
    "tokay.search",
    "tokay.models",
    "tokay.vectors",
    "tokay.copies",
    "tokay.records",
)

MODELS = ("base", "tuned")


@dataclasses.dataclass(frozen=True)
class Sides:
    """The models that are compared, each with its vectors of the corpus, by name."""

    models: Mapping[str, Embedder]
    vectors: Mapping[str, NDArray[np.floating]]

    def of(self, name: str, texts: Sequence[str]) -> Side:
        """A model on queries."""
        return Side(self.models[name].encode(texts, kind="query"), self.vectors[name])


@dataclasses.dataclass(frozen=True)
class _Asked:
    """The run's queries, their labels, the ids of all passages in their order, and the user's log."""

    queries: Sequence[Query]
    qrels: Mapping[str, Mapping[str, int]]
    ids: Sequence[str]
    log: Sequence[str]

    def of_parts(self, *parts: Part) -> list[Query]:
        """Those of some parts that somebody judged."""
        return [q for q in self.queries if q.part in parts and q.query_id in self.qrels]


def evaluate(ctx: Context) -> None:
    """Vectors, BM25 and its weights, scores, hits, the verdict, and the test queries as a BEIR folder."""
    settings = ctx.settings.evaluate

    def work(out: StageOutput) -> None:
        base, tuned = ctx.base(), ctx.tuned()
        ids = [p.passage_id for p in ctx.passages()]
        encode_tuned(ctx, tuned, out)
        sides = Sides(
            {"base": base, "tuned": tuned},
            {
                "base": np.load(ctx.run.path / "vectors" / "base.npy", mmap_mode="r"),
                "tuned": np.load(out.path / "tuned.npy", mmap_mode="r"),
            },
        )
        ctx.progress.start("comparing", None)
        queries = [q for q in ctx.queries() if q.query_id not in ctx.decided.rejected]
        qrels, judged = qrels_of(
            queries,
            judgments_of(ctx.run, ctx.decided),
            relevant_grade=settings.relevant_grade,
        )
        log = [q.text for q in ctx.run.table("generate", "log", Query)]
        asked = _Asked(queries, qrels, ids, log)
        bm25, hybrids, learned = _learn(ctx, sides, asked)
        bm25.save(out.path / "bm25")
        out.write_json("hybrid", {name: dataclasses.asdict(hybrid) for name, hybrid in hybrids.items()})
        out.write_json("learned", learned)

        test = asked.of_parts("test")
        if len(test) < 2:
            raise TokayError(
                f"{len(test)} held-out queries; expected at least 2: raise generate.passages or split.test_share"
            )
        texts, groups = [q.text for q in test], _groups(test)
        systems = systems_of(
            sides.of("base", texts),
            sides.of("tuned", texts),
            bm25,
            texts,
            dims=tuned.config.dims,
            hybrids=hybrids,
            depth=settings.depth,
        )
        test_qrels = {q.query_id: qrels[q.query_id] for q in test}
        scores, verdict = judge_systems(systems, test_qrels, judged, ids, groups, settings)
        verdict |= {"weights": weights_of(hybrids), "use": "tuned" if verdict["better"] else "base"}
        verdict |= by_hand(ctx.decided, {q.query_id: q.part for q in ctx.queries()})
        verdict["overlap"] = learned["base"].get("overlap", {})
        of_base = next(one.ranking for one in systems if (one.name, one.dim) == ("base", max(tuned.config.dims)))
        verdict["people"] = for_people(
            scores,
            groups,
            settings,
            margins=dict(zip(test_qrels, map(margin_of, of_base[1]), strict=True)),
            log=[margin_of(row) for row in sides.of("base", log).rank(settings.depth)[1]] if log else (),
        )
        sliced: dict[str, Part] = {SEEN: "seen", UNSEEN: "test"}
        verdict["slices"] = {name: _slice(sides, asked, part, settings) for name, part in sliced.items()}
        out.write("scores", Score, scores)
        out.write("hits", Hit, hits_of(systems, list(test_qrels), ids, depth=10))
        out.write_json("verdict", verdict)
        write_beir(
            out.path / "beir",
            ctx.passages(),
            {q.query_id: q.text for q in test},
            test_qrels,
            split="test",
        )

    key = {
        **settings.model_dump(mode="json"),
        "hybrid": ctx.settings.hybrid.model_dump(mode="json"),
        "base": ctx.base_print,
        **ctx.decided.key,
    }
    reads = ("corpus", "generate", "vectors", "judge", "train")
    ctx.stage("evaluate", work, settings=key, reads=reads, code=CODE)


def weights_of(hybrids: Mapping[str, Hybrid]) -> dict[str, float]:
    """What the report calls the weights of BM25."""
    return {name: round(hybrid.weight, 4) for name, hybrid in hybrids.items()}


def _learn(ctx: Context, sides: Sides, asked: _Asked) -> tuple[BM25, dict[str, Hybrid], dict[str, Any]]:
    """The run's BM25, its weight beside each model, and what was seen on the way; from queries that the model has not.

    The base was trained on none of them, the tuned model on those of the part train.
    """
    settings, depth = ctx.settings.hybrid, ctx.settings.evaluate.depth
    place = {passage_id: i for i, passage_id in enumerate(asked.ids)}

    def material(name: str, *unseen: Part) -> Material:
        chosen = some_of(asked.of_parts(*unseen), settings)
        side = sides.of(name, [q.text for q in chosen])
        log = sides.of(name, asked.log) if asked.log else None
        return Material(side, chosen, asked.qrels, place, depth, asked.log, log)

    of = {"base": material("base", "train", "dev"), "tuned": material("tuned", "dev")}
    bm25 = choose_bm25(ctx.bm25, of["base"], settings)
    learned = {name: learn_hybrid(bm25, one, settings) for name, one in of.items()}
    hybrids = {name: hybrid for name, (hybrid, _) in learned.items()}
    return bm25, hybrids, {name: seen for name, (_, seen) in learned.items()}


def _slice(sides: Sides, asked: _Asked, part: Part, settings: EvaluateSettings) -> dict[str, Any]:
    """Base and tuned on the queries of one part."""
    queries = asked.of_parts(part)
    if not queries:
        return {"queries": 0}
    base, tuned = (sides.of(name, [q.text for q in queries]).rank(settings.depth) for name in MODELS)
    groups = _groups(queries)
    return slice_of(base, tuned, {q: asked.qrels[q] for q in groups}, asked.ids, groups, settings)


def _groups(queries: Sequence[Query]) -> dict[str, str]:
    """Query id -> seed: queries of one seed are resampled together."""
    return {q.query_id: q.seed_id or q.query_id for q in queries}
