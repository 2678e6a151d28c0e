"""Poses of files: what is a rotation, held against scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation as Turn

from base.errors import DataError
from base.parsing import parse
from datasets.geometry import Rotation, Velocity2, first_not_rigid, rotation_matrix, transform

NUMBER = st.floats(-3, 3)


@given(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER))
def test_a_quaternion_is_taken_when_its_length_is_one(quaternion: tuple[float, ...]) -> None:
    if abs(np.linalg.norm(quaternion) - 1) < 0.01:
        w, x, y, z = parse(Rotation, list(quaternion), file="x")
        expected = Turn.from_quat([x, y, z, w]).as_matrix()
        np.testing.assert_allclose(rotation_matrix([w, x, y, z]), expected, atol=1e-9)
    else:
        with pytest.raises(DataError, match="must be a unit quaternion"):
            parse(Rotation, list(quaternion), file="x")


def test_transform_is_rotation_and_translation() -> None:
    turn = Turn.from_euler("zyx", [0.3, -0.2, 1.0])
    x, y, z, w = turn.as_quat()
    matrix = transform([w, x, y, z], [1.0, 2.0, 3.0])
    np.testing.assert_allclose(matrix @ [4, 5, 6, 1], [*np.add(turn.apply([4, 5, 6]), [1, 2, 3]), 1], atol=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: 2 * m,
        lambda m: 0 * m,
        lambda m: m[[0, 1, 3, 2]],
        lambda m: m + np.array([[0, 0.1, 0, 0]] + [[0] * 4] * 3),
        lambda m: m + np.array([[0] * 4] * 3 + [[0, 0, 0, 1]]),
    ],
)
def test_the_first_pose_that_is_none_is_found(change: Any) -> None:
    pose = transform([1.0, 0.0, 0.0, 0.0], [1e6, -2e6, 3.0])
    assert first_not_rigid([]) is None
    assert first_not_rigid([pose.tolist(), pose.astype(np.float32).tolist()]) is None
    assert first_not_rigid([pose.tolist(), change(pose).tolist(), change(pose).tolist()]) == 1


def test_a_velocity_may_be_unknown_but_not_endless() -> None:
    assert np.isnan(parse(Velocity2, [float("nan"), 1.0], file="x")[0])
    for wrong in (float("inf"), 1e5, -1e300):
        with pytest.raises(DataError, match="must be a speed in m/s"):
            parse(Velocity2, [0.0, wrong], file="x")
