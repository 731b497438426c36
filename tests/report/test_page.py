from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokay.report import charts, figures
from tokay.report.figures import Line, Point
from tokay.report.page import (
    Section,
    anchor,
    code,
    cut,
    escape,
    fold,
    hides,
    name,
    page,
    sentence,
    share,
    signed,
    table,
    visible,
)

hostile = st.text(alphabet=st.one_of(st.sampled_from("<>&\"'/= \x00\x1b\u202e\ud800\U000e0041"), st.characters()))


class Read(HTMLParser):
    """Elements, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(hostile)
def test_whatever_a_text_holds_it_is_text(text: str) -> None:
    read = Read(f"<p>{escape(text)}</p>")
    assert read.tags == [("p", ())]
    assert read.text == visible(text)
    assert not hides(visible(text))
    read.text.encode("utf-8")
    assert Read(name(text)).tags[:1] == [("bdi", ())]
    assert [tag for tag, _ in Read(code(text)).tags][:2] == ["code", "bdi"]
    assert anchor(text).isascii()
    assert anchor(text).removeprefix("q-").isalnum()


@given(hostile, st.integers(0, 30))
def test_what_is_cut_says_so(text: str, chars: int) -> None:
    read = Read(cut(text, chars))
    assert read.text.startswith(visible(text[:chars]))
    assert (f"cut: {len(text):,} characters in all" in read.text) == (len(text) > chars)


def test_letters_of_all_scripts_stay() -> None:
    for text in ("שלום עולם", "مرحبا", "zero‌width‍joiners of Persian and 👩‍👩‍👧", "日本語", "e\u0301"):
        assert visible(text) == text
        assert not hides(text)


def test_numbers_are_written_one_way() -> None:
    assert [share(value) for value in (0.0, 0.042, 0.0996, 0.4, 1.0)] == [
        "0\u00a0%",
        "4.2\u00a0%",
        "10\u00a0%",
        "40\u00a0%",
        "100\u00a0%",
    ]
    assert sentence("a-b is -0.1 < 3") == "A-b is \u22120.1 &lt; 3"
    assert (signed(0.0694), signed(-0.11)) == ("+0.069", "\u22120.110")


def test_a_page_is_whole_and_forbids_everything() -> None:
    text = page("a <title>", "<header></header>", [Section("one", "One & two", table("t", ["a", "n"], [["x", "1"]]))])
    read = Read(text)
    policy = next(
        dict(attrs)["content"] for tag, attrs in read.tags if ("http-equiv", "Content-Security-Policy") in attrs
    )
    assert "default-src 'none'" in policy
    assert "script" not in policy
    assert "url(" not in text
    assert "a &lt;title&gt;" in text
    assert ("td", (("class", "n"),)) in read.tags
    assert fold("s", "b", kind="plain") == '<details class="plain"><summary>s</summary>b</details>'


LABELS = ("plain", "</text><script>", '"><a href="#">', "\x00\x1b\u202e", "]]>", "&amp;")


def drawn() -> dict[str, str]:
    points = [Point(label, 0.5, 0.4, 0.6, n == 0) for n, label in enumerate(LABELS)]
    lines = [
        Line(label, [1, 2, 4], [0.1, 0.2, 0.3], [0.0, 0.1, 0.2], [0.2, 0.3, 0.4], main=label == "plain")
        for label in LABELS
    ]
    return {
        "points": figures.points("k-points", "a <caption>", points, x="value"),
        "curves": figures.curves("k-curves", "c", lines, x="x", y="y", ticks=[1, 2, 4], dots=True),
        "bars": figures.bars("k-bars", "b", {"one": [0.1] * 6, "two": [0.2] * 6}, LABELS, x="x", y="y"),
        "steps": figures.steps("k-steps", "s", [(label, 10 * n, n > 2) for n, label in enumerate(LABELS)]),
        "grid": figures.grid("k-grid", "g", {(1, 1): 4, (1, 2): 1, (2, 2): 9}, x="x", y="y"),
    }


def test_charts_are_static_named_and_in_the_pages_colours() -> None:
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    ids = []
    for kind, html in drawn().items():
        read = Read(html)
        inside = [(tag, dict(attrs)) for tag, attrs in read.tags]
        svg = next(attrs for tag, attrs in inside if tag == "svg")
        assert svg["role"] == "img"
        own = [attrs["id"] for _, attrs in inside if "id" in attrs]
        assert svg["aria-labelledby"].split() == own
        ids += own
        assert {tag for tag, _ in inside} <= {
            *"figure figcaption details summary div table thead tbody tr th td".split(),
            *"svg title desc g path line rect text tspan".split(),
        }
        colours = {attrs[paint] for _, attrs in inside for paint in ("fill", "stroke") if paint in attrs}
        assert colours <= {"none", "transparent", *(f"var(--{name})" for name in charts._COLOURS.values())}, kind
        assert "var(--accent)" in html
    assert len(ids) == len(set(ids))


def test_without_the_packages_the_numbers_stand_in_the_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "missing", lambda: True)
    for html in drawn().values():
        assert "<svg" not in html
        assert "<details" not in html
        assert html.count("<table>") == 1
