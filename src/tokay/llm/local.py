"""A transformers model in this process: greedy answers, and true log-probabilities of any continuation.

Letters: B requests of a batch, L tokens, T positions whose logits are needed, V vocabulary.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokay.errors import TokayError
from tokay.llm.door import AskFailed, Messages, NoText
from tokay.llm.ledger import Answer, Usage
from tokay.llm.limits import Limits
from tokay.llm.probe import Abilities
from tokay.models.batching import by_token_budget
from tokay.models.locate import find_model, is_hub_name, model_digest
from tokay.models.torch_embedder import position_limits

TOKENS_PER_BATCH = {"cpu": 4096, "cuda": 32768}
"""Padded tokens of a batch, answers included. Memory, and on a CPU nothing is gained by more."""

LOGITS_PER_PIECE = 2**26
"""B x T x V at a time: 256 MB in float32."""

IN_FLIGHT = 256
"""Requests that wait to be batched: enough to find others of like length."""

SHARED_TOKENS = 32
"""Requests whose first tokens are equal this far go into one batch, and what they share is computed once."""

MOST_FIRST = 20
"""Log-probabilities of first tokens that may be asked for, as at OpenAI."""


# -- the model ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A causal LM and its tokenizer. ``limit`` is the most tokens that it takes, 10^9 where it does not say."""

    model: Any
    tokenizer: Any
    limit: int
    device: torch.device


def key_name(name: str, dtype: torch.dtype | None = None) -> str:
    """The model's name in the ledger: a folder's last part, a hash of its files, the number format.

    So a folder may be moved, and one whose weights were changed is another model.
    """
    folder = find_model(name)
    shown = name if is_hub_name(name) else folder.resolve().name
    return f"{shown}@{_digest(folder)[:12]} {str(dtype or _default_dtype()).removeprefix('torch.')}"


@functools.cache
def _digest(folder: Path) -> str:
    return model_digest(folder)


def _default_dtype() -> torch.dtype:
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


@functools.lru_cache(maxsize=2)  # a cascade has two
def _load(folder: Path, dtype: torch.dtype, device: str) -> Loaded:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # of loading weights, onto stderr: the library is silent
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TokayError(f"--llm hf:{folder} cannot be loaded as a causal language model: {reason}") from error
    if missing := sorted(info["missing_keys"]):
        raise TokayError(
            f"--llm hf:{folder} is no causal language model: it has no weights for {missing[0]}; expected one that "
            f"generates text, such as Qwen/Qwen3-0.6B"
        )
    stop = model.generation_config.eos_token_id if model.generation_config else None
    padding = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    # Of the model's own wishes for generating (sampling, penalties) only where to stop is kept: greedy is greedy.
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id if stop is None else stop, pad_token_id=padding
    )
    limit = min(position_limits(model, tokenizer))
    return Loaded(model.to(device).eval(), tokenizer, limit, torch.device(device))


def forget() -> None:
    """Give back the memory of all models that no ``LocalModel`` uses any more."""
    _load.cache_clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# -- what is asked of it ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Chat:
    """Tokens to continue by at most ``room``; ``top`` first tokens' log-probabilities are wanted."""

    ids: tuple[int, ...]
    room: int
    top: int


@dataclasses.dataclass(frozen=True)
class Target:
    """What is to be scored: the tokens from ``start`` on, each given all before it."""

    ids: tuple[int, ...]
    start: int


@dataclasses.dataclass(eq=False)
class _Job:
    """A request in tokens, and who waits for it."""

    work: Chat | tuple[Target, ...]
    done: asyncio.Future[Answer]
    began: float

    @property
    def ids(self) -> tuple[int, ...]:
        """Its longest row."""
        return self.work.ids if isinstance(self.work, Chat) else max((t.ids for t in self.work), key=len)

    @property
    def kind(self) -> tuple[Any, ...]:
        """Jobs of one kind can be computed together: answers of equal room, or targets that begin alike."""
        if isinstance(self.work, Chat):
            return ("chat", self.work.room, self.work.top)
        return ("likelihood", self.ids[:SHARED_TOKENS])


class LocalModel:
    """A causal LM of the transformers library, on the GPU where there is one; see ``Backend``.

    Args:
        name: a folder, or a name on the Hugging Face Hub.
        dtype: float32 on a CPU, bfloat16 on a GPU, unless told otherwise.
        device: for torch.
        tokens_per_batch: padded tokens that are computed at a time.

    Requests that wait at the same time are computed together, in one thread of its own. Batching, padding and order do
    not change an answer but for the last bits of its numbers.

    Weights are loaded once a process and number format. The model's code is that of the transformers library: code
    that comes with a model is not run.

    Raises:
        TokayError: there is no such model, or it is no causal language model.
    """

    def __init__(
        self,
        name: str,
        *,
        dtype: torch.dtype | None = None,
        device: str | None = None,
        tokens_per_batch: int | None = None,
    ) -> None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.name = f"hf:{name}"
        self.model = key_name(name, dtype)
        self.limits = Limits(concurrency=IN_FLIGHT)
        self._loaded = _load(find_model(name), dtype or _default_dtype(), device)
        self._budget = tokens_per_batch or TOKENS_PER_BATCH[self._loaded.device.type]
        self._waiting: list[_Job] = []
        self._runner: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokay-lm")
        self._closing = threading.Event()

    async def abilities(self) -> Abilities:
        """Log-probabilities of everything."""
        limit = self._loaded.limit
        return Abilities(likelihood="exact", first_logprobs=MOST_FIRST, context_tokens=limit if limit < 10**9 else 0)

    async def close(self) -> None:
        """Wait for the batch that is being computed (generating ends early) and drop those that wait."""
        self._closing.set()
        if self._runner:
            await asyncio.gather(self._runner, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown)

    async def send(self, request: Mapping[str, Any], key: str = "") -> Answer:
        """The answer to a request."""
        if "schema" in request:
            raise TokayError(f"{self.name} cannot be held to a JSON schema; ask without one")
        loop = asyncio.get_running_loop()
        work = chat_of(request, self._loaded) if "messages" in request else targets_of(request, self._loaded)
        job = _Job(work, loop.create_future(), time.perf_counter())
        self._waiting.append(job)
        if self._runner is None or self._runner.done():
            self._runner = loop.create_task(self._run())
        return await job.done

    async def _run(self) -> None:
        """Compute what waits until nothing does; what comes meanwhile is taken in the next round."""
        while self._waiting:
            taken, self._waiting = self._waiting, []
            try:
                for batch in batches_of(taken, self._budget):
                    await self._run_batch([job for job in batch if not job.done.done()])  # cancelled: nobody waits
            finally:
                for job in taken:
                    job.done.cancel()  # what was not computed, because this was closed; else nothing

    async def _run_batch(self, jobs: Sequence[_Job]) -> None:
        if not jobs or self._closing.is_set():
            return
        outcomes: Sequence[Answer | Exception]
        try:
            outcomes = await asyncio.get_running_loop().run_in_executor(self._thread, self._compute, jobs)
        except Exception as error:  # a fault of ours or of torch: those who wait must hear of it
            outcomes = [error] * len(jobs)
        if self._closing.is_set():
            return  # an answer may be cut short
        for job, outcome in zip(jobs, outcomes, strict=True):
            _settle(job, outcome)

    def _compute(self, jobs: Sequence[_Job]) -> list[Answer | Exception]:
        """The answers of a batch; one that does not fit into the GPU's memory is halved."""
        try:
            return self._answers(jobs)
        except torch.OutOfMemoryError as error:
            if len(jobs) == 1:
                return [AskFailed(f"{len(jobs[0].ids)} tokens do not fit into the memory of the GPU: {error}")]
        half = len(jobs) // 2
        return [*self._compute(jobs[:half]), *self._compute(jobs[half:])]

    def _answers(self, jobs: Sequence[_Job]) -> list[Answer | Exception]:
        chats = [job.work for job in jobs if isinstance(job.work, Chat)]
        if chats:
            return [*generate(self._loaded, chats, stop=self._closing.is_set)]
        targets = [target for job in jobs if not isinstance(job.work, Chat) for target in job.work]
        scores = iter(score(self._loaded, targets))
        return [_likelihoods(job.work, scores) for job in jobs if not isinstance(job.work, Chat)]


def _settle(job: _Job, outcome: Answer | Exception) -> None:
    if job.done.done():
        return
    if isinstance(outcome, Exception):
        job.done.set_exception(outcome)
        return
    usage = dataclasses.replace(outcome.usage, seconds=time.perf_counter() - job.began)
    answer = dataclasses.replace(outcome, usage=usage)
    if isinstance(job.work, Chat) and not answer.text.strip():
        job.done.set_exception(NoText("empty answer (the model stopped at once)", spent=answer))
    else:
        job.done.set_result(answer)


def _likelihoods(targets: Sequence[Target], scores: Iterator[float]) -> Answer | Exception:
    values = tuple(next(scores) for _ in targets)
    if any(math.isnan(value) for value in values):
        return AskFailed("the log-probability is not a number; the model may not bear this number format")
    lengths = tuple(len(t.ids) - t.start for t in targets)
    prompt = min(t.start for t in targets) + sum(lengths)  # the context once, and all continuations
    return Answer(values=values, tokens=lengths, usage=Usage(prompt=prompt))


def batches_of(jobs: Sequence[_Job], budget: int) -> Iterator[list[_Job]]:
    """Jobs of one kind and of like length together, at most ``budget`` padded tokens at a time."""
    often = Counter(job.kind for job in jobs)
    kinds: dict[tuple[Any, ...], list[_Job]] = {}
    for job in jobs:
        alone = often[job.kind] == 1 and not isinstance(job.work, Chat)  # shares no beginning: any company will do
        kinds.setdefault(("likelihood",) if alone else job.kind, []).append(job)
    for same in kinds.values():
        room = same[0].work.room if isinstance(same[0].work, Chat) else 0
        rows = [range(len(job.ids) + room) for job in same]
        order = sorted(range(len(same)), key=lambda i: len(rows[i]), reverse=True)
        for group in by_token_budget(order, rows, budget):
            yield [same[i] for i in group]


# -- text to tokens ---------------------------------------------------------------------------------------------------


def chat_of(request: Mapping[str, Any], loaded: Loaded) -> Chat:
    """A chat as the model's own template renders it, or plainly; the room is cut to what the model has left.

    Raises:
        AskFailed: the prompt fills the model.
        TokayError: the template refuses such messages.
    """
    tokenizer = loaded.tokenizer
    messages = [{**m, "content": as_data(tokenizer, m["content"])} for m in request["messages"]]
    if tokenizer.chat_template:
        ids = tokens_of(tokenizer, rendered(tokenizer, messages), special=False)  # the template writes its own
    else:
        ids = tokens_of(tokenizer, plain(messages), special=True)
    room = min(request["max_tokens"], loaded.limit - len(ids))
    if room < 1:
        raise AskFailed(f"the prompt has {len(ids)} tokens; the model takes {loaded.limit}, its answer included")
    return Chat(ids, room, request.get("top_logprobs", 0))


def targets_of(request: Mapping[str, Any], loaded: Loaded) -> tuple[Target, ...]:
    """What to score for log P(continuation | context).

    Context and continuation are tokenised as one text, as the model saw text in training. The continuation's tokens are
    those behind the longest prefix that this has in common with the context's own tokens. Mostly that is the whole
    context; where a token straddles the border, it counts as the continuation's, and so do those that it displaced.
    A beginning-of-text token is there if the tokenizer adds one; closing ones that it adds are left out.

    Raises:
        AskFailed: the text is longer than the model, or nothing stands before the continuation.
    """
    tokenizer, context = loaded.tokenizer, as_data(loaded.tokenizer, request["context"])
    alone = tokens_of(tokenizer, context, special=True)
    targets = []
    for continuation in request["continuations"]:
        joint = tokens_of(tokenizer, context + as_data(tokenizer, continuation), special=True)
        if len(joint) > loaded.limit:
            raise AskFailed(f"the text has {len(joint)} tokens; the model takes {loaded.limit}")
        start = common_prefix([alone, joint])
        if start == 0 and joint:
            raise AskFailed("no token stands before the continuation; expected a context")
        targets.append(Target(joint, start))
    return tuple(targets)


def tokens_of(tokenizer: Any, text: str, *, special: bool) -> tuple[int, ...]:
    """The tokens of a text; ``special`` ones that the tokenizer puts before it, but none behind it."""
    made = tokenizer(text, add_special_tokens=special, return_special_tokens_mask=True, truncation=False, verbose=False)
    ids, marks = made["input_ids"], made["special_tokens_mask"]
    end = len(ids)
    while special and end and marks[end - 1] and any(not mark for mark in marks[:end]):
        end -= 1
    return tuple(ids[:end])


def as_data(tokenizer: Any, text: str) -> str:
    """Text that cannot speak as the chat's frame: the model's control tokens in it get a blank behind their first sign.

    A passage may hold ``<|im_end|>``; tokenised as it is, it would end the message that quotes it.
    """
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    for token in tokenizer.added_tokens_decoder.values():
        sign = token.content
        if sign in text and len(sign.strip()) > 1 and (token.special or sign in template):
            text = text.replace(sign, f"{sign[0]} {sign[1:]}")
    return text


def rendered(tokenizer: Any, messages: Messages) -> str:
    """A chat as the tokenizer's template writes it, up to where the answer begins.

    A template that knows thoughts is asked for none: they would fill the room of a short answer. One that knows no
    system message gets it in front of the first question.

    Raises:
        TokayError: the template refuses both forms.
    """
    from jinja2 import TemplateError

    system, *others = messages
    folded = [{**others[0], "content": f"{system['content']}\n\n{others[0]['content']}"}, *others[1:]] if others else []
    for form in (messages, folded if system["role"] == "system" else []):
        try:
            return str(
                tokenizer.apply_chat_template(
                    list(form), tokenize=False, add_generation_prompt=True, enable_thinking=False
                )
            )
        except (TemplateError, IndexError) as error:
            refusal = error
    raise TokayError(f"the chat template of this model refuses the messages: {refusal}; choose another model")


def plain(messages: Messages) -> str:
    """A chat for a model without a template: ``role: content``, paragraph by paragraph, then ``assistant:``."""
    said = "".join(f"{message['role']}: {message['content']}\n\n" for message in messages)
    return f"{said}assistant:"


def common_prefix(rows: Sequence[tuple[int, ...]]) -> int:
    """How many first tokens all rows share."""
    shortest, longest = min(rows), max(rows)  # in the order of a dictionary: these two differ first
    return next((i for i, (a, b) in enumerate(zip(shortest, longest, strict=False)) if a != b), min(map(len, rows)))


# -- tokens to answers ------------------------------------------------------------------------------------------------


@torch.inference_mode()
def generate(loaded: Loaded, chats: Sequence[Chat], *, stop: Callable[[], bool] = lambda: False) -> list[Answer]:
    """Greedy continuations of chats of equal room and top; when ``stop`` says so, they end where they are."""
    from transformers import LogitsProcessorList, StoppingCriteriaList

    first = _First(chats[0].top)
    ids, mask = padded([chat.ids for chat in chats], loaded.device)

    def ended(ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        return torch.full((len(ids),), stop(), device=ids.device)

    made = loaded.model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=chats[0].room,
        logits_processor=LogitsProcessorList([first]),
        stopping_criteria=StoppingCriteriaList([ended]),
    )
    return [
        _continuation(loaded, chat, row, first.of(n, loaded.tokenizer))
        for n, (chat, row) in enumerate(zip(chats, made[:, ids.shape[1] :].tolist(), strict=True))
    ]


def _continuation(loaded: Loaded, chat: Chat, made: Sequence[int], first: Mapping[str, float]) -> Answer:
    ends = loaded.model.generation_config.eos_token_id
    stops = set(ends if isinstance(ends, list) else [ends])
    length = next((n for n, token in enumerate(made) if token in stops), len(made))
    text = loaded.tokenizer.decode(made[:length], skip_special_tokens=True)
    return Answer(text, first, usage=Usage(prompt=len(chat.ids), completion=min(length + 1, len(made))))


class _First:
    """Keeps the log-probabilities of the likeliest first tokens, as a processor of logits that changes none."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._found: tuple[list[list[float]], list[list[int]]] | None = None

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        if self._top and self._found is None:
            values, tokens = scores.log_softmax(-1).topk(min(self._top, scores.shape[-1]))
            self._found = values.tolist(), tokens.tolist()
        return scores

    def of(self, row: int, tokenizer: Any) -> dict[str, float]:
        """By text; tokens of one text (with a blank before it and without) are one, with the sum of their mass."""
        if self._found is None:
            return {}
        mass: dict[str, float] = {}
        for value, token in zip(self._found[0][row], self._found[1][row], strict=True):
            text = tokenizer.decode([token])
            mass[text] = mass.get(text, 0.0) + math.exp(value)
        return {text: math.log(p) for text, p in mass.items() if p > 0}


@torch.inference_mode()
def score(loaded: Loaded, targets: Sequence[Target]) -> list[float]:
    """Sum over a target's tokens of log P(token | all before it), in nats, for each.

    Targets with the same tokens but the last (the labels of one prompt) share a row; a beginning that all rows share
    (a prompt's examples) is computed once. Both were chosen by measuring, see docs/llm.md.
    """
    rows: dict[tuple[int, ...], list[int]] = {}
    for n, target in enumerate(targets):
        if target.start < len(target.ids):
            rows.setdefault(target.ids[:-1], []).append(n)
    totals = [0.0] * len(targets)
    if not rows:
        return totals
    inputs = list(rows)
    shared = min(common_prefix(inputs), min(targets[n].start - 1 for same in rows.values() for n in same))
    shared = shared if len(inputs) > 1 and shared >= SHARED_TOKENS and _has_plain_cache(loaded.model) else 0
    ids, mask = padded([row[shared:] for row in inputs], loaded.device)
    needed = max(len(targets[n].ids) - targets[n].start for same in rows.values() for n in same)
    for begin, logits in _last_logits(loaded, inputs[0][:shared], ids, mask, needed):
        for row, same, scores in zip(inputs, rows.values(), logits, strict=True):
            surprise = _at_least_float32(scores).log_softmax(-1)  # (T, V)
            offset = len(row) - ids.shape[1] + begin  # the position in the row of the first of these logits
            for n in same:
                totals[n] += _sum_of(surprise, offset, targets[n])
    return totals


def _sum_of(surprise: Tensor, offset: int, target: Target) -> float:
    """The part of a target's sum that these positions hold: position p tells of token p + 1."""
    positions = range(max(offset, target.start - 1), min(offset + len(surprise), len(target.ids) - 1))
    if not positions:
        return 0.0
    tokens = torch.tensor([target.ids[p + 1] for p in positions], device=surprise.device)
    return float(surprise[positions.start - offset : positions.stop - offset].gather(1, tokens[:, None]).double().sum())


def _last_logits(
    loaded: Loaded, prefix: Sequence[int], ids: Tensor, mask: Tensor, needed: int
) -> Iterator[tuple[int, Tensor]]:
    """Logits (B, T, V) of the last ``needed`` columns of ids (B, L) behind a prefix, a few columns at a time.

    No other position's logits are made: at 2,000 tokens and 150,000 words a row's would take 1.2 GB.
    """
    model, width = loaded.model, ids.shape[1]
    positions = len(prefix) + (mask.cumsum(1) - 1).clamp(min=0)
    mask = torch.cat([mask.new_ones(len(ids), len(prefix)), mask], dim=1)
    accepted = inspect.signature(model.forward).parameters
    kept = "cache" if "cache" in accepted else "past_key_values"  # transformers renamed it within version 5
    cache = None
    if prefix:
        cache = model(input_ids=ids.new_tensor([prefix]), use_cache=True, logits_to_keep=1)[kept]
        cache.batch_repeat_interleave(len(ids))
    step = max(1, LOGITS_PER_PIECE // (len(ids) * model.config.get_text_config().vocab_size))
    begin, fed = width - needed, 0
    while begin < width:
        end = min(begin + step, width)
        more = end < width
        options = {kept: cache, "position_ids": positions[:, fed:end], "logits_to_keep": end - begin}
        out = model(
            input_ids=ids[:, fed:end],
            attention_mask=mask[:, : len(prefix) + end],
            use_cache=cache is not None or more,
            **{name: value for name, value in options.items() if name in accepted},
        )
        yield begin, out.logits[:, begin - end :]
        cache, begin, fed = out[kept] if more else None, end, end


def _has_plain_cache(model: Any) -> bool:
    """Whether all layers keep keys and values of all positions; windows and states (Mamba) are left alone."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask (B, L), right-aligned, so that every row ends in the last column."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask
