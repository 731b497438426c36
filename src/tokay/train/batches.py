"""Batches of contrastive training: which rows, which distinct texts, which columns a row may see.

A batch holds each distinct text once: a passage that is positive of one row and negative of another is one column and
is encoded once. Which columns may stand as negatives of which row is a mask, so nothing has to be thrown away.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokay.errors import TokayError
from tokay.models.format import SEARCH, InputFormat
from tokay.records import Example
from tokay.train.mixture import Source

Row = tuple[Source, Example]
"""A row with the source that it is of."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """One step; letters as in ``losses``: B rows, C distinct passages; T distinct texts, K candidates of a row.

    Attributes:
        texts: the T distinct texts, as the model reads them.
        query: (B,) which text is each row's query.
        passage: (C,) which text is each column.
        target: (B,) each row's positive, a column.
        allowed: (B, C) columns in each row's denominator.
        allowed_queries: (B, B) other rows' queries in it; None: no row sees any.
        hard: (B, C) each row's own hard negatives.
        candidates: (B, K) judged candidates, columns; -1: none.
        grades: (B, K) theirs.
        matched: (M,) texts whose vectors shall stay where the base has them.
    """

    texts: tuple[str, ...]
    query: Tensor
    passage: Tensor
    target: Tensor
    allowed: Tensor
    allowed_queries: Tensor | None
    hard: Tensor
    candidates: Tensor
    grades: Tensor
    matched: Tensor
    rows: tuple[Row, ...]

    def to(self, device: torch.device) -> Batch:
        """The same, with its tensors on ``device``."""
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)


# -- which rows ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Draw:
    """How many rows of each source a whole run sees, and in what order: a function of the seed alone."""

    sources: tuple[Source, ...]
    batch_size: int
    epochs: int
    batching: Literal["one-source", "mixed"]
    seed: int

    def rows(self) -> list[int]:
        """Rows that are drawn of each source, all epochs together."""
        weighted = [self.epochs * s.weight * len(s.rows) if not s.share else 0.0 for s in self.sources]
        shares = sum(s.share for s in self.sources)
        if shares and not sum(weighted):
            raise TokayError("every source of the mixture has a share; give one of them a weight, which is the measure")
        total = sum(weighted) / (1 - shares)
        wanted = [s.share * total if s.share else w for s, w in zip(self.sources, weighted, strict=True)]
        return [max(1, round(rows)) if rows else 0 for rows in wanted]

    def steps(self) -> int:
        """Number of batches."""
        return sum(self._batches()) if self.batching == "one-source" else math.ceil(sum(self.rows()) / self.batch_size)

    def _batches(self) -> list[int]:
        return [math.ceil(n / self._size(s)) for s, n in zip(self.sources, self.rows(), strict=True)]

    def _size(self, source: Source) -> int:
        return min(self.batch_size, len(source.rows))

    def batches(self, start: int = 0) -> Iterator[list[Row]]:
        """Distinct rows of each batch from the ``start``-th on. Every row of a source comes once before any twice.

        A batch that is not full at the end of a source's round is filled up from the next one, so that every batch has
        as many negatives; a row that it has already waits for the next batch.
        """
        generator = np.random.default_rng([self.seed, 0])
        if self.batching == "one-source":
            order = generator.permutation(np.repeat(np.arange(len(self.sources)), self._batches()))
            turns = ([int(s)] * self._size(self.sources[s]) for s in order)
        else:
            drawn = np.repeat(np.arange(len(self.sources)), self.rows())
            padding = generator.choice(len(self.sources), -len(drawn) % self.batch_size, p=drawn_shares(drawn, self))
            order = generator.permutation(np.concatenate([drawn, padding]))
            turns = (order[at : at + self.batch_size].tolist() for at in range(0, len(order), self.batch_size))
        streams = [_Stream(len(s.rows), [self.seed, 1, number]) for number, s in enumerate(self.sources)]
        for number, sources in enumerate(turns):
            rows = [(s, row) for s, count in Counter(sources).items() for row in streams[s].take(count)]
            if number >= start:
                yield [(self.sources[s], self.sources[s].rows[row]) for s, row in rows]


class _Stream:
    """Numbers of a source's rows, shuffle after shuffle, without end."""

    def __init__(self, rows: int, seed: Sequence[int]) -> None:
        self._rows = rows
        self._generator = np.random.default_rng(seed)
        self._next: list[int] = []

    def take(self, count: int) -> list[int]:
        """So many different ones, or all there are; what would come twice is the first of the next time."""
        taken: dict[int, None] = {}
        early = []
        while len(taken) < min(count, self._rows):
            if not self._next:
                self._next = self._generator.permutation(self._rows).tolist()[::-1]
            row = self._next.pop()
            if row in taken:
                early.append(row)
            taken.setdefault(row)
        self._next += early[::-1]
        return list(taken)


def drawn_shares(drawn: NDArray[np.int64], draw: Draw) -> NDArray[np.float64]:
    """Share of each source among the rows that are drawn."""
    return np.bincount(drawn, minlength=len(draw.sources)) / len(drawn)


# -- what a row sees -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class BatchMaker:
    """Rows to a batch.

    Attributes:
        prompts: how queries and passages are written.
        same_tower: which rows have other queries in their denominator: those of symmetric sources, all, or none.
        mask_false_negatives: leave out what was judged to answer a row.
        all_negatives: every row sees every row's hard negatives; otherwise its own alone.
        candidates: how many judged candidates of a row distillation takes; 0: none.
        seed: of the choice among them.
    """

    prompts: InputFormat
    same_tower: Literal["symmetric", "always", "never"] = "symmetric"
    mask_false_negatives: bool = True
    all_negatives: bool = False
    candidates: int = 0
    seed: int = 0

    def write_query(self, row: Row) -> str:
        """A row's query as the model reads it."""
        return self._query(row[1].query, row[1].task or SEARCH)

    def write_passage(self, row: Row, passage_id: str) -> str:
        """A passage of a row as the model reads it; of a symmetric source it is written as a query is."""
        source, example = row
        title, text = source.texts[passage_id]
        if source.symmetric:
            return self._query(f"{title} {text}" if title else text, example.task or SEARCH)
        return self.prompts.write_passage(text, title)

    def _query(self, text: str, task: str) -> str:
        return self.prompts.write_query(text, task) if self.prompts.is_gecko else self.prompts.write_query(text)

    def make(self, rows: Sequence[Row], step: int) -> Batch:
        """Texts and masks of these rows.

        A row sees every row's positive and its own hard negatives. It never sees another passage that is an answer of
        its query or has its class, nor one with the text of its positive or of its query; with ``mask_false_negatives``
        none that was judged to answer it. Same tower: nor queries that are the same, answer it, have its class, or
        whose positive answers it.
        """
        pairs = [row for row in rows if not row[0].matched]
        columns = _Numbers()
        queries = [self.write_query(row) for row in pairs]
        target = [columns.add(self.write_passage(row, row[1].positive_id)) for row in pairs]
        own = [[columns.add(self.write_passage(row, n)) for n in row[1].negative_ids] for row in pairs]
        listed: list[dict[int, float]] = [{} for _ in pairs]
        for row, graded in zip(pairs, listed, strict=True):
            for p, grade in self._candidates(row, step):
                graded.setdefault(columns.add(self.write_passage(row, p)), grade)  # of one text, the first
        seen, answers = np.zeros((2, len(pairs), len(columns)), bool)  # (B, C) each
        seen[:, target] = True
        if self.all_negatives:
            seen[:, [c for some in own for c in some]] = True
        hard = np.zeros_like(seen)
        for i, negatives in enumerate(own):
            hard[i, negatives] = True
        self._mark_answers(answers, pairs, queries, target, columns)
        allowed = (seen | hard) & ~answers
        hard &= allowed
        allowed[np.arange(len(pairs)), target] = True
        texts = _Numbers()
        matched = [self.write_passage(row, row[1].positive_id) for row in rows if row[0].matched]
        return Batch(
            query=_numbers([texts.add(text) for text in queries]),
            passage=_numbers([texts.add(text) for text in columns]),
            target=_numbers(target),
            allowed=torch.from_numpy(allowed),
            allowed_queries=self._tower(pairs, queries, answers[:, target] | _of_texts(answers, queries, columns)),
            hard=torch.from_numpy(hard),
            candidates=_padded([list(graded) for graded in listed], -1, torch.long),
            grades=_padded([list(graded.values()) for graded in listed], 0, torch.float32),
            matched=_numbers([texts.add(text) for text in matched]),
            texts=tuple(texts),
            rows=tuple(rows),
        )

    def _mark_answers(
        self,
        answers: NDArray[np.bool_],
        pairs: Sequence[Row],
        queries: Sequence[str],
        target: Sequence[int],
        columns: _Numbers,
    ) -> None:
        """Set the columns that answer each row: (B, C)."""
        positives: dict[str, list[int]] = {}
        for query, column in zip(queries, target, strict=True):
            positives.setdefault(query, []).append(column)
        members: dict[str, list[int]] = {}
        for row in pairs:
            for p in (row[1].positive_id, *row[1].negative_ids) if row[0].labels else ():
                label = f"{row[0].name}/{row[0].labels[p]}"
                members.setdefault(label, []).append(columns.add(self.write_passage(row, p)))
        for i, (row, query) in enumerate(zip(pairs, queries, strict=True)):
            source, example = row
            judged = [p for p in example.relevant_ids if p in source.texts] if self.mask_false_negatives else []
            there = (columns.get(text) for text in (query, *(self.write_passage(row, p) for p in judged)))
            answers[i, [*positives[query], *(c for c in there if c is not None)]] = True
            answers[i, members.get(_class_of(row, ""), [])] = True

    def _tower(self, pairs: Sequence[Row], queries: Sequence[str], answered: NDArray[np.bool_]) -> Tensor | None:
        """Other queries that each row sees: (B, B). ``answered`` says whose positive answers it."""
        sees = np.array([self.same_tower == "always" or source.symmetric for source, _ in pairs])
        if self.same_tower == "never" or not sees.any():
            return None
        texts, classes = _Numbers(), _Numbers()
        number = np.array([texts.add(query) for query in queries])
        label = np.array([classes.add(_class_of(row, f"\0{i}")) for i, row in enumerate(pairs)])
        same = (number[:, None] == number) | (label[:, None] == label) | answered
        return torch.from_numpy(sees[:, None] & ~same)

    def _candidates(self, row: Row, step: int) -> list[tuple[str, float]]:
        """The positive and some other candidates of a row, with grades or a teacher's scores; anew each time."""
        source, example = row
        grades: Mapping[str, float] = source.taught.get(example.query_id) or dict(
            zip(example.candidate_ids, example.grades, strict=True)
        )
        if not self.candidates or example.positive_id not in grades:
            return []
        others = [p for p in grades if p != example.positive_id]
        generator = np.random.default_rng([self.seed, step, *example.query_id.encode()])
        chosen = generator.permutation(len(others))[: self.candidates - 1]
        return [(p, grades[p]) for p in (example.positive_id, *(others[i] for i in chosen))]


def _of_texts(marked: NDArray[np.bool_], texts: Sequence[str], columns: _Numbers) -> NDArray[np.bool_]:
    """Marks of the columns that have these texts, (B, texts); none where there is no such column."""
    there = [columns.get(text) for text in texts]
    return np.array([marked[:, c] if c is not None else np.zeros(len(marked), bool) for c in there], bool).T


class _Numbers:
    """Numbers texts in the order in which they come."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def add(self, text: str) -> int:
        """Its number, a new one for a new text."""
        return self._places.setdefault(text, len(self._places))

    def get(self, text: str) -> int | None:
        """Its number if it has one."""
        return self._places.get(text)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _class_of(row: Row, none: str) -> str:
    label = row[0].labels.get(row[1].query_id)
    return none if label is None else f"{row[0].name}/{label}"


def _numbers(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.long)


def _padded(rows: Sequence[Sequence[float]], blank: float, dtype: torch.dtype) -> Tensor:
    """Rows of unequal length as one tensor, (rows, longest)."""
    width = max((len(row) for row in rows), default=0)
    padded = [[*row, *[blank] * (width - len(row))] for row in rows]
    return torch.tensor(padded, dtype=dtype).reshape(len(rows), width)
