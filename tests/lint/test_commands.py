"""Every module that is a command begins and ends as all of them do (base/command.py)."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from benchmarks.dependencies import PACKAGES

ROOT = Path.cwd()  # the runfiles tree under Bazel, the repository's root otherwise
# A part of another process, which asks and answers over pipes; no user starts it.
NOT_COMMANDS = {"export/engine/worker.py"}


def blocks_under_main() -> dict[str, tuple[ast.Module, ast.If]]:
    """Path -> its syntax and what stands under `if __name__ == "__main__"`."""
    found = {}
    for package in PACKAGES:
        for folder, _, names in os.walk(ROOT / package):
            for name in names:
                path = Path(folder, name)
                if path.suffix != ".py" or "__main__" not in (text := path.read_text(encoding="utf-8")):
                    continue
                tree = ast.parse(text)
                for node in tree.body:
                    if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
                        found[path.relative_to(ROOT).as_posix()] = (tree, node)
    return found


BLOCKS = blocks_under_main()


def test_commands_are_found() -> None:
    assert {"deploy/export.py", "datasets/synthetic/__main__.py", "eval/score.py", *NOT_COMMANDS} <= set(BLOCKS)


@pytest.mark.parametrize("path", sorted(set(BLOCKS) - NOT_COMMANDS))
def test_a_command_ends_through_one_function(path: str) -> None:
    tree, block = BLOCKS[path]
    assert [ast.unparse(statement) for statement in block.body] == ["run_main(main)"]
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert "run_command" in calls
    assert not calls & {"sys.exit", "logging.basicConfig", "signal.signal"}
