"""The page as people see it: a real browser, with and without light, wide, narrow, on paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from browser import (
    NARROW,
    WIDE,
    accessibility_faults,
    browser,
    needs_browser,
    page,
    screenshot,
    scrolls_sideways,
)
from report_data import HOSTILE, PLAIN, made_run
from tokay.report import write_report

pytestmark = [pytest.mark.browser, needs_browser]

PAPER = 720
"""Pixels across a sheet of A4 between its margins."""

OPEN_ALL = "document.querySelectorAll('details').forEach(d => { d.open = true })"
OPEN_TWO = """
for (const kind of ['#wins', '#suspicious']) {
  const one = document.querySelector(`${kind} > details`)
  for (const d of [one, ...[...one.querySelectorAll('details')].slice(0, 3)]) d.open = true
}
"""


@pytest.fixture(scope="module")
def opened() -> Any:
    with browser() as it:
        yield it


@pytest.fixture(scope="module", params=["plain", "hostile"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    texts = {"plain": PLAIN, "hostile": [*HOSTILE[:-1], "W" * 3_000]}[request.param]
    with made_run(tmp_path_factory.mktemp("runs") / "run", texts=texts, judge="gecko", log=("rivers",)) as run:
        return request.param, write_report(run)


@pytest.mark.parametrize(("width", "dark"), [(NARROW, False), (WIDE, False), (WIDE, True)])
def test_nothing_is_at_fault_or_wider_than_the_window(
    opened: Any, report: tuple[str, Path], width: int, dark: bool
) -> None:
    name, file = report
    with page(opened, file.as_uri(), width=width, dark=dark) as shown:
        screenshot(shown, f"report-{name}-{width}{'-dark' if dark else ''}")
        assert not scrolls_sideways(shown)
        shown.evaluate(OPEN_TWO)
        assert accessibility_faults(shown) == []
        shown.evaluate(OPEN_ALL)
        assert not scrolls_sideways(shown)


def test_it_reads_without_script_and_on_paper(opened: Any, report: tuple[str, Path]) -> None:
    name, file = report
    with page(opened, file.as_uri(), width=PAPER, script=False) as shown:
        assert "Tuned is better" in shown.locator("h1").inner_text()
        assert shown.locator("figure svg").count() >= 8
        shown.emulate_media(media="print")
        assert not shown.locator("nav").is_visible()
        screenshot(shown, f"report-{name}-print")
    with page(opened, file.as_uri(), width=PAPER) as shown:
        shown.emulate_media(media="print")
        assert not scrolls_sideways(shown)


def test_text_is_what_it_was(opened: Any, report: tuple[str, Path]) -> None:
    name, file = report
    with page(opened, file.as_uri()) as shown:
        assert shown.locator("script, iframe, img, object, form, input").count() == 0
        if name == "hostile":
            assert shown.get_by_text("query 0 <script>alert(1)</script>").count() >= 1


def test_a_link_to_a_querys_records_opens_them(opened: Any, report: tuple[str, Path]) -> None:
    _, file = report
    with page(opened, file.as_uri()) as shown:
        first = shown.locator(".trace").first
        assert not first.is_visible()
        shown.goto(f"{file.as_uri()}#{first.get_attribute('id')}")
        assert shown.locator(".trace").first.is_visible()
