"""Plots of any numbers as inline SVG or HTML, in the page's style; for `ReportSection`s as well as the report's own."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape

__all__ = ["bar_list", "heat_map", "line_chart"]


def bar_list(rows: Sequence[tuple[str, float, str]], unit: str = "", digits: int = 3) -> str:
    """Labelled horizontal bars from a common zero, for many long names: layers, stages.

    Args:
        rows: (label, value, note); the note is shown when the row is pointed at. NaN shows as a dash.
        unit: After every value.
        digits: Significant digits.
    """
    known = [value for _, value, _ in rows if math.isfinite(value)]
    low, high = min([0.0, *known]), max([0.0, *known])
    span = (high - low) or 1.0
    parts = []
    for label, value, note in rows:
        if math.isfinite(value):
            left, width = 100 * (min(value, 0.0) - low) / span, 100 * abs(value) / span
            bar = f'<i class="{"s5" if value < 0 else "s0"}" style="left:{left:.2f}%;width:{width:.2f}%"></i>'
            text = f"{value:.{digits}g}{unit}"
        else:
            bar, text = "", "–"
        parts.append(
            f'<div class="hbar" title="{escape(note or label)}"><span>{_breakable(label)}</span><div>{bar}</div>'
            f"<b>{escape(text)}</b></div>"
        )
    return f'<div class="hbars">{"".join(parts)}</div>'


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    texts: Sequence[Sequence[str]],
    notes: Sequence[Sequence[str]] | None = None,
    limit: float | None = None,
    bold: Sequence[Sequence[bool]] | None = None,
) -> str:
    """A table of signed numbers, shaded from bad (below 0) to good (above 0).

    Args:
        rows: Names of the rows.
        columns: Names of the columns.
        values: Row by row; NaN leaves a cell unshaded.
        texts: What stands in the cells.
        notes: Shown when a cell is pointed at.
        limit: Magnitude of full shade; by default the largest that occurs.
        bold: Which cells to stress.
    """
    known = [abs(value) for row in values for value in row if math.isfinite(value)]
    full = limit or max([*known, 1e-12])
    body = ""
    for row, name in enumerate(rows):
        cells = ""
        for column in range(len(columns)):
            value = values[row][column]
            note = f' title="{escape(notes[row][column])}"' if notes else ""
            text = escape(texts[row][column])
            text = f"<b>{text}</b>" if bold and bold[row][column] else text
            if math.isfinite(value) and value != 0.0:
                side, share = ("gain" if value > 0 else "loss"), min(abs(value) / full, 1.0)
                cells += f'<td class="num {side}" style="--v:{share:.3f}"{note}>{text}</td>'
            else:
                cells += f'<td class="num"{note}>{text}</td>'
        body += f"<tr><th>{escape(name)}</th>{cells}</tr>"
    head = "".join(f"<th class=num>{escape(name)}</th>" for name in columns)
    return (
        f'<div class="scroll"><table class="heatmap"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def line_chart(
    title: str,
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    x_label: str,
    y_label: str,
    marks: Sequence[tuple[str, float]] = (),
    log_x: bool = False,
) -> str:
    """Lines over a common x axis, with a legend.

    Args:
        title: Above the plot.
        series: (legend, points (x, y)); points that are not finite are left out. At most seven.
        x_label: Below the plot.
        y_label: Beside the title.
        marks: (label, x) vertical lines, such as a chosen clipping value.
        log_x: Logarithmic x axis; x must then be above 0.

    Raises:
        ValueError: more than seven series, or no finite point.
    """
    if len(series) > 7:
        raise ValueError(f"'{title}' has {len(series)} series; seven can be told apart")
    place = math.log10 if log_x else float
    drawn = [
        (name, [(place(x), y) for x, y in points if math.isfinite(x) and math.isfinite(y)]) for name, points in series
    ]
    everything = [point for _, points in drawn for point in points]
    if not everything:
        raise ValueError(f"'{title}' has no finite point to draw")
    xs, ys = zip(*everything, strict=True)
    (x0, x1), (y0, y1) = _span([*xs, *(place(x) for _, x in marks)]), _span(ys)
    left, top, width, height = 46, 26, 360, 170

    def at(x: float, y: float) -> str:
        return f"{left + width * (x - x0) / (x1 - x0):.1f},{top + height * (1 - (y - y0) / (y1 - y0)):.1f}"

    grid = "".join(
        f'<path class="grid" d="M{left} {top + height * (1 - t):g}h{width}"/>'
        f'<text class="tick" x="{left - 5}" y="{top + height * (1 - t) + 3.5:g}" text-anchor="end">'
        f"{_tick(y0 + (y1 - y0) * t)}</text>"
        f'<text class="tick" x="{left + width * t:g}" y="{top + height + 13}" text-anchor="middle">'
        f"{_tick(_unplace(x0 + (x1 - x0) * t, log_x))}</text>"
        for t in (0.0, 0.5, 1.0)
    )
    lines = "".join(
        f'<polyline class="curve l{index}" points="{" ".join(at(x, y) for x, y in points)}">'
        f"<title>{escape(name)}</title></polyline>"
        for index, (name, points) in enumerate(drawn)
    )
    for label, x in marks:
        lines += (
            f'<path class="mark" d="M{left + width * (place(x) - x0) / (x1 - x0):.1f} {top}v{height}">'
            f"<title>{escape(label)}: {x:.4g}</title></path>"
        )
    keys = "".join(
        f'<span class="key"><i class="line l{index}"></i>{escape(name)}</span>' for index, (name, _) in enumerate(drawn)
    )
    keys += "".join(f'<span class="key"><i class="line mark"></i>{escape(label)}: {x:.4g}</span>' for label, x in marks)
    return (
        f'<svg class="chart" viewBox="0 0 {left + width + 14} {top + height + 32}" role="img" '
        f'aria-label="{escape(title)}"><text class="head" x="{left}" y="14">{escape(title)}</text>'
        f'<text class="tick" x="{left + width}" y="14" text-anchor="end">{escape(y_label)}</text>{grid}{lines}'
        f'<text class="tick" x="{left + width / 2:g}" y="{top + height + 27}" text-anchor="middle">'
        f'{escape(x_label)}</text></svg><p class="legend">{keys}</p>'
    )


def _breakable(name: str) -> str:
    """A long name that may break after dots and slashes."""
    return re.sub(r"([./_])", r"\1<wbr>", escape(name))


def _tick(value: float) -> str:
    """Short enough for an axis: 12.5k, 3.1M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g}{unit}"
    return f"{value:.3g}"


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _unplace(value: float, log_x: bool) -> float:
    return float(10.0**value) if log_x else value
