"""Everything about a CenterPoint that follows from its model config: one immutable value that travels with artifacts.

Nothing else in the project derives a shape, a name or a decoding parameter from a model config.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from base.errors import ConfigError
from base.messages import shown_file
from models.checks import check_config, check_spec
from models.point_columns import implied_columns, stored_columns

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
        point_columns: Names of a point's columns as they enter, x, y, z first (`models.point_columns`).
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
    point_columns: tuple[str, ...]
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
    def point_features(self) -> int:
        """Columns of a point that enter."""
        return len(self.point_columns)

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
        """A JSON-ready dictionary; `from_dict` reads it back.

        Names of columns are written only where they are others than their number stood for before they had names: what
        ONNX files hold of such a model, and with it their checksums, did not change when the names came.
        """
        plain: dict[str, Any] = {}
        for name, value in json.loads(json.dumps(dataclasses.asdict(self))).items():
            if name != "point_columns":
                plain[name] = value
                continue
            plain["point_features"] = self.point_features
            if self.point_columns != implied_columns(self.point_features):
                plain[name] = value
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], file: str = "Model specification") -> ModelSpec:
        """Reads what `to_dict` wrote.

        Args:
            values: A JSON object.
            file: Where it stands, for messages.

        Raises:
            ConfigError: a field is missing or unknown, of a wrong type or out of range.
        """
        from models.schema import parse_spec

        own = {field.name for field in dataclasses.fields(cls)} - {"point_columns"}
        known = own | {"point_features"}
        if isinstance(values, Mapping) and set(values) - {"point_columns"} != known:
            raise ConfigError(
                f"{file} has unknown fields {sorted(map(str, set(values) - known - {'point_columns'}))} and lacks "
                f"{sorted(known - set(values))}; it is of another version of this project. Export the model again."
            )
        record = parse_spec(values, file)
        fields: dict[str, Any] = {name: getattr(record, name) for name in own}
        fields["point_columns"] = stored_columns(record.point_columns, record.point_features, file)
        fields["heads"] = tuple(HeadSpec(head.name, head.channels) for head in record.heads)
        spec = cls(**fields)
        check_spec(spec, file)
        return spec

    @classmethod
    def from_json(cls, text: str, file: str) -> ModelSpec:
        """Reads what an artifact keeps of `to_dict`.

        Args:
            text: JSON.
            file: The artifact, for messages.

        Raises:
            ConfigError: it is no JSON, or as `from_dict`.
        """
        from base.documents import parse_json

        where = f"the specification in {shown_file(file)}"
        return cls.from_dict(parse_json(text, file=file, error=ConfigError, remedy="Export the model again."), where)

    def fingerprint(self) -> str:
        """SHA-256 over the specification; artifacts of the same network share it."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_config(cls, cfg: Any) -> ModelSpec:
        """Derives the specification from an mmdet3d model config.

        Args:
            cfg: An `mmengine.Config` as `models.config.load_model_config` returns it.

        Raises:
            ConfigError: the config is no single-task pillar CenterPoint, a value of it is of a wrong type or out of
                range, or it contradicts itself.
        """
        from models.point_loading import network_columns
        from models.schema import parse_model

        file = str(cfg.filename or "model config")
        model = parse_model(cfg.model, file)
        layer, encoder, head = model.data_preprocessor.voxel_layer, model.pts_voxel_encoder, model.pts_bbox_head
        coder, suppression = head.bbox_coder, model.test_cfg.pts
        if len(head.tasks) != 1:
            raise ConfigError(f"{file}: the head has {len(head.tasks)} tasks; only single-task heads can be exported.")
        if encoder.legacy:
            raise ConfigError(f"{file}: pts_voxel_encoder.legacy must be False; the legacy path overwrites its input.")
        if encoder.with_distance or not (encoder.with_cluster_center and encoder.with_voxel_center):
            raise ConfigError(
                f"{file}: pts_voxel_encoder must use cluster and voxel centres and no distance, as the runtime does."
            )
        names = head.tasks[0].class_names
        channels = {"heatmap": len(names), **{name: sizes[0] for name, sizes in head.common_heads.items()}}
        max_voxels, min_radius = layer.max_voxels, suppression.min_radius
        spec = cls(
            name=str(cfg.get("name", "")) or _stem(file),
            class_names=names,
            point_cloud_range=layer.point_cloud_range,
            voxel_size=layer.voxel_size,
            max_points_per_voxel=layer.max_num_points,
            max_voxels=max_voxels if isinstance(max_voxels, int) else max_voxels[1],
            point_columns=network_columns(cfg, encoder.in_channels, file),
            voxel_center_dims=2 if encoder.type.startswith("Backward") else 3,
            encoder_channels=encoder.feat_channels[-1],
            out_size_factor=coder.out_size_factor,
            heads=tuple(HeadSpec(name, channels[name]) for name in HEAD_ORDER if name in channels),
            norm_bbox=head.norm_bbox,
            # mmdet3d drops nothing without a threshold; a sigmoid is above 0.
            score_threshold=0.0 if coder.score_threshold is None else coder.score_threshold,
            max_detections_before_nms=coder.max_num,
            post_center_range=coder.post_center_range,
            nms_type=suppression.nms_type,
            nms_min_radius_m2=min_radius if isinstance(min_radius, float) else min_radius[0],
            post_max_size=suppression.post_max_size,
        )
        check_config(spec, model, channels, file)
        return spec


def _stem(file: str) -> str:
    return file.rsplit("/", 1)[-1].removesuffix(".py")
