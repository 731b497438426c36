"""The whole page of a run: what it says, that all text in it is text, and that it stays small."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from report_data import HOSTILE, PLAIN, made_run
from tokay.report import LARGEST, charts, write_report
from tokay.report.agreement import pair_of
from tokay.report.facts import Facts
from tokay.report.page import anchor
from tokay.trace import trace_queries


class Read(HTMLParser):
    """Elements with their attributes, and text by section."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, str, str]] = []
        self.sections: dict[str, str] = {"": ""}
        self.ids: list[str] = []
        self.links: list[str] = []
        self._within = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements += [(tag, name, value or "") for name, value in attrs] or [(tag, "", "")]
        values = dict(attrs)
        if tag == "section":
            self._within = values["id"] or ""
            self.sections[self._within] = ""
        if tag != "style":
            self.ids += [value for name, value in attrs if name == "id" and value]
        if tag == "a":
            self.links.append(values["href"] or "")

    def handle_data(self, data: str) -> None:
        self.sections[self._within] += data


@pytest.fixture(scope="module", params=["gecko", "listwise", "recorded"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Read]]:
    run = made_run(tmp_path_factory.mktemp("runs") / "run", judge=request.param, log=("rivers", "glass of stones"))
    with run:
        yield request.param, Read(write_report(run).read_text())


def test_the_verdict_comes_first_and_every_section_has_its_say(page: tuple[str, Read]) -> None:
    judge, read = page
    assert "Tuned is better than the base by" in read.sections[""]
    assert list(read.sections)[1:] == (
        "systems slices wins funnel data suspicious random training cost settings".split()
    )
    said = {
        "systems": ("BM25", "base @ 32", "tuned @ 16", "bytes of a vector", "can show a difference"),
        "wins": ("Biggest wins over the base", "8 queries; the 8 largest", "Biggest losses"),
        "funnel": (
            "passages read",
            "not read",
            "exact duplicate",
            "a refusal, not a query",
            "No passage answers 1 of 2",
        ),
        "data": ("In 6 of 40 judged queries (15", "Gecko's data", "Rank of the seed", "your log"),
        "random": ("tokay trace ",),
        "training": ("loss by step", "dev queries by step", "12 steps of 20 planned"),
        "cost": ("Nothing was asked and nothing was spent", "evaluate"),
        "settings": ("Texts are cut at 128 tokens",),
    }
    for section, words in said.items():
        for word in words:
            assert word in read.sections[section], (section, word)
    agreement = {
        "gecko": "Kendall's τ-b of a query's candidates",
        "listwise": "Quadratically weighted κ",
        "recorded": "one grade each and no ratings behind it",
    }
    assert agreement[judge] in read.sections["data"]


def test_links_lead_into_the_page_and_ids_are_unique(page: tuple[str, Read]) -> None:
    _, read = page
    assert len(read.ids) == len(set(read.ids))
    assert {link.removeprefix("#") for link in read.links} <= set(read.ids)


def test_what_was_drawn_can_be_traced_by_id(tmp_path: Path) -> None:
    with made_run(tmp_path / "run") as run:
        facts = Facts(run)
        read = Read(write_report(run).read_text())
        for query_id in {q for q in facts.queries if anchor(q) in read.ids}:
            assert query_id in read.sections["wins"] + read.sections["suspicious"] + read.sections["random"]
            assert trace_queries(run, [query_id])
        assert sum(anchor(q) in read.ids for q in facts.queries) >= 20


def test_nothing_of_the_data_becomes_an_element_or_an_attribute(tmp_path: Path) -> None:
    """The elements and attributes of a hostile run's page are those of a plain run's, ids and numbers aside."""

    def shapes(read: Read) -> set[tuple[str, str, str]]:
        free = {
            "id",
            "href",
            "aria-labelledby",
            "d",
            "transform",
            "viewbox",
            "x",
            "x2",
            "y2",
            "width",
            "height",
            "style",
        }
        return {
            (tag, name, "" if name in free else re.sub(r"[\d.]+", "0", value)) for tag, name, value in read.elements
        }

    with made_run(tmp_path / "plain", log=("rivers",)) as run:
        plain = Read(write_report(run).read_text())
    with made_run(tmp_path / "hostile", texts=HOSTILE, log=HOSTILE) as run:
        text = write_report(run).read_text()
        hostile = Read(text)
    assert shapes(hostile) <= shapes(plain) | {("small", "class", "cut")}
    hashes = [value for _, name, value in hostile.elements if name in ("id", "href")]
    assert all(re.fullmatch(r"#?[a-z]+(-[a-z0-9]+)*", value) for value in hashes)
    everything = "".join(hostile.sections.values())
    for wanted in ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "&lt;b&gt; &amp;amp;", "{{7*7}}"):
        assert wanted in everything
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\U000e0041]", text)


def test_a_megabyte_of_text_is_cut_and_says_so(tmp_path: Path) -> None:
    long = ("word " * 200_000, "x" * 1_000_000, "\"'<&>" * 200_000, "a b c " * 170_000, "\u202e" * 1_000_000)
    with made_run(tmp_path / "run", texts=long, documents=30, log=long) as run:
        path = write_report(run)
        read = Read(path.read_text())
    assert path.stat().st_size < LARGEST
    everything = "".join(read.sections.values())
    assert "cut: 1,000,0" in everything
    assert "x" * 5_000 not in everything


def test_a_page_over_its_size_shows_less_of_each_passage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with made_run(tmp_path / "run", texts=[f"many {one} words of a passage " * 40 for one in PLAIN]) as run:
        whole = write_report(run).stat().st_size
        monkeypatch.setattr("tokay.report.LARGEST", whole - 1)
        assert write_report(run).stat().st_size < whole
        assert "characters in all" in (run.path / "report.html").read_text()


def test_without_charts_the_page_is_whole_and_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with made_run(tmp_path / "run") as run:
        drawn = Read(write_report(run).read_text())
        monkeypatch.setattr(charts, "missing", lambda: True)
        plain = Read(write_report(run).read_text())
    assert "pip install 'tokay[report]'" in plain.sections[""]
    assert "pip install" not in drawn.sections[""]
    assert "svg" not in {tag for tag, _, _ in plain.elements}
    assert list(plain.sections) == list(drawn.sections)
    assert "0.000 to 0.000" not in plain.sections["systems"]


def test_the_judges_are_those_that_the_run_has(tmp_path: Path) -> None:
    with made_run(tmp_path / "gecko", judge="gecko") as run:
        pair = pair_of(Facts(run))
        assert pair is not None
        assert pair.names == ("rank by query likelihood (QL)", "rank by relevance (RC)")
        assert 0 <= pair.apart("p1stones in a field#0", "p1stones in a field") <= 1
    with made_run(tmp_path / "recorded") as run:
        assert pair_of(Facts(run)) is None


def test_a_training_without_looks_says_so(tmp_path: Path) -> None:
    with made_run(tmp_path / "run", looks=False) as run:
        read = Read(write_report(run).read_text())
    assert "No dev figures on the way" in read.sections["training"]


@pytest.mark.parametrize(
    ("said", "changed", "title", "more"),
    [
        (
            "tuned is not distinguishable from the base: -0.003 nDCG@10 (95 % interval -0.011 to +0.017; p = 0.678); "
            "658 queries can show a difference of 0.020",
            {"better": False},
            "Tuned is not distinguishable from the base: \u22120.003 nDCG@10",
            "95 % interval \u22120.011 to +0.017; p = 0.678; 658 queries can show a difference of 0.020.",
        ),
        ("a new sentence", {"better": False}, "A new sentence", "uses the base model"),
        (
            "s",
            {"people": {"sentence": "people see less", "checked": "as checked"}},
            "S",
            "People see less; as checked.",
        ),
    ],
)
def test_every_verdict_has_its_words(
    tmp_path: Path, said: str, changed: dict[str, object], title: str, more: str
) -> None:
    changed |= {"sentence": said, "use": "tuned" if changed.get("better", True) else "base"}
    with made_run(tmp_path / "run", said=changed) as run:
        html = write_report(run).read_text()
    assert f"<h1>{title}</h1>" in html
    assert more in Read(html).sections[""]
