"""A text embedder: backbone, pooling, normalisation and prompts, in and out of a sentence-transformers folder.

Letters: N texts, L tokens, D width of the model, d a Matryoshka width.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from tokay.errors import TokayError
from tokay.models.adapted import adapted, base_of, dims_of, is_adapter
from tokay.models.format import InputFormat
from tokay.models.locate import find_model
from tokay.progress import Progress, Silent

Kind = Literal["query", "passage"]
Pooling = Literal["mean", "cls", "lasttoken"]
TOKENS_PER_BATCH = 2048
TEXTS_PER_WINDOW = 8192
OVERHEAD = 0.18
"""What a micro-batch costs beside its tokens, as a share of its budget (docs/log.md)."""


@dataclasses.dataclass(frozen=True)
class EmbedderConfig:
    """What a sentence-transformers folder says beside the weights."""

    pooling: Pooling
    normalize: bool
    max_tokens: int
    prompts: InputFormat
    dims: tuple[int, ...] = ()


class Embedder(nn.Module):
    """Texts in, vectors out.

    Cosine is the dot product of what ``encode`` returns: rows have length 1 when the folder has a Normalize
    module or a Matryoshka width was asked for.
    """

    def __init__(self, backbone: Any, tokenizer: Any, config: EmbedderConfig) -> None:
        super().__init__()
        self.backbone: Any = backbone  # a transformers model
        self.tokenizer = tokenizer
        self.config = config

    # -- loading and saving ---------------------------------------------------------------------------------------

    @classmethod
    def load(cls, name_or_path: str | Path, *, device: str | None = None) -> Embedder:
        """Load a sentence-transformers folder, a plain transformers folder (mean pooling), or a Hub name.

        Raises:
            TokayError: there is no such model, or it has a module that Tokay does not run.
        """
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()  # of loading weights, onto stderr: the library is silent
        folder = find_model(name_or_path)
        if is_adapter(folder):
            return cls._load_adapted(folder, device)
        config, backbone_folder = read_config(folder)
        try:
            tokenizer = AutoTokenizer.from_pretrained(backbone_folder)
            backbone = AutoModel.from_pretrained(backbone_folder, dtype=torch.float32)
        except (OSError, ValueError, KeyError) as error:
            raise TokayError(f"{folder} cannot be loaded as a transformers model: {_first_line(error)}") from error
        limit = min(config.max_tokens or 10**9, *position_limits(backbone, tokenizer))
        embedder = cls(backbone, tokenizer, dataclasses.replace(config, max_tokens=limit))
        return embedder.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()

    @classmethod
    def _load_adapted(cls, folder: Path, device: str | None) -> Embedder:
        """The base that an adapter names, with the adapter merged and the adapter's own prompts, cut and widths."""
        embedder = cls.load(base_of(folder), device=device)
        embedder.backbone = adapted(embedder.backbone, folder)
        if (folder / "modules.json").is_file():
            sizes, _ = read_config(folder)
            limit = min(sizes.max_tokens or 10**9, embedder.config.max_tokens)
            embedder.config = dataclasses.replace(sizes, max_tokens=limit, dims=dims_of(folder))
        return embedder.eval()

    def save(self, folder: Path) -> None:
        """Write a folder that ``SentenceTransformer(folder)`` loads with the same prompts and the same vectors.

        Pooling is written in both forms: sentence-transformers >= 5.4 reads ``pooling_mode``, text-embeddings-
        inference and older releases read the booleans. ``is_matryoshka`` is what vLLM asks for ``dimensions``.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.backbone.config.is_matryoshka = bool(self.config.dims)
        self.backbone.config.matryoshka_dimensions = list(self.config.dims)
        self.backbone.save_pretrained(folder)
        self.tokenizer.model_max_length = self.config.max_tokens
        self.tokenizer.backend_tokenizer.no_truncation()
        self.tokenizer.backend_tokenizer.no_padding()
        self.tokenizer.save_pretrained(folder)
        self.save_sizes(folder)

    def save_sizes(self, folder: Path) -> None:
        """Write the small files alone: pooling, prompts, cut."""
        write_config(folder, self.config, width=self.width)

    def clone(self) -> Embedder:
        """An independent copy, weights included."""
        return Embedder(copy.deepcopy(self.backbone), self.tokenizer, self.config)

    @property
    def width(self) -> int:
        """D, the number of dimensions of a full vector."""
        return int(self.backbone.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        parameter: Tensor = next(self.backbone.parameters())
        return parameter.device

    # -- text to token ids to vectors -----------------------------------------------------------------------------

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids with the special tokens, cut at ``max_tokens``."""
        if not texts:
            return []
        ids = self.tokenizer(
            list(texts), truncation=True, max_length=self.config.max_tokens, return_attention_mask=False
        )["input_ids"]
        return [list(row) for row in ids]

    def forward(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Pooled vectors, not normalised: N lists of token ids -> (N, D). The texts are padded to the longest."""
        longest = max(len(row) for row in ids)
        pad = self.tokenizer.pad_token_id or 0
        left = self.tokenizer.padding_side == "left"
        blank = [[pad] * (longest - len(row)) for row in ids]
        padded = [[*b, *row] if left else [*row, *b] for row, b in zip(ids, blank, strict=True)]
        device = self.device
        tokens = torch.tensor(padded, device=device)  # (N, L)
        lengths = torch.tensor([len(row) for row in ids], device=device)
        columns = torch.arange(longest, device=device)
        mask = (columns >= longest - lengths[:, None]) if left else (columns < lengths[:, None])  # (N, L)
        hidden = self.backbone(input_ids=tokens, attention_mask=mask.long()).last_hidden_state  # (N, L, D)
        return pool(hidden, mask, self.config.pooling)

    def forward_by_length(self, ids: Sequence[Sequence[int]], *, tokens_per_batch: int) -> Tensor:
        """As ``forward``, in micro-batches of like length, so that hardly any padding is computed: (N, D)."""
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        parts = [self([ids[i] for i in group]) for group in by_token_budget(order, ids, tokens_per_batch)]
        return torch.cat(parts)[torch.tensor(np.argsort(order), device=self.device)]

    def encode(
        self,
        texts: Iterable[str],
        *,
        kind: Kind = "passage",
        titles: Iterable[str] | None = None,
        task: str | None = None,
        dim: int | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Encode texts in the order given.

        Args:
            texts: the texts; an iterable is consumed in windows, so only the vectors need memory.
            kind: puts the query or the passage prompt in front.
            titles: one for each passage, written as the model's format has it.
            task: Gecko's task of a query; None: the saved prompt's.
            dim: keep the first ``dim`` numbers of each vector and re-normalise (Matryoshka).
            progress: advanced by the number of texts.

        Returns:
            float32 (N, D) or (N, dim).

        Raises:
            TokayError: ``kind`` or ``dim`` is not one that exists, or ``texts`` is a single string.
        """
        if isinstance(texts, str):
            raise TokayError("encode() takes a list of texts and got one string; write encode([text])")
        if kind not in ("query", "passage"):
            raise TokayError(f"kind is {kind!r}; expected 'query' or 'passage'")
        if dim is not None and not 1 <= dim <= self.width:
            raise TokayError(f"dim is {dim}; this model has vectors of {self.width} numbers, so 1 to {self.width}")
        progress = progress or Silent()
        parts = [
            self._encode_window(window, dim, progress) for window in _windows(self._written(texts, kind, titles, task))
        ]
        return np.concatenate(parts) if parts else np.zeros((0, dim or self.width), np.float32)

    def _written(
        self, texts: Iterable[str], kind: Kind, titles: Iterable[str] | None, task: str | None
    ) -> Iterable[str]:
        prompts = self.config.prompts
        if kind == "query":
            return (prompts.write_query(text, task) if task else prompts.write_query(text) for text in texts)
        if titles is None:
            return (prompts.write_passage(text) for text in texts)
        return (prompts.write_passage(text, title) for text, title in zip(texts, titles, strict=True))

    @torch.inference_mode()
    def _encode_window(self, texts: Sequence[str], dim: int | None, progress: Progress) -> NDArray[np.float32]:
        ids = self.tokenize(texts)
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        vectors = np.empty((len(ids), dim or self.width), np.float32)
        for group in by_token_budget(order, ids, TOKENS_PER_BATCH):
            out = self([ids[i] for i in group])[:, :dim].float()
            if self.config.normalize or dim is not None:
                out = F.normalize(out, dim=-1)
            vectors[group] = out.cpu().numpy()
            progress.advance(len(group))
        return vectors


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """One vector a text: (N, L, D), bool (N, L) -> (N, D). Padding may stand on either side."""
    if pooling == "mean":
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
    length = mask.shape[1]
    columns = torch.arange(length, device=mask.device)
    if pooling == "cls":
        at = torch.where(mask, columns, length).amin(1)
    else:
        at = torch.where(mask, columns, -1).amax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), at]


def by_token_budget(order: Sequence[int], ids: Sequence[Sequence[int]], budget: int) -> list[list[int]]:
    """Cut ``order`` (sorted by length, either way) into the groups that cost least.

    A group of n texts costs n times its longest, and a fixed share of the budget for being one: many short texts stand
    together, and long ones with their like. No group's padded size is above ``budget``, save of a single long text.
    """
    lengths = np.array([len(ids[i]) for i in order], np.int64)
    cost = np.zeros(len(order) + 1)  # of the first n texts
    begins = np.zeros(len(order) + 1, np.int64)  # of the group that ends there
    for end in range(1, len(order) + 1):
        first = max(0, end - max(1, budget // max(1, int(lengths[end - 1]))))
        longest = np.maximum(lengths[first:end], lengths[end - 1])
        size = longest * np.arange(end - first, 0, -1)
        total = np.where(size <= budget, cost[first:end] + size, np.inf)
        if total[-1] == np.inf:  # it is longer than the budget
            total[-1] = cost[end - 1] + size[-1]
        best = int(total.argmin())
        begins[end], cost[end] = first + best, total[best] + OVERHEAD * budget
    groups: list[list[int]] = []
    end = len(order)
    while end:
        groups.append(list(order[begins[end] : end]))
        end = int(begins[end])
    return groups[::-1]


def _windows(texts: Iterable[str]) -> Iterable[list[str]]:
    window: list[str] = []
    for text in texts:
        window.append(text)
        if len(window) == TEXTS_PER_WINDOW:
            yield window
            window = []
    if window:
        yield window


# -- the sentence-transformers folder -------------------------------------------------------------------------------

_MODULES = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


def read_config(folder: Path) -> tuple[EmbedderConfig, Path]:
    """What a model folder says about pooling, normalisation, length and prompts, and where its backbone lies.

    A folder without ``modules.json`` is a plain transformers model: mean pooling and normalisation, as
    sentence-transformers would assume the first and cosine needs the second.
    """
    plain = EmbedderConfig("mean", True, 0, InputFormat("", ""))
    if not (folder / "modules.json").is_file():
        return plain, folder
    modules = {entry["type"].rsplit(".", 1)[-1]: folder / entry["path"] for entry in _json(folder / "modules.json")}
    unknown = [name for name in modules if name not in _MODULES]
    if unknown or "Transformer" not in modules:
        raise TokayError(
            f"{folder / 'modules.json'} has the modules {', '.join(modules)}; Tokay runs Transformer, Pooling and "
            "Normalize. Choose a base without a head, such as one with mean pooling"
        )
    backbone = modules["Transformer"]
    sizes = _json(backbone / "sentence_bert_config.json", folder / "sentence_bert_config.json")
    texts = _json(folder / "config_sentence_transformers.json")
    prompts = texts.get("prompts") or {}
    config = EmbedderConfig(
        pooling=_read_pooling(modules["Pooling"]) if "Pooling" in modules else "mean",
        normalize="Normalize" in modules,
        max_tokens=int(sizes.get("max_seq_length") or 0),
        prompts=InputFormat(
            prompts.get("query", ""),
            prompts.get("document", prompts.get("passage", prompts.get("corpus", ""))),
        ),
        dims=tuple(_json(backbone / "config.json").get("matryoshka_dimensions") or ()),
    )
    return config, backbone


def _read_pooling(folder: Path) -> Pooling:
    entries = _json(folder / "config.json")
    modes = [name for key, name in _POOLING_KEYS.items() if entries.get(key)]
    mode = entries.get("pooling_mode", "+".join(modes))
    if mode not in ("mean", "cls", "lasttoken"):
        raise TokayError(
            f"{folder / 'config.json'} pools by {mode or 'nothing'!r}; Tokay knows mean, cls and lasttoken"
        )
    if entries.get("include_prompt") is False:
        raise TokayError(f"{folder / 'config.json'} leaves the prompt out of pooling, which Tokay does not do")
    return mode  # type: ignore[no-any-return]


def write_config(folder: Path, config: EmbedderConfig, *, width: int) -> None:
    """The small files of a sentence-transformers folder. Module paths are the ones that every release imports."""
    names = [name for name in _MODULES if name != "Normalize" or config.normalize]
    modules = [
        {"idx": i, "name": str(i), "path": _MODULES[name], "type": f"sentence_transformers.models.{name}"}
        for i, name in enumerate(names)
    ]
    pooling = {"word_embedding_dimension": width, "embedding_dimension": width}
    booleans = {key: name == config.pooling for key, name in _POOLING_KEYS.items()}
    texts = {
        "__version__": {},
        "model_type": "SentenceTransformer",
        "prompts": {"query": config.prompts.query, "document": config.prompts.passage},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    files = {
        "modules.json": modules,
        "1_Pooling/config.json": {
            **pooling,
            "pooling_mode": config.pooling,
            **booleans,
            "include_prompt": True,
        },
        "config_sentence_transformers.json": texts,
        "sentence_bert_config.json": {"max_seq_length": config.max_tokens, "do_lower_case": False},
    }
    if config.normalize:
        (folder / "2_Normalize").mkdir(exist_ok=True)
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _json(*paths: Path) -> Any:
    for path in paths:
        if path.is_file():
            try:
                return json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise TokayError(f"{path} is not JSON: {error}") from error
    return {}


def position_limits(backbone: nn.Module, tokenizer: Any) -> list[int]:
    """What bounds the length of a text, in tokens: the tokenizer's limit and the backbone's positions."""
    limits = [int(min(tokenizer.model_max_length, 10**9))]
    positions = getattr(backbone.config, "max_position_embeddings", None)
    if positions:  # RoBERTa's positions start behind the padding index
        offset = 2 if getattr(backbone.config, "model_type", "") in ("roberta", "xlm-roberta", "camembert") else 0
        limits.append(int(positions) - offset)
    return limits


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
