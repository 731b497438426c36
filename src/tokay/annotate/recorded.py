"""Plays back an LLM that was recorded: the demo's, or any folder of the same layout.

A recording is a folder with ``queries.parquet`` (query_id, seed_id, seed_sha256, task, query, judged) and
``judgments.parquet`` (query_id, passage_id, passage_sha256, grade, best). It may hold ``signatures.parquet``
(passage_id, signature): MinHash signatures by which a passage whose text has changed a little is still
recognised, without the text itself.

A pair that was never judged is unjudged: it gives no record, and never grade 0.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tokay.corpus.dedup import minhash
from tokay.errors import TokayError
from tokay.llm.estimate import Planned
from tokay.progress import Progress, Silent
from tokay.records import Failure, Judgment, Passage, Query, sha256_text
from tokay.store import file_sha256

Match = Literal["same", "near", "changed"]

NEARLY_SAME = 0.8
"""Least Jaccard similarity of word 3-shingles at which a changed text keeps its record (docs/annotate.md)."""

DEMO = Path(__file__).parent.parent / "demo" / "stdlib"
PROMPT = "recorded"

_COLUMNS = {
    "queries.parquet": ("query_id", "seed_id", "seed_sha256", "task", "query", "judged"),
    "judgments.parquet": ("query_id", "passage_id", "passage_sha256", "grade", "best"),
}


class RecordedAnnotator:
    """An annotator whose answers were given before. It asks nothing, costs nothing and needs no network."""

    paid = False
    assumes = ""

    def __init__(self, folder: Path) -> None:
        tables = {name: _read(folder / name, columns) for name, columns in _COLUMNS.items()}
        self.name = "recorded" if folder == DEMO else f"recorded:{folder.name}"
        self._hashes: dict[str, str] = {}
        self._queries: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in tables["queries.parquet"]:
            self._queries[row["seed_id"]].append(row)
            self._hashes[row["seed_id"]] = row["seed_sha256"]
        self._judgments: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        for row in tables["judgments.parquet"]:
            self._judgments[row["query_id"]][row["passage_id"]] = row
            self._hashes[row["passage_id"]] = row["passage_sha256"]
        files = [*_COLUMNS, "signatures.parquet"]
        self._digest = " ".join(file_sha256(folder / name) for name in files if (folder / name).is_file())
        self._signatures = _read_signatures(folder / "signatures.parquet")

    def version(self, stage: str) -> str:
        """The recording's digest."""
        return self._digest

    @property
    def seeds(self) -> set[str]:
        """Ids of the passages that queries were written for."""
        return set(self._queries)

    def match(self, passage: Passage) -> tuple[Match, float]:
        """Whether a passage still says what was recorded: same hash, nearly the same shingles, or changed."""
        recorded = self._hashes.get(passage.passage_id)
        if recorded == sha256_text(passage.text):
            return "same", 1.0
        signature = self._signatures.get(passage.passage_id)
        if recorded is None or signature is None:
            return "changed", 0.0
        similarity = similarity_of(signature, sign(passage.text))
        return ("near" if similarity >= NEARLY_SAME else "changed"), similarity

    def generate(
        self, passages: Iterable[Passage], *, per_passage: int, progress: Progress | None = None
    ) -> Iterator[Query | Failure]:
        """The recorded queries of each passage, at most ``per_passage``.

        A passage whose text changed too much is a ``Failure``.
        """
        progress = progress or Silent()
        counts: Counter[Match] = Counter()
        for passage in passages:
            rows = self._queries.get(passage.passage_id, [])
            progress.advance()
            if not rows:
                continue
            match, similarity = self.match(passage)
            counts[match] += 1
            if match == "changed":
                reason = f"text differs from the recorded one (similarity {similarity:.2f} < {NEARLY_SAME})"
                yield Failure("generate", passage.passage_id, reason, "")
                continue
            for row in rows[:per_passage]:
                note = "" if match == "same" else f" (text nearly the same: {similarity:.2f})"
                yield Query(
                    query_id=row["query_id"],
                    seed_id=passage.passage_id,
                    task=row["task"],
                    text=row["query"],
                    part="train",
                    judged=bool(row["judged"]),
                    prompt=PROMPT,
                    answer_id=f"{self.name} queries.parquet {row['query_id']}{note}",
                )
        progress.say(
            f"recorded passages: {counts['same']} with the same text, {counts['near']} nearly the same, "
            f"{counts['changed']} changed and left out"
        )

    def sample_requests(
        self,
        seeds: Iterable[Passage],
        pool: Sequence[Passage],
        *,
        per_passage: int,
        candidates: int,
        own: Sequence[Query],
    ) -> Iterator[Planned]:
        """Nothing is asked."""
        return iter(())

    def candidates(self, query: Query) -> list[str] | None:
        """The ids that were judged for a query, in the order that the recording shows them."""
        return list(self._judgments.get(query.query_id, ()))

    def judge(
        self, items: Iterable[tuple[Query, Sequence[Passage]]], *, progress: Progress | None = None
    ) -> Iterator[Judgment | Failure]:
        """The recorded grade of every pair whose passage still says the same."""
        progress = progress or Silent()
        for query, passages in items:
            rows = self._judgments.get(query.query_id, {})
            for passage in passages:
                row = rows.get(passage.passage_id)
                if row is None:
                    continue
                if self.match(passage)[0] == "changed":
                    yield Failure(
                        "judge",
                        f"{query.query_id} {passage.passage_id}",
                        "text differs from the judged one",
                        "",
                    )
                    continue
                yield Judgment(
                    query_id=query.query_id,
                    passage_id=passage.passage_id,
                    grade=int(row["grade"]),
                    score=float(row["grade"]) + 0.5 * bool(row["best"]),
                    best=bool(row["best"]),
                    prompt=PROMPT,
                    answer_id=f"{self.name} judgments.parquet {query.query_id} {passage.passage_id}",
                )
            progress.advance()


# -- signatures -----------------------------------------------------------------------------------------------------


def sign(text: str) -> NDArray[np.uint8]:
    """The lowest byte of each MinHash value of a text: 128 bytes that tell how alike texts are, not what they say."""
    return (minhash(text) & 0xFF).astype(np.uint8)


def similarity_of(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Jaccard similarity from one-byte signatures; equal bytes by chance (1 in 256) are taken off.

    Li and König, "b-Bit Minwise Hashing", WWW 2010, with b = 8 and small sets.
    """
    equal = float((a == b).mean())
    return max(0.0, (equal - 1 / 256) / (1 - 1 / 256))


def write_signatures(passages: Iterable[Passage], wanted: set[str], path: Path) -> int:
    """Write ``signatures.parquet`` for the ``wanted`` passages of the corpus that was recorded."""
    rows = [(p.passage_id, sign(p.text).tobytes()) for p in passages if p.passage_id in wanted]
    table = pa.table({"passage_id": [row[0] for row in rows], "signature": [row[1] for row in rows]})
    pq.write_table(table, path, compression="zstd")
    return len(rows)


def _read_signatures(path: Path) -> dict[str, NDArray[np.uint8]]:
    if not path.is_file():
        return {}
    rows = _read(path, ("passage_id", "signature"))
    return {row["passage_id"]: np.frombuffer(row["signature"], np.uint8) for row in rows}


def _read(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        raise TokayError(
            f"{path} is missing; --llm recorded:FOLDER expects a folder with queries.parquet and judgments.parquet"
        )
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise TokayError(f"{path} is not a Parquet file: {error}") from error
    lacking = [name for name in columns if name not in table.column_names]
    if lacking:
        raise TokayError(f"{path} has the columns {', '.join(table.column_names)}; missing: {', '.join(lacking)}")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
