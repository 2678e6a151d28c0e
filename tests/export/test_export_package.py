"""The package's public names, and that importing them needs no heavy package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
_HEAVY = ("torch", "mmdet3d", "mmengine", "mmcv", "onnx", "onnxruntime", "onnxsim", "tensorrt", "tensorrt_rtx_bindings")
_BLOCKED = f"""
import sys
for name in {_HEAVY!r}:
    sys.modules[name] = None
"""


@pytest.mark.parametrize(
    "module",
    [
        "export",
        "export.components",
        "export.engine",
        "export.engine.pipeline",
        "export.engine.selection",
        "export.engine.worker",
        "export.manifest",
        "export.onnx_checks",
        "export.onnx_export",
        "export.onnx_graph",
        "export.precision",
        "export.rotation",
        "export.tools.build_engines",
        "export.tools.export_onnx",
    ],
)
def test_imports_without_heavy_packages(module: str) -> None:
    code = f"{_BLOCKED}\nimport {module}"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("tool", ["export_onnx", "build_engines"])
def test_help_without_heavy_packages(tool: str) -> None:
    code = f"{_BLOCKED}\nfrom export.tools.{tool} import main\nmain(['--help'])"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: {tool}" in done.stdout


def test_public_names_resolve() -> None:
    import export
    import export.engine

    for package in (export, export.engine):
        for name in package.__all__:
            assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Exporter'"):
        export.Exporter  # noqa: B018 - reading it is the test
