"""The document-level split: which documents are held out, and which of the others choices are made on.

Queries of passages of one document are alike, so a split by passage or by query reads memory as gain. A held-out
document gives no seed, positive or hard negative to training. Documents that repeat each other stay together, and a
passage that repeats a held-out one is left out (``tokay.copies``).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from tokay.copies import bundles_of, without_copies
from tokay.errors import TokayError
from tokay.records import Copy, Document, Part, Passage
from tokay.settings import SplitSettings

FEW_DOCUMENTS = 10
"""With fewer documents than this, sections stand in for documents, and the plan says so."""

LEAST_SEEN, MOST_SEEN = 10, 300
"""Queries of training documents that are held out: fewer say nothing, more would teach more than they show."""


def unit_of(passage: Passage, *, by_section: bool) -> str:
    """What is held out as a whole: the passage's document, or its top-level section when documents are few."""
    section = passage.heading.split(" > ", 1)[0] or passage.passage_id
    return f"{passage.document_id} > {section}" if by_section else passage.document_id


def units_of(passages: Iterable[Passage]) -> dict[str, str]:
    """Passage id -> what it is held out with: its document, or its section where there are few documents."""
    by_document: dict[str, str] = {}
    by_section: dict[str, str] = {}
    for passage in passages:
        by_document[passage.passage_id] = unit_of(passage, by_section=False)
        by_section[passage.passage_id] = unit_of(passage, by_section=True)
    return by_document if len({*by_document.values()}) >= FEW_DOCUMENTS else by_section


def split_documents(
    passages: Iterable[Passage], settings: SplitSettings, copies: Sequence[Copy] = ()
) -> list[Document]:
    """Give every document a part, in an order that depends on nothing but its id and the seed.

    Documents are taken in the order of a hash until test, then dev, holds its share of the passages; one that
    would overfill a part by more than half is left to training. Then documents that repeat each other and stand on
    several sides move to that one of them which leaves the parts nearest to their sizes; no other document moves.

    Args:
        passages: of the corpus.
        settings: shares and seed.
        copies: passages that repeat those of other documents.

    Returns:
        One record a document (or section, see ``unit_of``), sorted by id.

    Raises:
        TokayError: there are too few units to hold one out, or nothing is left to train on.
    """
    units = units_of(passages)
    sizes = Counter(units.values())
    if len(sizes) < 3:
        raise TokayError(
            f"{len(sizes)} passages or sections are too few to hold one out and train on the rest; give at least 3"
        )
    order = sorted(sizes, key=lambda unit: _hash(settings.seed, unit))
    test = _fill(order, sizes, settings.test_share)
    dev = _fill([unit for unit in order if unit not in test], sizes, settings.dev_share)
    parts = {unit: _part(unit, test, dev) for unit in sorted(sizes)}
    _together(parts, bundles_of(copies, units, settings.test_share * len(units)), sizes)
    documents = [Document(unit, part, sizes[unit]) for unit, part in parts.items()]
    sides = without_copies({passage_id: parts[unit] for passage_id, unit in units.items()}, copies)
    if copies and "train" not in sides.values():
        raise TokayError(
            f"every passage of the documents to train on repeats a held-out one by {settings.near_duplicates:g} or "
            "more, so no verdict would mean anything; set split.near_duplicates higher, or 0 to allow it"
        )
    return documents


def parts_of(
    documents: Sequence[Document], passages: Iterable[Passage], copies: Iterable[Copy] = ()
) -> dict[str, Part]:
    """Passage id -> part; ``out`` for what repeats a passage of a stricter part."""
    part = {document.document_id: document.part for document in documents}
    return without_copies(
        {p.passage_id: part.get(p.document_id) or part[unit_of(p, by_section=True)] for p in passages}, copies
    )


def seen_share(queries: int, settings: SplitSettings) -> float:
    """The share of the training documents' queries that training does not get.

    Args:
        queries: of training documents; as many as there will be, where they are not written yet.
        settings: ``seen_share`` is the most. More than ``MOST_SEEN`` queries would show little more, and fewer than
            ``LEAST_SEEN`` would show nothing.
    """
    held = min(MOST_SEEN, settings.seen_share * queries)
    return held / queries if held >= LEAST_SEEN else 0.0


def is_seen(query_id: str, share: float, settings: SplitSettings) -> bool:
    """Whether a query of a training document is held out; it depends on nothing but its id, the share and the seed."""
    return int.from_bytes(_hash(settings.seed, f"seen\0{query_id}")[:8], "big") < share * 2**64


def _fill(order: Sequence[str], sizes: Counter[str], share: float) -> set[str]:
    wanted = share * sum(sizes.values())
    taken: set[str] = set()
    filled = 0
    for unit in order:
        if filled >= wanted:
            break
        if filled + sizes[unit] <= wanted * 1.5 or (not taken and len(order) <= FEW_DOCUMENTS):
            taken.add(unit)
            filled += sizes[unit]
    return taken


def _together(parts: dict[str, Part], bundles: Iterable[Sequence[str]], sizes: Counter[str]) -> None:
    """Move every bundle to one side; which one is a matter of sizes, and no part is emptied if that can be helped."""
    wanted = Counter[Part]()
    for unit, part in parts.items():
        wanted[part] += sizes[unit]
    now = dict(wanted)
    for bundle in bundles:
        inside = Counter[Part]()
        for unit in bundle:
            inside[parts[unit]] += sizes[unit]
        after = {
            side: {p: now[p] - inside[p] + (inside.total() if p == side else 0) for p in wanted} for side in inside
        }
        price = {
            side: (not all(left.values()), sum(abs(left[p] - wanted[p]) for p in wanted), -inside[side], side)
            for side, left in after.items()
        }
        side = min(inside, key=price.__getitem__)
        now = after[side]
        parts |= dict.fromkeys(bundle, side)


def _part(unit: str, test: set[str], dev: set[str]) -> Part:
    return "test" if unit in test else "dev" if unit in dev else "train"


def _hash(seed: int, unit: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{unit}".encode("utf-8", "surrogatepass")).digest()
