"""An adapter of edits as a folder of a few kilobytes: ``adapter_config.json``, ``adapter_model.safetensors``.

The names are peft's; ``peft_type`` is not, so peft and what loads through it refuse the folder and do not take the base
for the model. ``tokay_adapter.json`` beside has the base's name and the SHA-256 of its weights.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tokay.errors import TokayError, first_line
from tokay.models.adapted import check_base, not_finite, write_about
from tokay.models.folder import read_json
from tokay.models.reft_config import ReftConfig
from tokay.models.reft_model import ReftModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TYPE = "REFT"


def is_reft(folder: Path) -> bool:
    """Whether a folder holds edits."""
    return (folder / CONFIG).is_file() and bool(read_json(folder / CONFIG).get("peft_type") == TYPE)


def save_adapter(model: ReftModel, folder: Path, *, dims: tuple[int, ...] = ()) -> None:
    """Write the adapter in force.

    Args:
        model: with an adapter in force.
        folder: made where it is not there.
        dims: Matryoshka widths that it was trained at.
    """
    from safetensors.torch import save_file

    adapter = model.adapter
    write_about(folder, base=model.base_name, backbone_print=model.base_print, dims=dims)
    said = {
        "peft_type": TYPE,
        "base_model_name_or_path": model.base_name,
        "revision": model.revision or None,
        "width": model.width,
        "model_layers": model.layer_count,
        **dataclasses.asdict(adapter.config),
    }
    (folder / CONFIG).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    tensors = {name: value.detach().cpu().contiguous() for name, value in adapter.edits.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)


def load_adapter(
    model: nn.Module, folder: Path, *, name: str, check: bool = True, base_print: Callable[[], str] | None = None
) -> ReftModel:
    """As ``ReftModel.from_pretrained``; ``base_print``: as of ``adapted``."""
    said = read_json(folder / CONFIG)
    if said.get("peft_type") != TYPE:
        raise TokayError(f"{folder} holds no edits of hidden states (peft_type {TYPE} in {CONFIG}); name their folder")
    config = _config_of(said, folder)
    reft = model if isinstance(model, ReftModel) else ReftModel(model, layer_list=config.layer_list)
    if base_print is not None:
        reft.base_print = base_print()
    try:
        _check_base(reft, folder, said, check=check)
        _load(reft, folder, config, name)
    except TokayError:
        if reft is not model:
            reft.unload()
        raise
    return reft


def _check_base(model: ReftModel, folder: Path, said: Any, *, check: bool) -> None:
    """Refuse another base."""
    sizes = (model.width, model.layer_count)
    if (said.get("width"), said.get("model_layers")) != sizes:
        raise TokayError(
            f"{folder} is an adapter of a model of {said.get('model_layers')} layers, {said.get('width')} wide, and "
            f"this one has {sizes[1]}, {sizes[0]} wide; load it with {said.get('base_model_name_or_path')!r}"
        )
    if check:
        check_base(folder, lambda: model.base_print)
    model.base_name = str(said.get("base_model_name_or_path") or model.base_name)
    model.revision = str(said.get("revision") or model.revision)


def _load(model: ReftModel, folder: Path, config: ReftConfig, name: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise TokayError(f"{folder / WEIGHTS} cannot be read: {first_line(error)}; save the adapter again") from error
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        raise not_finite(folder)
    adapter = model.add_adapter(name, config)
    wanted = {place: tuple(value.shape) for place, value in adapter.edits.state_dict().items()}
    found = {place: tuple(value.shape) for place, value in tensors.items()}
    if wanted != found:
        model.delete_adapter(name)
        other = next(iter(dict(wanted.items() ^ found.items())))
        raise TokayError(f"{folder / WEIGHTS} does not fit {CONFIG}: {other} is missing or has another shape")
    adapter.edits.load_state_dict(tensors)


def _config_of(said: Any, folder: Path) -> ReftConfig:
    """The config of what the file says."""
    fields = {field.name for field in dataclasses.fields(ReftConfig)}
    try:
        return ReftConfig(**{name: value for name, value in said.items() if name in fields})
    except (TypeError, ValueError) as error:
        raise TokayError(f"{folder / CONFIG} is damaged: {first_line(error)}; save the adapter again") from error
