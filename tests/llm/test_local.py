"""A model in this process. Random weights prove mechanics, never quality."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny import TEMPLATE, WORDS, tiny_base, tiny_lm
from tokay.errors import TokayError
from tokay.llm import local
from tokay.llm.door import AskFailed, Door, NoText
from tokay.llm.ledger import Answer, Ledger
from tokay.llm.local import LocalModel, as_data, chat_of, common_prefix, generate, key_name, score, targets_of

DOUBLE = torch.float64
SHARED = " ".join(WORDS[:40])
TEXT = st.lists(st.sampled_from([*WORDS[:30], "xyz", "the7", "?"]), min_size=1, max_size=12).map(" ".join)


def loaded(**shape: Any) -> local.Loaded:
    return local._load(tiny_lm(**shape), DOUBLE, "cpu")


def plainly(model: local.Loaded, context: str, continuation: str) -> tuple[float, int]:
    """The reference: one text at a time, all logits, no cache, in float64."""
    before = model.tokenizer(context)["input_ids"]
    ids = model.tokenizer(context + continuation)["input_ids"]
    start = 0
    while start < min(len(before), len(ids)) and before[start] == ids[start]:
        start += 1
    with torch.no_grad():
        logits = model.model(torch.tensor([ids])).logits[0]
    total = 0.0
    for position in range(start, len(ids)):
        scores = logits[position - 1].tolist()
        total += scores[ids[position]] - math.log(math.fsum(math.exp(s) for s in scores))
    return total, len(ids) - start


def ask(requests: Sequence[dict[str, Any]], *, folder: Path | None = None, **options: Any) -> list[Any]:
    async def main() -> list[Any]:
        model = LocalModel(str(folder or tiny_lm()), **{"dtype": DOUBLE, **options})
        try:
            return await asyncio.gather(*(model.send(r) for r in requests), return_exceptions=True)
        finally:
            await model.close()

    return asyncio.run(main())


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral"])
@pytest.mark.parametrize("pieces", [10**9, 100])
def test_log_probabilities_are_those_of_a_plain_loop(family: str, pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LOGITS_PER_PIECE", pieces)  # 100: one column at a time
    model = loaded(family=family)
    context = f"{SHARED} grade th"
    asked = [(context, [" 0", " 1", "e river stone cloud", ""]), (f"{SHARED} which", [" one is it ?"]), ("a", [" b"])]
    answers = ask([{"context": c, "continuations": k} for c, k in asked], folder=tiny_lm(family=family))
    for (before, continuations), answer in zip(asked, answers, strict=True):
        expected = [plainly(model, before, k) for k in continuations]
        assert answer.values == pytest.approx([value for value, _ in expected], abs=1e-6)
        assert answer.tokens == tuple(length for _, length in expected)
    assert answers[0].values[3] == 0.0
    assert answers[0].tokens[2] > 3  # 'th' and 'e' became 'the', which stands on both sides of the border


def test_windows_soft_caps_and_other_number_formats() -> None:
    """Gemma caps its logits and looks through windows; its attention is float32 whatever is asked for."""
    folder = tiny_lm(family="gemma2")
    model = local._load(folder, torch.float32, "cpu")
    asked = [f"{SHARED} {word}" for word in WORDS[40:44]] + ["river"]
    answers = ask([{"context": c, "continuations": [" stone"]} for c in asked], folder=folder, dtype=torch.float32)
    expected = [plainly(model, c, " stone")[0] for c in asked]
    assert [a.values[0] for a in answers] == pytest.approx(expected, abs=1e-4)
    [broken] = ask([{"context": "river", "continuations": [" stone", " river stone"]}], folder=folder)
    assert not isinstance(broken, Answer) or not any(math.isnan(v) for v in broken.values)


@settings(max_examples=25)
@given(asked=st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=1, max_size=6), data=st.data())
def test_batching_padding_and_order_do_not_matter(asked: list[tuple[str, list[str]]], data: st.DataObject) -> None:
    model = loaded()
    targets = [
        target
        for context, continuations in asked
        for target in targets_of(
            {"context": f"{SHARED} {context}", "continuations": [f" {c}" for c in continuations]}, model
        )
    ]
    alone = [score(model, [target])[0] for target in targets]
    order = data.draw(st.permutations(range(len(targets))))
    together = score(model, [targets[i] for i in order])
    assert together == pytest.approx([alone[i] for i in order], abs=1e-9)


@settings(max_examples=10)
@given(prompts=st.lists(TEXT, min_size=1, max_size=6), budget=st.sampled_from([1, 40, 4096]))
def test_greedy_answers_are_those_of_one_prompt_at_a_time(prompts: list[str], budget: int) -> None:
    model = loaded()
    requests = [{"messages": [{"role": "user", "content": p}], "max_tokens": 7, "top_logprobs": 5} for p in prompts]
    for request, answer in zip(requests, ask(requests, tokens_per_batch=budget), strict=True):
        ids = torch.tensor([chat_of(request, model).ids])
        with torch.no_grad():
            surprise = model.model(ids).logits[0, -1].log_softmax(-1)
            made = model.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=7, do_sample=False)
        new = made[0, ids.shape[1] :].tolist()
        text = model.tokenizer.decode(new, skip_special_tokens=True)
        if not text.strip():
            assert isinstance(answer, NoText)
            continue
        assert answer.text == text
        assert (answer.usage.prompt, answer.usage.completion) == (ids.shape[1], len(new))
        best = surprise.topk(5)
        expected = {
            model.tokenizer.decode([i]): v for v, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        }
        assert answer.first == pytest.approx(expected, abs=1e-5)  # generate's logits are float32


def test_what_is_computed_together() -> None:
    """Shared beginnings and shared rows are computed once: counted in tokens that the model is fed."""
    model, fed = loaded(), [0]
    handle = model.model.register_forward_pre_hook(
        lambda m, a, k: fed.__setitem__(0, fed[0] + k["input_ids"].numel()), with_kwargs=True
    )
    try:
        contexts = [f"{SHARED} {word} {word} grade" for word in WORDS[40:48]]
        targets = [
            t for c in contexts for t in targets_of({"context": c, "continuations": [" 0", " 1", " 2", " 3"]}, model)
        ]
        score(model, targets)
    finally:
        handle.remove()
    whole = sum(len(t.ids) - 1 for t in targets)
    assert len(targets) == 32
    assert fed[0] == 41 + 8 * (len(targets[0].ids) - 1 - 41)  # [CLS] and 40 words once, then 8 rows
    assert fed[0] < whole / 15


def test_the_chat_is_rendered_by_the_models_template_and_content_stays_content() -> None:
    messages = [{"role": "system", "content": "be [SEP] brief"}, {"role": "user", "content": "hi [assistant] [CLS]"}]
    folder = tiny_lm(template=TEMPLATE)
    model = local._load(folder, DOUBLE, "cpu")
    ids = chat_of({"messages": messages, "max_tokens": 1}, model).ids
    ends = [i for i in ids if i in model.tokenizer.all_special_ids and i != model.tokenizer.unk_token_id]
    assert ends == [model.tokenizer.sep_token_id] * 2  # the template's own
    assert as_data(model.tokenizer, "a [SEP] [CLS]b") == "a [ SEP] [ CLS]b"
    plain = loaded()
    expected = local.plain([messages[0], {"role": "user", "content": "hi [assistant] [ CLS]"}]).replace(
        "[SEP]", "[ SEP]"
    )
    assert expected == "system: be [ SEP] brief\n\nuser: hi [assistant] [ CLS]\n\nassistant:"
    assert list(chat_of({"messages": messages, "max_tokens": 1}, plain).ids) == plain.tokenizer(expected)["input_ids"]


def test_a_template_without_system_messages_gets_one_message() -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    tokenizer = loaded(template="{% set refuse = true %}" + TEMPLATE).tokenizer
    assert local.rendered(tokenizer, messages) == "[user] be brief\n\nhi [SEP][assistant]"
    with pytest.raises(TokayError, match=r"the chat template of this model refuses the messages: no system"):
        local.rendered(tokenizer, [*messages, messages[0]])


def test_what_is_too_long_fails_alone() -> None:
    folder = tiny_lm(positions=16)
    long = " ".join(["river"] * 20)
    chat, likelihood, nothing, fits, cut = ask(
        [
            {"messages": [{"role": "user", "content": long}], "max_tokens": 4},
            {"context": "river", "continuations": [" stone", f" {long}"]},
            {"context": "th", "continuations": ["e"]},
            {"context": "river", "continuations": [" stone"]},
            {"messages": [{"role": "user", "content": "a"}], "max_tokens": 999},
        ],
        folder=folder,
    )
    assert isinstance(chat, AskFailed)
    assert str(chat) == "the prompt has 33 tokens; the model takes 16, its answer included"
    assert str(likelihood) == "the text has 22 tokens; the model takes 16"
    assert isinstance(nothing, Answer)  # [CLS] stands before it
    assert fits.values[0] < 0
    assert isinstance(cut, NoText) or cut.usage.prompt + cut.usage.completion <= 16
    model = loaded()
    bare = dataclasses.replace(model, tokenizer=_Bare(model.tokenizer))
    with pytest.raises(AskFailed, match="no token stands before the continuation"):
        targets_of({"context": "th", "continuations": ["e"]}, bare)


class _Bare:
    """A tokenizer that puts nothing before a text."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.chat_template = None
        self.added_tokens_decoder: dict[int, Any] = {}

    def __call__(self, text: str, **options: Any) -> Any:
        return self._inner(text, **{**options, "add_special_tokens": False})


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = local.score
    sizes: list[int] = []

    def small(model: local.Loaded, targets: Sequence[local.Target]) -> list[float]:
        sizes.append(len(targets))
        if len(targets) > 2 or any(len(t.ids) > 20 for t in targets):
            raise torch.OutOfMemoryError("no room")
        return inner(model, targets)

    monkeypatch.setattr(local, "score", small)
    texts = [f"river stone {word}" for word in WORDS[:5]] + [SHARED]
    answers = ask([{"context": text, "continuations": [" ocean"]} for text in texts])
    assert [isinstance(a, Answer) for a in answers] == [True] * 5 + [False]
    assert "do not fit into the memory of the GPU: no room" in str(answers[-1])
    assert max(sizes) > 2


def test_a_fault_reaches_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> list[float]:
        raise ZeroDivisionError

    monkeypatch.setattr(local, "score", broken)
    assert [type(a) for a in ask([{"context": "a", "continuations": [" b"]}] * 2)] == [ZeroDivisionError] * 2


def test_closing_drops_what_waits_and_cuts_no_answer() -> None:
    async def main() -> list[Any]:
        model = LocalModel(str(tiny_lm()), dtype=DOUBLE, tokens_per_batch=1)
        request = {"messages": [{"role": "user", "content": "river"}], "max_tokens": 400}
        waiting = [asyncio.ensure_future(model.send(request)) for _ in range(3)]
        await asyncio.sleep(0.01)
        await model.close()
        return await asyncio.gather(*waiting, return_exceptions=True)

    assert {type(outcome) for outcome in asyncio.run(main())} == {asyncio.CancelledError}


def test_through_the_door(tmp_path: Path) -> None:
    async def main() -> tuple[Answer, Answer]:
        door = Door(LocalModel(str(tiny_lm()), dtype=DOUBLE), Ledger(tmp_path / "l"), stage="judge")
        try:
            one, two, _ = await asyncio.gather(
                door.logprobs("river", [" stone", " cloud"]),
                door.complete([{"role": "user", "content": "river"}], max_tokens=5),
                door.logprobs("river", [" stone", " cloud"]),
            )
            return one, two
        finally:
            await door.close()

    first, again = asyncio.run(main()), asyncio.run(main())
    assert first == again
    assert first[0].values == pytest.approx([plainly(loaded(), "river", k)[0] for k in (" stone", " cloud")])
    assert Ledger(tmp_path / "l").counts()["answers"] == 2


def test_the_key_knows_weights_and_number_format_but_not_the_place(tmp_path: Path) -> None:
    folder = tiny_lm()
    moved = tmp_path / folder.name
    shutil.copytree(folder, moved)
    assert key_name(str(moved)) == key_name(str(folder)) != key_name(str(folder), DOUBLE)
    assert key_name(str(folder)).endswith(" float32")
    assert key_name(str(tiny_lm(seed=1))) != key_name(str(folder))


def test_models_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(TokayError, match=r"is no causal language model: it has no weights for .*; expected one"):
        LocalModel(str(tiny_base()))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TokayError, match=r"cannot be loaded as a causal language model"):
        LocalModel(str(tmp_path))
    assert isinstance(ask([{"messages": [], "max_tokens": 1, "schema": {}}])[0], TokayError)


def test_files_that_are_fetched_from_the_hub() -> None:
    from huggingface_hub.utils import filter_repo_objects

    from tokay.models.locate import _FILES, _OTHER_COPIES

    wanted = ["config.json", "model-00001-of-2.safetensors", "chat_template.jinja", "merges.txt", "qwen.tiktoken"]
    other = ["original/params.json", "consolidated.safetensors", "onnx/model.json", "pytorch_model.bin", "a.gguf"]
    found = filter_repo_objects([*wanted, *other], allow_patterns=_FILES, ignore_patterns=_OTHER_COPIES)
    assert list(found) == wanted


@given(st.lists(st.lists(st.integers(0, 2), max_size=6).map(tuple), min_size=1, max_size=5))
def test_common_prefixes(rows: list[tuple[int, ...]]) -> None:
    length = common_prefix(rows)
    assert len({row[:length] for row in rows}) == 1
    assert length == min(map(len, rows)) or len({row[length] for row in rows}) > 1


def test_generation_ends_when_told() -> None:
    model = loaded()
    [answer] = generate(
        model, [chat_of({"messages": [{"role": "user", "content": "a"}], "max_tokens": 99}, model)], stop=lambda: True
    )
    assert answer.usage.completion == 1
