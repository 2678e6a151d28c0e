"""CenterPoint's training targets in numpy: the same values as mmdet3d's, without a device call for every box.

mmdet3d fills heatmaps box by box with scalar tensors on the training device; on a GPU that takes longer than the
network's forward and backward pass together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["center_targets", "gaussian_radii", "gaussian_radius", "use_numpy_targets"]


def use_numpy_targets(head: Any) -> None:
    """Makes an mmdet3d `CenterHead` compute its targets with `center_targets`, of each task; changed in place."""

    def targets(instances: Any) -> tuple[list[Tensor], ...]:
        import torch

        device, labels = instances.labels_3d.device, instances.labels_3d.cpu().numpy()
        boxes = torch.cat((instances.bboxes_3d.gravity_center, instances.bboxes_3d.tensor[:, 3:]), dim=1).cpu().numpy()
        parts, first = [], 0
        for names in head.class_names:
            own = (labels >= first) & (labels < first + len(names))
            parts.append(
                center_targets(boxes[own], labels[own] - first, len(names), dict(head.train_cfg), head.norm_bbox)
            )
            first += len(names)
        return tuple([torch.from_numpy(part).to(device) for part in of_tasks] for of_tasks in zip(*parts, strict=True))

    head.get_targets_single = targets


def center_targets(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    num_classes: int,
    train_cfg: dict[str, Any],
    norm_bbox: bool,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], NDArray[np.uint8]]:
    """Targets of one frame (CenterPoint, arXiv 2006.11275, section 4).

    Args:
        boxes: (N, 9) float32 [x, y, z, l, w, h, yaw, vx, vy], z the centre, metres, ego frame.
        labels: (N,) class indices.
        num_classes: Channels of the heatmap.
        train_cfg: mmdet3d's: `max_objs, dense_reg, grid_size, point_cloud_range, voxel_size, out_size_factor,
            gaussian_overlap, min_radius`.
        norm_bbox: True where the sizes are regressed as logarithms.

    Returns:
        heatmap (K, h, w) float32; regression targets (max_objs, 10) float32 [reg 2, z, dim 3, sin, cos, vx, vy];
        flat cell index (max_objs,) int64; mask (max_objs,) uint8. Boxes are sorted by class, as mmdet3d sorts them.
    """
    capacity = train_cfg["max_objs"] * train_cfg["dense_reg"]
    factor = train_cfg["out_size_factor"]
    width, height = (int(n) // factor for n in train_cfg["grid_size"][:2])
    voxel = np.asarray(train_cfg["voxel_size"], np.float32)
    lower = np.asarray(train_cfg["point_cloud_range"], np.float32)
    heatmap = np.zeros((num_classes, height, width), np.float32)
    regression = np.zeros((capacity, 10), np.float32)
    index = np.zeros(capacity, np.int64)
    mask = np.zeros(capacity, np.uint8)

    known = (labels >= 0) & (labels < num_classes)
    order = np.argsort(labels[known], kind="stable")[:capacity]
    boxes, labels = boxes[known][order], labels[known][order]
    centers = (boxes[:, :2] - lower[:2]) / voxel[:2] / np.float32(factor)
    cells = centers.astype(np.int32)
    inside = (cells >= 0).all(1) & (cells[:, 0] < width) & (cells[:, 1] < height)
    keep = inside & (boxes[:, 3] > 0) & (boxes[:, 4] > 0)
    sizes = boxes[:, 3:5] / voxel[:2] / np.float32(factor)
    for row in np.flatnonzero(keep):
        radius = max(int(train_cfg["min_radius"]), int(gaussian_radius(sizes[row], train_cfg["gaussian_overlap"])))
        _draw_gaussian(heatmap[labels[row]], int(cells[row, 0]), int(cells[row, 1]), radius)
    dims = np.log(boxes[keep, 3:6]) if norm_bbox else boxes[keep, 3:6]
    yaw = boxes[keep, 6:7]
    rows = np.flatnonzero(keep)
    regression[rows] = np.concatenate(
        [centers[keep] - cells[keep], boxes[keep, 2:3], dims, np.sin(yaw), np.cos(yaw), boxes[keep, 7:9]], axis=1
    )
    index[rows] = cells[keep, 1].astype(np.int64) * width + cells[keep, 0]
    mask[rows] = 1
    return heatmap, regression, index, mask


def gaussian_radius(size: NDArray[np.float32], overlap: float) -> float:
    """`gaussian_radii` of one box (2,)."""
    return float(gaussian_radii(np.asarray(size)[None], overlap)[0])


def gaussian_radii(sizes: NDArray[np.float32], overlap: float) -> NDArray[np.float64]:
    """Largest shift of a corner, in cells, that keeps the overlap (CornerNet), with mmdet3d's choice of roots.

    Args:
        sizes: (N, 2) length and width, in cells.
        overlap: Least overlap of a shifted box.

    Returns:
        (N,).
    """
    length, width = sizes.astype(np.float64).T
    total, area = length + width, length * width
    # Both corners shifted the same way, both inwards, both outwards: each a quadratic in the radius.
    cases = (
        (1.0, total, area * (1 - overlap) / (1 + overlap)),
        (4.0, 2 * total, (1 - overlap) * area),
        (4 * overlap, -2 * overlap * total, (overlap - 1) * area),
    )
    # CornerNet's published code divides by 2 whatever the leading coefficient; trained models rely on these radii.
    return np.asarray(np.min([(b + np.sqrt(b * b - 4 * a * c)) / 2 for a, b, c in cases], axis=0))


def _draw_gaussian(heatmap: NDArray[np.float32], x: int, y: int, radius: int) -> None:
    """Raises `heatmap (h, w)` to a Gaussian of sigma (2 radius + 1) / 6 around cell (x, y), in place."""
    offsets = np.arange(-radius, radius + 1, dtype=np.float64)
    sigma = (2 * radius + 1) / 6
    bell = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * sigma * sigma))
    bell[bell < np.finfo(np.float64).eps] = 0
    height, width = heatmap.shape
    left, right = min(x, radius), min(width - x, radius + 1)
    top, bottom = min(y, radius), min(height - y, radius + 1)
    window = heatmap[y - top : y + bottom, x - left : x + right]
    patch = bell[radius - top : radius + bottom, radius - left : radius + right].astype(np.float32)
    np.maximum(window, patch, out=window)
