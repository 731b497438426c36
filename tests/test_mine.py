from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tokay.mine import mine
from tokay.records import Candidate, Query
from tokay.search.hybrid import Ranking
from tokay.settings import MineSettings

IDS = [f"p{i}" for i in range(8)]


def ranking(order: list[int]) -> Ranking:
    row = np.full((1, 8), -1, np.int64)
    row[0, : len(order)] = order
    return row, np.linspace(1, 0, 8, dtype=np.float32)[None]


def found(
    rankings: dict[str, list[int]],
    *,
    seed: str = "p7",
    proposed: list[str] | None = None,
    known: tuple[str, ...] = (),
    **settings: object,
) -> list[Candidate]:
    query = Query("q", seed, "t", "x", "train", True, "", "")
    return list(
        mine(
            [query],
            IDS,
            {name: ranking(order) for name, order in rankings.items()},
            MineSettings.model_validate({"candidates": 3, **settings}),
            proposed={} if proposed is None else {"q": proposed},
            known={"q": known},
        )
    )


def test_retrievers_are_fused_and_every_rank_is_kept() -> None:
    candidates = found({"base": [0, 1, 2], "bm25": [1, 3], "initial": [5, 4, 7]}, retrievers=("base", "bm25"))
    assert [c.passage_id for c in candidates] == ["p1", "p0", "p7"]
    assert [(c.rank, c.base_rank, c.bm25_rank, c.initial_rank) for c in candidates] == [
        (1, 2, 1, 0),
        (2, 1, 0, 0),
        (3, 0, 0, 3),
    ]
    assert [c.passage_id for c in found({"base": [0, 1], "initial": [7, 5, 4]}, retrievers=("initial",))] == [
        "p7",
        "p5",
        "p4",
    ]


def test_an_annotators_own_list_is_taken() -> None:
    candidates = found({"base": [0, 1], "bm25": []}, proposed=["p6", "p1", "gone", "p7"])
    assert [c.passage_id for c in candidates] == ["p1", "p6", "p7"]


def test_a_query_of_a_log_has_what_was_mined() -> None:
    assert [c.passage_id for c in found({"base": [0, 1, 2, 3], "bm25": []}, seed="")] == ["p0", "p1", "p2"]


@given(
    st.permutations(range(8)),
    st.lists(st.integers(0, 7), unique=True),
    st.sampled_from(["", *IDS]),
    st.lists(st.sampled_from(IDS), max_size=3),
    st.integers(2, 8),
)
def test_seed_and_known_answers_are_always_among_them(
    base: list[int], bm25: list[int], seed: str, known: list[str], count: int
) -> None:
    candidates = found({"base": base, "bm25": bm25}, seed=seed, known=tuple(known), candidates=count)
    ids = [c.passage_id for c in candidates]
    wanted = {*known, seed} - {""}
    assert wanted <= set(ids)
    assert len(set(ids)) == len(ids) <= max(count, len(wanted))
    assert [c.rank for c in candidates] == list(range(1, len(ids) + 1))
