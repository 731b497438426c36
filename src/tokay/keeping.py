"""``tokay train RUN --keep-passages``: the query side alone is trained, and every passage's vector stays as it is.

So an index need not be encoded again. The vectors are the run's own, or come from a file (``--vectors``): of another
copy of the base, of another model, or of an API, whose query vectors are then in a file too (``--query-vectors``).
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokay import open_run
from tokay.copies import apart
from tokay.decisions import decided_in, judgments_of
from tokay.errors import TokayError
from tokay.evaluate.slices import SEEN, TITLES, UNSEEN, slice_of
from tokay.evaluate.verdict import qrels_of
from tokay.leakage import Leakage
from tokay.leaking import parts_of_run, queries_of_run, refuse
from tokay.models.dense import read_matrix, write_matrix
from tokay.models.embedder import Embedder
from tokay.models.folder import EmbedderConfig
from tokay.models.format import NONE
from tokay.models.locate import find_model, is_run
from tokay.models.space import vector_space
from tokay.models.two_sides import (
    DENSE,
    DOCUMENT,
    FORMS,
    QUERY,
    About,
    Form,
    Mapped,
    TwoSided,
    write_about,
    write_router,
)
from tokay.progress import Progress, Silent
from tokay.records import Passage, Query, Read
from tokay.search.dense import top_k, unit
from tokay.settings import Settings
from tokay.split import is_seen, seen_share
from tokay.store import MANIFEST, Run
from tokay.train.frozen import Asked, Frozen
from tokay.tuning import TRAINING, check_out
from tokay.vectorfile import digest_of, read_vectors

PROBES = 4
"""Short passages that are encoded to see whether vectors are the base's."""
PLANNED = 3
"""Steps that a plan takes to see what one costs."""
SAME = 0.995
"""Cosine from which they are: copies in int8 or of another back-end are within it, other models are not."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """What came of it: the folder, seconds of training, the verdict by slice, and what it was checked for."""

    folder: Path
    form: Form
    seconds: float
    verdict: dict[str, Any]
    leakage: str


@dataclasses.dataclass(frozen=True)
class Material:
    """All that a training of the query side reads, checked.

    Attributes:
        base: reads queries; None: their vectors came from a file.
        space: fingerprint of the passages' vector space.
        same: whether the passages' vectors are the base's own.
        frozen: the passages.
        passages: of the run, in its order.
        parts: train, seen, dev and test -> their queries.
        queries: query id -> vector, as base or file has it, (D,).
        prior: (W, D), where the base's vectors are not the passages'.
        groups: query id -> what it was written from.
        leakage: what was checked before.
    """

    base: Any
    space: str
    same: bool
    frozen: Frozen
    passages: Sequence[Passage]
    parts: Mapping[str, Sequence[Asked]]
    queries: Mapping[str, NDArray[np.float32]]
    prior: NDArray[np.float32] | None
    groups: Mapping[str, str]
    leakage: Leakage

    def vectors(self, part: str) -> NDArray[np.float32]:
        """Of the queries of a part, (Q, D)."""
        return np.stack([self.queries[one.query_id] for one in self.parts[part]])


def read_material(
    source: str,
    settings: Settings,
    *,
    form: Form,
    base: str | None = None,
    vectors: str = "",
    query_vectors: str = "",
    progress: Progress | None = None,
) -> Material:
    """Read a run and the vectors to train against.

    Args:
        source: a finished run, or one that has come to its judgments.
        settings: of which those of split and evaluate matter.
        form: of the query side.
        base: the model that reads queries; None: the run's.
        vectors: a file with the passages' vectors; empty: the run's own.
        query_vectors: a file with those of the run's queries; empty: the base encodes them.
        progress: where to report.

    Raises:
        TokayError: what is missing, or does not fit.
    """
    progress = progress or Silent()
    _check_options(source, form, base, vectors, query_vectors)
    run = open_run(Path(source).expanduser())
    _need_judgments(run)
    passages = list(run.table("corpus", "passages", Passage))
    ids = [p.passage_id for p in passages]
    side = parts_of_run(run)
    decided = decided_in(run)
    written = [q for q in queries_of_run(run) if q.query_id not in decided.rejected]
    queries = _with_seen(written, settings)
    qrels, _ = qrels_of(queries, judgments_of(run, decided), relevant_grade=settings.evaluate.relevant_grade)
    parts = _parts(queries, qrels, {p.passage_id: p.document_id for p in passages})
    given = [Read("query", one.query_id, one.text) for one in parts["train"]]
    given += [Read("candidate", i, "") for i in ids if side[i] == "train"]
    leakage = refuse(run, {"the query side": given}, queries)
    chosen = run.read_json("vectors", "cut")
    own = np.load(run.path / "vectors" / "base.npy", mmap_mode="r")
    theirs = read_vectors(Path(vectors), ids, what="passages", option="--vectors") if vectors else own
    asked = [one for part in parts.values() for one in part]
    model, space, same, prior = None, "", False, None
    if query_vectors:
        found = read_vectors(
            Path(query_vectors), [one.query_id for one in asked], what="queries", option="--query-vectors"
        )
        if found.shape[1] != theirs.shape[1]:
            raise TokayError(
                f"--query-vectors has vectors of {found.shape[1]} numbers, and --vectors of {theirs.shape[1]}; "
                "expected both of one model"
            )
        space = digest_of(ids, theirs)
    else:
        from tokay.models.torch_embedder import TorchEmbedder
        from tokay.vectors import with_cut

        folder = find_model(base or chosen["base"])
        model = with_cut(TorchEmbedder.load(folder), chosen["cut"])
        same = _is_own(model, passages, theirs)
        if not same and not vectors:
            raise TokayError(
                f"{run.path}/vectors holds vectors of another model than {base or chosen['base']}; leave --base out, "
                "or name that model's vectors with --vectors"
            )
        space = vector_space(folder) if same else digest_of(ids, theirs)
        progress.start("queries", len(asked))
        found = unit(model.encode([one.text for one in asked], kind="query", progress=progress))
    is_open = np.array([side[i] == "train" for i in ids])
    if model is not None and not same:
        from tokay.train.query_map import ridge_prior

        here = own if _is_own(model, passages, own) else _encoded(model, passages, progress)
        prior = ridge_prior(np.asarray(here[is_open]), np.asarray(theirs[is_open]))
    return Material(
        base=model,
        space=space,
        same=same,
        frozen=Frozen(ids, [p.document_id for p in passages], np.asarray(theirs, np.float32), is_open),
        passages=passages,
        parts=parts,
        queries=dict(zip((one.query_id for one in asked), found, strict=True)),
        prior=prior,
        groups={q.query_id: q.seed_id or q.query_id for q in queries},
        leakage=leakage,
    )


def _check_options(source: str, form: str, base: str | None, vectors: str, query_vectors: str) -> None:
    if form not in FORMS:
        raise TokayError(f"--query-side is {form!r}; expected one of {', '.join(FORMS)}")
    if not is_run(Path(source).expanduser()):
        raise TokayError(
            f"--keep-passages needs a run, and {source} is none (it has no {MANIFEST}); 'tokay distill … --out' makes "
            "one"
        )
    if query_vectors and not vectors:
        raise TokayError("--query-vectors are of the model that made --vectors; name that file too")
    if query_vectors and form != "map":
        raise TokayError(
            f"--query-vectors fit a map, and --query-side is {form}, which reads text; leave one of them out"
        )
    if query_vectors and base:
        raise TokayError("--base reads queries, and --query-vectors brings their vectors; leave one of them out")


def _need_judgments(run: Run) -> None:
    for stage, what in (("vectors", "no vectors"), ("judge", "no judgments")):
        if not run.is_done(stage) or not run.is_done("split"):
            raise TokayError(
                f"{run.path} has {what}, which the query side is trained on; run 'tokay distill … --out {run.path}' "
                "to the end"
            )


def _with_seen(queries: Sequence[Query], settings: Settings) -> list[Query]:
    """A run that held no seen queries out gives some of its training ones."""
    if any(q.part == SEEN for q in queries):
        return list(queries)
    share = seen_share(sum(q.part == "train" for q in queries), settings.split)
    return apart(
        dataclasses.replace(q, part="seen") if q.part == "train" and is_seen(q.query_id, share, settings.split) else q
        for q in queries
    )


def _parts(
    queries: Sequence[Query],
    qrels: Mapping[str, Mapping[str, int]],
    document_of: Mapping[str, str],
) -> dict[str, list[Asked]]:
    """Train, seen, dev and test."""
    parts: dict[str, list[Asked]] = {"train": [], SEEN: [], "dev": [], "test": []}
    for q in queries:
        if q.query_id in qrels and q.part in parts:
            gains = qrels[q.query_id]
            seed = q.seed_id or max(gains, key=lambda p: (gains[p], p))
            parts[q.part].append(Asked(q.query_id, q.text, document_of.get(seed, ""), gains))
    if len(parts["train"]) < 2:
        raise TokayError(
            f"the run has {len(parts['train'])} judged training queries; expected at least 2: write more "
            "(generate.passages)"
        )
    return parts


def _is_own(model: Embedder, passages: Sequence[Passage], vectors: NDArray[np.floating]) -> bool:
    """Whether vectors are a model's own: the shortest passages, which any cut leaves whole, are encoded."""
    if vectors.shape[1] != model.width:
        return False
    rows = sorted(range(len(passages)), key=lambda i: (len(passages[i].title) + len(passages[i].text), i))[:PROBES]
    found = unit(model.encode([passages[i].text for i in rows], titles=[passages[i].title for i in rows]))
    return bool(((found * np.asarray(vectors[rows], np.float32)).sum(1) >= SAME).all())


def _encoded(model: Embedder, passages: Sequence[Passage], progress: Progress) -> NDArray[np.float32]:
    """A base that is not the run's own has to read the passages once, to learn the way into the other space."""
    progress.start("passages, for the way into the other space", len(passages))
    texts, titles = [p.text for p in passages], [p.title for p in passages]
    return unit(model.encode(texts, titles=titles, progress=progress))


def train_query_side(
    material: Material, settings: Settings, out: Path, *, form: Form, progress: Progress | None = None
) -> Kept:
    """Train, write the folder and measure it on held-out queries of seen and of unseen documents.

    Raises:
        TokayError: ``out`` is taken, or the disk is full.
    """
    progress = progress or Silent()
    check_out(out)
    began = time.perf_counter()
    make: Mapping[Form, Callable[[Material, Settings, Path, Progress], dict[str, Any]]] = {
        "map": _make_map,
        "tower": _make_tower,
        "table": _make_table,
    }
    story = make[form](material, settings, out, progress)
    seconds = time.perf_counter() - began
    about = About(form, material.space, material.frozen.vectors.shape[1])
    if material.base is None:
        write_about(out, about)
    else:
        if material.same:
            material.base.save(out / DOCUMENT)
        write_router(out, about)
    verdict = measure(material, out, settings, progress)
    logs = out / TRAINING
    logs.mkdir(exist_ok=True)
    story = {"form": form, "seconds": seconds, **story}
    for name, value in (("verdict", verdict), ("story", story), ("leak", material.leakage.to_json())):
        (logs / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    (out / "README.md").write_text(_card(material, about, verdict), encoding="utf-8")
    return Kept(out, form, seconds, verdict, material.leakage.sentence())


def plan_lines(material: Material, settings: Settings, *, form: Form) -> list[str]:
    """What a training of the query side would take, in words; nothing is written."""
    from tokay.train.frozen import targets_of
    from tokay.train.query_map import FOLDS, STRENGTHS
    from tokay.train.query_table import EPOCHS, SPANS
    from tokay.train.query_tower import steps_of

    counts = {name: len(some) for name, some in material.parts.items()}
    learned = len(targets_of(material.parts["train"], material.frozen).rows)
    lines = [
        f"{learned:,} training queries, against {int(material.frozen.open.sum()):,} of {len(material.passages):,} "
        "passages whose vectors stay",
        f"{counts['dev']:,} dev queries; the verdict: {counts[SEEN]:,} queries of known documents and "
        f"{counts['test']:,} of held-out ones",
    ]
    if form == "map":
        return [*lines, f"a map, {len(STRENGTHS)} strengths by cross-validation over {FOLDS} folds: a minute or so"]
    began = time.perf_counter()
    some = _tower(dataclasses.replace(material, parts={**material.parts, "dev": []}), settings, Silent(), PLANNED)
    seconds = (time.perf_counter() - began) / max(1, some.steps) * steps_of(learned)
    lines.append(f"a tower: {steps_of(learned):,} steps, about {seconds:,.0f} s at the speed of {some.steps} of them")
    if form == "table":
        lines.append(f"a table that learns from it: up to {SPANS:,} spans of passages, {EPOCHS} rounds over them")
    return lines


def _make_map(material: Material, settings: Settings, out: Path, progress: Progress) -> dict[str, Any]:
    from tokay.train.query_map import as_settings, train_map

    del settings
    made = train_map(
        material.parts["train"],
        material.vectors("train"),
        material.frozen,
        prior=material.prior,
        progress=progress,
    )
    write_matrix(out / DENSE, made.matrix)
    if material.base is not None and not material.same:
        material.base.save(out / QUERY)
    return dict(as_settings(made))


def _make_tower(material: Material, settings: Settings, out: Path, progress: Progress) -> dict[str, Any]:
    made = _tower(material, settings, progress)
    made.embedder.save(out / QUERY)
    if made.matrix is not None:
        write_matrix(out / DENSE, made.matrix)
    return {"steps": made.steps, "weight": made.weight, "tried": made.tried}


def _make_table(material: Material, settings: Settings, out: Path, progress: Progress) -> dict[str, Any]:
    """A table learns from a tower, which is not kept."""
    from tokay.export.static import write_static
    from tokay.models.static_embedder import StaticEmbedder
    from tokay.train.query_table import train_table

    made = _tower(material, settings, progress)
    tower: Embedder = made.embedder if made.matrix is None else Mapped(made.embedder, made.matrix)
    texts = [
        (p.title, p.text)
        for p, is_open in zip(material.passages, material.frozen.open.tolist(), strict=True)
        if is_open
    ]
    asked, frozen = material.parts["train"], material.frozen
    found = train_table(tower, asked, frozen, texts, progress=progress)
    config = EmbedderConfig("mean", True, 10**9, NONE)
    write_static(StaticEmbedder(found.table, found.tokens, config), found.table, out / QUERY)
    measured = {
        name: float(frozen.quality(some, tower.encode([one.text for one in some], kind="query")).mean())
        for name, some in material.parts.items()
        if some and name != "train"
    }
    return {"steps": found.steps, "spans": found.spans, "table_seconds": found.seconds, "tower_ndcg@10": measured}


def _tower(material: Material, settings: Settings, progress: Progress, most_steps: int | None = None) -> Any:
    from tokay.train.query_tower import train_tower

    return train_tower(
        material.base,
        material.parts["train"],
        material.frozen,
        settings.train,
        choice=material.parts["dev"],
        prior=material.prior,
        most_steps=most_steps,
        progress=progress,
    )


def measure(material: Material, folder: Path, settings: Settings, progress: Progress) -> dict[str, Any]:
    """The folder that was written, against the base's queries, on the same passages' vectors: by slice."""
    depth, found = settings.evaluate.depth, {}
    model = TwoSided(folder) if material.base is not None else None
    for name, part in ((SEEN, SEEN), (UNSEEN, "test")):
        asked = material.parts[part]
        if not asked:
            found[name] = {"queries": 0}
            continue
        progress.start(f"verdict: {TITLES[name].lower()}", None)
        before = material.vectors(part)
        if model is not None:
            after = model.encode([one.text for one in asked], kind="query")
        else:
            after = before @ read_matrix(folder / DENSE).T
        before = before if material.prior is None else before @ material.prior.T
        base, tuned = (top_k(unit(v), material.frozen.vectors, depth) for v in (before, after))
        qrels = {one.query_id: dict(one.gains) for one in asked}
        found[name] = slice_of(base, tuned, qrels, material.frozen.ids, material.groups, settings.evaluate)
    return found


def _card(material: Material, about: About, verdict: Mapping[str, Any]) -> str:
    """README.md of the folder."""
    if material.base is None:
        use = [
            "A matrix for the query vectors of another model. `query/3_Dense/model.safetensors` holds it as",
            "`linear.weight`, (numbers out, numbers in): multiply each query vector by its transpose and divide by the",
            "length. Passages' vectors stay as they are.",
        ]
    else:
        use = [
            "```python",
            "from sentence_transformers import SentenceTransformer",
            "",
            'queries = SentenceTransformer("THIS FOLDER").encode_query(["…"])',
            "```",
            "",
            "Queries have a side of their own; passages' vectors are those of the space "
            f"`{about.vector_space[:12]}…`, which was not trained. Compare by cosine.",
        ]
    rows = [
        f"| {TITLES[name]} | {v['queries']} | {v['base']['ndcg@10']:.3f} | {v['tuned']['ndcg@10']:.3f} | "
        f"{v['comparison']['low']:+.3f} to {v['comparison']['high']:+.3f} |"
        for name, v in verdict.items()
        if "base" in v
    ]
    lines = [
        "---",
        "library_name: sentence-transformers",
        'tags: ["sentence-transformers", "sentence-similarity", "tokay"]',
        "---",
        f"# A query side by Tokay: {about.form}",
        "",
        *use,
        "",
        "| queries of | number | nDCG@10 before | after | difference (95 %) |",
        "|---|---|---|---|---|",
        *rows,
    ]
    return "\n".join(lines) + "\n"
