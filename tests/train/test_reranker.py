"""Lists to learn from, what of them is masked, and gradients that do not depend on how pairs are cut into chunks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny import tiny_base
from tokay.errors import TokayError
from tokay.models.torch_cross_encoder import TorchCrossEncoder
from tokay.models.torch_embedder import TorchEmbedder
from tokay.progress import Silent
from tokay.settings import RerankSettings
from tokay.train import trainee as trainee_module
from tokay.train.checkpoints import Checkpoints
from tokay.train.engine import Engine
from tokay.train.lists import ListMaker, RankList, lists_of
from tokay.train.reranker import RerankerTrainee, identity_of, train_reranker, tune_reranker
from train_data import PASSAGES, judged, row

ENGINE = Engine(precision="fp32")


def settings(**changes: Any) -> RerankSettings:
    plain = {"epochs": 2, "batch_size": 4, "candidates": 6, "max_tokens": 32, "precision": "fp32", "patience": 0}
    return RerankSettings.model_validate({**plain, "learning_rate": 2e-3, **changes})


def lists(count: int = 12) -> list[RankList]:
    found = {f"q{i}": [(f"p{(i + step) % 40}", 1 - step / 20) for step in range(20)] for i in range(count)}
    return list(lists_of([judged(i) for i in range(count)], found, below=0.95, near=10))


def model(seed: int = 0) -> TorchCrossEncoder:
    made = TorchCrossEncoder.on_top_of(TorchEmbedder.load(tiny_base(), device="cpu"), max_tokens=32, seed=seed)
    return made.train()


# -- lists ----------------------------------------------------------------------------------------------------------


def test_an_unjudged_passage_near_the_answer_is_no_negative() -> None:
    found = {"q0": [("p1", 0.9), ("p0", 0.8), ("p2", 0.79), ("p4", 0.7), ("p5", 0.1)]}
    (one,) = lists_of([judged(0)], found, below=0.95, near=10)
    assert one.near == ["p4", "p5"]  # below 0.95 * 0.8: neither p1 above the answer nor p2 close to it
    assert one.judged == {"p0": 3, "p3": 2, "p7": 1, "p11": 0}
    assert {"p1", "p2", "p4"} <= one.known
    (none,) = lists_of([judged(0)], found, below=0.0, near=10)
    assert none.near == []


def test_a_query_that_nobody_judged_has_its_seed() -> None:
    (one,) = lists_of([row(3)], {"q3": [("p3", 0.9), ("p8", 0.5)]}, below=0.95, near=10)
    assert (one.judged, one.near) == ({"p3": 3}, ["p8"])


def test_an_answer_that_is_not_found_bars_all_that_is() -> None:
    (one,) = lists_of([row(3)], {"q3": [("p9", 0.9), ("p8", 0.5)]}, below=0.95, near=10)
    assert one.near == []


def test_a_query_without_an_answer_has_no_list_and_one_with_two_rows_one() -> None:
    bad = judged(1)
    rows = [dataclasses.replace(bad, grades=[1, 1, 0, 0]), judged(2), judged(2)]
    assert [one.query_id for one in lists_of(rows, {}, below=0.95, near=10)] == ["q2"]


def test_batches_hold_answers_and_no_known_passage_as_an_easy_negative() -> None:
    chosen = settings(candidates=8, easy_negatives=3)
    maker = ListMaker(lists(), PASSAGES, chosen)
    assert not any(set(ids) & {*one.near} for one, ids in next(maker.batches()).rows)  # it begins with easy ones
    batches = list(maker.batches())
    assert len(batches) == maker.steps() == 6
    for batch in batches:
        assert batch.listed.sum() == len(batch.pairs)
        for (one, ids), grades in zip(batch.rows, batch.grades, strict=True):
            assert len(ids) == len(set(ids)) == 8
            assert {"p" + one.query_id[1:]} <= set(ids)
            known = [p for p in ids if p in one.judged or p in one.near]
            easy = [p for p in ids if p not in known]
            assert len(easy) >= 3
            assert not set(easy) & one.known
            assert grades[: len(ids)].tolist() == [one.judged.get(p, 0) for p in ids]
    seen = [one.query_id for batch in batches[:3] for one, _ in batch.rows]
    assert sorted(seen) == sorted(f"q{i}" for i in range(12))


def test_batches_from_a_step_on_are_the_same() -> None:
    maker = ListMaker(lists(), PASSAGES, settings())
    assert [b.pairs for b in maker.batches(4)] == [b.pairs for b in maker.batches()][4:]


# -- gradients ------------------------------------------------------------------------------------------------------


def gradients(made: TorchCrossEncoder) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("loss", ["listwise", "pointwise"])
@pytest.mark.parametrize("tokens", [16, 10_000])
@pytest.mark.parametrize("kept", [0, 10_000])
def test_chunks_do_not_matter(loss: str, tokens: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trainee_module.TOKENS_PER_CHUNK, "cpu", tokens)
    chosen = settings(loss=loss, tokens_kept=kept)
    batch = next(ListMaker(lists(), PASSAGES, chosen).batches())
    made = model().eval()
    trainee = RerankerTrainee(made, chosen, ENGINE)
    value = trainee.backward(batch)
    found = gradients(made)
    made.zero_grad(set_to_none=True)
    logits = torch.cat([made([ids]) for ids in made.tokenize(batch.pairs)])[:, 0]
    scores = torch.zeros(batch.listed.shape).masked_scatter(batch.listed, logits)
    plain = trainee.loss(scores, batch.grades, batch.listed)
    plain.backward()
    assert value == pytest.approx(plain.item(), abs=1e-6)
    for name, gradient in gradients(made).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_training_learns_and_leaves_the_tokens_alone() -> None:
    made, chosen = model(), settings(epochs=40)
    before = made.backbone.base_model.embeddings.word_embeddings.weight.clone()
    steps = list(train_reranker(made, ListMaker(lists(), PASSAGES, chosen), chosen, engine=ENGINE))
    assert sum(s.loss for s in steps[-3:]) < 0.8 * sum(s.loss for s in steps[:3])
    assert torch.equal(made.backbone.base_model.embeddings.word_embeddings.weight, before)


def test_a_training_that_was_cut_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    chosen = settings()
    maker = ListMaker(lists(), PASSAGES, chosen)
    whole, cut = model(), model()
    list(train_reranker(whole, maker, chosen, engine=ENGINE))

    def kept() -> Checkpoints:
        return Checkpoints(tmp_path, identity=identity_of("x", maker, chosen), minutes=1e-9)

    steps = train_reranker(cut, maker, chosen, engine=ENGINE, checkpoints=kept())
    for _ in range(3):
        next(steps)
    again = model(seed=5)
    assert [s.step for s in train_reranker(again, maker, chosen, engine=ENGINE, checkpoints=kept())] == [2, 3, 4, 5]
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_best_look_is_kept() -> None:
    made, chosen = model(), settings(patience=2, looks=6, epochs=4)
    figures = iter([0.1, 0.5, 0.2, 0.3, 0.9])
    weights: list[Tensor] = []

    def look() -> float:
        weights.append(made.head.weight.detach().clone())
        return next(figures)

    steps = list(train_reranker(made, ListMaker(lists(), PASSAGES, chosen), chosen, engine=ENGINE, look=look))
    assert [s.dev for s in steps if s.dev is not None] == [0.1, 0.5, 0.2, 0.3]
    assert torch.equal(made.head.weight, weights[1])


def test_what_was_done_is_told(tmp_path: Path) -> None:
    chosen = settings()
    maker = ListMaker(lists(), PASSAGES, chosen)
    done = tune_reranker(
        model(), maker, chosen, logs=tmp_path / "logs", checkpoints=tmp_path / "kept", base_print="", progress=Silent()
    )
    assert (done.lists, done.steps, done.planned, done.layers) == (12, 6, 6, 2)
    assert done.pairs == 2 * 12 * 6
    assert len((tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()) == 6


def test_one_list_is_too_few(tmp_path: Path) -> None:
    maker = ListMaker(lists(1), PASSAGES, settings())
    with pytest.raises(TokayError, match="1 queries with a passage that answers them"):
        tune_reranker(model(), maker, settings(), logs=tmp_path, checkpoints=None, base_print="", progress=Silent())


def test_layers_and_scale() -> None:
    base = TorchEmbedder.load(tiny_base(), device="cpu")
    small = TorchCrossEncoder.on_top_of(base, layers=1, max_tokens=32)
    assert (small.layers, small.backbone.config.num_hidden_layers) == (1, 1)
    with pytest.raises(TokayError, match=r"rerank.layers is 3 and the base has 2 layers"):
        TorchCrossEncoder.on_top_of(base, layers=3)
    pairs = [("open", "a file"), ("close", "a stone")]
    before = small.score(pairs)
    small.scale_logits(2.0, -0.5)
    torch.testing.assert_close(torch.from_numpy(small.score(pairs)), torch.from_numpy(2 * before - 0.5))


def test_a_long_passage_is_cut_and_a_query_at_half() -> None:
    made = model()
    rows = made.tokenize(
        [("open a file", "stone " * 99), ("stone " * 99, "open a file"), ("stone " * 99, "river " * 99)]
    )
    assert [len(r) for r in rows] == [32, 16 + 3 + 0, 32] or len(rows[1]) == 16 + 3
    assert len(rows[0]) == len(rows[2]) == 32
    assert rows[2].second == rows[1].second
    types = made.tokens.types(rows)
    assert types.shape == (3, 32)
    assert types[0, : rows[0].second].sum() == 0
    assert types[0, rows[0].second :].all()
