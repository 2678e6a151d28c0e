"""Names that packages import when they are first used: type checkers must see the same ones, from the same modules."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("autoware", "base", "datasets", "deploy", "eval", "export", "models", "quant", "runtime", "training")


def _lazy_packages() -> dict[str, tuple[ast.Module, ast.Call]]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("__init__.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "lazy_attributes":
                    found[".".join(path.relative_to(ROOT).parts[:-1])] = (tree, node)
    return found


LAZY = _lazy_packages()


@pytest.mark.parametrize("package", LAZY)
def test_type_checkers_see_what_is_handed_out(package: str) -> None:
    tree, call = LAZY[package]
    handed_out = {
        name: module.removeprefix("//") if module.startswith("//") else f"{package}.{module}"
        for name, module in ast.literal_eval(call.args[1]).items()
    }
    seen = {
        alias.asname or alias.name: statement.module
        for block in tree.body
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert {name: seen.get(name) for name in handed_out} == handed_out
    (public,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"
    ]
    assert set(handed_out) <= set(public)


def test_packages_are_looked_at() -> None:
    assert {"deploy.config", "quant", "quant.sensitivity", "runtime"} <= set(LAZY)
