"""Passages and queries that nearly repeat others, and what the split has to do about it.

Two documents that share most of their passages fall on one side. A passage that still repeats one of a stricter part
(test before dev before train) is left out, and so is a query: training loses, the verdict does not.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from tokay.corpus.dedup import HASHES, Groups, is_short, minhash, near_groups
from tokay.records import Copy, Part, Passage, Query

ALIKE = 0.5
"""Share of the smaller document's passages that repeat the other's from which both are kept on one side; our choice."""

FEW = 32
"""Documents with one repeated passage up to which every two of them are compared; beyond, each with the next."""

QUERIES_ALIKE = 0.8
"""Jaccard similarity of two queries' words from which they are near copies; our choice. One word added to four is one,
one of eight words replaced is none."""

STRICTNESS: Mapping[Part, int] = {"train": 0, "dev": 1, "seen": 2, "test": 2}
"""What repeats something of a higher part is left out."""

_WORD = re.compile(r"\w+")


def copies_of(passages: Iterable[Passage], units: Mapping[str, str], threshold: float) -> list[Copy]:
    """Passages that nearly repeat one of another document, whatever the order in which they come.

    Texts of fewer than three words are compared whole, with their titles.

    Args:
        passages: of the corpus.
        units: passage id -> its document, or what stands in for one.
        threshold: least estimated similarity of word 3-shingles; 0: none is a copy.

    Returns:
        Sorted by group, then id.
    """
    if not threshold:
        return []
    ids: list[str] = []
    short: list[str] = []
    signatures = bytearray()
    for passage in passages:
        ids.append(passage.passage_id)
        short.append(f"{passage.title}\0{passage.sha256}" if is_short(passage.text) else "")
        signatures += minhash(passage.text).tobytes()
    order = sorted(range(len(ids)), key=ids.__getitem__)
    rows = np.frombuffer(signatures, dtype=np.uint32).reshape(-1, HASHES)[order]
    groups = near_groups(rows, np.flatnonzero([not short[i] for i in order]), threshold)
    first: dict[str, int] = {}
    for at, i in enumerate(order):
        if short[i]:
            groups.join(first.setdefault(short[i], at), at)
    members: dict[int, list[str]] = defaultdict(list)
    for at, i in enumerate(order):
        members[groups.find(at)].append(ids[i])
    found = [group for group in members.values() if len({units[i] for i in group}) > 1]
    return [Copy(passage_id, group[0]) for group in found for passage_id in group]


def bundles_of(copies: Iterable[Copy], units: Mapping[str, str], most: float) -> list[list[str]]:
    """Documents that repeat each other, most alike first put together.

    Args:
        copies: from ``copies_of``.
        units: passage id -> its document.
        most: passages that a bundle may hold, so that one boilerplate does not tie a whole corpus together.

    Returns:
        Bundles of two and more documents, each sorted, the largest first.
    """
    sizes = Counter(units.values())
    names = sorted(sizes)
    number = {unit: i for i, unit in enumerate(names)}
    groups = Groups(len(names))
    held = [sizes[name] for name in names]
    for _, a, b in sorted(_ties(copies, units, sizes)):
        one, other = groups.find(number[a]), groups.find(number[b])
        if one != other and held[one] + held[other] <= most:
            groups.join(one, other)
            held[min(one, other)] = held[one] + held[other]
    bundles: dict[int, list[str]] = defaultdict(list)
    for i, name in enumerate(names):
        bundles[groups.find(i)].append(name)
    found = [bundle for bundle in bundles.values() if len(bundle) > 1]
    return sorted(found, key=lambda bundle: (-sum(sizes[name] for name in bundle), bundle))


def _ties(
    copies: Iterable[Copy], units: Mapping[str, str], sizes: Mapping[str, int]
) -> Iterator[tuple[float, str, str]]:
    """(-share, document, document) of those that repeat each other enough."""
    in_group: dict[str, Counter[str]] = defaultdict(Counter)
    for copy in copies:
        in_group[copy.group][units[copy.passage_id]] += 1
    shared: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for counts in in_group.values():
        names = sorted(counts)
        for i, a in enumerate(names):
            for b in names[i + 1 :] if len(names) <= FEW else names[i + 1 : i + 2]:
                shared[a, b][0] += counts[a]
                shared[a, b][1] += counts[b]
    for (a, b), (of_a, of_b) in shared.items():
        least = min(sizes[a], sizes[b])
        share = max(n / least for n, unit in ((of_a, a), (of_b, b)) if sizes[unit] == least)
        if share >= ALIKE:
            yield -share, a, b


def without_copies(parts: dict[str, Part], copies: Iterable[Copy]) -> dict[str, Part]:
    """Parts of passages, with ``out`` for those that repeat a passage of a stricter part."""
    groups: dict[str, list[str]] = defaultdict(list)
    for copy in copies:
        if copy.passage_id in parts:
            groups[copy.group].append(copy.passage_id)
    found = dict(parts)
    for members in groups.values():
        strictest = max(STRICTNESS[parts[i]] for i in members)
        found |= {i: "out" for i in members if STRICTNESS[parts[i]] < strictest}
    return found


def repeated(parts: Mapping[str, Part], copies: Iterable[Copy]) -> dict[str, str]:
    """Passage id -> the passage that it nearly repeats, of those that are ``out``; from ``without_copies``."""
    groups: dict[str, list[str]] = defaultdict(list)
    for copy in copies:
        if copy.passage_id in parts:
            groups[copy.group].append(copy.passage_id)
    found: dict[str, str] = {}
    for members in groups.values():
        kept = [i for i in members if parts[i] != "out"]
        found |= {i: kept[0] for i in members if parts[i] == "out"}
    return found


# -- queries --------------------------------------------------------------------------------------------------------


def words_of(text: str) -> list[str]:
    """Words as queries are compared by: casefolded runs of letters, digits and underscores, or else the whole text."""
    return _WORD.findall(text.casefold()) or [text.strip()]


@dataclasses.dataclass(frozen=True, slots=True)
class Near:
    """Text number ``other`` of those that were searched; how alike the words are, and whether in order too."""

    other: int
    similarity: float
    equal: bool


def near_copies(texts: Sequence[str], others: Sequence[str], threshold: float = QUERIES_ALIKE) -> dict[int, Near]:
    """The closest near copy of each text among others; exact, by prefix filtering (Bayardo et al. 2007, AllPairs).

    Two sets of similarity t share one of their |s| - ceil(t |s|) + 1 rarest words, so only those are looked up; and
    neither is larger than the other by more than 1 / t.

    Args:
        texts: short ones, such as queries.
        others: to search.
        threshold: least Jaccard similarity of the words, above 0.

    Returns:
        Number of a text -> its copy; equal before near, more alike before less, then the first.
    """
    theirs = [words_of(text) for text in others]
    sets = [frozenset(words) for words in theirs]
    often = Counter(word for words in sets for word in words)

    def rarest(words: Iterable[str]) -> list[str]:
        ordered = sorted(words, key=lambda word: (often[word], word))
        return ordered[: len(ordered) - math.ceil(threshold * len(ordered) - 1e-9) + 1]

    index: dict[str, list[int]] = defaultdict(list)
    for i, words in enumerate(sets):
        for word in rarest(words):
            index[word].append(i)
    found: dict[int, Near] = {}
    for at, text in enumerate(texts):
        mine = words_of(text)
        words = frozenset(mine)
        near = []
        least, most = threshold * len(words) - 1e-9, len(words) / threshold + 1e-9
        for i in {i for word in rarest(words) for i in index.get(word, ()) if least <= len(sets[i]) <= most}:
            shared = len(words & sets[i])
            similarity = shared / (len(words) + len(sets[i]) - shared)
            if similarity >= threshold - 1e-9:
                near.append(Near(i, similarity, mine == theirs[i]))
        if near:
            found[at] = min(near, key=lambda one: (not one.equal, -one.similarity, one.other))
    return found


def apart(queries: Iterable[Query]) -> list[Query]:
    """Queries in their order, with part ``out`` for those that repeat a query of a stricter part."""
    listed = list(queries)
    found: set[int] = set()
    for strictest in (1, 2):
        of = [i for i, q in enumerate(listed) if STRICTNESS.get(q.part, 2) < strictest]
        held = [q.text for q in listed if STRICTNESS.get(q.part, 0) == strictest]
        found |= {of[at] for at in near_copies([listed[i].text for i in of], held)}
    return [dataclasses.replace(q, part="out") if i in found else q for i, q in enumerate(listed)]
