"""Charts as static SVG inside the page: drawn by Vega-Lite without a browser, then made part of the page.

What is drawn keeps no id, class or link; its colours become those of the page, which are others in the dark and in
print; and it gets a title and a description, which is what a screen reader says.
"""

from __future__ import annotations

import html
import importlib.util
import xml.etree.ElementTree as ElementTree
from typing import Any

from tokay.report.page import visible

SVG = "http://www.w3.org/2000/svg"
EXTRA = "report"
PACKAGES = ("altair", "vl_convert")

FONT_PIXELS = 12

INK, MUTED, LINE, ACCENT, SECOND, PAPER = "#101010", "#202020", "#303030", "#404040", "#505050", "#606060"
"""Colours by what they are for. They stand for the page's own, and are never seen."""

_COLOURS = {INK: "ink", MUTED: "muted", LINE: "line", ACCENT: "accent", SECOND: "second", PAPER: "paper"}

_SHAPES = frozenset(("svg", "g", "path", "line", "rect", "circle", "text", "tspan"))
_KEPT = frozenset(
    "viewBox transform d x y x1 x2 y1 y2 dx dy width height r cx cy fill stroke stroke-width stroke-dasharray "
    "stroke-linecap stroke-linejoin stroke-opacity fill-opacity opacity text-anchor font-size font-weight "
    "font-style".split()
)
"""Elements and attributes of what is drawn that the page takes."""


def missing() -> bool:
    """Whether charts cannot be drawn here."""
    return any(importlib.util.find_spec(package) is None for package in PACKAGES)


def svg(chart: Any, *, key: str, title: str, description: str) -> str:
    """An altair chart as an ``<svg>`` element.

    Args:
        chart: with inline data. Names in it are shown as text.
        key: unlike that of any other chart of the page.
        title: what it shows; plain text.
        description: what is to be seen in it; plain text.
    """
    import vl_convert

    spec = _shown(chart.to_dict() | {"config": _config()})
    drawn = ElementTree.fromstring(vl_convert.vegalite_to_svg(spec))
    _clean(drawn)
    drawn.attrib.pop("width", None)
    drawn.attrib.pop("height", None)
    inside = "".join(ElementTree.tostring(child, encoding="unicode") for child in drawn)
    width = drawn.attrib["viewBox"].split()[2]
    return (
        f'<svg viewBox="{drawn.attrib["viewBox"]}" role="img" aria-labelledby="{key}-title {key}-desc" '
        f'style="max-width:{width}px"><title id="{key}-title">{html.escape(visible(title))}</title>'
        f'<desc id="{key}-desc">{html.escape(visible(description))}</desc>{inside}</svg>'
    )


def _config() -> dict[str, Any]:
    return {
        "aria": False,
        "background": None,
        "font": "sans-serif",
        "padding": {"left": 2, "right": 12, "top": 4, "bottom": 2},
        "view": {"stroke": None},
        "axis": {
            "labelColor": MUTED,
            "titleColor": MUTED,
            "gridColor": LINE,
            "domainColor": SECOND,
            "tickColor": SECOND,
            "labelFontSize": FONT_PIXELS,
            "titleFontSize": FONT_PIXELS,
            "titleFontWeight": "normal",
            "labelLimit": 240,
            "labelPadding": 5,
        },
        "axisY": {"domain": False, "ticks": False},
        "text": {"color": INK, "fontSize": FONT_PIXELS},
    }


def _shown(value: Any) -> Any:
    """Every string of a specification as a reader may see it; XML, too, has no control characters."""
    if isinstance(value, dict):
        return {key: _shown(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shown(inner) for inner in value]
    return visible(value) if isinstance(value, str) else value


def _clean(element: ElementTree.Element) -> None:
    """Keep shapes, their places and their colours; ``{namespace}tag`` becomes ``tag``."""
    element.tag = element.tag.removeprefix(f"{{{SVG}}}")
    element.attrib = {name: _colour(value) for name, value in element.attrib.items() if name in _KEPT}
    for child in list(element):
        if child.tag.removeprefix(f"{{{SVG}}}") not in _SHAPES or child.get("display") == "none":
            element.remove(child)
        else:
            _clean(child)
    if element.tag == "g" and not len(element):
        element.attrib = {}


def _colour(value: str) -> str:
    named = _COLOURS.get(value.lower())
    return f"var(--{named})" if named else value
