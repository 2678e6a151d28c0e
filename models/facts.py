"""What follows from a model config, as plain values: names, sizes and shapes of the network's inputs and outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from base.errors import ConfigError

__all__ = [
    "BACKBONE_NECK_HEAD",
    "BRANCH_ORDER",
    "CIRCLE",
    "CLASS_PEAKS",
    "HEAD_ORDER",
    "INPUT_FEATURES",
    "PILLAR_FEATURES",
    "ROTATE",
    "SPATIAL_FEATURES",
    "TOP_K",
    "VOXEL_ENCODER",
    "ComponentSpec",
    "HeadSpec",
    "ModelFacts",
    "TaskSpec",
    "TensorSpec",
    "branch_of",
    "omitted_default",
]

VOXEL_ENCODER = "pts_voxel_encoder"
BACKBONE_NECK_HEAD = "pts_backbone_neck_head"
INPUT_FEATURES = "input_features"
PILLAR_FEATURES = "pillar_features"
SPATIAL_FEATURES = "spatial_features"

# Autoware reads the outputs of the head engine by position, in this order.
HEAD_ORDER = ("heatmap", "reg", "height", "dim", "rot", "vel")
# Everything that a task can give; no box is made of an overlap that is predicted.
BRANCH_ORDER = (*HEAD_ORDER, "iou")
CIRCLE, ROTATE = "circle", "rotate"
TOP_K, CLASS_PEAKS = "top_k", "class_peaks"

_OMITTED = "omitted"


def omitted_default(value: Any) -> Any:
    """A field of `ModelFacts` that came later: artifacts hold it where it is not `value`, what models had before it.

    Files, fingerprints and with them checksums of such models stay what they were.
    """
    return dataclasses.field(default=value, metadata={_OMITTED: True})


def branch_of(output: str) -> str:
    """Which branch of its task an output of the head is: "heatmap" of "heatmap" and of "heatmap_3"."""
    branch, _, task = output.rpartition("_")
    return branch if branch in BRANCH_ORDER and task.isdecimal() else output


@dataclass(frozen=True)
class HeadSpec:
    """One output of the detection head.

    Attributes:
        name: In a task the branch's own, one of `BRANCH_ORDER`; among all heads of a model the graph's.
        channels: Of the output.
    """

    name: str
    channels: int


@dataclass(frozen=True)
class TaskSpec:
    """Classes that one set of branches of the head finds, and that suppress each other.

    Attributes:
        class_names: In heatmap order.
        heads: The branches in graph order, by their own names: "heatmap", "reg", …
        nms_min_radius_m2: mmdet3d's `min_radius`; it is compared with the *squared* centre distance. 0 where
            `nms_type` is not "circle".
    """

    class_names: tuple[str, ...]
    heads: tuple[HeadSpec, ...]
    nms_min_radius_m2: float = 0.0


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
    """A pillar CenterPoint, as its config describes it.

    Attributes:
        name: Stem of the config file.
        point_cloud_range: x, y, z lower then upper limits, metres, ego frame.
        voxel_size: x, y, z extent of a pillar, metres.
        max_points_per_voxel: Points kept in a pillar; the encoder's second axis.
        max_voxels: Pillars kept at inference.
        point_columns: Names of a point's columns as they enter, x, y, z first (`models.point_columns`).
        voxel_center_dims: 3 where the offset to the pillar centre has a z part, 2 in older models, 0 without an offset.
        encoder_channels: Channels of a pillar feature and of the canvas.
        out_size_factor: Canvas cells per heatmap cell along each axis.
        tasks: Of the head, in its order.
        norm_bbox: True where `dim` holds logarithms of metres.
        score_threshold: Detections at or below it are dropped before NMS.
        max_detections_before_nms: Top-k over all classes and cells of a task.
        post_center_range: Limits on a decoded centre, metres.
        nms_type: "circle", by the distance of centres, or "rotate", by the overlap of rotated boxes seen from above.
        post_max_size: Detections of a task kept after NMS.
        rot_y_axis_reference: True for a model whose `dim` is [w, l, h] and whose `rot` is [-cos, -sin].
        nms_iou_threshold: Of "rotate": a box that overlaps a better one by more is dropped. None with "circle".
        nms_pre_max_size: Of "rotate": the best so many boxes of a task enter the suppression; None for all.
        nms_center_range: Of "rotate": limits on the centres of boxes that were kept, where they are narrower than
            `post_center_range` somewhere; None where they are not.
        cluster_center: Whether a point carries its offset to the mean of its pillar's points.
        point_distance: Whether it carries the length of its x, y, z, as they enter the encoder.
        legacy_encoder: Whether x, y, z enter as the offsets to the pillar's centre, as mmdet3d's `legacy` encoder
            leaves them, which writes the offsets into its own input.
        dynamic_pillars: Whether a pillar has any number of points. It enters as rows of `max_points_per_voxel` points,
            the last of which is filled with its first point, and the canvas joins the rows of a pillar. `max_voxels`
            counts rows.
        encoder_mode: "max", or "avg": the sum over all slots of a pillar, padded ones too, by its number of points.
        decoding: "top_k" as mmdet3d does it, or "class_peaks": `max_detections_before_nms` peaks of each class, which
            are suppressed among their own class, and the best `post_max_size` of all (`runtime.class_peaks`).
    """

    name: str
    point_cloud_range: tuple[float, float, float, float, float, float]
    voxel_size: tuple[float, float, float]
    max_points_per_voxel: int
    max_voxels: int
    point_columns: tuple[str, ...]
    voxel_center_dims: int
    encoder_channels: int
    out_size_factor: int
    tasks: tuple[TaskSpec, ...]
    norm_bbox: bool
    score_threshold: float
    max_detections_before_nms: int
    post_center_range: tuple[float, float, float, float, float, float]
    nms_type: str
    post_max_size: int
    rot_y_axis_reference: bool = False
    nms_iou_threshold: float | None = omitted_default(None)
    nms_pre_max_size: int | None = omitted_default(None)
    nms_center_range: tuple[float, float, float, float, float, float] | None = omitted_default(None)
    cluster_center: bool = omitted_default(True)
    point_distance: bool = omitted_default(False)
    legacy_encoder: bool = omitted_default(False)
    encoder_mode: str = omitted_default("max")
    dynamic_pillars: bool = omitted_default(False)
    decoding: str = omitted_default(TOP_K)

    @classmethod
    def omitted(cls) -> dict[str, Any]:
        """Fields that artifacts leave out where they have the default, with it."""
        return {field.name: field.default for field in dataclasses.fields(cls) if field.metadata.get(_OMITTED)}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Detected classes; the labels of boxes index them. Those of one task stand behind each other."""
        return tuple(name for task in self.tasks for name in task.class_names)

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """Outputs of the head by their names in the graph, in its order: task by task."""
        return tuple(
            HeadSpec(self.output_name(index, head.name), head.channels)
            for index, task in enumerate(self.tasks)
            for head in task.heads
        )

    def output_name(self, task: int, branch: str) -> str:
        """Name in the graph of a task's branch: the branch's own where there is one task, else "heatmap_0", ….

        Args:
            task: Index into `tasks`.
            branch: One of `BRANCH_ORDER`.
        """
        return branch if len(self.tasks) == 1 else f"{branch}_{task}"

    def one_task(self, taker: str) -> TaskSpec:
        """The one task of a model that has one.

        Args:
            taker: What takes models of one task alone, for the message: "Autoware's node".

        Raises:
            ConfigError: it has several.
        """
        if len(self.tasks) != 1:
            groups = "; ".join(", ".join(task.class_names) for task in self.tasks)
            raise ConfigError(
                f"Model '{self.name}' has {len(self.tasks)} tasks ({groups}), but {taker} takes a model with one task."
            )
        return self.tasks[0]

    def changed(self, **changes: Any) -> Self:
        """The same model with other fields; those of `TaskSpec` are its one task's.

        Raises:
            ConfigError: one of those is given, and the model has several tasks.
        """
        names = {field.name for field in dataclasses.fields(TaskSpec)} & set(changes)
        if names:
            own = {name: changes.pop(name) for name in names}
            changes["tasks"] = (dataclasses.replace(self.one_task(f"a change of {', '.join(sorted(names))}"), **own),)
        return dataclasses.replace(self, **changes)

    @property
    def point_features(self) -> int:
        """Columns of a point that enter."""
        return len(self.point_columns)

    @property
    def encoder_in_features(self) -> int:
        """Features of a decorated point: the point, its offsets to cluster mean and pillar centre, its distance.

        One more where the encoder takes a mean: the number of the pillar's points, which no layer multiplies.
        """
        return self.layer_in_features + (self.encoder_mode == "avg")

    @property
    def layer_in_features(self) -> int:
        """Features that the encoder's first layer multiplies."""
        return self.point_features + 3 * self.cluster_center + self.voxel_center_dims + self.point_distance

    @property
    def has_usual_decoration(self) -> bool:
        """Whether points are decorated as vehicles and kernels do it: both offsets, and a maximum over the points."""
        unusual = self.point_distance or self.legacy_encoder or self.encoder_mode != "max" or self.dynamic_pillars
        return self.cluster_center and self.voxel_center_dims > 0 and not unusual

    @property
    def decoration(self) -> str:
        """What a decorated point is, in words."""
        parts = [f"{self.point_features} columns" + (" (x, y, z from the pillar's centre)" * self.legacy_encoder)]
        parts += ["offsets to the cluster's mean"] * self.cluster_center
        parts += ["offsets to the pillar's centre"] * bool(self.voxel_center_dims)
        parts += ["a distance"] * self.point_distance
        parts += ["any number of points a pillar"] * self.dynamic_pillars
        return f"{', '.join(parts)} and their {'mean' if self.encoder_mode == 'avg' else 'maximum'}"

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
