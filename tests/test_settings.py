from __future__ import annotations

from pathlib import Path

import pytest

from tokay.errors import TokayError
from tokay.settings import Settings, resolve, to_toml


def test_toml_comes_back_equal(tmp_path: Path) -> None:
    settings = resolve(
        {"documents": 'a "b" \\ ü'}, overrides=["train.epochs=3", "train.dims=[64]", "train.format=gecko"]
    )
    assert settings.train.epochs == 3
    assert settings.train.dims == (64,)
    path = tmp_path / "run.toml"
    path.write_text(to_toml(settings), encoding="utf-8")
    assert resolve({}, config=path) == settings


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("documents = 'x'\n[train]\nepochs = 5\nbatch_size = 8\n")
    settings = resolve({"llm": None}, config=path, overrides=["train.epochs = 1"])
    assert (settings.train.epochs, settings.train.batch_size, settings.llm) == (
        1,
        8,
        Settings(documents="x").llm,
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", r"unknown setting 'train.epoch'; known here: .*epochs"),
        ("trian.epochs=3", r"unknown setting 'trian'; known here: documents"),
        ("train.epochs=-1", r"setting 'train.epochs' is -1: .*greater than or equal to 0"),
        ("train.epochs", r"has no '='; expected stage.name=value"),
        ("documents.x=3", r"'documents' is a value, not a section"),
    ],
)
def test_wrong_settings_say_what_is_known(override: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("documents = 'x'\n")
    with pytest.raises(TokayError, match=message):
        resolve({}, config=path, overrides=[override])


def test_broken_config_files(tmp_path: Path) -> None:
    with pytest.raises(TokayError, match=r"cannot be read: No such file"):
        resolve({}, config=tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("= 3")
    with pytest.raises(TokayError, match=r"is not TOML"):
        resolve({}, config=tmp_path / "bad.toml")
    with pytest.raises(TokayError, match=r"setting 'documents' is missing"):
        resolve({})
