"""Claim: at 150 tokens a passage, listwise asked twice takes at most half of pointwise's tokens, the cascade a third.

Each judge judges recorded queries of Python's manual, N = 20 candidates each, through its own code path. The model
behind it is simulated: it answers with the recorded grades, one in ten replaced by a random one. So the agreement
says what a judge makes of noise; it says nothing of any LLM.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from common import arguments, table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from simulated import SimulatedJudge
from tokay import open_run
from tokay.annotate.judge import make_judge
from tokay.llm.estimate import token_counter
from tokay.llm.probe import Abilities
from tokay.models.locate import find_model
from tokay.records import Candidate, Judgment, Passage, Query, Rating
from tokay.settings import JudgeSettings
from tokay.store import Run

N = 20
NOISE = 0.1
CACHED = 0.1
"""Price of a cached prompt token against that of a fresh one: a discount of 90 % (50 to 90 are usual)."""

ANSWER = {"gecko": 1, "relevance": 1, "pointwise": 1, "listwise": 5, "cascade": 5}
"""Completion tokens a grade: one label, or ``"12": 3, `` in JSON."""

ABLE = Abilities(likelihood="local", first_logprobs=4)


def main() -> None:
    """Print one table for tokens, one for agreement."""
    parser = arguments(__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a finished run of the demo")
    parser.add_argument("--queries", type=int, default=200)
    options = parser.parse_args()
    if not (options.run / "manifest.json").is_file():
        print(f"bench_judges: skipped, {options.run} is no finished run (make demo makes one)", file=sys.stderr)
        return
    run = open_run(options.run)
    items, truth = recorded(run, options.queries)
    count = token_counter(find_model("minilm"))
    rows = []
    for tokens in (50, 150, 500):
        cut = [(q, [of_length(p, tokens, count) for p in ps]) for q, ps in items[:20]]
        totals = {by: spent(by, cut, truth, count) for by in ANSWER}
        for by, (prompt, cached, completion) in totals.items():
            price = prompt - cached + CACHED * cached
            figures = [f"{x:,.0f}" for x in (prompt, prompt - cached, completion, price)]
            rows.append([tokens, by, *figures, f"{prompt / totals['pointwise'][0]:.2f}"])
    print(f"Tokens per training example, N = {N}; price in fresh prompt tokens, cached ones at {CACHED:.0%}")
    table(["passage", "judge", "prompt", "uncached", "answer", "price", "prompt to pointwise"], rows)
    print(f"\nAgreement with the recorded grades, {len(items)} queries, {NOISE:.0%} of grades replaced at random")
    found = [[by, *agreement(by, items, truth)] for by in ANSWER]
    table(["judge", "same grade", "relevant or not", "same positive"], found)


def recorded(run: Run, wanted: int) -> tuple[list[tuple[Query, list[Passage]]], dict[str, dict[str, int]]]:
    """Judged queries with N candidates each (the judged ones, then the base's own next), and their grades by title."""
    passages = {p.passage_id: p for p in run.table("corpus", "passages", Passage)}
    queries = {q.query_id: q for q in run.table("generate", "queries", Query) if q.judged}
    grades: dict[str, dict[str, int]] = {}
    for j in run.table("judge", "judgments", Judgment):
        grades.setdefault(j.query_id, {})[j.passage_id] = j.grade
    ranked: dict[str, list[str]] = {}
    for c in sorted(run.table("mine", "candidates", Candidate), key=lambda c: c.rank):
        ranked.setdefault(c.query_id, []).append(c.passage_id)
    others = list(passages)
    items = []
    truth: dict[str, dict[str, int]] = {}
    for n, (query_id, ids) in enumerate(list(ranked.items())[:wanted]):
        filled = list(dict.fromkeys([*ids, *others[31 * n % len(others) :][: 2 * N]]))[:N]
        items.append((queries[query_id], [passages[p] for p in filled]))
        truth[queries[query_id].text] = {passages[p].title: g for p, g in grades[query_id].items()}
    return items, truth


def of_length(passage: Passage, tokens: int, count: Callable[[str], int]) -> Passage:
    """The passage repeated or cut to this many tokens."""
    words = (passage.text + " ").split(" ") * (1 + tokens)
    low, high = 1, len(words)
    while low < high:  # the longest run of words within the budget
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(" ".join(words[:middle])) <= tokens else (low, middle - 1)
    text = " ".join(words[:low])
    return Passage(passage.passage_id, passage.document_id, passage.title[:60], text, "", "")


def judged(
    by: str, items: list[tuple[Query, list[Passage]]], truth: dict[str, dict[str, int]], noise: float
) -> tuple[list[list[Judgment]], SimulatedJudge]:
    """Every query's judgments, and the model that was asked."""
    chat = SimulatedJudge(truth, noise=noise)
    judge = make_judge(JudgeSettings(by=by, passage_chars=100_000), ABLE, chat)  # type: ignore[arg-type]

    async def one(query: Query, passages: list[Passage]) -> list[Judgment]:
        ratings = [r for r in await judge.rate(chat, query, passages) if isinstance(r, Rating)]
        return judge.decide(query, [p.passage_id for p in passages], ratings)

    async def everything() -> list[list[Judgment]]:
        return [await one(q, ps) for q, ps in items]

    return asyncio.run(everything()), chat


def spent(
    by: str, items: list[tuple[Query, list[Passage]]], truth: dict[str, dict[str, int]], count: Callable[[str], int]
) -> tuple[float, float, float]:
    """Prompt, cached and completion tokens per query.

    Cached is what a prefix cache would serve: the longest prefix that an earlier prompt of this query, or the same
    prompt's fixed part of an earlier query, has in common with it.
    """
    short = {text: {title[:60]: g for title, g in by_title.items()} for text, by_title in truth.items()}
    decided, chat = judged(by, items, short, NOISE)
    prompt = cached = 0
    seen: list[str] = []
    for text in chat.sent:
        prompt += count(text)
        common = max((shared(text, old) for old in seen[-2 * N :] + seen[:2]), default=0)
        cached += count(text[:common])
        seen.append(text)
    labels = {"gecko": 5, "relevance": 4}.get(by, 1)  # continuations are prompt tokens, too
    answers = sum(len(d) for d in decided) * ANSWER[by] * (labels if by in ("gecko", "relevance") else 1)
    return prompt / len(items), cached / len(items), answers / len(items)


def shared(a: str, b: str) -> int:
    """Length of the common prefix, by bisection."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    return low


def agreement(by: str, items: list[tuple[Query, list[Passage]]], truth: dict[str, dict[str, int]]) -> list[str]:
    """Shares of equal grades, of equal sides of grade 2, and of equal positives."""
    decided, _ = judged(by, items, truth, NOISE)
    counts: Counter[str] = Counter()
    for (query, passages), found in zip(items, decided, strict=True):
        titles = {p.passage_id: p.title for p in passages}
        true = {p: truth[query.text].get(titles[p], 0) for p in titles}
        for j in found:
            counts["grade"] += j.grade == true[j.passage_id]
            counts["side"] += (j.grade >= 2) == (true[j.passage_id] >= 2)
            counts["all"] += 1
        best = [j.passage_id for j in found if j.best]
        counts["best"] += bool(best) and true[best[0]] == max(true.values())
    shares = counts["grade"] / counts["all"], counts["side"] / counts["all"], counts["best"] / len(items)
    return [f"{share:.1%}" for share in shares]


if __name__ == "__main__":
    main()
