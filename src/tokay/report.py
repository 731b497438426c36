"""report.html: one self-contained page that says whether it is better, why, and shows the data behind it.

Text of documents, queries and answers is data: all of it is escaped, and the page runs no script.
"""

from __future__ import annotations

import hashlib
import html
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokay.annotate.prompts import speaks_to_a_model
from tokay.errors import TokayError
from tokay.evaluate.slices import TITLES
from tokay.leakage import SAID, Leakage, in_training
from tokay.leaking import check_run, refusal
from tokay.records import Change, Document, Duplicate, Example, Failure, Hit, Judgment, Passage, Query, Score, Skipped
from tokay.store import Run
from tokay.trace import Trace, trace_queries

GECKO_RELABELLED = 0.15
"""Share of Gecko's training data whose positive is not the seed (2403.20327, section 3.3)."""

SHOWN = 8
SAMPLES = 12
SHOWN_CHANGES = 50
TEXT_CHARS = 700

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; --good: #1a7f37; --bad: #c0392b }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 74rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
.verdict { font-size: 1.25rem; border-left: .4rem solid var(--good); padding: .4rem 1rem; background: var(--soft) }
.verdict.no { border-color: var(--bad) }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem }
th, td:first-child { white-space: nowrap } details td:first-child { white-space: normal }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top }
td.n, th.n { text-align: right; white-space: nowrap }
details { border: 1px solid var(--line); border-radius: .3rem; padding: .4rem .8rem; margin: .5rem 0 }
summary { cursor: pointer } code { font-size: .9em; overflow-wrap: anywhere }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); padding: .5rem; margin: .3rem 0 }
.grade { display: inline-block; min-width: 1.4em; text-align: center; border-radius: .2rem; background: var(--soft) }
.bar { background: #4a7bd0; height: .7rem; float: left; margin-top: .4rem }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem }
@media print { details { break-inside: avoid } }
"""


_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def write_report(run: Run) -> Path:
    """Write ``report.html`` from the tables of a finished run; returns its path.

    Raises:
        TokayError: the run's split leaks. The page then says what leaks, and no verdict.
    """
    verdict = run.read_json("evaluate", "verdict")
    leakage = check_run(run)
    if leakage.leaks:
        _page(run, f"Tokay: {run.path.name}", [_leaks(leakage)])
        raise TokayError(refusal(run, leakage))
    parts = [
        _verdict(run, verdict),
        f"<p>{_e(leakage.sentence().capitalize())}.</p>",
        _systems("Held-out documents", verdict),
        _slices(verdict),
        *([_reranker(run)] if run.is_done("rerank") else []),
        *([_labels(run)] if run.is_done("labels") else []),
        _funnel(run),
        _examples_section(run),
        *_wins_and_losses(run, verdict),
        _settings(run),
    ]
    return _page(run, f"Tokay: {run.path.name}", parts)


def _page(run: Run, title: str, parts: Sequence[str]) -> Path:
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width"><meta name="referrer" content="no-referrer">'
        f"<title>{_e(title)}</title><style>{_STYLE}</style><h1>{_e(title)}</h1>"
    )
    return run.write_text("report.html", head + "\n".join(parts) + "</html>\n")


def write_relabel_report(run: Run) -> Path:
    """Write ``report.html`` of a relabelling: counts, and the pairs where labels and judge differ, with their texts."""
    summary = run.read_json("relabel", "summary")
    wanted: dict[str, list[Change]] = {"found": [], "doubted": []}
    for change in run.table("relabel", "changes", Change):
        if change.change in wanted and len(wanted[change.change]) < SHOWN_CHANGES:
            wanted[change.change].append(change)
    shown = [c for changes in wanted.values() for c in changes]
    queries = {q.query_id: q for q in run.table("generate", "queries", Query)}
    ids = {c.passage_id for c in shown}
    passages = {p.passage_id: p for p in run.table("corpus", "passages", Passage) if p.passage_id in ids}

    def section(title: str, changes: Sequence[Change]) -> str:
        rows = "".join(
            f"<details><summary>{_e(queries[c.query_id].text)} <small>label {c.label if c.label >= 0 else 'none'}, "
            f"grade {c.grade}</small></summary>{_passage(passages[c.passage_id])}</details>"
            for c in changes
        )
        return f"<h2>{title}</h2>{rows or '<p>None.</p>'}"

    body = [
        _table(["", "count"], [[_e(name), f"{count:,}"] for name, count in summary.items()]),
        section("Found: right answers without a label", wanted["found"]),
        section("Doubted: labels that the judge does not share", wanted["doubted"]),
    ]
    return _page(run, f"Tokay: labels of {run.path.name}", body)


def _e(text: object) -> str:
    """Escaped, with control characters, surrogates and marks that turn the reading direction made visible as U+FFFD."""
    return html.escape(_UNSEEN.sub("\ufffd", str(text)))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int = 1) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="n">{cell}</{tag}>' if i >= numbers_from else f"<{tag}>{cell}</{tag}>"
            for i, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    header = cells("th", [_e(h) for h in head])
    return f'<div class="wide"><table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>'


# -- leakage --------------------------------------------------------------------------------------------------------


def _leaks(found: Leakage) -> str:
    counts = [[_e(SAID[kind]), f"{count:,}"] for kind, count in found.counts().items()]
    shown = [
        [_e(leak["item_id"]), _e(leak["held_id"]), _e(leak["training"]), _e(leak["role"]), _e(SAID[kind])]
        for kind, leaks in found.to_json()["examples"].items()
        for leak in leaks
    ]
    return (
        '<p class="verdict no">No verdict: something that it would be measured on was in training.</p>'
        f"{_table(['what leaks', 'count'], counts)}<h2>Which</h2>"
        f"{_table(['id', 'repeats', 'training', 'as', 'what it is'], shown, numbers_from=9)}"
        "<p>Run <code>tokay distill</code> again: it makes anew what does not fit the split.</p>"
    )


# -- verdict and systems --------------------------------------------------------------------------------------------


def _verdict(run: Run, verdict: dict[str, Any]) -> str:
    settings = tomllib.loads((run.path / "run.toml").read_text(encoding="utf-8"))
    kind = "verdict" if verdict["better"] else "verdict no"
    refitted = run.is_done("refit")
    best = "the model refitted on all queries by the same recipe" if refitted else "the tuned model"
    used = best if verdict["use"] == "tuned" else "the base model: the tuned one was not shown to be better"
    refit = (
        "<p>The model refitted on all queries, the held-out ones too, is in "
        "<code>refit/model</code>. The figures here are those of the model that never saw the held-out documents.</p>"
        if refitted
        else ""
    )
    return (
        f'<p class="{kind}">{_e(verdict["sentence"])}</p>'
        f"<p>nDCG@10 on {verdict['queries']} queries of documents that training never saw. "
        f"{_e(verdict['sentence_with_bm25'])}. "
        f"<code>tokay search</code> uses {used}. "
        f"Documents <code>{_e(settings['documents'])}</code>, base <code>{_e(settings['base'])}</code>, "
        f"queries and grades by <code>{_e(settings['llm'])}</code>.</p>{_people(verdict)}{refit}"
    )


def _people(verdict: dict[str, Any]) -> str:
    """What people may expect, and how far that was checked; runs of older versions have none."""
    people = verdict.get("people")
    return f"<p>{_e(people['sentence'])}; {_e(people['checked'])}.</p>" if people else ""


def _systems(title: str, verdict: dict[str, Any]) -> str:
    rows = []
    for row in verdict["rows"]:
        c = row.get("comparison")
        difference = f"{c['difference']:+.3f} ({c['low']:+.3f} to {c['high']:+.3f})" if c else ""
        p_value = ("&lt; 0.001" if c["p_value"] < 0.001 else f"{c['p_value']:.3f}") if c else ""
        figures = [f"{row[m]:.3f}" for m in ("ndcg@10", "recall@10", "recall@100", "mrr")]
        rows.append(
            [
                _e(row["label"]),
                *figures,
                f"{row['judged@10']:.0%}",
                _e(row.get("against", "")),
                difference,
                p_value,
            ]
        )
    head = [
        "system",
        "nDCG@10",
        "Recall@10",
        "Recall@100",
        "MRR",
        "judged@10",
        "against",
        "difference (95 %)",
        "p",
    ]
    return (
        f"<h2>{_e(title)}</h2>{_table(head, rows)}<p>{_e(verdict['can_show'].capitalize())} "
        "(80 % power). Differences: paired randomisation test, bootstrap interval, queries of one passage kept "
        "together. "
        "judged@10: share of the top ten that the LLM graded; what it did not grade counts as not relevant, so a low "
        "share means that the system may be better than it looks. Weight of BM25, learned on training-side queries: "
        f"base {verdict['weights']['base']}, tuned {verdict['weights']['tuned']}.{_overlap(verdict)}</p>"
    )


def _overlap(verdict: dict[str, Any]) -> str:
    """How many of their words queries share with what BM25 finds, where it is known."""
    shares: dict[str, float] = verdict.get("overlap", {})
    said = "; ".join(f"{name} queries {share:.0%}" for name, share in shares.items())
    return f" What BM25's best hit has of a query, by rarity of the words: {said}." if said else ""


def _slices(verdict: dict[str, Any]) -> str:
    rows = []
    for name, found in verdict.get("slices", {}).items():
        c = found.get("comparison")
        figures = [f"{found[side]['ndcg@10']:.3f}" for side in ("base", "tuned")] if c else ["", ""]
        difference = f"{c['difference']:+.3f} ({c['low']:+.3f} to {c['high']:+.3f})" if c else "too few to say"
        rows.append([_e(TITLES[name]), f"{found['queries']:,}", *figures, difference])
    return (
        "<h2>Documents with and without queries in training</h2>"
        + _table(["queries of", "number", "base", "tuned", "nDCG@10 (95 %)"], rows)
        + "<p>Of documents with queries in training, those queries are measured that training did not get.</p>"
    )


def _reranker(run: Run) -> str:
    verdict = run.read_json("rerank", "verdict")
    rows = []
    for row in verdict["rows"]:
        c = row.get("comparison")
        difference = f"{c['difference']:+.3f} ({c['low']:+.3f} to {c['high']:+.3f})" if c else ""
        figures = [f"{row[m]:.3f}" for m in ("ndcg@10", "recall@10", "mrr")]
        rows.append([_e(row["label"]), *figures, f"{row['judged@10']:.0%}", f"{row['ms']:.0f}", difference])
    head = ["system", "nDCG@10", "Recall@10", "MRR", "judged@10", "ms a query, median", "difference (95 %)"]
    used = "" if verdict["use"] else " It was not shown to be better, so it is left out."
    return (
        f"<h2>Reranker</h2>{_table(head, rows)}<p>{_e(verdict['sentence'])}.{used} {verdict['layers']} layers, "
        f"{_e(verdict['backend'])}; it reads {verdict['read']:.1f} of at most {verdict['depth']} candidates, and its "
        f"weight beside the ranking is {verdict['weight']:g}, chosen on dev queries.</p>"
    )


def _labels(run: Run) -> str:
    verdict = run.read_json("labels", "verdict")
    dropped = ", ".join(f"{count} {name}" for name, count in verdict["dropped"].items() if count)
    unused = f"<p>Not used: {_e(dropped)}.</p>" if dropped else ""
    unused += f"<p>{_e(in_training(verdict['in_training']))}</p>" if "in_training" in verdict else ""
    return _systems("Your own queries", verdict) + f"<p><b>{_e(verdict['sentence'])}</b></p>{unused}"


# -- where the data came from ---------------------------------------------------------------------------------------


def _funnel(run: Run) -> str:
    documents = list(run.table("split", "documents", Document))
    duplicates = Counter(d.kind for d in run.table("corpus", "duplicates", Duplicate))
    failures = [f for stage in ("generate", "judge") for f in run.table(stage, "failures", Failure)]
    judged: set[str] = set()
    grades: Counter[int] = Counter()
    for judgment in run.table("judge", "judgments", Judgment):
        judged.add(judgment.query_id)
        grades[judgment.grade] += 1
    examples = Counter[str]()
    relabelled = judged_examples = 0
    for example in run.table("examples", "examples", Example):
        examples[example.part] += 1
        if example.query_id in judged:
            judged_examples += 1
            relabelled += example.relabelled
    counts = [
        ("inputs skipped", run.rows("corpus", "skipped")),
        ("exact duplicates removed", duplicates["exact"]),
        ("near duplicates removed", duplicates["near"]),
        ("passages", run.rows("corpus", "passages")),
        ("… of held-out documents", sum(d.passages for d in documents if d.part == "test")),
        ("queries written", run.rows("generate", "queries")),
        ("queries judged", len(judged)),
        ("grades given", sum(grades.values())),
        ("queries that something answers", sum(examples.values())),
        ("training rows", examples["train"]),
        ("rows that choices were made on", examples["dev"]),
        ("queries and answers that were not used", len(failures)),
    ]
    most = max(count for _, count in counts) or 1
    rows = [
        [_e(name), f"{count:,}", f'<span class="bar" style="width:{12 * count / most:.2f}rem"></span>']
        for name, count in counts
    ]
    share = relabelled / judged_examples if judged_examples else 0.0
    grade_text = ", ".join(f"grade {grade}: {grades[grade]:,}" for grade in sorted(grades))
    reasons = Counter((f.stage, _reason(f.reason)) for f in failures).most_common(8)
    skipped = Counter(s.reason.split(":")[0] for s in run.table("corpus", "skipped", Skipped)).most_common(8)
    return (
        f"<h2>From passages to training rows</h2>{_table(['', 'count', ''], rows, numbers_from=1)}"
        f"<p>In {relabelled} of {judged_examples} judged queries ({share:.1%}) the best answer is not the "
        f"passage that the query "
        f"was written from; in Gecko's data it is about {GECKO_RELABELLED:.0%}. {_e(grade_text)}.</p>"
        + (f"<p>Answers not used: {_e('; '.join(f'{s}: {r} ({n})' for (s, r), n in reasons))}.</p>" if reasons else "")
        + _gaps(run)
        + _flagged(run)
        + (f"<p>Inputs skipped: {_e('; '.join(f'{r} ({n})' for r, n in skipped))}.</p>" if skipped else "")
    )


def _gaps(run: Run) -> str:
    """Queries of the user's log that nothing answers: what the documents lack."""
    gaps = list(run.table("judge", "gaps", Query))
    if not gaps:
        return ""
    rows = "".join(f"<li>{_e(q.text)} <small>{_e(q.answer_id)}</small></li>" for q in gaps[:50])
    return (
        f"<h3>Gaps in the documents</h3><p>No passage answers {len(gaps)} of "
        f"{run.rows('generate', 'log')} queries of the log; they are not trained on.</p><ul>{rows}</ul>"
    )


def _flagged(run: Run) -> str:
    """Passages that speak to a model: shown to the LLM as data like all others, but worth a look."""
    found = [p.passage_id for p in run.table("corpus", "passages", Passage) if speaks_to_a_model(p.text)]
    if not found:
        return ""
    names = ", ".join(f"<code>{_e(i)}</code>" for i in found[:SHOWN])
    return f"<p>{len(found)} passages hold words that look like instructions to a language model: {names}.</p>"


def _reason(reason: str) -> str:
    """A failure's reason without its figures and names, for counting."""
    return re.split(r"[(':]", reason)[0].strip()


def _examples_section(run: Run) -> str:
    ids = [e.query_id for e in run.table("examples", "examples", Example) if e.part == "train"]
    chosen = sorted(ids, key=lambda i: hashlib.sha256(i.encode("utf-8", "surrogatepass")).digest())[:SAMPLES]
    shown = "".join(_trace(trace) for trace in trace_queries(run, chosen))
    return (
        "<h2>Training rows, at random</h2><p>Each opens to its passage, where that came from, and every grade "
        "that the LLM gave. "
        f"The same in a terminal: <code>tokay trace {_e(run.path)} QUERY_ID</code>.</p>{shown}"
    )


def _trace(trace: Trace) -> str:
    example, query = trace.example, trace.query
    positive = trace.passage(example.positive_id) if example else None
    graded = []
    for candidate, passage, judgment in trace.candidates:
        mark = str(judgment.grade) if judgment else "-"
        roles = [
            *(["seed"] if passage.passage_id == query.seed_id else []),
            *(["best"] if judgment and judgment.best else []),
            *(["positive"] if example and passage.passage_id == example.positive_id else []),
            *(["hard negative"] if example and passage.passage_id in example.negative_ids else []),
        ]
        rated = trace.ratings.get(passage.passage_id, "")
        text = f"{_e(passage.passage_id)} <small>{_e(', '.join([*roles, *([rated] if rated else [])]))}</small>"
        graded.append(
            [
                f'<span class="grade">{mark}</span>',
                f"{candidate.rank}",
                f"<details><summary>{text}</summary>{_passage(passage)}</details>",
            ]
        )
    moved = " <b>(relabelled)</b>" if example and example.relabelled else ""
    return (
        f'<details id="q-{_e(query.query_id)}"><summary>{_e(query.text)}</summary>'
        f"<p>query <code>{_e(query.query_id)}</code>; task: {_e(query.task)}; part: {query.part}; prompt: "
        f"{_e(query.prompt)}</p>"
        + (f"<p>written from <code>{_e(query.seed_id)}</code></p>{_passage(trace.seed)}" if trace.seed else "")
        + (f"<p>positive{moved}: <code>{_e(positive.passage_id)}</code></p>" if positive else "")
        + (
            _table(["grade", "rank", "candidate"], graded, numbers_from=9)
            if graded
            else "<p>Not judged: the seed is the positive.</p>"
        )
        + "<details><summary>the LLM's answers</summary>"
        + "".join(f"<p><code>{_e(place)}</code></p><pre>{_e(text)}</pre>" for place, text in trace.answers)
        + "</details><p><small>tables generate/queries.parquet, judge/judgments.parquet, examples/examples.parquet"
        "</small></p></details>"
    )


def _passage(passage: Passage) -> str:
    cut = passage.text[:TEXT_CHARS] + (" …" if len(passage.text) > TEXT_CHARS else "")
    place = "".join(
        [
            f", page {passage.page}" if passage.page else "",
            f", under {passage.heading}" if passage.heading else "",
            f", characters {passage.start} to {passage.end}",
        ]
    )
    return f"<pre><b>{_e(passage.title)}</b>\n{_e(cut)}</pre><small>{_e(passage.source)}{_e(place)}</small>"


# -- wins and losses ------------------------------------------------------------------------------------------------


def _wins_and_losses(run: Run, verdict: dict[str, Any]) -> list[str]:
    full = max(row["dim"] for row in verdict["rows"])
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for score in run.table("evaluate", "scores", Score):
        if score.metric == "ndcg@10" and score.dim == full and score.system in ("base", "tuned"):
            values[score.system][score.query_id] = score.value
    gain = {query_id: values["tuned"][query_id] - values["base"][query_id] for query_id in values["base"]}
    order = sorted(gain, key=lambda query_id: (-gain[query_id], query_id))
    wins = [q for q in order if gain[q] > 0]
    losses = [q for q in reversed(order) if gain[q] < 0]
    same = len(gain) - len(wins) - len(losses)
    hits: dict[tuple[str, str], list[Hit]] = defaultdict(list)
    shown = {*wins[:SHOWN], *losses[:SHOWN]}
    for hit in run.table("evaluate", "hits", Hit):
        if hit.query_id in shown and hit.system in (f"base @ {full}", f"tuned @ {full}") and hit.rank <= 3:
            hits[hit.system.split(" ")[0], hit.query_id].append(hit)
    needed = {hit.passage_id for found in hits.values() for hit in found}
    passages = {p.passage_id: p for p in run.table("corpus", "passages", Passage) if p.passage_id in needed}
    traces = {t.query.query_id: t for t in trace_queries(run, shown)}

    def section(title: str, ids: Sequence[str]) -> str:
        rows = "".join(_comparison(traces[q], gain[q], hits, passages) for q in ids[:SHOWN])
        return f"<h2>{title}</h2><p>{len(ids)} queries; the {min(SHOWN, len(ids))} largest.</p>{rows}"

    tie = f"<p>{same} queries have the same nDCG@10 under both.</p>"
    return [section("Biggest wins over the base", wins), section("Biggest losses", losses) + tie]


def _comparison(trace: Trace, gain: float, hits: dict[tuple[str, str], list[Hit]], passages: dict[str, Passage]) -> str:
    grades = {p.passage_id: j.grade for _, p, j in trace.candidates if j}

    def column(system: str) -> str:
        items = []
        for hit in hits[system, trace.query.query_id]:
            unjudged = "seed" if hit.passage_id == trace.query.seed_id else "unjudged"
            grade = grades.get(hit.passage_id, unjudged)
            items.append(
                f"<p>{hit.rank}. <code>{_e(hit.passage_id)}</code> <span "
                f'class="grade">{grade}</span></p>{_passage(passages[hit.passage_id])}'
            )
        return f"<div><b>{system}</b>{''.join(items)}</div>"

    return (
        f"<details><summary>{gain:+.3f} {_e(trace.query.text)}</summary>"
        f'<div class="two">{column("base")}{column("tuned")}</div>{_trace(trace)}</details>'
    )


def _in_running_order(run: Run) -> list[tuple[str, Any]]:
    """Stages as they follow on each other; the finishing times of one second do not tell."""
    order = "corpus split generate vectors initial mine judge examples train evaluate labels refit relabel".split()
    manifest = run.manifest()
    return [(name, manifest[name]) for name in order if name in manifest]


def _settings(run: Run) -> str:
    cut = run.read_json("vectors", "cut")
    toml = (run.path / "run.toml").read_text(encoding="utf-8")
    tried = ", ".join(f"{tokens} tokens: {value:.3f}" for tokens, value in cut["ndcg@10"].items()) or "not tried"
    seconds = [[_e(name), f"{entry['seconds']:.1f} s", _e(entry["finished"])] for name, entry in _in_running_order(run)]
    return (
        f"<h2>How it was made</h2><p>Texts are cut at {cut['cut']} tokens, for base and tuned alike; nDCG@10 of "
        f"the base on "
        f"training-side queries against a sample of passages: {_e(tried)}.</p>"
        f"{_table(['stage', 'took', 'finished'], seconds)}"
        f"<details><summary>run.toml</summary><pre>{_e(toml)}</pre></details>"
    )
