"""Plots of any numbers as inline SVG or HTML, in the page's style; for `ReportSection`s as well as the report's own."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from eval.report.table import DASH
from eval.report.templating import render

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
    bars: list[tuple[list[str], str, tuple[str, str, str] | None, str]] = []
    for label, value, note in rows:
        # A long name may break after dots, slashes and underscores.
        pieces = re.split(r"(?<=[./_])", label)
        if math.isfinite(value):
            left, width = 100 * (min(value, 0.0) - low) / span, 100 * abs(value) / span
            bar = ("s5" if value < 0 else "s0", f"{left:.2f}", f"{width:.2f}")
            bars.append((pieces, note or label, bar, f"{value:.{digits}g}{unit}"))
        else:
            bars.append((pieces, note or label, None, DASH))
    return render("bar_list.html", bars=bars)


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
    body = []
    for row, name in enumerate(rows):
        cells = []
        for column, value in enumerate(values[row]):
            shaded = math.isfinite(value) and value != 0.0
            cells.append(
                {
                    "text": texts[row][column],
                    "note": notes[row][column] if notes else None,
                    "bold": bool(bold and bold[row][column]),
                    "side": ("gain" if value > 0 else "loss") if shaded else "",
                    "share": f"{min(abs(value) / full, 1.0):.3f}" if shaded else "",
                }
            )
        body.append((name, cells))
    return render("heat_map.html", columns=columns, rows=body)


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

    ticks = [
        (
            left + width * t,
            top + height * (1 - t),
            _tick(_unplace(x0 + (x1 - x0) * t, log_x)),
            _tick(y0 + (y1 - y0) * t),
        )
        for t in (0.0, 0.5, 1.0)
    ]
    frame = {"left": left, "top": top, "width": width, "height": height}
    return render(
        "line_chart.html",
        title=title,
        x_label=x_label,
        y_label=y_label,
        ticks=ticks,
        lines=[(name, " ".join(at(x, y) for x, y in points)) for name, points in drawn],
        marks=[(f"{left + width * (place(x) - x0) / (x1 - x0):.1f}", f"{label}: {x:.4g}") for label, x in marks],
        frame=frame,
    )


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
