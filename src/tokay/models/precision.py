"""Vectors in fewer bytes: float16, one byte a number, one bit a number, as sentence-transformers names them.

One byte needs to know the range of each number. Ranges that are taken from whatever is encoded at the moment make
vectors of two calls incomparable, so they are measured once, on a corpus, and kept in the model's folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tokay.errors import TokayError

Precision = Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
FILE = "calibration.npz"


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The least and the greatest of each number over a sample: width d -> float32 (2, d)."""

    ranges: Mapping[int, NDArray[np.float32]]

    @classmethod
    def of(cls, vectors: NDArray[np.float32], dims: Iterable[int] = ()) -> Calibration:
        """Ranges of unit vectors (N, D), and of their first ``dims`` numbers at length 1."""
        from tokay.search.dense import unit

        if not len(vectors):
            raise TokayError("there are no vectors to calibrate with; give some hundred, of the texts to be encoded")
        widths = {vectors.shape[1], *dims}
        return cls({d: np.stack([(part := unit(vectors, d)).min(0), part.max(0)]) for d in sorted(widths)})

    def save(self, folder: Path) -> None:
        """Write it into a model's folder."""
        np.savez(folder / FILE, **{str(d): r for d, r in self.ranges.items()})  # type: ignore[arg-type]

    @classmethod
    def load(cls, folder: Path) -> Calibration | None:
        """What a folder has, or None."""
        if not (folder / FILE).is_file():
            return None
        with np.load(folder / FILE, allow_pickle=False) as file:
            return cls({int(d): file[d] for d in file.files})


def to_precision(
    vectors: NDArray[np.float32], precision: Precision, calibration: Calibration | None = None
) -> NDArray[Any]:
    """Vectors in fewer bytes.

    Args:
        vectors: float32 (N, d).
        precision: ``int8`` and ``uint8`` put the range of each number on 256 steps, what is outside at its end;
            ``binary`` and ``ubinary`` keep the sign of each number, eight a byte, the former less 128.
        calibration: for ``int8`` and ``uint8``, with ranges at this width.

    Returns:
        (N, d), or (N, d / 8) of bits.

    Raises:
        TokayError: no such precision, no ranges for this width, or a width that is not of whole bytes.
    """
    width = vectors.shape[1]
    if precision == "float32":
        return vectors
    if precision == "float16":
        return vectors.astype(np.float16)
    if precision in ("int8", "uint8"):
        if calibration is None or width not in calibration.ranges:
            has = "no calibration" if calibration is None else f"ranges for {', '.join(map(str, calibration.ranges))}"
            raise TokayError(
                f"{precision} vectors of {width} numbers need to know their range, and this model has {has}; "
                "set embedder.calibration = Calibration.of(vectors of a few hundred texts, dims), or export the run"
            )
        low, high = calibration.ranges[width]
        steps = np.maximum(high - low, 1e-12) / 255
        level: NDArray[np.float32] = np.clip(np.floor((vectors - low) / steps), 0, 255)
        return level.astype(np.uint8) if precision == "uint8" else (level - 128).astype(np.int8)
    if precision in ("binary", "ubinary"):
        if width % 8:
            raise TokayError(
                f"{precision} puts eight numbers into a byte, and {width} is no multiple of 8; choose a dim"
            )
        bits = np.packbits(vectors > 0, axis=1)
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    raise TokayError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
