"""What is opened and checked before the first stage, so that nothing is paid for a run that cannot end."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tokay.annotate.annotator import Annotator
from tokay.annotate.recorded import DEMO, RecordedAnnotator
from tokay.corpus import Source, open_corpus
from tokay.errors import MissingExtra, TokayError
from tokay.evaluate.general import is_local, read_general
from tokay.evaluate.qrels import Words, check_labels
from tokay.llm.ledger import LEDGER
from tokay.models.locate import find_model
from tokay.search.bm25 import check_language
from tokay.searchlog import read_log
from tokay.settings import Settings
from tokay.trainset import check_teacher


def open_distillation(settings: Settings) -> tuple[Source, Path]:
    """The documents and the base's folder of a run that can be made.

    Raises:
        TokayError: what cannot be found, read or used.
    """
    source, base = _open(settings)
    check_teacher(settings.train)
    check_language(settings.hybrid.language, "hybrid.language")
    if settings.log and settings.llm.startswith("recorded"):
        raise TokayError(f"--queries {settings.log} needs an LLM that judges now; --llm {settings.llm} is a recording")
    if settings.log:
        next(iter(read_log(Path(settings.log))))
    if settings.queries or settings.qrels:
        check_labels(settings.queries, settings.qrels)
    for spec in filter(is_local, settings.guard.sets):
        read_general(spec)
    return source, base


def open_relabelling(settings: Settings) -> tuple[Source, Path]:
    """The same where labels are judged."""
    source, base = _open(settings)
    check_labels(settings.queries, settings.qrels, split=settings.relabel.split, words=Words(split="--split"))
    if settings.llm.startswith("recorded"):
        raise TokayError(f"relabelling needs an LLM that judges now; --llm {settings.llm} is a recording")
    return source, base


def annotator_of(settings: Settings, run: Path, *, to_ask: bool = True) -> Annotator:
    """The annotator that ``--llm`` names; a dry run does not ask it."""
    if settings.llm == "recorded":
        if settings.documents != "python-stdlib":
            raise TokayError(
                f"--llm recorded is the recording for python-stdlib and knows nothing of {settings.documents!r}; "
                "use --llm openai:MODEL, or --llm recorded:FOLDER with a recording of these documents"
            )
        return RecordedAnnotator(DEMO)
    if settings.llm.startswith("recorded:"):
        return RecordedAnnotator(Path(settings.llm.removeprefix("recorded:")).expanduser())
    from tokay.annotate.live import make_annotator

    return make_annotator(
        settings.llm,
        url=settings.llm_url,
        ledger_path=run / LEDGER,
        settings=settings,
        to_ask=to_ask,
    )


def _open(settings: Settings) -> tuple[Source, Path]:
    source, base = open_corpus(settings.documents), find_model(settings.base)
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra("training", "train", package)
    return source, base
