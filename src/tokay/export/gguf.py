"""How to get the same vectors out of llama.cpp: what its converter loses, and how to see that it did not."""

from __future__ import annotations

from pathlib import Path

from tokay.models.torch_embedder import TorchEmbedder

_PROBE = "How do I open a file without overwriting it?"
_POOLING = {"mean": "mean", "cls": "cls", "lasttoken": "last"}


def gguf_notes(embedder: TorchEmbedder, folder: Path) -> str:
    """A page for one model: commands, the settings that must be given, and five numbers to compare with."""
    config = embedder.config
    vector = embedder.encode([_PROBE], kind="query")[0]
    numbers = ", ".join(f"{x:+.4f}" for x in vector[:5])
    pooling = _POOLING[config.pooling]
    widths = ", ".join(map(str, config.dims)) or "the full one"
    maps = ", ".join(map(str, config.steps))
    behind = f"- **Behind pooling** stand {maps}: see that the converter takes them.\n" if maps else ""
    return f"""# {folder.resolve().name} as GGUF

These are notes: Tokay does not write GGUF itself, and did not run the commands below.

```
python llama.cpp/convert_hf_to_gguf.py {folder.resolve()} --outtype f16 --outfile model.gguf
llama-server -m model.gguf --embeddings --pooling {pooling} \\
    --ctx-size {config.max_tokens} --ubatch-size {config.max_tokens}
```

What a GGUF file does not carry, and what therefore has to be said:

- **Pooling** is `{pooling}`: give `--pooling {pooling}`; a converter that does not find it takes none.
{behind}- **Prompts** are the client's business: {config.prompts.query!r} stands before queries,
  {config.prompts.passage!r} before passages.
- **Length**: texts are cut at {config.max_tokens} tokens. llama.cpp refuses longer ones unless the batch has room.
- **Normalisation**: llama-server gives unit vectors on `/v1/embeddings`; `llama-embedding` with `--embd-normalize 2`.
- **Widths**: {widths}; cut on the client's side, and bring to length 1 again.

To see that nothing was lost, embed this query (with its prompt) and compare:

> {config.prompts.write_query(_PROBE)}

The first of its {len(vector)} numbers are {numbers}; the cosine with the whole vector should be above 0.999 in f16.
"""
