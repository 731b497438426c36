"""The page's frame, and the one way by which text gets into it: as text.

Documents, queries, ids, answers and settings are data. Whatever of them is shown goes through ``escape`` or one of the
helpers that call it, and none of it into a tag's name or attribute.
"""

from __future__ import annotations

import dataclasses
import hashlib
import html
import importlib.resources
import re
from collections.abc import Iterable, Sequence

NAME_CHARS = 160
"""Characters of an id, a title or a reason that are shown."""

QUERY_CHARS = 300

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]"  # controls, halves of characters, no characters
    "|[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # marks that turn the reading direction
    "|[\u200b\u2060-\u2064\ufeff\U000e0000-\U000e007f]"  # without width: nobody reads them but a model
)


def visible(text: object) -> str:
    """With what a reader would not see, or what would turn the reading direction, as U+FFFD."""
    return _UNSEEN.sub("\ufffd", str(text))


def hides(text: str) -> bool:
    """Whether a text has characters that a reader does not see."""
    return _UNSEEN.search(text) is not None


def escape(text: object) -> str:
    """Text for HTML: see ``visible``, and no markup."""
    return html.escape(visible(text))


def cut(text: str, chars: int) -> str:
    """The first characters, escaped, and a note where there are more."""
    if len(text) <= chars:
        return escape(text)
    return f'{escape(text[:chars])}… <small class="cut">cut: {len(text):,} characters in all</small>'


def name(text: str) -> str:
    """An id, a title or a reason, which stands apart from the words around it whatever its direction."""
    return f"<bdi>{cut(text, NAME_CHARS)}</bdi>"


def code(text: str) -> str:
    """Something that one types or looks up."""
    return f"<code>{name(text)}</code>"


def anchor(query_id: str) -> str:
    """Where a query's records stand in the page: a hash, since ids are data."""
    return f"q-{hashlib.sha256(query_id.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


# -- numbers --------------------------------------------------------------------------------------------------------


def count(value: int) -> str:
    """12,345."""
    return f"{value:,}"


def share(value: float) -> str:
    """40 %, or 4.2 % below ten."""
    return f"{100 * value:.{0 if value >= 0.0995 or not value else 1}f}\u00a0%"


def figure(value: float) -> str:
    """A metric: 0.517."""
    return f"{value:.3f}"


def signed(value: float) -> str:
    """A difference: +0.069."""
    return f"{value:+.3f}".replace("-", "\u2212")


def interval(low: float, high: float) -> str:
    """Of a difference."""
    return f"{signed(low)} to {signed(high)}"


def sentence(text: str) -> str:
    """One that another part of the program wrote, as text: a capital at its start, and the minus sign of this page."""
    return escape(re.sub(r"(?<!\w)-(?=\d)", "\u2212", text[:1].upper() + text[1:]))


def p_value(value: float) -> str:
    """Never smaller than is known."""
    return "&lt; 0.001" if value < 0.001 else f"{value:.3f}"


# -- blocks ---------------------------------------------------------------------------------------------------------


def table(
    about: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    words: int = 1,
    marked: Sequence[int] = (),
) -> str:
    """A table that scrolls where it is too wide; the first cell of a row is its heading.

    Args:
        about: what it shows, for those who do not see it.
        head: names of the columns, as text.
        rows: cells, as HTML.
        words: so many columns from the left hold words and not numbers.
        marked: indices of rows to set off.
    """

    def cells(row: Sequence[str]) -> str:
        first, *rest = row
        body = (f"<td{_class('n' if i >= words else '')}>{text}</td>" for i, text in enumerate(rest, 1))
        return f'<th scope="row">{first}</th>{"".join(body)}'

    columns = "".join(
        f'<th scope="col"{_class("n" if i >= words else "")}>{escape(title)}</th>' for i, title in enumerate(head)
    )
    body = "".join(f"<tr{_class('marked' if n in marked else '')}>{cells(row)}</tr>" for n, row in enumerate(rows))
    return (
        f'<div class="wide" role="region" aria-label="Table: {html.escape(about)}" tabindex="0"><table>'
        f"<thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def fold(summary: str, body: str, *, kind: str = "") -> str:
    """What opens on a click, and in print."""
    return f"<details{_class(kind)}><summary>{summary}</summary>{body}</details>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def note(text: str) -> str:
    """How a figure was computed, below it; HTML."""
    return f'<p class="note">{text}</p>'


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page, with its place in the contents. Without a title it stands at the top."""

    key: str
    title: str
    body: str

    def html(self) -> str:
        """With its heading."""
        return f'<section id="{self.key}"><h2>{escape(self.title)}</h2>{self.body}</section>'


def page(title: str, header: str, sections: Sequence[Section]) -> str:
    """A whole document. It asks for nothing, runs nothing, and a browser holds it to that."""
    style = importlib.resources.files("tokay.report").joinpath("style.css").read_text(encoding="utf-8")
    links = "".join(f'<li><a href="#{s.key}">{escape(s.title)}</a></li>' for s in sections)
    contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>' if len(sections) > 1 else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n"
        f'<body><main class="page">{header}\n{contents}<div class="sections">'
        + "\n".join(section.html() for section in sections)
        + "</div></main></body></html>\n"
    )
