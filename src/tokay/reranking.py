"""``tokay train RUN --what reranker``: judgments to a cross-encoder, its choices, export and verdict."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokay import open_run
from tokay.decisions import decided_in, judgments_of
from tokay.errors import TokayError
from tokay.evaluate.rerank import Read, as_ranking, calibration, choose_rule, rows_of
from tokay.evaluate.verdict import qrels_of
from tokay.leakage import reads_of
from tokay.leaking import leakage_sentence, parts_of_run, queries_of_run, refuse
from tokay.models.cross_encoder import CrossEncoder, written
from tokay.models.locate import find_model, is_run
from tokay.progress import Progress, Silent
from tokay.records import Example, Hit, Passage, Query
from tokay.records import Read as Given
from tokay.report import write_report
from tokay.search.bm25 import BM25
from tokay.search.dense import top_k, unit
from tokay.search.hybrid import Hybrid, Ranking, pools_of
from tokay.search.rerank import Rule
from tokay.search.reranker import ABOUT, FOLDER, About, Form, Reranker
from tokay.settings import RerankSettings, Settings
from tokay.store import Run, StageOutput, fingerprint
from tokay.trainset import rows_now

if TYPE_CHECKING:
    from tokay.models.torch_cross_encoder import TorchCrossEncoder
    from tokay.train.lists import ListMaker

CODE = (
    "tokay.reranking",
    "tokay.train.lists",
    "tokay.train.losses",
    "tokay.train.reranker",
    "tokay.evaluate.rerank",
    "tokay.export.rerank",
    "tokay.models.torch_cross_encoder",
    "tokay.search.rerank",
    "tokay.search.reranker",
)
"""The modules whose code makes the stage's outputs."""
NEAR, NEAR_KEPT = 50, 20
"""Passages of the tuned retriever that are looked at for each training query, and that may become negatives."""
DEPTHS = (3, 5, 10, 15, 20, 30, 50, 100)
"""At which quality is measured, up to the depth that is set."""
TIMED = 40
"""Held-out queries whose time is taken."""
TOP = 10
"""Results for which the order shall be right: what nDCG@10 looks at."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """Judged queries of one part, and what is reranked for them.

    Attributes:
        queries: in order.
        qrels: query id -> passage id -> gain, in that order.
        judged: query id -> judged passage ids.
        ranking: (Q, k) candidates and their scores.
    """

    queries: Sequence[Query]
    qrels: Mapping[str, Mapping[str, int]]
    judged: Mapping[str, set[str]]
    ranking: Ranking

    def sample(self, count: int) -> Asked:
        """At most ``count`` of them, those with the most judged candidates first, then by a hash of their ids."""

        def key(at: int) -> tuple[int, str]:
            query_id = self.queries[at].query_id
            return -len(self.judged[query_id]), hashlib.sha256(query_id.encode("utf-8", "surrogatepass")).hexdigest()

        kept = sorted(sorted(range(len(self.queries)), key=key)[:count])
        queries = [self.queries[at] for at in kept]
        indices, scores = self.ranking
        return Asked(
            queries, {q.query_id: self.qrels[q.query_id] for q in queries}, self.judged, (indices[kept], scores[kept])
        )


class RunView:
    """A finished run as the reranker sees it: texts, parts, the tuned retriever."""

    def __init__(self, run: Run, settings: Settings) -> None:
        self.run, self.settings = run, settings
        self.passages = list(run.table("corpus", "passages", Passage))
        self.ids = [p.passage_id for p in self.passages]
        self.texts = [written(p.text, p.title) for p in self.passages]
        self.parts = parts_of_run(run)
        self.decided = decided_in(run)
        self.queries = [q for q in queries_of_run(run) if q.query_id not in self.decided.rejected]
        self.vectors: NDArray[np.floating] = np.load(run.path / "evaluate" / "tuned.npy", mmap_mode="r")
        self.hybrid = Hybrid.from_json(run.read_json("evaluate", "hybrid")["tuned"])
        self.bm25 = BM25.load(run.path / "evaluate" / "bm25")

    def read(self, rows: Sequence[int]) -> list[str]:
        """Passages as rerankers read them."""
        return [self.texts[i] for i in rows]

    def tuned(self) -> Any:
        """The tuned embedder."""
        from tokay.models.torch_embedder import TorchEmbedder

        return TorchEmbedder.load(self.run.path / "train" / "model")

    def encoded(self, embedder: Any, queries: Sequence[Query]) -> NDArray[np.float32]:
        """Unit vectors of queries."""
        return unit(embedder.encode([q.text for q in queries], kind="query"))

    def examples(self) -> list[Example]:
        """The training part's rows."""
        return [e for e in rows_now(self.run, self.settings.examples) if e.part == "train"]

    def open_passages(self) -> dict[str, tuple[str, str]]:
        """Title and text of the training part: what negatives are drawn from."""
        return {p.passage_id: (p.title, p.text) for p in self.passages if self.parts[p.passage_id] == "train"}

    def near(self, embedder: Any, examples: Sequence[Example]) -> dict[str, list[tuple[str, float]]]:
        """Query id -> what the tuned retriever returns of the training part, with cosines."""
        rows = np.array([i for i, p in enumerate(self.ids) if self.parts[p] == "train"], np.int64)
        texts = {e.query_id: e.query for e in examples}
        vectors = unit(embedder.encode(list(texts.values()), kind="query"))
        depth = min(NEAR, len(rows) // 2)  # of a small corpus something must be left that is far
        indices, scores = top_k(vectors, np.asarray(self.vectors[rows], np.float32), depth)
        return {
            query_id: [(self.ids[rows[i]], s) for i, s in zip(row, found, strict=True) if i >= 0]
            for query_id, row, found in zip(texts, indices.tolist(), scores.tolist(), strict=True)
        }

    def candidates(self, queries: Sequence[Query], vectors: NDArray[np.float32]) -> Ranking:
        """What is reranked: the tuned vectors and BM25 together, as the run learned it.

        Args:
            queries: Q.
            vectors: of them, (Q, D), at length 1.
        """
        depth = self.settings.evaluate.depth
        dense, texts = top_k(vectors, self.vectors, depth), [q.text for q in queries]
        return self.hybrid.rank(list(pools_of(dense, self.bm25, texts, vectors, self.vectors, depth=depth)), depth)

    def asked(self, embedder: Any, part: str) -> Asked:
        """The judged queries of a part, with their candidates among all passages."""
        settings = self.settings.evaluate
        qrels, judged = qrels_of(
            [q for q in self.queries if q.part == part],
            judgments_of(self.run, self.decided),
            relevant_grade=settings.relevant_grade,
        )
        queries = [q for q in self.queries if q.part == part and q.query_id in qrels]
        ranking = self.candidates(queries, self.encoded(embedder, queries))
        return Asked(queries, {q.query_id: qrels[q.query_id] for q in queries}, judged, ranking)


@dataclasses.dataclass(frozen=True)
class Done:
    """What ``train_run`` leaves: the folder, the verdict as JSON values, and what it was checked for.

    ``fresh``: it was done now.
    """

    folder: Path
    verdict: dict[str, Any]
    leakage: str
    fresh: bool


def train_run(source: str, settings: Settings, *, progress: Progress | None = None) -> Done:
    """Train a run's reranker, choose how it is used, export it, and hold it against the ranking without it.

    A training that was cut goes on from its last checkpoint; one whose run and settings did not change is not repeated.

    Args:
        source: a finished run.
        settings: of which those of reranker and verdict matter.
        progress: where to report.

    Raises:
        TokayError: it is no run, has no judgments, its split leaks, or whatever training refuses.
    """
    path = Path(source).expanduser()
    check_run(path)
    progress = progress or Silent()
    chosen = settings.rerank
    with Run(path, writable=True) as run:
        refuse(run)
        key = {
            **chosen.model_dump(mode="json", exclude={"checkpoint_minutes", "tokens_kept"}),
            "evaluate": settings.evaluate.model_dump(mode="json"),
            "base_print": fingerprint(find_model(chosen.base)) if chosen.base else "",
            **decided_in(run).key,
        }
        result = run.stage(
            FOLDER,
            lambda out: _Work(run, settings, out, progress).all(),
            settings=key,
            reads=("corpus", "split", "generate", "judge", "examples", "train", "evaluate"),
            code=CODE,
        )
        shutil.rmtree(run.path / "checkpoints" / FOLDER, ignore_errors=True)
        write_report(run)
        return Done(run.path / FOLDER, run.read_json(FOLDER, "verdict"), leakage_sentence(run), result.fresh)


def check_run(path: Path) -> None:
    """Refuse what a reranker cannot be trained on, before anything is read.

    Raises:
        TokayError: with what is missing.
    """
    if not is_run(path):
        raise TokayError(f"{path} is no run folder; a reranker is trained on the judgments of one ('tokay distill')")
    run = open_run(path)
    run.read_json("evaluate", "verdict")
    if not run.rows("judge", "judgments"):
        raise TokayError(
            f"{path} has no judgments, from which a reranker learns; run 'tokay distill' with an --llm that judges"
        )


def plan_lines(source: str, settings: Settings) -> list[str]:
    """What the training of a run's reranker would take, in words; nothing is written.

    Raises:
        TokayError: as ``train_run``.
    """
    from tokay.train.plan import plan_reranker

    path = Path(source).expanduser()
    check_run(path)
    chosen = settings.rerank
    view = RunView(open_run(path), settings)
    embedder = view.tuned()
    maker = maker_of(view, embedder, chosen)
    plans = [plan_reranker(untrained(embedder, chosen, layers), maker, chosen) for layers in chosen.layers]
    return [line for plan in plans for line in plan.lines()]


def maker_of(view: RunView, embedder: Any, settings: RerankSettings) -> ListMaker:
    """The lists of a run's training part, and the texts that they are made of."""
    from tokay.train.lists import ListMaker, lists_of

    examples = view.examples()
    lists = lists_of(examples, view.near(embedder, examples), below=settings.unjudged_below, near=NEAR_KEPT)
    return ListMaker(list(lists), view.open_passages(), settings)


def untrained(embedder: Any, settings: RerankSettings, layers: int) -> TorchCrossEncoder:
    """The model before its training: the base that is set, or the run's tuned embedder, with a new head."""
    from tokay.models.torch_cross_encoder import TorchCrossEncoder, is_cross_encoder, keep_layers
    from tokay.models.torch_embedder import TorchEmbedder

    name, cut = settings.base, settings.max_tokens
    if name and is_cross_encoder(find_model(name)):
        model = TorchCrossEncoder.load(name)
        keep_layers(model.backbone, layers)
        model.max_tokens = min(cut, model.max_tokens)
        return model
    embedder = TorchEmbedder.load(name) if name else embedder
    return TorchCrossEncoder.on_top_of(embedder, layers=layers, max_tokens=cut, seed=settings.seed)


class _Work:
    """The stage: one method a step."""

    def __init__(self, run: Run, settings: Settings, out: StageOutput, progress: Progress) -> None:
        self.run, self.out, self.progress = run, out, progress
        self.settings: RerankSettings = settings.rerank
        self.evaluate = settings.evaluate
        progress.start("reading", None)
        self.view = RunView(run, settings)
        self.embedder = self.view.tuned()
        self.dev = self.view.asked(self.embedder, "dev").sample(self.settings.dev_queries)
        if len(self.dev.queries) < 2:
            raise TokayError(
                f"{len(self.dev.queries)} judged queries are in the dev part, on which a reranker's weight is chosen; "
                "keep some documents for it (split.dev_share) and run 'tokay distill' again"
            )
        self.seen = self.dev.sample(self.settings.look_queries)

    def all(self) -> None:
        """Train, choose, export, compare."""
        forms: list[tuple[Form, Any]] = []
        story = []
        examples = self.view.examples()
        judged = (p for e in examples for p in e.candidate_ids)
        reads = list(reads_of(examples, [*self.view.open_passages(), *judged]))
        refuse(self.run, {"the reranker": reads})
        self.out.write("read", Given, reads)
        for layers in self.settings.layers:
            found, done = self.one(layers)
            forms += found
            story.append(done)
        self.out.write_json("training", story)
        pairs = [pair for one in self.pairs(self.seen) for pair in one]
        tokens = int(np.mean([len(ids) for ids in forms[0][1].tokenize(pairs)]))
        about = About(
            use=False, sentence="", depth=self.settings.depth, top=TOP, pair_tokens=tokens, forms=[f for f, _ in forms]
        )
        verdict = self.verdict(forms[0][1], about)
        about = about.model_copy(update={"use": verdict["use"], "sentence": verdict["sentence"]})
        (self.out.path / ABOUT).write_text(about.model_dump_json(indent=1) + "\n", encoding="utf-8")
        self.out.write_json("verdict", verdict | {"forms": [f.model_dump(mode="json") for f, _ in forms]})

    # -- training -------------------------------------------------------------------------------------------------

    def one(self, layers: int) -> tuple[list[tuple[Form, CrossEncoder]], dict[str, Any]]:
        """A reranker of some layers, trained, calibrated, saved and exported: its forms, best first, and its story."""
        from tokay.train.reranker import tune_reranker

        model = untrained(self.embedder, self.settings, layers)
        name = f"layers-{model.layers}"
        maker = maker_of(self.view, self.embedder, self.settings)

        def look() -> float:
            read = self.read(self.seen, model, depth=min(TOP, self.settings.depth))
            return max(float(read.quality(Rule(weight, TOP)).mean()) for weight in LOOK)

        done = tune_reranker(
            model,
            maker,
            self.settings.model_copy(update={"layers": (layers,)}),
            logs=self.out.path / name,
            checkpoints=self.run.path / "checkpoints" / FOLDER / name,
            base_print=fingerprint(self.run.path / "train" / "model") + self.settings.base,
            progress=self.progress,
            look=look if self.settings.patience else None,
        )
        self.progress.say(
            f"{done.steps:,} of {done.planned:,} steps on {done.lists:,} queries, {done.pairs:,} pairs, "
            f"{done.seconds:,.0f} s; {done.layers} layers"
        )
        exact = self.read(self.seen, model)
        scale, shift = calibration(*exact.labels())
        model.scale_logits(scale, shift)
        exact = dataclasses.replace(exact, logits=(scale * exact.logits + shift).astype(np.float32))
        model.save(self.out.path / name)
        forms = self.export(model, name, exact)
        return forms, dataclasses.asdict(done) | {"scale": scale, "shift": shift}

    # -- forms ----------------------------------------------------------------------------------------------------

    def export(self, model: TorchCrossEncoder, name: str, exact: Read) -> list[tuple[Form, CrossEncoder]]:
        """The forms that hold, fastest first, each with the rule that suits it and its quality by depth."""
        from tokay.errors import MissingExtra

        folder = self.out.path / name
        backends: list[Any] = ["torch"]
        try:
            from tokay.export.rerank import export_reranker
        except ModuleNotFoundError as error:
            self.progress.say(f"not exported to ONNX: {MissingExtra('exporting', 'export', error.name or 'onnx')}")
        else:
            self.progress.start("exporting the reranker", None)
            lists, mask = self.pairs(self.seen), exact.there()
            filled = np.zeros_like(exact.logits)
            as_used = choose_rule(exact, depth=self.settings.depth, top=TOP)

            def quality(logits: NDArray[np.float32]) -> float:
                filled[mask] = logits
                return float(dataclasses.replace(exact, logits=filled).quality(as_used).mean())

            try:
                done = export_reranker(model, folder, lists, exact.logits[mask], quality)
            except TokayError as error:  # what has been trained is not lost for it
                self.progress.say(f"not exported to ONNX: {error}")
                shutil.rmtree(folder / "onnx", ignore_errors=True)
                done = []
            for one in done:
                fault = "" if one.parity.good else f"left out: {'; '.join(one.parity.faults)}. "
                self.progress.say(f"{one.backend}, {one.bytes / 1e6:,.1f} MB: {fault}{one.parity.sentence()}")
            backends = [one.backend for one in reversed(done) if one.parity.good] or backends
        forms = []
        rule = None
        for backend in backends:
            loaded = CrossEncoder.load(folder, backend=backend) if backend != "torch" else model
            rule = rule or choose_rule(self.read(self.dev, loaded), depth=self.settings.depth, top=TOP)
            read = self.read(self.seen, loaded)  # every form on the same queries, so that a budget can compare them
            quality_of = {
                depth: float(read.quality(dataclasses.replace(rule, depth=depth)).mean())
                for depth in sorted({*(d for d in DEPTHS if d < self.settings.depth), self.settings.depth})
            }
            form = Form(
                folder=name,
                backend=backend,
                layers=model.layers,
                weight=rule.weight,
                ceiling=rule.ceiling,
                quality=quality_of,
            )
            forms.append((form, loaded))
        return forms

    def pairs(self, asked: Asked, depth: int = 0) -> list[list[tuple[str, str]]]:
        """What is read for each query, as deep as the settings have it unless another depth is given."""
        return [
            [(q.text, self.view.texts[i]) for i in row[: depth or self.settings.depth] if i >= 0]
            for q, row in zip(asked.queries, asked.ranking[0].tolist(), strict=True)
        ]

    def read(self, asked: Asked, model: CrossEncoder, depth: int = 0) -> Read:
        """All candidates of some queries, read once."""
        shape = (len(asked.queries), depth or self.settings.depth)
        read = Read(asked.qrels, self.view.ids, asked.ranking, np.zeros(shape, np.float32))
        read.logits[read.there()] = model.score([pair for one in self.pairs(asked, depth) for pair in one])
        return read

    # -- verdict --------------------------------------------------------------------------------------------------

    def verdict(self, model: CrossEncoder, about: About) -> dict[str, Any]:
        """The held-out queries with and without the reranker: quality beside milliseconds."""
        test = self.view.asked(self.embedder, "test")
        form = about.forms[0]
        reranker = Reranker(model, Rule(form.weight, about.depth, form.ceiling, about.top), about)
        self.progress.start("reranking held-out queries", len(test.queries))
        found, times = [], []
        for query, row, scores in zip(test.queries, *test.ranking, strict=True):
            there = int((row >= 0).sum())
            began = time.perf_counter()
            found.append(reranker.rerank(query.text, row[:there], scores[:there], self.view.read))
            times.append(1000 * (time.perf_counter() - began))
            self.progress.advance()
        before = self.time_before(test.queries[:TIMED])
        ranking = as_ranking(found, test.ranking[0].shape[1])
        verdict = rows_of(
            {"tuned+BM25": test.ranking, "tuned+BM25+reranker": ranking},
            test.qrels,
            test.judged,
            self.view.ids,
            {q.query_id: q.seed_id or q.query_id for q in test.queries},
            {"tuned+BM25": before, "tuned+BM25+reranker": before + statistics.median(times)},
            self.evaluate,
        )
        self.out.write(
            "hits",
            Hit,
            (
                Hit("tuned+BM25+reranker", q.query_id, place + 1, self.view.ids[i], float(score))
                for q, row, scores in zip(test.queries, *ranking, strict=True)
                for place, (i, score) in enumerate(zip(row[:10].tolist(), scores[:10].tolist(), strict=True))
                if i >= 0
            ),
        )
        read = [one.read for one in found]
        return verdict | {
            "read": float(np.mean(read)),
            "depth": about.depth,
            "weight": form.weight,
            "ceiling": form.ceiling,
            "backend": form.backend,
            "layers": form.layers,
        }

    def time_before(self, queries: Sequence[Query]) -> float:
        """Milliseconds of a query without a reranker: encoding it, vectors, words, both together; the median."""
        times = []
        for q in queries:
            began = time.perf_counter()
            self.view.candidates([q], self.view.encoded(self.embedder, [q]))
            times.append(1000 * (time.perf_counter() - began))
        return statistics.median(times)


LOOK = (0.1, 0.2, 0.3, 0.5, 1.0)
"""Weights of which a look takes the best: what counts is what the reranker adds to the ranking."""
