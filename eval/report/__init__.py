"""`report.html`: one self-contained page about a run."""

from __future__ import annotations

from eval.report.extension import Figure, ReportSection
from eval.report.page import render_report, write_report
from eval.report.table import Cell

__all__ = ["Cell", "Figure", "ReportSection", "render_report", "write_report"]
