"""What follows from the contents of files, found out once a process while they stay as they are. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

State = tuple[tuple[str, int, int, int, int], ...]
"""Of files: path, inode, size, and times of the last writing and of the last change, in ns."""

_known: dict[tuple[str, State], str] = {}


def state_of(paths: Sequence[Path]) -> State:
    """Another one where a file was written again, or another was put in its place."""
    found = ((path.resolve(), path.stat()) for path in sorted(paths))
    return tuple((str(path), at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns) for path, at in found)


def once(what: str, paths: Sequence[Path], find: Callable[[], str], *, read: State | None = None) -> str:
    """What ``find`` says of files, or what it said of them before.

    Args:
        what: names what is found.
        paths: the files; none: ``find`` is always asked.
        find: reads them, or what was read of them.
        read: their state before they were read, where that was earlier; None: it is only now.
    """
    state = state_of(paths) if read is None else read
    if not state:
        return find()
    if (what, state) not in _known:
        found = find()
        if state_of(paths) != state:  # written meanwhile: nobody knows which of both was read
            return found
        _known[what, state] = found
    return _known[what, state]
