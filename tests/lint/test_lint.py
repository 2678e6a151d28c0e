"""Style and types of every Python file of the repository, with the settings of pyproject.toml."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path.cwd()  # the runfiles tree under Bazel, the repository's root otherwise
PACKAGES = (
    "base",
    "models",
    "datasets",
    "runtime",
    "eval",
    "quant",
    "export",
    "autoware",
    "deploy",
    "benchmarks",
    "training",
    "third_party",
    "bazel",
    "tests",
)


def python_files(packages: tuple[str, ...]) -> list[str]:
    """Paths relative to the root, sorted."""
    found = [
        str(Path(folder, name).relative_to(ROOT))
        for package in packages
        for folder, _, names in os.walk(ROOT / package)
        for name in names
        if name.endswith(".py")
    ]
    return sorted(found)


def check(*command: str) -> None:
    """Runs a tool; its output is the failure's message."""
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"


def test_files_are_found() -> None:
    files = python_files(PACKAGES)
    assert "base/boxes.py" in files
    assert "tests/lint/test_lint.py" in files


def test_ruff_check() -> None:
    check("ruff", "check", "--no-cache", *python_files((*PACKAGES, "configs")))


def test_ruff_format() -> None:
    check("ruff", "format", "--check", "--no-cache", *python_files((*PACKAGES, "configs")))


def test_mypy(tmp_path: Path) -> None:
    # The configs of tests/data are mmengine's, as those of configs/ are: names come into them from their bases.
    files = [file for file in python_files(PACKAGES) if not file.startswith("tests/data/")]
    check("mypy", f"--cache-dir={tmp_path}", *files)


def test_a_type_error_is_found(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f() -> int:\n    return 'text'\n")
    with pytest.raises(AssertionError, match="Incompatible return value"):
        check("mypy", f"--cache-dir={tmp_path / 'cache'}", "--config-file", str(ROOT / "pyproject.toml"), str(wrong))
