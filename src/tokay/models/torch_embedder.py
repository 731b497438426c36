"""An embedder in torch: backbone, pooling, maps behind it; what training changes, sentence-transformers folders out.

Letters: N texts, L tokens, D width of the backbone, W width of the model: D, unless a Dense module behind pooling says
otherwise.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokay.errors import MissingExtra, TokayError, first_line

try:
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise MissingExtra("a model in torch", "embed", "torch") from error

from tokay.models.adapted import adapted, base_of, dims_of, is_adapter
from tokay.models.batching import by_token_budget
from tokay.models.embedder import Embedder
from tokay.models.folder import EmbedderConfig, Pooling, read_config, write_config
from tokay.models.head import Head
from tokay.models.layers import weights_print
from tokay.models.locate import EXPORT, find_model, is_hub_name, is_run
from tokay.models.once import once, state_of
from tokay.models.precision import Calibration
from tokay.models.reft_bank import Bank, Row, join
from tokay.models.reft_model import ReftModel, edit_pooled
from tokay.models.running import Ids, Run, Runner, Vectors
from tokay.models.sharing import keep_once
from tokay.models.space import ABOUT, recorded, vector_space
from tokay.models.tokens import Tokens

os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
"""oneDNN keeps its last 1,024 products, one for each shape, with their memory; texts have many shapes, and a training
in bf16 grew by a gigabyte. Read when the first one is made."""


class TorchEmbedder(Embedder, nn.Module):
    """The default back-end, and the only one that can be trained."""

    tokens_per_batch = 1024

    def __init__(self, backbone: Any, tokenizer: Any, config: EmbedderConfig, head: Head | None = None) -> None:
        nn.Module.__init__(self)
        self.backbone: Any = backbone  # a transformers model
        self.head = head or Head(config.steps)
        self.tokenizer = tokenizer
        self.config = config
        self.tokens = tokens_of(tokenizer)
        self.cores = torch.get_num_threads()
        self.bank: tuple[Bank, int] | None = None

    # -- loading and saving ---------------------------------------------------------------------------------------

    @classmethod
    def load(  # type: ignore[override]  # the base class chooses the back-end, this is one
        cls, name_or_path: str | Path, *, device: str | None = None, threads: int | None = None, merge: bool = True
    ) -> TorchEmbedder:
        """As ``Embedder.load``."""
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()  # of loading weights, onto stderr: the library is silent
        if threads:
            torch.set_num_threads(threads)
        folder = find_model(name_or_path)
        if is_adapter(folder):
            return cls._load_adapted(folder, device, merge=merge)
        config, backbone_folder = read_config(folder)
        try:
            tokenizer = AutoTokenizer.from_pretrained(backbone_folder)
            backbone = AutoModel.from_pretrained(backbone_folder, dtype=torch.float32, use_safetensors=True)
        except (OSError, ValueError, KeyError) as error:
            raise TokayError(f"{folder} cannot be loaded as a transformers model: {first_line(error)}") from error
        heads = [name for name in backbone.config.architectures or () if name.endswith("ForSequenceClassification")]
        if heads and not (folder / "modules.json").is_file():
            raise TokayError(
                f"{folder} is a classifier or a cross-encoder ({heads[0]}), whose vectors mean nothing; name an "
                "embedder, or use this one as a reranker (docs/rerank.md)"
            )
        limit = min(config.max_tokens or 10**9, *position_limits(backbone, tokenizer))
        head = Head.load(folder, config.steps, width=int(backbone.config.hidden_size))
        embedder = cls(backbone, tokenizer, dataclasses.replace(config, max_tokens=limit), head)
        embedder.calibration = Calibration.load(folder) or _of_export(Path(name_or_path).expanduser(), folder)
        try:
            return embedder.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
        except (AssertionError, RuntimeError) as error:
            raise TokayError(f"device {device!r} cannot be used: {first_line(error)}; leave it out, or cpu") from error

    @classmethod
    def _load_adapted(cls, folder: Path, device: str | None, *, merge: bool) -> TorchEmbedder:
        """The base that an adapter names, with the adapter in it and the adapter's own small files."""
        name = base_of(folder)
        base = find_model(name)
        files = [] if is_adapter(base) else sorted(read_config(base)[1].glob("*.safetensors"))
        read = state_of(files)
        embedder = cls.load(base if is_hub_name(name) else name, device=device)  # the Hub is asked once
        backbone = embedder.backbone

        def base_print() -> str:
            return once("weights", files, lambda: weights_print(backbone), read=read)

        embedder.backbone = adapted(backbone, folder, merge=merge, base_print=base_print)
        if (folder / "modules.json").is_file():
            sizes, _ = read_config(folder)
            limit = min(sizes.max_tokens or 10**9, embedder.config.max_tokens)
            embedder.config = dataclasses.replace(sizes, max_tokens=limit, dims=dims_of(folder))
            embedder.head = Head.load(folder, sizes.steps, width=embedder.hidden_width).to(embedder.device)
        return embedder.eval()

    def save(self, folder: Path) -> None:
        """Write a folder that ``SentenceTransformer(folder)`` loads with the same prompts and the same vectors.

        Pooling is written in both forms: sentence-transformers >= 5.4 reads ``pooling_mode``, text-embeddings-
        inference and older releases read the booleans. ``is_matryoshka`` is what vLLM asks for ``dimensions``.

        A model with edits of its hidden states is written as those, which ``load`` puts over its base by name: no other
        library would run them, and none must take the base for the model.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(self.backbone, ReftModel):
            self.backbone.save_pretrained(folder, dims=self.config.dims)
            return self.save_sizes(folder)
        self.backbone.config.is_matryoshka = bool(self.config.dims)
        self.backbone.config.matryoshka_dimensions = list(self.config.dims)
        self.backbone.save_pretrained(folder)
        self.tokenizer.model_max_length = self.config.max_tokens
        self.tokenizer.backend_tokenizer.no_truncation()
        self.tokenizer.backend_tokenizer.no_padding()
        self.tokenizer.save_pretrained(folder)
        self.save_sizes(folder)

    def save_sizes(self, folder: Path) -> None:
        """Write the small files alone: pooling, prompts, cut, and the maps behind pooling with their weights."""
        write_config(folder, self.config, width=self.hidden_width)
        self.head.save(folder)

    def clone(self) -> TorchEmbedder:
        """An independent copy, weights included."""
        return TorchEmbedder(copy.deepcopy(self.backbone), self.tokenizer, self.config, copy.deepcopy(self.head))

    def keep_once(self, kept: dict[str, Any]) -> None:
        """As ``Embedder.keep_once``: tensors of the backbone, and the tokenizer, which threads may share.

        Adapters of edits over one base leave their own copy of it for a common one, which runs them together.
        """
        own = self.backbone
        if isinstance(own, ReftModel) and self.bank is None:
            self.bank = join(self, kept)
            self.backbone = self.bank[0].backbone
        if self.backbone is own:  # else it is another's, whose tensors are in ``kept`` already
            keep_once(own, kept)
        keep_once(self.head, kept)
        key = f"tokenizer {self.tokens.fingerprint()}"
        self.tokenizer, self.tokens = kept.setdefault(key, (self.tokenizer, self.tokens))

    @property
    def width(self) -> int:
        """W, the number of dimensions of a full vector."""
        return self.head.width or self.hidden_width

    @property
    def hidden_width(self) -> int:
        """D, the number of dimensions of a token vector."""
        return int(self.backbone.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        parameter: Tensor = next(self.backbone.parameters())
        return parameter.device

    # -- token ids to vectors -------------------------------------------------------------------------------------

    def forward(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Pooled vectors, not normalised: N lists of token ids -> (N, W). The texts are padded to the longest."""
        tokens, mask = (torch.from_numpy(array).to(self.device) for array in self.tokens.padded(ids))  # (N, L)
        hidden = self.backbone(input_ids=tokens, attention_mask=mask).last_hidden_state  # (N, L, D)
        pooled: Tensor = edit_pooled(self.backbone, pool(hidden, mask.bool(), self.config.pooling))
        return self.head(pooled)  # type: ignore[no-any-return]

    def forward_by_length(self, ids: Sequence[Sequence[int]], *, tokens_per_batch: int) -> Tensor:
        """As ``forward``, in micro-batches of like length, so that hardly any padding is computed: (N, W)."""
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        parts = [self([ids[i] for i in group]) for group in by_token_budget(order, ids, tokens_per_batch)]
        return torch.cat(parts)[torch.tensor(np.argsort(order), device=self.device)]

    @property
    def runner(self) -> Runner:
        """As ``Embedder.runner``."""
        return self.bank[0] if self.bank else self

    def addressed(self, ids: Ids) -> Ids:
        """As ``Embedder.addressed``."""
        return [Row(row, self.bank[1]) for row in ids] if self.bank else ids

    @torch.inference_mode()
    def run(self, ids: Ids) -> Vectors:
        """As ``Embedder.run``; on a GPU in bfloat16."""
        if self.bank:
            return self.bank[0].run(self.addressed(ids))
        device = self.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            return self(ids).float().cpu().numpy()  # type: ignore[no-any-return]

    @property
    def threads(self) -> int:
        """Cores that one call of ``run`` uses; 0 on a GPU."""
        return self.cores if self.device.type == "cpu" else 0

    @contextlib.contextmanager
    def shared(self, workers: int) -> Iterator[Run]:
        """As ``Embedder.shared``; torch counts threads for the whole process, so this is undone at the end."""
        with threads_shared(self.cores, workers):
            yield self.run


@contextlib.contextmanager
def threads_shared(cores: int, workers: int) -> Iterator[None]:
    """Torch's threads for each of some workers, meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, cores // workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    return hidden.gather(1, at[:, None, None].expand(-1, 1, hidden.shape[2])).squeeze(1)


def position_limits(backbone: nn.Module, tokenizer: Any) -> list[int]:
    """What bounds the length of a text, in tokens: the tokenizer's limit and the backbone's positions."""
    limits = [int(min(tokenizer.model_max_length, 10**9))]
    positions = getattr(backbone.config, "max_position_embeddings", None)
    if positions:  # RoBERTa's positions start behind the padding index
        offset = 2 if getattr(backbone.config, "model_type", "") in ("roberta", "xlm-roberta", "camembert") else 0
        limits.append(int(positions) - offset)
    return limits


def _of_export(path: Path, folder: Path) -> Calibration | None:
    """What ``tokay export`` measured for a run, while its model is still the same."""
    if not is_run(path) or not (path / EXPORT / ABOUT).is_file() or recorded(path / EXPORT) != vector_space(folder):
        return None
    return Calibration.load(path / EXPORT)


def tokens_of(tokenizer: Any) -> Tokens:
    """A copy of the tokenizer behind a transformers tokenizer."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise TokayError(
            f"the tokenizer {type(tokenizer).__name__} has no tokenizer.json form; choose a base that has one"
        )
    pad = tokenizer.pad_token_id
    return Tokens(copy.deepcopy(backend), pad=pad or 0, left=tokenizer.padding_side == "left")
