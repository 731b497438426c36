"""A transformers model with edits of its hidden states: found by its layer list, run by hooks, chosen by name.

The model itself is left as it is: what is added are edits (``reft``) that hooks apply behind layers. Positions are
counted when the backbone is entered (``reft_positions``), so plain forward passes, padding on either side, caches,
beams and assisted decoding need nothing from the caller.

Letters: N rows, L tokens, D width.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from tokay.errors import TokayError, did_you_mean
from tokay.models.layers import layers_of, weights_print
from tokay.models.locate import revision_of
from tokay.models.reft import VARIANTS, Folded, Intervention
from tokay.models.reft_config import ReftConfig
from tokay.models.reft_hooks import (
    AfterLayer,
    State,
    ThreadState,
    backbone_of,
    before_labels,
    changed,
    hooks_are_inside_checkpoints,
    prompt_of,
)
from tokay.models.reft_positions import Positions, Prompt, need_tokens
from tokay.models.reft_stack import Edit, Stack


class Adapter(nn.Module):
    """The edits of one adapter, by place.

    Attributes:
        specs: name -> the positions that it is of, of all groups that are edited in layers. torch.compile looks objects
            up by what they are and not by what they equal, so names are what is looked up.
    """

    def __init__(self, config: ReftConfig, *, width: int, layers: int) -> None:
        super().__init__()
        self.config = config
        self.edits = nn.ModuleDict()
        self.specs = {str(part): part for part in config.parts if not part.pooled}
        made = VARIANTS[config.variant]
        for place in config.places(layers):
            self.edits[place] = made(width, config.rank, dropout=config.dropout, init=config.init)

    def at(self, layer: int) -> Iterator[tuple[str, Edit]]:
        """The edits of a layer, each with the name of its positions."""
        for name in self.specs:
            if (place := f"{layer}:{name}") in self.edits:
                yield name, cast("Edit", self.edits[place])


class ReftModel(nn.Module):
    """Any transformers model, frozen, with adapters that edit its hidden states.

    Attributes:
        model: the model, with hooks.
        adapters: name -> its edits.
        active: the adapter that is in force; None: the plain model.
        pools: whether somebody pools what comes out, and edits that vector by ``edit_pooled``.
        base_name: what the base was loaded from, for saved folders.
        revision: the commit on the Hub, where the base came from there.

    Raises:
        TokayError: the model has no list of layers, or no inputs of tokens.
    """

    def __init__(self, model: nn.Module, *, layer_list: str = "", base_name: str = "", revision: str = "") -> None:
        super().__init__()
        self.training = model.training
        self.model: Any = model
        model.requires_grad_(False)
        self.adapters = nn.ModuleDict()
        self.active: str | None = None
        self.stack: Stack | None = None
        self.pools = False
        self.layer_list = layer_list
        config = getattr(model, "config", None)
        self.base_name = base_name or str(getattr(config, "_name_or_path", "") or "")
        self.revision = revision or str(getattr(config, "_commit_hash", None) or "") or revision_of(self.base_name)
        layers = layers_of(model, layer_list)
        self._count = len(layers)
        self._of_thread, self._traced = ThreadState(), State()
        self._base_print = ""
        backbone = backbone_of(model, layers)
        self._inputs = list(inspect.signature(backbone.forward).parameters)
        self._handles = [
            backbone.register_forward_pre_hook(self._enter, with_kwargs=True),
            backbone.register_forward_hook(self._leave),
            *(layer.register_forward_hook(AfterLayer(self, i)) for i, layer in enumerate(layers)),
        ]

    # -- adapters -------------------------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """D, of the hidden states."""
        config = self.model.config
        config = config.get_text_config() if hasattr(config, "get_text_config") else config
        return int(config.hidden_size)

    @property
    def layer_count(self) -> int:
        """How many layers there are."""
        return self._count

    def add_adapter(self, name: str, config: ReftConfig) -> Adapter:
        """Make an adapter that changes nothing yet, and put it in force.

        Raises:
            TokayError: the name is taken, or the config does not fit the model.
        """
        if not name or "." in name or name in self.adapters:
            what = "is there already" if name in self.adapters else "is no name"
            raise TokayError(f"adapter {name!r} {what}; expected a new name without a dot")
        adapter = Adapter(config, width=self.width, layers=self.layer_count)
        weight = next(self.model.parameters())
        self.adapters[name] = adapter.to(weight.device).train(self.training)
        self.stack = None
        self.set_adapter(name)
        return adapter

    def set_adapter(self, name: str | None) -> None:
        """Put an adapter in force, and train it alone; None: the plain model.

        Raises:
            TokayError: there is none of that name.
        """
        if name is not None and name not in self.adapters:
            raise TokayError(
                f"there is no adapter {name!r}; there are {', '.join(self.adapters) or 'none'}"
                f"{did_you_mean(name, self.adapters)}"
            )
        self.active = name
        for other, adapter in self.adapters.items():
            adapter.requires_grad_(other == name)

    def delete_adapter(self, name: str) -> None:
        """Remove an adapter; where it was in force, the plain model is."""
        self.set_adapter(None if self.active == name else self.active)
        del self.adapters[name]
        self.stack = None

    @contextlib.contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """The plain model, meanwhile."""
        before, self.active = self.active, None
        try:
            yield
        finally:
            self.active = before

    @property
    def adapter(self) -> Adapter:
        """The one in force.

        Raises:
            TokayError: none is.
        """
        if self.active is None:
            raise TokayError("no adapter is in force; name one by set_adapter")
        return cast("Adapter", self.adapters[self.active])

    def unload(self) -> Any:
        """The plain model, without hooks; this one is then of no more use."""
        for handle in self._handles:
            handle.remove()
        return self.model

    def print_trainable_parameters(self) -> str:
        """How many parameters are trained, in words; nothing is printed, as in all of Tokay's library."""
        trained = sum(p.numel() for p in self.parameters() if p.requires_grad)
        total = sum(p.numel() for p in self.parameters())
        return f"trainable params: {trained:,} || all params: {total:,} || trainable%: {100 * trained / total:.4f}"

    # -- running --------------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        adapter_names: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> Any:
        """As of the model; what is None is not passed. The names are here because transformers' Trainer reads them.

        Args:
            input_ids: for the model, as are the others that are not named below.
            attention_mask: true for real tokens, on which positions are counted; None: all are.
            token_type_ids: …
            position_ids: …
            inputs_embeds: …
            labels: a language model's also say what the prompt is, which alone is edited: the real tokens before the
                first label of a row that is not -100.
            prompt_mask: (N, L), true for tokens of the prompt; in place of what the labels say.
            adapter_names: an adapter for each row, None or ``__base__`` for the plain model; in place of the one in
                force, and not for training.
            **kwargs: …
        """
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "labels": labels,
        }
        kwargs |= {name: value for name, value in given.items() if value is not None}
        prompt, rows = self._now.prompt, self._now.rows
        if prompt_mask is not None:
            prompt = Prompt(prompt_mask.bool(), exact=True)
        elif labels is not None and labels.ndim == 2 and self._is_decoder():
            prompt = Prompt(before_labels(labels, attention_mask), exact=True)
        with self.scope(prompt, rows if adapter_names is None else self._rows(adapter_names)):
            return self.model(**kwargs)

    def generate(self, *args: Any, adapter_names: Sequence[str | None] | None = None, **kwargs: Any) -> Any:
        """As of the model, whatever the strategy, with a cache or without: tokens of the prompt are edited, once."""
        ids = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else kwargs.get("inputs_embeds")))
        if kwargs.get("attention_mask") is None and ids is not None:
            kwargs["attention_mask"] = self._mask_of(ids, kwargs)
        mask = kwargs.get("attention_mask")
        with self.scope(None if mask is None else Prompt(mask.bool()), self._rows(adapter_names)):
            return self.model.generate(*args, **kwargs)

    @contextlib.contextmanager
    def scope(self, prompt: Prompt | None, rows: Tensor | None = None) -> Iterator[None]:
        """Say for this thread what the prompt is, and the place in the stack of each row's adapter."""
        states = [self._traced] if torch.compiler.is_compiling() else [self._traced, self._of_thread]
        before = [(state.prompt, state.rows) for state in states]
        for state in states:
            state.prompt, state.rows = prompt, rows
        try:
            yield
        finally:
            for state, (one, other) in zip(states, before, strict=True):
                state.prompt, state.rows = one, other

    @property
    def _now(self) -> State:
        """Of this thread; torch.compile does not see those, so a compiled model has one for all threads."""
        return self._traced if torch.compiler.is_compiling() else self._of_thread

    def edit(self, layer: int, hidden: Tensor) -> Tensor:
        """Edit a layer's output (N, L, D) where this forward pass has positions."""
        now = self._now
        spots = now.spots
        if not spots:
            return hidden
        edits = self.adapter.at(layer) if now.rows is None else now.picked.get(layer, ())
        for name, change in edits:
            if (spot := spots.get(name)) is not None:
                hidden = changed(hidden, spot, change)
        return hidden

    def edit_pooled(self, vectors: Tensor) -> Tensor:
        """Edit pooled vectors, (N, D), where the adapter in force is of them."""
        rows = self._now.rows
        if rows is not None:
            assert self.stack is not None
            change = self.stack.pooled(rows.to(vectors.device), len(vectors))
            return vectors if change is None else change(vectors[:, None]).squeeze(1)
        if self.active is None or "pooled" not in self.adapter.edits:
            return vectors
        return cast("Tensor", self.adapter.edits["pooled"](vectors))

    def _enter(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Find out where the positions are in this forward pass."""
        now = self._now
        now.spots, now.picked = None, {}
        if self.training and hooks_are_inside_checkpoints() and module.is_gradient_checkpointing:
            raise TokayError(
                "this release of transformers checkpoints layers together with their hooks, which would be run twice; "
                "install transformers 5.24, or train without gradient checkpointing"
            )
        if now.rows is None and self.active is not None and "pooled" in self.adapter.edits and not self.pools:
            raise TokayError(
                "positions 'pooled' are of an embedder, which pools, and this model does not; choose tokens, such as "
                "'f7+l7' or 'all'"
            )
        specs = self.stack.specs if now.rows is not None and self.stack is not None else self._specs()
        if not specs:
            return
        given = {**dict(zip(self._inputs, args, strict=False)), **kwargs}
        inputs = given.get("input_ids")
        inputs = given.get("inputs_embeds") if inputs is None else inputs
        if inputs is None:
            return  # the model refuses it in its own words
        count, length = inputs.shape[:2]
        cache = given.get("past_key_values", given.get("cache"))
        past = int(cache.get_seq_length()) if cache is not None else 0
        prompt = now.prompt
        if prompt is None:
            if past:
                return  # decoded tokens, of a caller that keeps the cache
            prompt = prompt_of(given.get("attention_mask"), inputs, specs)
        prompt = prompt.rows(count)
        if not past and any(not spec.every for spec in specs.values()):
            need_tokens(prompt.mask)
        found = {name: prompt.spot(spec, past=past, length=length) for name, spec in specs.items()}
        now.spots = {name: spot.of_width(self.width) for name, spot in found.items() if spot is not None}
        if now.rows is not None and self.stack is not None:
            now.picked = self.stack.pick(now.rows, count)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        now = self._now
        now.spots, now.picked = None, {}

    def _specs(self) -> Mapping[str, Positions]:
        return self.adapter.specs if self.active is not None else {}

    def _rows(self, names: Sequence[str | None] | None) -> Tensor | None:
        """The place in the stack of each named adapter; 0 is the plain model."""
        if names is None:
            return None
        adapters = {name: cast("Adapter", adapter) for name, adapter in self.adapters.items()}
        if self.stack is None or not self.stack.is_of(adapters):
            self.stack = Stack(self.width)
            for name, adapter in adapters.items():
                self.stack.add(name, adapter.edits, adapter.config.parts)
        return torch.tensor([self.stack.place(name) for name in names])

    def _is_decoder(self) -> bool:
        can = getattr(self.model, "can_generate", None)
        return bool(can and can()) and not getattr(self.model.config, "is_encoder_decoder", False)

    def _mask_of(self, ids: Tensor, kwargs: Mapping[str, Any]) -> Tensor:
        """As transformers infers it: padding is what equals the pad token, unless that ends texts too."""
        config = kwargs.get("generation_config") or self.model.generation_config
        pad, end = (kwargs.get(name, getattr(config, name)) for name in ("pad_token_id", "eos_token_id"))
        ends = [end] if isinstance(end, int) else end if end is not None else []
        if ids.ndim != 2 or pad is None or pad in ends:
            return torch.ones(ids.shape[:2], dtype=torch.long, device=ids.device)
        return ids.ne(pad).long()

    # -- folders --------------------------------------------------------------------------------------------------

    @property
    def base_print(self) -> str:
        """SHA-256 of the base's weights, as ``layers.weights_print``."""
        if not self._base_print:
            self._base_print = weights_print(self.model)
        return self._base_print

    @base_print.setter
    def base_print(self, known: str) -> None:
        self._base_print = known

    def save_pretrained(self, folder: str | Path, *, dims: tuple[int, ...] = (), **others: Any) -> None:
        """Write the adapter in force: safetensors and JSON, see ``reft_folder``."""
        from tokay.models.reft_folder import save_adapter

        del others  # what transformers and peft pass to it besides
        save_adapter(self, Path(folder), dims=dims)

    @classmethod
    def from_pretrained(
        cls, model: nn.Module, folder: str | Path, *, name: str = "default", check: bool = True
    ) -> ReftModel:
        """A model with a saved adapter, in force.

        Args:
            model: the base, or a ``ReftModel`` over it, which gets one more adapter.
            folder: as ``save_pretrained`` wrote it.
            name: of the adapter.
            check: refuse a base with other weights than the adapter was trained on; reading them all takes a while.

        Raises:
            TokayError: the adapter is of another model, or the folder is none of an adapter.
        """
        from tokay.models.reft_folder import load_adapter

        return load_adapter(model, Path(folder), name=name, check=check)

    @property
    def config(self) -> Any:
        """The model's."""
        return self.model.config

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model" or name.startswith("__"):
                raise
            return getattr(self.model, name)


def get_reft_model(model: nn.Module, config: ReftConfig | None = None, *, adapter_name: str = "default") -> ReftModel:
    """Freeze a transformers model and let it edit its hidden states; only the edits are trained.

    Args:
        model: with or without a head; a ``ReftModel`` gets one more adapter.
        config: what is edited; None: LoReFT of rank 4 at every token of every layer.
        adapter_name: by which it is chosen.

    Raises:
        TokayError: the model has no list of layers, or the config does not fit it.
    """
    config = config or ReftConfig()
    if not isinstance(model, ReftModel):
        model = ReftModel(model, layer_list=config.layer_list)
    model.add_adapter(adapter_name, config)
    return model


def folded(model: Any) -> Any:
    """A copy of a model with edits that has their products as numbers; any other model as it is."""
    if not isinstance(model, ReftModel):
        return model
    model = copy.deepcopy(model)
    for adapter in model.adapters.values():
        edits = cast("Adapter", adapter).edits
        for place in list(edits):
            edits[place] = Folded(cast("Intervention", edits[place]))
    return model


def edited_layers(model: nn.Module) -> tuple[int, ...]:
    """Which layers' outputs a model edits; none of one without edits."""
    if not isinstance(model, ReftModel) or model.active is None:
        return ()
    return model.adapter.config.layers_in(model.layer_count)


def edit_pooled(backbone: Any, vectors: Tensor) -> Tensor:
    """Pooled vectors (N, D), edited where the backbone has such an edit."""
    return backbone.edit_pooled(vectors) if isinstance(backbone, ReftModel) else vectors
