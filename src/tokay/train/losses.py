"""Losses as pure functions of tensors.

Letters: B rows of a batch, C distinct passages in it, K listed candidates of a row, N vectors of any kind, D width,
d a Matryoshka width, t the temperature that divides cosines, s(a, b) a cosine. Vectors need not be normalised: every
loss normalises, so that truncation is followed by normalisation. Every loss computes in at least float32, whatever
autocast says: differences of close cosines are what it learns from, and bfloat16 has three digits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def contrastive(
    queries: Tensor,
    passages: Tensor,
    *,
    target: Tensor,
    allowed: Tensor,
    allowed_queries: Tensor | None = None,
    hard: Tensor | None = None,
    hardness: float = 0.0,
    margin: float = 0.0,
    weights: Tensor | None = None,
    temperature: float,
) -> Tensor:
    """InfoNCE over the columns that each row may see; Gecko's L_main is one choice of columns.

    ``L = mean_i -log( e^{s(q_i,p_i)/t} / (sum_{j in allowed_i} e^{s(q_i,p_j)/t} + sum_{j in allowed_queries_i}
    e^{s(q_i,q_j)/t}) )``. Gecko (2403.20327, appendix B) allows all rows' positives, the row's *own* hard negative
    only, and the other queries (same tower). Each distinct passage is one column, where the paper would count a
    passage once for every row that has it; false negatives are columns that are not allowed. A row that sees only
    its positive has the loss 0 and no gradient.

    The switches, all off by default:

    - ``hardness`` a multiplies the terms of ``hard`` columns by ``e^{a sg(s(q_i,p_j))}``, sg: without gradient
      (EmbeddingGemma 2509.20354, a = 5). It is not divided by t.
    - ``margin`` m removes what scores too well to be a negative: passages with ``s(q_i,p_j) > s(q_i,p_i) + m`` and
      other queries with ``s(q_i,q_j) > s(q_i,p_i) + m`` (Qwen3-Embedding 2506.05176, m = 0.1). That paper has a
      passage-passage term too, under the same mask; we have no such term.
    - ``weights``: a query with n positives has n rows; weights 1/n make it count once.

    Args:
        queries: (B, D).
        passages: (C, D), the distinct passages of the batch.
        target: (B,) int64, the column of each row's positive.
        allowed: (B, C) bool, the columns in each row's denominator; its target is always in it.
        allowed_queries: (B, B) bool, the other queries in each row's denominator; None: no same-tower term.
        hard: (B, C) bool, the columns of each row's own hard negatives; its target is never one.
        hardness: a, per unit of cosine; 0: off.
        margin: m, in cosine units; 0: off.
        weights: (B,), at least 0; None: equal.
        temperature: t, in cosine units.

    Returns:
        The weighted mean over rows, a scalar; 0 if there is no row or no weight.

    Raises:
        ValueError: ``hardness`` without ``hard``.
    """
    if hardness and hard is None:
        raise ValueError(f"hardness is {hardness}, but no hard columns are given; pass hard, (B, C) bool")
    q, p = _unit(queries), _unit(passages)
    cosines = _products(q, p)  # (B, C)
    is_target = torch.zeros_like(allowed).scatter(1, target[:, None], True)
    positive = cosines.gather(1, target[:, None])  # (B, 1)
    limit = positive.detach() + (margin if margin > 0 else torch.inf)
    # "not above" instead of "at most": a NaN must stay and be seen by whoever checks the loss
    seen = is_target | (allowed & ~(cosines > limit))
    logits = cosines / temperature
    if hard is not None and hardness:
        logits = logits + (hardness * cosines.detach()).masked_fill(~hard | is_target, 0)
    columns = logits.masked_fill(~seen, -torch.inf)
    if allowed_queries is not None:
        others = _products(q, q)  # (B, B)
        unseen = ~allowed_queries | (others > limit)
        columns = torch.cat([columns, (others / temperature).masked_fill(unseen, -torch.inf)], dim=1)
    return _mean(columns.logsumexp(1) - positive.squeeze(1) / temperature, weights)


def graded_kl(
    queries: Tensor,
    passages: Tensor,
    *,
    columns: Tensor,
    grades: Tensor,
    temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """KL divergence from a judge's grades of a row's candidates to the model's scores of them.

    ``L = mean_i sum_k P_ik log(P_ik / S_ik)`` with ``P_i = softmax_k(grade_ik / T)``, ``S_i = softmax_k(s(q_i, p_k) /
    t)`` over the row's listed candidates (Lin et al. 2010.11386; for grades of language models Gecko 2403.20327 has
    ranks only). Rows with fewer than two candidates have nothing to compare and are not counted in the mean.
    sentence-transformers' ``DistillKLDivLoss`` is t² times this: there the factor keeps gradients of one size while t
    changes (Hinton et al. 1503.02531); here the weight of the loss does that, since t² is 1/400 at t = 0.05.

    Args:
        queries: (B, D).
        passages: (C, D).
        columns: (B, K) int64, each row's candidates, none twice; -1: no candidate.
        grades: (B, K), the judge's; read only where there is a candidate.
        temperature: t, in cosine units.
        teacher_temperature: T, in grades.

    Returns:
        The mean over rows with at least two candidates, a scalar; 0 if there are none.
    """
    cosines = _listed_cosines(queries, passages, columns)
    return listwise(cosines / temperature, grades, columns >= 0, teacher_temperature=teacher_temperature)


def listwise(scores: Tensor, grades: Tensor, listed: Tensor, *, teacher_temperature: float) -> Tensor:
    """KL divergence from a judge's grades of a query's candidates to a model's scores of them.

    ``L = mean_i sum_k P_ik log(P_ik / S_ik)`` with ``P_i = softmax_k(grade_ik / T)`` and ``S_i = softmax_k(score_ik)``
    over the listed candidates: ListNet's top-one cross-entropy (Cao et al. 2007, section 4) less the entropy of P,
    which has no gradient, so that the least loss is 0. sentence-transformers' ``ListNetLoss`` is the former, with
    labels that are grades / T. Rows with fewer than two candidates have nothing to compare and are not counted in the
    mean.

    Args:
        scores: (B, K) logits.
        grades: (B, K), the judge's; read only where there is a candidate.
        listed: (B, K) bool, where there is one.
        teacher_temperature: T, in grades.

    Returns:
        The mean over rows with at least two candidates, a scalar; 0 if there are none.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    student = _log_softmax(scores, listed)
    teacher = _log_softmax(grades.to(scores.dtype) / teacher_temperature, listed)
    divergence = (teacher.exp() * (teacher - student)).masked_fill(~listed, 0).sum(1)  # (B,)
    return _mean(divergence, (listed.sum(1) >= 2).to(divergence.dtype))


def pointwise(scores: Tensor, grades: Tensor, listed: Tensor, *, highest: float) -> Tensor:
    """Binary cross-entropy of each candidate's logit against its grade as a probability.

    ``L = mean_(i,k) -(y log p + (1 - y) log(1 - p))`` with ``p = 1 / (1 + e^-score_ik)`` and ``y = grade_ik /
    highest``, over all listed candidates: monoBERT's loss (Nogueira and Cho 1901.04085) with soft labels. Equal to
    sentence-transformers' ``BinaryCrossEntropyLoss`` with labels y.

    Args:
        scores: (B, K) logits.
        grades: (B, K), 0 to ``highest``; read only where there is a candidate.
        listed: (B, K) bool, where there is one.
        highest: the grade whose probability is 1.

    Returns:
        The mean over listed candidates, a scalar; 0 if there are none.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    labels = (grades.to(scores.dtype) / highest).masked_fill(~listed, 0)
    terms = F.binary_cross_entropy_with_logits(scores.masked_fill(~listed, 0), labels, reduction="none")
    return _mean(terms.flatten(), listed.flatten().to(terms.dtype))


def margin_mse(
    queries: Tensor, passages: Tensor, *, target: Tensor, columns: Tensor, grades: Tensor, scale: float
) -> Tensor:
    """Squared error between the model's and a judge's margins of the positive over each other candidate.

    ``L = mean_(i,k) ((s(q_i,p_i) - s(q_i,p_k)) - (g_i - g_k) * scale)²`` over all rows' listed candidates but their
    positives (Hofstätter et al. 2010.02666, with cosine in place of the dot product). The positive's own grade g_i is
    the one listed for it: a row that does not list its target contributes nothing. Equal to sentence-transformers'
    ``MarginMSELoss`` with cosine as similarity and labels that are grades times ``scale``.

    Args:
        queries: (B, D).
        passages: (C, D).
        target: (B,) int64, the column of each row's positive.
        columns: (B, K) int64, each row's candidates, none twice, its target among them; -1: no candidate.
        grades: (B, K), the judge's; read only where there is a candidate.
        scale: cosine per grade.

    Returns:
        The mean over pairs, a scalar; 0 if there are none.
    """
    cosines = _listed_cosines(queries, passages, columns)  # (B, K)
    grades = grades.to(cosines.dtype).masked_fill(columns < 0, 0)
    is_target = columns == target[:, None]
    counted = (columns >= 0) & ~is_target & is_target.any(1, keepdim=True)
    positive, grade = (x.masked_fill(~is_target, 0).sum(1, keepdim=True) for x in (cosines, grades))  # (B, 1)
    error = (positive - cosines) - (grade - grades) * scale
    return _mean(error.square().flatten(), counted.flatten().to(error.dtype))


def spread_out(vectors: Tensor) -> Tensor:
    """Mean squared cosine of different vectors: the spread-out regulariser of EmbeddingGemma (2509.20354).

    ``L = 1/(N (N - 1)) sum_i sum_{j != i} s(v_i, v_j)²``; on a sphere it is smallest, near 1/D, for vectors that point
    everywhere (Zhang et al. 1708.06320). EmbeddingGemma adds it for the queries and for the positives of a batch: call
    it once for each and add. sentence-transformers' ``GlobalOrthogonalRegularizationLoss(mean_weight=0,
    aggregation="sum")`` has the same denominator N (N - 1) for each set, and gives ``relu(L - 1/D)`` where this
    gives L: the same gradient above 1/D, none below.

    Args:
        vectors: (N, D).

    Returns:
        A scalar; 0 for fewer than two vectors.
    """
    v = _unit(vectors)
    n, width = v.shape
    # |V V'|² = |V' V|² in Frobenius norm, so the smaller of the two will do: memory min(N, D)² for any batch
    gram = _products(v, v) if n <= width else _products(v.T, v.T)
    own = v.square().sum(1).square().sum()
    return (gram.square().sum() - own) / max(1, n * (n - 1))


def embedding_match(vectors: Tensor, teacher: Tensor) -> Tensor:
    """Cosine distance to a teacher's vectors of the same texts.

    ``L = mean_i 1 - s(v_i, u_i)``, half the squared distance of the normalised vectors. EmbedDistill (2301.12005,
    eq. 7) takes the distance, EmbeddingGemma (2509.20354) and Jasper (2412.19048) match likewise, on queries,
    positives and hard negatives alike. Equal to sentence-transformers' ``EmbedDistillLoss`` with ``"cosine"``.

    Args:
        vectors: (N, D).
        teacher: (N, D); no gradient reaches it.

    Returns:
        The mean over vectors, a scalar; 0 if there are none.

    Raises:
        ValueError: the shapes differ; a cosine of vectors of two spaces means nothing.
    """
    if vectors.shape != teacher.shape:
        raise ValueError(
            f"the teacher's vectors are {tuple(teacher.shape)}, the model's {tuple(vectors.shape)}; "
            "take a teacher of the same width, and one vector a text"
        )
    return _mean(1 - (_unit(vectors) * _unit(teacher.detach())).sum(1))


def matryoshka(
    loss: Callable[..., Tensor], *vectors: Tensor, dims: Sequence[int], weights: Sequence[float] | None = None
) -> Tensor:
    """Weighted mean of a loss over truncated copies of all vectors that it is given (Kusupati et al. 2205.13147).

    ``L = sum_d w_d loss(v[:, :d], ...) / sum_d w_d``; losses normalise, so the copies are re-normalised. Gecko (3.3)
    trains 768 and 256 and publishes no weights; equal ones are the default. Dividing by the sum keeps the loss's
    size, and with it the learning rate, when widths are added: sentence-transformers' ``MatryoshkaLoss``, a plain
    sum with weights 1, is ``sum_d w_d`` times this. With the full width alone this is the loss.

    Args:
        loss: of as many tensors as ``vectors``.
        vectors: (N, D) each, N as the loss has it.
        dims: the widths d, each at most D.
        weights: of the widths, in their order; None: equal.

    Returns:
        A scalar.

    Raises:
        ValueError: no width, a width outside 1 to D, or weights that do not match the widths or do not sum to more
            than 0.
    """
    width = min(v.shape[1] for v in vectors)
    if not dims or not all(1 <= d <= width for d in dims):
        raise ValueError(f"Matryoshka widths are {tuple(dims)}; give at least one, each between 1 and {width}")
    weights = [1.0] * len(dims) if weights is None else weights
    if len(weights) != len(dims) or min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(
            f"weights {tuple(weights)} for widths {tuple(dims)}; give one of at least 0 a width, not all 0"
        )
    terms = [w * loss(*(v[:, :d] for v in vectors)) for d, w in zip(dims, weights, strict=True)]
    return torch.stack(terms).sum() / sum(weights)


def _unit(vectors: Tensor) -> Tensor:
    """Vectors of length 1, in float32 or the wider type they have."""
    return F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)


def _products(a: Tensor, b: Tensor) -> Tensor:
    """All dot products (N, M) of (N, D) and (M, D), in their own type even under autocast."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.T


def _listed_cosines(queries: Tensor, passages: Tensor, columns: Tensor) -> Tensor:
    """Cosines (B, K) of each query and its listed candidates; arbitrary where there is none."""
    q, p = _unit(queries), _unit(passages)
    return (q[:, None] * p[columns.clamp_min(0)]).sum(-1)  # (B, K, D) and not (B, C): K is small, C is not


def _log_softmax(logits: Tensor, listed: Tensor) -> Tensor:
    """Log of the softmax (B, K) over listed entries; large and negative elsewhere, for -inf has no gradient."""
    return logits.masked_fill(~listed, torch.finfo(logits.dtype).min).log_softmax(1)


def _mean(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted mean of (N,) values; 0 where there is nothing to average."""
    if weights is None:
        return values.sum() / max(1, len(values))
    weights = weights.to(values.dtype)
    total = weights.sum()
    return (values * weights).sum() / total.masked_fill(total == 0, 1)
