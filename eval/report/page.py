"""The whole page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from base.files import atomic_path
from eval.bev import BACKGROUND, COLORS
from eval.panels import FramePanel
from eval.report.accuracy import accuracy, curves
from eval.report.artifacts import artifacts, environment
from eval.report.differences import differences
from eval.report.extension import ReportSection, render_section
from eval.report.frames import worst_frames
from eval.report.latency import latency
from eval.report.summary import summary
from eval.report.templating import render
from eval.report.vehicle import vehicle
from eval.report.verification import verification
from eval.results import RunResults

__all__ = ["render_report", "write_report"]


def render_report(results: RunResults, panels: Sequence[FramePanel] = (), more: Sequence[ReportSection] = ()) -> str:
    """The report as one HTML document that loads nothing from anywhere; equal input gives equal text.

    Raises:
        ValueError: two of the added sections have the same anchor.
    """
    anchors = [item.anchor for item in more]
    if len(set(anchors)) != len(anchors):
        raise ValueError(f"sections of the report share an anchor: {anchors}")
    sections = [
        summary(results),
        verification(results),
        accuracy(results.evaluations),
        vehicle(results.vehicle),
        differences(results.comparisons, results.gates),
        worst_frames(panels),
        curves(results.evaluations),
        *(render_section(item) for item in more),
        latency(results.evaluations),
        artifacts(results),
        environment(results),
    ]
    page = render("report.html", title=results.title, sections=sections, background=BACKGROUND, colors=COLORS)
    return f"{page}\n"


def write_report(
    results: RunResults,
    panels: Sequence[FramePanel],
    path: str | Path,
    more: Sequence[ReportSection] = (),
) -> None:
    """Writes `report.html` atomically.

    Args:
        results: As in `results.json`.
        panels: From `eval.panels.select_panels`; may be empty.
        path: Where to.
        more: Sections of other packages, such as those of the quantization; before the latency.
    """
    text = render_report(results, panels, more)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
