"""docs/checks.md has every check of the registry, as it is."""

from __future__ import annotations

from pathlib import Path

from base.checks import Check
from deploy.checks_page import PAGE, embed_checks, render_checks
from models.known_checks import KNOWN_CHECKS

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_is_made_from_the_registry() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    assert embed_checks(page) == page, "run: python -m deploy.checks_page"
    for name in KNOWN_CHECKS:
        assert page.count(f"| `{name}` |") == 1, name


def test_each_kind_has_its_table() -> None:
    text = render_checks(
        [Check("a", "A with B.", accepting="it is so"), Check("b", "B alone."), Check("c", "C with D.", "warning")]
    )
    assert "| `a` | A with B. | it is so |" in text
    assert text.index("`a`") < text.index("nobody can know better") < text.index("`b`") < text.index("Warnings")
    assert text.index("Warnings") < text.index("`c`")


def test_checks_say_what_they_compare_in_a_sentence() -> None:
    for name, check in KNOWN_CHECKS.items():
        assert name == check.id
        assert name == name.lower()
        assert " " not in name
        assert check.compares.endswith("."), name
        assert not check.accepting.endswith("."), name
