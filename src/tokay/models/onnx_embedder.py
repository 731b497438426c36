"""An exported embedder run by onnxruntime: no torch and no transformers, only ``tokenizers`` and numpy.

Pooling and normalisation are inside the graph, so what comes out is the vector.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokay.errors import MissingExtra, TokayError, first_line
from tokay.models.embedder import Embedder
from tokay.models.folder import EmbedderConfig, read_config
from tokay.models.locate import find_export
from tokay.models.precision import Calibration
from tokay.models.running import Ids, Run, Vectors
from tokay.models.tokens import Tokens

try:
    import onnxruntime
except ModuleNotFoundError as error:
    raise MissingExtra("a model in ONNX", "serve", "onnxruntime") from error

FILES = {False: "onnx/model.onnx", True: "onnx/model_qint8.onnx"}
"""Of the exact graph and of the one in int8, by the names that sentence-transformers uses."""
OUTPUT = "sentence_embedding"


class OnnxEmbedder(Embedder):
    """Runs ``onnx/model.onnx`` or ``onnx/model_qint8.onnx`` of a folder that ``tokay export`` wrote."""

    tokens_per_batch = 1024

    def __init__(self, path: Path, tokens: Tokens, config: EmbedderConfig, *, threads: int | None = None) -> None:
        self.path = path
        self.session = open_session(path, threads)
        self.tokens = tokens
        self.config = config
        self._shares: dict[int, Any] = {}

    @classmethod
    def load(  # type: ignore[override]  # the base class chooses the back-end, this is one
        cls, name_or_path: str | Path, *, int8: bool = False, threads: int | None = None
    ) -> OnnxEmbedder:
        """As ``Embedder.load``.

        Raises:
            TokayError: the folder has no such graph, or one that does not fit what this expects.
        """
        folder = find_export(name_or_path, FILES[int8], "onnx-int8" if int8 else "onnx")
        config, _ = read_config(folder)
        embedder = cls(folder / FILES[int8], Tokens.read(folder), config, threads=threads)
        embedder.calibration = Calibration.load(folder)
        return embedder

    @property
    def width(self) -> int:
        """D, the number of dimensions of a full vector."""
        return int(next(o for o in self.session.get_outputs() if o.name == OUTPUT).shape[-1])

    def run(self, ids: Ids) -> Vectors:
        """As ``Embedder.run``."""
        return self._run(self.session, ids)

    def _run(self, session: Any, ids: Ids) -> Vectors:
        tokens, mask = self.tokens.padded(ids)
        vectors: Vectors = session.run([OUTPUT], {"input_ids": tokens, "attention_mask": mask})[0]
        return vectors

    @property
    def threads(self) -> int:
        """Cores that one call of ``run`` uses."""
        return int(self.session.get_session_options().intra_op_num_threads)

    @contextlib.contextmanager
    def shared(self, workers: int) -> Iterator[Run]:
        """As ``Embedder.shared``, by one more session over the same file, which is kept."""
        share = max(1, self.threads // workers)
        if share not in self._shares:
            self._shares[share] = open_session(self.path, share)
        session = self._shares[share]
        yield lambda ids: self._run(session, ids)


def open_session(path: Path, threads: int | None, *, output: str = OUTPUT) -> Any:
    """A session on the CPU, over a graph with this output.

    Raises:
        TokayError: the file is no graph that onnxruntime runs.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library has no base class of its own
        raise TokayError(f"{path} cannot be run by onnxruntime: {first_line(error)}") from error
    if output not in (names := [o.name for o in session.get_outputs()]):
        raise TokayError(f"{path} gives {', '.join(names)}; expected {output!r}: write it by tokay")
    return session
