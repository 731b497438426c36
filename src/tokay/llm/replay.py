"""Answers exported from a ledger, in the model's place: a published run is repeated without key and network.

A request is found by its key, which is made of the model's name, the full prompt and the parameters. So a replay takes
the recorded model's name for its own, offers the abilities that the recorded requests used (the judge depends on them),
and finds an answer wherever documents, settings and prompts are those of the recorded run.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokay.errors import TokayError
from tokay.llm.door import AskFailed, NoText
from tokay.llm.ledger import Answer, Usage, answer_of
from tokay.llm.limits import Limits
from tokay.llm.probe import Abilities


@dataclasses.dataclass(frozen=True)
class Recording:
    """What an export holds of one model.

    ``rows`` maps keys to rows as JSON without their requests, which are the bulk of a file. ``digest`` is the SHA-256
    of the file's text, unpacked.
    """

    model: str
    digest: str
    rows: Mapping[str, str]
    abilities: Abilities


class Replay:
    """Answers from an export; see ``Backend``.

    Args:
        file: as ``tokay ledger export`` writes it, or ``FILE#MODEL`` where it holds answers of several models.

    What the recorded run could not get is not got again: a request that failed fails with the recorded reason, and one
    that is not in the file is an ``AskFailed``.

    Raises:
        TokayError: there is no such file, it is no export, or it holds answers of several models and none is named.
    """

    def __init__(self, file: str) -> None:
        self.name = f"replay:{file}"
        self.limits = Limits()
        self._recording = read_recording(file)

    @property
    def model(self) -> str:
        """The recorded model's name, which the keys are made with."""
        return self._recording.model

    async def abilities(self) -> Abilities:
        """Those that the recorded requests used."""
        return self._recording.abilities

    async def close(self) -> None:
        """Nothing is held."""

    async def send(self, request: Mapping[str, Any], key: str = "") -> Answer:
        """The recorded answer; its tokens are those that were paid for then, its time is none."""
        found = self._recording.rows.get(key)
        if found is None:
            raise AskFailed(
                f"{self.name} holds no answer to this request; expected the documents, settings and version of Tokay "
                f"that it was recorded with"
            )
        row = json.loads(found)
        if row["status"] != "ok":
            raise (NoText if row["numbers"].get("silent") else AskFailed)(row["reason"])
        usage = Usage(row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"])
        return answer_of(row["answer"], row["numbers"], usage, 1, key)


def file_and_model(spec: str) -> tuple[Path, str]:
    """``FILE`` or ``FILE#MODEL``, taken apart; a file whose own name holds a ``#`` is found first."""
    whole = Path(spec).expanduser()
    file, found, model = spec.rpartition("#")
    return (Path(file).expanduser(), model) if found and not whole.is_file() else (whole, "")


def read_recording(spec: str) -> Recording:
    """Read an export, once a process as long as the file is the same. Memory: the answers, about 500 bytes each."""
    path, model = file_and_model(spec)
    try:
        stat = path.stat()
    except OSError as error:
        raise TokayError(
            f"--llm replay:{spec}: {path} cannot be read ({error.strerror}); expected a file as 'tokay ledger export' "
            f"writes it"
        ) from error
    return _read(path, model, (stat.st_size, stat.st_mtime_ns))


@functools.lru_cache(maxsize=2)
def _read(path: Path, model: str, version: tuple[int, int]) -> Recording:
    models: dict[str, dict[str, str]] = {}
    used: dict[str, Abilities] = {}
    digest = hashlib.sha256()
    for number, line in enumerate(_lines(path), 1):
        digest.update(line)
        try:
            row = json.loads(line)
            request, key, name = row.pop("request"), row["key"], row["model"]
            answer_of(row["answer"], row["numbers"], Usage(), 1, key)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise TokayError(
                f"line {number} of {path} is no row of a ledger; expected a file as 'tokay ledger export' writes it"
            ) from error
        models.setdefault(name, {})[key] = json.dumps(row)
        used[name] = _with(used.get(name, Abilities()), request)
    if not models:
        raise TokayError(f"{path} holds no answers; export the ledger of a run that asked something")
    if model not in models and (model or len(models) > 1):
        known = ", ".join(sorted(models))
        raise TokayError(f"{path} holds answers of {known}; name one of them: --llm 'replay:{path}#{min(models)}'")
    chosen = model or next(iter(models))
    return Recording(chosen, digest.hexdigest(), models[chosen], used[chosen])


def _lines(path: Path) -> Iterator[bytes]:
    opened = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
    try:
        with opened as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        raise TokayError(f"{path} is damaged or cannot be read: {error}; export it again") from error


def _with(abilities: Abilities, request: Mapping[str, Any]) -> Abilities:
    """Abilities, and those that a request needs."""
    return dataclasses.replace(
        abilities,
        likelihood=abilities.likelihood or ("recorded" if "continuations" in request else ""),
        first_logprobs=max(abilities.first_logprobs, request.get("top_logprobs", 0)),
        schema=abilities.schema or "schema" in request,
    )
