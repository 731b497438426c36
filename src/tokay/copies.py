"""Passages and queries that nearly repeat others, and what the split has to do about it.

Two documents that share most of their passages fall on one side. A passage that still repeats one of a stricter part
(test before dev before train) is left out, and so is a query: training loses, the verdict does not.
"""

from __future__ import annotations

import dataclasses
import functools
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

MANY = 100
"""Sets with a rare word in common from which it is looked whether fewer have a part of the vocabulary in common."""

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
    """The closest near copy of each text among others; exact, without comparing all pairs.

    Args:
        texts: short ones, such as queries.
        others: to search.
        threshold: least Jaccard similarity of the words, above 0.

    Returns:
        Number of a text -> its copy; equal before near, more alike before less, then the first.
    """
    whole: dict[tuple[str, ...], int] = {}
    first: dict[frozenset[str], int] = {}
    for i, text in enumerate(others):
        theirs = words_of(text)
        whole.setdefault(tuple(theirs), i)
        first.setdefault(frozenset(theirs), i)
    alike, numbers = _Alike(list(first), threshold), list(first.values())
    found: dict[int, Near] = {}
    for at, text in enumerate(texts):
        mine = words_of(text)
        words = frozenset(mine)
        if (equal := whole.get(tuple(mine))) is not None:
            found[at] = Near(equal, 1.0, True)
        elif (same := first.get(words)) is not None:
            found[at] = Near(same, 1.0, False)
        elif near := alike.closest(words):
            found[at] = Near(numbers[near[0]], near[1], False)
    return found


class _Alike:
    """Sets of words by what a set of similarity t to them must have, of which the rarer is looked up.

    It shares one of their |s| - ceil(t |s|) + 1 rarest words (prefix filtering: Bayardo et al. 2007, AllPairs), few
    where most words are rare. And the two differ in at most |s| (1 - t) / t words, so that of one more parts of the
    vocabulary they have one in common as a whole (Arasu et al. 2006, PartEnum), few where all words are frequent.
    """

    def __init__(self, sets: Sequence[frozenset[str]], threshold: float) -> None:
        self.sets = sets
        self.threshold = threshold
        self.often = Counter(word for words in sets for word in words)
        self.by_word: dict[str, list[int]] = defaultdict(list)
        for i, words in enumerate(sets):
            for word in self._rarest(words):
                self.by_word[word].append(i)

    def closest(self, words: frozenset[str]) -> tuple[int, float] | None:
        """The set that is most like these words, the first of several, and how much it is; None: none is enough."""
        lists = [self.by_word[word] for word in self._rarest(words) if word in self.by_word]
        if sum(map(len, lists)) > MANY:
            lists = min(lists, self._in_common(words), key=lambda found: sum(map(len, found)))
        best: tuple[float, int] | None = None
        least, most = self.threshold * len(words) - 1e-9, len(words) / self.threshold + 1e-9
        for i in {i for found in lists for i in found if least <= len(self.sets[i]) <= most}:
            shared = len(words & self.sets[i])
            similarity = shared / (len(words) + len(self.sets[i]) - shared)
            if similarity >= self.threshold - 1e-9 and (best is None or (-similarity, i) < best):
                best = -similarity, i
        return (best[1], -best[0]) if best else None

    def _rarest(self, words: frozenset[str]) -> list[str]:
        ordered = sorted(words, key=lambda word: (self.often[word], word))
        return ordered[: len(ordered) - math.ceil(self.threshold * len(ordered) - 1e-9) + 1]

    def _in_common(self, words: frozenset[str]) -> list[list[int]]:
        """Numbers of sets with a part of the vocabulary in common, for each part of each way to divide it."""
        low, high = self.threshold * len(words) - 1e-9, len(words) / self.threshold + 1e-9
        ways = range(self._parts(math.ceil(low)), self._parts(math.floor(high)) + 1)
        return [self.by_part[key] for parts in ways for key in self._divided(words, parts) if key in self.by_part]

    @functools.cached_property
    def by_part(self) -> dict[tuple[int, int, frozenset[int]], list[int]]:
        """How many parts there are, which one it is, what a set has of it -> numbers of sets."""
        found = defaultdict(list)
        for i, words in enumerate(self.sets):
            for key in self._divided(words, self._parts(len(words))):
                found[key].append(i)
        return dict(found)

    @functools.cached_property
    def rank(self) -> dict[str, int]:
        """Word -> its place by how often it is: neighbours go to different parts, so that these tell as much each."""
        return {word: n for n, (word, _) in enumerate(self.often.most_common())}

    def _parts(self, size: int) -> int:
        """One more than the words by which a set of this size can differ from one that is like it."""
        return math.floor(size * (1 - self.threshold) / self.threshold + 1e-9) + 1

    def _divided(self, words: frozenset[str], parts: int) -> list[tuple[int, int, frozenset[int]]]:
        divided: list[list[int]] = [[] for _ in range(parts)]
        for word in words:
            rank = self.rank.get(word, -1)  # in no other set
            divided[rank % parts].append(rank)
        return [(parts, n, frozenset(held)) for n, held in enumerate(divided)]


def repeating(queries: Iterable[Query]) -> set[int]:
    """Numbers of the queries that repeat one of a stricter part."""
    listed = list(queries)
    found: set[int] = set()
    for strictest in (1, 2):
        of = [i for i, q in enumerate(listed) if STRICTNESS.get(q.part, 2) < strictest]
        held = [q.text for q in listed if STRICTNESS.get(q.part, 0) == strictest]
        found |= {of[at] for at in near_copies([listed[i].text for i in of], held)}
    return found


def apart(queries: Iterable[Query]) -> list[Query]:
    """Queries in their order, with part ``out`` for those that repeat a query of a stricter part."""
    listed = list(queries)
    found = repeating(listed)
    return [dataclasses.replace(q, part="out") if i in found else q for i, q in enumerate(listed)]
