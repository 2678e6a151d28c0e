"""Room for points on a GPU: what is said of it against what is allocated."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from base.arguments import DEFAULT_POINTS, MAX_POINTS
from base.errors import ConfigError, DataError
from models.spec import ModelSpec
from runtime.capacity import check_cloud, cloud_bytes
from runtime.cuda_engine.checks.cases import random_weights
from runtime.cuda_engine.cloud_memory import CloudMemory
from runtime.cuda_engine.pillars import CanvasMemory, PillarEncoderKernels
from tests.runtime.small_model import small_spec


class CountingDevice:
    """Gives addresses, and adds up what they would take."""

    num_multiprocessors = 4

    def __init__(self) -> None:
        self.num_bytes = 0

    def allocate(self, num_bytes: int) -> int:
        self.num_bytes += num_bytes
        return 256

    def allocate_pinned(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return np.zeros(shape, dtype)

    def compile_all(self, _source: Any, names: Any) -> dict[str, str]:
        return {name: name for name in names}

    def __getattr__(self, name: str) -> Any:
        return lambda *_args, **_kwargs: 0


def allocated(columns: tuple[str, ...], capacity: int) -> int:
    spec, device = small_spec(point_columns=columns), CountingDevice()
    for _ in range(2):
        CloudMemory(cast(Any, device), spec, capacity)
    canvas = CanvasMemory(256, 4096, None)
    PillarEncoderKernels(cast(Any, device), spec, random_weights(spec, 16), canvas, capacity=capacity)
    return device.num_bytes


@pytest.mark.parametrize("columns", [("x", "y", "z"), ("x", "y", "z", "intensity", "time_lag")])
def test_what_is_said_is_what_is_allocated(columns: tuple[str, ...]) -> None:
    spec = small_spec(point_columns=columns)
    grown = allocated(columns, 1_200_000) - allocated(columns, 200_000)
    assert abs(cloud_bytes(spec, 1_000_000) - grown) <= 8


def test_default_room_of_the_widest_points_stays_below_a_gigabyte() -> None:
    wide = small_spec(point_columns=("x", "y", "z", *(f"column{index}" for index in range(3, 64))))
    assert ModelSpec.from_dict(wide.to_dict()) == wide
    with pytest.raises(ConfigError, match="point_features is 65"):
        ModelSpec.from_dict(small_spec(point_columns=(*wide.point_columns, "column64")).to_dict())
    assert 0.9 < cloud_bytes(wide, DEFAULT_POINTS) / 2**30 < 1


def test_messages_name_the_option_and_its_price() -> None:
    spec = small_spec()
    check_cloud("A cloud has 10 points", 10, 10, spec)
    with pytest.raises(DataError, match=r"A cloud has 11 points, but at most 10 .*--max-points=11, .* takes 0 MB"):
        check_cloud("A cloud has 11 points", 11, 10, spec)
    with pytest.raises(DataError, match=f"More than {MAX_POINTS} are never taken"):
        check_cloud("It", MAX_POINTS + 1, MAX_POINTS, spec)
