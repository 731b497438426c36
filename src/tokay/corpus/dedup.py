"""Finding passages that say the same as an earlier one, in memory that grows by half a kilobyte per passage.

Exact: the same ``Passage.sha256``. Near: MinHash (Broder 1997) over word 3-shingles estimates the Jaccard
similarity, and banding (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.4) finds the pairs
worth comparing. A passage is dropped for the first kept passage that it resembles, so what remains has no
such pair.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

Signature = npt.NDArray[np.uint32]

HASHES = 128  # H: standard error of an estimate of 0.9 is 0.027
SHINGLE = 3  # words
_AT_ONCE = 4096  # shingles hashed together: 4 MiB
_MOST_COMPARED = 256  # kept passages of a bucket: rows of one template share some buckets without being alike
_WORD = re.compile(r"\w+")


def _constants(name: str) -> npt.NDArray[np.uint64]:
    digests = b"".join(hashlib.blake2b(f"{name}{i}".encode(), digest_size=8).digest() for i in range(HASHES))
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


_FACTORS = _constants("factor") | np.uint64(1)  # (H,) odd, so that multiplying permutes
_OFFSETS = _constants("offset")  # (H,)


def minhash(text: str) -> Signature:
    """The signature of a text: for each of 128 hash functions the least value over its word 3-shingles.

    Words are runs of letters, digits and underscores, casefolded. A text of fewer than three words is one
    shingle. The same on every platform and Python version: shingles are hashed with BLAKE2b, and hash
    function i of a shingle x is the upper half of ``factor_i * x + offset_i`` mod 2^64.

    Returns:
        (128,) array, uint32.
    """
    words = _WORD.findall(text.casefold())
    shingles = {" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}
    digests = (hashlib.blake2b(s.encode("utf-8", "surrogatepass"), digest_size=8).digest() for s in sorted(shingles))
    x = np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)  # (S,)
    least = np.full(HASHES, 2**32 - 1, dtype=np.uint64)
    for part in np.split(x, range(_AT_ONCE, len(x), _AT_ONCE)):
        values = (part[:, None] * _FACTORS + _OFFSETS) >> np.uint64(32)  # (S, H)
        least = np.minimum(least, values.min(axis=0))
    return least.astype(np.uint32)


def is_short(text: str) -> bool:
    """Whether a text has too few words for a shingle; such texts are compared exactly only."""
    return len(_WORD.findall(text)) < SHINGLE


@dataclasses.dataclass(frozen=True, slots=True)
class Twin:
    """Passage number ``dropped`` says the same as the earlier, kept one with number ``kept``."""

    dropped: int
    kept: int
    kind: Literal["exact", "near"]
    similarity: float


class TwinFinder:
    """Takes passages one after the other, keeps their hashes only, and then names the duplicates among them.

    Memory per passage: 529 bytes (512 of signature, 16 of content hash, 1 flag) while they come; ``twins``
    needs about 40 more for sorting, and 16 for each band that a passage shares with another.

    Args:
        near: similarity from which on a passage is a near duplicate; 0: look for exact ones only, which
            takes 16 bytes per passage.
    """

    def __init__(self, near: float) -> None:
        self._near = near
        self._exact = bytearray()
        self._signatures = bytearray()
        self._short = bytearray()

    def add(self, text: str, sha256: str) -> None:
        """The next passage: its text and its hash in hexadecimal."""
        self._exact += bytes.fromhex(sha256)[:16]
        if self._near:
            self._signatures += minhash(text).tobytes()
            self._short.append(is_short(text))

    def twins(self) -> dict[int, Twin]:
        """Every passage to drop, by its number in the order of ``add``, with one that is kept."""
        exact = {twin.dropped: twin for twin in self._exact_twins()}
        if not self._near:
            return exact
        compared = ~np.frombuffer(self._short, dtype=np.bool_)
        compared[list(exact)] = False
        rows = np.frombuffer(self._signatures, dtype=np.uint32).reshape(-1, HASHES)
        near = {twin.dropped: twin for twin in near_twins(rows, np.flatnonzero(compared), self._near)}
        copies = {  # of a passage that is itself dropped for a third
            twin.dropped: dataclasses.replace(near[twin.kept], dropped=twin.dropped)
            for twin in exact.values()
            if twin.kept in near
        }
        return exact | near | copies

    def _exact_twins(self) -> Iterator[Twin]:
        keys = np.frombuffer(self._exact, dtype="<u8").reshape(-1, 2)
        order = np.lexsort(keys.T)  # stable: the first of equals comes first
        new = np.r_[True, np.any(keys[order][1:] != keys[order][:-1], axis=1)][: len(order)]
        firsts = order[np.flatnonzero(new)[np.cumsum(new) - 1]]
        for dropped, kept in sorted(zip(order[~new].tolist(), firsts[~new].tolist(), strict=True)):
            yield Twin(dropped, kept, "exact", 1.0)


def near_twins(rows: Signature, numbers: npt.NDArray[np.intp], threshold: float) -> Iterator[Twin]:
    """Near duplicates among some signatures, in rising order of the dropped one.

    Args:
        rows: (n, 128) signatures.
        numbers: the rows to compare, rising.
        threshold: least estimated similarity of a duplicate.
    """
    kept: dict[int, list[int]] = defaultdict(list)  # bucket -> its kept rows
    members, buckets = _shared_buckets(rows, numbers, _rows_per_band(threshold))
    numbers, starts = np.unique(members, return_index=True)
    for row, start, end in zip(numbers.tolist(), starts, np.append(starts, len(members))[1:], strict=True):
        mine = buckets[start:end].tolist()
        others = np.array(sorted({other for bucket in mine for other in kept[bucket]}), dtype=np.intp)
        similar = np.mean(rows[others] == rows[row], axis=1)
        close = np.flatnonzero(similar >= threshold)
        if len(close):
            yield Twin(row, int(others[close[0]]), "near", float(similar[close[0]]))
        else:
            for bucket in mine:
                if len(kept[bucket]) < _MOST_COMPARED:
                    kept[bucket].append(row)


class Groups:
    """Numbers that belong together, by union-find; the least of a group stands for it."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def find(self, number: int) -> int:
        """The least number of its group."""
        parent = self._parent
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    def join(self, a: int, b: int) -> None:
        """Make two groups one."""
        a, b = sorted((self.find(a), self.find(b)))
        self._parent[b] = a


def near_groups(rows: Signature, numbers: npt.NDArray[np.intp], threshold: float) -> Groups:
    """Groups of near duplicates: each is one of another of its group, and a chain of such pairs connects them.

    Args:
        rows: (n, 128) signatures.
        numbers: the rows to compare, rising.
        threshold: least estimated similarity of a pair.
    """
    groups = Groups(len(rows))
    members, buckets = _shared_buckets(rows, numbers, _rows_per_band(threshold))
    order = np.lexsort((members, buckets))
    members, buckets = members[order], buckets[order]
    beside = np.flatnonzero(buckets[1:] == buckets[:-1])
    for part in np.split(beside, range(_AT_ONCE, len(beside), _AT_ONCE)):  # neighbours first: they connect most
        a, b = members[part], members[part + 1]
        close = np.mean(rows[a] == rows[b], axis=1) >= threshold
        for one, other in zip(a[close].tolist(), b[close].tolist(), strict=True):
            groups.join(one, other)
    starts = np.flatnonzero(np.r_[True, buckets[1:] != buckets[:-1]][: len(buckets)])
    for bucket in np.split(members, starts[1:]):
        if len(bucket) > 2 and len({groups.find(row) for row in bucket.tolist()}) > 1:
            _join_in_bucket(rows, bucket, threshold, groups)
    return groups


def _join_in_bucket(rows: Signature, bucket: npt.NDArray[np.int64], threshold: float, groups: Groups) -> None:
    for at, row in enumerate(bucket.tolist()):
        mine = groups.find(row)
        others = bucket[at + 1 : at + 1 + _MOST_COMPARED]
        others = others[[groups.find(other) != mine for other in others.tolist()]]
        for other in others[np.mean(rows[others] == rows[row], axis=1) >= threshold].tolist():
            groups.join(row, other)


def _rows_per_band(threshold: float) -> int:
    """Of the 128 hashes; b bands of r rows find a pair of similarity s with probability 1 - (1 - s^r)^b.

    16 x 8 find 0.9 with 0.9999, 0.8 with 0.95; 32 x 4 find 0.5 with 0.87; 64 x 2 find 0.3 with 0.998.
    """
    return 8 if threshold >= 0.8 else 4 if threshold >= 0.5 else 2


def _shared_buckets(
    rows: Signature, numbers: npt.NDArray[np.intp], width: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(row, bucket) for each bucket that holds more than one row, sorted by row."""
    if len(numbers) < 2:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    members, buckets, count = [], [], 0
    for band in range(0, HASHES, width):
        keys = np.zeros(len(numbers), dtype=np.uint64)
        for column in range(band, band + width):
            keys = (keys ^ rows[numbers, column]) * np.uint64(0x9E3779B97F4A7C15)
            keys ^= keys >> np.uint64(29)
        order = np.argsort(keys, kind="stable")
        same = keys[order][1:] == keys[order][:-1]
        shared = np.r_[same, False] | np.r_[False, same]
        bucket = count + np.cumsum(np.r_[False, ~same])
        members.append(numbers[order[shared]].astype(np.int64))
        buckets.append(bucket[shared].astype(np.int64))
        count += len(numbers)
    member, bucket = np.concatenate(members), np.concatenate(buckets)
    order = np.argsort(member, kind="stable")
    return member[order], bucket[order]
