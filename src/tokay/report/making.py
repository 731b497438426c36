"""How the model was made: loss and dev curves, what was spent, how long it took, with which settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokay.cost import costs_of
from tokay.llm.ledger import Spent
from tokay.report import figures
from tokay.report.facts import Facts
from tokay.report.figures import Line
from tokay.report.page import Section, count, cut, escape, fold, name, note, share, table
from tokay.store import Run

SETTINGS_CHARS = 20_000
RUNNING_ORDER = (
    "corpus split generate vectors initial mine judge examples train evaluate labels refit model rerank relabel"
).split()
"""Stages as they follow on each other; the finishing times of one second do not tell."""

TRAININGS = (("initial", "The retriever that mines"), ("train", "The embedder"))
"""Stages that leave a line a step, and what they train."""

SMOOTH = 9
"""Steps over which a loss is averaged, when there are more than four times as many."""


def training(facts: Facts) -> Section:
    """The loss of every step, and what the dev queries said on the way."""
    blocks = [_curves(stage, title, facts.steps(stage)) for stage, title in TRAININGS if facts.run.is_done(stage)]
    body = "".join([*blocks, _reranker(facts.run)]) or "<p>No training left its steps.</p>"
    return Section("training", "Training", f'<div class="figures">{body}</div>{_story(facts)}')


def _curves(stage: str, title: str, steps: Sequence[Mapping[str, Any]]) -> str:
    runs = sorted({int(step.get("run", 0)) for step in steps})
    losses, looks = [], []
    for run in runs:
        mine = [step for step in steps if int(step.get("run", 0)) == run]
        label = f"run {run + 1}" if len(runs) > 1 else title.lower()
        values = smoothed([step["loss"] for step in mine])
        losses.append(Line(label, [step["step"] + 1 for step in mine], values, main=run == runs[0]))
        seen = [step for step in mine if step.get("dev") is not None]
        if seen:
            looks.append(Line(label, [s["step"] + 1 for s in seen], [s["dev"] for s in seen], main=run == runs[0]))
    drawn = ""
    if losses:
        caption = f"{title}: loss by step" + (f", mean of {SMOOTH} steps" if len(steps) > 4 * SMOOTH else "")
        drawn += figures.curves(f"loss-{stage}", caption, losses, x="step", y="loss")
    if looks:
        caption = f"{title}: nDCG@10 of dev queries by step"
        drawn += figures.curves(f"dev-{stage}", caption, looks, x="step", y="nDCG@10", dots=True)
    return drawn


def _reranker(run: Run) -> str:
    """What the dev queries said of each reranker on its way; of its losses, the last is kept."""
    if not run.is_done("rerank"):
        return ""
    looks = {f"{story['layers']} layers": story["looks"] for story in run.read_json("rerank", "training")}
    lines = [
        Line(label, [step for step, _ in seen], [value for _, value in seen], main=n == 0)
        for n, (label, seen) in enumerate(looks.items())
        if seen
    ]
    caption = "The reranker: nDCG@10 of dev queries by step"
    return figures.curves("dev-rerank", caption, lines, x="step", y="nDCG@10", dots=True) if lines else ""


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean of each value and its neighbours, ``SMOOTH`` at most; short curves stay as they are."""
    if len(values) <= 4 * SMOOTH:
        return list(values)
    half = SMOOTH // 2
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _story(facts: Facts) -> str:
    path = facts.run.path / "train" / "tuned.json"
    if not path.is_file():
        return ""
    story = facts.run.read_json("train", "tuned")
    stopped = f" of {count(story['planned'])} planned" if story["steps"] != story["planned"] else ""
    weights = "; ".join(f"weight {weight}: {value:.3f}" for weight, value in story["dev"].items())
    return note(
        f"{count(story['steps'])} steps{stopped}, {count(story['texts'])} texts and {count(story['tokens'])} tokens in "
        f"{story['seconds']:.0f} s, {escape(story['precision'])}; {share(story['trainable'] / story['parameters'])} of "
        f"{count(story['parameters'])} parameters trained."
        + (
            f" nDCG@10 of dev queries by the tuned model's weight in the average with its base: {weights}."
            if weights
            else ""
        )
        + (
            ""
            if any(step.get("dev") is not None for step in facts.steps("train"))
            else " No dev figures on the way: <code>train.patience</code> was 0, so nobody looked."
        )
    )


# -- cost -----------------------------------------------------------------------------------------------------------


def cost(run: Run) -> Section:
    """What the LLM cost by stage and training row, and how long each stage took."""
    return Section("cost", "Cost", _spent(run) + _times(run))


def _spent(run: Run) -> str:
    costs = costs_of(run)
    if costs.nothing:
        return f"<p>{escape(costs.nothing[:1].upper() + costs.nothing[1:])}.</p>"

    def cells(row: Spent) -> list[str]:
        price = "unknown" if row.price is None else f"{row.price:,.4f}{'+' if row.unpriced else ''}"
        each = f"{row.price / costs.rows:,.6f}" if row.price is not None and costs.rows else ""
        numbers = (row.answers + row.failures, row.failures, row.prompt, row.cached, row.completion)
        return [escape(row.stage), name(row.model), *map(count, numbers), price, each]

    head = [
        "stage",
        "model",
        "requests",
        "failures",
        "prompt",
        "cached",
        "completion",
        f"price {costs.currency}".strip(),
    ]
    rows = [cells(row) for row in (*costs.stages, costs.total)]
    tokens = (costs.total.prompt + costs.total.completion) / costs.rows if costs.rows else 0
    said = f"{count(costs.rows)} training rows, {tokens:,.0f} tokens each. " if costs.rows else ""
    unpriced = f" {count(costs.total.unpriced)} answers have no price." if costs.total.unpriced else ""
    return table(
        "Requests, tokens and price by stage", [*head, "a training row"], rows, words=2, marked=[len(rows) - 1]
    ) + note(f"{said}Tokens as the model counted them; cached ones are part of the prompt's.{unpriced}")


def _times(run: Run) -> str:
    manifest = run.manifest()
    stages = [(stage, manifest[stage]) for stage in RUNNING_ORDER if stage in manifest]
    total = sum(entry["seconds"] for _, entry in stages)
    rows = [
        [escape(stage), f"{entry['seconds']:,.1f} s", share(entry["seconds"] / total) if total else ""]
        for stage, entry in stages
    ]
    rows.append(["all", f"{total:,.1f} s", ""])
    return table("How long each stage took", ["stage", "took", "of all"], rows, marked=[len(rows) - 1])


def settings(run: Run) -> Section:
    """The resolved settings, and what was found out on the way."""
    chosen = run.read_json("vectors", "cut")
    tried = ", ".join(f"{tokens} tokens: {value:.3f}" for tokens, value in chosen["ndcg@10"].items()) or "not tried"
    toml = (run.path / "run.toml").read_text(encoding="utf-8")
    return Section(
        "settings",
        "Settings",
        f"<p>Texts are cut at {chosen['cut']} tokens, for base and tuned alike; nDCG@10 of the base on training-side "
        f"queries against a sample of passages: {escape(tried)}.</p>"
        + fold("run.toml", f'<pre class="raw">{cut(toml, SETTINGS_CHARS)}</pre>'),
    )
