"""A missing package is an error that says how to get it; packages import with numpy alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from base.errors import MissingDependencyError
from base.lazy import require

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "torch",
    "mmdet3d",
    "mmengine",
    "mmcv",
    "onnx",
    "onnxruntime",
    "tensorrt",
    "tensorrt_rtx_bindings",
    "cuda",
    "matplotlib",
)


def test_missing_package_says_how_to_get_it() -> None:
    with pytest.raises(
        MissingDependencyError, match=r"'no_such_package_x' is needed to fly.*pip install no_such_package_x"
    ):
        require("no_such_package_x", "to fly")


def test_require_returns_the_module() -> None:
    assert require("json.decoder", "to read").JSONDecodeError


@pytest.mark.parametrize("package", ["base", "models", "models.spec", "datasets", "runtime", "eval", "deploy"])
def test_package_imports_with_numpy_alone(package: str) -> None:
    program = (
        "import sys\n"
        f"blocked = {HEAVY!r}\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in blocked:\n"
        "            raise ImportError(f'{name} is blocked')\n"
        "sys.meta_path.insert(0, Block())\n"
        f"import {package}\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
