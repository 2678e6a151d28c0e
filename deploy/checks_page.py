"""The tables of docs/checks.md, from the registry of checks itself.

`python -m deploy.checks_page` rewrites them; a test holds both together.
"""

from __future__ import annotations

from collections.abc import Iterable

from base.checks import Check
from base.command import run_command, run_main
from base.page_marks import between_marks, rewrite_page
from deploy.config.paths import repository_root
from models.known_checks import KNOWN_CHECKS

__all__ = ["PAGE", "embed_checks", "render_checks"]

PAGE = "docs/checks.md"
_MARK = "checks"


def render_checks(checks: Iterable[Check]) -> str:
    """Errors that a person may know better, errors that nobody can, warnings: a table each, by the registry's order."""
    checks = list(checks)
    errors = [check for check in checks if check.severity == "error"]
    accepted = ["| check | what is compared | `--accept` it if you know that |", "|---|---|---|"]
    accepted += [f"| `{c.id}` | {c.compares} | {c.accepting} |" for c in errors if c.accepting]
    final = [c for c in errors if not c.accepting]
    warnings = [c for c in checks if c.severity == "warning"]
    parts = ["### Errors", "\n".join(accepted), "### Errors that nobody can know better", _plain(final)]
    parts += ["### Warnings", _plain(warnings)]
    return "\n\n".join(parts)


def _plain(checks: Iterable[Check]) -> str:
    rows = ["| check | what is compared |", "|---|---|", *(f"| `{check.id}` | {check.compares} |" for check in checks)]
    return "\n".join(rows)


def embed_checks(page: str) -> str:
    """`page` with the tables between their two marks."""
    return between_marks(page, _MARK, render_checks(KNOWN_CHECKS.values()), file=PAGE)


def main() -> int:
    """Rewrites the tables in the documentation; returns the exit code."""
    return run_command(_rewrite)


def _rewrite() -> None:
    rewrite_page(repository_root() / PAGE, _MARK, render_checks(KNOWN_CHECKS.values()))


if __name__ == "__main__":
    run_main(main)
