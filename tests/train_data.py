"""What the training tests train on: forty passages of two to seven words, and a query for each."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from tiny import WORDS, tiny_base
from tokay.models.torch_embedder import TorchEmbedder
from tokay.records import Example
from tokay.settings import TrainSettings
from tokay.train.adapters import adapter_of
from tokay.train.dev import DevSet
from tokay.train.embedder import prepared
from tokay.train.mixture import Source

PASSAGES = {f"p{i}": (WORDS[i], " ".join(WORDS[i : i + 2 + i % 6])) for i in range(40)}


def row(i: int, **changes: Any) -> Example:
    """Query i, whose words are those of passage i; without negatives or grades."""
    plain = Example(
        query_id=f"q{i}",
        task="",
        query=f"{WORDS[i + 2]} {WORDS[i]}",
        seed_id=f"p{i}",
        positive_id=f"p{i}",
        negative_ids=[],
        relevant_ids=[f"p{i}"],
        candidate_ids=[],
        grades=[],
        relabelled=False,
        part="train",
    )
    return dataclasses.replace(plain, **changes)


def judged(i: int) -> Example:
    """The same with a hard negative, a second answer, and the grades of four candidates."""
    near, also, far = (f"p{(i + step) % 40}" for step in (7, 3, 11))
    return row(
        i,
        negative_ids=[near],
        relevant_ids=[f"p{i}", also],
        candidate_ids=[f"p{i}", also, near, far],
        grades=[3, 2, 1, 0],
    )


ROWS = [row(i) for i in range(40)]


def source(name: str = "run", rows: Sequence[Example] = ROWS, **changes: Any) -> Source:
    return Source(name, rows, PASSAGES, **changes)


def settings(**changes: Any) -> TrainSettings:
    """Of a training of eight steps: 3 epochs of 40 rows in batches of 16."""
    plain = {"epochs": 3, "batch_size": 16, "learning_rate": 2e-3, "precision": "fp32", "dims": (16,)}
    return TrainSettings.model_validate({**plain, **changes})


@functools.cache
def _base() -> TorchEmbedder:
    return TorchEmbedder.load(tiny_base(), device="cpu")


def base() -> TorchEmbedder:
    """A copy of the tiny base: 2 layers, 32 wide."""
    return _base().clone().eval()


def ready(chosen: TrainSettings) -> TorchEmbedder:
    """A copy that is about to be trained; the matrices of an adapter are drawn by the settings' seed."""
    tuned = prepared(base(), chosen)
    torch.manual_seed(chosen.seed)
    adapter_of(chosen).attach(tuned)
    return tuned


def dev() -> DevSet:
    """Eight of the queries, to be found among all passages."""
    chosen = [row(i) for i in range(0, 40, 5)]
    return DevSet({e.query_id: e.query for e in chosen}, PASSAGES, {e.query_id: {e.positive_id: 3} for e in chosen})


@contextlib.contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """The system refuses to write a file beyond so many bytes: what a full disk looks like to whoever writes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
