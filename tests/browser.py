"""A headless Chromium for tests of pages: found on this machine, launched, axe-core run in it, screenshots kept.

A test file that uses it says ``pytestmark = [pytest.mark.browser, needs_browser]``. ``CHROMIUM`` names another program.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SCREENSHOTS = Path(__file__).parent.parent / "screenshots"
"""What tests leave to look at; git ignores it and CI keeps it."""

NARROW, WIDE = 400, 1400
"""Window widths in pixels at which no page may scroll sideways."""

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def chromium() -> str | None:
    """The browser's path; None where there is none."""
    return os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


def missing() -> str:
    """Why no page can be opened here; empty where one can."""
    absent = [name for name in ("playwright", "axe_playwright_python") if importlib.util.find_spec(name) is None]
    if absent:
        return f"no package {absent[0]}: pip install -e '.[dev]'"
    return "" if chromium() else f"no Chromium here: none of {', '.join(NAMES)}, and CHROMIUM names none"


needs_browser = pytest.mark.skipif(bool(missing()), reason=missing() or "there is one")


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A Playwright ``Browser``, headless. Launching takes about a second: open several pages of one."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]  # root in a container has neither
        opened = playwright.chromium.launch(executable_path=chromium(), headless=True, args=arguments)
        try:
            yield opened
        finally:
            opened.close()


@contextlib.contextmanager
def page(
    opened: Any, url: str, *, width: int = WIDE, height: int = 900, dark: bool = False, script: bool = True
) -> Iterator[Any]:
    """A Playwright ``Page`` at ``url`` (``http://127.0.0.1…`` or ``Path.as_uri()``), ready when its load event fired.

    Requests to anything but this machine are cut, and fail the test at the end, as do errors in the page's script and
    whatever its Content-Security-Policy refused.

    Args:
        opened: what ``browser`` gave.
        url: of the page.
        width: of the window, in pixels.
        height: likewise.
        dark: whether the reader's system is dark.
        script: whether scripts run.
    """
    scheme = "dark" if dark else "light"
    context = opened.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, java_script_enabled=script
    )
    faults: list[str] = []

    def route(request: Any) -> None:
        if request.request.url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:")):
            request.continue_()
        else:
            faults.append(f"asked for {request.request.url}")
            request.abort()

    def heard(message: Any) -> None:
        if "Content Security Policy" in message.text:
            faults.append(message.text)

    try:
        context.route("**/*", route)
        shown = context.new_page()
        shown.on("pageerror", lambda error: faults.append(str(error)))
        shown.on("console", heard)
        shown.goto(url)
        yield shown
        if faults:
            raise AssertionError("; ".join(faults))
    finally:
        context.close()


def accessibility_faults(shown: Any) -> list[str]:
    """What axe-core holds to be serious or critical in a page as it is now: rule, element, and what is wrong."""
    source = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    shown.evaluate(source)
    found = shown.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{rule['id']} ({rule['impact']}): {node['html'][:200]}: {node['failureSummary'][:300]}"
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


def scrolls_sideways(shown: Any) -> bool:
    """Whether the page is wider than its window."""
    return bool(shown.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))


def screenshot(shown: Any, name: str, *, whole: bool = True) -> Path:
    """Keep ``screenshots/<name>.png``: of the whole page, or of the window."""
    SCREENSHOTS.mkdir(exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    shown.screenshot(path=path, full_page=whole)
    return path
