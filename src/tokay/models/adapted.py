"""A folder with an adapter alone, peft's or edits (``reft``): it names its base, and is refused beside any other."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from tokay.errors import MissingExtra, TokayError
from tokay.models.layers import weights_print

ABOUT = "tokay_adapter.json"
"""The base's name, the SHA-256 of its backbone's weights, and the Matryoshka widths."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no whole model."""
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> str:
    """The base that an adapter was trained on: a name or a folder, as it was given then.

    Raises:
        TokayError: the folder does not say.
    """
    for name, key in ((ABOUT, "base"), ("adapter_config.json", "base_model_name_or_path")):
        if (folder / name).is_file() and (base := json.loads((folder / name).read_text(encoding="utf-8")).get(key)):
            return str(base)
    raise TokayError(f"{folder} is an adapter and does not name its base; add base_model_name_or_path to its config")


def dims_of(folder: Path) -> tuple[int, ...]:
    """The Matryoshka widths that an adapter was trained at; none where it does not say."""
    if not (folder / ABOUT).is_file():
        return ()
    return tuple(json.loads((folder / ABOUT).read_text(encoding="utf-8")).get("dims") or ())


def write_about(folder: Path, *, base: str, backbone_print: str, dims: tuple[int, ...]) -> None:
    """Say which base an adapter belongs to."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"base": base, "weights": backbone_print, "dims": dims}, indent=1)
    (folder / ABOUT).write_text(text + "\n", encoding="utf-8")


@contextlib.contextmanager
def peft_alone() -> Iterator[None]:
    """Keep from users what peft (to 0.21) is told by transformers (from 5.24): it reads a property by its old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def adapted(
    backbone: nn.Module, folder: Path, *, merge: bool = True, base_print: Callable[[], str] | None = None
) -> Any:
    """The backbone with the adapter in it.

    Args:
        backbone: of the base; it is changed.
        folder: the adapter's.
        merge: add its matrices to the base's weights; else those stay as they are, and the matrices stand beside. Edits
            of hidden states have no weights to be added to, and always stand beside.
        base_print: of the backbone's weights, where that may be known already.

    Raises:
        TokayError: the adapter belongs to other weights, or is to be merged and not finite.
        MissingExtra: peft is not installed.
    """
    from tokay.models.reft_folder import is_reft, load_adapter

    base_print = base_print or (lambda: weights_print(backbone))
    if is_reft(folder):
        edited = load_adapter(backbone, folder, name="default", base_print=base_print)
        edited.pools = True
        return edited
    check_base(folder, base_print)
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingExtra("adapters", "train", "peft") from error
    with peft_alone():
        model = PeftModel.from_pretrained(backbone, folder)
    if not merge:
        return model.get_base_model()
    try:  # a safe merge is none in place, which would keep the base's file mapped once more for each adapter
        return model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise not_finite(folder) from error


def check_base(folder: Path, print_of_base: Callable[[], str]) -> None:
    """Refuse a base with other weights than those that an adapter was trained on, where its folder says which.

    Raises:
        TokayError: with both prints.
    """
    if not (folder / ABOUT).is_file():
        return
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    if about["weights"] != (found := print_of_base()):
        raise TokayError(
            f"{folder} is an adapter of {about['base']!r} with weights {about['weights'][:12]}…; the base that is "
            f"there has weights {found[:12]}…. Load it with the base that it was trained on"
        )


def not_finite(folder: Path) -> TokayError:
    """What is said of an adapter with such numbers."""
    return TokayError(f"{folder} is an adapter with numbers that are not finite; train it again")
