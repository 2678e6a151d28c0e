"""Raw head outputs to boxes: mmdet3d's CenterHead.predict_by_feat, in numpy."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from base.boxes import Boxes3D
from base.errors import DataError
from models.spec import CLASS_PEAKS, ROTATE
from runtime.class_peaks import class_peaks, suppress_by_class
from runtime.counts import BoxCounts
from runtime.nms import circle_nms, rotated_nms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from models.spec import ModelSpec, TaskSpec

__all__ = ["Decoded", "by_score", "check_outputs", "decode", "decode_counted", "drop_impossible", "sigmoid", "suppress"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Decoded:
    """Boxes of one frame.

    Attributes:
        boxes: By descending score.
        dropped: Candidates of which no box was made.
    """

    boxes: Boxes3D
    dropped: BoxCounts


def decode(outputs: Mapping[str, NDArray[np.float32]], spec: ModelSpec) -> Boxes3D:
    """The boxes of `decode_counted`; arguments and errors as there."""
    return decode_counted(outputs, spec).boxes


def decode_counted(outputs: Mapping[str, NDArray[np.float32]], spec: ModelSpec) -> Decoded:
    """Decodes one frame.

    Of each task: top `max_detections_before_nms` over its classes and cells, score above `score_threshold`, centre
    inside `post_center_range` (limits included), NMS across its classes by the distance of centres or by overlap, at
    most `post_max_size` boxes. Boxes of different tasks do not suppress each other. An output `iou` is not read, as
    mmdet3d's CenterHead does not read one. With `spec.decoding` "class_peaks" it is the best peaks of each class, and
    NMS among the boxes of each class (`runtime.class_peaks`).

    Differences from mmdet3d, on purpose:
    * Boxes of all tasks come by descending score, equal ones in the order of the tasks; mmdet3d has them task by task.
    * z of a box is its centre, not its bottom.
    * Cells are ranked by their logits, equal ones by class, then row, then column; mmdet3d ranks sigmoids, which
      saturate, and leaves ties to chance.
    * sigmoid, exp and atan2 are computed in double precision and rounded once, so that they do not depend on the
      machine's vector library; mmdet3d's float32 functions are off by a unit or two in the last place.
    * A box with a non-finite number (a broken FP16 or INT8 engine) is dropped with a warning. A NaN logit is no
      detection.
    * A box with a size of 0 or less is dropped before the suppression, and counted: it is nothing that can be scored or
      driven around. mmdet3d lets it suppress its neighbours.

    Args:
        outputs: Head name -> (1, C, h, w) float32, raw: logits, cell offsets, metres, log metres (metres where
            `norm_bbox` is False), (sin, cos) and m/s. `vel` may be absent in models without it.

    Raises:
        DataError: an output is missing or has another shape.
    """
    heads = check_outputs(outputs, spec)
    found, dropped, first = [], BoxCounts(), 0
    for index, task in enumerate(spec.tasks):
        decoded = _decode_task(
            {head.name: heads[spec.output_name(index, head.name)] for head in task.heads}, task, spec
        )
        boxes = decoded.boxes
        found.append(Boxes3D(boxes.boxes, boxes.scores, boxes.labels + first))
        dropped += decoded.dropped
        first += len(task.class_names)
    return Decoded(by_score(found), dropped)


def by_score(parts: Sequence[Boxes3D]) -> Boxes3D:
    """Boxes of all parts by descending score, equal ones in their order."""
    if len(parts) == 1:
        return parts[0]
    joined = Boxes3D(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("boxes", "scores", "labels"))
    )
    return joined.select(np.argsort(-joined.scores, kind="stable"))


def _decode_task(heads: Mapping[str, NDArray[np.float32]], task: TaskSpec, spec: ModelSpec) -> Decoded:
    """One task's boxes, with labels into its own classes; its branches (C, h, w) by their own names."""
    heatmap = heads["heatmap"].reshape(-1)
    num_cells = spec.head_size[0] * spec.head_size[1]
    width = spec.head_size[0]
    if spec.decoding == CLASS_PEAKS:
        top = class_peaks(heads["heatmap"], spec.max_detections_before_nms)
    else:
        top = _top_k(heatmap, spec.max_detections_before_nms)
    scores = sigmoid(heatmap[top])
    good = scores > np.float32(spec.score_threshold)
    top, scores = top[good], scores[good]
    labels, cell = np.divmod(top, num_cells)

    def gather(name: str) -> NDArray[np.float32]:
        head = heads[name]
        return head.reshape(head.shape[0], num_cells)[:, cell]

    stride = np.float32(spec.out_size_factor)
    boxes = np.zeros((len(cell), 9), np.float32)
    for axis, index in enumerate((cell % width, cell // width)):
        offset = gather("reg")[axis] if "reg" in heads else np.float32(0.5)
        position = (index.astype(np.float32) + offset) * stride
        boxes[:, axis] = position * np.float32(spec.voxel_size[axis]) + np.float32(spec.point_cloud_range[axis])
    boxes[:, 2] = gather("height")[0]
    dim: NDArray[np.float32] = gather("dim")
    sine, cosine = gather("rot")
    if spec.rot_y_axis_reference:
        # The convention is its own inverse: widths and lengths change places, (sin, cos) was (-cos, -sin).
        dim, sine, cosine = dim[[1, 0, 2]], -cosine, -sine
    with np.errstate(over="ignore"):
        sizes = np.exp(dim.astype(np.float64)).astype(np.float32) if spec.norm_bbox else dim
    boxes[:, 3:6] = sizes.T
    boxes[:, 6] = np.arctan2(sine.astype(np.float64), cosine.astype(np.float64))
    if "vel" in heads:
        boxes[:, 7:9] = gather("vel").T

    valid = _inside(boxes, spec.post_center_range)
    possible, dropped = drop_impossible(boxes, np.ones(len(boxes), bool), spec)
    valid &= possible
    candidates = Boxes3D(boxes, scores, labels).select(valid)
    return Decoded(suppress(candidates, task, spec), dropped)


def suppress(candidates: Boxes3D, task: TaskSpec, spec: ModelSpec) -> Boxes3D:
    """The boxes of a task that none of its better ones suppresses, by descending score.

    Args:
        candidates: Boxes of the task inside `post_center_range`, equal scores in their order of rank.
        task, spec: How boxes suppress each other, and how many remain.
    """
    if spec.decoding == CLASS_PEAKS:
        keep = suppress_by_class(
            candidates.boxes[:, :2], candidates.scores, candidates.labels, task.nms_min_radius_m2, spec.post_max_size
        )
    elif spec.nms_type == ROTATE and spec.nms_iou_threshold is not None:
        keep = rotated_nms(
            candidates.boxes, candidates.scores, spec.nms_iou_threshold, spec.nms_pre_max_size, spec.post_max_size
        )
    else:
        keep = circle_nms(candidates.boxes[:, :2], candidates.scores, task.nms_min_radius_m2, spec.post_max_size)
    kept = candidates.select(keep)
    if spec.nms_center_range is not None:
        kept = kept.select(_inside(kept.boxes, spec.nms_center_range))
    return kept


def _inside(boxes: NDArray[np.float32], limits: tuple[float, ...]) -> NDArray[np.bool_]:
    """(N,) bool: whose centres lie within three lower and three upper limits, which count as within."""
    edges = np.asarray(limits, np.float32)
    inside: NDArray[np.bool_] = np.all((boxes[:, :3] >= edges[:3]) & (boxes[:, :3] <= edges[3:]), axis=1)
    return inside


def drop_impossible(
    boxes: NDArray[np.float32], candidates: NDArray[np.bool_], spec: ModelSpec
) -> tuple[NDArray[np.bool_], BoxCounts]:
    """Which boxes have finite numbers and sizes above 0.

    Numbers that are not finite are warned about here, in every frame: a network is broken. Sizes of 0 or less are
    counted; whoever detects with the model says it once.

    Args:
        boxes: (N, 9) float32, columns `base.boxes.BOX_COLUMNS`.
        candidates: (N,) bool: those that count.
        spec: Of the model, for the warning.

    Returns:
        (N,) bool, and how many of the candidates are not among them.
    """
    finite = np.all(np.isfinite(boxes), axis=1)
    solid = np.all(boxes[:, 3:6] > 0, axis=1)
    # numpy 2.5 counts in numbers of its own, which JSON does not know.
    broken, flat = int(np.count_nonzero(candidates & ~finite)), int(np.count_nonzero(candidates & finite & ~solid))
    dropped = BoxCounts(broken, flat)
    if dropped.broken:
        _log.warning(
            "Model '%s': %d of %d candidate boxes have a NaN or infinite number and were dropped.",
            spec.name,
            dropped.broken,
            np.count_nonzero(candidates),
        )
    return finite & solid, dropped


def _top_k(values: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Indices of the `k` largest by descending value, equal ones by ascending index; NaN is never among them."""
    if np.isnan(values).any():
        values = np.where(np.isnan(values), np.float32(-np.inf), values)
    k = min(k, len(values))
    if k == 0:
        return np.zeros(0, np.int64)
    limit = np.partition(values, len(values) - k)[len(values) - k]
    above = np.flatnonzero(values > limit)
    equal = np.flatnonzero(values == limit)[: k - len(above)]
    chosen = np.sort(np.concatenate([above, equal]))
    return chosen[np.argsort(-values[chosen], kind="stable")]


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Float32 of the logistic function in double precision; neither end overflows."""
    x = logits.astype(np.float64)
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0 / (1.0 + e), e / (1.0 + e)).astype(np.float32)


def check_outputs(outputs: Mapping[str, NDArray[np.float32]], spec: ModelSpec) -> dict[str, NDArray[np.float32]]:
    """Head name -> (C, h, w) of one frame's outputs.

    Raises:
        DataError: an output is missing or has another shape than the model's.
    """
    heads: dict[str, NDArray[np.float32]] = {}
    for head in spec.heads:
        if head.name not in outputs:
            raise DataError(
                f"Head output '{head.name}' is missing: got {sorted(outputs)}, "
                f"model '{spec.name}' has {[h.name for h in spec.heads]}."
            )
        value = np.asarray(outputs[head.name])
        if value.shape != spec.head_shape(head):
            raise DataError(
                f"Head output '{head.name}' has shape {value.shape}; model '{spec.name}' needs {spec.head_shape(head)}."
            )
        heads[head.name] = value[0]
    for index in range(len(spec.tasks)):
        name = spec.output_name(index, "heatmap")
        _tell_unknown(heads[name], name, spec)
    return heads


def _tell_unknown(heatmap: NDArray[np.float32], name: str, spec: ModelSpec) -> None:
    """Cells without a number are no detections, and as silent as an empty street: a warning in every frame."""
    with np.errstate(over="ignore", invalid="ignore"):
        if not np.isnan(heatmap.sum()):
            return
    unknown = int(np.isnan(heatmap).sum())
    if unknown:
        _log.warning(
            "Model '%s': %d of %d numbers of its %s are NaN, so that nothing is detected there. The network's "
            "numbers overflow: check its weights and the values of the points.",
            spec.name,
            unknown,
            heatmap.size,
            name,
        )
