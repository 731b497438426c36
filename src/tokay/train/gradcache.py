"""Any loss over the vectors of a batch, at any batch size: GradCache (Gao et al. 2021, arXiv 2101.06983).

The gradient of a loss goes through the vectors, and each vector depends on its own text alone. So texts are encoded in
chunks, the loss is differentiated with respect to the vectors, and each chunk is differentiated with respect to the
weights with its vectors' gradients. A chunk whose activations were thrown away is encoded a second time, from the same
state of the random numbers. The plain path is the case in which none was thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from tokay.train.engine import Engine

C = TypeVar("C", bound="Chunk")


class Chunk(Protocol):
    """A micro-batch: its length is the number of its texts."""

    def __len__(self) -> int: ...


def backward(
    encode: Callable[[C], Tensor],
    chunks: Sequence[C],
    loss: Callable[[Tensor], Tensor],
    *,
    kept: Callable[[int], bool],
    engine: Engine,
) -> float:
    """Add the gradients of ``loss(encode(chunks))`` to the weights' ``.grad``.

    Args:
        encode: a chunk of n texts -> (n, D), with a graph where gradients are on.
        chunks: of the whole batch, the same in every process.
        loss: (N, D) vectors in the order of the chunks -> a scalar.
        kept: whether the activations of this process's chunk of this index stay in memory.
        engine: precision and processes.

    Returns:
        The loss.
    """
    with engine.shared_casts():
        mine = engine.share(chunks)
        graphs: list[Tensor | None] = []
        states, vectors = [], []
        for at, chunk in enumerate(mine):
            states.append(_random_state(engine.device))
            with torch.set_grad_enabled(kept(at)), engine.autocast():
                out = encode(chunk).float()
            graphs.append(out if kept(at) else None)
            vectors.append(out.detach())
        sizes = [len(chunk) for chunk in chunks]
        width = vectors[0].shape[1] if vectors else 1
        leaves = engine.gather(torch.cat(vectors) if vectors else torch.zeros(0, width), sizes).requires_grad_()
        value = loss(leaves)
        engine.backward(value)
        gradient = leaves.grad
        assert gradient is not None  # every loss here depends on the vectors
        engine.forget_casts()  # some of them may have been made without a graph
        for graph, chunk, state, part in zip(
            graphs, mine, states, engine.share(torch.split(gradient, sizes)), strict=True
        ):
            if graph is None:
                after = _random_state(engine.device)
                _set_random_state(state, engine.device)
                with engine.autocast():
                    graph = encode(chunk).float()
                _set_random_state(after, engine.device)
            graph.backward(part)  # type: ignore[no-untyped-call]
        return value.item()


def _random_state(device: torch.device) -> list[Tensor]:
    on_gpu = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *on_gpu]


def _set_random_state(state: Sequence[Tensor], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)
