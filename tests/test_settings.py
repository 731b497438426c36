from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

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
        ("train.epoch=3", r"did you mean 'train.epochs'\?$"),
        ("trian.epochs=3", r"did you mean 'train'\?$"),
        ("soup=0.7", r"unknown setting 'soup'; known here: documents.* did you mean 'train.soup'\?$"),
        ("nothing.like=3", r"unknown setting 'nothing'; known here: [^;]*guard$"),
        ("train.epochs=0", r"^setting 'train.epochs' is 0; expected a whole number of at least 1 and at most 1000$"),
        ("train.learning_rate=10", r"^setting 'train.learning_rate' is 10; expected a number above 0 and at most 0.1$"),
        ("train.learning_rate=0", r"^setting 'train.learning_rate' is 0; expected a number above 0 and at most 0.1$"),
        ("train.soup=1.5", r"^setting 'train.soup' is 1.5; expected 'auto' or a number above 0 and at most 1$"),
        ("train.soup=much", r"^setting 'train.soup' is 'much'; expected 'auto' or a number above 0 and at most 1$"),
        ("train.adapter=lorra", r"is 'lorra'; expected 'full', 'lora', 'loreft' or 'direft'; did you mean 'lora'\?$"),
        ("train.dims=[16, 'a']", r"^setting 'train.dims' is \[16, 'a'\]; expected a list, each item a whole number$"),
        ("train.seed=x", r"^setting 'train.seed' is 'x'; expected a whole number$"),
        ("train.find_rate=perhaps", r"^setting 'train.find_rate' is 'perhaps'; expected true or false$"),
        ("mine.retrievers=[]", r"expected a list, each item 'base', 'initial' or 'bm25', with at least 1 item$"),
        ("generate.kinds={a = -1}", r"^setting 'generate.kinds.a' is -1; expected a number of at least 0$"),
        ("generate.kinds={}", r"is {}; expected a table, each value a number of at least 0, with at least 1 value$"),
        ("budget=inf", r"^setting 'budget' is inf; expected a finite number$"),
        ("llm=3", r"^setting 'llm' is 3; expected text$"),
        ("train=3", r"^setting 'train' is 3; expected a table$"),
        ("train.epochs", r"has no '='; expected stage.name=value"),
        ("documents.x=3", r"'documents' is a value, not a section"),
    ],
)
def test_wrong_settings_say_what_is_known(override: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("documents = 'x'\n")
    with pytest.raises(TokayError, match=message):
        resolve({}, config=path, overrides=[override])


def test_each_wrong_setting_has_a_line(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("documents = 'x'\n[train]\nepoch = 5\nsoup = 0\n")
    with pytest.raises(TokayError) as caught:
        resolve({"base": 3}, config=path, overrides=["split.test_share=1"])
    said = str(caught.value).splitlines()
    assert said[:3] == [
        "setting 'base' is 3; expected text",
        "setting 'split.test_share' is 1; expected a number above 0 and below 1",
        "setting 'train.soup' is 0; expected 'auto' or a number above 0 and at most 1",
    ]
    assert said[3].startswith("unknown setting 'train.epoch'; known here: ")
    assert said[3].endswith("; did you mean 'train.epochs'?")
    assert len(said) == 4


def sections() -> list[tuple[str, type[BaseModel]]]:
    named = [(f"{name}.", field.annotation) for name, field in Settings.model_fields.items()]
    return [
        ("", Settings),
        *((name, kind) for name, kind in named if isinstance(kind, type) and issubclass(kind, BaseModel)),
    ]


@pytest.mark.parametrize("name", [section + name for section, model in sections() for name in model.model_fields])
def test_no_setting_is_explained_in_the_words_of_a_library(name: str) -> None:
    wrong = datetime.date(2024, 1, 1)  # which no setting takes
    with pytest.raises(TokayError, match=rf"^setting '{name}' is datetime.date\(2024, 1, 1\); expected .") as caught:
        resolve({"documents": "x", name: wrong})
    assert not re.search(r"\n|Input|Traceback|type=|https?:|valid", str(caught.value))


def test_broken_config_files(tmp_path: Path) -> None:
    with pytest.raises(TokayError, match=r"cannot be read: No such file"):
        resolve({}, config=tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("= 3")
    with pytest.raises(TokayError, match=r"is not TOML"):
        resolve({}, config=tmp_path / "bad.toml")
    with pytest.raises(TokayError, match=r"setting 'documents' is missing"):
        resolve({})
