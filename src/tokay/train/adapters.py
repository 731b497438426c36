"""What of a model is trained, and how that is saved and merged: the loop knows none of it.

``Full`` trains the weights themselves, all or the later layers; ``Lora`` adds low-rank matrices beside frozen weights
(Hu et al. 2021, arXiv 2106.09685), through peft; ``Reft`` edits hidden states of a frozen model (Wu et al. 2024, arXiv
2404.03592).
"""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from tokay.errors import MissingExtra, TokayError
from tokay.models.adapted import peft_alone, write_about
from tokay.models.layers import embeddings_of, layers_of, weights_print
from tokay.models.reft_config import ReftConfig
from tokay.models.reft_model import edited_layers, get_reft_model
from tokay.models.torch_embedder import TorchEmbedder
from tokay.settings import TrainSettings

ADAM = 8
"""Bytes of AdamW's two float32 moments, a parameter."""


class Adapter(Protocol):
    """The seam: what training and saving ask of a way to adapt a model."""

    def attach(self, model: TorchEmbedder) -> None:
        """Make trainable what is trained, and nothing else."""

    def save(self, model: TorchEmbedder, folder: Path, *, base_name: str) -> None:
        """Write what was trained, where it is less than the model; else nothing."""

    def merge(self, model: TorchEmbedder) -> None:
        """Make the model one of the base's own kind, with the same outputs, where there is such a one."""


@dataclasses.dataclass(frozen=True)
class Full:
    """The weights themselves; Dense modules behind pooling too, as sentence-transformers trains all that a model has.

    Attributes:
        freeze_embeddings: leave the lookup tables alone.
        freeze_layers: leave the first so many layers alone, and the tables below them too.
    """

    freeze_embeddings: bool = False
    freeze_layers: int = 0

    def attach(self, model: TorchEmbedder) -> None:
        """Freeze what is frozen.

        Raises:
            TokayError: no layer is left to train.
        """
        model.requires_grad_(True)
        if self.freeze_layers:
            layers = layers_of(model.backbone)
            if self.freeze_layers >= len(layers):
                raise TokayError(
                    f"train.freeze_layers is {self.freeze_layers} and the model has {len(layers)} layers; leave at "
                    "least one to train"
                )
            for layer in layers[: self.freeze_layers]:
                layer.requires_grad_(False)
        if self.freeze_embeddings or self.freeze_layers:
            for parameter in embeddings_of(model.backbone):
                parameter.requires_grad_(False)

    def save(self, model: TorchEmbedder, folder: Path, *, base_name: str) -> None:
        """Nothing: the model is what was trained."""

    def merge(self, model: TorchEmbedder) -> None:
        """Nothing to merge."""
        model.requires_grad_(False)


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank matrices beside every linear map of every layer: ``W + alpha / rank * B A``, B = 0 at the start.

    Dense modules behind pooling are frozen, as peft freezes whatever is no adapter; they are saved beside the matrices.
    """

    rank: int = 16
    alpha: float = 32.0

    def attach(self, model: TorchEmbedder) -> None:
        """Wrap the backbone.

        Raises:
            MissingExtra: peft is not installed.
            TokayError: the rank is above the width.
        """
        if importlib.util.find_spec("peft") is None:
            raise MissingExtra("LoRA", "train", "peft")
        from peft import LoraConfig, get_peft_model

        if self.rank > model.hidden_width:
            raise TokayError(f"train.lora_rank is {self.rank} and the model is {model.hidden_width} wide; lower it")
        inside = {id(m) for m in layers_of(model.backbone).modules()}
        targets = [n for n, m in model.backbone.named_modules() if isinstance(m, nn.Linear) and id(m) in inside]
        print_before = weights_print(model.backbone)
        config = LoraConfig(
            r=self.rank, lora_alpha=self.alpha, target_modules=targets, lora_dropout=0.0, task_type="FEATURE_EXTRACTION"
        )
        with peft_alone():
            model.backbone = get_peft_model(model.backbone, config)
        model.backbone.base_print = print_before
        model.head.requires_grad_(False)

    def save(self, model: TorchEmbedder, folder: Path, *, base_name: str) -> None:
        """A folder that peft and ``TorchEmbedder.load`` read: the matrices, and which base they belong to."""
        for config in model.backbone.peft_config.values():
            config.base_model_name_or_path = base_name
        model.backbone.save_pretrained(folder, save_embedding_layers=False)  # looks at no Hub for the base
        write_about(folder, base=base_name, backbone_print=model.backbone.base_print, dims=model.config.dims)
        model.save_sizes(folder)

    def merge(self, model: TorchEmbedder) -> None:
        """Add the matrices to the weights."""
        model.backbone = model.backbone.merge_and_unload()
        model.requires_grad_(False)


@dataclasses.dataclass(frozen=True)
class Reft:
    """Edits of hidden states behind layers; what they are is in ``models.reft``.

    All weights are frozen, Dense modules behind pooling among them; those are saved beside the edits.
    """

    config: ReftConfig

    def attach(self, model: TorchEmbedder) -> None:
        """Freeze the model, and put edits behind its layers.

        Raises:
            TokayError: a layer is out of range, or the rank above the width.
        """
        model.backbone = get_reft_model(model.backbone, self.config)
        model.backbone.pools = True
        model.head.requires_grad_(False)

    def save(self, model: TorchEmbedder, folder: Path, *, base_name: str) -> None:
        """A folder of a few kilobytes that ``TorchEmbedder.load`` and ``tokay.reft`` read."""
        model.backbone.base_name = base_name or model.backbone.base_name
        model.save(folder)

    def merge(self, model: TorchEmbedder) -> None:
        """Nothing: a hidden state has no weight that an edit could be added to; the edits stay with the model."""
        model.requires_grad_(False)


def adapter_of(settings: TrainSettings) -> Adapter:
    """The adapter that the settings name.

    Raises:
        TokayError: its settings are none, or do not go together.
    """
    if settings.adapter in ("loreft", "direft") and settings.runs > 1:
        raise TokayError(
            f"train.runs is {settings.runs} with train.adapter={settings.adapter}, whose edits are in another subspace "
            "in each run and have no mean; set train.runs=1"
        )
    if settings.adapter in ("loreft", "direft"):
        return Reft(
            ReftConfig(
                variant=settings.adapter,
                rank=settings.reft_rank,
                layers=settings.reft_layers,
                positions=settings.reft_positions,
                tied=settings.reft_tied,
                dropout=settings.reft_dropout,
            )
        )
    if settings.adapter == "lora":
        return Lora(settings.lora_rank, settings.lora_alpha)
    return Full(settings.freeze_embeddings, settings.freeze_layers)


def set_dropout(module: nn.Module, share: float) -> None:
    """Set every dropout of a model, attention's included (transformers keeps that one as a number)."""
    child: Any
    for child in module.modules():
        if isinstance(child, nn.Dropout):
            child.p = share
        elif isinstance(getattr(child, "attention_dropout", None), float):
            child.attention_dropout = share


@dataclasses.dataclass(frozen=True)
class Savings:
    """What is trained of a model, and what that saves against training all of its base: counts, not timings.

    Attributes:
        trainable: parameters.
        total: parameters, those of an adapter included.
        bytes_saved: of gradients and AdamW's moments, in float32; below 0 where an adapter has more parameters.
        work_saved: share of a training step's products with weights that falls away; below 0 likewise.
    """

    trainable: int
    total: int
    bytes_saved: int
    work_saved: float

    def line(self) -> str:
        """In words."""
        if self.trainable == self.total:
            return f"all {self.total:,} parameters are trained"
        work = f" and {self.work_saved:.0%} of a step's products with weights" if round(self.work_saved, 2) else ""
        return (
            f"{self.trainable:,} of {self.total:,} parameters are trained, which saves {self.bytes_saved / 1e6:,.0f} "
            f"MB of gradients and optimiser state{work}"
        )


def savings_of(model: TorchEmbedder, base: TorchEmbedder) -> Savings:
    """Count, for a model with its adapter attached, against a training of the whole base.

    A linear map of n weights takes 2n operations a token forward, 2n for the gradient of its input and 2n for that of
    its weights. The first is always done; the second from the first trained parameter on; the third where n is trained.
    Products of edits of hidden states are left out: they are few.
    """
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    whole = 6 * sum(module.weight.numel() for module in _maps(layers_of(base.backbone)))
    done = 0
    below = not any(p.requires_grad for p in embeddings_of(model.backbone))
    edited = edited_layers(model.backbone)
    for number, layer in enumerate(layers_of(model.backbone)):
        below = below and not any(p.requires_grad for p in layer.parameters())
        for module in _maps(layer):
            n = module.weight.numel()
            done += 2 * n + (0 if below else 2 * n) + (2 * n if module.weight.requires_grad else 0)
        below = below and number not in edited
    spared = sum(p.numel() for p in base.parameters()) - trained
    return Savings(trained, total, (4 + ADAM) * spared, 1 - done / whole if whole else 0.0)


def _maps(module: nn.Module) -> list[nn.Linear]:
    """Its linear maps; an adapter's wrapper is none, what it wraps and adds are."""
    return [inner for inner in module.modules() if type(inner) is nn.Linear]
