"""Do the tests keep their word? False positives of p < 0.05, and how often a 95 % interval has the truth in it.

Systems and queries are simulated, so that the truth is known. A query's nDCG@10 under each system is drawn as real ones
are spread: many zeros and ones, and steps between them; systems agree on most queries. Null: systems of one quality.
Coverage: the last system is better, and the truth is the mean over 200,000 queries. Grouped: one to four queries of a
passage that are alike, with the group as the unit; ``as if alone`` ignores the groups, to show what that costs.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common import arguments, table
from tokay.evaluate.family import compare_all
from tokay.evaluate.significance import compare

STEPS = np.array([0.0, 0.2, 0.29, 0.3, 0.32, 0.33, 0.36, 0.39, 0.43, 0.5, 0.63, 1.0])
"""NDCG@10 of a query with one answer, by its rank."""
LAST = 0.5
"""How much of the last system's disagreement is improvement, where it is better."""


class Population:
    """Queries in groups, and their values under several systems.

    Args:
        rng: of the draw.
        groups: how many.
        largest: queries of a group at most.
        systems: how many; the second is nearly the first.
        better: whether the last one is.
    """

    def __init__(self, rng: np.random.Generator, groups: int, *, largest: int, systems: int, better: bool) -> None:
        sizes = rng.integers(1, largest + 1, groups)
        self.groups: NDArray[np.int64] = np.repeat(np.arange(groups), sizes)
        count = len(self.groups)

        def alike(share: float) -> NDArray[np.float64]:
            """Standard normal numbers, of which a share of the variance is the group's."""
            own, group = rng.standard_normal(count), rng.standard_normal(groups)[self.groups]
            return np.sqrt(share) * group + np.sqrt(1 - share) * own

        within = 0.6 if largest > 1 else 0.0
        difficulty = alike(within)
        self.values = np.empty((systems, count))
        effects = [0.6 * alike(within) for _ in range(systems)]
        if systems > 2:
            effects[1] = effects[0] + 0.1 * alike(within)
            effects[1] *= 0.6 / np.sqrt(0.37)  # of one quality with the others
        if better:
            effects[-1] = effects[-1] + LAST
        for system, effect in enumerate(effects):
            place = np.searchsorted([-0.5, -0.2, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9], difficulty + effect)
            self.values[system] = STEPS[place]

    def sample(self, rng: np.random.Generator, groups: int) -> tuple[NDArray[np.float64], list[int]]:
        """Values (systems, queries) of some groups, and the group of each query."""
        chosen = rng.choice(self.groups[-1] + 1, groups, replace=False)
        kept = np.flatnonzero(np.isin(self.groups, chosen))
        return self.values[:, kept], self.groups[kept].tolist()


def main() -> None:
    """Simulate, and print one row a kind of query."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--systems", type=int, default=6)
    options = parser.parse_args()
    rows: list[Sequence[object]] = []
    for name, groups, largest in (("alone", 50, 1), ("alone", 300, 1), ("grouped", 50, 4), ("grouped", 120, 4)):
        began = time.perf_counter()
        rng = np.random.default_rng(groups + largest)
        null = Population(rng, 60_000, largest=largest, systems=options.systems, better=False)
        real = Population(rng, 60_000, largest=largest, systems=options.systems, better=True)
        truth = real.values.mean(1)
        counts = dict.fromkeys(("pair", "naive", "plain", "family", "any", "cover", "together"), 0)
        for trial in range(options.trials):
            settings = {"resamples": options.resamples, "seed": trial}
            values, of = null.sample(rng, groups)
            counts["pair"] += compare(values[0], values[-1], groups=of, **settings).p_value < 0.05
            counts["naive"] += compare(values[0], values[-1], **settings).p_value < 0.05
            family = compare_all(by_name(values), groups=of, **settings)
            counts["plain"] += any(pair.p_alone < 0.05 for pair in family)
            counts["family"] += any(pair.comparison.p_value < 0.05 for pair in family)
            values, of = real.sample(rng, groups)
            found = compare(values[-1], values[0], groups=of, **settings)
            counts["cover"] += found.low <= truth[-1] - truth[0] <= found.high
            family = compare_all(by_name(values), groups=of, **settings)
            counts["together"] += all(
                p.comparison.low <= truth[int(p.a)] - truth[int(p.b)] <= p.comparison.high for p in family
            )
        share = {what: f"{count / options.trials:.1%}" for what, count in counts.items()}
        rows.append(
            (
                f"{name}, {groups} groups", share["pair"], share["naive"] if largest > 1 else "", share["plain"],
                share["family"], share["cover"], share["together"], f"{time.perf_counter() - began:.0f} s",
            )
        )  # fmt: skip
    pairs = len(list(itertools.combinations(range(options.systems), 2)))
    print(
        f"{options.trials:,} simulations each, {options.resamples:,} resamples, {options.systems} systems, "
        f"{pairs} pairs\n"
    )
    print("false positives at 5 % (aim: 3.5 to 6.5 %) and coverage of 95 % intervals (aim: 93 to 97 %)\n")
    head = (
        "queries",
        "one pair",
        "as if alone",
        "any pair, plain",
        "any pair, max-T",
        "interval",
        "all intervals",
        "time",
    )
    table(head, rows)


def by_name(values: NDArray[np.float64]) -> dict[str, list[float]]:
    """Systems by their number."""
    return {str(i): row.tolist() for i, row in enumerate(values)}


if __name__ == "__main__":
    main()
