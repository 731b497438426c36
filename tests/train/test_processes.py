"""Two processes that share every batch give what one gives: this file is the test, and what each process runs."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import pytest
import torch
from safetensors.torch import load_file, save_file

from tokay.errors import TokayError
from tokay.models.torch_embedder import TorchEmbedder
from tokay.progress import Silent
from tokay.train import trainee
from tokay.train.checkpoints import Checkpoints
from tokay.train.embedder import train_embedder
from tokay.train.loop import Step
from tokay.train.mixture import Source
from tokay.train.trainee import Work
from tokay.train.tune import tune
from train_data import base, dev, judged, ready, row, settings, source

SECONDS = 240
"""After which a process that waits for the other is killed. Both need about ten on an idle machine."""

DROPOUTS = (0.0, 0.2)

CHOSEN: dict[str, dict[str, Any]] = {
    "plain": {"freeze_embeddings": False},
    "lora": {"adapter": "lora", "lora_rank": 4},
    "loreft": {"adapter": "loreft", "reft_positions": "f1+l1", "learning_rate": 1e-3},
    "twice": {"tokens_kept": 0, "same_tower": "always", "spread_out": 0.5, "distil": "kl"},
    "one chunk": {},
    "early": {"patience": 1, "look_every": 2, "learning_rate": 1e-6},
}


def trained(name: str) -> tuple[TorchEmbedder, list[list[float]], Work]:
    """One training by name, in as many processes as the environment has: loss, norm and dev figure of each step."""
    # 48 tokens a chunk: many chunks, of which the two processes have not the same number of texts
    trainee.TOKENS_PER_CHUNK.update(cpu=10**6 if name == "one chunk" else 48)
    chosen = settings(**{"epochs": 2, **CHOSEN[name]})
    sources = [source(rows=[judged(i) for i in range(40)])]
    if name == "plain":
        sources.append(source("kept", [row(i) for i in range(5, 15)], matched=True))
    tuned, work = ready(chosen), Work()
    queries = dev() if name == "early" else None
    steps = train_embedder(tuned, sources, chosen, teacher=base(), dev=queries, work=work)
    return tuned, [[step.loss, step.norm, step.dev or 0.0] for step in steps], work


def main(folder: Path) -> None:
    """What each process runs: all trainings, a tuning, and a batch that is too small to be shared."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name in CHOSEN:
        tuned, figures, work = trained(name)
        save_file({n: p.detach().contiguous() for n, p in tuned.named_parameters()}, folder / f"{name}.safetensors")
        found[name] = {"figures": figures, "work": [work.texts, work.tokens]}
    tuned_in(folder / "tuned")
    for dropout in DROPOUTS:
        found[f"cut, {dropout}"] = going_on(dropout)
    try:
        list(train_embedder(ready(settings()), [one_text()], settings()))
    except TokayError as error:
        found["refused"] = str(error)
    (folder / "found.json").write_text(json.dumps(found))


def going_on(dropout: float) -> str:
    """What a training that is cut and goes on has for weights, against one that is not cut."""
    shared = Path(os.environ["SHARED"]) / f"cut-{dropout}"
    chosen = settings(epochs=2, dropout=dropout)

    def start(kept: Checkpoints | None) -> tuple[TorchEmbedder, Iterator[Step]]:
        tuned = ready(chosen)
        return tuned, train_embedder(tuned, [source()], chosen, checkpoints=kept)

    def kept() -> Checkpoints:
        return Checkpoints(shared, identity="x", minutes=1e-9)

    whole, steps = start(None)
    number = len(list(steps))
    _, steps = start(kept())
    assert len(list(itertools.islice(steps, 3))) == 3
    steps.close()  # type: ignore[attr-defined]
    again, steps = start(kept())
    try:
        assert len(list(steps)) == number - 2
    except RuntimeError as error:
        return f"it does not go on: {error}"
    same = all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    return "the same weights" if same else "other weights"


def one_text() -> Source:
    """Two rows whose queries and passages are all one text."""
    rows = [row(i, query="river", positive_id="p", relevant_ids=["p"]) for i in range(2)]
    return Source("one", rows, {"p": ("", "river")})


def tuned_in(folder: Path) -> None:
    """A whole tuning, whose folders both processes share."""
    trainee.TOKENS_PER_CHUNK.update(cpu=48)
    root = Path(os.environ.get("SHARED", folder.parent)) / folder.name
    tune(
        base(),
        [source()],
        settings(runs=2, epochs=1, soup=0.5),
        model=root / "model",
        logs=root,
        checkpoints=root / "checkpoints",
        progress=Silent(),
    )


@contextlib.contextmanager
def processes(folder: Path, number: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(number):
            (folder / str(rank)).mkdir()
            where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number}
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true", "SHARED": folder}
            more = {"OMP_NUM_THREADS": 1, "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
            environment = {**os.environ, **{key: str(value) for key, value in {**where, **place, **more}.items()}}
            with (folder / str(rank) / "log").open("wb") as log:
                command = [sys.executable, __file__, str(folder / str(rank))]
                started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where two processes left what they found, in a folder each."""
    folder = tmp_path_factory.mktemp("processes")
    with processes(folder, 2) as started:
        for rank, process in enumerate(started):
            try:
                code = process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                code = None
            assert code == 0, (folder / str(rank) / "log").read_text()[-3000:]
    return folder


@pytest.fixture(autouse=True)
def _chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainee, "TOKENS_PER_CHUNK", dict(trainee.TOKENS_PER_CHUNK))


def found(folder: Path, rank: int) -> Any:
    return json.loads((folder / str(rank) / "found.json").read_text())


@pytest.mark.parametrize("name", CHOSEN)
def test_two_processes_have_the_losses_and_weights_of_one(two: Path, name: str) -> None:
    tuned, figures, work = trained(name)
    for rank in range(2):
        other = found(two, rank)[name]
        assert len(other["figures"]) == len(figures) > 1
        for theirs, ours in zip(other["figures"], figures, strict=True):
            assert theirs == pytest.approx(ours, abs=1e-5, rel=1e-5)
        assert other["work"] == [work.texts, work.tokens]  # of the whole batch, in each
        weights = load_file(two / str(rank) / f"{name}.safetensors")
        assert weights.keys() == dict(tuned.named_parameters()).keys()
        for parameter, p in tuned.named_parameters():
            torch.testing.assert_close(weights[parameter], p.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", CHOSEN)
def test_both_processes_end_with_the_same_weights_to_the_bit(two: Path, name: str) -> None:
    first, second = (load_file(two / str(rank) / f"{name}.safetensors") for rank in range(2))
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert found(two, 0)[name]["figures"] == found(two, 1)[name]["figures"]


def test_a_tuning_in_two_processes_writes_one_model_and_each_step_once(two: Path, tmp_path: Path) -> None:
    tuned_in(tmp_path / "tuned")
    steps = []
    for folder in (two / "tuned", tmp_path / "tuned"):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        steps.append([(line["run"], line["step"]) for line in lines])
        assert not (folder / "checkpoints").exists()
    assert steps[0] == steps[1] == [(run, step) for run in range(2) for step in range(3)]
    mine, theirs = (TorchEmbedder.load(f / "tuned" / "model", device="cpu") for f in (tmp_path, two))
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_a_training_in_two_processes_that_was_cut_goes_on_to_the_bit(two: Path, dropout: float) -> None:
    assert [found(two, rank)[f"cut, {dropout}"] for rank in range(2)] == ["the same weights"] * 2


def test_a_batch_with_less_texts_than_processes_is_refused(two: Path) -> None:
    for rank in range(2):
        assert found(two, rank)["refused"] == (
            "a batch of 1 texts cannot be shared by 2 processes; raise train.batch_size"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
