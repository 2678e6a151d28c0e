"""The kernels at both ends of the engine, run on the CPU, and the reading of pillar encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.spec import ModelSpec
from runtime.cuda_engine.detection_checks import check_random_maps, check_special_maps
from runtime.cuda_engine.pillar_checks import check_random_clouds, check_special_clouds
from tests.runtime.emulated_device import EmulatedDevice


@pytest.fixture
def device(tmp_path: Path) -> Any:
    if EmulatedDevice.compiler() is None:
        pytest.skip("g++ is not installed; it compiles the kernels for the CPU")
    return EmulatedDevice(tmp_path)


def test_pillars_at_the_limits(device: Any) -> None:
    check_special_clouds(device, capacity=7000)


def test_random_clouds(device: Any) -> None:
    check_random_clouds(device, count=12, most=1500)


def test_detections_at_the_limits(device: Any) -> None:
    check_special_maps(device, cells=32)


def test_random_maps(device: Any) -> None:
    check_random_maps(device, count=12)
