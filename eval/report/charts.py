"""Charts as inline SVG; colours come from the page's style sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.report.templating import render

__all__ = ["histogram", "precision_recall_chart", "stage_bars"]


def precision_recall_chart(title: str, note: str, curves: Sequence[tuple[str, str, Sequence[float]]]) -> str:
    """One class: precision over recall.

    Args:
        title: The class.
        note: Beside the title.
        curves: (legend, CSS class, precision at evenly spaced recalls from 0 to 1).
    """
    left, top, width, height = 34, 26, 216, 150
    ticks = [(f"{t:g}", left + width * t, top + height * (1 - t)) for t in (0.0, 0.5, 1.0)]
    lines = []
    for legend, css, precision in curves:
        # The curve ends where recall ends; the zeros beyond are no measurements.
        last = max((index for index, value in enumerate(precision) if value > 0), default=-1)
        points = " ".join(
            f"{left + width * index / (len(precision) - 1):.1f},{top + height * (1 - value):.1f}"
            for index, value in enumerate(precision[: last + 1])
        )
        if points:
            lines.append((legend, css, points))
    frame = {"left": left, "top": top, "width": width, "height": height}
    return render("precision_recall.svg", title=title, note=note, ticks=ticks, lines=lines, frame=frame)


def stage_bars(rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Mean time of a frame by stage, one stacked bar per backend, on one scale.

    Args:
        rows: (backend, stage -> milliseconds in order, without the total).
    """
    stages = list(dict.fromkeys(stage for _, parts in rows for stage in parts))
    longest = max((sum(parts.values()) for _, parts in rows), default=0.0) or 1.0
    bars = [
        (
            name,
            f"{sum(parts.values()):.1f} ms",
            [
                (stages.index(stage), f"{100 * value / longest:.2f}", f"{stage}: {value:.2f} ms")
                for stage, value in parts.items()
            ],
        )
        for name, parts in rows
    ]
    return render("stage_bars.html", bars=bars, stages=stages)


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
    bars = [
        (
            f"{left + width * index / bins + 0.5:.1f}",
            f"{top + height * (1 - count / tallest):.1f}",
            f"{width / bins - 1:.1f}",
            f"{height * count / tallest:.1f}",
        )
        for index, count in enumerate(counts)
        if count
    ]
    lines = [
        (f"M{left + width * (value - low) / span:.1f} {top}v{height}", f"{label}: {value:.1f} ms")
        for label, value in marks.items()
    ]
    note = ", ".join(f"{label} {value:.1f}" for label, value in marks.items())
    frame = {"left": left, "top": top, "width": width, "height": height}
    return render(
        "histogram.svg",
        title=title,
        note=f"{note} ms",
        low=f"{low:.4g}",
        high=f"{high:.4g} ms",
        bars=bars,
        lines=lines,
        frame=frame,
    )
