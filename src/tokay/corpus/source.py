"""What a user calls a corpus, and what reads it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from tokay.corpus import files, python, rows
from tokay.corpus.document import RawDocument, Report, one_line
from tokay.errors import MissingExtra, TokayError
from tokay.store import fingerprint

Kind = Literal["folder", "jsonl", "csv", "parquet", "beir", "hub", "python"]

FORMS = (
    "a folder of documents, a .jsonl, .jsonl.gz, .csv, .tsv or .parquet file, a BEIR folder, "
    "hf:DATASET, python-stdlib or python:PACKAGE"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """A corpus that has been found but not read.

    ``keep_whole`` says that rows are passages as they stand, because others refer to them by id: they are
    neither split nor compared with each other unless the user asks for it. ``fingerprint`` is a hash that
    changes when the documents change. ``documents`` streams them, and tells its argument of the input it
    cannot use. ``expected`` says what was looked for, for messages.
    """

    spec: str
    kind: Kind
    keep_whole: bool
    expected: str
    fingerprint: Callable[[], str]
    documents: Callable[[Report], Iterator[RawDocument]]


def open_corpus(spec: str) -> Source:
    """Find out what a corpus is, without reading it.

    Args:
        spec: ``python-stdlib``, ``python:PACKAGE``, ``hf:DATASET``, ``hf:DATASET:SPLIT`` or a path.

    Raises:
        TokayError: there is nothing of that name, or nothing that can be read as a corpus.
    """
    if spec == python.STDLIB or spec.startswith("python:"):
        return _python(spec)
    if spec.startswith("hf:"):
        return _hub(spec)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _beir(spec, path) or _path(spec, "folder", path, files.read_folder, f"files {' '.join(files.SUFFIXES)}")
    if not path.exists():
        hint = f"did you mean python:{spec}, hf:{spec} or another path?"
        raise TokayError(f"there is no file or folder {spec}; expected {FORMS}: {hint}")
    if not os.access(path, os.R_OK):
        raise TokayError(f"{spec} may not be read by this user; expected a readable file: change its permissions")
    return _table(spec, path)


def _python(spec: str) -> Source:
    name = spec.removeprefix("python:")
    if not all(part.isidentifier() for part in name.split(".")) and name != python.STDLIB:
        raise TokayError(f"{spec} names no package; expected python:PACKAGE, such as python:numpy")
    if name != python.STDLIB:
        python.find_package(name)
    expected = f"docstrings of at least {python.FEWEST_WORDS} words"
    print_of, documents = (
        functools.partial(python.fingerprint_python, name),
        functools.partial(python.read_python, name),
    )
    return Source(spec, "python", True, expected, print_of, documents)


def _hub(spec: str) -> Source:
    name, _, split = spec.removeprefix("hf:").partition(":")
    if not name:
        raise TokayError(f"{spec} names no dataset; expected hf:DATASET or hf:DATASET:SPLIT")
    documents = functools.partial(rows.read_hub, name, split)
    return Source(spec, "hub", False, _columns(), functools.partial(_hub_fingerprint, name, split), documents)


def _hub_fingerprint(name: str, split: str) -> str:
    if Path(name).expanduser().exists():
        version = fingerprint(Path(name).expanduser())
    else:
        try:
            from huggingface_hub import HfApi
        except ImportError as error:
            raise MissingExtra("reading hf:DATASET", "hub", "huggingface-hub") from error
        try:
            version = str(HfApi().dataset_info(name).sha)
        except Exception as error:  # of the Hub or of the network
            raise TokayError(
                f"hf:{name} cannot be found on the Hugging Face Hub ({one_line(str(error))[:300]}); expected "
                f"the name of a dataset, or a folder: check name and network"
            ) from error
    return hashlib.sha256(f"{version} {split}".encode()).hexdigest()


def _beir(spec: str, folder: Path) -> Source | None:
    if (folder / "corpus.jsonl").is_file():
        return _path(spec, "beir", folder / "corpus.jsonl", rows.read_jsonl, _columns())
    if (folder / "corpus.parquet").is_file():
        return _path(spec, "beir", folder / "corpus.parquet", rows.read_parquet, _columns())
    return None


def _table(spec: str, path: Path) -> Source:
    name = path.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz")):
        return _path(spec, "jsonl", path, rows.read_jsonl, _columns())
    if name.endswith((".csv", ".tsv")):
        return _path(spec, "csv", path, rows.read_csv, _columns())
    if name.endswith(".parquet"):
        return _path(spec, "parquet", path, rows.read_parquet, _columns())
    raise TokayError(f"{spec} is a file of another kind; expected {FORMS}: for single documents name their folder")


def _path(
    spec: str, kind: Kind, path: Path, read: Callable[[Path, Report], Iterator[RawDocument]], expected: str
) -> Source:
    documents = functools.partial(read, path)
    return Source(spec, kind, kind == "beir", expected, functools.partial(fingerprint, path), documents)


def _columns() -> str:
    return f"rows with a column {', '.join(rows.TEXT_COLUMNS[:-1])} or {rows.TEXT_COLUMNS[-1]}"
