"""The model card: what was trained on what, by which settings, and what came of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import tokay
from tokay.models.locate import is_hub_name
from tokay.settings import TrainSettings

_METRICS = ("ndcg@10", "recall@10", "recall@100", "mrr")


def card(
    tuned: Mapping[str, Any], settings: TrainSettings, *, data: str, dims: tuple[int, ...], verdict: Mapping[str, Any]
) -> str:
    """README.md of a model folder.

    Args:
        tuned: ``tuned.json``, as ``tune`` left it.
        settings: that made it.
        data: one line on where the rows came from.
        dims: Matryoshka widths.
        verdict: of the run; empty: the model was not evaluated.
    """
    base = str(tuned["base"])
    on_hub = {"base_model": base} if is_hub_name(base) and re.fullmatch(r"[\w.-]+/[\w.-]+", base) else {}
    head = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "feature-extraction", "sentence-similarity", "tokay"],
        **on_hub,
    }
    plain = TrainSettings().model_dump(mode="json")
    changed = {name: value for name, value in settings.model_dump(mode="json").items() if value != plain[name]}
    lines = [
        "---",
        *(f"{name}: {json.dumps(value)}" for name, value in head.items()),
        "---",
        f"# {_code(base)}, tuned by Tokay {tokay.__version__}",
        "",
        f"Vectors of {dims[0] if dims else '?'} numbers, cut to {', '.join(map(str, dims[1:])) or 'no other width'} "
        "without training again (Matryoshka). Compare by cosine.",
        "",
        "```python",
        "from sentence_transformers import SentenceTransformer",
        "",
        'model = SentenceTransformer("THIS FOLDER")',
        'queries, passages = model.encode_query(["…"]), model.encode_document(["…"])',
        "```",
        "",
        "## Results",
        "",
        *_results(verdict),
        *_general(verdict.get("general")),
        "",
        "## Training",
        "",
        f"- Data: {' '.join(data.split())}",
        *(f"- {_code(name)}: {count:,} rows planned" for name, count in tuned["sources"].items()),
        f"- {tuned['steps']:,} of {tuned['planned']:,} steps, {tuned['runs']} run(s), {tuned['tokens']:,} tokens, "
        f"{tuned['useful']:.1%} of the computed ones; {tuned['seconds']:,.0f} s in {tuned['precision']}",
        f"- {tuned['trainable']:,} of {tuned['parameters']:,} parameters trained; weight of the tuned model against "
        f"its base: {tuned['soup']:g}",
        f"- Settings {_code(tuned['settings'])}; other than the defaults of this version: "
        + (", ".join(f"{k} = {_code(json.dumps(v))}" for k, v in changed.items()) or "none"),
    ]
    return "\n".join(lines) + "\n"


def _results(verdict: Mapping[str, Any]) -> list[str]:
    if not verdict:
        return ["Not evaluated."]
    rows = [f"| {r['label']} | " + " | ".join(f"{r[m]:.3f}" for m in _METRICS) + " |" for r in verdict["rows"]]
    return [
        f"{verdict['queries']} queries of held-out documents. {verdict['sentence']}",
        "",
        "| system | nDCG@10 | Recall@10 | Recall@100 | MRR |",
        "|---|---|---|---|---|",
        *rows,
    ]


def _general(general: Mapping[str, Any] | None) -> list[str]:
    """What became of the base's general ability, a warning first."""
    if not general:
        return []
    warned = "**Warning.** " if general["fell"] else ""
    return ["", f"{warned}{general['sentence']}"]


def _code(text: str) -> str:
    """As code, whatever it holds."""
    return "`" + re.sub(r"[`\s|]+", " ", text).strip() + "`"
