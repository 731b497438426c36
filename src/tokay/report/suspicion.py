"""Which training rows and held-out queries a person should look at first, and why.

A reason is a sign, not a proof: a row that has one may be right. Weights say how much a sign is worth beside others;
they are our choice, and order the list. Nothing is dropped for them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from tokay.annotate.prompts import speaks_to_a_model
from tokay.examples import RELEVANT
from tokay.records import Example, Hit, Passage, Query
from tokay.report.measures import READ_CHARS, copied_share, longest_run, words_of
from tokay.report.page import hides
from tokay.search.bm25 import content_words

RUN_OF_WORDS = 6
"""Words of a passage in a row that make a query a copy; the generate stage itself refuses eight."""

TOP_SHARE = 0.05
"""A margin is large when it is among so large a part of all that are positive."""

LEAST_MARGIN = 0.05
"""… and not smaller than this, in cosine."""

_OF_ITS_PASSAGE = re.compile(
    r"\b(the|this) (given |above |provided )?(passage|excerpt|snippet|paragraph)\b"
    r"|\baccording to the (text|document)\b",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A query with what is known of it. ``positive`` is the row's, or the seed of a query without one.

    ``grades`` are by passage id. ``apart`` is how far two judges' opinions of the positive lie from each other, as a
    share of the scale. ``margin`` is by how much cosine a passage that was judged wrong stands above the positive: in
    the base's ranking for training rows, in the tuned model's for held-out queries; ``ahead`` is that passage.
    ``found`` is false where no system has a right passage among its first ten.
    """

    query: Query
    seed: Passage | None
    example: Example | None
    positive: Passage | None
    grades: Mapping[str, int]
    apart: float = 0.0
    margin: float = 0.0
    ahead: str = ""
    found: bool = True
    twins: int = 0


@dataclasses.dataclass(frozen=True)
class Reason:
    """A sign: its name in tables, its weight, and what is said of a case that has it; empty: it does not."""

    name: str
    weight: float
    said: Callable[[Case], str]


@dataclasses.dataclass(frozen=True)
class Suspect:
    """A case with its reasons, in words, and their names."""

    case: Case
    weight: float
    reasons: tuple[str, ...]
    names: tuple[str, ...]


def reasons(cases: Sequence[Case]) -> list[Reason]:
    """All signs, the heaviest first. Margins are large or not beside those of the other cases."""
    bars = {
        held_out: _bar(c.margin for c in cases if (c.query.part == "test") == held_out) for held_out in (True, False)
    }

    def margin(case: Case) -> str:
        held_out = case.query.part == "test"
        if case.margin < bars[held_out]:
            return ""
        who = "the tuned model" if held_out else "the base"
        more = "" if held_out else ", which makes for a high loss"
        grade = case.grades.get(case.ahead, 0)
        return f"{who} puts a passage of grade {grade} above the right one, by {case.margin:.2f} in cosine{more}"

    return [
        Reason("speaks to a model", 4, _speaks),
        Reason("characters that nobody sees", 3, _hides),
        Reason("seed of grade 0", 3, _seed_graded(0, "the passage that it was written from has grade 0 for it")),
        Reason("positive of a low grade", 3, _low_positive),
        Reason("judges far apart", 2, _apart),
        Reason("copies its passage", 2, _copies),
        Reason("speaks of its passage", 2, _of_its_passage),
        Reason("same words, another positive", 2, _twins),
        Reason("no system finds it", 2, _lost),
        Reason("a wrong passage far ahead", 2, margin),
        Reason("seed of grade 1", 1, _seed_graded(1, "the passage that it was written from has grade 1 for it")),
        Reason("seed is the hard negative", 1, _seed_negative),
        Reason("hardly a query", 1, _hardly),
    ]


def suspects(cases: Sequence[Case]) -> list[Suspect]:
    """Cases with at least one reason, the most suspicious first; of equal weight, those with the larger margin."""
    found = []
    signs = reasons(cases)
    for case in cases:
        said = [(sign, text) for sign in signs if (text := sign.said(case))]
        if said:
            weight = sum(sign.weight for sign, _ in said)
            found.append(Suspect(case, weight, tuple(text for _, text in said), tuple(sign.name for sign, _ in said)))
    return sorted(found, key=lambda s: (-s.weight, -s.case.margin, shuffled(s.case.query.query_id)))


def counted(found: Iterable[Suspect], cases: Sequence[Case]) -> list[tuple[str, float, int]]:
    """Every sign with its weight, and how many cases have it."""
    counts = Counter(name for suspect in found for name in suspect.names)
    return [(sign.name, sign.weight, counts[sign.name]) for sign in reasons(cases)]


def shuffled(query_id: str) -> bytes:
    """Sorting by it is a shuffle that is the same in every report."""
    return hashlib.sha256(query_id.encode("utf-8", "surrogatepass")).digest()


def twins_of(queries: Mapping[str, Query], positives: Mapping[str, set[str]]) -> dict[str, int]:
    """Query id -> how many others ask in the same words, stems in any order, and have other positives."""
    alike: dict[frozenset[str], list[str]] = defaultdict(list)
    for query_id in positives:
        if words := frozenset(content_words(queries[query_id].text[:READ_CHARS])):
            alike[words].append(query_id)
    return {
        q: others
        for ids in alike.values()
        for q in ids
        if len(ids) > 1 and (others := sum(not positives[q] & positives[other] for other in ids))
    }


def lead(hits: Sequence[Hit], grades: Mapping[str, int]) -> tuple[float, str]:
    """By how much a judged wrong passage at rank 1 stands above the best right one of a ranking, and which it is.

    Where no right one is in the ranking, its last stands for it: the margin is then at least that. Nothing judged
    wrong at rank 1: 0.
    """
    first = hits[0] if hits else None
    if first is None or grades.get(first.passage_id, RELEVANT) >= RELEVANT:
        return 0.0, ""
    right = [h.score for h in hits if grades.get(h.passage_id, 0) >= RELEVANT]
    return first.score - max(right, default=hits[-1].score), first.passage_id


def ahead_of(positive: str, scores: Mapping[str, float], grades: Mapping[str, int]) -> tuple[float, str]:
    """By how much cosine the base prefers a candidate that was judged wrong to the positive, and which it is."""
    wrong = {p: score for p, score in scores.items() if p != positive and grades.get(p, RELEVANT) < RELEVANT}
    if positive not in scores or not wrong:
        return 0.0, ""
    worst = max(wrong, key=lambda p: (wrong[p], p))
    return max(0.0, wrong[worst] - scores[positive]), worst


# -- signs ----------------------------------------------------------------------------------------------------------


def _speaks(case: Case) -> str:
    texts = {"the query": case.query.text, "its passage": _text(case.seed), "the positive": _text(case.positive)}
    found = [name for name, text in texts.items() if speaks_to_a_model(text[:READ_CHARS])]
    return f"{found[0]} holds words that look like instructions to a language model" if found else ""


def _hides(case: Case) -> str:
    return "the query has control characters or marks that nobody sees" if hides(case.query.text) else ""


def _seed_graded(grade: int, text: str) -> Callable[[Case], str]:
    return lambda case: text if case.grades.get(case.query.seed_id) == grade else ""


def _low_positive(case: Case) -> str:
    grade = case.grades.get(case.example.positive_id, RELEVANT) if case.example else RELEVANT
    return f"its positive has grade {grade}" if grade < RELEVANT else ""


def _apart(case: Case) -> str:
    return f"two opinions of its positive lie {100 * case.apart:.0f} % of the scale apart" if case.apart >= 0.5 else ""


def _copies(case: Case) -> str:
    if case.seed is None:
        return ""
    run = longest_run(case.query.text, f"{case.seed.title} {case.seed.text}")
    if run >= RUN_OF_WORDS:
        return f"{run} of its words stand in a row in its passage"
    words = set(content_words(case.query.text[:READ_CHARS]))
    copied = copied_share(case.query.text, words_of(case.seed.title, case.seed.text))
    return f"all its {len(words)} content words stand in its passage" if copied == 1.0 and len(words) >= 6 else ""


def _of_its_passage(case: Case) -> str:
    found = _OF_ITS_PASSAGE.search(case.query.text)
    return f"it speaks of “{found[0]}”, which a searcher has not seen" if found else ""


def _twins(case: Case) -> str:
    others = "another query asks" if case.twins == 1 else f"{case.twins} other queries ask"
    return f"{others} in the same words and got another positive" if case.twins else ""


def _lost(case: Case) -> str:
    return "" if case.found else "no system has a right passage among its first ten"


def _seed_negative(case: Case) -> str:
    negatives = case.example.negative_ids if case.example else []
    return "the passage that it was written from is its hard negative" if case.query.seed_id in negatives else ""


def _hardly(case: Case) -> str:
    words = len(re.findall(r"\w+", case.query.text[:READ_CHARS]))
    if words > 60:
        return f"{words} words are more than one types into a search box"
    if words == 1 and case.query.text.isascii():  # scripts without blanks have one word a sentence
        return "it is a single word"
    return "" if words else "it has no word"


def _text(passage: Passage | None) -> str:
    return f"{passage.title}\n{passage.text}" if passage else ""


def _bar(margins: Iterable[float]) -> float:
    """From here on a margin is large."""
    positive = [margin for margin in margins if margin > 0]
    return max(LEAST_MARGIN, float(np.quantile(positive, 1 - TOP_SHARE))) if positive else float("inf")
