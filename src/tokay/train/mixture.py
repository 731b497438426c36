"""What an embedder is trained on: rows of several sources, each with its task and its share.

A source is FRet rows (of a run), pairs, entailment, classes, labelled retrieval, or plain texts. All of them become
``Example`` rows over texts with ids, so that batches, masks and losses know of no kinds.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tokay.errors import MissingExtra, TokayError, did_you_mean
from tokay.expected import faults_of
from tokay.records import Example
from tokay.train.sources import KEYS, Entry, read_source


@dataclasses.dataclass(frozen=True)
class Source:
    """Rows of one kind, with what a batch must know of them.

    Attributes:
        name: as the mixture has it; ids of rows and texts begin with it, so that sources do not collide.
        rows: in a fixed order; ``task`` and ``query`` of each are what the query side reads.
        texts: id -> (title, text) of every positive and negative.
        symmetric: query and positive are of one kind, so both are written as queries and other queries are negatives.
        weight: how often its rows are seen in an epoch; 0.5: another half of them each epoch.
        share: of an epoch's rows, in place of ``weight``; 0: by weight.
        labels: query or text id -> class. What has a row's class is never its negative.
        matched: no pairs, but texts (``positive_id``) whose vectors shall stay where the base has them.
        skipped: reason -> how many rows of its files could not be used and do no harm.
        taught: query id -> text id -> score by a teacher, for distillation in place of the judge's grades.
    """

    name: str
    rows: Sequence[Example]
    texts: Mapping[str, tuple[str, str]]
    symmetric: bool = False
    weight: float = 1.0
    share: float = 0.0
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    matched: bool = False
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    taught: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)


def read_mixture(path: Path, *, seed: int = 0) -> tuple[Source, ...]:
    """Read the sources that a TOML file names; docs/mixture.md says what may stand in it.

    The whole file is checked before the first source is read. The same file, data and seed give the same rows.

    Args:
        path: the TOML file; paths in it are relative to its folder.
        seed: of every choice: which rows a limit keeps, which texts of a class are put together.

    Raises:
        TokayError: what the user has to mend, with the name of the source that it is in.
    """
    return tuple(_source(path, entry, seed) for entry in read_entries(path))


def _source(path: Path, entry: Entry, seed: int) -> Source:
    try:
        read = read_source(entry, seed=seed)
    except MissingExtra:
        raise
    except TokayError as error:
        raise TokayError(f"{path.name}, source {entry.name!r}: {error}") from error
    return Source(
        name=entry.name,
        rows=read.rows,
        texts=read.texts,
        symmetric=entry.is_symmetric(),
        weight=1.0 if entry.weight is None else entry.weight,
        share=entry.share or 0.0,
        labels=read.labels,
        matched=entry.kind == "texts",
        skipped=read.skipped,
    )


# -- the TOML file --------------------------------------------------------------------------------------------------


def read_entries(path: Path) -> list[Entry]:
    """What the file names, checked as far as it can be without reading a source.

    Raises:
        TokayError: the file cannot be read, or something in it is wrong.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TokayError(f"the mixture {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TokayError(f"the mixture {path} is not TOML: {error}") from error
    for key in data:
        if key != "source":
            raise TokayError(f"{path.name}: unknown key {key!r}; known here: source{did_you_mean(key, ['source'])}")
    sources = data.get("source")
    if not isinstance(sources, list) or not sources or not all(isinstance(source, dict) for source in sources):
        raise TokayError(f"the mixture {path} names no source; expected a table [[source]] for each")
    entries = [_entry(path, number, source) for number, source in enumerate(sources, 1)]
    _check_together(path, entries)
    return entries


def _entry(path: Path, number: int, source: Mapping[str, Any]) -> Entry:
    where = f"{path.name}, source {source.get('name', number)!r}"
    try:
        entry = Entry.model_validate(source)
    except ValidationError as error:
        raise TokayError(f"{where}: {'; '.join(faults_of(error, Entry, source, what='key'))}") from error
    for key in source:
        if key not in KEYS[entry.kind]:
            known = ", ".join(sorted(KEYS[entry.kind]))
            raise TokayError(f"{where}: kind {entry.kind!r} has no {key}; it knows {known}")
    if entry.weight is not None and entry.share is not None:
        raise TokayError(f"{where} has a weight and a share; leave one of them out")
    places = {key: _resolved(path.parent, getattr(entry, key)) for key in ("path", "queries", "qrels")}
    return entry.model_copy(update=places)


def _resolved(folder: Path, place: str) -> str:
    """A path below the mixture's folder; what is no path stays as it is."""
    if not place or place.startswith(("hf:", "python:")) or place == "python-stdlib":
        return place
    return str(folder / Path(place).expanduser())


def _check_together(path: Path, entries: Sequence[Entry]) -> None:
    """What is wrong with sources only beside each other."""
    names = [entry.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TokayError(f"{path.name}: several sources are called {twice[0]!r}; give each a name of its own")
    shares = sum(entry.share or 0.0 for entry in entries)
    if shares >= 1:
        raise TokayError(
            f"{path.name}: the shares add up to {shares:g}; expected less than 1, since the rest is for the sources "
            f"that have a weight"
        )
