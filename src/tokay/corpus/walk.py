"""The docstrings of importable modules, one JSON line each. A script: ``tokay.corpus.python`` starts it.

It runs in an interpreter of its own, because importing a whole library prints, warns, starts threads and
leaves hundreds of modules behind. It needs nothing but the standard library, and imports nothing from tokay.

The rule for ``python-stdlib`` is that of the recorded corpus: public names of every importable public module
and direct submodule of ``sys.stdlib_module_names``; docstrings as ``inspect.getdoc`` gives them, of at least
``FEWEST_WORDS`` words; a class belongs to the library that defines it. Top-level modules come before
submodules.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import pkgutil
import re
import sys
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

FEWEST_WORDS = 12
LONGEST_SIGNATURE = 119  # characters; longer ones are left out of the title
NOT_READ = frozenset(
    # they open a browser or a window, print, or are not documentation of a library
    "antigravity this idlelib turtledemo turtle tkinter test lib2to3 distutils ensurepip".split()
)
TESTS = frozenset({"conftest", "test", "tests"})  # submodules of a package that are not its manual
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

Event = dict[str, str]
"""{module}: its import begins; {module, reason}: it failed; {module, id, title, text}: an entry of it."""


def walk_stdlib() -> Iterator[Event]:
    """Entries of the standard library of this interpreter."""
    names = [n for n in sorted(sys.stdlib_module_names) if not n.startswith("_") and n not in NOT_READ]
    found: list[ModuleType] = []
    seen: set[str] = set()
    for name in names:  # before any submodule is imported: curses.has_key is a function until then a module
        module = yield from _import(name)
        if module is not None:
            found.append(module)
            yield from _entries(module, seen, foreign=True)
    for parent in found:
        for name in _submodules(parent):
            module = yield from _import(name)
            if module is not None:
                yield from _entries(module, seen, foreign=True)


def walk_package(package: str) -> Iterator[Event]:
    """Entries of a package and of all its public submodules; functions of other libraries are left out."""
    waiting, seen = [package], set[str]()
    while waiting:
        module = yield from _import(waiting.pop(0))
        if module is not None:
            yield from _entries(module, seen, foreign=False)
            waiting += [name for name in _submodules(module) if name.rpartition(".")[2] not in TESTS]


def _import(name: str) -> Generator[Event, None, ModuleType | None]:
    yield {"module": name}
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        yield {"module": name, "reason": f"cannot be imported: {type(error).__name__}: {error}"}
    return None


def _submodules(module: ModuleType) -> list[str]:
    names = {found.name for found in pkgutil.iter_modules(getattr(module, "__path__", []))}
    return [f"{module.__name__}.{name}" for name in sorted(names) if not name.startswith("_")]


def _entries(module: ModuleType, seen: set[str], *, foreign: bool) -> Iterator[Event]:
    for name, thing in _named(module, foreign):
        text = "" if name in seen else _docstring(thing)
        if len(text.split()) >= FEWEST_WORDS:
            seen.add(name)
            yield {"id": name, "title": name + _signature(thing), "text": text, "module": module.__name__}


def _named(module: ModuleType, foreign: bool) -> Iterator[tuple[str, Any]]:
    """The module, its public functions and classes and their public methods, with their full names."""
    yield module.__name__, module
    for name, thing in sorted(vars(module).items()):
        if name.startswith("_"):
            continue
        if inspect.isclass(thing):
            if _library(thing) == _library(module):
                yield f"{module.__name__}.{name}", thing
                yield from _members(f"{module.__name__}.{name}", thing)
        elif inspect.isroutine(thing):
            if foreign or _library(thing) in ("", _library(module)):
                yield f"{module.__name__}.{name}", thing
        elif not foreign and callable(thing) and _library(thing) == _library(module) and _own_docstring(thing):
            yield f"{module.__name__}.{name}", thing  # such as a NumPy ufunc


def _members(prefix: str, owner: type) -> Iterator[tuple[str, Any]]:
    for name in sorted(vars(owner)):
        if name.startswith("_"):
            continue
        with contextlib.suppress(Exception):  # a descriptor may do anything when it is asked
            member = getattr(owner, name)
            if callable(member) or isinstance(member, property):
                yield f"{prefix}.{name}", member


def _library(thing: Any) -> str:
    """Top-level module that defines a thing; bz2 and its C half _bz2 are one."""
    name = thing.__name__ if inspect.ismodule(thing) else getattr(thing, "__module__", None)
    return name.partition(".")[0].lstrip("_") if isinstance(name, str) else ""


def _own_docstring(thing: Any) -> bool:
    return getattr(thing, "__doc__", None) != type(thing).__doc__


def _docstring(thing: Any) -> str:
    try:
        text = inspect.getdoc(thing)
    except Exception:  # someone else's descriptor
        return ""
    return re.sub(r"\n\s*\n+", "\n\n", text).strip() if isinstance(text, str) else ""


def _signature(thing: Any) -> str:
    """Signature as the title shows it, the same on every machine and in every process.

    Memory addresses, the user's home and the interpreter's path, which stand in the repr of defaults, are
    taken out; a default that shows the environment makes the whole signature go.
    """
    try:
        text = str(inspect.signature(thing)) if callable(thing) else ""
    except Exception:  # ValueError for C functions; anything from a foreign __signature__ or __repr__
        return ""
    if len(_ADDRESS.sub(" at 0x7f0000000000", text)) > LONGEST_SIGNATURE or "environ({" in text:
        return ""
    home = str(Path.home())
    text = _ADDRESS.sub("", text).replace(repr(sys.executable), "sys.executable")
    return text.replace(home, "~") if len(home) > 1 else text


def main() -> None:
    """``walk.py NAME``, with the caller's ``sys.path`` as JSON on standard input."""
    sys.path[:] = json.loads(sys.stdin.readline())
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="surrogatepass", newline="\n")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # whatever an import prints or asks for
        os.dup2(null, descriptor)
    warnings.simplefilter("ignore")
    name = sys.argv[1]
    sys.argv[1:] = []
    for event in walk_stdlib() if name == "python-stdlib" else walk_package(name):
        out.write(json.dumps(event) + "\n")
        if "id" not in event:
            out.flush()  # the next import may be the end of this process
    out.write("{}\n")  # the end was reached
    out.flush()
    os._exit(0)  # without the exit handlers and threads of what was imported


if __name__ == "__main__":
    main()
