"""The corpus of docstrings, on packages made here and on the interpreter's own library."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokay.corpus import open_corpus, walk
from tokay.errors import TokayError

WORDS = "of this thing in twelve words so that it stands in the corpus"

PACKAGE = {
    "__init__.py": f'''"""Package {WORDS}."""
import os
from functools import partial, wraps
from .deep.core import Made, helper
print("noise"); import sys; sys.stderr.write("noise")
_hidden = 1
def function(a, b=object(), *, where=os.path.expanduser("~/x")):
    """Function {WORDS}.


    More."""
def few():
    """Too few words."""
class Callable:
    """Type {WORDS}."""
    def __init__(self):
        self.__doc__ = """Instance {WORDS}."""
    def __call__(self): ...
instance = Callable()
''',
    "deep/__init__.py": "",
    "deep/core.py": f'''
class Made(ValueError):
    """Class {WORDS}."""
    def method(self, x: int = 1) -> str:
        """Method {WORDS}."""
    @property
    def prop(self):
        """Property {WORDS}."""
    @classmethod
    def make(cls):
        """Classmethod {WORDS}."""
    def _private(self):
        """Private {WORDS}."""
class Child(Made):
    """Child {WORDS}."""
    def method(self): ...
def helper(names=frozenset({{"a", "b", "c", "d"}})):
    """Helper {WORDS}."""
''',
    "broken.py": "raise SystemExit(3)",
    "older.py": "import no_such_module",
    "_private.py": f'def hidden():\n    """Hidden {WORDS}."""',
    "tests/__init__.py": f'"""Tests {WORDS}."""',
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    for name, text in PACKAGE.items():
        (tmp_path / "pkgx" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pkgx" / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "pkgx"


def test_a_package(package, read, capfd):
    documents, skipped = read("python:pkgx")
    assert [(d.row_id, d.document_id, d.source) for d in documents] == [
        ("pkgx", "pkgx", "pkgx"),
        ("pkgx.Callable", "pkgx", "pkgx"),
        ("pkgx.Made", "pkgx", "pkgx"),
        ("pkgx.Made.make", "pkgx", "pkgx"),
        ("pkgx.Made.method", "pkgx", "pkgx"),
        ("pkgx.Made.prop", "pkgx", "pkgx"),
        ("pkgx.function", "pkgx", "pkgx"),
        ("pkgx.helper", "pkgx", "pkgx"),
        ("pkgx.instance", "pkgx", "pkgx"),
        ("pkgx.deep.core.Child", "pkgx.deep", "pkgx.deep.core"),
        ("pkgx.deep.core.Child.method", "pkgx.deep", "pkgx.deep.core"),
        ("pkgx.deep.core.Made", "pkgx.deep", "pkgx.deep.core"),
        ("pkgx.deep.core.Made.make", "pkgx.deep", "pkgx.deep.core"),
        ("pkgx.deep.core.Made.method", "pkgx.deep", "pkgx.deep.core"),
        ("pkgx.deep.core.Made.prop", "pkgx.deep", "pkgx.deep.core"),
        ("pkgx.deep.core.helper", "pkgx.deep", "pkgx.deep.core"),
    ]
    by_id = {d.row_id: d for d in documents}
    assert by_id["pkgx.function"].title == "pkgx.function(a, b=<object object>, *, where='~/x')"
    assert by_id["pkgx.function"].text == f"Function {WORDS}.\n\nMore."
    assert by_id["pkgx.Made.method"].title == "pkgx.Made.method(self, x: int = 1) -> str"
    assert by_id["pkgx.deep.core.Child.method"].text == f"Method {WORDS}."  # inherited
    assert {s.source: s.reason for s in skipped} == {
        "pkgx.broken": "cannot be imported: SystemExit: 3",
        "pkgx.older": "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'",
    }
    assert "pkgx" not in sys.modules
    assert capfd.readouterr() == ("", "")
    assert read("python:pkgx") == (documents, skipped)


def test_a_module_that_kills_the_interpreter(package, read):
    (package / "broken.py").write_text("import os; os._exit(1)")
    with pytest.raises(TokayError, match=r"reading pkgx killed the interpreter at module pkgx.broken; expected"):
        read("python:pkgx")


def test_fingerprint_follows_the_source(package):
    source = open_corpus("python:pkgx")
    assert source.keep_whole
    before = source.fingerprint()
    assert source.fingerprint() == before
    (package / "deep" / "core.py").write_text("")
    assert source.fingerprint() != before
    assert "pkgx" not in sys.modules


def test_the_standard_library(read, capfd):
    before = set(sys.modules)
    documents, skipped = read("python-stdlib")
    assert set(sys.modules) - before <= {"encodings.idna"}
    assert capfd.readouterr() == ("", "")
    by_id = {d.row_id: d for d in documents}
    assert by_id["textwrap.indent"].title == "textwrap.indent(text, prefix, predicate=None)"
    assert by_id["textwrap.indent"].document_id == by_id["textwrap.indent"].source == "textwrap"
    assert by_id["builtins.bytes.join"].document_id == "builtins"
    assert by_id["importlib.metadata.version"].source == "importlib.metadata"
    assert 2500 < len({d.text for d in documents}) < 4500
    assert not any(" at 0x" in d.title or sys.executable in d.title for d in documents)
    assert not {d.document_id for d in documents} & walk.NOT_READ
    assert all(s.reason.startswith("cannot be imported: ") for s in skipped)
    assert [d.row_id for d in read("python-stdlib")[0]] == list(by_id)


def test_the_walker_needs_nothing_installed():
    """-I -S: no site-packages, no environment; the way it runs under any interpreter."""
    script = Path(walk.__file__)
    command = [sys.executable, "-I", "-S", str(script), "textwrap"]
    path = f'["{os.path.dirname(os.__file__)}"]\n'  # noqa: PTH120
    done = subprocess.run(command, input=path, capture_output=True, text=True, check=True)
    assert '"id": "textwrap.indent"' in done.stdout
