"""Whether a training was given anything that its verdict is measured on: what is looked at, and what was found.

Held out are the documents of test and dev, and the queries of test, dev and seen. Documents whose queries are ``seen``
are known to training on purpose; their held-out queries are not.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from tokay.copies import near_copies, words_of
from tokay.corpus.dedup import is_short
from tokay.records import Example, Part, Query, Read, Role

Kind = Literal["passage", "copy", "query", "query-copy", "side", "altered"]

SAID: Mapping[Kind, str] = {
    "passage": "passages of held-out documents in training",
    "copy": "near copies of held-out passages in training",
    "query": "held-out queries in training",
    "query-copy": "training queries that repeat held-out ones",
    "side": "queries and passages that the split does not put where they are",
    "altered": "stages whose files are not those that the run made",
}
"""What a leak of each kind is called."""

SHOWN = 20
"""Leaks of a kind that are listed; all are counted."""

HELD_OUT: tuple[Part, ...] = ("test", "seen", "dev")


@dataclasses.dataclass(frozen=True, slots=True)
class Leak:
    """One thing that should not be: ``training`` was given ``item_id``, as ``role``; ``held_id`` is what it repeats."""

    kind: Kind
    training: str
    role: str
    item_id: str
    held_id: str = ""


@dataclasses.dataclass(frozen=True)
class Overlap:
    """How many queries of a part stand among those of training: the same words in the same order, or nearly."""

    queries: int
    equal: int
    near: int

    @property
    def share(self) -> float:
        """Of the part's queries."""
        return (self.equal + self.near) / self.queries if self.queries else 0.0

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**dataclasses.asdict(self), "share": self.share}


@dataclasses.dataclass(frozen=True)
class Leakage:
    """What was found, and of how much.

    Attributes:
        leaks: all of them.
        trainings: name of a training -> queries and passages that it was given.
        overlap: held-out part -> its queries beside those of all trainings.
        held_out: passages of test and dev.
        left_out: passages and queries of training that repeat held-out ones, and were not used.
        compared: whether passages were compared with each other at all.
    """

    leaks: Sequence[Leak]
    trainings: Mapping[str, tuple[int, int]]
    overlap: Mapping[str, Overlap]
    held_out: int
    left_out: tuple[int, int]
    compared: bool

    def counts(self) -> dict[Kind, int]:
        """Kinds of leak that there are, and how many passages, queries or stages each is of."""
        return {kind: n for kind in SAID if (n := len({leak.item_id for leak in self.leaks if leak.kind == kind}))}

    def sentence(self) -> str:
        """One line: what was found, and what was looked at."""
        if self.leaks:
            return "leakage: " + "; ".join(f"{n:,} {SAID[kind]}" for kind, n in self.counts().items())
        given = " and ".join(f"{q:,} queries and {p:,} passages of {name}" for name, (q, p) in self.trainings.items())
        held = sum(one.queries for one in self.overlap.values())
        copies = "near copies too" if self.compared else "passages without near copies, as split.near_duplicates is 0"
        out = f"; {self.left_out[0]:,} passages and {self.left_out[1]:,} queries were left out for it"
        return (
            f"leakage: none found ({given}, against {self.held_out:,} held-out passages and {held:,} held-out queries, "
            f"{copies}{out if any(self.left_out) else ''})"
        )

    def to_json(self) -> dict[str, Any]:
        """``leak.json``: counts, and examples by id."""
        by_kind: dict[str, list[dict[str, str]]] = defaultdict(list)
        for leak in self.leaks:
            if len(by_kind[leak.kind]) < SHOWN:
                by_kind[leak.kind].append({k: v for k, v in dataclasses.asdict(leak).items() if k != "kind"})
        return {
            "found": bool(self.leaks),
            "sentence": self.sentence(),
            "counts": self.counts(),
            "examples": by_kind,
            "trainings": {name: {"queries": q, "passages": p} for name, (q, p) in self.trainings.items()},
            "overlap": {part: one.to_json() for part, one in self.overlap.items()},
            "left_out": {"passages": self.left_out[0], "queries": self.left_out[1]},
        }


def reads_of(rows: Iterable[Example], texts: Iterable[str] = ()) -> Iterator[Read]:
    """What training rows hand to a training, each once, in the order of the rows.

    Args:
        rows: with their queries.
        texts: ids of all passages whose text goes with them.
    """
    known: set[tuple[Role, str]] = set()

    def once(role: Role, ids: Iterable[str], text: str = "") -> Iterator[Read]:
        for item_id in ids:
            if item_id and (role, item_id) not in known:
                known.add((role, item_id))
                yield Read(role, item_id, text)

    for row in rows:
        yield from once("query", [row.query_id], row.query)
        yield from once("seed", [row.seed_id])
        yield from once("positive", [row.positive_id])
        yield from once("negative", row.negative_ids)
    named = {item_id for role, item_id in known if role != "query"}
    yield from once("candidate", (item_id for item_id in texts if item_id not in named))


def find_leaks(
    parts: Mapping[str, Part],
    queries: Sequence[Query],
    trainings: Mapping[str, Iterable[Read]],
    *,
    repeats: Mapping[str, str] = MappingProxyType({}),
    altered: Sequence[str] = (),
    compared: bool = True,
) -> Leakage:
    """Hold what trainings were given against what is held out from them.

    Args:
        parts: passage id -> part, ``out`` for near copies of held-out passages.
        queries: of the run; ``out`` are those that repeat held-out ones.
        trainings: name -> what it was given.
        repeats: passage id -> the held-out passage that it nearly repeats, of those that are ``out``.
        altered: stages whose files were changed since the run made them.
        compared: whether ``parts`` knows of near copies.
    """
    held = [q for part in HELD_OUT for q in queries if q.part == part]
    held_part = {q.query_id: q.part for q in held}
    leaks = [Leak("altered", "", "stage", stage) for stage in altered]
    leaks += _misplaced(parts, queries)
    sizes: dict[str, tuple[int, int]] = {}
    given: list[str] = []
    for name, reads in trainings.items():
        asked: dict[str, str] = {}
        passages: set[str] = set()
        for read in reads:
            if read.role == "query":
                asked[read.item_id] = read.text
                continue
            passages.add(read.item_id)
            part = parts.get(read.item_id)
            if part != "train":
                kind: Kind = "copy" if part == "out" else "side" if part is None else "passage"
                leaks.append(Leak(kind, name, read.role, read.item_id, repeats.get(read.item_id, "")))
        leaks += [Leak("query", name, "query", q) for q in asked if q in held_part]
        others = [q for q in asked if q not in held_part]
        found = near_copies([asked[q] for q in others], [q.text for q in held])
        leaks += [Leak("query-copy", name, "query", others[i], held[one.other].query_id) for i, one in found.items()]
        sizes[name] = (len(asked), len(passages))
        given += asked.values()
    return Leakage(
        leaks=leaks,
        trainings=sizes,
        overlap={part: overlap_of([q.text for q in held if q.part == part], given) for part in HELD_OUT},
        held_out=sum(part in ("test", "dev") for part in parts.values()),
        left_out=(
            sum(part == "out" for part in parts.values()),
            sum(q.part == "out" and parts.get(q.seed_id) != "out" for q in queries),
        ),
        compared=compared,
    )


def _misplaced(parts: Mapping[str, Part], queries: Iterable[Query]) -> Iterator[Leak]:
    """Written queries go where their passage is: to its part, or, of a training document, to ``seen``; or are out."""
    for q in queries:
        if not q.seed_id or q.part == "out":
            continue
        seed = parts.get(q.seed_id)
        if seed is None or (seed if q.part != "seen" else {"train": "seen"}.get(seed)) != q.part:
            yield Leak("side", "", q.part, q.query_id, q.seed_id)


def overlap_of(queries: Sequence[str], training: Sequence[str]) -> Overlap:
    """How many of some queries stand among those of a training."""
    found = near_copies(queries, training)
    equal = sum(one.equal for one in found.values())
    return Overlap(len(queries), equal, len(found) - equal)


def in_training(overlap: Mapping[str, Any]) -> str:
    """What ``Overlap.to_json`` says of a user's own queries, in words."""
    return (
        f"Of {overlap['queries']:,} queries {overlap['equal']:,} stand word for word among those of training, and "
        f"{overlap['near']:,} nearly ({overlap['share']:.1%} together)."
    )


# -- other sources of rows ------------------------------------------------------------------------------------------


def without_held_out(
    rows: Sequence[Example],
    texts: Mapping[str, tuple[str, str]],
    queries: Sequence[str],
    passages: Iterable[tuple[str, str]],
) -> list[Example]:
    """Rows that come from elsewhere, without those that hold something that is held out.

    Queries are compared by their words, near copies too; passages of three words and more as wholes, with and without
    their titles, since a source may join the two. Their near copies are not looked for.

    Args:
        rows: with ids of ``texts``.
        texts: id -> title and text.
        queries: held-out ones.
        passages: title and text of held-out passages.
    """
    held = {_print(t) for title, text in passages for t in _both(title, text)}
    bad = {text_id for text_id, (title, text) in texts.items() if any(_print(t) in held for t in _both(title, text))}
    asked = near_copies([row.query for row in rows], queries)
    return [
        row
        for i, row in enumerate(rows)
        if i not in asked
        and _print(row.query) not in held
        and not bad & {row.positive_id, *row.negative_ids, *row.candidate_ids}
    ]


def _both(title: str, text: str) -> list[str]:
    return [t for t in (text, f"{title} {text}") if not is_short(t)]


def _print(text: str) -> bytes:
    return hashlib.blake2b(" ".join(words_of(text)).encode("utf-8", "surrogatepass"), digest_size=16).digest()
