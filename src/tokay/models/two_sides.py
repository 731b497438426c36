"""A model whose queries and passages have sides of their own, in sentence-transformers' Router layout.

::

    modules.json, router_config.json     one module, Router, with a route for each side
    config_sentence_transformers.json    prompts
    query_side.json                      the form of the query side, and the passages' vector space
    query/                               the query side: a tower or a table of token vectors; or, of a map, its Dense
    document/                            the passages' model, unchanged; absent where another tool encodes passages

A map's query route is the document's backbone with a Dense layer behind it, so its files are there once. A folder
that maps the query vectors of an API holds the Dense layer alone, and no Router.

Letters: N texts, D width of the query's own model, W width of the passages' vectors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tokay.errors import TokayError
from tokay.models.dense import read_matrix
from tokay.models.embedder import Embedder
from tokay.models.folder import PROMPTS, EmbedderConfig, read_prompts, write_prompts
from tokay.models.running import Ids, Run, Vectors
from tokay.models.tasks import side_of
from tokay.progress import Progress
from tokay.search.dense import unit

Form = Literal["map", "tower", "table"]
FORMS: tuple[Form, ...] = get_args(Form)
ROUTER, ABOUT = "router_config.json", "query_side.json"
QUERY, DOCUMENT, DENSE = "query", "document", "query/3_Dense"
_TYPE = "sentence_transformers.models."


@dataclasses.dataclass(frozen=True)
class About:
    """``query_side.json``: what the query side is, and which space its vectors are for."""

    form: Form
    vector_space: str
    width: int


def is_two_sided(folder: Path) -> bool:
    """Whether a folder has a query side of Tokay's making."""
    return (folder / ABOUT).is_file()


def read_about(folder: Path) -> About:
    """What a folder says of its query side.

    Raises:
        TokayError: the file is damaged.
    """
    path = folder / ABOUT
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        about = About(**{field.name: data[field.name] for field in dataclasses.fields(About)})
    except (ValueError, TypeError, KeyError) as error:
        raise TokayError(f"{path} is damaged ({error}); make the query side again with 'tokay train'") from error
    if about.form not in FORMS:
        raise TokayError(f"{path} has the form {about.form!r}; this version of Tokay knows {', '.join(FORMS)}")
    return about


# -- reading ----------------------------------------------------------------------------------------------------------


class Mapped(Embedder):
    """An embedder with a matrix behind it: ``v -> v M'``, then at length 1.

    Args:
        inner: vectors of D numbers.
        matrix: M, (W, D).
    """

    def __init__(self, inner: Embedder, matrix: NDArray[np.float32]) -> None:
        self.inner, self.matrix = inner, matrix
        self.config = dataclasses.replace(inner.config, normalize=True, dims=())
        self.tokens = inner.tokens

    @property
    def width(self) -> int:
        """W."""
        return len(self.matrix)

    @property
    def threads(self) -> int:
        """As the inner one."""
        return self.inner.threads

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """As the inner one."""
        return self.inner.tokenize(texts)

    def run(self, ids: Ids) -> Vectors:
        """As ``Embedder.run``."""
        return self.map(self.inner.run(ids))

    def map(self, vectors: Vectors) -> Vectors:
        """(N, D) -> (N, W), not at length 1."""
        kept = unit(vectors) if self.inner.config.normalize else vectors
        return np.asarray(kept @ self.matrix.T, np.float32)

    @contextlib.contextmanager
    def shared(self, workers: int) -> Iterator[Run]:
        """As ``Embedder.shared``."""
        with self.inner.shared(workers) as run:
            yield lambda ids: self.map(run(ids))

    def _vectors(
        self, ids: list[list[int]], counts: list[int], workers: int | None, progress: Progress
    ) -> NDArray[np.float32]:
        return self.map(self.inner._vectors(ids, counts, workers, progress))


class TwoSided(Embedder):
    """Queries by one embedder, passages by another, which is loaded when the first passage comes.

    Args:
        folder: with both sides.
        device: of torch; None: a GPU when there is one.
        threads: of the CPU; None: all cores.
    """

    def __init__(self, folder: Path, *, device: str | None = None, threads: int | None = None) -> None:
        self.folder, self.device, self.threads_wanted = folder, device, threads
        self.about = read_about(folder)
        if not (folder / ROUTER).is_file():
            raise TokayError(
                f"{folder} holds a matrix for the query vectors of another model, and reads no text; multiply those "
                "vectors by it (docs/keep-index.md)"
            )
        self._lock = threading.Lock()
        self._passages: Embedder | None = None
        self.query = self._load_query()
        self.config: EmbedderConfig = self.query.config
        self.tokens = self.query.tokens

    def _load_query(self) -> Embedder:
        folder = self.folder
        if self.about.form == "table":
            from tokay.models.static_embedder import StaticEmbedder

            return StaticEmbedder.load(folder / QUERY)
        inner = self._load(folder / QUERY) if _is_whole(folder / QUERY) else self.passages
        return Mapped(inner, read_matrix(folder / DENSE)) if (folder / DENSE).is_dir() else inner

    def _load(self, folder: Path) -> Embedder:
        from tokay.models.torch_embedder import TorchEmbedder

        return TorchEmbedder.load(folder, device=self.device, threads=self.threads_wanted)

    @property
    def passages(self) -> Embedder:
        """The passages' side.

        Raises:
            TokayError: there is none, as their vectors came from elsewhere.
        """
        with self._lock:
            if self._passages is None:
                if not (self.folder / DOCUMENT).is_dir():
                    raise TokayError(
                        f"{self.folder} encodes queries alone: the passages' vectors came from a file, and the model "
                        "that made them is not here; encode passages with that model"
                    )
                self._passages = self._load(self.folder / DOCUMENT)
            return self._passages

    def of(self, kind: str) -> Embedder:
        """The side that texts of a kind are for."""
        return self.query if side_of(kind)[0] == "query" else self.passages

    @property
    def width(self) -> int:
        """W."""
        return self.query.width

    @property
    def threads(self) -> int:
        """As the query side."""
        return self.query.threads

    def run(self, ids: Ids) -> Vectors:
        """Of the query side."""
        return self.query.run(ids)

    def write(self, texts: Any, *, kind: str = "passage", titles: Any = None) -> list[str]:
        """As ``Embedder.write``, by the side of the kind."""
        return self.of(kind).write(texts, kind=kind, titles=titles)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Of the query side."""
        return self.query.tokenize(texts)

    def stream(self, texts: Any, *, kind: str = "passage", **options: Any) -> Iterator[NDArray[Any]]:
        """As ``Embedder.stream``, by the side of the kind."""
        return self.of(kind).stream(texts, kind=kind, **options)


# -- writing ----------------------------------------------------------------------------------------------------------


def write_about(folder: Path, about: About) -> None:
    """Write ``query_side.json``."""
    text = json.dumps(dataclasses.asdict(about), indent=1)
    (folder / ABOUT).write_text(text + "\n", encoding="utf-8")


def write_router(folder: Path, about: About) -> None:
    """Write what makes two sides one model, once ``query/`` and ``document/`` are there; ``query_side.json`` last.

    Without a passage side there is one route, and sentence-transformers refuses to encode documents.
    """
    sides = {QUERY: QUERY if _is_whole(folder / QUERY) else DOCUMENT, DOCUMENT: DOCUMENT}
    structure: dict[str, list[str]] = {}
    types: dict[str, str] = {}
    for route, side in sides.items():
        if not (folder / side).is_dir():
            continue
        modules = _modules_of(folder, side)
        if route == QUERY:
            modules = modules[:-1] if modules[-1][1] == "Normalize" else modules
            if (folder / DENSE).is_dir():
                modules.append((DENSE, "Dense"))
            modules.append((f"{QUERY}/4_Normalize", "Normalize"))
            (folder / QUERY / "4_Normalize").mkdir(parents=True, exist_ok=True)
        structure[route] = [path for path, _ in modules]
        types |= {path: _TYPE + kind for path, kind in modules}
    only = DOCUMENT not in structure
    parameters = {"default_route": None if only else DOCUMENT, "allow_empty_key": not only}
    router = {"types": types, "structure": structure, "parameters": parameters}
    modules_json = [{"idx": 0, "name": "0", "path": "", "type": f"{_TYPE}Router"}]
    prompts, _ = read_prompts(folder / QUERY if (folder / QUERY / PROMPTS).is_file() else folder / DOCUMENT)
    if not only:
        passages, _ = read_prompts(folder / DOCUMENT)
        prompts = dataclasses.replace(prompts, passage=passages.passage)
    (folder / ROUTER).write_text(json.dumps(router, indent=2) + "\n", encoding="utf-8")
    (folder / "modules.json").write_text(json.dumps(modules_json, indent=2) + "\n", encoding="utf-8")
    write_prompts(folder, EmbedderConfig("mean", True, 0, prompts))
    write_about(folder, about)


def _is_whole(side: Path) -> bool:
    """Whether a side's folder is a model of its own; a map's is none where it stands behind the passages' model."""
    return (side / "modules.json").is_file()


def _modules_of(folder: Path, side: str) -> list[tuple[str, str]]:
    """Path and kind of the modules of one side's own folder."""
    entries = json.loads((folder / side / "modules.json").read_text(encoding="utf-8"))
    return [(f"{side}/{e['path']}".rstrip("/"), e["type"].rsplit(".", 1)[-1]) for e in entries]
