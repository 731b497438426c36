"""Edits of hidden states: what they are, where they are, and that nothing that should not matter does."""

from __future__ import annotations

import copy
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reft_models import DECODERS, ENCODERS, FAMILIES, LAYERS, WIDTH, disturb, ids_of, model_of
from tokay.errors import TokayError
from tokay.models.layers import layers_of
from tokay.models.reft import VARIANTS, DiReFT, Intervention, LoReFT, orthonormal
from tokay.models.reft_config import ReftConfig
from tokay.models.reft_merge import affine_of
from tokay.models.reft_model import ReftModel, get_reft_model
from tokay.models.reft_positions import Positions, Prompt, parse_positions

ENDS = ReftConfig(positions="f2+l3")
IDENTITIES = [name for name in VARIANTS if name != "consreft"]


def changed(edit: Intervention) -> Intervention:
    """With numbers that change something."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in edit.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return edit


def run(model: Any, **inputs: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**inputs).last_hidden_state
    return found


# -- one edit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IDENTITIES)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_an_edit_begins_as_none_to_the_bit(name: str, kind: torch.dtype) -> None:
    hidden = torch.randn(2, 5, 32).to(kind)
    assert torch.equal(VARIANTS[name](32, 4)(hidden), hidden)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_references_start_is_another(name: str) -> None:
    hidden = torch.randn(2, 5, 32)
    assert not torch.allclose(VARIANTS[name](32, 4, init="pyreft")(hidden), hidden, atol=1e-3)


@pytest.mark.parametrize("name", VARIANTS)
def test_both_ways_to_an_edit_agree(name: str) -> None:
    edit, hidden = changed(VARIANTS[name](32, 4)), torch.randn(2, 5, 32)
    torch.testing.assert_close(edit(hidden), hidden + edit.delta(hidden))
    with torch.no_grad():
        torch.testing.assert_close(edit.eval()(hidden), hidden + edit.delta(hidden))


@pytest.mark.parametrize("name", VARIANTS)
def test_what_was_kept_for_inference_is_forgotten_when_weights_change(name: str) -> None:
    edit, hidden = VARIANTS[name](32, 4).eval(), torch.randn(3, 32)
    with torch.no_grad():
        before = edit(hidden)
        changed(edit)
        after = edit(hidden)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, edit(hidden).detach())


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_are_counted(name: str) -> None:
    edit = VARIANTS[name](32, 4)
    assert sum(p.numel() for p in edit.parameters()) == type(edit).count(32, 4)
    assert LoReFT.count(32, 4) == DiReFT.count(32, 4) == 2 * 4 * 32 + 4


@hypothesis_settings(max_examples=30, deadline=None)
@given(rank=st.integers(1, 8), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_rows_are_orthonormal_and_do_not_depend_on_scale(rank: int, scale: float, seed: int) -> None:
    free = torch.randn(16, rank, generator=torch.Generator().manual_seed(seed))
    rotation = orthonormal(free)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(rank), atol=1e-5, rtol=0)
    torch.testing.assert_close(orthonormal(scale * free), rotation, atol=1e-4, rtol=1e-3)


def test_an_orthonormal_matrix_is_its_own_rotation() -> None:
    free = nn.init.orthogonal_(torch.empty(16, 4, dtype=torch.float64))
    torch.testing.assert_close(orthonormal(free), free.T)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_single(kind: torch.dtype) -> None:
    edit, hidden = changed(LoReFT(32, 4)), torch.randn(2, 5, 32)
    half = copy.deepcopy(edit).to(kind)
    assert (half.rotation.float() @ half.rotation.float().T - torch.eye(4)).abs().max() < 2e-2
    torch.testing.assert_close(half(hidden.to(kind)).float(), edit(hidden), atol=0.1, rtol=0.05)
    half(hidden.to(kind)).float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in half.parameters() if p.grad is not None)


@pytest.mark.parametrize("decay", [0.01, 0.1])
def test_learning_survives_weight_decay(decay: float) -> None:
    """The reference's R is zero after the first step of AdamW with any decay, and nothing is learned."""

    def reached(with_decay: float, steps: int = 150) -> tuple[float, LoReFT]:
        torch.manual_seed(0)
        edit, hidden, goal = LoReFT(16, 2), torch.randn(64, 16), torch.randn(2, 16)
        target = hidden + hidden @ goal.T @ goal / 16
        optimizer = torch.optim.AdamW(edit.parameters(), lr=1e-2, weight_decay=with_decay)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (edit(hidden) - target).square().mean()
            loss.backward()
            optimizer.step()
        return loss.item(), edit

    (without, _), (found, edit) = reached(0.0), reached(decay)
    assert found < 1.2 * without + 1e-4 < 0.5 * reached(decay, steps=1)[0]
    torch.testing.assert_close(edit.rotation @ edit.rotation.T, torch.eye(2), atol=1e-5, rtol=0)


def test_decay_alone_leaves_the_subspace() -> None:
    edit = changed(LoReFT(16, 3))
    before, size = edit.rotation.detach().clone(), edit.free.norm().item()
    optimizer = torch.optim.AdamW(edit.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(100):
        for parameter in edit.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    assert edit.free.norm() < 0.95 * size
    torch.testing.assert_close(edit.rotation.detach(), before, atol=1e-5, rtol=0)


def test_dropout_is_of_the_edit_and_of_training_alone() -> None:
    edit, hidden = changed(LoReFT(32, 4, dropout=0.5)), torch.randn(4, 32)
    added = edit.delta(hidden)
    whole = copy.deepcopy(edit).eval().delta(hidden)
    kept = added != 0
    assert 0.2 < kept.float().mean() < 0.8
    torch.testing.assert_close(added[kept], 2 * whole[kept])
    assert torch.equal(edit.eval()(hidden), edit(hidden))


@pytest.mark.parametrize("name", IDENTITIES)
@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_a_weakened_edit_adds_a_share(name: str, weight: float) -> None:
    edit, hidden = changed(VARIANTS[name](32, 4)), torch.randn(5, 32)
    whole = edit.delta(hidden).detach()
    edit.scale(weight)
    torch.testing.assert_close(edit.delta(hidden).detach(), weight * whole, atol=1e-5, rtol=1e-4)


def test_a_constant_subspace_cannot_be_weakened() -> None:
    with pytest.raises(TokayError, match="consreft cannot be weakened towards no edit; choose loreft or direft"):
        VARIANTS["consreft"](32, 4).scale(0.5)


# -- positions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("f7+l5", Positions(7, 5)),
        ("f3", Positions(3, 0)),
        ("l1", Positions(0, 1)),
        ("cls", Positions(1, 0)),
        ("all", Positions(every=True)),
        ("pooled", Positions(pooled=True)),
    ],
)
def test_positions_are_read(text: str, found: Positions) -> None:
    assert parse_positions(text) == found


@pytest.mark.parametrize("text", ["", "f0", "f0+l0", "+", "f3+", "+l3", "f3l3", "x", "l1+f1", "f-1", "f1+l0"])
def test_other_positions_are_refused(text: str) -> None:
    with pytest.raises(TokayError, match=r"the positions to edit are .*; expected 'f7\+l7'"):
        ReftConfig(positions=text)


@st.composite
def masks(draw: Any) -> Tensor:
    """Rows with at least one real token, which may stand anywhere."""
    columns = draw(st.integers(1, 9))
    row = st.lists(st.booleans(), min_size=columns, max_size=columns).filter(any)
    return torch.tensor(draw(st.lists(row, min_size=1, max_size=4)))


@hypothesis_settings(max_examples=80, deadline=None)
@given(mask=masks(), first=st.integers(0, 4), last=st.integers(0, 4), past=st.integers(0, 8), more=st.integers(0, 3))
def test_positions_are_those_of_a_plain_count(mask: Tensor, first: int, last: int, past: int, more: int) -> None:
    if not first and not last:
        return
    columns = mask.shape[1]
    length = max(1, columns - past + more)
    spot = Prompt(mask).spot(Positions(first, last), past=past, length=length)
    for number, row in enumerate(mask.tolist()):
        real = [at for at, there in enumerate(row) if there]
        p, s = (min(first, len(real) // 2), min(last, -(-len(real) // 2))) if first and last else (first, last)
        wanted = sorted({*real[:p], *(real[-s:] if s else [])})
        wanted = [at - past for at in wanted if 0 <= at - past < length]
        if spot is None:
            assert past >= columns
            continue
        assert spot.index is not None
        assert spot.valid is not None
        found = spot.index[number][spot.valid[number]].tolist()
        assert sorted(found) == wanted
        assert len(set(found)) == len(found)


@hypothesis_settings(max_examples=40, deadline=None)
@given(mask=masks(), first=st.integers(1, 4), last=st.integers(1, 4))
def test_untied_groups_are_the_tied_one_in_two(mask: Tensor, first: int, last: int) -> None:
    both = Positions(first, last)
    whole, *parts = (Prompt(mask).spot(spec, past=0, length=mask.shape[1]) for spec in (both, *both.groups))
    for number in range(len(mask)):
        found, *halves = (sorted(spot.index[number][spot.valid[number]].tolist()) for spot in (whole, *parts))  # type: ignore[union-attr,index]
        assert found == sorted(halves[0] + halves[1])


# -- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("positions", ["f2+l3", "all", "cls"])
def test_a_model_with_new_edits_is_the_model(family: str, positions: str) -> None:
    model, ids = model_of(family), ids_of()
    before = run(model, input_ids=ids)
    edited = get_reft_model(model, ReftConfig(positions=positions))
    assert torch.equal(run(edited, input_ids=ids), before)
    assert not torch.allclose(run(disturb(edited), input_ids=ids), before, atol=1e-2)
    trained = {name for name, p in edited.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith("adapters.default.") for name in trained)
    with edited.disable_adapter():
        assert torch.equal(run(edited, input_ids=ids), before)
    assert torch.equal(run(edited.unload(), input_ids=ids), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_edits_are_those_of_a_loop_by_hand(family: str) -> None:
    """Layer by layer: the edited rows of a layer's output are the edit of what the layer gave, the others are it."""
    model, ids = model_of(family), ids_of()
    edited = disturb(get_reft_model(model, ReftConfig(positions="f2+l3", layers=(1,))))
    seen: list[Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    layers = layers_of(model)
    layers[1].register_forward_hook(keep, prepend=True)
    layers[1].register_forward_hook(keep)
    run(edited, input_ids=ids)
    raw, after = seen
    edit = edited.adapter.edits["1:f2+l3"]
    assert len(edited.adapter.edits) == 1
    places = [0, 1, 6, 7, 8]
    torch.testing.assert_close(after[:, places], edit(raw[:, places]).detach())
    assert torch.equal(after[:, 2:6], raw[:, 2:6])


@pytest.mark.parametrize(("family", "side"), [*((f, "right") for f in FAMILIES), *((f, "left") for f in DECODERS)])
@pytest.mark.parametrize("positions", ["f2+l3", "all"])
def test_padding_does_not_matter(family: str, positions: str, side: str) -> None:
    model = disturb(get_reft_model(model_of(family), ReftConfig(positions=positions, tied=False)))
    ids, lengths = ids_of(), (9, 4, 1)
    mask = torch.tensor([[1] * n + [0] * (9 - n) for n in lengths])
    mask = mask.flip(1) if side == "left" else mask
    places = (mask.cumsum(1) - 1).clamp(min=0)
    extra = {} if family in ENCODERS else {"position_ids": places}
    found = run(model, input_ids=ids, attention_mask=mask, **extra)
    for row in range(len(lengths)):
        real = mask[row].bool()
        alone = run(model, input_ids=ids[row][real][None])
        torch.testing.assert_close(found[row][real], alone[0], atol=2e-5, rtol=1e-4)


def test_left_padding_of_an_encoder_counts_real_tokens() -> None:
    model = disturb(get_reft_model(model_of("bert"), ReftConfig(positions="cls", layers=(-1,))))
    mask = torch.tensor([[0, 0, 0, 1, 1, 1]])
    ids = ids_of(1, 6)
    with model.disable_adapter():
        plain = run(model, input_ids=ids, attention_mask=mask)
    found = run(model, input_ids=ids, attention_mask=mask)
    assert (found != plain).any(2).tolist() == [[False, False, False, True, False, False]]


@pytest.mark.parametrize("family", DECODERS)
def test_generation_is_the_same_with_and_without_a_cache(family: str) -> None:
    model = disturb(get_reft_model(model_of(family, causal=True), ENDS))
    ids = ids_of(3, 7)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1], [1] * 7])
    how = {"max_new_tokens": 6, "do_sample": False}

    def tokens(rows: Any = slice(None), **more: Any) -> list[list[int]]:
        found = model.generate(input_ids=ids[rows], attention_mask=mask[rows], **how, **more)
        return found[:, 7:].tolist()

    greedy = tokens()
    assert tokens(use_cache=False) == greedy
    assert tokens(cache_implementation="static") == greedy
    beams = tokens(num_beams=3)
    assert tokens(num_beams=3, use_cache=False) == beams
    last = slice(2, 3)
    assert tokens(last, assistant_model=model_of(family, causal=True)) == [greedy[2]]
    assert tokens(last, prompt_lookup_num_tokens=2) == [greedy[2]]
    for row in range(3):
        real = ids[row][mask[row].bool()][None]
        alone = model.generate(input_ids=real, attention_mask=torch.ones_like(real), **how)
        assert alone[0, real.shape[1] :].tolist() == greedy[row][: alone.shape[1] - real.shape[1]]
    with model.disable_adapter():
        assert tokens() != greedy


def test_generation_infers_padding_as_transformers_does() -> None:
    model = disturb(get_reft_model(model_of("llama", causal=True), ENDS))
    ids = ids_of(2, 6).clone()
    ids[0, :3] = 0
    how = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(ids, **how), model.generate(ids, attention_mask=(ids != 0).long(), **how))


@pytest.mark.parametrize("positions", ["f2+l3", "all"])
def test_a_language_model_is_trained_on_what_it_will_generate_from(positions: str) -> None:
    """Labels say what the prompt is: logits of the answer are those of the prompt's edits and a cached answer."""
    model = disturb(get_reft_model(model_of("llama", causal=True), ReftConfig(positions=positions)))
    prompt, answer = ids_of(2, 9)[:, :6], ids_of(2, 9)[:, 6:]
    labels = torch.cat([torch.full_like(prompt, -100), answer], 1)
    with torch.no_grad():
        trained = model(input_ids=ids_of(2, 9), labels=labels).logits[:, 5:]
        first = model(input_ids=prompt, use_cache=True)
        then = model(input_ids=answer, past_key_values=first.past_key_values)
        by_mask = model(input_ids=ids_of(2, 9), prompt_mask=labels == -100).logits[:, 5:]
    torch.testing.assert_close(trained, torch.cat([first.logits[:, -1:], then.logits], 1), atol=1e-5, rtol=1e-4)
    assert torch.equal(by_mask, trained)


def test_labels_without_a_prompt_are_refused() -> None:
    model = get_reft_model(model_of("llama", causal=True), ENDS)
    with pytest.raises(TokayError, match="row 0 has no token before its first label, so there is no prompt to edit"):
        model(input_ids=ids_of(), labels=ids_of())


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "modernbert"])
def test_gradient_checkpointing_gives_the_same_gradients(family: str) -> None:
    none = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0} if family == "bert" else {}
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if family == "gpt2" else none
    model = disturb(get_reft_model(model_of(family, **none), ENDS)).train()

    def gradients() -> list[Tensor]:
        model.zero_grad()
        one, other = (model(input_ids=ids_of()[:, :n], use_cache=False).last_hidden_state for n in (9, 5))
        (one.square().mean() + other.square().mean()).backward()  # the second forward pass has other positions
        return [p.grad.clone() for p in model.adapters.parameters()]

    plain = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for mine, other in zip(gradients(), plain, strict=True):
        torch.testing.assert_close(mine, other)


def test_a_copy_has_hooks_of_its_own() -> None:
    model = disturb(get_reft_model(model_of("bert"), ENDS))
    before = run(model, input_ids=ids_of())
    other = copy.deepcopy(model)
    disturb(other, seed=5)
    assert not torch.allclose(run(other, input_ids=ids_of()), before)
    assert torch.equal(run(model, input_ids=ids_of()), before)


def test_threads_do_not_disturb_each_other() -> None:
    model = disturb(get_reft_model(model_of("bert"), ENDS))
    inputs = [ids_of()[:, :n] for n in (3, 5, 7, 9)]
    wanted = [run(model, input_ids=ids) for ids in inputs]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            if not torch.equal(run(model, input_ids=inputs[number]), wanted[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_experts_in_a_layer_are_no_layers() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(8))

    model = nn.Module()
    model.layers = nn.ModuleList(Layer() for _ in range(3))
    assert layers_of(model) is model.layers
    assert layers_of(model, "layers") is model.layers


# -- several adapters ------------------------------------------------------------------------------------------------


def several() -> ReftModel:
    model = get_reft_model(model_of("bert"), ENDS, adapter_name="ends")
    for name, config in {
        "wide": ReftConfig(rank=2, variant="direft", positions="all", layers=(0, 2)),
        "untied": ReftConfig(rank=3, positions="f2+l3", tied=False),
        "vector": ReftConfig(variant="lobireft", positions="f1"),
    }.items():
        get_reft_model(model, config, adapter_name=name)
    return disturb(model)  # type: ignore[no-any-return]


def test_adapters_are_mixed_in_a_batch_row_by_row() -> None:
    model, names = several(), ["wide", None, "ends", "untied", "__base__", "vector", "ends"]
    ids = ids_of(7, 9)
    mask = torch.ones_like(ids)
    mask[2, 6:] = 0
    mixed = run(model, input_ids=ids, attention_mask=mask, adapter_names=names)
    for row, name in enumerate(names):
        model.set_adapter(None if name == "__base__" else name)
        n = int(mask[row].sum())
        alone = run(model, input_ids=ids[row : row + 1, :n])
        torch.testing.assert_close(mixed[row, :n], alone[0], atol=1e-5, rtol=1e-4)


def test_a_mixed_batch_sees_changed_weights() -> None:
    model, ids = several(), ids_of(1, 9)
    before = run(model, input_ids=ids, adapter_names=["ends"])
    disturb(model, seed=9)
    after = run(model, input_ids=ids, adapter_names=["ends"])
    assert not torch.allclose(before, after)
    model.set_adapter("ends")
    torch.testing.assert_close(after, run(model, input_ids=ids), atol=1e-5, rtol=1e-4)


def test_adapters_are_named_in_generation_too() -> None:
    model = get_reft_model(model_of("llama", causal=True), ENDS, adapter_name="red")
    get_reft_model(model, ENDS, adapter_name="blue")
    disturb(model)
    ids, how = ids_of(2, 6), {"max_new_tokens": 5, "do_sample": False, "num_beams": 2}
    mixed = model.generate(ids, adapter_names=["blue", "red"], **how)
    for row, name in enumerate(["blue", "red"]):
        model.set_adapter(name)
        alone = model.generate(ids[row : row + 1], **how)[0]
        assert mixed[row, : len(alone)].tolist() == alone.tolist()


def test_unknown_and_taken_names_are_refused() -> None:
    model = several()
    with pytest.raises(TokayError, match=r"there is no adapter 'end'; there are ends, wide.*; did you mean 'ends'"):
        model.set_adapter("end")
    with pytest.raises(TokayError, match="there is no adapter 'end'; there are __base__, ends"):
        model(input_ids=ids_of(1, 4), adapter_names=["end"])
    with pytest.raises(
        TokayError, match=r"adapter 'ends' is there already; expected a new name \(adapter_name\) without"
    ):
        model.add_adapter("ends", ENDS)
    with pytest.raises(
        TokayError,
        match=r"adapter_names is .*'ends', 'wide'.*; expected a list with a name, or None, for each of 3 rows",
    ):
        model(input_ids=ids_of(3, 4), adapter_names=["ends", "wide"])
    model.delete_adapter("ends")
    assert model.active is None or model.active != "ends"
    assert "ends" not in model.adapters


# -- folders --------------------------------------------------------------------------------------------------------


def test_a_saved_adapter_loads_as_it_was(tmp_path: Path) -> None:
    config = ReftConfig(positions="f2+l3", tied=False, layers=(0, -1), dropout=0.1)
    model = disturb(get_reft_model(model_of("llama"), config))
    model.save_pretrained(tmp_path / "red")
    loaded = ReftModel.from_pretrained(model_of("llama"), tmp_path / "red")
    assert loaded.adapter.config == config
    assert torch.equal(run(loaded.eval(), input_ids=ids_of()), run(model.eval(), input_ids=ids_of()))
    size = sum(path.stat().st_size for path in (tmp_path / "red").iterdir())
    assert size < 4 * config.parameters(width=WIDTH, layers=LAYERS) + 3000
    said = json.loads((tmp_path / "red" / "adapter_config.json").read_text())
    assert {"peft_type", "base_model_name_or_path", "revision", "variant", "rank"} <= set(said)


def test_the_revision_of_a_snapshot_is_recorded(tmp_path: Path) -> None:
    place = tmp_path / "hub" / "snapshots" / "0123abc"
    model_of("bert").save_pretrained(place)
    from transformers import AutoModel

    get_reft_model(AutoModel.from_pretrained(place)).save_pretrained(tmp_path / "red")
    said = json.loads((tmp_path / "red" / "adapter_config.json").read_text())
    assert (said["base_model_name_or_path"], said["revision"]) == (str(place), "0123abc")


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    get_reft_model(model_of("bert"), ENDS).save_pretrained(tmp_path)
    with pytest.raises(TokayError, match=r"is an adapter of .* with weights \w{12}….* Load it with the base that"):
        ReftModel.from_pretrained(model_of("bert", seed=1), tmp_path)
    ReftModel.from_pretrained(model_of("bert", seed=1), tmp_path, check=False)
    other = model_of("bert", hidden_size=64)
    before = len(layers_of(other)[0]._forward_hooks)
    with pytest.raises(TokayError, match=r"is an adapter of a model of 3 layers, 32 wide, and this one has 3, 64 wide"):
        ReftModel.from_pretrained(other, tmp_path)
    assert len(layers_of(other)[0]._forward_hooks) == before


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    model = get_reft_model(model_of("bert"), ENDS)
    with pytest.raises(TokayError, match="holds no edits of hidden states"):
        ReftModel.from_pretrained(model_of("bert"), tmp_path)
    model.save_pretrained(tmp_path)
    said = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**said, "rank": 3}))
    with pytest.raises(TokayError, match=r"does not fit adapter_config.json: .* is missing or has another shape"):
        ReftModel.from_pretrained(model_of("bert"), tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(TokayError, match=r"adapter_model.safetensors cannot be read: .*; save the adapter again"):
        ReftModel.from_pretrained(model_of("bert"), tmp_path)
    with torch.no_grad():
        next(model.adapters.parameters()).fill_(torch.nan)
    model.save_pretrained(tmp_path)
    with pytest.raises(TokayError, match="is an adapter with numbers that are not finite; train it again"):
        ReftModel.from_pretrained(model_of("bert"), tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_peft_does_not_take_the_base_for_the_model(tmp_path: Path) -> None:
    from peft import PeftModel

    get_reft_model(model_of("bert"), ENDS).save_pretrained(tmp_path)
    with pytest.raises((KeyError, ValueError, TypeError)):
        PeftModel.from_pretrained(model_of("bert"), tmp_path)


# -- merging --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet"])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_last_layers_edit_is_an_affine_map(family: str, name: str) -> None:
    config = ReftConfig(variant=name, layers=(-1,), positions="all")
    model = disturb(get_reft_model(model_of(family), config))
    with model.disable_adapter():
        plain = run(model, input_ids=ids_of()).mean(1)
    found = affine_of(model)(plain.numpy())
    torch.testing.assert_close(torch.from_numpy(found), run(model, input_ids=ids_of()).mean(1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("bert", {}, r"the edits at 0:all, 1:all, 2:all cannot be merged: layers behind them are not linear"),
        ("bert", {"positions": "f2", "layers": (-1,)}, r"the edits at 2:f2 cannot be merged"),
        ("llama", {"layers": (-1,)}, r"the edit of layer 2 cannot be merged: LlamaModel has a norm or a head behind"),
        ("modernbert", {"layers": (-1,)}, r"ModernBertModel has a norm or a head behind its last layer"),
    ],
)
def test_what_is_no_affine_map_is_not_merged(family: str, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(TokayError, match=reason):
        affine_of(get_reft_model(model_of(family), ReftConfig(**changes)))


# -- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": (3,)}, r"layer 3 is to be edited and the model has 3: 0 to 2"),
        ({"layers": (-4,)}, r"layer -4 is to be edited and the model has 3: 0 to 2"),
        ({"layers": (2, -1)}, r"layers 2, -1 name one twice; name each once"),
        ({"rank": 33}, r"the rank of the edits is 33 and the model is 32 wide; lower the rank"),
        ({"layer_list": "encoder.nothing"}, r"'encoder.nothing' is no list of layers of BertModel; name one"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TokayError, match=message):
        get_reft_model(model_of("bert"), ReftConfig(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "loraft"}, r"the variant of ReFT is 'loraft'; expected one of loreft, .*; did you mean 'loreft'"),
        ({"rank": 0}, r"the rank of the edits is 0; expected a whole number of 1 or more"),
        ({"rank": 2.5}, r"the rank of the edits is 2.5; expected a whole number of 1 or more"),
        ({"layers": 0}, r"the layers to edit are 0; expected several numbers, such as \(0, -1\)"),
        ({"dropout": 1.0}, r"the dropout of the edits is 1; expected 0 or more, and below 1"),
        ({"init": "zero"}, r"the init of the edits is 'zero'; expected 'identity' or 'pyreft'"),
    ],
)
def test_what_is_no_setting_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TokayError, match=message):
        ReftConfig(**changes)


def test_a_model_without_a_layer_list_or_tokens_is_refused() -> None:
    with pytest.raises(TokayError, match="Linear has no list of layers of one kind"):
        get_reft_model(nn.Linear(2, 2))
    stack = nn.Sequential(nn.Linear(2, 2))
    stack.layers = nn.ModuleList([nn.Linear(2, 2)])
    with pytest.raises(TokayError, match="Sequential takes no input_ids and attention_mask"):
        get_reft_model(stack)


def test_a_base_is_edited_by_one_model_at_a_time() -> None:
    base = model_of("bert")
    first = disturb(get_reft_model(base, ENDS))
    edited = first(input_ids=ids_of()).last_hidden_state
    with pytest.raises(
        TokayError, match=r"has the edits of another ReftModel, and both would be applied; .*unload\(\)"
    ):
        get_reft_model(base, ENDS)
    plain = first.unload()(input_ids=ids_of()).last_hidden_state
    assert not torch.equal(plain, edited)
    second = get_reft_model(base, ENDS)
    assert torch.equal(second(input_ids=ids_of()).last_hidden_state, plain)


def test_names_that_are_no_rows_or_adapters_are_refused() -> None:
    model = get_reft_model(model_of("bert"), ENDS)
    for names in ([], "default", ["default"], ["default"] * (len(ids_of()) + 1)):
        with pytest.raises(TokayError, match="expected a list with a name, or None, for each of"):
            model(input_ids=ids_of(), adapter_names=names)
    with pytest.raises(TokayError, match="there is no adapter 'defaul'; there are default; did you mean"):
        model.delete_adapter("defaul")
    with pytest.raises(TokayError, match="the base is 'gpt2'; expected a transformers model"):
        get_reft_model("gpt2")


def test_a_model_that_pools_nothing_has_no_pooled_vector_to_edit() -> None:
    model = get_reft_model(model_of("bert"), ReftConfig(positions="pooled"))
    with pytest.raises(TokayError, match="positions 'pooled' are of an embedder, which pools, and this model does not"):
        model(input_ids=ids_of())


def test_rows_without_tokens_and_other_masks_are_refused() -> None:
    model = get_reft_model(model_of("bert"), ENDS)
    mask = torch.ones_like(ids_of())
    mask[1] = 0
    with pytest.raises(TokayError, match="row 1 has no real token, so that no position in it can be edited"):
        model(input_ids=ids_of(), attention_mask=mask)
    with pytest.raises(TokayError, match="positions are to be edited in 3 rows of no tokens"):
        model(input_ids=ids_of()[:, :0])
    with pytest.raises(TokayError, match=r"attention_mask is \(3, 1, 9, 9\); positions are counted on one of \(3, 9\)"):
        model(input_ids=ids_of(), attention_mask=torch.ones(3, 1, 9, 9))


# -- what inference keeps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["loreft", "direft"])
def test_kept_maps_follow_every_way_in_which_weights_change(name: str) -> None:
    edit, hidden = changed(VARIANTS[name](32, 4)).eval(), torch.randn(3, 32)

    def agrees() -> None:
        for states in (hidden, hidden.double(), hidden):
            with torch.inference_mode():
                found = edit(states)
            a, bias, b = (part.detach().to(states.dtype) for part in edit.build() if part is not None)
            torch.testing.assert_close(found, states + (states @ a.T + bias) @ b)

    agrees()
    optimizer = torch.optim.AdamW(edit.parameters(), lr=0.1, fused=True)
    edit.train()(hidden).square().sum().backward()
    optimizer.step()
    edit.eval()
    agrees()
    edit.load_state_dict(changed(VARIANTS[name](32, 4)).state_dict())
    agrees()
    edit.double()
    agrees()
    edit.float()
    edit.scale(0.5)
    agrees()


@pytest.mark.parametrize("name", ["loreft", "lobireft"])
def test_an_edit_under_autocast_is_that_of_the_hidden_states_type(name: str) -> None:
    edit, hidden = changed(VARIANTS[name](32, 4)).eval(), torch.randn(2, 5, 32)
    with torch.no_grad():
        wanted, added = edit(hidden), edit.delta(hidden)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(edit(hidden), wanted)
            assert torch.equal(edit.delta(hidden), added)


def test_a_stack_that_grows_gives_each_row_its_own_edits() -> None:
    model = model_of("bert")
    ids, configs = ids_of(), [ENDS, ReftConfig(rank=2), ReftConfig(rank=3, layers=(1,)), ENDS]
    edited = get_reft_model(model, configs[0], adapter_name="0")
    for number, config in enumerate(configs):
        if number:
            edited.add_adapter(str(number), config)
        disturb(edited, seed=number)
        names = [str(i) for i in range(number + 1)]
        alone = []
        for name in names:
            edited.set_adapter(name)
            alone.append(run(edited, input_ids=ids[:1]))
        rows = ids[:1].expand(len(names), -1)
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                found = edited(input_ids=rows, adapter_names=names).last_hidden_state
            torch.testing.assert_close(found, torch.cat(alone), atol=2e-5, rtol=1e-4)
