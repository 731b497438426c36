"""Claim: of a million vectors the ten nearest are found >= 5 times as fast as exactly, with recall@10 >= 0.99.

The vectors: 3,000 of Python's manual's passages (or of a run's, with --run) by MiniLM at 64 tokens, cut to 256
numbers. Each of the million is a mixture of three of them, drawn at random, with weights of a flat Dirichlet
distribution, at length 1; plus Gaussian noise of length 0.35 (--noise), at length 1 again. Queries are drawn likewise
from another seed. The nearest of them has a cosine near 0.8, the thousandth near 0.6.

Exact is ``tokay.search.dense.top_k``; numpy's plain product and faiss's flat index stand beside it. Everything runs in
one process, on the vectors as a memory map that was read once; a figure is the median of up to twenty batches.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import arguments, table
from tokay.search.ann import Hnsw
from tokay.search.dense import rescored, top_k, unit
from tokay.search.quantised import Binary, Int8, Proposer

K = 10
DIM = 256
DEPTHS: dict[type[Proposer], tuple[int, ...]] = {
    Int8: (1, 2, 4),
    Binary: (10, 20, 50, 100, 200),
    Hnsw: (5, 10, 20, 30, 60, 100),
}
Ranked = Callable[[NDArray[np.float32]], NDArray[np.int64]]


def main() -> None:
    """Print the tables; the exact search runs in a process of its own, whose memory is told."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1024, help="that recall is measured with")
    parser.add_argument("--noise", type=float, default=0.35, help="length of the noise beside a vector of length 1")
    parser.add_argument("--run", type=Path, help="a finished run, whose passages' vectors are mixed")
    parser.add_argument("--folder", type=Path, help="where the vectors go; default: a temporary folder")
    parser.add_argument("--only-exact", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="tokay-bench-index-"))
    if options.only_exact:
        top_k(np.load(folder / "queries.npy"), np.load(folder / "vectors.npy", mmap_mode="r"), K)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        measure(options, folder)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


def measure(options: argparse.Namespace, folder: Path) -> None:
    """All of it, the vectors first."""
    began = time.perf_counter()
    seeds = seed_vectors(options.run)
    out = np.lib.format.open_memmap(folder / "vectors.npy", mode="w+", dtype=np.float32, shape=(options.rows, DIM))
    for start in range(0, options.rows, 65536):
        count = min(65536, options.rows - start)
        out[start : start + count] = mixtures(seeds, count, options.noise, seed=1 + start)
    out.flush()
    queries = mixtures(seeds, options.queries, options.noise, seed=0)
    np.save(folder / "queries.npy", queries)
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    exact, scores = top_k(queries, vectors, K)
    print(
        f"{options.rows:,} vectors of {DIM} numbers, mixtures of {len(seeds):,} with noise of {options.noise}; made in "
        f"{time.perf_counter() - began:.0f} s; mean cosine of the nearest {scores[:, 0].mean():.3f}, of the tenth "
        f"{scores[:, -1].mean():.3f}; {os.cpu_count()} cores"
    )
    words = [sys.executable, __file__, "--only-exact", "--folder", str(folder)]
    peak = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    print(f"exact top {K} of {len(queries):,} queries, in a process of its own: peak memory {float(peak):.2f} GiB")
    found_rows = []
    for name, depth, build, megabytes, search in systems(vectors, folder):
        alone, many = seconds(search, queries, 1), seconds(search, queries, 64)
        found = np.concatenate([search(queries[i : i + 64]) for i in range(0, len(queries), 64)])
        recall = np.mean([len({*a} & {*b}) / K for a, b in zip(exact.tolist(), found.tolist(), strict=True)])
        found_rows.append((name, depth, f"{recall:.4f}", alone, many, build, megabytes))
        print(*found_rows[-1], file=sys.stderr, flush=True)
    whole = [min(times) for times in zip(*(row[3:5] for row in found_rows if row[0].startswith("exact")), strict=True)]
    rows = [
        [*head, f"{1e3 * a:.2f}", f"{whole[0] / a:.1f}x", f"{1e3 * m:.2f}", f"{whole[1] / m:.1f}x", build, megabytes]
        for *head, a, m, build, megabytes in found_rows
    ]
    print("ratios are to the faster of the two exact searches, for one query at a time and for a query's share of 64")
    table(
        ["search", "candidates", "recall@10", "ms alone", "ratio", "ms in 64", "ratio", "build s", "MB"],
        rows,
    )


def seed_vectors(run: Path | None) -> NDArray[np.float32]:
    """Real embeddings (S, 256)."""
    if run is not None:
        return unit(np.load(run / "vectors" / "base.npy"), DIM)
    import tokay
    from tokay.corpus import open_corpus

    documents = islice(open_corpus("python-stdlib").documents(lambda _: None), 3000)
    texts = [f"{document.title} {document.text}"[:1000] for document in documents]
    embedder = tokay.Embedder.load("minilm")
    embedder.config = dataclasses.replace(embedder.config, max_tokens=64)
    return embedder.encode(texts, dim=DIM)


def mixtures(seeds: NDArray[np.float32], count: int, noise: float, *, seed: int) -> NDArray[np.float32]:
    """Unit vectors (count, 256): convex mixtures of three seeds each at length 1, plus noise."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet([1, 1, 1], count).astype(np.float32)
    chosen = rng.integers(0, len(seeds), (count, 3))
    mixed = unit(sum(shares[:, [i]] * seeds[chosen[:, i]] for i in range(3)))  # type: ignore[arg-type]
    return unit(mixed + np.float32(noise) * unit(rng.standard_normal((count, DIM), np.float32)))


def systems(vectors: NDArray[np.float32], folder: Path) -> Iterator[tuple[str, object, str, str, Ranked]]:
    """Name, candidates, seconds to build, megabytes that are searched, and the search; the exact one first."""
    whole = f"{vectors.nbytes / 1e6:.0f}"
    yield "exact", "", "", whole, lambda queries: top_k(queries, vectors, K)[0]
    yield "exact (numpy)", "", "", whole, lambda queries: plain(queries, vectors)
    for kind, depths in DEPTHS.items():
        began = time.perf_counter()
        try:
            kind.check()
            kind.write(vectors, folder)
        except Exception as error:
            print(f"bench_index: {kind.__name__} left out: {error}", file=sys.stderr)
            continue
        build = f"{time.perf_counter() - began:.1f}"
        proposer = kind.open(folder)
        name = kind.__name__.lower()
        size = sum(f.stat().st_size for f in folder.iterdir() if f.stem.startswith(name)) / 1e6
        for depth in depths:
            usual = " (usual)" if depth == kind.rescore else ""
            yield f"{name}{usual}", K * depth, build, f"{size:.0f}", ours(proposer, vectors, K * depth)
    yield from theirs(vectors)


def ours(proposer: Proposer, vectors: NDArray[np.float32], depth: int) -> Ranked:
    """Candidates, then their vectors."""
    return lambda queries: rescored(queries, vectors, proposer.propose(queries, depth), K)[0]


def plain(queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """One product over all vectors, and the best of it."""
    scores = queries @ vectors.T
    best = np.argpartition(scores, -K, axis=1)[:, -K:]
    order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1)
    return np.take_along_axis(best, order, 1)


def theirs(vectors: NDArray[np.float32]) -> Iterator[tuple[str, object, str, str, Ranked]]:
    """Faiss's flat index and an IVF one, where it is installed."""
    try:
        import faiss
    except ModuleNotFoundError:
        print("bench_index: faiss is not installed, its rows are left out", file=sys.stderr)
        return
    lists = int(4 * len(vectors) ** 0.5)
    for name, spec, probes in (("faiss flat", "Flat", (0,)), ("faiss IVF", f"IVF{lists},Flat", (4, 16, 64, 128))):
        began = time.perf_counter()
        index: Any = faiss.index_factory(DIM, spec, faiss.METRIC_INNER_PRODUCT)
        index.train(np.ascontiguousarray(vectors[:: max(1, len(vectors) // (40 * lists))]))
        index.add(np.ascontiguousarray(vectors))
        build = f"{time.perf_counter() - began:.1f}"
        for probe in probes:
            if probe:
                index.nprobe = probe
            what = f"nprobe {probe} of {lists}" if probe else ""
            yield name, what, build, f"{vectors.nbytes / 1e6:.0f}", lambda queries: index.search(queries, K)[1]  # noqa: B023


def seconds(search: Ranked, queries: NDArray[np.float32], batch: int) -> float:
    """A query's share of the median batch."""
    times = []
    search(queries[:batch])
    for start in range(0, min(len(queries) - batch + 1, 20 * batch), batch):
        began = time.perf_counter()
        search(queries[start : start + batch])
        times.append(time.perf_counter() - began)
        if sum(times) > 20:
            break
    return float(np.median(times)) / batch


if __name__ == "__main__":
    main()
