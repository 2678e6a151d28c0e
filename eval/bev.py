"""Bird's-eye-view pictures: a raster of the points, outlines of boxes, a PNG of both. Forward is up, left is left."""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.files import atomic_path
from base.lazy import require
from eval.palette import BACKGROUND, COLORS

if TYPE_CHECKING:
    from eval.panels import FramePanel

__all__ = ["box_corners", "height_rgb", "png_data_uri", "points_png", "save_bev_png"]

_Z_RANGE_M = (-2.0, 3.0)
# Low to high: dim blue grey, grey, warm white; the boxes' colours stay apart from all of them.
_RAMP = np.array([[44, 62, 80], [84, 104, 124], [132, 146, 158], [186, 190, 190], [232, 226, 212]], np.float64)
_LEVELS = 15


def box_corners(boxes: Boxes3D) -> NDArray[np.float64]:
    """(N, 4, 2) corners in the ground plane: front left, rear left, rear right, front right."""
    values = boxes.boxes.astype(np.float64)
    offsets = np.array([[0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]])[None] * values[:, None, 3:5]
    cos, sin = np.cos(values[:, 6])[:, None], np.sin(values[:, 6])[:, None]
    x = offsets[..., 0] * cos - offsets[..., 1] * sin
    y = offsets[..., 0] * sin + offsets[..., 1] * cos
    return np.stack([x, y], axis=2) + values[:, None, :2]


def height_rgb(z: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(N, 3) colours of points by their height, as in all pictures: low ones dim, high ones bright.

    Args:
        z: (N,) metres above the ground; one that is not finite is taken for low.
    """
    known = np.where(np.isfinite(z), z, _Z_RANGE_M[0]).astype(np.float64)
    colors: NDArray[np.uint8] = np.rint(_ramp()).astype(np.uint8)[_levels(known)]
    return colors


def _levels(z: NDArray[np.float64]) -> NDArray[np.uint8]:
    low, high = _Z_RANGE_M
    return np.clip((z - low) / (high - low) * _LEVELS, 0, _LEVELS - 1).astype(np.uint8)


def _ramp() -> NDArray[np.float64]:
    """(levels, 3) colours from 0 to 255."""
    at = np.linspace(0, len(_RAMP) - 1, _LEVELS)
    return np.stack([np.interp(at, np.arange(len(_RAMP)), _RAMP[:, channel]) for channel in range(3)], axis=1)


def points_png(points: NDArray[np.float32], extent_m: float, pixels: int = 560) -> bytes:
    """The points as a PNG with a palette; a cell shows the highest point in it.

    Args:
        points: (N, 3+) x, y, z in metres.
        extent_m: Half the width of the picture.
        pixels: Width and height.
    """
    image = np.zeros((pixels, pixels), np.uint8)
    inside = np.isfinite(points[:, :3]).all(axis=1) & (np.abs(points[:, :2]) < extent_m).all(axis=1)
    x, y, z = points[inside, :3].astype(np.float64).T
    scale = pixels / (2 * extent_m)
    row = np.minimum(((extent_m - x) * scale).astype(np.int64), pixels - 1)
    column = np.minimum(((extent_m - y) * scale).astype(np.int64), pixels - 1)
    np.maximum.at(image, (row, column), 1 + _levels(z))
    ramp = _ramp()
    ground = [int(BACKGROUND[index : index + 2], 16) for index in (1, 3, 5)]
    palette = np.concatenate([[ground], np.rint(ramp)]).astype(np.uint8)
    # Four bits a pixel: 16 colours.
    padded = np.pad(image, ((0, 0), (0, pixels % 2)))
    packed = (padded[:, 0::2] << 4) | padded[:, 1::2]
    raw = np.concatenate([np.zeros((pixels, 1), np.uint8), packed], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", pixels, pixels, 4, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", palette.tobytes()), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def png_data_uri(data: bytes) -> str:
    """`data:` URI of a PNG."""
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def save_bev_png(panel: FramePanel, path: str | Path, title: str | None = None) -> None:
    """Writes the views of a frame side by side as one PNG.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    require("matplotlib", "to draw pictures").use("Agg")
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    count, e = len(panel.views), panel.extent_m
    figure = Figure(figsize=(6.0 * count, 6.7), facecolor=BACKGROUND, dpi=120)
    axes = figure.subplots(1, count, squeeze=False)[0]
    inside = (np.abs(panel.points[:, :2]) < e).all(axis=1)
    x, y, z = panel.points[inside, :3].T
    for axis, view in zip(axes, panel.views, strict=True):
        axis.set_facecolor(BACKGROUND)
        axis.scatter(-y, x, c=z, s=0.35, cmap="bone", vmin=-4.0, vmax=3.5, linewidths=0)
        truth = panel.ground_truth
        groups = (
            (truth.select(view.found), "found", "-", 1.6),
            (truth.select(~view.found), "missed", "--", 1.6),
            (view.detections.select(view.correct), "correct", "-", 1.0),
            (view.detections.select(~view.correct), "false", "-", 1.3),
        )
        for boxes, color, style, width in groups:
            corners = box_corners(boxes)
            polygons = np.stack([-corners[..., 1], corners[..., 0]], axis=2)
            front = (polygons[:, 0] + polygons[:, 3]) / 2
            lines = np.stack([polygons.mean(axis=1), front], axis=1)
            outline = PolyCollection(list(polygons), facecolors="none", edgecolors=COLORS[color])
            outline.set(linewidth=width, linestyle=style)
            axis.add_collection(outline)
            axis.add_collection(LineCollection(list(lines), colors=COLORS[color], linewidths=width))
        axis.set(xlim=(-e, e), ylim=(-e, e), aspect="equal", xticks=[], yticks=[])
        axis.set_title(view.label, color="white", fontsize=11)
    names = {
        "found": "ground truth",
        "missed": "ground truth, missed",
        "correct": "detection",
        "false": "false detection",
    }
    handles = [Line2D([], [], color=COLORS[k], ls="--" if k == "missed" else "-", label=v) for k, v in names.items()]
    figure.legend(handles=handles, loc="lower center", ncol=4, frameon=False, labelcolor="white", fontsize=9)
    if title:
        figure.suptitle(title, color="white", fontsize=12)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=BACKGROUND, metadata={"Software": None})
