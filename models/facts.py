"""What follows from a model config, as plain values: names, sizes and shapes of the network's inputs and outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = [
    "BACKBONE_NECK_HEAD",
    "HEAD_ORDER",
    "INPUT_FEATURES",
    "PILLAR_FEATURES",
    "SPATIAL_FEATURES",
    "VOXEL_ENCODER",
    "ComponentSpec",
    "HeadSpec",
    "ModelFacts",
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
class ModelFacts:
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
