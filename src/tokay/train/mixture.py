"""What an embedder is trained on: rows of several sources, each with its task and its share.

A source is FRet rows (of a run), pairs, entailment, classes, labelled retrieval, or plain texts. All of them become
``Example`` rows over texts with ids, so that batches, masks and losses know of no kinds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from tokay.records import Example


@dataclasses.dataclass(frozen=True)
class Source:
    """Rows of one kind, with what a batch must know of them.

    Attributes:
        name: as the mixture has it; ids of rows and texts begin with it, so that sources do not collide.
        rows: in a fixed order; ``task`` and ``query`` of each are what the query side reads.
        texts: id -> (title, text) of every positive and negative.
        symmetric: query and positive are of one kind, so both are written as queries and other queries are negatives.
        weight: how often its rows are seen in an epoch; 0.5: another half of them each epoch.
        share: of an epoch's rows, in place of ``weight``; 0: by weight.
        labels: query or text id -> class. What has a row's class is never its negative.
        matched: no pairs, but texts (``positive_id``) whose vectors shall stay where the base has them.
    """

    name: str
    rows: Sequence[Example]
    texts: Mapping[str, tuple[str, str]]
    symmetric: bool = False
    weight: float = 1.0
    share: float = 0.0
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    matched: bool = False
