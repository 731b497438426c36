"""Write signatures.parquet beside a recording: python tools/sign_recording.py CORPUS.parquet RECORDING_FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq

from tokay.annotate.recorded import write_signatures
from tokay.records import Passage, sha256_text


def main() -> None:
    """Sign every passage of the corpus that was recorded."""
    corpus, folder = Path(sys.argv[1]), Path(sys.argv[2])
    passages = [
        Passage(row["_id"], row["_id"], row["title"], row["text"], sha256_text(row["text"]), corpus.name)
        for row in pq.read_table(corpus).to_pylist()
    ]
    count = write_signatures(passages, {p.passage_id for p in passages}, folder / "signatures.parquet")
    sys.stdout.write(f"{count} signatures in {folder / 'signatures.parquet'}\n")


if __name__ == "__main__":
    main()
