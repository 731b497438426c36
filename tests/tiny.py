"""A two-layer BERT and a two-layer Llama with a word tokenizer, saved as folders of every shape. Made once."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

WORDS = """a an and are as ask at be by can close copy count data do does each empty end error file find first for
from get give has have how i if in into is it item join keep key last length line list load make many map match
memory more move name new next no not number of on one open or order out path point put read remove return run save
search send set size sort split start step stop string text than that the their them then this time to token two
under unit up update use value wait want what when where which who why will with word write you zip query passage
title task result none alpha beta gamma delta river stone cloud flame glass iron maple ocean pearl quartz""".split()


@functools.cache
def tiny_base(
    pooling: str = "mean", *, normalize: bool = True, prompts: tuple[str, str] = ("", ""), seed: int = 0
) -> Path:
    """A sentence-transformers folder with random weights: 2 layers, 32 dims, 64 positions."""
    import torch
    from transformers import BertConfig, BertModel

    from tokay.models.folder import EmbedderConfig, write_config
    from tokay.models.format import InputFormat

    folder = Path(tempfile.mkdtemp(prefix="tokay-tiny-"))
    tokenizer = _tokenizer("[CLS] $A [SEP]", 64)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        )
    ).save_pretrained(folder)
    config = EmbedderConfig(pooling, normalize, 64, InputFormat(*prompts))  # type: ignore[arg-type]
    write_config(folder, config, width=32)
    return folder


TEMPLATE = """{% for m in messages %}{% if m.role == 'system' and refuse %}{{ raise_exception('no system') }}{% endif %}[{{ m.role }}] {{ m.content }} [SEP]{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"""


@functools.cache
def tiny_lm(*, template: str = "", positions: int = 512, family: str = "llama", seed: int = 0) -> Path:
    """A causal LM with random weights: 2 layers, 32 dims; its tokenizer puts ``[CLS]`` first."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = Path(tempfile.mkdtemp(prefix="tokay-tiny-lm-"))
    tokenizer = _tokenizer("[CLS] $A", positions)
    tokenizer.eos_token = "[SEP]"
    if template:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        max_position_embeddings=positions,
        initializer_range=0.5,  # so that its answers differ
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def _tokenizer(template: str, limit: int) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    pieces = [*letters, *(f"##{c}" for c in letters), *WORDS]
    vocabulary = {t: i for i, t in enumerate(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template,
        special_tokens=[(t, vocabulary[t]) for t in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=limit,
    )


def old_pooling_only(folder: Path) -> None:
    """Rewrite a folder's pooling config as releases before sentence-transformers 5.4 wrote it."""
    path = folder / "1_Pooling" / "config.json"
    entries = json.loads(path.read_text())
    kept = {k: v for k, v in entries.items() if k == "word_embedding_dimension" or k.startswith("pooling_mode_")}
    path.write_text(json.dumps(kept))


def with_steps(folder: Path, steps: Any, *, normalize: bool = True, seed: int = 0) -> Path:
    """The tiny base with maps of random weights behind pooling, as Tokay writes it."""
    import torch

    from tokay.models.head import Head
    from tokay.models.torch_embedder import TorchEmbedder

    model = TorchEmbedder.load(tiny_base(normalize=normalize), device="cpu")
    torch.manual_seed(seed)
    model.head = Head(steps)
    model.config = dataclasses.replace(model.config, steps=tuple(steps))
    model.save(folder)
    return folder
