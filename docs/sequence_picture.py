"""A sequence from above as a GIF: points by height, ground truth in grey, what was found in colours by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.files import atomic_path
from base.lazy import require
from eval.bev import box_corners, height_rgb
from eval.palette import BACKGROUND, class_rgb

__all__ = ["Moment", "save_sequence_gif"]

Moment = tuple[NDArray[np.float32], Boxes3D, Boxes3D]
"""Points, ground truth and what was found, of one frame."""

PIXELS = 520
EXTENT_M = 45.0
MIN_SCORE = 0.3
_TRUTH_RGB = (120, 130, 140)
_TEXT_RGB = (200, 208, 216)
_LINE = 14


def save_sequence_gif(path: Path, moments: Sequence[Moment], class_names: Sequence[str], rate_hz: float) -> None:
    """Writes a GIF that repeats; forward is up.

    Args:
        path: The file.
        moments: At least one.
        class_names: Of the labels.
        rate_hz: Frames a second.

    Raises:
        MissingDependencyError: Pillow is not installed.
    """
    image, draw = (require(f"PIL.{name}", "to draw a GIF") for name in ("Image", "ImageDraw"))
    pictures = [_picture(image, draw, moment, class_names) for moment in moments]
    with atomic_path(path) as temporary:
        pictures[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=round(1000 / rate_hz),
            loop=0,
            optimize=False,
            disposal=1,
        )


def _picture(image: Any, draw: Any, moment: Moment, class_names: Sequence[str]) -> Any:
    points, truth, found = moment
    canvas = np.full((PIXELS, PIXELS, 3), [int(BACKGROUND[at : at + 2], 16) for at in (1, 3, 5)], np.uint8)
    inside = points[(np.abs(points[:, :2]) < EXTENT_M).all(axis=1)]
    inside = inside[np.argsort(inside[:, 2], kind="stable")]  # what stands above the ground is seen
    column, row = _pixels(inside[:, :2]).astype(np.int64).T
    canvas[row, column] = height_rgb(inside[:, 2])
    picture = image.fromarray(canvas)
    pen = draw.Draw(picture)
    for boxes, truth_here in ((truth, True), (found.select(found.scores >= MIN_SCORE), False)):
        for corners, label in zip(box_corners(boxes), boxes.labels, strict=True):
            color = _TRUTH_RGB if truth_here else class_rgb(int(label))
            outline = [tuple(corner) for corner in _pixels(corners).tolist()]
            pen.line([*outline, outline[0]], fill=color, width=1 if truth_here else 2)
            front = _pixels(np.array([corners.mean(axis=0), corners[[0, 3]].mean(axis=0)]))
            pen.line([tuple(end) for end in front.tolist()], fill=color, width=1 if truth_here else 2)
    for number, name in enumerate(class_names):
        count = int(((found.labels == number) & (found.scores >= MIN_SCORE)).sum())
        pen.text((6, 6 + _LINE * number), f"{name} {count}", fill=class_rgb(number))
    pen.text((6, 6 + _LINE * len(class_names)), "ground truth", fill=_TRUTH_RGB)
    pen.text((6, PIXELS - 6 - _LINE), f"{2 * EXTENT_M:g} m", fill=_TEXT_RGB)
    return picture.quantize(colors=64, dither=image.Dither.NONE)


def _pixels(xy: NDArray[Any]) -> NDArray[np.float64]:
    """(N, 2) columns and rows of points on the ground."""
    scale = PIXELS / (2 * EXTENT_M)
    return np.stack([(EXTENT_M - xy[:, 1]) * scale, (EXTENT_M - xy[:, 0]) * scale], axis=1).clip(-PIXELS, 2 * PIXELS)
