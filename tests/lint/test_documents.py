"""Every page of the repository: its links lead to files and headings that exist, and the index knows it."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path.cwd()  # the runfiles tree under Bazel, the repository's root otherwise
FOLDERS = ("docs", "models", "tests")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|^ {4}.*?$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def documents(root: Path) -> list[Path]:
    """Pages of the root and of the folders that hold some, sorted."""
    found = list(root.glob("*.md"))
    for folder in FOLDERS:
        found += [
            Path(place, name) for place, _, names in os.walk(root / folder) for name in names if name[-3:] == ".md"
        ]
    return sorted(found)


def slugs(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    plain = (re.sub(r"[`*_]|\]\([^)]*\)|\[", "", title) for title in HEADING.findall(text))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}


def broken_links(page: Path) -> list[str]:
    """Targets in the page that lead nowhere."""
    text = page.read_text(encoding="utf-8")
    broken = []
    for target in LINK.findall(CODE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in slugs(file.read_text(encoding="utf-8"))):
            broken.append(target)
    return broken


def test_links_lead_somewhere() -> None:
    pages = documents(ROOT)
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= {page.name for page in pages}
    broken = {str(page.relative_to(ROOT)): targets for page in pages if (targets := broken_links(page))}
    assert broken == {}


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One `task`: how\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) [b](missing.md) [c](other.md#one-task-how) [d](other.md#two) [e](#here) `[f](in_code.md)`\n"
        "[g](https://example.org/x)\n## Here\n\n    [h](in_a_block.md)\n"
    )
    assert broken_links(page) == ["missing.md", "other.md#two"]


def test_the_index_lists_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    named = {(index.parent / target).resolve() for target in LINK.findall(index.read_text(encoding="utf-8"))}
    pages = [page for page in documents(ROOT) if page.is_relative_to(ROOT / "docs") and page != index]
    assert len(pages) > 20
    assert [str(page) for page in pages if page.resolve() not in named] == []


def test_the_licence_is_the_one_that_the_project_states() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert re.search(r"^ +Apache License\n +Version 2\.0, January 2004$", text, re.MULTILINE)
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "[Apache License 2.0](LICENSE)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_contributing_stays_short() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) < 100
