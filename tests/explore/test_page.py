"""The page in a real browser: what it shows, by keys alone, at every width, in the dark, of a hostile corpus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tokay
from browser import NARROW, WIDE, accessibility_faults, browser, needs_browser, page, screenshot, scrolls_sideways
from exploring import exploring

pytestmark = [pytest.mark.browser, needs_browser]

VIEWS = {
    "overview": ("#/", ".cards"),
    "passages": ("#/passages", ".list li"),
    "queries": ("#/queries?sort=losses", ".list li"),
    "candidates": ("#/candidates", ".list li"),
    "query": ("#/query/1", ".candidate"),
    "passage": ("#/passage/8", ".text"),
    "search": ("#/search", ".banner"),
    "map": ("#/map", "canvas"),
    "decisions": ("#/decisions", "h1"),
}


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture
def address(made: Path, tmp_path: Path) -> Iterator[str]:
    with exploring(made, tmp_path) as found:
        yield found


def go(shown: Any, view: str) -> None:
    where, selector = VIEWS[view]
    shown.evaluate("where => { location.hash = where }", where)
    shown.wait_for_selector(f"main {selector}")


@pytest.mark.parametrize(("width", "dark"), [(WIDE, False), (NARROW, True)])
def test_every_view_reads_well_and_shows_text_as_text(opened: Any, address: str, width: int, dark: bool) -> None:
    with page(opened, address, width=width, dark=dark) as shown:
        shown.wait_for_selector("main .cards")
        assert "key=" not in shown.url
        for view in VIEWS:
            go(shown, view)
            shown.wait_for_timeout(50)
            assert accessibility_faults(shown) == [], view
            assert not scrolls_sideways(shown), view
            assert shown.title() != "taken"
            assert shown.locator("main img, main script, main style").count() == 0, view
            screenshot(shown, f"explore-{view}-{'dark' if dark else 'light'}-{width}", whole=False)
        go(shown, "passages")
        assert "<script>document.title" in shown.inner_text("main .list")
        assert "\u202e" not in shown.inner_text("main")
        go(shown, "passage")
        assert len(shown.inner_text("main .text")) <= 20_000
        assert "of 1,050,000" in shown.inner_text("main")
        shown.click("text=next part")
        shown.wait_for_selector("text=characters 20,000 to 40,000")


def test_by_keys_alone(opened: Any, address: str, tmp_path: Path) -> None:
    [folder] = tmp_path.iterdir()
    with page(opened, address) as shown:
        press = shown.keyboard.press
        shown.wait_for_selector("main .cards")
        shown.evaluate("location.hash = '#/queries?state=judged'")
        shown.wait_for_selector("main .list li")
        press("/")
        shown.keyboard.type("jjj")  # a letter in a box is a letter
        assert shown.input_value("input[type=search]") == "jjj"
        shown.fill("input[type=search]", "")
        shown.wait_for_selector("main .list li:nth-child(4)")
        press("Escape")
        press("j")
        press("j")
        press("k")
        assert shown.evaluate("document.activeElement === document.querySelector('main .list a')")
        press("Enter")
        shown.wait_for_selector(".candidate")
        press("j")
        press("0")
        shown.wait_for_selector(".candidate .grade.hand")
        assert shown.evaluate("document.activeElement.matches('.candidate')")
        press("u")
        shown.wait_for_selector(".actions >> text=not decided by hand")
        for key, word in (("a", "accepted"), ("r", "rejected")):
            press(key)
            shown.wait_for_selector(f"main p .tag:text-is('{word}')")
        press("n")
        shown.wait_for_selector("main p .tag:text-is('rejected')", state="detached")
        press("?")
        assert shown.evaluate("document.getElementById('help').open")
        assert accessibility_faults(shown) == []
        press("r")  # nothing is decided while the help is open
        press("Escape")
        shown.evaluate("document.getElementById('keys-on').click()")
        press("r")
        shown.wait_for_timeout(100)
    made = tokay.open_run(folder).decisions()
    assert [d.action for d in made] == ["grade", "undo", "accept", "reject"]


def test_tab_reaches_everything_and_leaves_it(opened: Any, address: str) -> None:
    with page(opened, address) as shown:
        shown.wait_for_selector("main .cards")
        go(shown, "query")
        seen, rounds = [], 0
        shown.evaluate("document.activeElement.blur()")
        while rounds < 400:
            shown.keyboard.press("Tab")
            rounds += 1
            found = shown.evaluate(
                "(() => { const a = document.activeElement; if (a === document.body) return null;"
                "const s = getComputedStyle(a); const all = [...document.querySelectorAll('*')];"
                "return [all.indexOf(a), s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 1]; })()"
            )
            if found is None or found[0] in [place for place, _ in seen]:
                break
            seen.append(found)
        assert rounds < 400  # no trap
        assert len(seen) > 30
        assert all(visible for _, visible in seen)


def test_the_mouse_decides_and_two_windows_see_each_other(opened: Any, address: str) -> None:
    with page(opened, address) as shown, page(opened, address) as other:
        for one in (shown, other):
            one.wait_for_selector("main .cards")
            go(one, "query")
        shown.click("button:text-is('Reject')")
        shown.wait_for_selector("main p .tag:text-is('rejected')")
        other.click("button:text-is('Accept')")
        other.wait_for_selector("#notice.bad:has-text('decided about in between')")
        other.wait_for_selector("main p .tag:text-is('rejected')")
        other.click("button:text-is('Undo')")
        other.wait_for_selector(".actions >> text=not decided by hand")
        go(shown, "decisions")
        shown.locator("main .list li").nth(1).wait_for()  # every page has a heading, so that is no sign of this one
        assert shown.locator("main .list li").count() == 2


def test_pages_turn_and_filters_stay_in_the_address(opened: Any, address: str) -> None:
    with page(opened, address) as shown:
        shown.wait_for_selector("main .cards")
        go(shown, "candidates")
        first = shown.inner_text("main .list li:first-child")
        shown.click("button:text-is('Next')")
        shown.wait_for_selector("text=51 to")
        assert shown.locator("main .list li").count() <= 50
        shown.keyboard.press("p")
        shown.wait_for_selector("text=1 to 50")
        assert shown.inner_text("main .list li:first-child") == first
        shown.select_option("select[name=grade]", "3")
        shown.wait_for_url("**grade=3**")
        shown.reload()
        shown.wait_for_selector("main .list li")
        assert shown.input_value("select[name=grade]") == "3"
        assert set(shown.locator("main .list .grade").all_inner_texts()) == {"3"}


def test_the_map_has_a_table_and_a_title_under_the_pointer(opened: Any, address: str) -> None:
    with page(opened, address) as shown:
        shown.wait_for_selector("main .cards")
        go(shown, "map")
        assert shown.locator("main table tbody tr").count() == 40
        box = shown.locator("canvas").first.bounding_box()
        for step in range(400):
            shown.mouse.move(box["x"] + box["width"] * (step % 20) / 20, box["y"] + box["height"] * (step // 20) / 20)
            if not shown.locator(".tip").is_hidden():
                break
        assert "nearest kept" in shown.inner_text(".tip")
        shown.mouse.down()
        shown.mouse.up()
        shown.wait_for_selector("h2:text-is('Text')")
