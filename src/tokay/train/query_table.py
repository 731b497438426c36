"""A query side without a transformer: one vector a token and a mean, distilled from a tower and fitted to judgments.

The table starts from the tower's vector of each token alone, with whole words of the corpus as tokens of their own. It
then learns, on spans of the passages and on the written queries, to rank the passages as the tower does, and on the
judged queries to rank what answers them first. Passages are constants, so each text is compared with all of them.

Letters: B texts of a batch, C columns, V tokens of the vocabulary, W width of the passages' vectors.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tokay.models.embedder import Embedder
from tokay.models.tokens import Tokens
from tokay.progress import Progress, Silent
from tokay.search.dense import unit
from tokay.train.frozen import TEMPERATURE, Asked, Frozen, ranking_loss, targets_of

SPANS = 8_000
"""Texts cut from passages that the tower's vectors are distilled on, at most."""
OFTEN = 3
"""Times that a word must occur to get a token of its own."""
EPOCHS, BATCH, RATE = 20, 256, 3e-3
JUDGED = 0.3
"""Weight of the judged queries' loss beside that of the distillation."""
RARE = 1e-3
"""Arora et al. 2017 (SIF): a token of share p weighs a / (a + p) at the start."""
_WORD = re.compile(r"[^\W_]+")


@dataclasses.dataclass(frozen=True)
class QueryTable:
    """Token vectors (V, W), the tokenizer that they belong to, and what the training took."""

    table: NDArray[np.float32]
    tokens: Tokens
    spans: int
    steps: int
    seconds: float


def spans_of(texts: Iterable[tuple[str, str]], count: int) -> list[str]:
    """Pieces of passages that are as long as queries: titles, sentences, and runs of three to ten words.

    Which ones depends on nothing but their text.

    Args:
        texts: title and text of each passage.
        count: at most so many.
    """
    found: set[str] = set()
    for title, text in texts:
        found.update(one for one in (title, *re.split(r"(?<=[.!?])\s+|\n+", text)) if 2 <= len(one.split()) <= 20)
        words = text.split()
        rng = np.random.default_rng(int.from_bytes(_digest(text)[:4], "big"))
        for _ in range(min(8, len(words) // 6)):
            start, length = int(rng.integers(0, len(words))), int(rng.integers(3, 11))
            found.add(" ".join(words[start : start + length]))
    return sorted(found, key=_digest)[:count]


def with_words(tokens: Tokens, texts: Iterable[str]) -> Tokens:
    """The tokenizer with whole words of some texts in its vocabulary; one that is no WordPiece stays as it is."""
    from tokenizers import Tokenizer

    parts: dict[str, Any] = json.loads(tokens.tokenizer.to_str())
    if parts["model"]["type"] != "WordPiece":
        return Tokens(Tokenizer.from_str(json.dumps(parts)), pad=tokens.pad, left=tokens.left)
    counts = Counter(word for text in texts for word in _WORD.findall(text.lower()))
    often = [word for word, count in sorted(counts.items()) if count >= OFTEN and word.isascii()]
    vocabulary: dict[str, int] = parts["model"]["vocab"]
    taken = {*vocabulary.values(), *(entry["id"] for entry in parts["added_tokens"])}
    split = [word for word, row in zip(often, tokens.encode(often, special=False), strict=True) if len(row) > 1]
    vocabulary |= {word: max(taken) + 1 + i for i, word in enumerate(split)}
    return Tokens(Tokenizer.from_str(json.dumps(parts)), pad=tokens.pad, left=tokens.left)


def train_table(
    tower: Embedder,
    asked: Sequence[Asked],
    frozen: Frozen,
    texts: Sequence[tuple[str, str]],
    *,
    progress: Progress | None = None,
) -> QueryTable:
    """Distil a tower into a table, and fit it to the judged queries.

    Args:
        tower: the query side whose vectors are learned.
        asked: training-side queries.
        frozen: the passages.
        texts: title and text of the open passages.
        progress: advanced by texts, then by steps.
    """
    progress = progress or Silent()
    began = time.perf_counter()
    targets = targets_of(asked, frozen)
    queries = [asked[i].text for i in targets.rows.tolist()]
    spans = [*spans_of(texts, SPANS), *queries]
    progress.start("table: what the tower says", len(spans))
    taught = torch.from_numpy(unit(tower.encode(spans, kind="query", progress=progress)))
    tokens = with_words(tower.tokens, [*(f"{title} {text}" for title, text in texts), *queries])
    ids = tokens.encode(spans, special=False)
    used = [i for i, row in enumerate(ids) if row]
    table = _start(tower, tokens, ids, progress)
    seen, flat = np.unique(np.concatenate([ids[i] for i in used]), return_inverse=True)
    pieces = torch.from_numpy(flat).split([len(ids[i]) for i in used])  # type: ignore[no-untyped-call]
    rows = dict(zip(used, pieces, strict=True))
    judged = {len(spans) - len(queries) + i: i for i in range(len(queries))}
    part = torch.from_numpy(table[seen]).requires_grad_()
    optimizer = torch.optim.Adam([part], lr=RATE)
    steps = EPOCHS * -(-len(used) // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    progress.start("query table", steps)
    answers = sorted(judged.keys() & rows.keys())
    for batch, answer in zip(_batches(used, BATCH, EPOCHS), _batches(answers, BATCH // 2, 10**9), strict=False):
        near = _encode(part, [rows[i] for i in batch])
        loss = _distance(near, taught[batch], targets.vectors)
        if answer and JUDGED:
            own = targets.some([judged[i] for i in answer])
            loss = loss + JUDGED * ranking_loss(_encode(part, [rows[i] for i in answer]), own)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        progress.advance(note=f"loss {loss.item():.3f}")
    table[seen] = part.detach().numpy()
    return QueryTable(table, tokens, len(spans) - len(queries), steps, time.perf_counter() - began)


def _distance(vectors: Tensor, taught: Tensor, passages: Tensor) -> Tensor:
    """Divergence of the softmax over passages from the teacher's, and cosine distance to its vectors."""
    ours = (vectors @ passages.T / TEMPERATURE).log_softmax(1)
    theirs = (taught @ passages.T / TEMPERATURE).log_softmax(1)
    return F.kl_div(ours, theirs, log_target=True, reduction="batchmean") + 1 - (vectors * taught).sum(1).mean()


def _encode(table: Tensor, rows: Sequence[Tensor]) -> Tensor:
    starts = torch.tensor([0, *(len(row) for row in rows[:-1])]).cumsum(0)
    return F.normalize(F.embedding_bag(torch.cat(list(rows)), table, starts, mode="mean"), dim=1)


def _batches(items: Sequence[int], size: int, epochs: int) -> Iterator[list[int]]:
    """Items in an order that is another one each round; of no items, empty batches."""
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(items))
        for start in range(0, max(1, len(items)), size):
            yield [items[i] for i in order[start : start + size]]


def _start(tower: Embedder, tokens: Tokens, ids: Sequence[Sequence[int]], progress: Progress) -> NDArray[np.float32]:
    """The tower's vector of each token alone, damped by its share in the texts: (V, W)."""
    size = tokens.tokenizer.get_vocab_size()
    words = [str(tokens.tokenizer.id_to_token(i) or "").removeprefix("##") for i in range(size)]
    progress.start("table: tokens alone", size)
    table = unit(tower.encode(words, kind="query", progress=progress))
    counts = np.bincount(np.concatenate([np.asarray(row, np.int64) for row in ids]), minlength=size)
    share = (counts + 1) / (counts.sum() + size)
    table *= (RARE / (RARE + share))[:, None]
    return np.asarray(table / np.linalg.norm(table, axis=1).mean(), np.float32)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
