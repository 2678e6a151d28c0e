"""Everything about a CenterPoint that follows from its model config: one immutable value that travels with artifacts.

Nothing else in the project derives a shape, a name or a decoding parameter from a model config.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from base.errors import ConfigError

__all__ = [
    "BACKBONE_NECK_HEAD",
    "HEAD_ORDER",
    "INPUT_FEATURES",
    "PILLAR_FEATURES",
    "SPATIAL_FEATURES",
    "VOXEL_ENCODER",
    "ComponentSpec",
    "HeadSpec",
    "ModelSpec",
    "TensorSpec",
]

VOXEL_ENCODER = "pts_voxel_encoder"
BACKBONE_NECK_HEAD = "pts_backbone_neck_head"
INPUT_FEATURES = "input_features"
PILLAR_FEATURES = "pillar_features"
SPATIAL_FEATURES = "spatial_features"

# Autoware reads the outputs of the head engine by position, in this order.
HEAD_ORDER = ("heatmap", "reg", "height", "dim", "rot", "vel")


@dataclass(frozen=True)
class HeadSpec:
    """One output of the detection head: its name and its number of channels."""

    name: str
    channels: int


@dataclass(frozen=True)
class TensorSpec:
    """A graph input or output, float32.

    Attributes:
        name: Tensor name in the ONNX graph and the engine.
        shape: One entry an axis; None where the axis is dynamic.
        axis_names: Axis index -> symbolic name, for the dynamic axes.
    """

    name: str
    shape: tuple[int | None, ...]
    axis_names: Mapping[int, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class ComponentSpec:
    """A separately exported part of the network."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class ModelSpec:
    """A pillar CenterPoint with one task, as its config describes it.

    Attributes:
        name: Stem of the config file.
        class_names: Detected classes, in heatmap order.
        point_cloud_range: x, y, z lower then upper limits, metres, ego frame.
        voxel_size: x, y, z extent of a pillar, metres.
        max_points_per_voxel: Points kept in a pillar; the encoder's second axis.
        max_voxels: Pillars kept at inference.
        point_features: Columns of a point that enter: 5 = x, y, z, intensity, time lag; 4 = the same without intensity.
        voxel_center_dims: 3 where the offset to the pillar centre has a z part, 2 in older models.
        encoder_channels: Channels of a pillar feature and of the canvas.
        out_size_factor: Canvas cells per heatmap cell along each axis.
        heads: Outputs of the head in graph order.
        norm_bbox: True where `dim` holds logarithms of metres.
        score_threshold: Detections at or below it are dropped before NMS.
        max_detections_before_nms: Top-k over all classes and cells.
        post_center_range: Limits on a decoded centre, metres.
        nms_type: "circle".
        nms_min_radius_m2: mmdet3d's `min_radius`; it is compared with the *squared* centre distance.
        post_max_size: Detections kept after NMS.
        rot_y_axis_reference: True for a model whose `dim` is [w, l, h] and whose `rot` is [-cos, -sin].
    """

    name: str
    class_names: tuple[str, ...]
    point_cloud_range: tuple[float, float, float, float, float, float]
    voxel_size: tuple[float, float, float]
    max_points_per_voxel: int
    max_voxels: int
    point_features: int
    voxel_center_dims: int
    encoder_channels: int
    out_size_factor: int
    heads: tuple[HeadSpec, ...]
    norm_bbox: bool
    score_threshold: float
    max_detections_before_nms: int
    post_center_range: tuple[float, float, float, float, float, float]
    nms_type: str
    nms_min_radius_m2: float
    post_max_size: int
    rot_y_axis_reference: bool = False

    @property
    def encoder_in_features(self) -> int:
        """Features of a decorated point: the point, its offset to the cluster mean and to the pillar centre."""
        return self.point_features + 3 + self.voxel_center_dims

    @property
    def grid_size(self) -> tuple[int, int]:
        """Pillars along x and y."""
        lower, upper = self.point_cloud_range[:2], self.point_cloud_range[3:5]
        nx, ny = (round((upper[i] - lower[i]) / self.voxel_size[i]) for i in range(2))
        return nx, ny

    @property
    def head_size(self) -> tuple[int, int]:
        """Heatmap cells along x and y."""
        nx, ny = self.grid_size
        return nx // self.out_size_factor, ny // self.out_size_factor

    @property
    def canvas_shape(self) -> tuple[int, int, int, int]:
        """(1, C, H, W) of the scattered pillar features; H runs along y."""
        nx, ny = self.grid_size
        return 1, self.encoder_channels, ny, nx

    def encoder_shape(self, num_voxels: int) -> tuple[int, int, int]:
        """(N, P, F) of the encoder's input for `num_voxels` pillars."""
        return num_voxels, self.max_points_per_voxel, self.encoder_in_features

    def head_shape(self, head: HeadSpec) -> tuple[int, int, int, int]:
        """(1, C, h, w) of one output."""
        w, h = self.head_size
        return 1, head.channels, h, w

    @property
    def components(self) -> tuple[ComponentSpec, ...]:
        """The exported components with their tensors, in the order in which they run.

        The number of pillars is the one dynamic axis. The second axis of the encoder's input is not: padded rows pass
        through the encoder's normalization and take part in its maximum, so their number is part of the function.
        """
        voxels = {0: "num_voxels"}
        return (
            ComponentSpec(
                VOXEL_ENCODER,
                (TensorSpec(INPUT_FEATURES, (None, self.max_points_per_voxel, self.encoder_in_features), voxels),),
                (TensorSpec(PILLAR_FEATURES, (None, 1, self.encoder_channels), voxels),),
            ),
            ComponentSpec(
                BACKBONE_NECK_HEAD,
                (TensorSpec(SPATIAL_FEATURES, self.canvas_shape),),
                tuple(TensorSpec(head.name, self.head_shape(head)) for head in self.heads),
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_dict` reads it back."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSpec:
        """Reads what `to_dict` wrote.

        Raises:
            ConfigError: a field is missing or unknown.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if set(values) - known or known - set(values):
            raise ConfigError(
                f"Model specification has unknown fields {sorted(set(values) - known)} and lacks "
                f"{sorted(known - set(values))}; it is of another version of this project. Export the model again."
            )
        converted: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        converted["heads"] = tuple(HeadSpec(**head) for head in values["heads"])
        return cls(**converted)

    def fingerprint(self) -> str:
        """SHA-256 over the specification; artifacts of the same network share it."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_config(cls, cfg: Any) -> ModelSpec:
        """Derives the specification from an mmdet3d model config.

        Args:
            cfg: An `mmengine.Config` as `models.config.load_model_config` returns it.

        Raises:
            ConfigError: the config is no single-task pillar CenterPoint, or contradicts itself.
        """
        file = cfg.filename or "model config"
        model = cfg.model
        layer = _get(model, "data_preprocessor.voxel_layer", file)
        encoder = _get(model, "pts_voxel_encoder", file)
        head = _get(model, "pts_bbox_head", file)
        coder = _get(model, "pts_bbox_head.bbox_coder", file)
        test_cfg = _get(model, "test_cfg.pts", file)
        if len(head.tasks) != 1:
            raise ConfigError(f"{file}: the head has {len(head.tasks)} tasks; only single-task heads can be exported.")
        if encoder.get("legacy", True):
            raise ConfigError(f"{file}: pts_voxel_encoder.legacy must be False; the legacy path overwrites its input.")
        if encoder.get("with_distance") or not (
            encoder.get("with_cluster_center", True) and encoder.get("with_voxel_center", True)
        ):
            raise ConfigError(
                f"{file}: pts_voxel_encoder must use cluster and voxel centres and no distance, as the runtime does."
            )
        channels = {"heatmap": len(head.tasks[0].class_names), **{k: v[0] for k, v in head.common_heads.items()}}
        unknown = sorted(set(channels) - set(HEAD_ORDER))
        if unknown:
            raise ConfigError(f"{file}: common_heads has {unknown}; known outputs are {list(HEAD_ORDER)}.")
        max_voxels = layer.max_voxels
        limits = tuple(float(v) for v in layer.point_cloud_range)
        size = tuple(float(v) for v in layer.voxel_size)
        min_radius = test_cfg.get("min_radius", [0.0])
        spec = cls(
            name=str(cfg.get("name", "")) or _stem(file),
            class_names=tuple(head.tasks[0].class_names),
            point_cloud_range=limits,  # type: ignore[arg-type]
            voxel_size=size,  # type: ignore[arg-type]
            max_points_per_voxel=int(layer.max_num_points),
            max_voxels=int(max_voxels[1] if isinstance(max_voxels, Sequence) else max_voxels),
            point_features=int(encoder.in_channels),
            voxel_center_dims=2 if encoder.type.startswith("Backward") else 3,
            encoder_channels=int(encoder.feat_channels[-1]),
            out_size_factor=int(coder.out_size_factor),
            heads=tuple(HeadSpec(name, channels[name]) for name in HEAD_ORDER if name in channels),
            norm_bbox=bool(head.get("norm_bbox", True)),
            score_threshold=float(coder.score_threshold),
            max_detections_before_nms=int(coder.max_num),
            post_center_range=tuple(float(v) for v in coder.post_center_range),  # type: ignore[arg-type]
            nms_type=str(test_cfg.nms_type),
            nms_min_radius_m2=float(min_radius[0] if isinstance(min_radius, Sequence) else min_radius),
            post_max_size=int(test_cfg.post_max_size),
        )
        spec._check(cfg, file)
        return spec

    def _check(self, cfg: Any, file: str) -> None:
        """Values that mmdet3d reads from several places of the config must agree."""
        if self.nms_type != "circle":
            raise ConfigError(f"{file}: test_cfg.pts.nms_type is '{self.nms_type}'; only 'circle' is supported.")
        model = cfg.model
        nx, ny = self.grid_size
        shape = tuple(_get(model, "pts_middle_encoder.output_shape", file))
        if shape != (ny, nx):
            raise ConfigError(
                f"{file}: pts_middle_encoder.output_shape is {shape}, but point_cloud_range and voxel_size make a grid "
                f"of {ny} x {nx} (y, x). Change one of the three."
            )
        for name in ("point_cloud_range", "voxel_size"):
            here = tuple(float(v) for v in _get(model, f"pts_voxel_encoder.{name}", file))
            if here != getattr(self, name):
                raise ConfigError(
                    f"{file}: pts_voxel_encoder.{name} is {here}, data_preprocessor says {getattr(self, name)}."
                )
        coder = model.pts_bbox_head.bbox_coder
        expected = (self.point_cloud_range[:2], self.voxel_size[:2])
        found = (tuple(float(v) for v in coder.pc_range[:2]), tuple(float(v) for v in coder.voxel_size[:2]))
        if found != expected:
            raise ConfigError(
                f"{file}: bbox_coder pc_range and voxel_size are {found}, data_preprocessor says {expected}."
            )


def _get(node: Any, path: str, file: str) -> Any:
    for key in path.split("."):
        if node is None or key not in node:
            raise ConfigError(f"{file}: model.{path} is missing; it is needed to describe the network.")
        node = node[key]
    return node


def _stem(file: str) -> str:
    return file.rsplit("/", 1)[-1].removesuffix(".py")
