"""A text that is written in several literals is broken where a line ends, not where a formatter once broke it."""

from __future__ import annotations

import ast
import io
import itertools
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.dependencies import PACKAGES

ROOT = Path.cwd()  # the runfiles tree under Bazel, the repository's root otherwise
FOLDERS = (*PACKAGES, "bazel", "configs", "tests", "third_party")
WIDTH = 120
# A line may end early behind these, where a clause ends, and where the text itself begins a new line.
CLAUSE = re.compile(r"([.,;:)>] ?|\\n)$")
ROOM = 25  # columns that a line may leave free although the next word fits
BROKEN = re.compile(r"[\"']\s*\n\s*[rf]?[\"'](?!\"\"|'')")


def python_files(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if path.is_file())


def joined(source: str) -> Iterator[list[tokenize.TokenInfo]]:
    """Literals that follow each other and are one text."""
    run: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.STRING:
            run.append(token)
        elif token.type not in (tokenize.NL, tokenize.COMMENT):
            if len(run) > 1:
                yield run
            run = []


def content(token: tokenize.TokenInfo) -> str:
    quote = min(token.string.index(mark) for mark in "\"'" if mark in token.string)
    return token.string[quote + 1 : -1]


def first_word(text: str) -> str:
    """Up to the first space outside of braces, which are not broken."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if letter == " " and depth == 0:
            return text[:index]
    return text


def faults(source: str) -> list[str]:
    """'line: what' of every literal that should go on, and of docstrings that hold the rest of such a break."""
    found = []
    for run in joined(source):
        for first, second in itertools.pairwise(run):
            line, end, text = first.start[0], first.end[1], content(first)
            if first.end[0] == second.start[0]:
                found.append(f"{line}: two literals on one line")
            elif text.endswith("\\n"):
                continue
            elif end + len(content(second)) <= WIDTH:
                found.append(f"{line}: the next literal fits into this line")
            elif not CLAUSE.search(text) and end + len(first_word(content(second))) + 1 <= WIDTH - ROOM:
                found.append(f"{line}: the line ends {WIDTH - end} columns early")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node, clean=False)
            if docstring and BROKEN.search(docstring):
                found.append(f"{node.body[0].lineno}: quotes around a line break inside a docstring")
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_literals_fill_their_lines(folder: str) -> None:
    files = [path for path in python_files(folder) if path.name != Path(__file__).name]
    assert files
    found = [
        f"{path.relative_to(ROOT)}:{fault}" for path in files for fault in faults(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_what_is_found() -> None:
    long = "word " * 21
    source = (
        'a = ("one " "two")\n'
        'b = (\n    f"no "\n    "backend to evaluate"\n)\n'
        f'c = (\n    "{long}"\n    "goes on here and here, so that two lines are needed"\n)\n'
        f'd = (\n    f"short is {{a}} "\n    "{long}and more"\n)\n'
        f'e = (\n    f"a clause ends, "\n    "{long}and more"\n)\n'
        'f = "a\\n"  \\\n    "b"\n'
    )
    assert faults(source) == [
        "1: two literals on one line",
        "3: the next literal fits into this line",
        "11: the line ends 100 columns early",
    ]
    assert faults('"""The command `run [--mode=both] "\n"…`."""\n') == [
        "1: quotes around a line break inside a docstring"
    ]
    assert faults('"""Says "a"\nand "b".\n\n    "c"\n"""\n') == []
