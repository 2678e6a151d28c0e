"""Artifacts and versions in the report."""

from __future__ import annotations

from eval.report.table import Cell, Table, file_size
from eval.report.templating import render
from eval.results import RunResults

__all__ = ["artifacts", "environment"]


def artifacts(results: RunResults) -> str:
    """Files with their checksums."""
    rows = [
        [
            Cell(item.path, "full", kind="code"),
            Cell(item.kind),
            Cell(item.precision),
            file_size(item.bytes),
            Cell(item.sha256, "sha full", kind="code"),
        ]
        for item in results.artifacts
    ]
    if not rows:
        return ""
    files = Table(["file", "kind", "precision", "size", "SHA-256"], rows, css="stack")
    return render("section.html", title="Artifacts", anchor="artifacts", table=files)


def environment(results: RunResults) -> str:
    """Versions of the packages that took part."""
    rows = [[name, version] for name, version in sorted(results.versions.items())]
    if not rows:
        return ""
    return render("section.html", title="Versions", anchor="versions", table=Table(["package", "version"], rows))
