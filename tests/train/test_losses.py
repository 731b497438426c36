"""The losses, against loops in float64 that follow the papers number by number."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from tokay.settings import TrainSettings
from tokay.train.batches import Batch
from tokay.train.losses import contrastive, embedding_match, graded_kl, margin_mse, matryoshka, spread_out
from tokay.train.objective import Objective

SEEDS = st.integers(0, 10_000)
Array = NDArray[Any]


def s(a: Array, b: Array) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def gecko(q: Array, p: Array, n: Array, t: float) -> float:
    """L_main as the paper prints it (appendix B)."""
    total = 0.0
    for i in range(len(q)):
        below = sum(math.exp(s(q[i], p[j]) / t) for j in range(len(q)))
        below += sum(math.exp(s(q[i], q[j]) / t) for j in range(len(q)) if j != i)
        below += math.exp(s(q[i], n[i]) / t)
        total -= math.log(math.exp(s(q[i], p[i]) / t) / below)
    return total / len(q)


def by_hand(q: Array, p: Array, a: dict[str, Any]) -> float:
    """``contrastive`` with every switch."""
    losses = []
    for i in range(len(q)):
        own = s(q[i], p[a["target"][i]])
        limit = own + (a["margin"] or math.inf)
        below = 0.0
        for j in range(len(p)):
            c = s(q[i], p[j])
            if j == a["target"][i]:
                below += math.exp(c / a["temperature"])
            elif a["allowed"][i][j] and c <= limit:
                below += math.exp(c / a["temperature"] + a["hardness"] * c * bool(a["hard"][i][j]))
        for j in range(len(q)):
            if a["allowed_queries"][i][j] and s(q[i], q[j]) <= limit:
                below += math.exp(s(q[i], q[j]) / a["temperature"])
        losses.append(math.log(below) - own / a["temperature"])
    return float(np.average(losses, weights=a["weights"]))


def problem(seed: int, rows: int = 5, columns: int = 8, width: int = 6) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Vectors and masks at random, with all switches on."""
    g = torch.Generator().manual_seed(seed)
    q, p = (torch.randn(n, width, generator=g, dtype=torch.float64) for n in (rows, columns))
    target = torch.randint(columns, (rows,), generator=g)
    allowed = torch.rand(rows, columns, generator=g) < 0.7
    allowed.scatter_(1, target[:, None], True)
    hard = allowed & (torch.rand(rows, columns, generator=g) < 0.3)
    hard.scatter_(1, target[:, None], False)
    others = (torch.rand(rows, rows, generator=g) < 0.6) & ~torch.eye(rows, dtype=torch.bool)
    return (
        q,
        p,
        {
            "target": target,
            "allowed": allowed,
            "allowed_queries": others,
            "hard": hard,
            "hardness": 5.0,
            "margin": 0.1,
            "weights": torch.rand(rows, generator=g) + 0.1,
            "temperature": 0.2,
        },
    )


def judged(seed: int, rows: int = 4, columns: int = 7, most: int = 5) -> dict[str, Tensor]:
    """Listed candidates of each row, from none to ``most``, the target first."""
    g = torch.Generator().manual_seed(seed)
    listed, target = torch.full((rows, most), -1), torch.zeros(rows, dtype=torch.long)
    for i in range(rows):
        count = int(torch.randint(most + 1, (1,), generator=g))
        chosen = torch.randperm(columns, generator=g)[:most]
        listed[i, :count], target[i] = chosen[:count], chosen[0]
    return {"target": target, "columns": listed, "grades": torch.randint(4, (rows, most), generator=g)}


# -- the contrastive loss -------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(2, 9))
def test_one_choice_of_columns_is_geckos_loss(seed: int, rows: int) -> None:
    q, p, n = np.random.default_rng(seed).normal(size=(3, rows, 6))
    own = torch.eye(rows, dtype=torch.bool)
    loss = contrastive(
        torch.tensor(q),
        torch.tensor(np.concatenate([p, n])),
        target=torch.arange(rows),
        allowed=torch.cat([torch.ones_like(own), own], dim=1),
        allowed_queries=~own,
        temperature=0.2,
    )
    assert loss.item() == pytest.approx(gecko(q, p, n, 0.2), abs=1e-10)


@given(SEEDS, st.integers(1, 7), st.integers(1, 9))
def test_every_switch_is_what_it_says(seed: int, rows: int, columns: int) -> None:
    q, p, options = problem(seed, rows, columns)
    assert contrastive(q, p, **options).item() == pytest.approx(by_hand(q.numpy(), p.numpy(), options), abs=1e-9)


@given(SEEDS)
def test_lengths_and_the_order_of_rows_and_columns_do_not_matter(seed: int) -> None:
    q, p, options = problem(seed)
    rows, columns = torch.randperm(5), torch.randperm(8)
    moved = {
        **options,
        "target": columns.argsort()[options["target"][rows]],
        "allowed": options["allowed"][rows][:, columns],
        "hard": options["hard"][rows][:, columns],
        "allowed_queries": options["allowed_queries"][rows][:, rows],
        "weights": options["weights"][rows],
    }
    lengths = torch.rand(8, 1, dtype=torch.float64) + 0.5
    there = contrastive(3 * q[rows], (p * lengths)[columns], **moved)
    torch.testing.assert_close(there, contrastive(q, p, **options))


@given(SEEDS)
def test_what_a_row_does_not_see_has_no_gradient(seed: int) -> None:
    q, p, options = problem(seed)
    options |= {"allowed_queries": None, "weights": torch.eye(5)[0]}  # the first row alone
    p.requires_grad_()
    contrastive(q, p, **options).backward()  # type: ignore[no-untyped-call]
    assert p.grad is not None
    assert p.grad[~options["allowed"][0]].eq(0).all()


def test_a_row_that_sees_its_positive_alone_learns_nothing() -> None:
    q, p = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    loss = contrastive(q, p, target=torch.arange(3), allowed=torch.eye(3, dtype=torch.bool), temperature=0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert q.grad is not None
    assert q.grad.abs().max() < 1e-6


@pytest.mark.parametrize("which", [0, 1])
def test_a_nan_stays_and_is_seen(which: int) -> None:
    q, p, options = problem(3)
    (q, p)[which][0, 0] = math.nan
    assert contrastive(q, p, **{**options, "allowed": torch.ones(5, 8, dtype=torch.bool)}).isnan()


def test_nothing_to_average_is_zero() -> None:
    q, p, options = problem(1)
    assert contrastive(q, p, **{**options, "weights": torch.zeros(5)}) == 0
    empty = torch.zeros(0, 6, dtype=p.dtype)
    masks = {"target": torch.zeros(0, dtype=torch.long), "allowed": torch.zeros(0, 8, dtype=torch.bool)}
    assert contrastive(empty, p, **masks, temperature=0.1) == 0


def test_hardness_needs_to_know_what_is_hard() -> None:
    q, p, options = problem(1)
    with pytest.raises(ValueError, match="no hard columns"):
        contrastive(q, p, **{**options, "hard": None})


# -- the judge's grades ---------------------------------------------------------------------------------------------


@given(SEEDS)
def test_graded_kl_is_the_divergence_over_listed_candidates(seed: int) -> None:
    (q, p, _), a = problem(seed, 4, 7), judged(seed)
    losses = []
    for i in range(4):
        listed = [c for c in a["columns"][i].tolist() if c >= 0]
        if len(listed) >= 2:
            teacher = np.exp(a["grades"][i, : len(listed)].numpy() / 2.0)
            student = np.exp([s(q[i].numpy(), p[c].numpy()) / 0.3 for c in listed])
            teacher, student = teacher / teacher.sum(), student / student.sum()
            losses.append(float((teacher * np.log(teacher / student)).sum()))
    found = graded_kl(q, p, columns=a["columns"], grades=a["grades"].double(), temperature=0.3, teacher_temperature=2.0)
    assert found.item() == pytest.approx(np.mean(losses) if losses else 0.0, abs=1e-10)


@given(SEEDS)
def test_margin_mse_is_the_mean_over_pairs(seed: int) -> None:
    (q, p, _), a = problem(seed, 4, 7), judged(seed)
    errors = []
    for i in range(4):
        for k, c in enumerate(a["columns"][i].tolist()):
            if c >= 0 and k > 0:  # the target stands first
                own, other = (s(q[i].numpy(), p[x].numpy()) for x in (int(a["target"][i]), c))
                errors.append((own - other - float(a["grades"][i, 0] - a["grades"][i, k]) / 3) ** 2)
    found = margin_mse(q, p, **{**a, "grades": a["grades"].double()}, scale=1 / 3)
    assert found.item() == pytest.approx(np.mean(errors) if errors else 0.0, abs=1e-10)


def test_a_row_that_does_not_list_its_target_gives_no_margin() -> None:
    q, p, _ = problem(2, 1, 4)
    listed = {"columns": torch.tensor([[1, 2]]), "grades": torch.tensor([[3.0, 0.0]])}
    assert margin_mse(q, p, target=torch.tensor([0]), **listed, scale=1.0) == 0


# -- vectors of any kind --------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(0, 12), st.integers(1, 6))
def test_spread_out_is_the_mean_squared_cosine_of_pairs(seed: int, n: int, width: int) -> None:
    v = np.random.default_rng(seed).normal(size=(n, width))
    pairs = [s(v[i], v[j]) ** 2 for i in range(n) for j in range(n) if i != j]
    assert spread_out(torch.tensor(v)).item() == pytest.approx(np.mean(pairs) if pairs else 0.0, abs=1e-10)


@given(SEEDS, st.integers(0, 6))
def test_matching_is_the_mean_cosine_distance(seed: int, n: int) -> None:
    v, u = np.random.default_rng(seed).normal(size=(2, n, 5))
    expected = np.mean([1 - s(a, b) for a, b in zip(v, u, strict=True)]) if n else 0.0
    assert embedding_match(torch.tensor(v), torch.tensor(u)).item() == pytest.approx(expected, abs=1e-10)


def test_matching_needs_vectors_of_one_space() -> None:
    with pytest.raises(ValueError, match="teacher of the same width"):
        embedding_match(torch.zeros(2, 4), torch.zeros(2, 5))


def test_no_gradient_reaches_the_teacher() -> None:
    v, u = (torch.randn(3, 4, requires_grad=True) for _ in range(2))
    embedding_match(v, u).backward()  # type: ignore[no-untyped-call]
    assert v.grad is not None
    assert u.grad is None


# -- Matryoshka -----------------------------------------------------------------------------------------------------


@given(SEEDS, st.lists(st.floats(0.1, 5), min_size=2, max_size=2))
def test_matryoshka_is_the_weighted_mean_over_cut_copies(seed: int, weights: list[float]) -> None:
    q, p, options = problem(seed)
    loss = functools.partial(contrastive, **options)
    torch.testing.assert_close(matryoshka(loss, q, p, dims=(6,)), loss(q, p))
    expected = (weights[0] * loss(q, p) + weights[1] * loss(q[:, :3], p[:, :3])) / sum(weights)
    torch.testing.assert_close(matryoshka(loss, q, p, dims=(6, 3), weights=weights), expected)


@pytest.mark.parametrize(
    ("dims", "weights"), [((), None), ((7,), None), ((0,), None), ((6, 3), (1.0,)), ((6,), (0.0,)), ((6,), (-1.0,))]
)
def test_widths_and_weights_must_fit(dims: tuple[int, ...], weights: tuple[float, ...] | None) -> None:
    with pytest.raises(ValueError, match=r"widths|weights"):
        matryoshka(spread_out, torch.randn(3, 6), dims=dims, weights=weights)


# -- gradients and precision ----------------------------------------------------------------------------------------


def every_loss(seed: int) -> dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]]:
    q, p, options = problem(seed, 4, 7)
    a = judged(seed)
    grades = {"columns": a["columns"], "grades": a["grades"].to(q.dtype)}
    plain = {**options, "hardness": 0.0, "margin": 0.0}  # those two are steps or stop the gradient by design
    temperatures = {"temperature": 0.3, "teacher_temperature": 1.0}
    return {
        "contrastive": (functools.partial(contrastive, **plain), (q, p)),
        "graded_kl": (functools.partial(graded_kl, **grades, **temperatures), (q, p)),
        "margin_mse": (functools.partial(margin_mse, target=a["target"], **grades, scale=0.5), (q, p)),
        "spread_out": (spread_out, (p,)),
        "embedding_match": (lambda v: embedding_match(v, p.flip(0).bfloat16().to(v.dtype)), (p,)),
    }


@pytest.mark.parametrize("name", every_loss(0))
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    loss, vectors = every_loss(5)[name]
    inputs = tuple(v.clone().requires_grad_() for v in vectors)
    assert torch.autograd.gradcheck(loss, inputs)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", every_loss(0))
def test_autocast_does_not_blunt_a_loss(name: str) -> None:
    loss, vectors = every_loss(5)[name]
    half = [v.bfloat16() for v in vectors]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(*half)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(*(v.float() for v in half)), rtol=1e-5, atol=1e-6)


# -- settings to one loss -------------------------------------------------------------------------------------------


def a_batch(seed: int) -> tuple[Tensor, Batch]:
    _, _, options = problem(seed, 4, 7)
    a = judged(seed)
    g = torch.Generator().manual_seed(seed)
    batch = Batch(
        texts=tuple(f"text {i}" for i in range(12)),
        query=torch.arange(4),
        passage=torch.arange(4, 11),
        target=a["target"],
        allowed=options["allowed"].scatter(1, a["target"][:, None], True),
        allowed_queries=options["allowed_queries"],
        hard=options["hard"].scatter(1, a["target"][:, None], False),
        candidates=a["columns"],
        grades=a["grades"].float(),
        matched=torch.tensor([11, 0]),
        rows=(),
    )
    return torch.randn(12, 6, generator=g), batch


@given(SEEDS, st.sampled_from(["none", "kl", "margin"]), st.sampled_from([0.0, 0.3]))
def test_the_objective_is_the_sum_of_its_terms_at_every_width(seed: int, distil: str, spread: float) -> None:
    vectors, batch = a_batch(seed)
    teacher = torch.randn(2, 6)
    chosen = TrainSettings.model_validate(
        {"distil": distil, "distil_weight": 0.7, "spread_out": spread, "hardness": 2, "dim_weights": (1, 3)}
    )
    expected = torch.zeros(())
    for d, weight in ((6, 0.25), (4, 0.75)):
        q, p = vectors[:4, :d], vectors[4:11, :d]
        total = contrastive(
            q,
            p,
            target=batch.target,
            allowed=batch.allowed,
            allowed_queries=batch.allowed_queries,
            hard=batch.hard,
            hardness=2.0,
            temperature=0.05,
        )
        total = total + spread * (spread_out(q) + spread_out(p[batch.target]))
        grades = {"columns": batch.candidates, "grades": batch.grades}
        if distil == "kl":
            total = total + 0.7 * graded_kl(q, p, **grades, temperature=0.05, teacher_temperature=1.0)
        if distil == "margin":
            total = total + 0.7 * margin_mse(q, p, target=batch.target, **grades, scale=1 / 3)
        expected = expected + weight * (total + embedding_match(vectors[[11, 0], :d], teacher[:, :d]))
    torch.testing.assert_close(Objective(chosen, (6, 4))(vectors, batch, teacher), expected)
