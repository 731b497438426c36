"""A cross-encoder: one number for a (query, passage) pair that is read together.

Letters: N pairs, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokay.errors import TokayError, first_line
from tokay.models.batching import by_token_budget
from tokay.models.locate import find_model
from tokay.models.torch_embedder import position_limits

TOKENS_PER_BATCH = 2048


class CrossEncoder:
    """A sequence classifier with one output, as sentence-transformers' CrossEncoder saves it."""

    def __init__(self, backbone: Any, tokenizer: Any) -> None:
        self._backbone: Any = backbone
        self._tokenizer = tokenizer
        self._max_tokens = min(position_limits(backbone, tokenizer))

    @classmethod
    def load(cls, name_or_path: str | Path) -> CrossEncoder:
        """Load a folder or a Hub name.

        Raises:
            TokayError: it is no sequence classifier with one output.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        folder = find_model(name_or_path)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            backbone = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
        except (OSError, ValueError, KeyError) as error:
            raise TokayError(f"{folder} cannot be loaded as a cross-encoder: {first_line(error)}") from error
        if backbone.config.num_labels != 1:
            raise TokayError(f"{folder} has {backbone.config.num_labels} outputs; expected a cross-encoder with one")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(backbone.to(device).eval(), tokenizer)

    @torch.inference_mode()
    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Logits of N (query, passage) pairs, in their order: (N,) float32. A long passage is cut, never the query."""
        if not pairs:
            return np.zeros(0, np.float32)
        written = self._tokenizer(
            [query for query, _ in pairs],
            [passage for _, passage in pairs],
            truncation="only_second",
            max_length=self._max_tokens,
        )
        ids: list[list[int]] = written["input_ids"]
        scores = np.empty(len(pairs), np.float32)
        for group in by_token_budget(sorted(range(len(ids)), key=lambda i: len(ids[i])), ids, TOKENS_PER_BATCH):
            batch = self._tokenizer.pad({name: [rows[i] for i in group] for name, rows in written.items()})
            tensors = {name: torch.tensor(rows, device=self._backbone.device) for name, rows in batch.items()}
            scores[group] = self._backbone(**tensors).logits[:, 0].float().cpu().numpy()
        return scores
