"""The small files of a sentence-transformers folder: pooling, normalisation, prompts, length, widths. No torch here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from tokay.errors import TokayError
from tokay.models.dense import Dense, Step, dense_of
from tokay.models.format import InputFormat

Pooling = Literal["mean", "cls", "lasttoken"]


@dataclasses.dataclass(frozen=True)
class EmbedderConfig:
    """What a sentence-transformers folder says beside the weights.

    Attributes:
        pooling: of token vectors.
        normalize: whether its last module is Normalize.
        max_tokens: where texts are cut.
        prompts: before queries and passages.
        dims: Matryoshka widths.
        steps: the modules between Pooling and that Normalize: maps, and a Normalize that stands before one.
    """

    pooling: Pooling
    normalize: bool
    max_tokens: int
    prompts: InputFormat
    dims: tuple[int, ...] = ()
    steps: tuple[Step, ...] = ()


PROMPTS = "config_sentence_transformers.json"
_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


def read_config(folder: Path) -> tuple[EmbedderConfig, Path]:
    """What a model folder says about pooling, normalisation, length and prompts, and where its backbone lies.

    A folder without ``modules.json`` is a plain transformers model: mean pooling and normalisation, as
    sentence-transformers would assume the first and cosine needs the second.
    """
    plain = EmbedderConfig("mean", True, 0, InputFormat("", ""))
    if not (folder / "modules.json").is_file():
        return plain, folder
    listed = _modules(folder)
    modules = dict(listed)
    names = [name for name, _ in listed]
    if "Router" in modules:
        raise TokayError(
            f"{folder} has a side for queries and may have one for passages; for this, name a side's own folder, such "
            f"as {folder / 'document'}"
        )
    if "StaticEmbedding" in modules:
        raise TokayError(f"{folder} is a table of token vectors; load it with backend='static'")
    heads = 1 + ("Pooling" in modules)
    steps = listed[heads:]
    if names[:heads] != ["Transformer", "Pooling"][:heads] or not {name for name, _ in steps} <= {"Dense", "Normalize"}:
        raise TokayError(
            f"{folder / 'modules.json'} has the modules {', '.join(names)}; Tokay runs Transformer and Pooling, and "
            "behind them Dense and Normalize. Choose a base of these modules"
        )
    normalize = bool(steps) and steps[-1][0] == "Normalize"
    backbone = modules["Transformer"]
    sizes = read_json(backbone / "sentence_bert_config.json", folder / "sentence_bert_config.json")
    prompts, dims = read_prompts(folder)
    config = EmbedderConfig(
        pooling=_read_pooling(modules["Pooling"]) if "Pooling" in modules else "mean",
        normalize=normalize,
        max_tokens=int(sizes.get("max_seq_length") or 0),
        prompts=prompts,
        dims=tuple(read_json(backbone / "config.json").get("matryoshka_dimensions") or dims),
        steps=tuple(_step(name, path) for name, path in (steps[:-1] if normalize else steps)),
    )
    return config, backbone


def dense_folders(folder: Path) -> list[Path]:
    """Where a model folder has the weights of its maps behind pooling, in their order."""
    return [path for name, path in _modules(folder) if name == "Dense"]


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Kind and place of the modules of a folder."""
    entries = read_json(folder / "modules.json")
    return [(entry["type"].rsplit(".", 1)[-1], folder / entry["path"]) for entry in entries]


def _step(name: str, path: Path) -> Step:
    return dense_of(read_json(path / "config.json"), path) if name == "Dense" else "Normalize"


def _read_pooling(folder: Path) -> Pooling:
    entries = read_json(folder / "config.json")
    modes = [name for key, name in _POOLING_KEYS.items() if entries.get(key)]
    mode = entries.get("pooling_mode", "+".join(modes))
    if mode not in ("mean", "cls", "lasttoken"):
        raise TokayError(
            f"{folder / 'config.json'} pools by {mode or 'nothing'!r}; Tokay knows mean, cls and lasttoken"
        )
    if entries.get("include_prompt") is False:
        raise TokayError(f"{folder / 'config.json'} leaves the prompt out of pooling, which Tokay does not do")
    return mode  # type: ignore[no-any-return]


def write_config(folder: Path, config: EmbedderConfig, *, width: int) -> None:
    """The small files of a sentence-transformers folder. Module paths are the ones that every release imports.

    Args:
        folder: there already.
        config: what they say.
        width: of token vectors.
    """
    names = ["Transformer", "Pooling", *("Dense" if isinstance(step, Dense) else step for step in config.steps)]
    names += ["Normalize"] if config.normalize else []
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{name}" if i else "",
            "type": f"sentence_transformers.models.{name}",
        }
        for i, name in enumerate(names)
    ]
    pooling = {"word_embedding_dimension": width, "embedding_dimension": width}
    booleans = {key: name == config.pooling for key, name in _POOLING_KEYS.items()}
    files = {
        "modules.json": modules,
        "1_Pooling/config.json": {
            **pooling,
            "pooling_mode": config.pooling,
            **booleans,
            "include_prompt": True,
        },
        "sentence_bert_config.json": {"max_seq_length": config.max_tokens, "do_lower_case": False},
    }
    for module in modules[1:]:
        (folder / str(module["path"])).mkdir(exist_ok=True)
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    write_prompts(folder, config)


def write_prompts(folder: Path, config: EmbedderConfig) -> None:
    """The file that says what is put in front of queries and passages, and at which widths the model was trained."""
    entries = {
        "__version__": {},
        "model_type": "SentenceTransformer",
        "prompts": {"query": config.prompts.query, "document": config.prompts.passage},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
        "matryoshka_dimensions": list(config.dims),
    }
    (folder / PROMPTS).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def read_prompts(folder: Path) -> tuple[InputFormat, tuple[int, ...]]:
    """What ``write_prompts`` wrote, or another library: prompts, and widths where it says."""
    entries = read_json(folder / PROMPTS)
    prompts = entries.get("prompts") or {}
    passage = prompts.get("document", prompts.get("passage", prompts.get("corpus", "")))
    return InputFormat(prompts.get("query", ""), passage), tuple(entries.get("matryoshka_dimensions") or ())


def read_json(*paths: Path) -> Any:
    """What the first of these files that is there holds; an empty object where there is none."""
    for path in paths:
        if path.is_file():
            try:
                return json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise TokayError(f"{path} is not JSON: {error}") from error
    return {}
