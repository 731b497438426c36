"""A cross-encoder in torch: a backbone with one output, what training changes, and CrossEncoder folders out."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from tokay.errors import MissingExtra, TokayError, first_line

try:
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise MissingExtra("a reranker in torch", "embed", "torch") from error

from tokay.models.cross_encoder import CrossEncoder, check_folder
from tokay.models.layers import layers_of
from tokay.models.locate import find_model
from tokay.models.running import Ids, Run, Vectors
from tokay.models.torch_embedder import TorchEmbedder, position_limits, threads_shared, tokens_of

DType = Literal["float32", "bfloat16"]


class TorchCrossEncoder(CrossEncoder, nn.Module):
    """The default back-end, and the only one that can be trained.

    Attributes:
        backbone: a transformers sequence classifier with one output.
        dtype: of products when it scores; on a GPU always bfloat16.
    """

    def __init__(self, backbone: Any, tokenizer: Any, *, max_tokens: int = 0, dtype: DType = "float32") -> None:
        nn.Module.__init__(self)
        self.backbone: Any = backbone
        self.tokenizer = tokenizer
        self.tokens = tokens_of(tokenizer)
        limits = position_limits(backbone, tokenizer)
        self.max_tokens = min(max_tokens or 10**9, *limits)
        self.dtype: DType = dtype
        self.has_types = "token_type_ids" in tokenizer.model_input_names
        self.cores = torch.get_num_threads()

    # -- loading and saving ---------------------------------------------------------------------------------------

    @classmethod
    def load(  # type: ignore[override]  # the base class chooses the back-end, this is one
        cls,
        name_or_path: str | Path,
        *,
        device: str | None = None,
        threads: int | None = None,
        dtype: DType = "float32",
    ) -> TorchCrossEncoder:
        """As ``CrossEncoder.load``."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()  # of loading weights, onto stderr: the library is silent
        if threads:
            torch.set_num_threads(threads)
        folder = find_model(name_or_path)
        check_folder(folder)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            backbone = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            raise TokayError(f"{folder} cannot be loaded as a cross-encoder: {first_line(error)}") from error
        model = cls(backbone, tokenizer, dtype=dtype)
        try:
            return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
        except (AssertionError, RuntimeError) as error:
            raise TokayError(f"device {device!r} cannot be used: {first_line(error)}; leave it out, or cpu") from error

    @classmethod
    def on_top_of(
        cls, embedder: TorchEmbedder, *, layers: int = 0, max_tokens: int = 0, seed: int = 0
    ) -> TorchCrossEncoder:
        """A new one: an embedder's backbone, its first layers or all of them, under a head that knows nothing yet.

        Args:
            embedder: left as it is.
            layers: how many of the backbone's layers are kept, the first ones; 0: all.
            max_tokens: where pairs are cut; 0: as many as the backbone takes.
            seed: of the head's numbers.

        Raises:
            TokayError: the backbone has no classifier in transformers, or fewer layers.
        """
        from transformers import AutoModelForSequenceClassification

        config = copy.deepcopy(embedder.backbone.config)
        config.num_labels = 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                backbone = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
            except ValueError as error:
                kind = type(embedder.backbone).__name__
                raise TokayError(
                    f"{kind} has no sequence classifier in transformers; name another base for the reranker (--base)"
                ) from error
        inside = backbone.base_model
        known = {name: value for name, value in embedder.backbone.state_dict().items() if name in inside.state_dict()}
        inside.load_state_dict(known, strict=False)  # some classifiers leave out the pooler that a model has alone
        keep_layers(backbone, layers)
        tokenizer = copy.deepcopy(embedder.tokenizer)
        tokenizer.model_max_length = max_tokens or 10**9  # the embedder's cut is not that of pairs
        return cls(backbone, tokenizer, max_tokens=max_tokens).to(embedder.device).eval()

    def save(self, folder: Path) -> None:
        """Write a folder that ``sentence_transformers.CrossEncoder(folder)`` loads with the same scores."""
        folder.mkdir(parents=True, exist_ok=True)
        self.backbone.config.sentence_transformers = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
        self.backbone.save_pretrained(folder)
        self.tokenizer.model_max_length = self.max_tokens
        self.tokenizer.backend_tokenizer.no_truncation()
        self.tokenizer.backend_tokenizer.no_padding()
        self.tokenizer.save_pretrained(folder)

    @property
    def layers(self) -> int:
        """How many layers the backbone has."""
        return len(layers_of(self.backbone))

    @property
    def head(self) -> nn.Linear:
        """The last linear map, which gives the logit."""
        return next(m for m in reversed(list(self.backbone.modules())) if isinstance(m, nn.Linear))

    @torch.no_grad()
    def scale_logits(self, scale: float, shift: float) -> None:
        """Make every logit x from here on ``scale * x + shift``, by the head's own weights."""
        head = self.head
        if head.bias is None:
            head.bias = nn.Parameter(torch.zeros(head.out_features, device=head.weight.device))
        head.weight.mul_(scale)
        head.bias.mul_(scale).add_(shift)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        parameter: Tensor = next(self.backbone.parameters())
        return parameter.device

    # -- token ids to logits --------------------------------------------------------------------------------------

    def forward(self, ids: Sequence[Any]) -> Tensor:
        """Logits of N pairs' token ids, padded to the longest: (N, 1)."""
        tokens, mask = (torch.from_numpy(array).to(self.device) for array in self.tokens.padded(ids))  # (N, L)
        types = {"token_type_ids": torch.from_numpy(self.tokens.types(ids)).to(self.device)} if self.has_types else {}
        logits: Tensor = self.backbone(input_ids=tokens, attention_mask=mask, **types).logits
        return logits

    @torch.inference_mode()
    def run(self, ids: Ids) -> Vectors:
        """As ``CrossEncoder.run``; on a GPU in bfloat16."""
        device = self.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda" or self.dtype == "bfloat16"):
            return self(ids).float().cpu().numpy()  # type: ignore[no-any-return]

    @property
    def threads(self) -> int:
        """Cores that one call of ``run`` uses; 0 on a GPU."""
        return self.cores if self.device.type == "cpu" else 0

    @contextlib.contextmanager
    def shared(self, workers: int) -> Iterator[Run]:
        """As ``CrossEncoder.shared``; torch counts threads for the whole process, so this is undone at the end."""
        with threads_shared(self.cores, workers):
            yield self.run


def keep_layers(backbone: Any, count: int) -> None:
    """Drop all but the first ``count`` layers of a transformers model, in place; 0: keep all.

    Raises:
        TokayError: it has fewer.
    """
    layers = layers_of(backbone)
    if count > len(layers):
        raise TokayError(f"rerank.layers is {count} and the base has {len(layers)} layers; keep that many at most")
    if count:
        del layers[count:]
        backbone.config.num_hidden_layers = count


def is_cross_encoder(folder: Path) -> bool:
    """Whether a folder is one that ``load`` takes."""
    try:
        check_folder(folder)
    except TokayError:
        return False
    return True
