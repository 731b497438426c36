"""``python-stdlib`` and ``python:PACKAGE``: the docstrings of what the running interpreter can import."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokay.corpus.document import Block, RawDocument, Report, lay_out, one_line
from tokay.corpus.walk import FEWEST_WORDS, NOT_READ
from tokay.errors import TokayError
from tokay.records import Skipped
from tokay.store import file_sha256

__all__ = ["FEWEST_WORDS", "STDLIB", "find_package", "fingerprint_python", "read_python"]

STDLIB = "python-stdlib"


def read_python(name: str, report: Report) -> Iterator[RawDocument]:
    """One row per docstring; see ``tokay.corpus.walk`` for which ones.

    Args:
        name: ``python-stdlib``, whose documents are the top-level modules, or a package, whose documents are
            its modules down to the second level.
        report: is told of the modules that cannot be imported.

    Raises:
        TokayError: importing one of the modules kills the interpreter.
    """
    levels = 1 if name == STDLIB else 2
    for event in _walk(name):
        module = event["module"]
        if "reason" in event:
            report(Skipped(module, 0, one_line(event["reason"])))
        if "id" not in event:
            continue
        blocks = lay_out([Block(event["text"])])
        document_id = ".".join(module.split(".")[:levels])
        yield RawDocument(document_id, one_line(event["title"]), module, blocks, row_id=event["id"])


def _walk(name: str) -> Iterator[dict[str, str]]:
    script = Path(__file__).with_name("walk.py")
    environment = {**os.environ, "PYTHONHASHSEED": "0"}  # sets in signatures: always in the same order
    walker = subprocess.Popen(
        # -P: this folder has modules of the names of others; -B: leave no .pyc files
        [sys.executable, "-P", "-B", "-W", "ignore", str(script), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
        encoding="utf-8",
    )
    assert walker.stdin is not None
    assert walker.stdout is not None
    module = name
    try:
        with contextlib.suppress(BrokenPipeError):  # it died: told below
            walker.stdin.write(json.dumps([str(Path(entry).absolute()) for entry in sys.path]) + "\n")
            walker.stdin.close()
        for line in walker.stdout:
            event = json.loads(line)
            if not event:
                return
            module = event["module"]
            yield event
    finally:
        walker.kill()
        walker.stdout.close()
        walker.wait()
    raise TokayError(
        f"reading {name} killed the interpreter at module {module}; expected modules that can be imported: "
        f"mend it, 'python -X faulthandler -c \"import {module}\"' may show where it fails"
    )


def fingerprint_python(name: str) -> str:
    """Hash of the interpreter's version and of the library's files: compiled ones by name and size.

    Raises:
        TokayError: there is no such package.
    """
    about = [sys.version, sys.platform, name]
    files = _stdlib_files() if name == STDLIB else _package_files(name)
    return hashlib.sha256(json.dumps(about + [_describe(path) for path in files]).encode()).hexdigest()


def _describe(path: Path) -> list[str]:
    return [path.name, file_sha256(path) if path.suffix == ".py" else str(path.stat().st_size)]


def _stdlib_files() -> list[Path]:
    roots = {Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib")}
    patterns = ("*.py", "*/*.py", "lib-dynload/*")
    found = {path for root in roots for pattern in patterns for path in root.glob(pattern)}
    return sorted(path for path in found if path.is_file() and not NOT_READ & set(path.parts))


def _package_files(name: str) -> list[Path]:
    """Modules of the library that ``name`` belongs to, itself not imported."""
    spec = find_package(name)
    if not spec.submodule_search_locations:
        return _files([Path(spec.origin)]) if spec.origin else []
    inside = (path for folder in spec.submodule_search_locations for path in Path(folder).rglob("*"))
    return _files(path for path in inside if path.suffix in {".py", ".so", ".pyd"})


def _files(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.is_file())


def find_package(name: str) -> importlib.machinery.ModuleSpec:
    """Where the library of a dotted name is; it is not imported.

    Raises:
        TokayError: there is none.
    """
    try:
        spec = importlib.util.find_spec(name.partition(".")[0])
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise TokayError(
            f"python:{name} cannot be imported here; expected the import name of an installed package, "
            f"such as python:numpy: check the spelling, or pip install it into this environment"
        )
    return spec
