"""Several adapters of edits over one base as one runner: texts for any of them stand in one micro-batch.

Each text's token ids carry which adapter they are for, and each row of the batch takes that adapter's matrices
(``reft_stack``). The base is there once, and is run once for all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from tokay.models.layers import weights_print
from tokay.models.reft_model import ReftModel
from tokay.models.reft_stack import Stack
from tokay.models.running import Ids, Run, Vectors

if TYPE_CHECKING:
    from tokay.models.torch_embedder import TorchEmbedder


class Row(list[int]):
    """Token ids of a text, and the place in the stack of the adapter that it is for."""

    def __init__(self, ids: Sequence[int], place: int) -> None:
        super().__init__(ids)
        self.place = place


class Bank:
    """What runs micro-batches for all adapters over one base.

    Args:
        embedder: over the base, with an adapter in force; its backbone becomes the bank's.
    """

    def __init__(self, embedder: TorchEmbedder) -> None:
        self.backbone: ReftModel = embedder.backbone
        self.embedder = type(embedder)(self.backbone, embedder.tokenizer, embedder.config, embedder.head).eval()
        self.stack = Stack(self.backbone.width)
        self.tokens_per_batch = embedder.tokens_per_batch
        self.width = embedder.width

    def take(self, model: ReftModel) -> int:
        """Take in the adapter in force; returns its place."""
        adapter, name = model.adapter, str(len(self.stack.names))
        place = self.stack.add(name, adapter.edits, adapter.config.parts)
        if model is self.backbone and model.active is not None:
            model.delete_adapter(model.active)
        self.backbone.stack = self.stack
        return place

    @property
    def threads(self) -> int:
        """Cores that one call of ``run`` uses; 0 on a GPU."""
        return self.embedder.threads

    def run(self, ids: Ids) -> Vectors:
        """Vectors of one micro-batch, (N, W); a list of ids that is no ``Row`` is for the plain base."""
        places = torch.tensor([row.place if isinstance(row, Row) else 0 for row in ids])
        with self.backbone.scope(None, places):
            return self.embedder.run(ids)

    @contextlib.contextmanager
    def shared(self, workers: int) -> Iterator[Run]:
        """As ``Runner.shared``."""
        with self.embedder.shared(workers):
            yield self.run


def join(embedder: TorchEmbedder, kept: dict[str, Any]) -> tuple[Bank, int]:
    """Move an embedder's adapter into the bank of its base in ``kept``, which is made where there is none.

    Returns:
        The bank, and the place in it.
    """
    model: ReftModel = embedder.backbone
    weight = next(model.model.parameters())
    behind = f"{embedder.config.pooling} {embedder.head.steps} {weights_print(embedder.head)}"
    key = f"bank {model.base_print} {weight.device} {weight.dtype} {behind}"
    if key not in kept:
        kept[key] = Bank(embedder)
    bank: Bank = kept[key]
    return bank, bank.take(model)
