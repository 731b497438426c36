"""Checkpoints: whole or not there, never another training's, and a full disk costs nothing that was there."""

from __future__ import annotations

import collections
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tokay.errors import TokayError
from tokay.train.checkpoints import Checkpoints, State, need_room
from tokay.train.embedder import train_embedder
from train_data import files_end_at, ready, settings, source

FILES = ("weights.safetensors", "best.safetensors", "optimizer.pt", "state.json")
CPU = torch.device("cpu")


class Training:
    """A weight, its moments, and where they stand; a step changes all that a checkpoint holds."""

    def __init__(self) -> None:
        self.module = nn.Linear(64, 64)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=0.1)
        self.state = State()
        self.best: dict[str, Tensor] = {}

    @property
    def named(self) -> dict[str, nn.Parameter]:
        return dict(self.module.named_parameters())

    def step(self) -> None:
        self.module(torch.randn(3, 64)).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.best = {name: p.detach() + 1 for name, p in self.named.items()}
        self.state.best = self.state.step / 7
        self.state.add(1 / (1 + self.state.step))

    def save(self, kept: Checkpoints) -> None:
        kept.save(self.named, self.optimizer, self.state, self.best)


def checkpoints(folder: Path, identity: str = "mine", *, drop_others: bool = False) -> Checkpoints:
    return Checkpoints(folder, identity=identity, minutes=5, drop_others=drop_others)


def name_of_newest(folder: Path) -> str | None:
    found = checkpoints(folder).newest()
    return found.path.name if found else None


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with the checkpoints after steps 1 and 2, both whole."""
    training, kept = Training(), checkpoints(tmp_path / "kept")
    training.step()
    training.save(kept)
    shutil.copytree(kept.folder / "step-00000001", tmp_path / "first")
    training.step()
    training.save(kept)
    shutil.move(tmp_path / "first", kept.folder / "step-00000001")
    return kept.folder


# -- what comes back ------------------------------------------------------------------------------------------------


def test_weights_moments_and_state_come_back(tmp_path: Path) -> None:
    first, second = Training(), Training()
    for _ in range(3):
        first.step()
    first.save(checkpoints(tmp_path))
    found = checkpoints(tmp_path).newest()
    assert found is not None
    state, best = found.restore(second.named, second.optimizer, CPU)
    assert state == first.state
    assert all(torch.equal(p, first.named[name]) for name, p in second.named.items())
    assert best.keys() == first.best.keys()
    assert all(torch.equal(best[name], value) for name, value in first.best.items())
    there, here = first.optimizer.state_dict()["state"], second.optimizer.state_dict()["state"]
    assert all(torch.equal(there[p][key], here[p][key]) for p in there for key in ("step", "exp_avg", "exp_avg_sq"))


def test_a_training_without_looks_has_no_best_weights(tmp_path: Path) -> None:
    training = Training()
    training.save(checkpoints(tmp_path))
    found = checkpoints(tmp_path).newest()
    assert found is not None
    state, best = found.restore(training.named, training.optimizer, CPU)
    assert best == {}
    smoothed, first, lowest = state.trend
    assert (state.step, lowest, state.best) == (0, math.inf, -math.inf)
    assert math.isnan(first)
    assert math.isnan(smoothed)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20))
def test_the_state_follows_the_loss(losses: list[float]) -> None:
    state, smoothed, lows = State(), losses[0], []
    for loss in losses:
        state.add(loss)
        smoothed = 0.9 * smoothed + 0.1 * loss
        lows.append(smoothed)
    assert state.step == len(losses)
    assert state.trend == pytest.approx((smoothed, losses[0], min(lows)))
    assert state.diverged == (state.trend[0] > max(3 * state.trend[2], losses[0]))


def test_only_the_newest_is_kept(tmp_path: Path) -> None:
    training, kept = Training(), checkpoints(tmp_path)
    for _ in range(3):
        training.step()
        training.save(kept)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_one_is_due_when_its_minutes_are_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    kept = checkpoints(tmp_path)
    never = Checkpoints(tmp_path, identity="mine", minutes=0)
    due = []
    for now[0] in (299.0, 300.0):
        due.append(kept.is_due())
    Training().save(kept)
    for now[0] in (301.0, 599.0, 600.0):
        due.append(kept.is_due())
    assert due == [False, True, False, False, True]
    assert not never.is_due()


# -- one that is not whole ------------------------------------------------------------------------------------------


def remove(path: Path) -> None:
    path.unlink()


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def test_the_newest_whole_one_is_taken(two: Path) -> None:
    assert name_of_newest(two) == "step-00000002"


@pytest.mark.parametrize("damage", [remove, halve, empty])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_one_is_never_taken(two: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(two / "step-00000002" / name)
    assert name_of_newest(two) == "step-00000001"
    damage(two / "step-00000001" / name)
    assert name_of_newest(two) is None


def test_one_that_was_being_written_is_not_taken_and_is_in_nobodys_way(two: Path) -> None:
    shutil.rmtree(two / "step-00000001")
    (two / "step-00000002").rename(two / ".tmp-step")
    assert name_of_newest(two) is None
    training = Training()
    training.save(checkpoints(two))
    assert [path.name for path in two.iterdir()] == ["step-00000000"]


def test_a_folder_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert name_of_newest(tmp_path / "nowhere") is None


@pytest.mark.parametrize("damaged", ["step-00000002", "step-00000009"])
def test_what_is_saved_after_a_damaged_one_was_passed_over_is_found(two: Path, damaged: str) -> None:
    """The training goes on from step 1; its next checkpoint has the damaged one's name, or one before it."""
    halve(two / "step-00000002" / "weights.safetensors")
    (two / "step-00000002").rename(two / damaged)
    training = Training()
    found = checkpoints(two).newest()
    assert found is not None
    training.state, training.best = found.restore(training.named, training.optimizer, CPU)
    training.step()
    training.save(checkpoints(two))
    assert name_of_newest(two) == "step-00000002"


# -- one of another training ----------------------------------------------------------------------------------------


def test_another_trainings_is_refused_and_stays(two: Path) -> None:
    with pytest.raises(TokayError, match=r"step-00000002 is a checkpoint of another training .* delete .*kept"):
        checkpoints(two, "another").newest()
    assert name_of_newest(two) == "step-00000002"


def test_another_trainings_is_dropped_where_the_folder_is_ones_own(two: Path) -> None:
    assert checkpoints(two, "another", drop_others=True).newest() is None
    assert name_of_newest(two) is None
    assert not two.exists()


def test_ones_own_is_not_dropped(two: Path) -> None:
    assert checkpoints(two, drop_others=True).newest() is not None
    assert name_of_newest(two) == "step-00000002"


def test_a_training_does_not_go_on_from_another(two: Path) -> None:
    chosen = settings(epochs=1)
    with pytest.raises(TokayError, match="is a checkpoint of another training"):
        list(train_embedder(ready(chosen), [source()], chosen, checkpoints=checkpoints(two, "another")))


# -- a full disk ----------------------------------------------------------------------------------------------------


def full(*args: Any, **options: Any) -> None:
    raise OSError(28, os.strerror(28))


@pytest.mark.parametrize(("module", "name"), [(safetensors.torch, "save_file"), (torch, "save"), (os, "fsync")])
def test_a_disk_without_room_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    training, kept = Training(), checkpoints(tmp_path)
    training.step()
    training.save(kept)
    training.step()
    with monkeypatch.context() as patch:
        patch.setattr(module, name, full)
        with pytest.raises(
            TokayError, match=r"cannot be written to .*\(No space left on device\); make room and start"
        ):
            training.save(kept)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert name_of_newest(tmp_path) == "step-00000001"
    training.save(kept)
    assert name_of_newest(tmp_path) == "step-00000002"


@pytest.mark.parametrize("limit", [100, 10_000, 20_000, 34_000])
def test_a_write_that_the_system_refuses_leaves_the_checkpoint_before(tmp_path: Path, limit: int) -> None:
    """Of weights (17 kB) and moments (35 kB): who writes them says so in errors of its own."""
    training, kept = Training(), checkpoints(tmp_path)
    training.step()
    training.save(kept)
    training.step()
    with files_end_at(limit), pytest.raises(TokayError, match="a checkpoint cannot be written to"):
        training.save(kept)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert name_of_newest(tmp_path) == "step-00000001"


def test_room_is_asked_for_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    usage = collections.namedtuple("usage", "total used free")

    def free(path: Path) -> Any:
        asked.append(Path(path))
        return usage(0, 0, 5_000_000)

    monkeypatch.setattr("shutil.disk_usage", free)
    need_room(tmp_path / "not" / "yet", 5_000_000)
    with pytest.raises(TokayError, match=r"yet has 5 MB free and this training writes up to 7 MB; make room"):
        need_room(tmp_path / "not" / "yet", 7_000_000)
    assert asked == [tmp_path, tmp_path]


def test_a_place_that_takes_nothing_is_not_taken_for_a_full_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        TokayError, match=r"file/x cannot be written: nothing can be made in .*file \(Not a directory\);"
    ):
        need_room(tmp_path / "file" / "x", 1)
    need_room(tmp_path / "x" / "y", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="has no /proc")
def test_a_file_system_that_takes_nothing_is_not_taken_for_a_full_one() -> None:
    with pytest.raises(
        TokayError, match=r"^/proc/x/y cannot be written: nothing can be made in /proc \(.+\); write some"
    ):
        need_room(Path("/proc/x/y"), 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_another_user_is_not_taken_for_a_full_one(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    with pytest.raises(TokayError, match=r"cannot be written: nothing can be made in .* \(Permission denied\)"):
        need_room(closed / "x" / "y", 1)


def test_a_failed_batch_is_kept_as_it_was(tmp_path: Path) -> None:
    path = checkpoints(tmp_path / "new").save_batch({"texts": ["Größe\n`|", "水"]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"texts": ["Größe\n`|", "水"]}
    assert name_of_newest(tmp_path / "new") is None


def test_losses_of_two_kinds_are_not_compared() -> None:
    state = State()
    for loss in (0.001, 3.0, 0.002, 2.9):
        state.add(loss, "far" if loss > 1 else "near")
        assert not state.diverged
    assert set(state.trends) == {"near", "far"}
