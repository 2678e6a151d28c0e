"""Charts as inline SVG; colours come from the page's style sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["histogram", "precision_recall_chart", "stage_bars"]


def precision_recall_chart(title: str, note: str, curves: Sequence[tuple[str, str, Sequence[float]]]) -> str:
    """One class: precision over recall.

    Args:
        title: The class.
        note: Beside the title.
        curves: (legend, CSS class, precision at evenly spaced recalls from 0 to 1).
    """
    left, top, width, height = 34, 26, 216, 150
    grid = "".join(
        f'<path class="grid" d="M{left} {top + height * (1 - t)}h{width}M{left + width * t} {top}v{height}"/>'
        f'<text class="tick" x="{left - 5}" y="{top + height * (1 - t) + 3.5}" text-anchor="end">{t:g}</text>'
        f'<text class="tick" x="{left + width * t}" y="{top + height + 13}" text-anchor="middle">{t:g}</text>'
        for t in (0.0, 0.5, 1.0)
    )
    lines = []
    for legend, css, precision in curves:
        # The curve ends where recall ends; the zeros beyond are no measurements.
        last = max((index for index, value in enumerate(precision) if value > 0), default=-1)
        points = " ".join(
            f"{left + width * index / (len(precision) - 1):.1f},{top + height * (1 - value):.1f}"
            for index, value in enumerate(precision[: last + 1])
        )
        if points:
            lines.append(f'<polyline class="curve {css}" points="{points}"><title>{escape(legend)}</title></polyline>')
    return (
        f'<svg class="chart" viewBox="0 0 262 206" role="img" aria-label="Precision over recall, {escape(title)}">'
        f'<text class="head" x="{left}" y="14">{escape(title)}</text>'
        f'<text class="tick" x="{left + width}" y="14" text-anchor="end">{escape(note)}</text>{grid}{"".join(lines)}'
        f'<text class="tick" x="{left + width / 2}" y="{top + height + 26}" text-anchor="middle">recall</text></svg>'
    )


def stage_bars(rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Mean time of a frame by stage, one stacked bar per backend, on one scale.

    Args:
        rows: (backend, stage -> milliseconds in order, without the total).
    """
    stages = list(dict.fromkeys(stage for _, parts in rows for stage in parts))
    longest = max((sum(parts.values()) for _, parts in rows), default=0.0) or 1.0
    bars = ""
    for name, parts in rows:
        pieces = "".join(
            f'<i class="s{stages.index(stage)}" style="width:{100 * value / longest:.2f}%" '
            f'title="{escape(stage)}: {value:.2f} ms"></i>'
            for stage, value in parts.items()
        )
        bars += (
            f'<div class="bar"><p class="small">{escape(name)}: <b>{sum(parts.values()):.1f} ms</b></p>'
            f'<div class="parts">{pieces}</div></div>'
        )
    legend = "".join(
        f'<span class="key"><i class="s{index}"></i>{escape(stage)}</span>' for index, stage in enumerate(stages)
    )
    return f'{bars}<p class="legend">{legend}</p>'


def histogram(title: str, samples: Sequence[float], low: float, high: float, marks: Mapping[str, float]) -> str:
    """Distribution of samples over [low, high], with marked values.

    Args:
        title: What is shown.
        samples: In milliseconds.
        low: Left end, shared between charts that are compared.
        high: Right end.
        marks: Label -> value, drawn as lines.
    """
    bins, width, height, left, top = 32, 420, 74, 6, 22
    span = (high - low) or 1.0
    counts = [0] * bins
    for value in samples:
        counts[min(int((value - low) / span * bins), bins - 1)] += 1
    tallest = max([*counts, 1])
    bars = "".join(
        f'<rect class="s0" x="{left + width * index / bins + 0.5:.1f}" y="{top + height * (1 - count / tallest):.1f}" '
        f'width="{width / bins - 1:.1f}" height="{height * count / tallest:.1f}"/>'
        for index, count in enumerate(counts)
        if count
    )
    lines = "".join(
        f'<path class="mark" d="M{left + width * (value - low) / span:.1f} {top}v{height}">'
        f"<title>{escape(label)}: {value:.1f} ms</title></path>"
        for label, value in marks.items()
    )
    note = ", ".join(f"{label} {value:.1f}" for label, value in marks.items())
    return (
        f'<svg class="chart" viewBox="0 0 {width + 12} {top + height + 18}" role="img" '
        f'aria-label="Distribution of {escape(title)}"><text class="head" x="{left}" y="14">{escape(title)}</text>'
        f'<text class="tick" x="{left + width}" y="14" text-anchor="end">{escape(note)} ms</text>{bars}{lines}'
        f'<path class="grid" d="M{left} {top + height}h{width}"/>'
        f'<text class="tick" x="{left}" y="{top + height + 13}">{low:.4g}</text>'
        f'<text class="tick" x="{left + width}" y="{top + height + 13}" text-anchor="end">{high:.4g} ms</text></svg>'
    )
