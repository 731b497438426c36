"""Claim: where a verdict on written queries calls one system better, so do people's queries, and its interval holds.

Needs --data with scifact/ and --run with a finished run of it (docs/log.md names the command), whose held-out written
queries are the verdict's. People's queries are SciFact's claims of --split: every choice was made on the train claims,
and the 300 test claims are to be looked at once. --system names others beside those that the run has: trainings of
other settings, exports. Passages that a run has no vectors of are encoded once and kept in --out.

"with noise" is the share of pairs whose two differences can be one, given the noise of both; "covered" counts the noise
of people's queries against the interval. "learned" is how far both kinds of queries are apart, in standard deviations
of a query's difference, and "unseen" the coverage of each system's pairs with what the pairs of all others teach.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import arguments, table
from tokay.calibrating import RESAMPLES, Both, ids_of, population_of, rank_both, summary_of
from tokay.evaluate.calibrate import PEOPLE, WRITTEN, Calibration, between_of, calibrate, unseen_coverage
from tokay.evaluate.people import effective
from tokay.evaluate.traits import kind_of
from tokay.progress import Silent
from tokay.search.bm25 import BM25
from tokay.search.hybrid import Pool
from tokay.search.learn import shares_like

KINDS = (WRITTEN, PEOPLE)
HEAD = [
    "queries",
    "pairs",
    "called",
    "right",
    "close",
    "refuted",
    "covered",
    "with noise",
    "tau",
    "by",
    "learned",
    "unseen",
]


def main() -> None:
    """Print the systems, the verdict's agreement with people, its slices, and what else was tried."""
    parser = arguments(__doc__)
    parser.add_argument("--run", required=True, help="a finished run of SciFact")
    parser.add_argument("--split", default="train", choices=["train", "test"], help="of SciFact's claims")
    parser.add_argument("--system", action="append", default=[], help="another system, as for 'tokay evaluate'")
    parser.add_argument("--out", type=Path, help="where vectors are kept; default: the run's own folder for them")
    options = parser.parse_args()
    folder = str(options.data / "scifact")
    both = rank_both(
        options.run,
        options.system,
        queries=folder,
        qrels=folder,
        split=options.split,
        out=options.out,
        confirm=lambda lines: False,
        progress=Silent(),
    )
    summary = summary_of(both, resamples=RESAMPLES)
    systems = sorted(summary["systems"], key=lambda row: -row[PEOPLE])
    names = [WRITTEN, "like people's", PEOPLE]
    table(["system", *names], [[row["system"], *(f"{row[name]:.4f}" for name in names)] for row in systems])
    print()
    table(["verdict", *HEAD], [[row["row"], *cells(row)] for row in summary["rows"]])
    print()
    slices = [row for row in summary["slices"] if "pairs" in row]
    named = [[f"{row['from']:.2f} to {row['to']:.2f}", *cells(row)] for row in slices]
    table(["widened, by words shared with the passage", *HEAD], named)
    if options.split == "train":
        print()
        table(["weighed by", "effective", *HEAD], tried(both))


def cells(row: dict[str, Any]) -> list[str]:
    """A row of figures."""
    return [
        " / ".join(str(count) for count in row["queries"].values()),
        str(row["pairs"]),
        str(row["claims"]),
        "" if row["agreement"] is None else f"{row['agreement']:.3f}",
        f"{row['close']['right']} of {row['close']['claims']}",
        str(row["contradicted"]),
        f"{row['coverage']:.3f}",
        f"{row['compatible']:.3f}",
        f"{row['tau']:.3f}",
        f"{row['between']:.2f}",
        f"{row['learned']:.3f}",
        f"{row['unseen systems']:.3f}",
    ]


def tried(both: Both) -> list[list[str]]:
    """Ways to weigh the written queries like people's; intervals are not widened."""
    texts = {kind: [q.text for q in both.on.queries if q.query_id in {*ids_of(both.on, kind)}] for kind in KINDS}
    of = {kind: population_of(both, kind) for kind in KINDS}
    bm25 = BM25([f"{p.title} {p.text}" for p in both.on.passages])
    kinds = [[kind_of(text) for text in texts[kind]] for kind in KINDS]

    def like(trait: Callable[[str], Sequence[float] | NDArray[np.float64]]) -> list[float]:
        return shares_like(*(np.asarray(trait(kind), np.float64) for kind in KINDS)).tolist()

    ways = {
        "nothing": [1.0] * len(texts[WRITTEN]),
        "words that the relevant passage has (needs labels)": like(lambda kind: of[kind].overlap),
        "words that BM25's best hit has": like(lambda kind: [overlap(bm25, text) for text in texts[kind]]),
        "number of words": like(lambda kind: [float(len(bm25.terms(text))) for text in texts[kind]]),
        "kind: question, keywords, sentence": by_kind(*kinds),
        "the base's margin": like(lambda kind: [both.margins[q] for q in ids_of(both.on, kind)]),
    }
    rows = []
    for name, shares in ways.items():
        weighed = dataclasses.replace(of[WRITTEN], shares=shares)
        found = calibrate(both.labels, weighed, of[PEOPLE], resamples=RESAMPLES)
        rows.append([name, f"{effective(shares):.0f}", *cells(row_of(found))])
    return rows


def row_of(found: Calibration) -> dict[str, Any]:
    """Figures of a calibration whose intervals stay as they are."""
    return {**found.figures(), "learned": between_of(found.pairs), "unseen systems": unseen_coverage(found)}


def overlap(bm25: BM25, text: str) -> float:
    """The share of a query, by rarity of its words, that BM25's best hit has."""
    indices, scores = bm25.search([text], 1)
    words = scores[0].astype(np.float64) / np.sqrt(max(1, len(bm25.terms(text))))
    return Pool(indices[0], np.zeros(1), words, text, bm25).traits["overlap"]


def by_kind(ours: Sequence[str], theirs: Sequence[str]) -> list[float]:
    """Each query counts as often as its kind is asked for, between a fifth and five times."""
    wanted = [theirs.count(kind) / len(theirs) / (ours.count(kind) / len(ours)) for kind in ours]
    return np.clip(wanted, 0.2, 5).tolist()


if __name__ == "__main__":
    main()
