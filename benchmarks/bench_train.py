"""Claim: embedders are trained faster than by sentence-transformers, in no more memory, at the same loss and precision.

One process a measurement, turn by turn: both train MiniLM on the same (query, positive) rows of a finished run with
MultipleNegativesRankingLoss inside MatryoshkaLoss, the token table frozen, no dropout; the last two use the cached
losses. Seconds are from the end of one step to the end of the next, batches and tokens included; the first two steps
warm up. The share of peak compares the operations of the useful tokens with this machine's fastest matrix product.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import arguments, fastest_product, table

DIMS = (384, 256, 128, 64)
WARM = 2
BATCH, STEP = {"plain": 64, "cached": 256}, {"plain": 1, "cached": 4}


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a finished run with rows to train on")
    parser.add_argument("--lengths", default="128,256")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kinds", default="plain,cached")
    parser.add_argument("--child", help="for the benchmark itself")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.run, options.child)))
        return
    if not (options.run / "manifest.json").is_file():
        print(f"bench_train: skipped, {options.run} is no finished run (make demo makes one)", file=sys.stderr)
        return
    peaks = {p: fastest_product(p) for p in options.precisions.split(",")}
    print("; ".join(f"fastest product in {p}: {v / 1e9:,.0f} GFLOP/s" for p, v in peaks.items()))
    plans = [(BATCH[kind], kind, max(WARM + 2, options.steps // STEP[kind])) for kind in options.kinds.split(",")]
    rows = []
    for length in options.lengths.split(","):
        for precision in peaks:
            for batch, kind, steps in plans:
                found: dict[str, list[dict[str, Any]]] = {"sentence-transformers": [], "tokay": []}
                for _ in range(options.rounds):
                    for name, runs in found.items():
                        runs.append(measure(options.run, (name, kind, batch, length, precision, steps)))
                base = statistics.median(r["rows/s"] for r in found["sentence-transformers"])
                for name, runs in found.items():
                    speed = statistics.median(r["rows/s"] for r in runs)
                    rows.append(
                        [
                            f"{name}, {kind}",
                            batch,
                            length,
                            precision,
                            f"{speed:.1f}",
                            f"{speed / base:.2f}",
                            f"{max(r['peak GB'] for r in runs):.2f}",
                            f"{runs[0]['useful']:.0%}",
                            f"{statistics.median(r['flop/s'] for r in runs) / peaks[precision]:.0%}",
                            f"{runs[0]['trainable']:,}",
                        ]
                    )
                    print(" ".join(map(str, rows[-1])), file=sys.stderr)
    head = ["system", "rows a step", "cut", "precision", "rows/s", "ratio", "peak GB", "useful tokens", "of peak"]
    table([*head, "trained"], rows)


def measure(run: Path, words: tuple[Any, ...]) -> dict[str, Any]:
    """One training in a process of its own."""
    command = [sys.executable, __file__, "--run", str(run), "--child", ",".join(map(str, words))]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return result


# -- one training ---------------------------------------------------------------------------------------------------


def child(run: Path, words: str) -> dict[str, Any]:
    """The training that the words of ``--child`` describe."""
    name, kind, batch, length, precision, steps = words.split(",")
    return (ours if name == "tokay" else theirs)(run, kind, int(batch), int(length), precision, int(steps))


def pairs(run: Path, *, train_only: bool = True) -> tuple[list[Any], dict[str, tuple[str, str]]]:
    """Rows of the run, and their passages."""
    from tokay import open_run
    from tokay.records import Example, Passage

    opened = open_run(run)
    rows = [e for e in opened.table("examples", "examples", Example) if e.part == "train" or not train_only]
    passages = {p.passage_id: (p.title, p.text) for p in opened.table("corpus", "passages", Passage)}
    return rows, {e.positive_id: passages[e.positive_id] for e in rows}


def result(
    times: list[float], batch: int, tokens: int, padded: int, attention: float, trainable: int
) -> dict[str, Any]:
    """Figures of one training, from the seconds of its steps and a step's counts."""
    seconds = statistics.median(times[WARM:] or times)
    matrices = 10_616_832  # weights of MiniLM's six layers
    flops = 6 * matrices * tokens + attention
    return {
        "rows/s": batch / seconds,
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "useful": tokens / padded,
        "flop/s": flops / seconds,
        "trainable": trainable,
    }


def attention_flops(lengths: list[int]) -> float:
    """Operations of six layers' scores and sums over values, forward and backward, for texts of these lengths."""
    return sum(3 * 6 * 4 * n * n * 384 for n in lengths)


def ours(run: Path, kind: str, batch: int, length: int, precision: str, steps: int) -> dict[str, Any]:
    """Tokay, without what its rows know beside the pair."""
    import dataclasses

    from tokay.models.torch_embedder import TorchEmbedder
    from tokay.settings import TrainSettings
    from tokay.train.adapters import adapter_of
    from tokay.train.embedder import prepared, train_embedder
    from tokay.train.mixture import Source
    from tokay.train.trainee import Work
    from tokay.vectors import with_cut

    rows, texts = pairs(run, train_only=batch <= 512)  # a larger batch needs the rows of all parts
    plain = [dataclasses.replace(e, negative_ids=[], candidate_ids=[], grades=[]) for e in rows]
    kept = {} if kind == "plain" else {"tokens_kept": 0}  # as CachedMultipleNegativesRankingLoss, that keeps nothing
    settings = TrainSettings.model_validate(
        {
            "batch_size": batch,
            "epochs": 1 + steps * batch // len(rows),
            "precision": precision,
            "dims": DIMS,
            "mask_false_negatives": False,
            "checkpoint_minutes": 0,
            **kept,
        }
    )
    tuned = prepared(with_cut(TorchEmbedder.load("minilm", device="cpu"), length), settings)
    adapter_of(settings).attach(tuned)
    times, work, at = [], Work(), time.perf_counter()
    for step in train_embedder(tuned, [Source("fret", plain, texts)], settings, work=work):
        now = time.perf_counter()
        times.append(now - at)
        at = now
        if step.step + 1 == steps:
            break
    lengths = [len(row) for row in tuned.tokenize([*(e.query for e in rows), *(f"{t} {x}" for t, x in texts.values())])]
    per_token = attention_flops(lengths) / sum(lengths)
    trainable = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    tokens = work.tokens / steps
    return result(
        times[WARM:] or times, batch, round(tokens), round(work.padded / steps), per_token * tokens, trainable
    )


def theirs(run: Path, kind: str, batch: int, length: int, precision: str, steps: int) -> dict[str, Any]:
    """sentence-transformers' trainer."""
    import tempfile

    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MatryoshkaLoss,
        MultipleNegativesRankingLoss,
    )
    from transformers import TrainerCallback

    from tokay.models.locate import find_model
    from tokay.train.adapters import set_dropout

    rows, texts = pairs(run)
    model = SentenceTransformer(str(find_model("minilm")), device="cpu")
    model.max_seq_length = length
    model[0].auto_model.embeddings.requires_grad_(False)
    set_dropout(model, 0.0)
    plain = MultipleNegativesRankingLoss(model)
    inner = plain if kind == "plain" else CachedMultipleNegativesRankingLoss(model, mini_batch_size=64)
    loss = MatryoshkaLoss(model, inner, list(DIMS))
    data = Dataset.from_dict(
        {"anchor": [e.query for e in rows], "positive": [" ".join(texts[e.positive_id]) for e in rows]}
    )
    times: list[float] = []
    counts, collated = [0, 0], [0]

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.at = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = time.perf_counter()
            times.append(now - self.at)
            self.at = now

    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=batch,
            learning_rate=1e-4,
            bf16=precision == "bf16",
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=data, loss=loss, callbacks=[Clock()]
        )
        collator = type(trainer.data_collator)

        class Counted(collator):  # type: ignore[misc, valid-type]
            def __call__(self, features: Any) -> Any:
                made = super().__call__(features)
                collated[0] += 1
                for name, value in made.items():
                    if name.endswith("attention_mask"):
                        counts[0] += int(value.sum())
                        counts[1] += value.numel()
                return made

        trainer.data_collator.__class__ = Counted
        trainer.train()
    lengths = [
        len(row)
        for row in model.tokenizer([*data["anchor"], *data["positive"]], truncation=True, max_length=length)[
            "input_ids"
        ]
    ]
    per_token = attention_flops(lengths) / sum(lengths)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    tokens = counts[0] / collated[0]
    return result(
        times[WARM:] or times, batch, round(tokens), round(counts[1] / collated[0]), per_token * tokens, trainable
    )


if __name__ == "__main__":
    main()
