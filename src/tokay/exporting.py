"""``tokay export``: a run or a model folder to its other forms, held against it on real texts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tokay import open_run
from tokay.corpus import open_corpus, whole
from tokay.errors import TokayError
from tokay.evaluate.qrels import Words, read_labels
from tokay.leaking import parts_of_run, queries_of_run
from tokay.models.locate import EXPORT, is_run
from tokay.models.space import ABOUT
from tokay.progress import Progress
from tokay.records import Passage

SAMPLE = 300
"""Passages of Python's manual that a model is compared on when no texts are named."""
PASSAGES = 2000
"""Passages that an export is compared on: all that answer a query, and others up to this number."""
LEARNED = 20_000
"""Passages that a static model learns from."""


def export(
    source: str,
    forms: Sequence[str],
    out: Path | None = None,
    *,
    on: str = "",
    split: str = "test",
    weights: bool = True,
    keep: bool = False,
    progress: Progress,
) -> tuple[Path, list[Any]]:
    """Export a model.

    Args:
        source: a run, whose recommended model is taken; a model folder, ``minilm`` or a Hub name.
        forms: ``onnx``, ``onnx-int8``, ``static``, ``gguf-notes``.
        out: the folder; None: ``RUN/export``.
        on: a corpus to compare on: a BEIR folder, whose labels are used, or whatever ``tokay distill`` reads; empty:
            the run's own held-out queries, or some of Python's manual, without labels.
        split: of the labels.
        weights: whether the folder shall hold the model's own weights too.
        keep: keep what falls short.
        progress: says what is done.

    Returns:
        The folder, and what came of each form.

    Raises:
        TokayError: wrong arguments, or a form that falls short.
    """
    from tokay.export.write import export_model, form_of
    from tokay.models.torch_embedder import TorchEmbedder

    wanted = [form_of(name) for name in forms]
    path = Path(source).expanduser()
    if out is None:
        if not is_run(path):
            raise TokayError("there is no --out; name the folder to write (a run has its own, RUN/export)")
        out = path / EXPORT
    _check_out(out)
    progress.start("reading", None)
    embedder = TorchEmbedder.load(source)
    learn = None
    if is_run(path) and not on:
        material, learn = _of_run(path)
    else:
        if "static" in forms and not on:
            raise TokayError("a static model learns from texts; name a corpus with --on, or export a run")
        if not on:
            progress.say(f"compared on {SAMPLE} passages of Python's manual, without labels; --on names other texts")
        material = _of_corpus(on, split) if on else _of_manual()
    done = export_model(
        embedder,
        wanted,
        out,
        material,
        learn,
        weights=weights,
        keep=keep,
        progress=progress,
    )
    return out, done


def _of_run(path: Path) -> tuple[Any, Any]:
    """The run's held-out queries; and its training passages, for a model that has to learn."""
    from tokay.export.write import Learn, sample

    run = open_run(path)
    if not run.is_done("evaluate"):
        raise TokayError(f"{path} has not come to its verdict; finish it with tokay distill, or name texts with --on")
    passages = list(run.table("corpus", "passages", Passage))
    parts = parts_of_run(run)
    seen = sample([p for p in passages if parts[p.passage_id] == "train"], LEARNED, key=lambda p: p.passage_id)
    queries = [q.text for q in queries_of_run(run) if q.part == "train"]
    learn = Learn([p.title for p in seen], [p.text for p in seen], queries[:LEARNED])
    beir = str(path / "evaluate" / "beir")
    return _material(passages, beir, beir, "test"), learn


def _check_out(out: Path) -> None:
    """Refuse what is no folder, holds something else than an export, or takes nothing; nothing is made yet.

    Raises:
        TokayError: with what is in the way.
    """
    from tokay.train.checkpoints import need_writable

    if out.exists() and not out.is_dir():
        raise TokayError(f"--out {out} is a file; expected a folder to write the export into")
    found = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if found and ABOUT not in found:
        raise TokayError(f"--out {out} holds other files, such as {found[0]}; name another folder")
    need_writable(out)


def _of_manual() -> Any:
    """Real texts that every Python has."""
    documents = islice(open_corpus("python-stdlib").documents(lambda skipped: None), SAMPLE)
    return _material([whole(document) for document in documents], "", "", "")


def _of_corpus(on: str, split: str) -> Any:
    """Any corpus's documents, read whole; with labels where it is a BEIR folder."""
    folder = Path(on).expanduser()
    labelled = folder.is_dir() and any(folder.glob("queries.*"))
    passages = [whole(document) for document in open_corpus(on).documents(lambda skipped: None)]
    return _material(passages, on if labelled else "", on, split)


def _material(passages: Sequence[Any], queries: str, qrels: str, split: str) -> Any:
    from tokay.export.parity import Material
    from tokay.export.write import sample

    ids, words = {p.passage_id for p in passages}, Words("--on", "--on", "--split")
    labels = read_labels(queries, qrels, known_ids=ids, split=split, words=words) if queries else None
    answers = {i for gains in labels.qrels.values() for i in gains} if labels else set()
    others = sample([p for p in passages if p.passage_id not in answers], PASSAGES, key=lambda p: p.passage_id)
    kept = [*(p for p in passages if p.passage_id in answers), *others][: max(PASSAGES, len(answers))]
    return Material(
        ids=[p.passage_id for p in kept],
        texts=[p.text for p in kept],
        titles=[p.title for p in kept],
        queries=labels.queries if labels else {},
        qrels=labels.qrels if labels else {},
    )
