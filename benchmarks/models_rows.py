"""One row of the table of models: what can be done with a config, and how close the results are.

Weights are seeded. So that heatmaps are not flat and boxes are of a car's size, the last convolution of every branch is
scaled and shifted until its output on a made-up cloud has a given mean and spread. Deformable layers, which begin
without offsets, get some. INT8 is calibrated on that cloud; everything is compared on another one.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from base.boxes import Boxes3D
from base.determinism import set_determinism
from deploy.abilities import Attempt, find_abilities
from models.spec import BACKBONE_NECK_HEAD, SPATIAL_FEATURES, VOXEL_ENCODER, ModelSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

__all__ = ["box_differences", "cloud", "kitti_configs", "measure", "spread_weights", "stock_boxes"]

_POINTS = 60_000
# Mean and spread of each output that a detector of cars could have.
_SPREAD = {"heatmap": (-5.0, 1.3), "reg": (0.5, 0.2), "height": (-0.5, 0.5), "rot": (0.0, 1.0), "vel": (0.0, 3.0)}
_SIZE_M = (4.0, 1.8, 1.6)
_KITTI = {
    "kitti_016_32_points": (0.16, 32, False),
    "kitti_016_100_points": (0.16, 100, False),
    "kitti_016_20_points_velocity": (0.16, 20, True),
    "kitti_032_32_points": (0.32, 32, False),
    "kitti_032_20_points_velocity": (0.32, 20, True),
}


def kitti_configs(folder: Path) -> Iterator[Path]:
    """Configs of pillars on the range and the classes of KITTI, written to a folder: PFN [64], no square grid."""
    from mmengine.config import Config

    for name, (cell, points, has_velocity) in _KITTI.items():
        path = folder / f"{name}.py"
        Config(_kitti(cell, points, has_velocity)).dump(str(path))
        yield path


def _kitti(cell: float, points: int, has_velocity: bool) -> dict[str, Any]:
    limits, size = [0.0, -39.68, -3.0, 69.12, 39.68, 1.0], [cell, cell, 4.0]
    cells = [round((limits[axis + 3] - limits[axis]) / cell) for axis in range(2)]
    norm = {"type": "BN", "eps": 1e-3, "momentum": 0.01}
    names = ["Pedestrian", "Cyclist", "Car"]
    branches = {"reg": (2, 2), "height": (1, 2), "dim": (3, 2), "rot": (2, 2)}
    branches |= {"vel": (2, 2)} if has_velocity else {}
    encoder = {"voxel_size": size, "point_cloud_range": limits, "norm_cfg": {**norm, "type": "BN1d"}, "legacy": False}
    coder = {"pc_range": limits[:2], "voxel_size": size[:2], "out_size_factor": 2, "max_num": 500}
    coder |= {"code_size": 9 if has_velocity else 7}
    coder |= {"score_threshold": 0.1, "post_center_range": [-10.0, -50.0, -10.0, 80.0, 50.0, 10.0]}
    layer = {"max_num_points": points, "point_cloud_range": limits, "voxel_size": size, "max_voxels": (16000, 40000)}
    model = {
        "type": "CenterPoint",
        "data_preprocessor": {"type": "Det3DDataPreprocessor", "voxel": True, "voxel_layer": layer},
        "pts_voxel_encoder": {"type": "PillarFeatureNet", "in_channels": 4, "feat_channels": [64], **encoder},
        "pts_middle_encoder": {"type": "PointPillarsScatter", "in_channels": 64, "output_shape": cells[::-1]},
        "pts_backbone": {
            "type": "SECOND", "in_channels": 64, "out_channels": [64, 128, 256], "layer_nums": [3, 5, 5],
            "layer_strides": [2, 2, 2], "norm_cfg": norm, "conv_cfg": {"type": "Conv2d", "bias": False},
        },
        "pts_neck": {
            "type": "SECONDFPN", "in_channels": [64, 128, 256], "out_channels": [128, 128, 128],
            "upsample_strides": [1, 2, 4], "norm_cfg": norm, "upsample_cfg": {"type": "deconv", "bias": False},
        },
        "pts_bbox_head": {
            "type": "CenterHead", "in_channels": 384, "share_conv_channel": 64, "norm_bbox": True,
            "tasks": [{"num_class": 3, "class_names": names}], "common_heads": branches,
            "bbox_coder": {"type": "CenterPointBBoxCoder", **coder},
            "separate_head": {"type": "SeparateHead", "init_bias": -2.19, "final_kernel": 3},
        },
        "test_cfg": {"pts": {"nms_type": "circle", "min_radius": [1.0], "post_max_size": 83}},
    }  # fmt: skip
    load = {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 4, "use_dim": 4}
    loader = {"dataset": {"type": "KittiDataset", "pipeline": [load], "metainfo": {"classes": names}}}
    return {"model": model, "val_dataloader": loader}


class _Known(Exception):  # noqa: N818 - no error: it ends an attempt early
    """A row of an equal network is there."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def measure(path: Path, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A row.

    Args:
        path: The config.
        known: Rows that are there; one of an equal network is not measured again.

    Returns:
        `config`, its file; `abilities`; `network`, a digest; where it is exported, `predict` (boxes against
        mmdet3d's), `fp16` and `int8` (relative L2 of every output); or `same_as`, the row of an equal network.
    """
    set_determinism(0)
    digests: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)

        def prepare(model: nn.Module, spec: ModelSpec) -> None:
            digest = _digest(model, spec)
            for key, row in known.items():
                if row.get("network") == digest and "same_as" not in row and row["config"] != path.name:
                    raise _Known(key)
            spread_weights(model, spec)
            digests.append(digest)

        try:
            attempt = _attempt(path, work, prepare)
        except _Known as twin:
            row = {name: known[twin.key][name] for name in ("abilities", "network")}
            return {"config": path.name, **row, "same_as": twin.key}
        row = {"config": path.name, "abilities": [_plain(ability, path) for ability in attempt.abilities]}
        if digests:
            row["network"] = digests[0]
        if attempt.can("onnx"):
            points = cloud(attempt.known, seed=2)
            row["predict"] = _against_stock(attempt, points)
            row |= _against_float(attempt, points)
    return row


def _attempt(path: Path, work: Path, prepare: Any) -> Attempt:
    return find_abilities(path, None, work, prepare=prepare, canvas=lambda attempt: canvas_of(attempt, seed=1))


def _plain(ability: Any, path: Path) -> dict[str, str]:
    reason = ability.reason.replace(str(path), path.name).replace(f"{path.parent}/", "")
    return {"step": ability.step, "status": ability.status, "reason": reason}


def _digest(model: nn.Module, spec: ModelSpec) -> str:
    """Of what a network computes: its specification but for its name, and its layers."""
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    layers = [type(module).__name__ for module in model.modules()]
    plain = {**spec.to_dict(), "name": "", "class_names": len(spec.class_names)}
    text = json.dumps([plain, shapes, layers], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cloud(spec: ModelSpec, seed: int, count: int = _POINTS) -> NDArray[np.float32]:
    """(count, C) float32: denser close to the origin, a ground and things on it, all columns from 0 to 1."""
    rng = np.random.default_rng(seed)
    low, high = (np.asarray(spec.point_cloud_range[part : part + 3]) for part in (0, 3))
    reach = float(np.abs([low[:2], high[:2]]).max())
    things = rng.uniform(low[:2], high[:2], (400, 2))
    radius, angle = reach * rng.uniform(0, 1, count) ** 1.5, rng.uniform(-np.pi, np.pi, count)
    xy = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    of_things = rng.random(count) < 0.4
    xy[of_things] = things[rng.integers(0, len(things), of_things.sum())] + rng.normal(0, 0.6, (of_things.sum(), 2))
    floor = low[2] + 0.3 * (high[2] - low[2])
    z = floor + np.where(of_things, rng.uniform(0, 1.7, count), rng.normal(0, 0.05, count))
    rest = rng.uniform(0, 1, (count, spec.point_features - 3))
    return np.concatenate([xy, z[:, None], rest], axis=1, dtype=np.float32)


def canvas_of(attempt: Attempt, seed: int) -> Tensor:
    """The canvas that the model makes of a cloud."""
    return _canvas(attempt.network, attempt.known, seed)


def _canvas(model: nn.Module, spec: ModelSpec, seed: int) -> Tensor:
    import torch

    from models.components import extract_components
    from runtime.preprocess import preprocess
    from runtime.scatter import scatter

    frame = preprocess(cloud(spec, seed), spec)
    with torch.inference_mode():
        features = extract_components(model, spec)[VOXEL_ENCODER](torch.from_numpy(frame.features))
        canvas: Tensor = scatter(features, torch.from_numpy(frame.coords), spec)
    return canvas.clone()


def spread_weights(model: nn.Module, spec: ModelSpec, seed: int = 1) -> None:
    """Gives every output its mean and spread of `_SPREAD`, in place, by its last convolution."""
    import torch

    from models.components import extract_components

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "conv_offset" in name:
                value.add_(torch.randn(value.shape, generator=generator) * 0.1)
        outputs = extract_components(model, spec)[BACKBONE_NECK_HEAD](_canvas(model, spec, seed))
        named = dict(zip((head.name for head in spec.heads), outputs, strict=True))
        tasks = cast(Any, model).pts_bbox_head.task_heads
        for index, (heads, task) in enumerate(zip(tasks, spec.tasks, strict=True)):
            for head in task.heads:
                found = named[spec.output_name(index, head.name)]
                deviation, mean = torch.std_mean(found, dim=(0, 2, 3))
                wanted, spread = _wanted(head.name, head.channels, spec)
                factor = spread / deviation.clamp(min=1e-6)
                last = _last_convolution(heads, head.name)
                last.weight.mul_(factor.view(-1, 1, 1, 1))
                last.bias.copy_((last.bias - mean) * factor + wanted)


def _wanted(branch: str, channels: int, spec: ModelSpec) -> tuple[Tensor, float]:
    import torch

    if branch == "dim":
        sizes = [math.log(size) if spec.norm_bbox else size for size in _SIZE_M]
        return torch.tensor(sizes), 0.2
    mean, spread = _SPREAD.get(branch, (0.0, 1.0))
    return torch.full((channels,), mean), spread


def _last_convolution(heads: Any, branch: str) -> Any:
    """Of a branch; mmdet3d's deformable heads keep the heatmap and the others apart."""
    from torch import nn

    part = heads.cls_head if branch == "heatmap" and hasattr(heads, "cls_head") else None
    part = part if part is not None else getattr(getattr(heads, "task_head", heads), branch)
    return [module for module in part.modules() if isinstance(module, nn.Conv2d)][-1]


def _against_stock(attempt: Attempt, points: NDArray[np.float32]) -> dict[str, Any]:
    """Boxes of the exported files, decoded by this project, against those of mmdet3d's own `predict`."""
    from runtime.opening import open_detector

    spec = attempt.known
    if spec.decoding != "top_k":
        return {"peer": "", "note": "decoded as autoware-ml does it, not as mmdet3d"}
    theirs = stock_boxes(attempt.network, points)
    with open_detector("onnx", spec=spec, onnx_dir=attempt.folder / "onnx", threads=2) as detector:
        ours = detector(points).detections
    return {"peer": "mmdet3d", **box_differences(theirs, ours)}


def stock_boxes(model: nn.Module, points: NDArray[np.float32]) -> Boxes3D:
    """mmdet3d's own way from points to boxes; its suppression of rotated boxes, which is compiled, by shapely."""
    import torch
    from mmdet3d.models.layers import box3d_nms
    from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes

    stock, theirs = cast(Any, model), box3d_nms.nms_rotated
    sample = Det3DDataSample(metainfo={"box_type_3d": LiDARInstance3DBoxes})
    box3d_nms.nms_rotated = _nms_rotated
    try:
        with torch.inference_mode():
            data = stock.data_preprocessor({"inputs": {"points": [torch.from_numpy(points)]}, "data_samples": [sample]})
            found = stock.predict(data["inputs"], data["data_samples"])[0].pred_instances_3d
    finally:
        box3d_nms.nms_rotated = theirs
    boxes = found.bboxes_3d.tensor.numpy().astype(np.float32)
    boxes[:, 2] += boxes[:, 5] / 2
    if boxes.shape[1] == 7:
        boxes = np.concatenate([boxes, np.zeros((len(boxes), 2), np.float32)], axis=1)
    return Boxes3D(boxes, found.scores_3d.numpy(), found.labels_3d.numpy().astype(np.int64))


def _nms_rotated(dets: Any, scores: Any, iou_threshold: float) -> tuple[None, Any]:
    import shapely
    import torch

    boxes = dets.double().numpy()
    along = np.stack([np.cos(boxes[:, 4]), np.sin(boxes[:, 4])], axis=1) * boxes[:, 2:3] / 2
    across = np.stack([-np.sin(boxes[:, 4]), np.cos(boxes[:, 4])], axis=1) * boxes[:, 3:4] / 2
    corners = [boxes[:, :2] + a * along + b * across for a, b in ((1, 1), (-1, 1), (-1, -1), (1, -1))]
    polygons = shapely.polygons(np.stack(corners, axis=1))
    area, alive, kept = shapely.area(polygons), np.ones(len(boxes), bool), []
    for index in torch.argsort(scores, descending=True, stable=True).tolist():
        if not alive[index]:
            continue
        kept.append(index)
        shared = shapely.area(shapely.intersection(polygons[index], polygons))
        alive &= shared / (area[index] + area - shared) <= iou_threshold
    return None, torch.tensor(kept, dtype=torch.long)


def box_differences(first: Boxes3D, second: Boxes3D) -> dict[str, Any]:
    """How many boxes there are, how many have no partner (class, centre within 1 cm), and the largest differences."""
    free = set(range(len(second.boxes)))
    pairs: list[tuple[int, int]] = []
    for index, (box, label) in enumerate(zip(first.boxes, first.labels, strict=True)):
        near = [
            (float(np.abs(second.boxes[other, :3] - box[:3]).max()), other)
            for other in free
            if second.labels[other] == label
        ]
        distance, other = min(near, default=(math.inf, -1))
        if distance <= 0.01:
            free.remove(other)
            pairs.append((index, other))
    own, others = ([pair[side] for pair in pairs] for side in (0, 1))
    turned = first.boxes[own, 6] - second.boxes[others, 6]
    turned = np.abs((turned + np.pi) % (2 * np.pi) - np.pi)
    moved = np.abs(first.boxes[own] - second.boxes[others])
    largest = {
        "center_m": moved[:, :3],
        "size_m": moved[:, 3:6],
        "yaw_rad": turned,
        "velocity_mps": moved[:, 7:],
        "score": np.abs(first.scores[own] - second.scores[others]),
    }
    return {
        "boxes": [len(first.boxes), len(second.boxes)],
        "without_partner": len(first.boxes) + len(second.boxes) - 2 * len(pairs),
        "largest": {key: float(f"{values.max(initial=0.0):.2g}") for key, values in largest.items()},
    }


def _against_float(attempt: Attempt, points: NDArray[np.float32]) -> dict[str, Any]:
    """Relative L2 of every output of the FP16 and the INT8 files against the FP32 ones, on one canvas."""
    from export.onnx_export import OnnxExportSettings, export_components
    from runtime.backends import open_backend

    spec = attempt.known
    canvas = _canvas(attempt.network, spec, seed=2).numpy()
    outputs: dict[str, dict[str, NDArray[np.float32]]] = {}
    folders = {"fp32": attempt.folder / "onnx"}
    if attempt.can("fp16"):
        folders["fp16"] = attempt.folder / "half"
        export_components(attempt.network, spec, folders["fp16"], OnnxExportSettings(precision="fp16"))
    if attempt.can("int8"):
        folders["int8"] = attempt.folder / "int8"
    for precision, folder in folders.items():
        with open_backend("onnx", spec=spec, onnx_dir=folder, threads=2) as backend:
            outputs[precision] = backend.run(BACKBONE_NECK_HEAD, {SPATIAL_FEATURES: canvas})
    exact = outputs.pop("fp32")
    return {
        precision: {
            name: float(f"{np.linalg.norm(values - exact[name]) / np.linalg.norm(exact[name]):.3g}")
            for name, values in found.items()
        }
        for precision, found in outputs.items()
    }
