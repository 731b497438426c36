"""The run folder: tables, models and the manifest that says what made them. The only file that touches a run's disk.

A stage's outputs are written into ``.tmp-<stage>`` and renamed into place in one step, then entered in
``manifest.json`` under a key: the hash of the stage's settings, the digests of the outputs it reads, and the
code of the modules that make it. A stage whose key stands in the manifest is skipped; what was made from an earlier
version of its inputs leaves the manifest with them. A process killed at any moment leaves a stage done or not done,
never half of one that counts.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq

from tokay.errors import TokayError
from tokay.records import Decision, Record, from_batches, schema_of, to_table

R = TypeVar("R", bound=Record)

MANIFEST = "manifest.json"
DECISIONS = "decisions.jsonl"
ROWS_PER_GROUP = 4096


class StageOutput:
    """Where a running stage writes: tables by record type, and any other file under ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, record: type[R], rows: Iterable[R]) -> int:
        """Stream ``rows`` to ``<name>.parquet``; returns how many there were. Memory: one row group."""
        count = 0
        with pq.ParquetWriter(self.path / f"{name}.parquet", schema_of(record), compression="zstd") as writer:
            for group in _grouped(rows, ROWS_PER_GROUP):
                writer.write_table(to_table(record, group))
                count += len(group)
        return count

    def write_json(self, name: str, value: Any) -> None:
        """Write a small value that people may want to read."""
        text = json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)
        (self.path / f"{name}.json").write_text(text + "\n", encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class StageResult:
    """What became of a stage: was it done now, or found done."""

    name: str
    fresh: bool
    seconds: float


class Run:
    """A run folder, locked for one process while it is open for writing."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        self.path = path
        self._lock: int | None = None
        if writable:
            self._prepare()
        elif not (path / MANIFEST).is_file():
            raise TokayError(
                f"{path} is not a run folder (it has no {MANIFEST}); expected what 'tokay distill … --out' made"
            )

    def _prepare(self) -> None:
        self._lock = lock_folder(self.path, of="run", known=MANIFEST, lock=".lock")
        for leftover in self.path.glob(".tmp-*"):
            shutil.rmtree(leftover)
        if not (self.path / MANIFEST).exists():
            self.path.chmod(0o700)  # also a folder that was there, empty: it will hold the documents' text
            self._save({})

    def close(self) -> None:
        """Give the folder back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- the manifest ---------------------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        """Stage name -> {key, seconds, finished, outputs: {file: {sha256, bytes, mtime_ns}}}."""
        try:
            data: dict[str, Any] = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
        except ValueError as error:
            raise TokayError(
                f"{self.path / MANIFEST} is damaged ({error}); delete it to have every stage redone"
            ) from error
        return data

    def _save(self, manifest: Mapping[str, Any]) -> None:
        write_atomically(self.path / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")

    def digest(self, stage: str) -> str:
        """One hash over the contents of all files that a finished stage left."""
        return _contents(self.manifest()[stage])

    def is_done(self, stage: str) -> bool:
        """Whether a stage has outputs here, of whatever key."""
        return stage in self.manifest()

    def has(self, stage: str, name: str) -> bool:
        """Whether a finished stage has this table; those of an older version may lack it."""
        return self.is_done(stage) and (self.path / stage / f"{name}.parquet").is_file()

    def intact(self, stage: str) -> bool:
        """Whether the files of a finished stage are still those that it left."""
        return self._intact(stage, self.manifest()[stage]["outputs"])

    # -- stages ---------------------------------------------------------------------------------------------------

    def stage(
        self,
        name: str,
        work: Callable[[StageOutput], None],
        *,
        settings: Mapping[str, Any],
        reads: Sequence[str] = (),
        code: Sequence[str] = (),
    ) -> StageResult:
        """Do a stage unless exactly this was done before.

        Args:
            name: the stage, and the folder of its outputs.
            work: writes the outputs; it may be killed at any point and is then called again from the start.
            settings: whatever else the outputs depend on, as JSON values.
            reads: stages whose outputs ``work`` reads; their contents are part of the key.
            code: module names whose source, comments and docstrings aside, is part of the key.
        """
        key = _hash_json(
            {
                "settings": settings,
                "reads": {stage: self.digest(stage) for stage in reads},
                "code": {module: code_version(module) for module in code},
            }
        )
        entry = self.manifest().get(name)
        if entry and entry["key"] == key and self._intact(name, entry["outputs"]):
            return StageResult(name, False, entry["seconds"])
        began = time.perf_counter()
        temporary, final = self.path / f".tmp-{name}", self.path / name
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        work(StageOutput(temporary))
        unfinished = self.manifest()
        before = unfinished.pop(name, None)
        self._save(unfinished)  # from here to the last line the stage counts as not done
        if final.exists():
            shutil.rmtree(final)
        temporary.replace(final)
        seconds = round(time.perf_counter() - began, 3)
        manifest = self.manifest()
        manifest[name] = {
            "key": key,
            "reads": list(reads),
            "seconds": seconds,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "outputs": {str(file.relative_to(final)): _describe(file) for file in _files(final)},
        }
        if before is None or _contents(before) != _contents(manifest[name]):
            _forget_readers(manifest, name)
        self._save(manifest)
        return StageResult(name, True, seconds)

    def forget(self, name: str) -> None:
        """Count a stage as not done, and so all that read it; its files stay until it is done again."""
        manifest = self.manifest()
        if manifest.pop(name, None):
            _forget_readers(manifest, name)
            self._save(manifest)

    def _intact(self, name: str, outputs: Mapping[str, Mapping[str, Any]]) -> bool:
        for file, entry in outputs.items():
            path = self.path / name / file
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                return False
            if path.stat().st_mtime_ns != entry["mtime_ns"] and file_sha256(path) != entry["sha256"]:
                return False
        return True

    # -- reading --------------------------------------------------------------------------------------------------

    def table(self, stage: str, name: str, record: type[R]) -> Iterator[R]:
        """Stream a table of a finished stage as records."""
        file = pq.ParquetFile(self._file(stage, f"{name}.parquet"))
        if file.schema_arrow.names != schema_of(record).names:
            raise TokayError(
                f"{self.path}/{stage}/{name}.parquet has the columns {', '.join(file.schema_arrow.names)}, which "
                f"another version of tokay wrote; run 'tokay distill … --out {self.path}' again"
            )
        return from_batches(record, file.iter_batches())

    def rows(self, stage: str, name: str) -> int:
        """Number of rows of a table, from its footer."""
        return int(pq.ParquetFile(self._file(stage, f"{name}.parquet")).metadata.num_rows)

    def changed(self, stage: str, name: str) -> tuple[int, int, int]:
        """Other numbers whenever a table's file is another one or was written to."""
        stat = self._file(stage, f"{name}.parquet").stat()
        return (stat.st_mtime_ns, stat.st_size, stat.st_ino)

    def read_json(self, stage: str, name: str) -> Any:
        """A value written with ``StageOutput.write_json``."""
        return json.loads(self._file(stage, f"{name}.json").read_text(encoding="utf-8"))

    def _file(self, stage: str, name: str) -> Path:
        path = self.path / stage / name
        if not self.is_done(stage) or not path.is_file():
            raise TokayError(f"{self.path} has no {stage}/{name}; run 'tokay distill … --out {self.path}' to the end")
        return path

    # -- what people decide ---------------------------------------------------------------------------------------

    def decisions(self) -> list[Decision]:
        """All of them, oldest first.

        Raises:
            TokayError: a line is not one.
        """
        path = self.path / DECISIONS
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
        return [_decision(path, number, line) for number, line in enumerate(lines, 1) if line]

    def decisions_state(self) -> tuple[int, int] | None:
        """Another value whenever a decision was added; None: there is none yet."""
        path = self.path / DECISIONS
        stat = path.stat() if path.is_file() else None
        return (stat.st_mtime_ns, stat.st_ino) if stat else None

    def decide(self, make: Callable[[list[Decision]], Decision]) -> Decision:
        """Add what ``make`` gives for the decisions so far; one process at a time, and whole or not at all."""
        path = self.path / DECISIONS
        with (self.path / ".decisions.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            made = make(self.decisions())
            before = path.read_text(encoding="utf-8") if path.is_file() else ""
            ended = before if before.endswith("\n") or not before else before + "\n"
            write_atomically(path, ended + json.dumps(dataclasses.asdict(made)) + "\n")
        return made

    def cache_folder(self, name: str) -> Path:
        """A folder for what can be made again from the tables, made if need be; only its owner can look into it."""
        folder = self.path / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def write_settings(self, toml: str) -> None:
        """``run.toml``: the resolved settings of the last start."""
        write_atomically(self.path / "run.toml", toml)

    def write_text(self, name: str, text: str) -> Path:
        """A file at the top of the run folder that people open, such as ``report.html``."""
        write_atomically(self.path / name, text)
        return self.path / name


# -- small pieces ---------------------------------------------------------------------------------------------------


def _decision(path: Path, number: int, line: str) -> Decision:
    try:
        return Decision(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise TokayError(f"{path} line {number} is not a decision ({error}); mend the line or delete it") from error


def _grouped(rows: Iterable[R], size: int) -> Iterator[list[R]]:
    group: list[R] = []
    for row in rows:
        group.append(row)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _contents(entry: Mapping[str, Any]) -> str:
    """One hash over the contents of a stage's files."""
    return _hash_json({name: output["sha256"] for name, output in entry["outputs"].items()})


def _forget_readers(manifest: dict[str, Any], name: str) -> None:
    """Drop every stage that was made from another version of ``name``: a folder never mixes two of them."""
    gone = {name}
    while readers := [
        stage for stage, entry in manifest.items() if stage not in gone and gone & {*entry.get("reads", ())}
    ]:
        for stage in readers:
            manifest.pop(stage)
        gone.update(readers)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _describe(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"sha256": file_sha256(path), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> str:
    """One hash over a file, or over the names and contents of all files of a folder (hidden ones aside)."""
    if path.is_file():
        return file_sha256(path)
    inside = [file for file in _files(path) if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    return _hash_json({str(file.relative_to(path)): file_sha256(file) for file in inside})


def _hash_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def lock_folder(path: Path, *, of: str, known: str, lock: str) -> int:
    """Make a folder, or take one that is ours, for one process: the lock is held until its descriptor is closed.

    Args:
        path: where ``--out`` points.
        of: what the folder is one of, for messages.
        known: the file that every such folder has; a folder with other files and without it is somebody else's.
        lock: the file that is locked; it alone marks a folder that was begun and has no ``known`` yet.

    Raises:
        TokayError: it is a file, holds other files, cannot be written, or is being written.
    """
    if path.exists() and not path.is_dir():
        raise TokayError(f"--out {path} is a file; expected a folder to write the {of} into")
    foreign = path.is_dir() and any(path.iterdir()) and not (path / known).exists()
    if foreign and not (path / lock).exists():
        raise TokayError(f"--out {path} holds other files and is no {of} folder; name a new or empty folder")
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        held = os.open(path / lock, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise TokayError(f"--out {path} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(held)
        raise TokayError(f"another process is writing {path}; wait for it or choose another --out") from error
    return held


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one step, so that no reader sees half of it."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@functools.cache
def code_version(module: str) -> str:
    """Hash of a module's syntax tree without docstrings: comments and layout do not make a stage run again.

    For a package, the hash of all its modules.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    origin = Path(spec.origin)
    files = sorted(origin.parent.glob("*.py")) if spec.submodule_search_locations else [origin]
    return _hash_json([_tree(file) for file in files])


def _tree(file: Path) -> str:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            with contextlib.suppress(AttributeError):
                if isinstance(body[0].value.value, str):  # type: ignore[attr-defined]
                    body.pop(0)
    return ast.dump(tree)
