"""The tiny CenterPoint, its files and how to run them, and bundles of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from torch import nn

from autoware.bundle import write_bundle
from export.onnx_export import export_components
from models.spec import ModelSpec
from tests.autoware.bundle_files import settings
from tests.export.tiny_centerpoint import (
    run_onnx,
    tiny,
    tiny_canvases,
    tiny_config_path,
    tiny_int8,
    tiny_onnx,
)

__all__ = [
    "autoware_onnx",
    "bundle",
    "good",
    "run_onnx",
    "tiny",
    "tiny_canvases",
    "tiny_config_path",
    "tiny_int8",
    "tiny_onnx",
]


@pytest.fixture(scope="session")
def autoware_onnx(tiny: tuple[nn.Module, ModelSpec], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("autoware_onnx")
    export_components(*tiny, folder, settings(tiny[1]))
    return folder


@pytest.fixture(scope="session")
def good(autoware_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(autoware_onnx, tmp_path_factory.mktemp("bundles") / "good")


@pytest.fixture
def bundle(good: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(good, tmp_path / "bundle"))
