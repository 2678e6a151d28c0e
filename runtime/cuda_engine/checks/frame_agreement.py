"""What every check of frames asks: boxes equal to the host's, and the same again with overlapping copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from base.boxes import Boxes3D
from runtime.decode import decode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.cuda_engine.points_frame import FrameResult, PointsFrame

__all__ = ["expect_boxes", "expect_host_boxes", "expect_same_with_overlap"]


def expect_host_boxes(
    result: FrameResult, outputs: Mapping[str, NDArray[np.float32]], spec: ModelSpec, where: str
) -> None:
    """Raises AssertionError unless a frame's boxes are those that the host decodes of its outputs."""
    expect_boxes(result.boxes, decode(outputs, spec) if result.counts.voxels else Boxes3D.empty(), where)


def expect_same_with_overlap(
    frame: PointsFrame, clouds: Sequence[NDArray[np.float32]], alone: Sequence[FrameResult]
) -> None:
    """Raises AssertionError unless the clouds, one after the other, give what each gave alone."""
    for index, (again, first) in enumerate(zip(frame.detect_all(clouds), alone, strict=True)):
        where = f"frame {index} with overlapping copies"
        if again.counts != first.counts:
            raise AssertionError(f"{where} has {again.counts}, not {first.counts}")
        expect_boxes(again.boxes, first.boxes, where)


def expect_boxes(found: Boxes3D, wanted: Boxes3D, where: str) -> None:
    """Raises AssertionError unless the boxes are equal but for the last place of exp and atan2."""
    if len(found.boxes) != len(wanted.boxes) or not np.array_equal(found.labels, wanted.labels):
        raise AssertionError(f"{where}: {len(found.boxes)} boxes, the host decodes {len(wanted.boxes)}")
    np.testing.assert_allclose(found.boxes, wanted.boxes, rtol=1e-6, atol=1e-6, err_msg=where)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-6, err_msg=where)
