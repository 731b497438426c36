"""The losses, against loops in float64 that follow the papers number by number."""

from __future__ import annotations

import dataclasses
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


def with_options(options: dict[str, Any]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda q, p: contrastive(q, p, **options)


def by_hand(queries: Tensor, passages: Tensor, a: dict[str, Any]) -> Tensor:
    """``contrastive`` with every switch."""
    q, p = ([v / v.norm() for v in vectors] for vectors in (queries, passages))
    losses = []
    for i in range(len(q)):
        own = q[i] @ p[a["target"][i]]
        limit = own.item() + (a["margin"] or math.inf)
        below = (own / a["temperature"]).exp()
        for j in range(len(p)):
            c = q[i] @ p[j]
            if j != a["target"][i] and a["allowed"][i, j] and c <= limit:
                below = below + (c / a["temperature"] + a["hardness"] * a["hard"][i, j] * c.detach()).exp()
        for j in range(len(q)):
            if a["allowed_queries"][i, j] and q[i] @ q[j] <= limit:
                below = below + (q[i] @ q[j] / a["temperature"]).exp()
        losses.append(below.log() - own / a["temperature"])
    weights: Tensor = a["weights"].double()
    return (torch.stack(losses) * weights).sum() / weights.sum()


def gradients(loss: Callable[..., Tensor], *vectors: Tensor) -> tuple[Tensor, ...]:
    inputs = [v.clone().requires_grad_() for v in vectors]
    return torch.autograd.grad(loss(*inputs), inputs)


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
    """Listed candidates of each row, from none to ``most``, in any order; one of them is the target."""
    g = torch.Generator().manual_seed(seed + 1)
    listed, target = torch.full((rows, most), -1), torch.zeros(rows, dtype=torch.long)
    for i in range(rows):
        count = int(torch.randint(most + 1, (1,), generator=g))
        chosen = torch.randperm(columns, generator=g)[:most]
        listed[i, :count], target[i] = chosen[:count], chosen[int(torch.randint(max(count, 1), (1,), generator=g))]
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
    ours, slow = with_options(options), functools.partial(by_hand, a=options)
    assert ours(q, p).item() == pytest.approx(slow(q, p).item(), abs=1e-9)
    torch.testing.assert_close(gradients(ours, q, p), gradients(slow, q, p), rtol=1e-7, atol=1e-9)


@given(SEEDS)
def test_lengths_and_the_order_of_rows_and_columns_do_not_matter(seed: int) -> None:
    q, p, options = problem(seed)
    g = torch.Generator().manual_seed(seed)
    rows, columns = torch.randperm(5, generator=g), torch.randperm(8, generator=g)
    moved = {
        **options,
        "target": columns.argsort()[options["target"][rows]],
        "allowed": options["allowed"][rows][:, columns],
        "hard": options["hard"][rows][:, columns],
        "allowed_queries": options["allowed_queries"][rows][:, rows],
        "weights": options["weights"][rows],
    }
    lengths = torch.rand(8, 1, generator=g, dtype=torch.float64) + 0.5
    there = contrastive(3 * q[rows], (p * lengths)[columns], **moved)
    torch.testing.assert_close(there, contrastive(q, p, **options))


@given(SEEDS)
def test_columns_that_no_row_sees_do_not_matter(seed: int) -> None:
    q, p, options = problem(seed)
    more = torch.cat([p, 100 * p.flip(0)])
    wider = {
        name: torch.cat([options[name], torch.zeros(5, 8, dtype=torch.bool)], dim=1) for name in ("allowed", "hard")
    }
    torch.testing.assert_close(contrastive(q, more, **{**options, **wider}), contrastive(q, p, **options))


@given(SEEDS)
def test_what_a_row_does_not_see_has_no_gradient(seed: int) -> None:
    q, p, options = problem(seed)
    options |= {"allowed_queries": None, "weights": torch.eye(5)[0]}  # the first row alone
    of_queries, of_passages = gradients(with_options(options), q, p)
    assert of_passages[~options["allowed"][0]].eq(0).all()
    assert of_queries[1:].eq(0).all()


@given(SEEDS, st.integers(1, 4))
def test_rows_of_one_query_with_their_shares_of_it_count_as_one(seed: int, times: int) -> None:
    q, p, options = problem(seed)
    options |= {"allowed_queries": None, "weights": torch.ones(5)}
    repeats = torch.tensor([times, 1, 1, 1, 1])
    again = {name: options[name].repeat_interleave(repeats, 0) for name in ("target", "allowed", "hard")}
    again["weights"] = (1 / repeats).repeat_interleave(repeats)
    there = contrastive(q.repeat_interleave(repeats, 0), p, **{**options, **again})
    torch.testing.assert_close(there, contrastive(q, p, **options))


def test_no_weights_are_equal_weights() -> None:
    q, p, options = problem(4)
    equal = contrastive(q, p, **{**options, "weights": torch.full((5,), 0.3)})
    torch.testing.assert_close(contrastive(q, p, **{**options, "weights": None}), equal)


@pytest.mark.parametrize("temperature", [1e-3, 1e3])
def test_any_temperature_is_computed_in_float32(temperature: float) -> None:
    q, p, options = problem(6)
    options |= {"temperature": temperature, "margin": 0.0}
    wide, narrow = contrastive(q, p, **options), contrastive(q.float(), p.float(), **options)
    torch.testing.assert_close(narrow, wide.float(), rtol=1e-4, atol=1e-5)


def test_a_row_that_sees_its_positive_alone_learns_nothing() -> None:
    q, p, _ = problem(7, 3, 3)
    alone = functools.partial(
        contrastive, target=torch.arange(3), allowed=torch.eye(3, dtype=torch.bool), temperature=0.1
    )
    assert alone(q, p) == 0
    assert all(g.abs().max() < 1e-14 for g in gradients(alone, q, p))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_a_nan_stays_and_is_seen(which: int, margin: float) -> None:
    q, p, options = problem(3)
    options["margin"] = margin
    (q, p)[which][0, 0] = math.nan
    assert contrastive(q, p, **{**options, "allowed": torch.ones(5, 8, dtype=torch.bool)}).isnan()


def test_nothing_to_average_is_zero() -> None:
    q, p, options = problem(1)
    assert contrastive(q, p, **{**options, "weights": torch.zeros(5)}) == 0
    empty = torch.zeros(0, 6, dtype=p.dtype)
    target, allowed = torch.zeros(0, dtype=torch.long), torch.zeros(0, 8, dtype=torch.bool)
    assert contrastive(empty, p, target=target, allowed=allowed, temperature=0.1) == 0


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
            positive = int(a["target"][i])
            if c >= 0 and c != positive:
                own, other = (s(q[i].numpy(), p[x].numpy()) for x in (positive, c))
                grade = a["grades"][i][a["columns"][i] == positive]
                errors.append((own - other - float(grade - a["grades"][i, k]) / 3) ** 2)
    found = margin_mse(q, p, **{**a, "grades": a["grades"].double()}, scale=1 / 3)
    assert found.item() == pytest.approx(np.mean(errors) if errors else 0.0, abs=1e-10)


def test_a_row_that_does_not_list_its_target_gives_no_margin() -> None:
    q, p, _ = problem(2, 1, 4)
    columns, grades = torch.tensor([[1, 2]]), torch.tensor([[3.0, 0.0]])
    assert margin_mse(q, p, target=torch.tensor([0]), columns=columns, grades=grades, scale=1.0) == 0


def both(q: Tensor, p: Tensor, target: Tensor, columns: Tensor, grades: Tensor) -> list[Tensor]:
    """The two losses of grades."""
    return [
        graded_kl(q, p, columns=columns, grades=grades, temperature=0.3, teacher_temperature=2.0),
        margin_mse(q, p, target=target, columns=columns, grades=grades, scale=1 / 3),
    ]


@given(SEEDS)
def test_blanks_and_the_order_of_candidates_do_not_matter(seed: int) -> None:
    (q, p, _), a = problem(seed, 4, 7), judged(seed)
    a["grades"] = a["grades"].double()
    there = {**a, "grades": a["grades"].masked_fill(a["columns"] < 0, math.nan)}
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    there |= {name: there[name][:, order] for name in ("columns", "grades")}
    torch.testing.assert_close(both(q, p, **there), both(q, p, **a))


@pytest.mark.parametrize("listed", [0, 1])
def test_fewer_than_two_candidates_say_nothing(listed: int) -> None:
    q, p, _ = problem(3, 4, 7)
    target = torch.arange(4)
    columns, grades = target[:, None][:, :listed], torch.full((4, listed), 3.0)
    q.requires_grad_()
    for loss in both(q, p, target, columns, grades):
        assert loss == 0
        (gradient,) = torch.autograd.grad(loss, q)
        assert gradient.eq(0).all()


def test_a_model_that_scores_as_the_judge_does_has_nothing_to_learn() -> None:
    q, p, _ = problem(3, 1, 5)
    columns = torch.arange(5)[None]
    cosines = torch.tensor([[s(q[0].numpy(), v.numpy()) for v in p]], dtype=q.dtype)
    kl, _ = both(q, p, torch.tensor([2]), columns, cosines / 0.3 * 2 + 1)
    _, margins = both(q, p, torch.tensor([2]), columns, 3 * cosines + 1)
    assert abs(kl) < 1e-12
    assert margins < 1e-24


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


@given(SEEDS, st.integers(2, 6))
def test_spread_out_does_not_see_how_wide_its_vectors_are(seed: int, n: int) -> None:
    v = torch.tensor(np.random.default_rng(seed).normal(size=(n, 3)))
    wider = torch.cat([v, torch.zeros(n, 9, dtype=v.dtype)], dim=1)  # fewer vectors than columns: the other way
    torch.testing.assert_close(spread_out(wider), spread_out(v))


def test_no_gradient_reaches_the_teacher() -> None:
    v, u = (torch.randn(3, 4, requires_grad=True) for _ in range(2))
    embedding_match(v, u).backward()  # type: ignore[no-untyped-call]
    assert v.grad is not None
    assert u.grad is None


# -- Matryoshka -----------------------------------------------------------------------------------------------------


@given(SEEDS, st.lists(st.floats(0.1, 5), min_size=2, max_size=2))
def test_matryoshka_is_the_weighted_mean_over_cut_copies(seed: int, weights: list[float]) -> None:
    q, p, options = problem(seed)
    loss = with_options(options)
    torch.testing.assert_close(matryoshka(loss, q, p, dims=(6,)), loss(q, p))
    expected = (weights[0] * loss(q, p) + weights[1] * loss(q[:, :3], p[:, :3])) / sum(weights)
    torch.testing.assert_close(matryoshka(loss, q, p, dims=(6, 3), weights=weights), expected)
    plain = (loss(q, p) + loss(q[:, :3], p[:, :3])) / 2
    torch.testing.assert_close(matryoshka(loss, q, p, dims=(6, 3)), plain)
    torch.testing.assert_close(matryoshka(loss, q, p, dims=(6, 3), weights=(0, 2)), loss(q[:, :3], p[:, :3]))


def test_what_lies_beyond_the_widest_width_is_not_trained() -> None:
    (gradient,) = gradients(functools.partial(matryoshka, spread_out, dims=(2, 4)), problem(1)[1])
    assert gradient[:, 4:].eq(0).all()
    assert gradient[:, :4].ne(0).all()


@pytest.mark.parametrize(
    ("dims", "weights"),
    [
        ((), None),
        ((7,), None),
        ((0,), None),
        ((6, 3), (1.0,)),
        ((6,), (0.0,)),
        ((6,), ()),
        ((6, 3), (2.0, -1.0)),
    ],
)
def test_widths_and_weights_must_fit(dims: tuple[int, ...], weights: tuple[float, ...] | None) -> None:
    with pytest.raises(ValueError, match=r"widths|weights"):
        matryoshka(spread_out, torch.randn(3, 6), dims=dims, weights=weights)


# -- gradients and precision ----------------------------------------------------------------------------------------


def every_loss(seed: int) -> dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]]:
    q, p, options = problem(seed, 4, 7)
    a = judged(seed)
    a["columns"][0] = -1  # a row that lists nothing
    plain = with_options({**options, "hardness": 0.0})  # hardness stops the gradient by design

    def kl(q: Tensor, p: Tensor) -> Tensor:
        return graded_kl(q, p, columns=a["columns"], grades=a["grades"], temperature=0.3, teacher_temperature=1.0)

    def margins(q: Tensor, p: Tensor) -> Tensor:
        return margin_mse(q, p, **a, scale=0.5)

    return {
        "contrastive": (plain, (q, p)),
        "graded_kl": (kl, (q, p)),
        "margin_mse": (margins, (q, p)),
        "spread_out of few": (spread_out, (q,)),
        "spread_out of many": (spread_out, (p,)),
        "embedding_match": (lambda v: embedding_match(v, q.bfloat16().to(v.dtype)), (p[:4],)),
        "matryoshka": (functools.partial(matryoshka, plain, dims=(6, 4)), (q, p)),
    }


@pytest.mark.parametrize("name", every_loss(0))
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    loss, vectors = every_loss(5)[name]
    assert torch.autograd.gradcheck(loss, tuple(v.clone().requires_grad_() for v in vectors))


@pytest.mark.parametrize("name", every_loss(0))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_autocast_does_not_blunt_a_loss(name: str, dtype: torch.dtype) -> None:
    loss, vectors = every_loss(5)[name]
    inputs = [v.to(dtype).requires_grad_() for v in vectors]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(*inputs)
    full = loss(*(v.float() for v in inputs))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, full, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(torch.autograd.grad(found, inputs), torch.autograd.grad(full, inputs))


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


@given(
    SEEDS,
    st.sampled_from(["none", "kl", "margin"]),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([(0.0, 0.0), (2.0, 0.1)]),
    st.sampled_from([(), (1, 3)]),
    st.booleans(),
)
def test_the_objective_is_the_sum_of_its_terms_at_every_width(
    seed: int, distil: str, spread: float, switches: tuple[float, float], weights: tuple[int, ...], taught: bool
) -> None:
    vectors, batch = a_batch(seed)
    teacher = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed)) if taught else None
    hardness, margin = switches
    chosen = TrainSettings.model_validate(
        {
            "temperature": 0.1,
            "hardness": hardness,
            "false_negative_margin": margin,
            "spread_out": spread,
            "distil": distil,
            "distil_weight": 0.7,
            "distil_temperature": 2.0,
            "dim_weights": weights,
        }
    )
    expected = torch.zeros(())
    for d, weight in zip((6, 4), (0.25, 0.75) if weights else (0.5, 0.5), strict=True):
        q, p = vectors[:4, :d], vectors[4:11, :d]
        total = contrastive(
            q,
            p,
            target=batch.target,
            allowed=batch.allowed,
            allowed_queries=batch.allowed_queries,
            hard=batch.hard,
            hardness=hardness,
            margin=margin,
            temperature=0.1,
        )
        total = total + spread * (spread_out(q) + spread_out(p[batch.target]))
        columns, grades = batch.candidates, batch.grades
        if distil == "kl":
            total = total + 0.7 * graded_kl(
                q, p, columns=columns, grades=grades, temperature=0.1, teacher_temperature=2.0
            )
        if distil == "margin":
            total = total + 0.7 * margin_mse(q, p, target=batch.target, columns=columns, grades=grades, scale=1 / 3)
        if teacher is not None:
            total = total + embedding_match(vectors[[11, 0], :d], teacher[:, :d])
        expected = expected + weight * total
    torch.testing.assert_close(Objective(chosen, (6, 4))(vectors, batch, teacher), expected)


def test_texts_that_shall_stay_are_the_whole_objective_of_a_batch_without_rows() -> None:
    vectors, batch = a_batch(1)
    none = torch.zeros(0, dtype=torch.long)
    batch = dataclasses.replace(batch, query=none, passage=none)
    teacher = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    found = Objective(TrainSettings(), (6,))(vectors, batch, teacher)
    torch.testing.assert_close(found, embedding_match(vectors[[11, 0]], teacher))
