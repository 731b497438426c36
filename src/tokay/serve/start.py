"""What the command line says, to options and loaded models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from tokay.errors import TokayError
from tokay.expected import faults_of
from tokay.models.cross_encoder import CrossEncoder
from tokay.models.embedder import Backend, Embedder
from tokay.models.locate import find_model
from tokay.models.space import vector_space
from tokay.models.tasks import side_of
from tokay.search.index import Index, Searcher
from tokay.search.reranker import ABOUT, FOLDER, Reranker, read_about
from tokay.serve.options import Options


def make_options(**values: object) -> Options:
    """Options of those values that are not None.

    Raises:
        TokayError: a value is not what is expected.
    """
    given = {name: value for name, value in values.items() if value is not None}
    try:
        options = Options.model_validate(given)
    except ValidationError as error:
        raise TokayError("; ".join(faults_of(error, Options, given, what="option"))) from error
    try:
        side_of(options.default_kind)
    except TokayError as error:
        raise TokayError(str(error).replace("kind is", "default_kind is", 1)) from error
    return options


def load_models(
    words: Sequence[str],
    *,
    backend: str = "torch",
    threads: int | None = None,
    merge: bool = True,
    kept: dict[str, Any] | None = None,
) -> dict[str, Embedder]:
    """The models of ``NAME=PATH`` and ``PATH``, by the names that clients send; weights that are equal are held once.

    Args:
        words: what the command line says.
        backend: of all.
        threads: of the CPU.
        merge: see ``Embedder.load``.
        kept: weights that are held already, to which these are added.

    Raises:
        TokayError: two have one name, or one cannot be loaded.
    """
    if not merge and backend != "torch":
        raise TokayError(f"--no-merge is for adapters in torch, and --backend is {backend}; leave one of them out")
    kept = {} if kept is None else kept
    places: dict[str, str] = {}
    for word in words:
        name, place = _named(word)
        if name in places:
            raise TokayError(f"{places[name]} and {place} are both named {name!r}; name one of them: NAME={place}")
        places[name] = place
    models: dict[str, Embedder] = {}
    for name, place in places.items():
        models[name] = Embedder.load(place, backend=cast("Backend", backend), threads=threads, merge=merge)
        models[name].keep_once(kept)  # before the next is loaded, so that the peak is one model higher at most
    for name, embedder in models.items():
        if backend != "static":  # a table's vectors are its own, whatever it was distilled from
            embedder.space = vector_space(find_model(places[name]))
        embedder.encode(["The first text is the slowest, and no client should wait for it."], kind="query")
    return models


def load_indexes(words: Sequence[str], *, kept: dict[str, Any] | None = None) -> dict[str, Searcher]:
    """The indexes of ``NAME=PATH`` and ``PATH``, each with the model that made it; ``kept`` as of ``load_models``.

    Raises:
        TokayError: two have one name, one is no index, or its model is gone or another one.
    """
    kept = {} if kept is None else kept
    indexes: dict[str, Searcher] = {}
    for word in words:
        name, place = _named(word)
        if name in indexes:
            raise TokayError(f"{indexes[name].index.folder} and {place} are both named {name!r}; write NAME={place}")
        index = Index.open(Path(place))
        indexes[name] = Searcher(index, index.load_model())
        indexes[name].embedder.keep_once(kept)
        indexes[name].embedder.space = index.header.model.fingerprint
    return indexes


def load_rerankers(
    words: Sequence[str],
    models: Sequence[str] = (),
    indexes: Mapping[str, Searcher] | None = None,
    *,
    latency_ms: float | None = None,
    threads: int | None = None,
) -> dict[str, Reranker[CrossEncoder]]:
    """The rerankers of ``NAME=PATH`` and ``PATH``; and those of served runs and indexes, where a verdict was for them.

    Args:
        words: what was asked for.
        models: the runs and models that are served, as ``load_models`` takes them.
        indexes: the indexes that are served; one of a run gets that run's reranker, under its own name.
        latency_ms: what reranking one query may take.
        threads: of the CPU.

    Raises:
        TokayError: two have one name, or one cannot be loaded.
    """
    places: dict[str, str] = {}
    for word in words:
        name, place = _named(word)
        if name in places:
            raise TokayError(f"{places[name]} and {place} are both named {name!r}; name one of them: NAME={place}")
        places[name] = place
    own = {**dict(map(_named, models)), **{name: s.index.header.model.name for name, s in (indexes or {}).items()}}
    for name, place in own.items():
        about = Path(place).expanduser() / FOLDER
        if name not in places and (about / ABOUT).is_file() and read_about(about).use:
            places[name] = place
    loaded: dict[str, Reranker[CrossEncoder]] = {}
    for place in dict.fromkeys(places.values()):
        loaded[place] = Reranker.load(place, latency_ms=latency_ms, threads=threads)
        loaded[place].model.score([("The first text is the slowest,", "and no client should wait for it.")])
    return {name: loaded[place] for name, place in places.items()}


def _named(word: str) -> tuple[str, str]:
    """The name and the place of a model."""
    path = Path(word).expanduser()
    if "=" in word and not path.exists():
        name, _, place = word.partition("=")
        return name, place
    return (path.resolve().name if path.is_dir() else word), word
