"""Pairs for pre-finetuning, out of what documents say themselves (Gecko 3.1): title and body, question and answer.

A corpus that ``tokay distill`` reads gives them without an LLM: titles and headings stand over their text, questions
over their answers, signatures over their docstrings. Gecko crawled such pairs from the Web and publishes no filter;
the rules here are ours:

- a name (title, heading or question) has at least two words, and stands over at most ``repeats`` different texts: one
  that does not, such as "Introduction", is taken with the headings above it if that helps, else it is dropped;
- a text that begins with its name loses it, so that the pair is not solved by copying;
- of a section that was split into several passages, the first is taken: the paper's bodies, too, are read from their
  beginning up to a cut.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import pyarrow.parquet as pq

from tokay.corpus import open_corpus, write_corpus
from tokay.errors import TokayError
from tokay.progress import Progress, Silent, track
from tokay.records import Passage, from_batches
from tokay.settings import CorpusSettings
from tokay.store import StageOutput
from tokay.tables import POSITIVE, QUERY, Table, find_columns, is_table, open_table, text_of

PairKind = Literal["title", "question", "docstring", "pair"]
KINDS: tuple[PairKind, ...] = get_args(PairKind)

FEWEST_WORDS = 2
"""Of a name; a text needs one more."""

REPEATS = 3
"""Different texts that a name may stand over: our choice."""

LONGEST_QUESTION = 30
"""Words of a line that is taken for a question."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """What is searched for and what shall be found; ``source`` is the passage's id, or file and line."""

    query: str
    positive: str
    kind: PairKind
    source: str


@dataclasses.dataclass
class Tally:
    """Pairs by kind, and what was dropped by reason; counted while pairs are yielded."""

    kinds: Counter[str] = dataclasses.field(default_factory=Counter)
    dropped: Counter[str] = dataclasses.field(default_factory=Counter)


@dataclasses.dataclass(frozen=True, slots=True)
class _Draft:
    """A text and the names that it could have, the best first; the later ones say more."""

    names: tuple[str, ...]
    text: str
    kind: PairKind
    source: str


Drafts = Callable[[Counter[str]], Iterator[_Draft]]
"""Yields the drafts of a source from the start, and counts what is dropped on the way."""


def pairs_of(
    passages: Iterable[Passage], tally: Tally, *, docstrings: bool = False, repeats: int = REPEATS
) -> Iterator[Pair]:
    """Pairs out of passages.

    Args:
        passages: in the order of their documents. They are read twice, first to count how often names occur: an
            iterator is therefore held in memory, a list or another thing that can be read again is not.
        tally: counts pairs and what is dropped.
        docstrings: passages are docstrings, titled by name and signature.
        repeats: texts that one name may stand over.
    """
    again = list(passages) if iter(passages) is passages else passages
    drafts = _docstring_drafts if docstrings else _passage_drafts
    yield from _pairs([functools.partial(drafts, again)], tally, repeats)


def write_pairs(
    sources: Sequence[str], out: Path, *, repeats: int = REPEATS, progress: Progress | None = None
) -> Tally:
    """Write the pairs of several corpora and pair files to one Parquet file: query, positive, kind, source.

    Args:
        sources: as ``tokay distill`` takes them, or tables with a column for the query and one for the positive.
        out: a ``.parquet`` file; it appears when it is whole.
        repeats: texts that one name may stand over, in all sources together.
        progress: where to report.

    Raises:
        TokayError: a source cannot be read, not one pair came of them, or ``out`` cannot be written.
    """
    progress = progress or Silent()
    _check_out(sources, out)
    tally = Tally()
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=out.parent, prefix=".tokay-"))
        except OSError as error:
            raise TokayError(f"--out {out} cannot be written: {error.strerror}") from error
        drafts = [_drafts_of(source, stack, progress) for source in sources]
        try:
            pairs = track(_pairs(drafts, tally, repeats), progress, "writing pairs")
            count = StageOutput(Path(folder)).write("pairs", Pair, pairs)
            if count:
                Path(folder, "pairs.parquet").replace(out)
        except OSError as error:
            raise TokayError(f"--out {out} cannot be written: {error.strerror}") from error
    if not count:
        why = ", ".join(f"{number:,} {reason}" for reason, number in tally.dropped.most_common())
        raise TokayError(f"not one pair in {', '.join(sources)}{f'; dropped: {why}' if why else ''}")
    return tally


def _check_out(sources: Sequence[str], out: Path) -> None:
    if out.suffix != ".parquet":
        raise TokayError(f"--out {out} is no Parquet file; expected a name that ends in .parquet")
    if not out.parent.is_dir():
        raise TokayError(f"--out {out}: there is no folder {out.parent}; make it first")
    if out.is_dir() or any(Path(source).expanduser().resolve() == out.resolve() for source in sources):
        raise TokayError(f"--out {out} is a folder or one of the files that are read; name another file")
    if out.exists():
        raise TokayError(f"--out {out} is there already; name another file, or delete it")


# -- from drafts to pairs -------------------------------------------------------------------------------------------


def _pairs(sources: Sequence[Drafts], tally: Tally, repeats: int) -> Iterator[Pair]:
    counts = _names_in(itertools.chain.from_iterable(drafts(Counter()) for drafts in sources))
    seen: set[bytes] = set()
    for draft in itertools.chain.from_iterable(drafts(tally.dropped) for drafts in sources):
        name, reason = _choose(draft.names, counts, repeats)
        own = _hash(f"{name}\0{draft.text}")
        if not reason and _words(draft.text) <= FEWEST_WORDS:
            reason = f"texts of fewer than {FEWEST_WORDS + 1} words"
        elif not reason and own in seen:
            reason = "pairs that were there before"
        if reason:
            tally.dropped[reason] += 1
            continue
        seen.add(own)
        tally.kinds[draft.kind] += 1
        yield Pair(name, draft.text, draft.kind, draft.source)


def _names_in(drafts: Iterable[_Draft]) -> Counter[bytes]:
    """How many different texts each name stands over; names by hash, as there may be millions."""
    counts: Counter[bytes] = Counter()
    seen: set[bytes] = set()
    for draft in drafts:
        for name in dict.fromkeys(name.casefold() for name in draft.names):
            both = _hash(f"{name}\0{draft.text}")
            if both not in seen:
                seen.add(both)
                counts[_hash(name)] += 1
    return counts


def _choose(names: Sequence[str], counts: Counter[bytes], repeats: int) -> tuple[str, str]:
    """The first name that is long and rare enough, and an empty reason; else the reason."""
    reason = "texts without a title"
    for name in names:
        if not name:
            continue
        if _words(name) < FEWEST_WORDS:
            reason = f"titles of fewer than {FEWEST_WORDS} words"
        elif counts[_hash(name.casefold())] > repeats:
            reason = f"titles over more than {repeats} different texts"
        else:
            return name, ""
    return "", reason


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


_WORD = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|\\w+")


def _words(text: str) -> int:
    """Number of words; a sign of Chinese or Japanese, which are written without blanks, is one."""
    return len(_WORD.findall(text))


# -- from passages to drafts ----------------------------------------------------------------------------------------


def _passage_drafts(passages: Iterable[Passage], dropped: Counter[str]) -> Iterator[_Draft]:
    """The section that a passage begins, under its name, and every question in it with its answer."""
    before: tuple[str, str, str] | None = None
    for p in passages:
        section = (p.document_id, p.title, p.heading)
        trail = [name for name in map(_bare, [p.title, *p.heading.split(" > ")]) if name]
        text = _without(p.text, trail)
        opening, asked = _answers_in(text)
        if section == before and opening:
            dropped["further passages of a section"] += 1
        elif opening or not asked:
            names = _names(trail)
            yield _Draft(names, opening, "question" if _asks(names[0]) else "title", p.passage_id)
        for question, answer in asked:
            yield _Draft((question, ": ".join([*trail[:1], question])), answer, "question", p.passage_id)
        before = section


def _docstring_drafts(passages: Iterable[Passage], dropped: Counter[str]) -> Iterator[_Draft]:
    """A docstring under its name and signature, without the lines at its head that repeat them."""
    for p in passages:
        text = _without(p.text, [p.title])
        name = p.title.partition("(")[0].rpartition(".")[2]
        calls = re.match(rf"(?:\s*(?:[\w.]*\.)?{re.escape(name)}\(.*(?:\n|\Z))*", text)
        rest = text[calls.end() :].strip() if calls else text
        yield _Draft((p.title,), rest or text, "docstring", p.passage_id)


def _names(trail: Sequence[str]) -> tuple[str, ...]:
    """The innermost name, then with the headings above it, then with the document's title."""
    if not trail:
        return ("",)
    own = list(dict.fromkeys(trail))  # the first heading is often the title
    return tuple(dict.fromkeys([own[-1], ": ".join(own[1:]), ": ".join(own)]))


_DECORATION = re.compile(r"^[\s*_#>`]+|[\s*_#`:]+$")
_NUMBERING = re.compile(r"^(?:\d+(?:\.\d+)*[.)]|\d+(?:\.\d+)+)\s+")


def _bare(name: str) -> str:
    """A title or heading without the marks of emphasis around it and the number before it."""
    return _DECORATION.sub("", _NUMBERING.sub("", _DECORATION.sub("", name)))


def _without(text: str, names: Sequence[str]) -> str:
    """The text without the names that it begins with, in whatever order and how often they stand there."""
    while found := next(filter(None, (_head(name).match(text) for name in names if _may_begin(text, name))), None):
        text = text[found.end() :]
    return text.strip()


def _may_begin(text: str, name: str) -> bool:
    """Cheaper than making a pattern of every name: whether its first word is near the beginning of the text."""
    return bool(name) and name.split()[0].casefold() in text[: len(name) + 50].casefold()


@functools.lru_cache(maxsize=256)
def _head(name: str) -> re.Pattern[str]:
    """The name at the beginning of a text, whatever its capitals, blanks and numbering, and the sign that follows."""
    words = r"\s+".join(re.escape(word) for word in name.split())
    return re.compile(
        rf"\s*[#>*_`]*\s*(?:\d[\d.)]*\s+)?{words}(?!\w)[*_`#]*[ \t]*(?:[:.\u2013\u2014|-](?!\w))?\s*", re.I
    )


# -- questions in running text --------------------------------------------------------------------------------------

_ASKED = re.compile(r"[\s>*_#-]*Q(?:uestion)?\s*\d*\s*[*_]*\s*:\s*[*_]*\s*(\S.*)", re.IGNORECASE)
_ANSWERED = re.compile(r"[\s>*_#-]*A(?:nswer)?\s*\d*\s*[*_]*\s*:[*_]*\s*(.*)", re.IGNORECASE | re.DOTALL)
_ITEM = re.compile(r"^\s*(?:[-+*>#]+\s+|\d+[.)]\s+)?")
_SENTENCE_END = re.compile(r"[.!?]\s")


def _answers_in(text: str) -> tuple[str, list[tuple[str, str]]]:
    """What stands before the first question, and every question with its answer.

    A question is a line that begins with ``Q:``, or one that opens a paragraph and is a single sentence with a question
    mark; its answer is what follows up to the next one, with or without ``A:``.
    """
    opening: list[str] = []
    asked: list[tuple[str, bool, list[str]]] = []
    begins = True
    for line in text.split("\n"):
        marked = _ASKED.fullmatch(line)
        if marked or (begins and _asks(_bare(_ITEM.sub("", line)))):
            question = _bare(marked.group(1) if marked else _ITEM.sub("", line))
            asked.append((question, marked is not None, []))
        else:
            (asked[-1][2] if asked else opening).append(line)
        begins = not line.strip()
    found = [_answered(question, lines, marked=marked) for question, marked, lines in asked]
    return "\n".join(opening).strip(), found


def _answered(question: str, lines: Sequence[str], *, marked: bool) -> tuple[str, str]:
    """A question and its answer; lines between ``Q:`` and ``A:`` belong to the question."""
    first = next((i for i, line in enumerate(lines) if _ANSWERED.fullmatch(line)), None)
    if first is None or (not marked and "".join(lines[:first]).strip()):
        return question, "\n".join(lines).strip()
    answer = _ANSWERED.fullmatch("\n".join(lines[first:]))
    assert answer is not None  # its first line is one
    return " ".join([question, *"\n".join(lines[:first]).split()]), answer.group(1).strip()


def _asks(line: str) -> bool:
    """Whether a line is one sentence, and a question."""
    return (
        line.endswith(("?", "\uff1f", "\u061f"))
        and not _SENTENCE_END.search(line)
        and FEWEST_WORDS <= _words(line) <= LONGEST_QUESTION
    )


# -- what is read ---------------------------------------------------------------------------------------------------


def _drafts_of(source: str, stack: contextlib.ExitStack, progress: Progress) -> Drafts:
    """How to read a source again and again; a corpus is read once, into a table that lasts as long as ``stack``."""
    table = _pair_table(source, progress)
    if table is not None:
        return functools.partial(_table_drafts, table)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tokay-")))
    corpus = open_corpus(source)
    write_corpus(corpus, CorpusSettings(), StageOutput(folder), count_tokens=_about_tokens, progress=progress)
    drafts = _docstring_drafts if corpus.kind == "python" else _passage_drafts
    return lambda dropped: drafts(_passages(folder / "passages.parquet"), dropped)


def _passages(path: Path) -> Iterator[Passage]:
    with pq.ParquetFile(path) as file:
        yield from from_batches(Passage, file.iter_batches(batch_size=1024))


def _about_tokens(text: str) -> int:
    """Tokens, without a tokenizer: four bytes each, which English has on average."""
    return len(text.encode("utf-8", "surrogatepass")) // 4 + 1


_QUERIES = tuple(name for name in QUERY.known[0] if name != "title")
"""Columns that make a table one of pairs: a title stands over documents too."""


def _pair_table(source: str, progress: Progress) -> Table | None:
    """The table, if it has queries; one of titles and texts is a corpus, which is said."""
    path = Path(source).expanduser()
    if not source.startswith("hf:") and not (path.is_file() and is_table(path)):
        return None
    table = open_table(source)
    columns = {column.strip().casefold() for column in table.columns}
    if columns & {*_QUERIES} and columns & {*POSITIVE.known[0]}:
        return table
    progress.say(
        f"{table.name} has the columns {', '.join(table.columns)} and is read as a corpus of documents; pairs have a "
        f"column {_or(_QUERIES)} and one of {_or(POSITIVE.known[0])}"
    )
    return None


def _or(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}"


def _table_drafts(table: Table, dropped: Counter[str]) -> Iterator[_Draft]:
    """Rows with one query and one or several positives; those of an earlier ``write_pairs`` keep kind and source."""
    found = find_columns(table, (QUERY, POSITIVE), {})
    known = ["kind", "source"] if {"kind", "source"} <= {*table.columns} else []

    def unread(number: int, reason: str) -> None:
        dropped["rows that cannot be read"] += 1

    for number, (query, positives, *before) in table.read([found["query"], found["positive"], *known], unread):
        name, reason = text_of(query)
        kind: PairKind = next((kind for kind in KINDS if before and before[0] == kind), "pair")
        source = str(before[1]) if before else f"{table.name}:{number}"
        for positive in positives if isinstance(positives, list) else [positives]:
            text, no_text = text_of(positive)
            if reason or no_text:
                dropped[f"rows whose {'query' if reason else 'positive'} {reason or no_text}"] += 1
            else:
                yield _Draft((_one_line(name),), _without(text, [name]), kind, source)


def _one_line(text: str) -> str:
    return " ".join(text.split())
