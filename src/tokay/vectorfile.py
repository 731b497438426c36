"""Vectors that somebody brings: a file of ids and vectors, checked against the texts that it should be of.

========  ==============================================================================================
.parquet  a column of ids (passage_id, query_id, id or _id) and one of vectors (vector or embedding)
.npz      the arrays ids, (N,) strings, and vectors, (N, W)
.npy      (N, W) alone: one row for each text, in the order of the run's own table
========  ==============================================================================================

The ``vectors.parquet`` of an index is such a file. Letters: N texts, W width of the vectors.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tokay.errors import TokayError, first_line

IDS = ("passage_id", "query_id", "id", "_id")
VECTORS = ("vector", "embedding")
LENGTH = 0.01
"""How far from 1 a length may be: float16 and int8 copies are within it."""


def read_vectors(path: Path, ids: Sequence[str], *, what: str, option: str) -> NDArray[np.float32]:
    """The vectors of some texts, in their order: (N, W) float32 at length 1.

    Args:
        path: a file as above; ids that are not asked for are left out.
        ids: of the texts.
        what: the texts are, in the plural: for messages.
        option: that named the file: for messages.

    Raises:
        TokayError: the file is of another format or of other texts, or a vector is not finite or not at length 1.
    """
    name = f"{option} {path}"
    if path.suffix not in (".parquet", ".npz", ".npy"):
        raise TokayError(
            f"{name} is no file of vectors that Tokay reads; expected .parquet (columns id and vector), .npz (arrays "
            "ids and vectors) or .npy (vectors alone)"
        )
    try:
        given, vectors = {".parquet": _parquet, ".npz": _npz, ".npy": _npy}[path.suffix](path)
    except OSError as error:
        raise TokayError(f"{name} cannot be read: {error.strerror or first_line(error)}") from error
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, pa.ArrowException) as error:
        why = "it holds pickled objects, which are never read, or is none at all" if "pickled" in str(error) else ""
        raise TokayError(
            f"{name} cannot be read as {path.suffix}: {why or first_line(error)}; docs/keep-index.md has the format"
        ) from error
    if vectors.ndim != 2 or not vectors.shape[1] or vectors.dtype.kind != "f":
        raise TokayError(
            f"{name} holds numbers of type {vectors.dtype} and shape {vectors.shape}; expected floats, (texts, width)"
        )
    if given is None:
        if len(vectors) != len(ids):
            raise TokayError(
                f"{name} has {len(vectors):,} rows without ids, and the run has {len(ids):,} {what}; expected one row "
                "for each, in their order, or a file with ids"
            )
        rows = np.arange(len(ids))
    else:
        rows = _rows(given, len(vectors), ids, name=name, what=what)
    return _checked(vectors, rows, ids, name)


def _rows(given: Sequence[str], count: int, ids: Sequence[str], *, name: str, what: str) -> NDArray[np.int64]:
    """Where each text's vector stands."""
    if len(given) != count:
        raise TokayError(f"{name} has {len(given):,} ids and {count:,} vectors; expected one vector an id")
    place = {one: row for row, one in enumerate(given)}
    if len(place) < len(given):
        twice = next(one for row, one in enumerate(given) if place[one] != row)
        raise TokayError(f"{name} has more than one vector of {twice!r}; expected one an id")
    missing = [one for one in ids if one not in place]
    if len(missing) == len(ids):
        raise TokayError(
            f"{name} is of another corpus: none of its {count:,} ids, such as {next(iter(place), '')!r}, is one of the "
            f"run's {len(ids):,} {what}, such as {ids[0]!r}"
        )
    if missing:
        raise TokayError(
            f"{name} has no vector for {len(missing):,} of the run's {len(ids):,} {what}, such as {missing[0]!r}; add "
            "them"
        )
    return np.array([place[one] for one in ids])


def _checked(
    vectors: NDArray[np.floating], rows: NDArray[np.int64], ids: Sequence[str], name: str
) -> NDArray[np.float32]:
    kept = np.asarray(vectors[rows], np.float32)
    bad = ~np.isfinite(kept).all(1)
    if bad.any():
        raise TokayError(
            f"{name}: the vector of {ids[int(bad.argmax())]!r} holds NaN or infinity ({int(bad.sum()):,} of "
            f"{len(ids):,} do); have it encoded again"
        )
    lengths = np.linalg.norm(kept, axis=1)
    off = np.abs(lengths - 1) > LENGTH
    if off.any():
        at = int(off.argmax())
        raise TokayError(
            f"{name}: the vector of {ids[at]!r} has the length {lengths[at]:.3g}; expected 1, as cosines are compared: "
            "divide each vector by its length"
        )
    return np.asarray(kept / lengths[:, None], np.float32)


def _parquet(path: Path) -> tuple[list[str], NDArray[np.floating]]:
    names = pq.read_schema(path).names
    id_name, vector_name = (_column(names, known) for known in (IDS, VECTORS))
    table = pq.read_table(path, columns=[id_name, vector_name])
    ids = [str(one) for one in table.column(0).to_pylist()]
    column = table.column(1).combine_chunks()
    if not (pa.types.is_fixed_size_list(column.type) or pa.types.is_list(column.type)):
        raise ValueError(f"the column {vector_name} is of type {column.type}, not a list of numbers")
    if column.null_count:
        raise ValueError(f"{column.null_count} of {len(column)} vectors are null")
    widths = np.diff(column.offsets.to_numpy()) if pa.types.is_list(column.type) else np.array([column.type.list_size])
    if len(set(widths.tolist())) != 1:
        raise ValueError(f"vectors have {widths.min()} to {widths.max()} numbers; all must have as many")
    return ids, column.flatten().to_numpy(zero_copy_only=False).reshape(len(ids), int(widths[0]))


def _column(names: Sequence[str], known: Sequence[str]) -> str:
    for name in known:
        if name in names:
            return name
    raise ValueError(f"it has the columns {', '.join(names)}; expected one of {', '.join(known)}")


def _npz(path: Path) -> tuple[list[str], NDArray[np.floating]]:
    with np.load(path, allow_pickle=False) as arrays:
        return [str(one) for one in arrays["ids"].tolist()], arrays["vectors"]


def _npy(path: Path) -> tuple[None, NDArray[np.floating]]:
    return None, np.load(path, allow_pickle=False, mmap_mode="r")


def digest_of(ids: Sequence[str], vectors: NDArray[np.float32]) -> str:
    """A hash of ids and vectors: the fingerprint of a space that no model here makes."""
    hasher = hashlib.sha256("\n".join(ids).encode("utf-8", "surrogatepass"))
    hasher.update(np.ascontiguousarray(vectors, np.float32).tobytes())
    return hasher.hexdigest()
