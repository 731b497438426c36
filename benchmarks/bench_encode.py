"""Claim: texts are encoded faster than by sentence-transformers at its best batch size, to the same vectors.

Needs --model, a folder that ``tokay export RUN --to onnx,onnx-int8,static`` wrote with weights. Texts are the manual of
this Python and, with --data, SciFact's abstracts. Every system encodes the same texts in each round, in turn; the table
has the median of rounds, the ratio to the best batch size of sentence-transformers in the same rounds, and the share of
the fastest matrix product that the useful tokens need.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import arguments, fastest_product, table
from tokay import Embedder
from tokay.corpus import open_corpus, whole

TARGETS = {"torch": 1.5, "onnx": 1.6, "onnx-int8": 2.5, "static": 200.0}


def main() -> None:
    """Print one table a corpus."""
    parser = arguments(__doc__)
    parser.add_argument("--model", type=Path, default=Path("runs/demo/export"))
    parser.add_argument("--texts", type=int, default=512, help="of each corpus, evenly spread")
    parser.add_argument(
        "--tokens", type=int, help="where texts are cut; default: as the model does, which fastembed keeps to"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", default="8,16,32,64,128", help="of sentence-transformers")
    parser.add_argument(
        "--gguf",
        type=Path,
        nargs="*",
        default=[],
        help="the same model for llama.cpp (docs/encode.md says how it is written), which llama-cpp-python then runs",
    )
    options = parser.parse_args()
    if not (options.model / "onnx" / "model_qint8.onnx").is_file():
        print(f"bench_encode: skipped, {options.model} has no exports (tokay export RUN --to …)", file=sys.stderr)
        return
    options.tokens = options.tokens or Embedder.load(options.model).config.max_tokens
    corpora = ["python-stdlib", *([str(options.data / "scifact")] if options.data else [])]
    peak = fastest_product()
    print(f"fastest product in float32: {peak / 1e9:,.0f} GFLOP/s on {torch.get_num_threads()} threads")
    for corpus in corpora:
        passages = [whole(d) for d in open_corpus(corpus).documents(lambda skipped: None)]
        chosen = passages[:: max(1, len(passages) // options.texts)][: options.texts]
        compare(corpus, [f"{p.title} {p.text}".strip() for p in chosen], options, peak)


def compare(corpus: str, texts: Sequence[str], options: Any, peak: float) -> None:
    """All systems on the same texts."""
    ours = {kind: load(options.model, kind, options.tokens) for kind in TARGETS}
    theirs = sentence_transformers(options.model, options.tokens)
    batches = [int(size) for size in options.batches.split(",")]
    systems: dict[str, Callable[[], Any]] = {
        f"sentence-transformers, {n}": lambda n=n: theirs(texts, n) for n in batches
    }
    systems |= {kind: lambda model=model: model.encode(texts) for kind, model in ours.items()}
    if (rival := fastembed(options.model, ours["torch"].width)) is not None:
        systems |= {f"fastembed, {n}": lambda n=n: rival(texts, n) for n in (16, 64)}
    cut = [ours["torch"].tokens.parts(text, options.tokens - 2)[0] for text in ours["torch"].write(texts)]
    for file in options.gguf:
        for batch in (512, 2048):
            if (run := llama_cpp(file, max(batch, options.tokens))) is not None:
                systems[f"llama.cpp, {file.stem}, {batch} tokens"] = lambda run=run: run(cut)
    rates, last = measure(systems, len(texts), options.rounds)
    best = max(
        (name for name in systems if name.startswith("sentence")), key=lambda name: statistics.median(rates[name])
    )
    exact = last[best]
    work = float(sum(flops(ours["torch"], len(ids)) for ids in ours["torch"].tokenize(texts)))
    rows = []
    for name in systems:
        median = statistics.median(rates[name])
        ratio = statistics.median(a / b for a, b in zip(rates[name], rates[best], strict=True))
        cosine = (last[name] * exact).sum(1) if last[name].shape == exact.shape else np.array([np.nan])
        share = f"{work * median / len(texts) / peak:.0%}" if name not in ("static", "onnx-int8") else ""
        target = TARGETS.get(name, "")
        same = "" if name == "static" else f"{cosine.mean():.5f} / {cosine.min():.5f}"
        rows.append([name, f"{median:,.1f}", f"{ratio:.2f}", target, share, same])
    count = sum(map(len, ours["torch"].tokenize(texts)))
    print(f"\n{corpus}: {len(texts)} texts of {count / len(texts):.0f} tokens, cut at {options.tokens}")
    table(["system", "texts/s", f"to {best}", "target", "of peak", "cosine, mean / least"], rows)


def measure(
    systems: Mapping[str, Callable[[], Any]], count: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Texts a second of each system in each round, interleaved after one round to warm up; and what it gave last."""
    rates: dict[str, list[float]] = {name: [] for name in systems}
    last: dict[str, Any] = {}
    for round_ in range(rounds + 1):
        for name, encode in systems.items():
            repeats = 20 if name == "static" else 1
            began = time.perf_counter()
            for _ in range(repeats):
                last[name] = encode()
            if round_:
                rates[name].append(count * repeats / (time.perf_counter() - began))
    return rates, last


def load(folder: Path, kind: str, tokens: int) -> Embedder:
    """One back-end, cut where all are."""
    model = Embedder.load(folder, backend=kind)  # type: ignore[arg-type]
    if kind != "static":
        model.config = dataclasses.replace(model.config, max_tokens=tokens)
    return model


def sentence_transformers(folder: Path, tokens: int) -> Callable[[Sequence[str], int], Any]:
    """The rival, on the same weights."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = tokens
    return lambda texts, size: model.encode(list(texts), batch_size=size, prompt_name="document")


@functools.cache
def fastembed(folder: Path, width: int) -> Callable[[Sequence[str], int], Any] | None:
    """Another rival, on the same exported graph, of which it pools the first output itself; None: not installed."""
    try:
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType
    except ImportError:
        return None
    TextEmbedding.add_custom_model(
        model="tokay/exported",
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf="tokay/exported"),
        dim=width,
        model_file="onnx/model.onnx",
    )
    model = TextEmbedding("tokay/exported", specific_model_path=str(folder))
    return lambda texts, size: np.stack(list(model.embed(list(texts), batch_size=size)))


@functools.cache
def llama_cpp(file: Path, batch: int) -> Callable[[Sequence[str]], Any] | None:
    """Another rival, on so many tokens at a time; None: not installed.

    It cannot cut a text in front of the closing token, so it gets texts that are cut at a word: a token or two less.
    """
    try:
        from llama_cpp import LLAMA_POOLING_TYPE_MEAN, Llama
    except ImportError:
        print("bench_encode: llama.cpp is left out, as llama-cpp-python is not installed", file=sys.stderr)
        return None
    threads = torch.get_num_threads()
    sizes = {"n_ctx": batch, "n_batch": batch, "n_ubatch": batch, "n_threads": threads, "n_threads_batch": threads}
    model = Llama(str(file), embedding=True, pooling_type=LLAMA_POOLING_TYPE_MEAN, verbose=False, **sizes)
    atexit.register(model.close)  # or it is freed when its library is gone, with a traceback

    def encode(texts: Sequence[str]) -> Any:
        vectors = np.array(model.embed(list(texts)), np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return encode


def flops(model: Any, length: int) -> float:
    """Floating-point operations of one text of ``length`` tokens: products with weights, and attention."""
    config = model.backbone.config
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    return float(layers * length * (2 * (4 * width**2 + 2 * width * inner) + 4 * length * width))


if __name__ == "__main__":
    main()
