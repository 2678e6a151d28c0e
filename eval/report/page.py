"""The whole page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from base.files import atomic_path
from eval.palette import BACKGROUND, COLORS
from eval.report.artifacts import artifacts, environment
from eval.report.extension import ReportSection, render_section
from eval.report.summary import summary
from eval.report.templating import render
from eval.results import RunResults

if TYPE_CHECKING:
    from eval.panels import FramePanel

__all__ = ["render_report", "write_report"]


def render_report(results: RunResults, panels: Sequence[FramePanel] = (), more: Sequence[ReportSection] = ()) -> str:
    """The report as one HTML document that loads nothing from anywhere; equal input gives equal text.

    Raises:
        ValueError: two of the added sections have the same anchor.
    """
    anchors = [item.anchor for item in more]
    if len(set(anchors)) != len(anchors):
        raise ValueError(f"sections of the report share an anchor: {anchors}")
    sections = list(_sections(results, panels, more))
    page = render("report.html", title=results.title, sections=sections, background=BACKGROUND, colors=COLORS)
    return f"{page}\n"


def _sections(results: RunResults, panels: Sequence[FramePanel], more: Sequence[ReportSection]) -> Iterator[str]:
    """In the order of the page; what a run did not do is not imported either."""
    yield summary(results)
    if results.checks:
        from eval.report.checks import checks

        yield checks(results.checks)
    if results.verifications or any(step.name.startswith("verify ") for step in results.steps):
        from eval.report.verification import verification

        yield verification(results)
    if results.evaluations:
        from eval.report.accuracy import accuracy

        yield accuracy(results.evaluations)
    if results.driving:
        from eval.report.driving import driving

        yield driving(results.driving)
    if results.nuscenes:
        from eval.report.nuscenes import nuscenes

        yield nuscenes(results.nuscenes)
    if results.vehicle:
        from eval.report.vehicle import vehicle

        yield vehicle(results.vehicle)
    if results.comparisons or results.gates:
        from eval.report.differences import differences

        yield differences(results.comparisons, results.gates)
    if panels:
        from eval.report.frames import worst_frames

        yield worst_frames(panels)
    if results.evaluations:
        from eval.report.accuracy import curves

        yield curves(results.evaluations)
    yield from map(render_section, more)
    if results.evaluations:
        from eval.report.latency import latency

        yield latency(results.evaluations)
    yield artifacts(results)
    yield environment(results)


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
