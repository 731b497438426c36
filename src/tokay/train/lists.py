"""Lists to learn ranking from: a query, what a judge said of its candidates, and passages that nobody looked at.

A passage that was never judged is not known to be wrong, and the nearer the retriever puts it the likelier it answers:
RocketQA (2010.08191) found 70 % of the top unlabelled passages of MS MARCO to be right. So

- what was judged has its grade, and judged ones of low grade are the hard negatives that can be trusted;
- what the tuned retriever returns and nobody judged is a negative only where it scores clearly below the query's best
  answer (NV-Retriever's share of the positive's score, 2407.15831);
- what stands in no ranking at all is an easy negative, drawn anew each time.

A new head on an embedder's backbone has never compared two texts, and on hard candidates alone its loss stays where it
began for hundreds of steps; on easy ones it falls at once (docs/log.md). So training begins with easy negatives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokay.examples import RELEVANT
from tokay.models.cross_encoder import written
from tokay.records import Example
from tokay.settings import RerankSettings

HIGHEST = 3
"""The grade of a seed that nobody judged, and the highest that a judge gives."""


@dataclasses.dataclass(frozen=True)
class RankList:
    """What is known of one query.

    Attributes:
        judged: passage id -> grade; of a query that nobody judged, the seed alone, with the highest.
        near: passages that the retriever returned, nobody judged, and that may stand as negatives; best first.
        known: passages that may not be drawn as easy negatives.
    """

    query_id: str
    query: str
    judged: Mapping[str, int]
    near: Sequence[str]
    known: frozenset[str]


def lists_of(
    examples: Iterable[Example],
    found: Mapping[str, Sequence[tuple[str, float]]],
    *,
    below: float,
    near: int,
) -> Iterator[RankList]:
    """One list for each query that some passage answers.

    Args:
        examples: training rows; several of one query make one list.
        found: query id -> the retriever's passages of the training side with their cosines, best first.
        below: an unjudged passage is a negative below this share of the best answer's cosine.
        near: how many of them are kept.
    """
    seen: set[str] = set()
    for e in examples:
        if e.query_id in seen:
            continue
        seen.add(e.query_id)
        judged = dict(zip(e.candidate_ids, e.grades, strict=True)) or {e.positive_id: HIGHEST}
        if not any(grade >= RELEVANT for grade in judged.values()):
            continue
        ranking = found.get(e.query_id, ())
        answers = [score for p, score in ranking if judged.get(p, 0) >= RELEVANT]
        bar = below * max(answers) if answers else -np.inf  # an answer that is not found says nothing of what is
        known = frozenset({*judged, *e.relevant_ids, e.seed_id, *(p for p, _ in ranking)})
        unjudged = [p for p, score in ranking if p not in judged and p not in e.relevant_ids and p != e.seed_id]
        scores = dict(ranking)
        yield RankList(e.query_id, e.query, judged, [p for p in unjudged if scores[p] < bar][:near], known)


@dataclasses.dataclass(frozen=True)
class ListBatch:
    """One step: B lists of up to K candidates.

    Attributes:
        pairs: of all lists, a query and a passage as the model reads them.
        listed: (B, K) bool, where a list has a candidate.
        grades: (B, K) theirs; pairs stand in its order, row by row.
        rows: the lists, and the passages of each.
        easy: whether all negatives are easy.
    """

    pairs: tuple[tuple[str, str], ...]
    listed: Tensor
    grades: Tensor
    rows: tuple[tuple[RankList, tuple[str, ...]], ...]
    easy: bool


class ListMaker:
    """Lists to batches, a function of the seed and the step alone.

    Args:
        lists: to learn from.
        texts: passage id -> (title, text), the training side's.
        settings: of the reranker.
    """

    def __init__(
        self, lists: Sequence[RankList], texts: Mapping[str, tuple[str, str]], settings: RerankSettings
    ) -> None:
        self.lists, self.texts, self.settings = lists, texts, settings
        self.ids = sorted(texts)

    def steps(self) -> int:
        """Number of batches."""
        return self.settings.epochs * -(-len(self.lists) // self.settings.batch_size)

    def batches(self, start: int = 0) -> Iterator[ListBatch]:
        """Every list once an epoch, in another order each time, from the ``start``-th batch on."""
        size, each = self.settings.batch_size, -(-len(self.lists) // self.settings.batch_size)
        for step in range(start, self.steps()):
            epoch, place = divmod(step, each)
            order = np.random.default_rng([self.settings.seed, 2, epoch]).permutation(len(self.lists))
            yield self.make([self.lists[i] for i in order[place * size : (place + 1) * size]], step)

    def make(self, lists: Sequence[RankList], step: int) -> ListBatch:
        """The batch of some lists."""
        random = np.random.default_rng([self.settings.seed, 3, step])
        easy = step < self.settings.easy_first * self.steps()
        rows = [(one, self._chosen(one, random, easy=easy)) for one in lists]
        width = max(len(ids) for _, ids in rows)
        listed = torch.zeros((len(rows), width), dtype=torch.bool)
        grades = torch.zeros((len(rows), width))
        pairs = []
        for i, (one, ids) in enumerate(rows):
            listed[i, : len(ids)] = True
            grades[i, : len(ids)] = torch.tensor([float(one.judged.get(p, 0)) for p in ids])
            pairs += [(one.query, written(self.texts[p][1], self.texts[p][0])) for p in ids]
        return ListBatch(tuple(pairs), listed, grades, tuple(rows), easy)

    def _chosen(self, one: RankList, random: Any, *, easy: bool) -> tuple[str, ...]:
        """Candidates of a list: its answers, then judged and near ones by chance, the rest easy ones, or all of it."""
        wanted = self.settings.candidates
        answers = [p for p, grade in one.judged.items() if grade >= RELEVANT]
        answers = random.permutation(answers).tolist()[: max(1, wanted // 2)]
        hard = [] if easy else [p for p, grade in one.judged.items() if grade < RELEVANT] + list(one.near)
        room = wanted - len(answers) - min(self.settings.easy_negatives, wanted - len(answers))
        chosen = [*answers, *random.permutation(hard).tolist()[:room]]
        drawn = [self.ids[i] for i in random.choice(len(self.ids), min(len(self.ids), 4 * wanted), replace=False)]
        return tuple(chosen + [p for p in drawn if p not in one.known][: wanted - len(chosen)])
