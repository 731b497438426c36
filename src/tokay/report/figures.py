"""The report's charts: what is drawn of which numbers.

Each has its numbers as a table beside it, which is what a page without charts shows. The accent is the tuned model,
grey all else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokay.report import charts
from tokay.report.charts import ACCENT, INK, PAPER, SECOND
from tokay.report.page import count, escape, figure, fold, share, table

PER_CENT = "format(100 * datum.value, ',.0f') + '\u00a0%'"
"""How an axis writes a share."""

LETTER_PIXELS = 8
"""What a letter of a label takes: browsers have wider fonts than the one that is measured."""

WIDTH = 330
"""Of a plot in pixels, its labels not counted: two stand side by side, and one is still legible on a phone."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A figure with its interval. ``main``: in the accent's colour."""

    label: str
    value: float
    low: float
    high: float
    main: bool = False


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve of points (x, y), and an interval of each y where there is one."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    lows: Sequence[float] = ()
    highs: Sequence[float] = ()
    main: bool = False


def block(key: str, caption: str, description: str, draw: Callable[[], Any], numbers: str) -> str:
    """A figure and its numbers.

    Args:
        key: unlike that of any other figure of the page.
        caption: what it shows, as text.
        description: what is to be seen in it, as text, for those who do not see it.
        draw: makes the chart.
        numbers: a table, as HTML.
    """
    if charts.missing():
        return f"<figure><figcaption>{escape(caption)}</figcaption>{numbers}</figure>"
    drawn = charts.svg(draw(), key=key, title=caption, description=description)
    more = fold("The numbers", numbers, kind="plain")
    return f"<figure><figcaption>{escape(caption)}</figcaption>{drawn}{more}</figure>"


def points(key: str, caption: str, rows: Sequence[Point], *, x: str, percent: bool = False) -> str:
    """A dot and an interval a row."""
    import altair as alt

    write = share if percent else figure

    def draw() -> Any:
        data = alt.Data(values=[dataclasses.asdict(row) for row in rows])
        y = _named([row.label for row in rows])
        colour = _main("main")
        axis = alt.Axis(labelExpr=PER_CENT) if percent else alt.Axis(format=".2f")
        axis.tickCount = 5
        scale = alt.Scale(zero=True) if percent else alt.Scale(zero=False, padding=6)
        bars = alt.Chart(data).mark_rule(strokeWidth=2).encode(x=alt.X("low:Q"), x2="high:Q", y=y, color=colour)
        dots = alt.Chart(data).mark_circle(size=64, opacity=1)
        dots = dots.encode(x=alt.X("value:Q", title=x, axis=axis, scale=scale), y=y, color=colour)
        return (bars + dots).properties(width=WIDTH, height=alt.Step(24))

    said = "; ".join(f"{row.label} {write(row.value)} ({write(row.low)} to {write(row.high)})" for row in rows)
    cells = [[escape(r.label), write(r.value), f"{write(r.low)} to {write(r.high)}"] for r in rows]
    return block(key, caption, f"{x}: {said}.", draw, table(caption, ["", x, "95 % interval"], cells))


def curves(
    key: str,
    caption: str,
    lines: Sequence[Line],
    *,
    x: str,
    y: str,
    ticks: Sequence[float] = (),
    dots: bool = False,
    zero: bool = False,
) -> str:
    """Curves with the interval of each point. With ``ticks`` the x axis is logarithmic and marked there."""
    import altair as alt

    def draw() -> Any:
        data = [
            {"label": line.label, "x": a, "y": b, "low": low, "high": high, "main": line.main}
            for line in lines
            for a, b, low, high in zip(line.xs, line.ys, line.lows or line.ys, line.highs or line.ys, strict=True)
        ]
        chart = alt.Chart(alt.Data(values=data))
        scale = alt.Scale(type="log", base=2, nice=False, padding=12) if ticks else alt.Scale(nice=False)
        axis = alt.Axis(values=list(ticks), format="d", grid=False) if ticks else alt.Axis(tickCount=6, grid=False)
        across = alt.X("x:Q", title=x, scale=scale, axis=axis)
        up = alt.Y("y:Q", title=y, scale=alt.Scale(zero=zero), axis=alt.Axis(tickCount=5))
        colour, each = _main("main"), alt.Detail("label:N")
        layers = [chart.mark_line(strokeWidth=2, point=False).encode(x=across, y=up, color=colour, detail=each)]
        if any(line.lows for line in lines):
            bars = chart.mark_rule(strokeWidth=1.5, opacity=0.7)
            layers.append(bars.encode(x=across, y=alt.Y("low:Q"), y2="high:Q", color=colour))
        if dots:
            layers.append(chart.mark_circle(size=50, opacity=1).encode(x=across, y=up, color=colour))
        if len(lines) > 1:
            names = chart.transform_window(
                last="row_number()", groupby=["label"], sort=[alt.SortField("x", "descending")]
            )
            names = names.transform_filter("datum.last == 1")
            names = names.mark_text(align="left", dx=8).encode(x=across, y=up, text="label:N", color=colour)
            layers.append(names)
        return alt.layer(*layers).properties(width=WIDTH, height=200)

    said = "; ".join(
        f"{one.label} from {one.ys[0]:.3g} at {one.xs[0]:g} to {one.ys[-1]:.3g} at {one.xs[-1]:g}" for one in lines
    )
    cells = [
        [escape(line.label), f"{a:g}", figure(b), f"{figure(low)} to {figure(high)}" if line.lows else ""]
        for line in lines
        for a, b, low, high in _thinned(line)
    ]
    head = ["", x, y, *(["95 % interval"] if any(line.lows for line in lines) else [])]
    return block(key, caption, f"{y} by {x}: {said}.", draw, table(caption, head, [row[: len(head)] for row in cells]))


def bars(
    key: str,
    caption: str,
    series: Mapping[str, Sequence[float]],
    labels: Sequence[str],
    *,
    x: str,
    y: str,
) -> str:
    """A bar a label, of a share; a second series stands beside the first."""
    import altair as alt

    first = next(iter(series))

    def draw() -> Any:
        data = [
            {"label": label, "value": value, "series": name, "main": name == first}
            for name, values in series.items()
            for label, value in zip(labels, values, strict=True)
        ]
        chart = alt.Chart(alt.Data(values=data)).mark_bar()
        shown = chart.encode(
            x=alt.X("label:N", sort=list(labels), title=x, axis=alt.Axis(labelAngle=0, grid=False, labelOverlap=True)),
            y=alt.Y("value:Q", title=y, axis=alt.Axis(labelExpr=PER_CENT, tickCount=4)),
            color=_main("main"),
        )
        if len(series) > 1:
            shown = shown.encode(xOffset=alt.XOffset("series:N", sort=list(series)))
        return shown.properties(width=WIDTH, height=170)

    said = "; ".join(
        f"{name}: " + ", ".join(f"{label} {share(v)}" for label, v in zip(labels, values, strict=True))
        for name, values in series.items()
    )
    cells = [[escape(label), *(share(values[i]) for values in series.values())] for i, label in enumerate(labels)]
    return block(key, caption, f"{y} by {x}. {said}.", draw, table(caption, [x, *series], cells))


def steps(key: str, caption: str, rows: Sequence[tuple[str, int, bool]]) -> str:
    """A funnel: one bar a step, with its count. Rows are (what, how many, in the accent's colour)."""
    import altair as alt

    def draw() -> Any:
        data = [{"label": label, "value": value, "main": main, "text": count(value)} for label, value, main in rows]
        chart = alt.Chart(alt.Data(values=data))
        most = max(value for _, value, _ in rows) or 1
        y = _named([label for label, _, _ in rows])
        across = alt.X("value:Q", axis=None, scale=alt.Scale(domain=[0, 1.18 * most]))
        drawn = chart.mark_bar(height=15).encode(x=across, y=y, color=_main("main"))
        written = chart.mark_text(align="left", dx=5).encode(x=across, y=y, text="text:N")
        return (drawn + written).properties(width=WIDTH, height=alt.Step(24))

    said = "; ".join(f"{label} {count(value)}" for label, value, _ in rows)
    cells = [[escape(label), count(value)] for label, value, _ in rows]
    return block(key, caption, f"{said}.", draw, table(caption, ["", "count"], cells))


def grid(key: str, caption: str, counts: Mapping[tuple[int, int], int], *, x: str, y: str) -> str:
    """How often each pair (x, y) of small whole numbers came, as cells that are darker the oftener."""
    import altair as alt

    across, up = ({pair[side] for pair in counts} for side in (0, 1))
    most = max(counts.values())

    def draw() -> Any:
        data = [
            {"x": a, "y": b, "n": n / most, "text": f"{n}", "dark": n > 0.55 * most} for (a, b), n in counts.items()
        ]
        chart = alt.Chart(alt.Data(values=data))
        size = alt.Step(max(14, min(56, WIDTH // max(len(across), len(up)))))
        places = {
            "x": alt.X("x:O", title=x, axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            "y": alt.Y("y:O", title=y, axis=alt.Axis(labelOverlap=True)),
        }
        drawn = chart.mark_rect(color=ACCENT).encode(
            **places, fillOpacity=alt.FillOpacity("n:Q", scale=alt.Scale(domain=[0, 1], range=[0.04, 1]), legend=None)
        )
        if len(counts) <= 25:
            colour = alt.condition("datum.dark", alt.value(PAPER), alt.value(INK))
            drawn += chart.mark_text().encode(**places, text="text:N", color=colour)
        return drawn.properties(width=size, height=size)

    same = sum(n for (a, b), n in counts.items() if a == b) / sum(counts.values())
    columns = sorted(across)
    cells = [[str(b), *(count(counts.get((a, b), 0)) for a in columns)] for b in sorted(up)]
    numbers = table(f"{caption}: rows are {y}, columns {x}", [f"{y} \\ {x}", *map(str, columns)], cells)
    return block(
        key, caption, f"{share(same)} of {count(sum(counts.values()))} pairs lie on the diagonal.", draw, numbers
    )


def _named(labels: Sequence[str]) -> Any:
    """A row a label, in their order, with room for the longest."""
    import altair as alt

    room = min(240, LETTER_PIXELS * max(len(label) for label in labels))
    return alt.Y("label:N", sort=list(labels), title=None, axis=alt.Axis(minExtent=room))


def _main(field: str) -> Any:
    import altair as alt

    return alt.Color(f"{field}:N", scale=alt.Scale(domain=[True, False], range=[ACCENT, SECOND]), legend=None)


def _thinned(line: Line, most: int = 40) -> list[tuple[float, float, float, float]]:
    """Points of a long curve for a table: every so many, and the last."""
    found = list(zip(line.xs, line.ys, line.lows or line.ys, line.highs or line.ys, strict=True))
    every = -(-len(found) // most)
    return [*found[::every], *(found[-1:] if (len(found) - 1) % every else [])]
