"""The helper finds what it is there to find: a page with known faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from browser import NARROW, accessibility_faults, browser, needs_browser, page, screenshot, scrolls_sideways

pytestmark = [pytest.mark.browser, needs_browser]

GOOD = '<!doctype html><html lang="en"><title>t</title><main><h1>A page</h1><p>words</p></main></html>'
BAD = '<!doctype html><html><title>t</title><img src="data:,"><div style="width:900px">words</div></html>'
REMOTE = '<!doctype html><html lang="en"><title>t</title><h1>t</h1><img alt="" src="https://example.com/a.png"></html>'
REFUSED = (
    "<!doctype html><html lang='en'><meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"
    "<title>t</title><script>1</script></html>"
)


def test_faults_are_seen_and_a_good_page_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("browser.SCREENSHOTS", tmp_path / "shots")
    file = tmp_path / "page.html"
    with browser() as opened:
        file.write_text(GOOD)
        with page(opened, file.as_uri(), width=NARROW) as shown:
            assert accessibility_faults(shown) == []
            assert not scrolls_sideways(shown)
            assert screenshot(shown, "good").read_bytes().startswith(b"\x89PNG")
        file.write_text(BAD)
        with page(opened, file.as_uri(), width=NARROW) as shown:
            assert {fault.split(" ")[0] for fault in accessibility_faults(shown)} == {"html-has-lang", "image-alt"}
            assert scrolls_sideways(shown)


def test_what_leaves_the_machine_or_is_refused_fails_the_test(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    with browser() as opened:
        for text, fault in ((REMOTE, "asked for https://example.com"), (REFUSED, "Content Security Policy")):
            file.write_text(text)
            with pytest.raises(AssertionError, match=fault), page(opened, file.as_uri()):
                pass
