"""Claim: over 100,000 passages the page of 'tokay explore' paints in under 1 s, and a filter answers in under 200 ms.

The run is made of drawn words, without a model: passages of --words words each (as many as a chunk of a run has),
queries of a fifth as many passages, ten candidates and their grades for two of three queries. The index is made once;
then each list is asked over HTTP on this machine, first pages with their counts and pages in the middle, every filter
and some words: common ones, rare ones, none. First paint is the browser's own mark (first-contentful-paint) of an
address just opened, and 'rows there' is when the list's first row can be read; --no-browser leaves both out.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import httpx

from browser import browser, missing, page
from common import arguments, table
from exploring import exploring, opened
from made_run import made_run
from tokay.explore.cache import cache_of
from tokay.store import Run

LISTS: dict[str, list[dict[str, str]]] = {
    "/api/passages": [
        {},
        {"text": "river"},
        {"text": "river stone cloud"},
        {"text": '"river stone"'},
        {"text": "p99999"},
        {"text": "nowhere"},
        {"text": "ri"},
        {"text": "river", "part": "test", "use": "negative"},
        {"part": "dev"},
        {"use": "unused"},
        {"use": "positive", "part": "test"},
        {"document": "d20000"},
    ],
    "/api/queries": [
        {},
        {"text": "river"},
        {"text": "nowhere"},
        {"sort": "losses"},
        {"sort": "wins", "text": "river"},
        {"state": "no row"},
        {"state": "relabelled", "part": "train"},
    ],
    "/api/pairs": [
        {},
        {"text": "river"},
        {"text": "p99990"},
        {"text": "nowhere"},
        {"grade": "2"},
        {"grade": "unjudged", "role": "none"},
        {"odd": "near but wrong"},
        {"odd": "words only", "grade": "3"},
        {"odd": "meaning only", "text": "river", "role": "negative"},
    ],
}


def main() -> None:
    """Print the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="passages")
    parser.add_argument("--words", type=int, default=120, help="of a passage")
    parser.add_argument("--times", type=int, default=5, help="that each list is asked")
    parser.add_argument("--no-browser", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tokay-bench-explore-") as folder:
        path = Path(folder) / "run"
        made_run(path, passages=options.rows, queries=options.rows // 5, candidates=10, words=options.words)
        run = Run(path, writable=False)
        began = time.perf_counter()
        cache = cache_of(run)
        made = time.perf_counter() - began
        pairs = run.rows("mine", "candidates")
        print(
            f"{options.rows:,} passages, {options.rows // 5:,} queries, {pairs:,} candidates; "
            f"index made in {made:.1f} s, {cache.stat().st_size / 1e6:.0f} MB"
        )
        with exploring(path) as address:
            with opened(address) as client:
                lists(client, options.times)
            if not options.no_browser:
                paints(address, options.times)


def lists(client: httpx.Client, times: int) -> None:
    """What each list takes over HTTP."""
    rows = []
    for path, filters in LISTS.items():
        first, later = [], []
        for asked in filters:
            next_page = ""
            for _ in range(times):
                took, found = timed(client, path, asked)
                first.append((took, asked))
                next_page = found["next"]
            for _ in range(times if next_page else 0):
                took, found = timed(client, path, {**asked, "after": next_page})
                later.append((took, asked))
                next_page = found["next"] or next_page
        rows += [figures(path, "first page and count", first), figures(path, "later pages", later)]
    queries = client.get("/api/run").json()["counts"]["queries"]
    for n in (1, queries // 2, queries - 1):
        path = f"/api/queries/{n}"
        rows.append(figures(path, "one query", [(timed(client, path, {})[0], {}) for _ in range(times)]))
    head = ["list", "", "requests", "median ms", "slowest ms", "median CPU ms", "slowest CPU ms", "whose filter is"]
    table(head, rows)


Took = tuple[float, float]
"""Milliseconds on the clock, and of the CPU: client and server are one process."""


def figures(path: str, what: str, taken: list[tuple[Took, dict[str, str]]]) -> list[object]:
    """A row of the table."""
    clock, cpu = ([took[kind] for took, _ in taken] for kind in (0, 1))
    numbers = [f"{of(kind):.0f}" for kind in (clock, cpu) for of in (statistics.median, max)]
    return [path, what, len(taken), *numbers, max(taken, key=lambda one: one[0][1])[1] or ""]


def timed(client: httpx.Client, path: str, asked: dict[str, str]) -> tuple[Took, dict[str, str]]:
    """A request: what it took, and what it gave."""
    began, worked = time.perf_counter(), time.process_time()
    answer = client.get(path, params=asked)
    took = (time.perf_counter() - began) * 1000, (time.process_time() - worked) * 1000
    answer.raise_for_status()
    return took, answer.json()


def paints(address: str, times: int) -> None:
    """First paint and rows, in a browser."""
    if why := missing():
        print(f"first paint is not measured: {why}")
        return
    rows = []
    with browser() as opened_browser:
        for view in ("", "passages", "queries", "candidates"):
            paint, there = [], []
            for _ in range(times):
                with page(opened_browser, address) as shown:
                    shown.wait_for_selector("main .cards")
                    shown.goto(address.split("?")[0] + f"#/{view}")
                    shown.reload()
                    shown.wait_for_selector("main .cards" if not view else "main .list li")
                    there.append(shown.evaluate("performance.now()"))
                    mark = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
                    paint.append(shown.evaluate(mark))
            figures = [f"{of(taken):.0f}" for taken in (paint, there) for of in (statistics.median, max)]
            rows.append([view or "overview", *figures])
    table(["view", "first paint, median ms", "slowest", "rows there, median ms", "slowest"], rows)


if __name__ == "__main__":
    main()
