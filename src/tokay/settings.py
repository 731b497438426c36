"""Every setting once: one model per stage, each default with its source.

``Settings`` is what ``run.toml`` holds. A TOML file (``--config``) and ``--set stage.name=value`` change it;
an unknown name is an error, never ignored.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokay.errors import TokayError
from tokay.expected import faults_of


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CorpusSettings(_Section):
    """How documents become passages."""

    chunk: Literal["auto", "always", "never"] = Field(
        "auto",
        description="auto: split files and long rows; leave BEIR folders and python: corpora as they are",
    )
    passage_tokens: Annotated[int, Field(ge=16)] = Field(
        200,
        description="token budget of a passage; our choice: it fits 256-token models with a title to spare",
    )
    near_duplicates: Annotated[float, Field(ge=0, le=1)] = Field(
        0.9,
        description="drop passages whose word 3-shingles have at least this Jaccard similarity; 0: keep all",
    )


class SplitSettings(_Section):
    """Which documents are held out. The split is by document, so no passage of one is on both sides."""

    test_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="share of passages held out, in whole documents; our choice"
    )
    dev_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="share that the weight of BM25 beside the tuned model is chosen on; with half, it is noise"
    )
    near_duplicates: Annotated[float, Field(ge=0, le=1)] = Field(
        0.8,
        description="word 3-shingle Jaccard similarity from which a passage repeats one of another document, and may "
        "not stand on the other side of the split; 0: do not look",
    )
    seen_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="share of the training documents' queries held out, at most 300, for the verdict's seen slice"
    )
    seed: int = 0


Weights = Annotated[dict[str, Annotated[float, Field(ge=0)]], Field(min_length=1)]
"""Wording -> how often, relative to the others."""


class GenerateSettings(_Section):
    """Gecko 3.2. The paper publishes neither its prompt nor the number of queries per passage."""

    passages: Annotated[int, Field(ge=0)] = Field(
        2000, description="passages sampled for query writing; 0: none, for a run on a log alone"
    )
    queries_per_passage: Annotated[int, Field(ge=1, le=10)] = Field(2, description="as in the recorded demo data")
    about: str = Field("", description="one line: what the people who search here look for")
    language: str = Field("", description="of the queries; empty: the passage's own, detected")
    kinds: Weights = Field(
        {
            "a question": 1,
            "a few keywords": 1,
            "a statement to check": 1,
            "an error or a symptom": 1,
            "something that one wants to do": 1,
            "a sentence of like meaning": 1,
        },
        description="uniform, which Gecko's table 4 found best",
    )
    lengths: Weights = Field({"3 to 6 words": 1, "7 to 12 words": 2, "13 to 25 words": 1}, description="our choice")
    difficulties: Weights = Field(
        {"about the main point": 2, "about a detail or an edge case": 1, "in other words than the passage uses": 1},
        description="our choice",
    )
    personas: Weights = Field(
        {"a newcomer": 1, "someone who knows the field": 2, "someone in a hurry": 1}, description="our choice"
    )
    seed: int = 0


Retriever = Literal["base", "initial", "bm25"]


class MineSettings(_Section):
    """Candidates per query: Gecko's 3.3 looks at N nearest neighbours of an initial embedder."""

    candidates: Annotated[int, Field(ge=2, le=100)] = Field(
        20, description="Gecko's N; the paper does not state it, its tables 3 and 5 show p_20 as the last"
    )
    retrievers: Annotated[tuple[Retriever, ...], Field(min_length=1)] = Field(
        ("base", "bm25"),
        description="whose rankings are fused; initial: an embedder trained on (query, seed) first, Gecko's footnote 1",
    )
    rrf_k: Annotated[int, Field(ge=0)] = Field(60, description="of that fusion, Cormack et al. 2009")


class CallSettings(_Section):
    """How an endpoint is asked."""

    concurrency: Annotated[int, Field(ge=1, le=1024)] = Field(
        8, description="most requests in flight; fewer while the server answers 429"
    )
    requests_per_minute: Annotated[float, Field(ge=0)] = Field(0, description="0: no limit of ours")
    tokens_per_minute: Annotated[float, Field(ge=0)] = Field(
        0, description="of prompts and of the room for answers, estimated from characters; 0: no limit of ours"
    )
    timeout: Annotated[float, Field(gt=0)] = Field(300, description="seconds a try; local servers queue, so it is long")


class JudgeSettings(_Section):
    """Which passages answer a query."""

    by: Literal["auto", "gecko", "relevance", "pointwise", "listwise", "cascade", "cross-encoder"] = Field(
        "auto", description="auto: gecko where the model gives log-probabilities of prompts, else listwise"
    )
    passage_chars: Annotated[int, Field(ge=50)] = Field(900, description="characters of a candidate that are shown")
    turns: Annotated[int, Field(ge=1, le=4)] = Field(2, description="listwise: how often, each in another order")
    rrf_k: Annotated[int, Field(ge=0)] = Field(0, description="gecko: R = 1/(k + r_QL) + 1/(k + r_RC); 0 in the paper")
    strong_llm: str = Field("", description="cascade: judges what is disputed; empty: the same model")
    strong_url: str = Field("", description="where it is; empty: the same endpoint")
    cross_encoder: str = Field("", description="cross-encoder: a folder or a Hub name")


class ExampleSettings(_Section):
    """Choosing positives and negatives from stored judgments: re-runnable, asks nothing."""

    relabel: bool = Field(True, description="positive = best passage, seed or not (Gecko 3.3); off: always the seed")
    positives: Annotated[int, Field(ge=1, le=16)] = Field(
        2, description="rows of a query, one for each of its best (docs/log.md)"
    )
    negatives: Annotated[int, Field(ge=0, le=16)] = Field(1, description="hard negatives of a row (docs/log.md)")
    policy: Literal["graded", "gecko", "percpos"] = Field(
        "graded",
        description="who may be a hard negative; graded: by grade; gecko: the lowest-scored candidates (p_N); percpos: "
        "those that the base scores below 95 % of the positive (NV-Retriever, 2407.15831)",
    )
    negative_max_grade: Annotated[int, Field(ge=0, le=1)] = Field(1, description="a hard negative has at most this")
    negative_choice: Literal["last", "random", "first"] = Field(
        "random", description="by rank; Gecko table 3: the lowest-ranked candidate beats a random one; not here"
    )
    percpos: Annotated[float, Field(gt=0, le=1)] = Field(
        0.95, description="NV-Retriever's share of the positive's score"
    )
    round_trip: Annotated[int, Field(ge=0, le=100)] = Field(
        0, description="drop a query whose seed is not among the first K of its retriever (Promptagator); 0: keep all"
    )
    seed: int = 0


class RelabelSettings(_Section):
    """``tokay relabel``: what becomes of a user's labels."""

    split: str = Field("train", description="of the labels, where they have several")
    found: Literal["positive", "drop"] = Field(
        "positive", description="false negatives become positives, which RLHN found better than leaving them out"
    )
    doubted: Literal["keep", "drop"] = Field(
        "keep", description="labels that the judge does not share: a person's word stands until its owner decides"
    )


class TrainSettings(_Section):
    """The embedder's training. Gecko publishes no batch size, temperature, rate, number of steps or mixture weights."""

    # what is read
    format: Literal["auto", "none", "gecko", "base"] = Field(
        "auto", description="input format; auto: the base's own prompts, else none (docs/log.md)"
    )
    max_tokens: Annotated[int, Field(ge=0)] = Field(
        0,
        description="cut of every text, base and tuned alike; 0: chosen on the training side among 128 and 256",
    )
    mixture: str = Field("", description="TOML file with further sources of rows (docs/mixture.md)")
    batching: Literal["one-source", "mixed"] = Field(
        "one-source", description="of a mixture; one source a batch, as in Gemini Embedding (2503.07891)"
    )

    # how long
    epochs: Annotated[int, Field(ge=1, le=1000)] = Field(3, description="2 and 4 were no better (docs/log.md)")
    batch_size: Annotated[int, Field(ge=2)] = Field(128, description="rows; 64 and 256 were no better (docs/log.md)")
    learning_rate: Annotated[float, Field(gt=0, le=0.1)] = Field(
        1e-4, description="2e-4 was worse (docs/log.md); AdamW moves each weight by it a step, so 0.1 destroys any base"
    )
    warmup: Annotated[float, Field(ge=0, le=1)] = Field(0.1, description="share of steps with rising rate")
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    patience: Annotated[int, Field(ge=0)] = Field(
        0, description="stop after so many looks at the dev queries without a better nDCG@10; 0: never, and never look"
    )
    look_every: Annotated[int, Field(ge=1)] = Field(10, description="steps between two looks at the dev queries")
    find_rate: bool = Field(False, description="choose the learning rate by a short sweep first (Smith 2015)")

    # the loss
    temperature: Annotated[float, Field(gt=0)] = Field(0.05, description="the loss divides cosines by it")
    same_tower: Literal["symmetric", "always", "never"] = Field(
        "symmetric",
        description="other queries as negatives, a term of Gecko's loss: for symmetric sources, as its successors have "
        "it; no gain on documents (docs/log.md)",
    )
    mask_false_negatives: bool = Field(True, description="passages judged to answer a row are no negatives of it")
    false_negative_margin: Annotated[float, Field(ge=0)] = Field(
        0.0, description="nor are those that score above the positive by more than this cosine; Qwen3: 0.1; 0: off"
    )
    all_negatives: bool = Field(False, description="every row sees every row's hard negatives; Gecko: its own alone")
    hardness: Annotated[float, Field(ge=0)] = Field(
        0.0, description="weight exp(a cos) of a row's own hard negatives; EmbeddingGemma: a = 5; 0: off"
    )
    spread_out: Annotated[float, Field(ge=0)] = Field(
        0.0, description="weight of the spread-out regulariser, as in EmbeddingGemma; 0: off"
    )
    distil: Literal["none", "kl", "margin"] = Field(
        "none", description="learn the judge's grades too: KL over a row's candidates, or MarginMSE"
    )
    distil_weight: Annotated[float, Field(ge=0)] = 1.0
    distil_candidates: Annotated[int, Field(ge=2, le=100)] = Field(
        4, description="candidates of a row that distillation encodes: its positive, and others by grade and chance"
    )
    distil_temperature: Annotated[float, Field(gt=0)] = Field(
        1.0, description="softens grades to probabilities: softmax(grade / T)"
    )
    distil_teacher: str = Field(
        "",
        description="a cross-encoder, or reranker, whose scores of the candidates are learned in place of grades",
    )
    distil_depth: Annotated[int, Field(ge=2, le=100)] = Field(
        16,
        description="passages that the base finds, a teacher's candidates beside the judged ones",
    )
    dims: tuple[int, ...] = Field(
        (384, 256, 128, 64), description="Matryoshka widths; those above the base's are left out"
    )
    dim_weights: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (), description="of these widths, in their order; empty: equal. Gecko publishes none"
    )

    # what is trained
    adapter: Literal["full", "lora"] = "full"
    lora_rank: Annotated[int, Field(ge=1, le=1024)] = 16
    lora_alpha: Annotated[float, Field(gt=0)] = 32
    freeze_embeddings: bool = Field(True, description="leave the token table alone: it gained nothing (docs/log.md)")
    freeze_layers: Annotated[int, Field(ge=0)] = Field(0, description="leave the first so many layers alone")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="none: it gained nothing and took a quarter more time on a CPU (docs/log.md)"
    )

    # against forgetting
    soup: Literal["auto"] | Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="weight of the tuned model against its base; auto: the smallest that the dev queries allow"
    )
    merge: Literal["lerp", "slerp"] = Field("lerp", description="along a line (WiSE-FT) or an arc (Qwen3)")
    runs: Annotated[int, Field(ge=1, le=16)] = Field(1, description="runs with seeds of their own, averaged (soup)")

    # how it is computed
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 where the processor multiplies it natively, else fp32"
    )
    tokens_kept: Annotated[int, Field(ge=0)] = Field(
        16_384, description="whose activations are kept from the first pass; the rest is computed twice (GradCache)"
    )
    gradient_checkpointing: bool = False
    checkpoint_minutes: Annotated[float, Field(ge=0)] = Field(5.0, description="between two checkpoints; 0: none")
    track: Literal["", "trackio", "wandb", "tensorboard"] = Field("", description="beside metrics.jsonl")
    seed: int = 0


class HybridSettings(_Section):
    """BM25, and how its weight beside a model is learned."""

    language: str = Field(
        "auto", description="whose stems and stop words; auto: that of most passages; none; or one of Snowball's names"
    )
    k1: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.9, 1.2),
        min_length=1,
        description="tried; the first, of BEIR's baseline, is kept unless another is clearly better",
    )
    b: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field((0.4, 0.75), min_length=1, description="tried, likewise")
    queries: Annotated[int, Field(ge=0)] = Field(
        2000, description="judged ones that are learned from, at most; 0: none, and the usual weight"
    )
    tried_passages: Annotated[int, Field(ge=0)] = Field(
        100_000, description="with more, k1 and b are not tried, since each pair takes an index of its own"
    )
    seed: int = 0


class RerankSettings(_Section):
    """The reranker's training and use (docs/rerank.md): a cross-encoder from the same judgments."""

    # what is trained
    base: str = Field(
        "", description="a folder or Hub name of an embedder or a cross-encoder; empty: the run's tuned embedder"
    )
    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = Field(
        (0,),
        description="keep its first so many layers, 0: all; one reranker for each, the first is the default",
    )
    max_tokens: Annotated[int, Field(ge=16)] = Field(128, description="cut of a query and a passage together")

    # the lists
    candidates: Annotated[int, Field(ge=2, le=100)] = Field(6, description="of a list: judged, near and easy ones")
    easy_negatives: Annotated[int, Field(ge=0)] = Field(2, description="of a list, drawn from no ranking")
    easy_first: Annotated[float, Field(ge=0, le=1)] = Field(
        0.3,
        description="share of the steps, the first, with easy negatives alone: what a new head can learn from",
    )
    unjudged_below: Annotated[float, Field(ge=0, le=1)] = Field(
        0.95,
        description="an unjudged passage of the retriever's is a negative below this share of the answer's cosine "
        "(NV-Retriever, 2407.15831); 0: never",
    )

    # how long, and by which loss
    loss: Literal["listwise", "pointwise"] = Field(
        "listwise", description="ListNet against softmax(grade / T), or binary cross-entropy against grade / 3"
    )
    temperature: Annotated[float, Field(gt=0)] = Field(0.5, description="T of the listwise loss, in grades")
    epochs: Annotated[int, Field(ge=1, le=1000)] = Field(
        1, description="enough to be better; more: untried (docs/log.md)"
    )
    batch_size: Annotated[int, Field(ge=1)] = Field(8, description="lists")
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        2e-4, description="a new head began to learn at it (docs/log.md)"
    )
    warmup: Annotated[float, Field(ge=0, le=1)] = Field(0.1, description="share of steps with rising rate")
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    freeze_embeddings: bool = Field(True, description="leave the token table alone, as the embedder's training does")
    patience: Annotated[int, Field(ge=0)] = Field(
        3, description="looks at dev queries without a better nDCG@10; 0: off"
    )
    looks: Annotated[int, Field(ge=1)] = Field(3, description="at the dev queries, evenly spread over the training")
    dev_queries: Annotated[int, Field(ge=2)] = Field(400, description="dev queries that its weight is chosen on")
    look_queries: Annotated[int, Field(ge=2)] = Field(100, description="dev queries of a look")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    tokens_kept: Annotated[int, Field(ge=0)] = Field(32_768, description="as train.tokens_kept")
    checkpoint_minutes: Annotated[float, Field(ge=0)] = Field(5.0, description="between two checkpoints; 0: none")
    seed: int = 0

    # how it is used
    depth: Annotated[int, Field(ge=1, le=100)] = Field(20, description="candidates that are reranked at most")


class EvaluateSettings(_Section):
    """The verdict."""

    depth: Annotated[int, Field(ge=10)] = 100
    relevant_grade: Annotated[int, Field(ge=1, le=3)] = Field(2, description="lowest grade that counts as relevant")
    resamples: Annotated[int, Field(ge=100)] = 10_000
    seed: int = 0


class GuardSettings(_Section):
    """General ability, base against tuned, after every training (docs/benchmarks.md)."""

    sets: tuple[str, ...] = Field(
        ("nanobeir",),
        description="nanobeir, from the Hub where it can be reached; nanobeir:DATASET; or folders of STS or a search",
    )
    margin: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01, description="what may be lost of nDCG@10 or Spearman's correlation: a point, our bound (docs/log.md)"
    )
    characters: Annotated[int, Field(ge=1000)] = Field(
        500_000,
        description="that each model reads of all sets: some 40 s of a core (docs/log.md)",
    )


class Settings(_Section):
    """All of a run. ``documents``, ``llm`` and ``base`` are what the user types; the rest has defaults."""

    documents: str
    llm: str = "recorded"
    llm_url: str = ""
    batch: bool = Field(False, description="ask through the provider's batch API: cheaper, and hours later")
    budget: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="what LLM requests of this run may cost, in the price table's currency; 0: no limit"
    )
    prices: str = Field("", description="TOML file with prices of models; empty: the shipped llm/prices.toml")
    base: str = "minilm"
    queries: str = ""
    qrels: str = ""
    log: str = Field("", description="a text file with a user's real queries, one a line, without labels")
    refit: bool = False
    corpus: CorpusSettings = CorpusSettings()
    split: SplitSettings = SplitSettings()
    generate: GenerateSettings = GenerateSettings()
    mine: MineSettings = MineSettings()
    calls: CallSettings = CallSettings()
    judge: JudgeSettings = JudgeSettings()
    examples: ExampleSettings = ExampleSettings()
    relabel: RelabelSettings = RelabelSettings()
    train: TrainSettings = TrainSettings()
    hybrid: HybridSettings = HybridSettings()
    rerank: RerankSettings = RerankSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    guard: GuardSettings = GuardSettings()


def resolve(values: Mapping[str, Any], *, config: Path | None = None, overrides: Iterable[str] = ()) -> Settings:
    """Settings from a TOML file, then ``stage.name=value`` overrides, then explicit values that are not None.

    Names of explicit values are those of overrides: ``base``, or ``judge.by``.

    Raises:
        TokayError: an unknown name, a value out of range, an override without ``=``, a file that is not TOML.
    """
    data: dict[str, Any] = {}
    if config is not None:
        try:
            data = tomllib.loads(config.read_text(encoding="utf-8"))
        except OSError as error:
            raise TokayError(f"--config {config} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise TokayError(f"--config {config} is not TOML: {error}") from error
    for override in overrides:
        name, found, text = override.partition("=")
        if not found:
            raise TokayError(f"--set {override!r} has no '='; expected stage.name=value, such as train.epochs=3")
        _put(data, name.strip(), _toml_value(text.strip()))
    for name, value in values.items():
        if value is not None:
            _put(data, name, value)
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        raise TokayError("\n".join(faults_of(error, Settings, data, what="setting"))) from error


def _put(data: dict[str, Any], name: str, value: Any) -> None:
    *sections, leaf = name.split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise TokayError(f"setting {name!r}: {section!r} is a value, not a section")
    data[leaf] = value


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string


def to_toml(settings: Settings) -> str:
    """Settings as TOML, resolved, in the order of the classes; ``resolve`` reads it back to an equal object."""
    data = settings.model_dump(mode="json")
    lines = [f"{name} = {_literal(value)}" for name, value in data.items() if not isinstance(value, dict)]
    for section, values in data.items():
        if isinstance(values, dict):
            lines += ["", f"[{section}]", *(f"{name} = {_literal(value)}" for name, value in values.items())]
    return "\n".join(lines) + "\n"


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_literal(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k, ensure_ascii=False)} = {_literal(v)}" for k, v in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)
