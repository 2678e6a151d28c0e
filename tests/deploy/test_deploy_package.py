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


def test_imports_without_heavy_packages() -> None:
    code = f"{_BLOCKED}\nimport deploy"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_resolve() -> None:
    import deploy

    for name in ("CenterPointComponentExtractor", "CenterPointONNXExportPipeline", "CenterPointTensorRTExportPipeline"):
        assert getattr(deploy, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Exporter'"):
        deploy.Exporter  # noqa: B018 - reading it is the test
