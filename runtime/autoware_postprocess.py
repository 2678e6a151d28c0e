"""Raw head outputs to boxes as Autoware's lidar_centerpoint node decodes them: what the vehicle sees of a model.

It differs from `runtime.decode` (mmdet3d's) in kind: no top-k and no limit on the number of boxes, one class a cell, a
threshold per class and distance, a test on the length of the yaw vector, two suppressions, classes by area.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import numpy as np

from base.boxes import Boxes3D
from base.errors import ConfigError
from models.spec import HEAD_ORDER
from runtime.autoware_params import AUTOWARE_LABELS, NODE_CLASS_LABELS, AutowareDecodeParams, node_class_names
from runtime.decode import Decoded, check_outputs, drop_impossible, sigmoid
from runtime.footprints import intersection_area
from runtime.nms import circle_nms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from models.spec import ModelSpec

__all__ = [
    "decode_autoware",
    "decode_without_remapping",
    "publish",
    "suppress_overlaps",
    "why_undecodable",
    "with_model_labels",
    "without_remapping",
]

_log = logging.getLogger(__name__)

_PEDESTRIAN = NODE_CLASS_LABELS["PEDESTRIAN"]
# Areas below which the node takes two footprints for disjoint, m².
_MIN_AREA_M2 = 1e-6
_MIN_UNION_M2 = 0.01
_MAX_BOXES = 20_000


def decode_autoware(
    outputs: Mapping[str, NDArray[np.float32]], spec: ModelSpec, params: AutowareDecodeParams | None = None
) -> Boxes3D:
    """Decodes one frame as the node does.

    Sigmoid, then the best class of each cell (the first of equal ones); threshold by class and radial distance; norm of
    the yaw vector; sizes `exp(dim)` as width, length, height; yaw `-atan2(rot0, rot1) - π/2`; circle NMS, IoU NMS, then
    classes by area. Comparisons and positions are float32 as in the node's kernel; sigmoid, exp and atan2 are computed
    in double precision and rounded, where the kernel's are off by a unit or two in the last place. Equal scores are
    taken by row and column, where the node leaves them to chance. A box with a non-finite number is dropped with a
    warning, one with a size of 0 (a logarithm below -104) without; the node would publish both. Of more than 20,000
    boxes above their thresholds, which only a broken network makes, the best are taken, with a warning; the node would
    take them all, and be late.

    Args:
        outputs: Head name -> (1, C, h, w) float32, raw, in the convention that `spec.rot_y_axis_reference` names.
        spec: Of the model that made them.
        params: Thresholds and distances; the node's defaults for this model where left out.

    Returns:
        Boxes by descending score in the ego frame; labels index `AUTOWARE_LABELS`. `with_model_labels` turns them into
        those of the model.

    Raises:
        DataError: an output is missing or has another shape.
        ConfigError: the parameters have other classes than the model; it lacks an output, or its `dim` is not
            logarithmic.
    """
    params = params or AutowareDecodeParams.from_spec(spec)
    return publish(decode_without_remapping(outputs, spec, params), params)


def publish(boxes: Boxes3D, params: AutowareDecodeParams) -> Boxes3D:
    """Boxes of `decode_without_remapping` with the labels, of `AUTOWARE_LABELS`, that the node gives them by area."""
    areas = (boxes.boxes[:, 3].astype(np.float64) * boxes.boxes[:, 4]).astype(np.float32)
    labels = _node_labels(params)[boxes.labels]
    return Boxes3D(boxes.boxes, boxes.scores, params.remapping.apply(labels, areas))


def decode_without_remapping(
    outputs: Mapping[str, NDArray[np.float32]], spec: ModelSpec, params: AutowareDecodeParams
) -> Boxes3D:
    """`decode_autoware` before classes change by area: what the node's score thresholds are applied to and leave.

    Returns:
        Boxes by descending score in the ego frame; labels index the model's classes, those included that the node
        publishes as UNKNOWN.

    Raises:
        DataError, ConfigError: as `decode_autoware`.
    """
    return without_remapping(outputs, spec, params).boxes


def without_remapping(
    outputs: Mapping[str, NDArray[np.float32]], spec: ModelSpec, params: AutowareDecodeParams
) -> Decoded:
    """`decode_without_remapping`, with what was dropped on the way. Arguments and errors as there."""
    heads = _check(outputs, spec, params)
    width, height = spec.head_size
    cells, classes, scores = _best_classes(heads["heatmap"].reshape(-1, height * width), params)

    def gather(name: str) -> NDArray[np.float32]:
        head = heads[name]
        return head.reshape(head.shape[0], -1)[:, cells]

    boxes = np.zeros((len(cells), 9), np.float32)
    for axis, index in enumerate((cells % width, cells // width)):
        step = np.float32(spec.voxel_size[axis]) * np.float32(spec.out_size_factor)
        offset = gather("reg")[axis]
        boxes[:, axis] = step * (index.astype(np.float32) + offset) + np.float32(spec.point_cloud_range[axis])
    distance = np.sqrt(boxes[:, 0] * boxes[:, 0] + boxes[:, 1] * boxes[:, 1])
    rot = gather("rot")
    keep = _above_thresholds(distance, classes, scores, params)
    norm = np.sqrt(rot[0] * rot[0] + rot[1] * rot[1])
    keep &= norm >= np.asarray(params.yaw_norm_thresholds, np.float32)[classes]

    boxes[:, 2] = gather("height")[0]
    dim = gather("dim")
    if not spec.rot_y_axis_reference:
        dim, rot = dim[[1, 0, 2]], -rot[[1, 0]]
    with np.errstate(over="ignore"):
        boxes[:, 3:6] = np.exp(dim[[1, 0, 2]].astype(np.float64)).T
    yaw = -np.arctan2(rot[0].astype(np.float64), rot[1].astype(np.float64)) - math.pi / 2
    boxes[:, 6] = np.where(yaw < -math.pi, yaw + 2 * math.pi, yaw)
    if params.has_twist:
        boxes[:, 7:9] = gather("vel").T

    possible, dropped = drop_impossible(boxes, keep, spec)
    candidates = _best(Boxes3D(boxes, scores, classes).select(keep & possible), spec)
    # The node suppresses below the radius, `circle_nms` at it too: the next smaller number makes them equal.
    squared = np.float32(params.circle_nms_distance_m) ** 2
    kept = circle_nms(
        candidates.boxes[:, :2], candidates.scores, float(np.nextafter(np.float32(squared), np.float32(0)))
    )
    candidates = candidates.select(kept)
    as_published = Boxes3D(candidates.boxes, candidates.scores, _node_labels(params)[candidates.labels])
    alone = suppress_overlaps(as_published, params.iou_nms_threshold, params.iou_nms_search_distance_m)
    return Decoded(candidates.select(alone), dropped)


def _best(boxes: Boxes3D, spec: ModelSpec) -> Boxes3D:
    """At most `_MAX_BOXES`, in the same order."""
    if len(boxes) <= _MAX_BOXES:
        return boxes
    _log.warning(
        "Model '%s': %d boxes pass their thresholds; the best %d are taken.", spec.name, len(boxes), _MAX_BOXES
    )
    return boxes.select(np.sort(np.argsort(-boxes.scores, kind="stable")[:_MAX_BOXES]))


def _node_labels(params: AutowareDecodeParams) -> NDArray[np.int64]:
    """Class index -> label of `AUTOWARE_LABELS`; 0, UNKNOWN, for a class that the node does not know."""
    return np.array([NODE_CLASS_LABELS.get(name, 0) for name in params.class_names], np.int64)


def suppress_overlaps(boxes: Boxes3D, iou_threshold: float, search_distance_m: float) -> NDArray[np.bool_]:
    """(N,) bool: which boxes stay when each is compared with all better ones, from above.

    A box goes that overlaps any better box by more than the threshold, even one that goes itself. Boxes of different
    classes are compared too, unless one of them is a pedestrian.

    Args:
        boxes: By descending score, labels index `AUTOWARE_LABELS`.
        iou_threshold: Intersection over union of the footprints.
        search_distance_m: Centres farther apart than this are no pair.
    """
    values = boxes.boxes.astype(np.float64)
    keep = np.ones(len(values), bool)
    # Footprints whose circumscribed circles do not meet share nothing.
    radius = np.hypot(values[:, 3], values[:, 4]) / 2
    better, worse = _pairs(values[:, 0], min(search_distance_m, 2 * float(radius.max(initial=0.0))))
    near = ((values[better, :2] - values[worse, :2]) ** 2).sum(axis=1) <= search_distance_m**2
    reach = radius[better] + radius[worse]
    near &= ((values[better, :2] - values[worse, :2]) ** 2).sum(axis=1) <= reach**2
    label = boxes.labels
    pedestrian = (label[better] == _PEDESTRIAN) | (label[worse] == _PEDESTRIAN)
    near &= (label[better] == label[worse]) | ~pedestrian
    better, worse = better[near], worse[near]
    area = values[:, 3] * values[:, 4]
    shared = intersection_area(
        values[better, :3],
        values[better, 3:6],
        values[better, 6],
        values[worse, :3],
        values[worse, 3:6],
        values[worse, 6],
    )
    union = area[better] + area[worse] - shared
    real = (area[better] >= _MIN_AREA_M2) & (area[worse] >= _MIN_AREA_M2) & (shared >= _MIN_AREA_M2)
    real &= union >= _MIN_UNION_M2
    iou = np.divide(shared, union, out=np.zeros_like(shared), where=real)
    keep[worse[iou > iou_threshold]] = False
    return keep


def _pairs(x: NDArray[np.float64], reach: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (i < j) of which x differs by at most `reach`: all pairs of some thousand boxes would fill the memory."""
    order = np.argsort(x, kind="stable")
    along = x[order]
    # A little more than the reach, so that no pair is lost to rounding; the distance itself is compared afterwards.
    counts = np.searchsorted(along, along + reach * (1 + 1e-9) + 1e-9, side="right") - np.arange(1, len(x) + 1)
    first = np.repeat(np.arange(len(x)), counts)
    second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
    a, b = order[first], order[second]
    return np.minimum(a, b), np.maximum(a, b)


def with_model_labels(boxes: Boxes3D, class_names: Sequence[str], merge: Mapping[str, str] | None = None) -> Boxes3D:
    """The same boxes with labels that index a model's classes, to score them against its ground truth.

    Args:
        boxes: From `decode_autoware`.
        class_names: The model's.
        merge: Label of `AUTOWARE_LABELS` -> class of the model, for labels that it lacks; {"TRAILER": "truck"} where
            left out, since the remapping makes trailers of a model's trucks. Other unknown labels are left out.

    Raises:
        ConfigError: `merge` names a class that the model lacks.
    """
    merge = {"TRAILER": "truck"} if merge is None and "truck" in class_names else dict(merge or {})
    table = np.full(len(AUTOWARE_LABELS), -1, np.int64)
    for label, name in merge.items():
        if label not in AUTOWARE_LABELS or name not in class_names:
            raise ConfigError(
                f"Cannot merge {label} into '{name}': labels are {AUTOWARE_LABELS}, classes {class_names}."
            )
        table[AUTOWARE_LABELS.index(label)] = list(class_names).index(name)
    for index, name in enumerate(node_class_names(class_names)):
        if name in NODE_CLASS_LABELS:
            table[NODE_CLASS_LABELS[name]] = index
    labels = table[boxes.labels]
    known = labels >= 0
    return Boxes3D(boxes.boxes[known], boxes.scores[known], labels[known])


def why_undecodable(spec: ModelSpec) -> str:
    """Why the node cannot decode a model's outputs; empty where it can."""
    if len(spec.tasks) != 1:
        return (
            f"the node binds one head's {len(HEAD_ORDER)} outputs and suppresses across all of its classes; model "
            f"'{spec.name}' has {len(spec.tasks)} tasks with a head each"
        )
    missing = sorted(set(HEAD_ORDER) - {head.name for head in spec.heads})
    if missing:
        return f"the node reads {list(HEAD_ORDER)}; model '{spec.name}' lacks {missing}"
    return "" if spec.norm_bbox else f"the node takes `dim` for logarithms; model '{spec.name}' has norm_bbox=False"


def _check(
    outputs: Mapping[str, NDArray[np.float32]], spec: ModelSpec, params: AutowareDecodeParams
) -> dict[str, NDArray[np.float32]]:
    names = node_class_names(spec.class_names)
    if params.class_names != names:
        raise ConfigError(
            f"Autoware decode: the parameters are for classes {list(params.class_names)}, model '{spec.name}' has "
            f"{list(names)}."
        )
    reason = why_undecodable(spec)
    if reason:
        raise ConfigError(f"Autoware decode: {reason}.")
    return check_outputs(outputs, spec)


def _best_classes(
    heatmap: NDArray[np.float32], params: AutowareDecodeParams
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Cells that may pass any threshold, with their best class and its score; a NaN logit is no class."""
    lowest = min(min(row) for row in params.score_thresholds)
    # A logit this far below the threshold cannot reach it by rounding.
    limit = math.log(lowest / (1 - lowest)) - 1e-3 if lowest > 0 else -math.inf
    cells = np.flatnonzero(np.fmax.reduce(heatmap, axis=0) >= limit)
    # Ties are those of the scores, which saturate.
    scores = sigmoid(heatmap[:, cells])
    scores = np.where(np.isnan(scores), np.float32(-1), scores)
    classes = scores.argmax(axis=0)
    return cells, classes, scores[classes, np.arange(len(cells))]


def _above_thresholds(
    distance: NDArray[np.float32],
    classes: NDArray[np.int64],
    scores: NDArray[np.float32],
    params: AutowareDecodeParams,
) -> NDArray[np.bool_]:
    limits = np.asarray(params.distance_bins_m, np.float32)
    # The first limit above the distance; NaN sorts behind all of them.
    bins = np.searchsorted(limits, distance, side="right")
    inside = bins < len(limits)
    thresholds = np.asarray(params.score_thresholds, np.float32)
    passed: NDArray[np.bool_] = scores >= thresholds[classes, np.minimum(bins, len(limits) - 1)]
    return inside & passed & (scores > 0)
