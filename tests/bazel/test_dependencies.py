"""The export half stays apart: no file of eval/, runtime/ or datasets/ may reach an ONNX or engine action."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path.cwd()
FORBIDDEN = {"eval", "runtime", "datasets", "training", "quant"}
# Imported by export_onnx when it is given a quantized checkpoint; only //deploy/tools:export_int8_onnx has it.
LAZY = {"deploy.quantized_model"}


def exporting_files() -> list[Path]:
    """The sources that deploy/BUILD.bazel gives to //deploy:exporting, and those of //deploy/tools."""
    build = (ROOT / "deploy/BUILD.bazel").read_text()
    names = re.search(r"EXPORTING = \[(.*?)\]", build, re.DOTALL)
    assert names is not None
    listed = [ROOT / "deploy" / name for name in re.findall(r'"([^"]+)"', names[1])]
    folders = [path for folder in ("engine", "qdq", "tools") for path in (ROOT / "deploy" / folder).rglob("*.py")]
    # A part of //deploy/tools:calibrating, which reads frames.
    return sorted(path for path in listed + folders if path.name != "calibrate.py")


def imported_packages(path: Path) -> set[str]:
    """Top-level packages that a file names in any import, lazy ones too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_exporting_half_imports_nothing_that_changes_more_often() -> None:
    files = exporting_files()
    assert len(files) > 10
    wrong = {str(path): sorted(imported_packages(path) & FORBIDDEN) for path in files}
    assert {path: names for path, names in wrong.items() if names} == {}


def test_exporting_half_is_closed() -> None:
    """An import from `deploy` inside it names a file that belongs to it."""
    files = exporting_files()
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    modules |= {module.removesuffix(".__init__") for module in modules}
    missing = [
        f"{path.relative_to(ROOT)}: {node.module}"
        for path in files
        if path.name != "__init__.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("deploy.")
        and node.module not in modules | LAZY
    ]
    assert missing == []
