"""A static model: one vector a token, distilled from the tuned model, for places with no transformer at all.

model2vec starts from the vector that the model gives to each token alone, damped by how frequent the token is. That
start is improved here on the corpus itself: texts shall be as near to each other as the model has them. (That each
text's vector shall point where the model's does is the weaker aim, as what all texts have in common dominates it:
docs/log.md.) Only texts that the model was trained on are used, so that the verdict on the others stays fair.

Letters: N texts, V tokens of the vocabulary, D width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tokay.models.embedder import Embedder
from tokay.models.folder import write_prompts
from tokay.models.static_embedder import TABLE
from tokay.models.torch_embedder import TorchEmbedder
from tokay.progress import Progress, Silent
from tokay.search.dense import unit

RARE = 1e-3
"""Arora et al. 2017 (SIF): a token of share p weighs a / (a + p)."""
COMMON = 3
"""Directions that most tokens share, which are taken out (Mu and Viswanath 2018, "All-but-the-Top")."""
EPOCHS, BATCH, RATE, TEMPERATURE = 30, 512, 3e-3, 0.05


def distil_static(
    embedder: TorchEmbedder, texts: Sequence[str], vectors: NDArray[np.float32], *, progress: Progress | None = None
) -> NDArray[np.float32]:
    """Token vectors (V, D) whose means over texts are as near to each other as the model's vectors are.

    The loss of a batch is the Kullback-Leibler divergence of each text's softmax over the cosines to the others, the
    model's from the table's. Tokens that no text has stay where they start.

    Args:
        embedder: the model.
        texts: N texts as the model reads them, prompts and titles written.
        vectors: the model's unit vectors of them, (N, D).
        progress: advanced by epochs.
    """
    progress = progress or Silent()
    ids = embedder.tokens.encode(texts, special=False)
    table = _start(embedder, ids)
    used = [i for i, row in enumerate(ids) if row]
    if len(used) < 2:
        return table
    seen, flat = np.unique(np.concatenate([ids[i] for i in used]), return_inverse=True)
    rows = torch.from_numpy(flat).split([len(ids[i]) for i in used])  # type: ignore[no-untyped-call]
    target = torch.from_numpy(np.asarray(vectors, np.float32)[used])
    part = torch.from_numpy(table[seen]).requires_grad_()
    optimizer = torch.optim.Adam([part], lr=RATE)
    steps = EPOCHS * -(-len(used) // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    generator = torch.Generator().manual_seed(0)
    progress.start("static model: epochs", EPOCHS)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(used), generator=generator).split(BATCH):  # type: ignore[no-untyped-call]
            loss = _loss(part, [rows[i] for i in batch.tolist()], target[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        progress.advance(note=f"divergence {loss.item():.3f}")
    table[seen] = part.detach().numpy()
    return table


def _loss(table: Tensor, rows: Sequence[Tensor], target: Tensor) -> Tensor:
    starts = torch.tensor([0, *(len(row) for row in rows[:-1])]).cumsum(0)
    vectors = F.normalize(F.embedding_bag(torch.cat(list(rows)), table, starts, mode="mean"), dim=1)

    def near(v: Tensor) -> Tensor:
        itself = torch.eye(len(v), dtype=torch.bool)
        return (v @ v.T / TEMPERATURE).masked_fill(itself, -1e4).log_softmax(1)

    return F.kl_div(near(vectors), near(target), log_target=True, reduction="batchmean")


def _start(embedder: TorchEmbedder, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """The model's own vector of each token, without what all share, damped by its share in the texts: (V, D)."""
    size = embedder.tokens.tokenizer.get_vocab_size()
    frame = embedder.tokens.encode([""])[0]
    begin, end = (frame[:1], frame[-1:]) if len(frame) > 1 else (frame, [])
    alone = [[*begin, token, *end] for token in range(size)]
    table = np.concatenate([embedder.run(alone[i : i + 512]) for i in range(0, size, 512)])
    table = unit(table)
    table -= table.mean(0)
    _, _, directions = np.linalg.svd(table, full_matrices=False)
    common = directions[:COMMON]
    table -= (table @ common.T) @ common
    counts = np.bincount(np.concatenate([np.asarray(row, np.int64) for row in ids]) if ids else [], minlength=size)
    share = (counts + 1) / (counts.sum() + size)
    table *= (RARE / (RARE + share))[:, None]
    return np.asarray(table / np.linalg.norm(table, axis=1).mean(), np.float32)


def write_static(embedder: Embedder, table: NDArray[np.float32], folder: Path) -> None:
    """Write a folder that sentence-transformers loads as ``StaticEmbedding`` and ``Embedder`` with backend static."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({"embedding.weight": np.ascontiguousarray(table)}, folder / TABLE)
    embedder.tokens.save(folder)
    types = ("StaticEmbedding", "Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": "" if i == 0 else f"{i}_{t}", "type": f"sentence_transformers.models.{t}"}
        for i, t in enumerate(types)
    ]
    (folder / "1_Normalize").mkdir(exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(modules, indent=2) + "\n", encoding="utf-8")
    write_prompts(folder, embedder.config)
