"""The counters of a cloud, and of many."""

from __future__ import annotations

import dataclasses

import pytest

from runtime.counts import BoxCounts, VoxelCounts


def test_counts_add_up_name_by_name() -> None:
    first, second = VoxelCounts(1, 2, 3, 4, 5), VoxelCounts(10, 20, 30, 40, 50)
    assert first + second == VoxelCounts(
        voxels=11, dropped_voxels=22, dropped_points=33, outside_points=44, invalid_points=55
    )
    assert sum([first, second, first], VoxelCounts()) == VoxelCounts(12, 24, 36, 48, 60)
    assert sum([], VoxelCounts()) == VoxelCounts(0, 0, 0, 0, 0)


def test_dropped_boxes_add_up() -> None:
    assert sum([BoxCounts(1, 20), BoxCounts(3, 40)], BoxCounts()) == BoxCounts(broken=4, without_size=60)


def test_a_frames_counts_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        VoxelCounts().voxels = 1  # type: ignore[misc]
