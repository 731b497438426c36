"""Claim: where a verdict on written queries calls one system better, so do people's queries, and its interval holds.

Needs --data with scifact/ and --run with a run of it that has come to its judgments, or to its end. The verdict's
queries are the run's held-out written ones, people's are SciFact's claims of --split: every choice was made on the
train claims, and the 300 test claims are to be looked at once.

Systems: BM25 at two settings, the base at its widths and with BM25 at six weights, and query sides tuned on the run's
training queries against the base's passage vectors: a tower, and maps from hardly tuned to learned by heart. Of a
finished run also what it has: the tuned model at its widths, its exports, with BM25; and whatever --system names.

"with noise" is the share of pairs whose two differences can be one, given the noise of both; "covered" counts the noise
of people's queries against the interval. "learned" is how far both kinds of queries are apart, in standard deviations
of a query's difference, and "unseen" the coverage of each system's pairs with what the pairs of all others teach.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import arguments, table
from tokay import open_run
from tokay.calibrating import RESAMPLES, Both, ids_of, joined, population_of, rank_both, summary_of
from tokay.evaluate.calibrate import PEOPLE, WRITTEN, Calibration, between_of, calibrate, unseen_coverage
from tokay.evaluate.many import Ranked
from tokay.evaluate.people import effective, margins_of
from tokay.evaluate.sets import EvaluationSet, own_set
from tokay.evaluate.traits import kind_of
from tokay.evaluating import set_of_run
from tokay.keeping import read_material
from tokay.progress import Silent
from tokay.records import Passage
from tokay.search.bm25 import BM25
from tokay.search.dense import top_k, unit
from tokay.search.hybrid import Hybrid, Pool, Ranking, as_run, pools_of, spread_of
from tokay.search.learn import shares_like
from tokay.train.frozen import targets_of
from tokay.train.query_map import path
from tokay.train.query_tower import train_tower
from tokay.tuning import settings_for

DEPTH = 100
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
    parser.add_argument("--run", required=True, help="a run of SciFact, at least to its judgments")
    parser.add_argument("--split", default="train", choices=["train", "test"], help="of SciFact's claims")
    parser.add_argument("--system", action="append", default=[], help="another system, as for 'tokay evaluate'")
    parser.add_argument("--out", type=Path, help="where vectors are kept; default: the run's own folder for them")
    options = parser.parse_args()
    both = both_of(options)
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


def both_of(options: argparse.Namespace) -> Both:
    """All systems on the run's held-out queries and on people's."""
    folder, run = str(options.data / "scifact"), open_run(options.run)
    passages = list(run.table("corpus", "passages", Passage))
    on = joined(set_of_run(run), own_set(folder, passages, queries=folder, qrels=folder, split=options.split))
    ranked = [Ranked(label, 0, as_run(one, on.qrels, on.ids)) for label, one in cheap(options.run, on)]
    margins = margins_of(next(one.run for one in ranked if one.label == "base"))
    if run.is_done("evaluate"):
        labels = {"queries": folder, "qrels": folder, "split": options.split}
        quiet: dict[str, Any] = {"confirm": lambda lines: False, "progress": Silent()}
        more = rank_both(options.run, options.system, out=options.out, **labels, **quiet)
        known = {one.label for one in ranked}
        ranked += [one for one in more.ranked if one.label not in known and one.label not in ("bm25", "base+bm25")]
    return Both(on, ranked, margins, Path(options.run))


def cheap(run: str, on: EvaluationSet) -> Iterator[tuple[str, Ranking]]:
    """Systems whose passages are not encoded: name, ranking."""
    texts = [q.text for q in on.queries]
    material = read_material(run, settings_for(run, {}), form="tower")
    asked, passages = material.parts["train"], material.frozen.vectors
    words = [f"{p.title} {p.text}" for p in on.passages]
    for k1, b in ((0.9, 0.4), (1.2, 0.75)):
        yield f"BM25, k1 {k1}, b {b}", BM25(words, k1=k1, b=b).search(texts, DEPTH)
    bm25 = BM25(words)
    base = unit(material.base.encode(texts, kind="query"))
    spread = spread_of(base, passages)

    def forms(name: str, queries: NDArray[np.float32], dims: Sequence[int], weights: Sequence[float]) -> Any:
        dense = top_k(queries, passages, DEPTH)
        yield name, dense
        for dim in dims:
            yield f"{name}@{dim}", top_k(unit(queries, dim), passages, DEPTH, dim=dim)
        pools = list(pools_of(dense, bm25, texts, queries, passages))
        for weight in weights:
            yield f"{name}+bm25, weight {weight:g}", Hybrid(weight * spread).rank(pools, DEPTH)

    yield from forms("base", base, (256, 128, 64), (0.15, 0.3, 0.6, 1, 2, 4))
    start = np.eye(base.shape[1], dtype=np.float32)
    targets = targets_of(asked, material.frozen)
    for strength, matrix in path(material.vectors("train"), targets, start, (0.3, 0.03, 0.003, 0.0003)):
        yield from forms(f"map {strength:g}", unit(base @ matrix.T), (128,), (0.6,))
    settings = settings_for(run, {}).train
    tower = train_tower(material.base, asked, material.frozen, settings, choice=material.parts["dev"])
    yield from forms("tower", unit(tower.embedder.encode(texts, kind="query")), (128,), (0.6,))


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
