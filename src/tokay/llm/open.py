"""Which model ``--llm`` names, and the door that stands before it. One definition for all commands."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Literal, cast, get_args

from tokay.errors import TokayError, did_you_mean
from tokay.llm.door import Backend, Door
from tokay.llm.ledger import Ledger
from tokay.llm.limits import Limits
from tokay.llm.prices import Purse
from tokay.settings import CallSettings

FORMS = "recorded, recorded:FOLDER, openai:MODEL, hf:NAME_OR_FOLDER or replay:FILE"

Kind = Literal["openai", "hf", "replay"]

AHEAD = 64
"""Items read ahead of their answers: bounds memory, and keeps the slots of a server or the batches of a GPU full."""

BATCH_AHEAD = 20_000
"""The same for a batch API: an item of up to two requests, and 50,000 requests fit into a batch."""


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A model as the user names it: checked, not yet opened.

    ``what`` is the model's name, folder or file; ``url`` and ``batch`` are an endpoint's.
    """

    spec: str
    kind: Kind
    what: str
    url: str
    batch: bool
    calls: CallSettings = dataclasses.field(default_factory=CallSettings)

    @property
    def paid(self) -> bool:
        """Whether text leaves this machine, and may cost money."""
        return self.kind == "openai"

    @property
    def ahead(self) -> int:
        """How many items should be read ahead of their answers."""
        return BATCH_AHEAD if self.batch else AHEAD

    @property
    def version(self) -> str:
        """Changes whenever the answers may. Weights and recordings are known by their contents, not by their place."""
        if self.kind == "hf":
            from tokay.llm.local import key_name

            return f"hf:{key_name(self.what)}"
        if self.kind == "replay":
            from tokay.llm.replay import read_recording

            recording = read_recording(self.what)
            return f"replay:{recording.model} {recording.digest}"
        return self.spec

    def open(self, ledger_path: Path, *, stage: str = "", purse: Purse | None = None) -> Door:
        """The model behind its ledger. To be called in the event loop that will use it.

        Args:
            ledger_path: where answers are kept; made where there is none.
            stage: of the run; the ledger's rows name it.
            purse: what requests cost, and what may be spent.
        """
        ledger = Ledger(ledger_path)
        try:
            return Door(self._backend(ledger), ledger, stage=stage, purse=purse)
        except BaseException:
            ledger.close()
            raise

    def _backend(self, ledger: Ledger) -> Backend:
        if self.kind == "hf":
            from tokay.llm.local import LocalModel

            return LocalModel(self.what)
        if self.kind == "replay":
            from tokay.llm.replay import Replay

            return Replay(self.what)
        from tokay.llm.client import Endpoint

        if self.batch:
            from tokay.llm.batch import Batch

            return Batch(self.what, url=self.url, ledger=ledger)
        limits = Limits(
            concurrency=self.calls.concurrency,
            requests_per_minute=self.calls.requests_per_minute,
            tokens_per_minute=self.calls.tokens_per_minute,
        )
        return Endpoint(self.what, url=self.url, limits=limits, timeout=self.calls.timeout)


def read_spec(
    spec: str, *, url: str = "", batch: bool = False, calls: CallSettings | None = None, to_ask: bool = True
) -> ModelSpec:
    """What ``--llm`` names. What can be checked without work is checked: form, URL and key, folder, file.

    ``to_ask`` is False where nothing will be sent: then no key is needed.

    Raises:
        TokayError: it names no model, or one that cannot be opened; ``batch`` without a provider.
    """
    kind, _, what = spec.partition(":")
    if kind not in get_args(Kind) or not what:
        hint = did_you_mean(kind, {*get_args(Kind), "recorded"} - {kind})
        raise TokayError(f"--llm is {spec!r}; expected {FORMS}{hint}")
    if batch and kind != "openai":
        raise TokayError(f"--batch needs a provider's batch API, and --llm {spec} is none; expected openai:MODEL")
    if kind == "openai":
        from tokay.llm.client import endpoint

        if to_ask:
            endpoint(url)
    elif kind == "hf":
        from tokay.models.locate import find_model, is_hub_name

        if not is_hub_name(what):  # what is on the Hub is fetched when it is needed
            find_model(what)
    else:
        from tokay.llm.replay import file_and_model

        path, _ = file_and_model(what)
        if not path.is_file():
            raise TokayError(f"--llm {spec}: there is no file {path}; expected one as 'tokay ledger export' writes it")
    return ModelSpec(spec, cast(Kind, kind), what, url, batch, calls or CallSettings())


def open_model(
    spec: str,
    *,
    ledger_path: Path,
    url: str = "",
    stage: str = "",
    batch: bool = False,
    purse: Purse | None = None,
) -> Door:
    """``read_spec`` and ``ModelSpec.open`` in one."""
    return read_spec(spec, url=url, batch=batch).open(ledger_path, stage=stage, purse=purse)


def forget_models() -> None:
    """Give back the memory of models that were loaded into this process, if any was."""
    if local := sys.modules.get("tokay.llm.local"):
        local.forget()
