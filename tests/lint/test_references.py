"""Names of modules, functions and files in docstrings, comments and pages are names of something that exists."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.dependencies import PACKAGES

ROOT = Path.cwd()  # the runfiles tree under Bazel, the repository's root otherwise
FOLDERS = (*PACKAGES, "artifacts", "bazel", "configs", "docs", "tests", "third_party")
SUFFIXES = (".py", ".md", ".cu", ".cuh", ".h", ".cpp", ".bzl", ".bazel", ".sh")
# `deploy.yaml` is a file, `deploy.export` a module.
ENDINGS = {
    "bazel",
    "bin",
    "csv",
    "cu",
    "engine",
    "html",
    "json",
    "jsonl",
    "log",
    "md",
    "onnx",
    "pkl",
    "py",
    "sh",
    "yaml",
}

DOTTED = re.compile(rf"(?<![\w./@-])(?:{'|'.join(PACKAGES)})(?:\.[A-Za-z_]\w*)+")
PATH = re.compile(rf"(?<![\w./@{{}}<>$-])(?:{'|'.join((*FOLDERS, '.ci'))})/[\w./*-]*".replace("|.ci", r"|\.ci"))
# In a page's section on a folder, names in code type are files of that folder.
SECTION = re.compile(rf"#+ .*?((?:{'|'.join(PACKAGES)})/[\w/]*)")
INSIDE = re.compile(r"`((?:\w+/)*(?:\w+|\{[\w,]+\})\.py|(?:\w+/)+)`")


def files() -> list[Path]:
    """All files whose texts are read."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    found += [path for path in ROOT.iterdir() if path.suffix in SUFFIXES]
    return sorted(path for path in found if path.suffix in SUFFIXES and path.is_file())


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of what is written for people: pages as they are, docstrings and comments of code."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield from enumerate(source.split("\n"), 1)
    elif path.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
        for node in ast.walk(ast.parse(source)):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                yield from enumerate(node.value.value.split("\n"), node.lineno)
    else:
        for number, line in enumerate(source.split("\n"), 1):
            if comment := re.search(r"(//|#).*", line):
                yield number, comment.group(0)


def module_file(parts: list[str]) -> Path | None:
    place = ROOT.joinpath(*parts)
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


@functools.cache
def defined(path: Path) -> dict[str, ast.AST]:
    """Name -> node of what a module defines or imports at its top, and of what its `__all__` promises."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = dict(bound(tree.body))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            promised = [item.value for item in ast.walk(node.value) if isinstance(item, ast.Constant)]
            names = {**{str(name): node for name in promised}, **names}
    return names


def bound(body: list[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (
                (part.id, node) for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)
            )
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (((alias.asname or alias.name).partition(".")[0], node) for alias in node.names)
        elif isinstance(node, (ast.If, ast.Try)):
            yield from bound([*node.body, *node.orelse])


@functools.cache
def export_keys() -> frozenset[str]:
    """Keys of the deploy config's section `export`, which is the name of a package, too."""
    section = defined(ROOT / "deploy" / "config" / "schema.py")["ExportConfig"]
    assert isinstance(section, ast.ClassDef)
    return frozenset(name for name, _ in bound(section.body))


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module, something in it, or a member of a class in it."""
    parts = dotted.split(".")
    if parts[0] == "export" and parts[1] in export_keys():
        return True
    known = next((count for count in range(len(parts), 0, -1) if module_file(parts[:count])), 0)
    file = module_file(parts[:known]) if known else None
    rest = parts[known:]
    if file is None:
        return False
    if not rest:
        return True
    node = defined(file).get(rest[0])
    if len(rest) == 1 or not isinstance(node, ast.ClassDef) or node.bases:
        return node is not None
    members = {name for name, _ in bound(node.body)}
    members |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    return rest[1] in members


def stale_names(text: str) -> list[str]:
    return [name for name in DOTTED.findall(text) if name.rpartition(".")[2] not in ENDINGS and not exists(name)]


def stale_paths(text: str, folder: Path) -> list[str]:
    """Paths from the root, or from the folder of the page that names them."""
    stale = []
    for found in PATH.findall(text):
        name = found.rstrip(".,")
        places = [place / name for place in (ROOT, folder)]
        if "*" in name:
            present = any(next(place.glob(name), None) for place in (ROOT, folder))
        else:
            present = any(place.exists() or place.with_name(place.name + ".py").exists() for place in places)
        if not present:
            stale.append(name)
    return stale


def stale_files_of_sections(page: Path) -> list[str]:
    stale, folder = [], None
    for line in page.read_text(encoding="utf-8").split("\n"):
        if line.startswith("#"):
            heading = SECTION.match(line)
            folder = ROOT / heading.group(1) if heading else None
        for name in INSIDE.findall(line) if folder is not None else ():
            choices = re.search(r"\{(.*)\}", name)
            names = (
                [name.replace(choices.group(0), part) for part in choices.group(1).split(",")] if choices else [name]
            )
            stale += [item for item in names if not (folder / item).exists() and not (ROOT / item).exists()]
    return stale


FILES = files()


def test_texts_are_read() -> None:
    kinds = {path.suffix for path in FILES}
    assert {".py", ".md", ".cu", ".cuh"} <= kinds
    assert len(FILES) > 400


@pytest.mark.parametrize("folder", [".", *FOLDERS])
def test_names_in_texts_exist(folder: str) -> None:
    stale = []
    for path in FILES:
        top = path.relative_to(ROOT).parts[0]
        if path.name == Path(__file__).name or (top if top in FOLDERS else ".") != folder:
            continue
        for line, text in texts(path):
            found = [*stale_names(text), *stale_paths(text, path.parent)]
            stale += [f"{path.relative_to(ROOT)}:{line}: {name}" for name in found]
        if path.suffix == ".md":
            stale += [f"{path.relative_to(ROOT)}: {name}" for name in stale_files_of_sections(path)]
    assert stale == []


def test_what_is_found() -> None:
    assert stale_names("see `deploy.config.checks`, `eval.metrics.matching.assign` and base.errors") == [
        "deploy.config.checks"
    ]
    assert stale_names("`base.boxes.Boxes3D.select` `base.boxes.Boxes3D.selekt`") == ["base.boxes.Boxes3D.selekt"]
    assert stale_names("`quant.quantize_ptq`, deploy.yaml, my.deploy.thing") == []
    assert stale_paths(
        "tests/lint/test_lint.py tests/lint/test_nothing.py, docs/*.md eval/metrics/ eval/nothing/*.py", ROOT
    ) == [
        "tests/lint/test_nothing.py",
        "eval/nothing/*.py",
    ]


def test_sections_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "## eval/ – numbers\n* `gates.py`, `metrics/`, `gone.py`\n`metrics/{modes,lost}.py`\n## Other\n`gone.py`\n"
    )
    assert stale_files_of_sections(page) == ["gone.py", "metrics/lost.py"]
