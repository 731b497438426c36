"""Which vector space a model's vectors are in: two folders with one fingerprint give vectors that can be compared."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tokay.errors import TokayError
from tokay.models.folder import dense_folders, read_config
from tokay.models.locate import model_digest
from tokay.models.two_sides import is_two_sided, read_about

ABOUT, KEY = "export.json", "vector_space"
"""Where an export without weights says of which model it is."""
_LONGEST = 100_000_000
"""Bytes of a header: the format's own limit."""
_BUFFERS = ("position_ids",)
"""Tensors that some releases save and others do not, since they follow from a size."""


def vector_space(folder: Path) -> str:
    """A hash of what a model's vectors follow from: tensors, vocabulary, pooling, what is behind it, and prompts.

    It is the same after saving the model again, by whatever release, and whatever is put beside it: a card, a
    calibration, another form of the same weights. The number of tokens that are read is no part of it. Of a folder with
    a query side of its own it is the passages' space, which that side was trained for.

    Raises:
        TokayError: a file of weights or the tokenizer is damaged.
    """
    if is_two_sided(folder):
        return read_about(folder).vector_space
    weights = sorted(folder.rglob("*.safetensors"))
    weights = [path for path in weights if path.relative_to(folder).parts[0] not in ("training", "static", "onnx")]
    if {path.parent for path in weights} <= set(dense_folders(folder)):  # of an export, which has maps behind pooling
        return recorded(folder) or model_digest(folder)
    hasher = hashlib.sha256()
    for path in weights:
        _add_tensors(hasher, path)
    config, backbone = read_config(folder)
    said = [config.pooling, config.normalize, config.prompts.query, config.prompts.passage]
    said += [str(step) for step in config.steps]
    hasher.update(json.dumps([said, _vocabulary(folder) or _vocabulary(backbone), _base(folder)]).encode())
    return hasher.hexdigest()


def recorded(folder: Path) -> str:
    """What an export says of the model that it is of; empty where it says nothing."""
    path = folder / ABOUT
    return str(_json(path).get(KEY, "")) if path.is_file() else ""


def _add_tensors(hasher: Any, path: Path) -> None:
    """Names, types, shapes and numbers of a file's tensors; its layout is that of the safetensors format."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        try:
            header: dict[str, Any] = json.loads(file.read(min(size, _LONGEST)))
            tensors = {name: about for name, about in header.items() if name != "__metadata__"}
            for name, about in sorted(tensors.items()):
                if name.endswith(_BUFFERS):
                    continue
                start, end = about["data_offsets"]
                hasher.update(json.dumps([name, about["dtype"], about["shape"]]).encode())
                file.seek(8 + size + start)
                _add_bytes(hasher, file, end - start)
        except (ValueError, AttributeError, KeyError, TypeError, EOFError) as error:
            raise TokayError(f"{path} is no safetensors file, or damaged; fetch or save the model again") from error


def _add_bytes(hasher: Any, file: Any, count: int) -> None:
    while count:
        part = file.read(min(count, 1 << 22))
        if not part:
            raise EOFError
        hasher.update(part)
        count -= len(part)


def _vocabulary(folder: Path) -> str:
    """A hash of a tokenizer's vocabulary; empty where there is no ``tokenizer.json``."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return ""
    vocabulary = _json(path).get("model", {}).get("vocab", {})
    entries = sorted(vocabulary.items()) if isinstance(vocabulary, dict) else vocabulary
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def _base(folder: Path) -> str:
    """Of an adapter: the weights of its base, by the print that Tokay keeps beside it."""
    path = folder / "tokay_adapter.json"
    return str(_json(path).get("weights", "")) if path.is_file() else ""


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokayError(f"{path} is not JSON: {error}") from error
    return data if isinstance(data, dict) else {}
