"""The whole page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from base.files import atomic_path
from eval.panels import FramePanel
from eval.report import accuracy, sections
from eval.report.extension import ReportSection, render_section
from eval.report.style import STYLE
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
    body = (
        sections.summary(results)
        + verification(results)
        + accuracy.accuracy(results.evaluations)
        + vehicle(results.vehicle)
        + accuracy.differences(results.comparisons, results.gates)
        + sections.panels_section(panels)
        + accuracy.curves(results.evaluations)
        + "".join(render_section(item) for item in more)
        + sections.latency(results.evaluations)
        + sections.artifacts(results)
        + sections.environment(results)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(results.title)}: deployment report</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


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
