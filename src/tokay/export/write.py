"""One folder with a model in the forms that were asked for, each checked on real texts before it gets its name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from tokay.errors import TokayError, did_you_mean
from tokay.export.gguf import gguf_notes
from tokay.export.parity import BARS, Material, Parity, Vectors, compare_vectors, vectors_of
from tokay.models.embedder import Embedder
from tokay.models.format import NONE
from tokay.models.precision import Calibration
from tokay.models.space import ABOUT, KEY, vector_space
from tokay.models.torch_embedder import TorchEmbedder
from tokay.progress import Progress, Silent

Form = Literal["onnx", "onnx-int8", "static", "gguf-notes"]
FORMS: tuple[Form, ...] = get_args(Form)


def form_of(name: str) -> Form:
    """The form of a name.

    Raises:
        TokayError: there is no such form.
    """
    for form in FORMS:
        if name == form:
            return form
    raise TokayError(f"--to is {name!r}; expected one of {', '.join(FORMS)}{did_you_mean(name, FORMS)}")


@dataclasses.dataclass(frozen=True)
class Learn:
    """What a static model learns from: passages with their titles, and queries."""

    titles: Sequence[str]
    texts: Sequence[str]
    queries: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Exported:
    """What came of one form.

    Attributes:
        form: as it was asked for.
        file: what was written, within the folder.
        bytes: its size.
        parity: what it was held to; None for notes.
        story: what else is worth keeping, such as the ways to quantise that were tried.
    """

    form: Form
    file: str
    bytes: int
    parity: Parity | None
    story: Mapping[str, Any]


def export_model(
    embedder: TorchEmbedder,
    forms: Sequence[Form],
    out: Path,
    material: Material,
    learn: Learn | None = None,
    *,
    weights: bool = True,
    keep: bool = False,
    progress: Progress | None = None,
) -> list[Exported]:
    """Write a model in several forms into one folder that sentence-transformers and Tokay load.

    Args:
        embedder: the model.
        forms: of ``FORMS``.
        out: the folder; what is there of an earlier export is replaced.
        material: texts and labels that every form is held against the model on.
        learn: what a static model may learn from: nothing that the labels are about; None: the material's passages.
        weights: copy the model's own weights beside the forms, so that libraries on torch load the folder too.
        keep: keep a form that falls short of its bar.
        progress: says what is done.

    Raises:
        TokayError: a form falls short of its bar and ``keep`` is not set; the others are written.
        MissingExtra: a package is not installed.
    """
    progress = progress or Silent()
    out.mkdir(parents=True, exist_ok=True)
    if not (out / ABOUT).is_file():  # what is cut from here on is an export, and may be written over
        (out / ABOUT).write_text('{"forms": {}}\n', encoding="utf-8")
    embedder.save(out)
    space = vector_space(out)
    if not weights:
        for file in out.glob("*.safetensors*"):
            file.unlink()
    progress.start("the model itself on texts to compare with", len(material.ids) + len(material.queries))
    exact = vectors_of(embedder, material, progress)
    Calibration.of(exact.passages, embedder.config.dims).save(out)
    work = _Work(embedder, out, material, exact, learn, progress)
    done: list[Exported] = []
    for form in sorted(forms, key=FORMS.index):  # int8 is made from the exact graph
        done.append(exported := work.write(form))
        if exported.parity and not exported.parity.good and not keep:
            work.remove(exported)
        elif exported.parity:
            verdict = "good" if exported.parity.good else "NOT GOOD: " + "; ".join(exported.parity.faults)
            progress.say(f"{form}: {verdict}. {exported.parity.sentence()}. {exported.bytes / 1e6:,.1f} MB")
    _write_about(out, done, space, keep=keep)
    if bad := [e for e in done if e.parity and not e.parity.good and not keep]:
        raise TokayError("; ".join(_refusal(e) for e in bad))
    return done


@dataclasses.dataclass(frozen=True)
class _Work:
    embedder: TorchEmbedder
    out: Path
    material: Material
    exact: Vectors
    learn: Learn | None
    progress: Progress

    def write(self, form: Form) -> Exported:
        make: dict[Form, Callable[[], tuple[str, dict[str, Any]]]] = {
            "onnx": self.onnx,
            "onnx-int8": self.int8,
            "static": self.static,
            "gguf-notes": self.notes,
        }
        file, story = make[form]()
        size = (self.out / file).stat().st_size
        if form == "gguf-notes":
            return Exported(form, file, size, None, story)
        found = Embedder.load(self.out, backend=form)
        self.progress.start(f"{form} on the same texts", len(self.material.ids) + len(self.material.queries))
        vectors = vectors_of(found, self.material, self.progress)
        if form == "static":  # its vectors are of another space
            Calibration.of(vectors.passages, self.embedder.config.dims).save((self.out / file).parent)
        return Exported(form, file, size, compare_vectors(self.exact, vectors, self.material, BARS[form]), story)

    def onnx(self) -> tuple[str, dict[str, Any]]:
        from tokay.export.onnx import write_onnx
        from tokay.models.onnx_embedder import FILES

        self.progress.start("ONNX graph", None)
        write_onnx(self.embedder, self.out / FILES[False])
        return FILES[False], {}

    def int8(self) -> tuple[str, dict[str, Any]]:
        from tokay.export.int8 import write_int8
        from tokay.models.onnx_embedder import FILES, OnnxEmbedder

        if new := not (self.out / FILES[False]).is_file():
            self.onnx()
        plain = dataclasses.replace(self.embedder.config, prompts=NONE)  # the texts below are written already
        exact = OnnxEmbedder(self.out / FILES[False], self.embedder.tokens, plain)
        self.progress.start("int8: which way to quantise", None)
        some = slice(None, None, max(1, len(self.material.texts) // 200))
        texts = self.embedder.write(self.material.texts[some], titles=self.material.titles[some])
        tried = write_int8(exact.path, self.out / FILES[True], exact, texts)
        if new:
            exact.path.unlink()
        return FILES[True], {"chosen": tried[-1].scheme, "tried": [dataclasses.asdict(t) for t in tried]}

    def static(self) -> tuple[str, dict[str, Any]]:
        from tokay.export.static import distil_static, write_static
        from tokay.models.static_embedder import FOLDER, TABLE

        learn = self.learn or Learn(self.material.titles, self.material.texts, ())
        self.progress.start("vectors to learn from", len(learn.texts) + len(learn.queries))
        passages = self.embedder.encode(learn.texts, titles=learn.titles, progress=self.progress)
        queries = self.embedder.encode(learn.queries, kind="query", progress=self.progress)
        written = self.embedder.write(learn.texts, titles=learn.titles)
        written += self.embedder.write(learn.queries, kind="query")
        table = distil_static(self.embedder, written, np.concatenate([passages, queries]), progress=self.progress)
        write_static(self.embedder, table, self.out / FOLDER)
        return f"{FOLDER}/{TABLE}", {"learned_from": len(written), "tokens": len(table)}

    def notes(self) -> tuple[str, dict[str, Any]]:
        (self.out / "GGUF.md").write_text(gguf_notes(self.embedder, self.out), encoding="utf-8")
        return "GGUF.md", {}

    def remove(self, exported: Exported) -> None:
        path = self.out / exported.file
        if exported.form == "static":
            shutil.rmtree(path.parent)
        else:
            path.unlink()


def _refusal(exported: Exported) -> str:
    assert exported.parity is not None
    return (
        f"{exported.form} falls short and was taken away again: {'; '.join(exported.parity.faults)} "
        f"({exported.parity.sentence()}); --keep writes it nevertheless"
    )


def _write_about(out: Path, done: Sequence[Exported], space: str, *, keep: bool) -> None:
    """``export.json``: whose vectors these are, and what came of each form; of several calls, all that are there."""
    path = out / ABOUT
    entries: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["forms"] if path.is_file() else {}
    for exported in done:
        parity = exported.parity
        entries[exported.form] = {
            "file": exported.file,
            "bytes": exported.bytes,
            "good": parity.good if parity else None,
            "kept": parity is None or parity.good or keep,
            "parity": dataclasses.asdict(parity) if parity else None,
            **exported.story,
        }
    path.write_text(json.dumps({KEY: space, "forms": entries}, indent=1) + "\n", encoding="utf-8")


def sample(items: Sequence[Any], count: int, *, key: Callable[[Any], str]) -> list[Any]:
    """At most ``count`` of the items, by a hash of their key, in their order."""
    ranked = sorted(items, key=lambda item: hashlib.sha256(key(item).encode("utf-8", "surrogatepass")).digest())
    kept = {id(item) for item in ranked[:count]}
    return [item for item in items if id(item) in kept]
