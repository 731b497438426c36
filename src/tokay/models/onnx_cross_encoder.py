"""An exported cross-encoder run by onnxruntime: no torch and no transformers, only ``tokenizers`` and numpy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokay.errors import TokayError
from tokay.models.cross_encoder import CrossEncoder, check_folder
from tokay.models.folder import read_json
from tokay.models.onnx_embedder import FILES, open_session
from tokay.models.running import Ids, Run, Vectors
from tokay.models.tokens import Tokens

LOGITS = "logits"
"""The graph's output, by the name that sentence-transformers reads."""


class OnnxCrossEncoder(CrossEncoder):
    """Runs ``onnx/model.onnx`` or ``onnx/model_qint8.onnx`` of a reranker's folder."""

    def __init__(self, path: Path, tokens: Tokens, max_tokens: int, *, threads: int | None = None) -> None:
        self.path = path
        self.session = open_session(path, threads, output=LOGITS)
        self.tokens = tokens
        self.max_tokens = max_tokens
        self._shares: dict[int, Any] = {}

    @classmethod
    def load(  # type: ignore[override]  # the base class chooses the back-end, this is one
        cls, name_or_path: str | Path, *, int8: bool = False, threads: int | None = None
    ) -> OnnxCrossEncoder:
        """As ``CrossEncoder.load``.

        Raises:
            TokayError: the folder has no such graph, or one that does not fit what this expects.
        """
        folder = Path(name_or_path).expanduser()
        check_folder(folder)
        if not (folder / FILES[int8]).is_file():
            raise TokayError(
                f"{folder} has no {FILES[int8]}; 'tokay train RUN --what reranker' writes it where it is as good as "
                "the model; use backend torch"
            )
        limit = int(min(read_json(folder / "tokenizer_config.json").get("model_max_length") or 512, 10**9))
        positions = read_json(folder / "config.json").get("max_position_embeddings") or limit
        return cls(folder / FILES[int8], Tokens.read(folder), min(limit, int(positions)), threads=threads)

    def run(self, ids: Ids) -> Vectors:
        """As ``CrossEncoder.run``."""
        return self._run(self.session, ids)

    def _run(self, session: Any, ids: Any) -> Vectors:
        tokens, mask = self.tokens.padded(ids)
        inputs = {"input_ids": tokens, "attention_mask": mask}
        if any(i.name == "token_type_ids" for i in session.get_inputs()):
            inputs["token_type_ids"] = self.tokens.types(ids)
        logits: Vectors = session.run([LOGITS], inputs)[0]
        return logits

    @property
    def threads(self) -> int:
        """Cores that one call of ``run`` uses."""
        return int(self.session.get_session_options().intra_op_num_threads)

    @contextlib.contextmanager
    def shared(self, workers: int) -> Iterator[Run]:
        """As ``CrossEncoder.shared``, by one more session over the same file, which is kept."""
        share = max(1, self.threads // workers)
        if share not in self._shares:
            self._shares[share] = open_session(self.path, share, output=LOGITS)
        session = self._shares[share]
        yield lambda ids: self._run(session, ids)
