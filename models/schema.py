"""What a model config and a stored specification may say: types, ranges, and mmdet3d's defaults for what is left out.

Only what `models.spec` reads, and the sizes that mmdet3d allocates by; everything else of a config is mmdet3d's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from base.errors import ConfigError
from base.parsing import FromList, Items, NonEmptyStr, NonNegativeFloat, Record, Share, parse
from models.unsupported import is_dynamic, refuse_unsupported

__all__ = ["ModelConfig", "SpecRecord", "parse_model", "parse_spec"]

_REMEDY = "Correct it in the config."

Channels = Annotated[int, Field(ge=1, le=8192)]
Cells = Annotated[int, Field(ge=1, le=8192)]
Stride = Annotated[int, Field(ge=1, le=64)]
Upsampling = Annotated[float, Field(ge=1 / 64, le=64)]
Many = Annotated[int, Field(ge=1, le=10_000_000)]
Few = Annotated[int, Field(ge=1, le=1024)]
Size = Annotated[float, Field(ge=1e-3, le=1e6)]
Metres = Annotated[float, Field(ge=-1e6, le=1e6)]
Side = Annotated[tuple[Size, Size, Size], FromList()]
Box = Annotated[tuple[Metres, Metres, Metres, Metres, Metres, Metres], FromList()]
HeadName = Literal["heatmap", "reg", "height", "dim", "rot", "vel", "iou"]
ClassNames = Annotated[Items[NonEmptyStr], Field(min_length=1, max_length=256)]
SuppressionKind = Literal["circle", "rotate"]
Decoding = Literal["top_k", "class_peaks"]


class _Part(Record, extra="ignore"):
    """A dictionary of the config, of which some keys are read."""


class VoxelLayer(_Part):
    """mmdet3d's VoxelizationByGridShape."""

    max_num_points: Few
    point_cloud_range: Box
    voxel_size: Side
    max_voxels: Many | Annotated[tuple[Many, Many], FromList()] = 20000


class Preprocessor(_Part):
    """mmdet3d's Det3DDataPreprocessor."""

    voxel_type: Literal["hard", "dynamic"] = "hard"
    voxel_layer: VoxelLayer


class PillarEncoder(_Part):
    """mmdet3d's PillarFeatureNet."""

    type: NonEmptyStr
    in_channels: Annotated[int, Field(ge=3, le=64)] = 4
    feat_channels: Annotated[Items[Channels], Field(min_length=1, max_length=16)] = (64,)
    with_distance: bool | None = False
    with_cluster_center: bool = True
    with_voxel_center: bool = True
    voxel_size: Side = (0.2, 0.2, 4.0)
    point_cloud_range: Box = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)
    mode: Literal["max", "avg"] = "max"
    legacy: bool = True

    @property
    def center_dims(self) -> int:
        """Parts of a point's offset to the centre of its pillar."""
        if not self.with_voxel_center:
            return 0
        return 2 if self.is_backward else 3

    @property
    def layer_channels(self) -> tuple[int, ...]:
        """Results of each layer for a point; all layers but the last put their maximum beside them, as many again."""
        return (*(channels // 2 for channels in self.feat_channels[:-1]), self.feat_channels[-1])

    @property
    def is_backward(self) -> bool:
        """Whether it is the encoder of AWML's older models."""
        return self.type.startswith("Backward")

    @property
    def has_backward_offsets(self) -> bool:
        """Whether its arguments say what that encoder does."""
        both = self.with_cluster_center and self.with_voxel_center
        return both and not self.with_distance and not self.legacy and self.mode == "max"


class MiddleEncoder(_Part):
    """mmdet3d's PointPillarsScatter."""

    output_shape: Annotated[tuple[Cells, Cells], FromList()]
    in_channels: Channels | None = None


class Backbone(_Part):
    """mmdet3d's SECOND; of another type, keys of the same name have the same meaning or are not there."""

    type: NonEmptyStr
    in_channels: Channels = 128
    out_channels: Annotated[Items[Channels], Field(min_length=1, max_length=16)] = (128, 128, 256)
    layer_nums: Annotated[Items[Annotated[int, Field(ge=0, le=64)]], Field(max_length=16)] = (3, 5, 5)
    layer_strides: Annotated[Items[Stride], Field(max_length=16)] = (2, 2, 2)


class Neck(_Part):
    """mmdet3d's SECONDFPN, likewise."""

    type: NonEmptyStr
    in_channels: Annotated[Items[Channels], Field(max_length=16)] = (128, 128, 256)
    out_channels: Annotated[Items[Channels], Field(max_length=16)] = (256, 256, 256)
    upsample_strides: Annotated[Items[Upsampling], Field(max_length=16)] = (1.0, 2.0, 4.0)


class Task(_Part):
    """Classes that one set of branches finds."""

    class_names: ClassNames


class Coder(_Part):
    """mmdet3d's CenterPointBBoxCoder."""

    pc_range: Annotated[Items[Metres], Field(min_length=2, max_length=6)]
    voxel_size: Annotated[Items[Size], Field(min_length=2, max_length=3)]
    out_size_factor: Stride
    post_center_range: Box
    max_num: Many = 100
    score_threshold: Share | None = None


class Head(_Part):
    """mmdet3d's CenterHead."""

    in_channels: Channels | Items[Channels] = 128
    share_conv_channel: Channels = 64
    num_heatmap_convs: Few = 2
    tasks: Annotated[Items[Task], Field(min_length=1, max_length=64)]
    common_heads: dict[str, Annotated[tuple[Channels, Few], FromList()]] = Field(default_factory=dict)
    bbox_coder: Coder
    norm_bbox: bool = True


class Suppression(_Part):
    """`test_cfg.pts`: mmdet3d has no default for either of the first two; "rotate" reads all but `min_radius`."""

    nms_type: SuppressionKind
    post_max_size: Many
    decoding: Decoding = "top_k"
    min_radius: NonNegativeFloat | Annotated[Items[NonNegativeFloat], Field(min_length=1, max_length=64)] = 0.0
    nms_thr: Share | None = None
    pre_max_size: Many | None = None
    score_threshold: Share | None = None
    post_center_limit_range: Box | None = None


class TestConfig(_Part):
    """`test_cfg`."""

    pts: Suppression


class ModelConfig(_Part):
    """`model` of a config."""

    data_preprocessor: Preprocessor
    pts_voxel_encoder: PillarEncoder
    pts_middle_encoder: MiddleEncoder
    pts_backbone: Backbone
    pts_neck: Neck
    pts_bbox_head: Head
    test_cfg: TestConfig


class HeadRecord(Record):
    """One output of the head in a stored specification."""

    name: HeadName
    channels: Channels


Heads = Annotated[Items[HeadRecord], Field(min_length=1, max_length=7)]


class TaskRecord(Record):
    """One of several tasks in a stored specification."""

    class_names: ClassNames
    heads: Heads
    nms_min_radius_m2: NonNegativeFloat


class SpecRecord(Record):
    """A `models.spec.ModelSpec` as JSON; what its fields mean stands there.

    One task's fields stand beside the model's, as they did before there were several; `tasks` is there for more.
    """

    name: str
    class_names: ClassNames = ()  # where it is left out; an empty list is refused
    point_cloud_range: Box
    voxel_size: Side
    max_points_per_voxel: Few
    max_voxels: Many
    point_features: Annotated[int, Field(ge=3, le=64)]
    point_columns: Annotated[Items[NonEmptyStr], Field(min_length=3, max_length=64)] | None = None
    voxel_center_dims: Literal[0, 2, 3]
    encoder_channels: Channels
    out_size_factor: Stride
    heads: Heads = ()
    tasks: Annotated[Items[TaskRecord], Field(min_length=2, max_length=64)] = ()
    norm_bbox: bool
    score_threshold: Share
    max_detections_before_nms: Many
    post_center_range: Box
    nms_type: SuppressionKind
    nms_min_radius_m2: NonNegativeFloat = 0.0
    post_max_size: Many
    rot_y_axis_reference: bool
    nms_iou_threshold: Share | None = None
    nms_pre_max_size: Many | None = None
    nms_center_range: Box | None = None
    cluster_center: bool = True
    point_distance: bool = False
    legacy_encoder: bool = False
    encoder_mode: Literal["max", "avg"] = "max"
    dynamic_pillars: bool = False
    decoding: Decoding = "top_k"

    def all_tasks(self) -> tuple[TaskRecord, ...]:
        """The tasks, in whichever form they are stored; `models.spec` has seen that one is there."""
        return self.tasks or (
            TaskRecord(class_names=self.class_names, heads=self.heads, nms_min_radius_m2=self.nms_min_radius_m2),
        )


# Without these there is nothing to say about a network; messages name them in full.
_PARTS = (
    "data_preprocessor.voxel_layer",
    "pts_voxel_encoder",
    "pts_middle_encoder",
    "pts_backbone",
    "pts_neck",
    "pts_bbox_head.bbox_coder",
    "test_cfg.pts",
)


def parse_model(model: object, file: str) -> ModelConfig:
    """`model` of a config, typed.

    Raises:
        ConfigError: a part is missing, or cannot be exported whatever its weights; or a value is of a wrong type or out
            of range; names file, place and value.
    """
    plain = _plain(model)
    for path in _PARTS:
        node: Any = plain
        for depth, key in enumerate(path.split("."), start=1):
            if not isinstance(node, Mapping):
                break  # which `parse` says
            if node.get(key) is None:
                missing = ".".join(path.split(".")[:depth])
                raise ConfigError(f"{file}: model.{missing} is missing; it is needed to describe the network.")
            node = node[key]
    refuse_unsupported(plain, file)
    if is_dynamic(plain):
        from models.dynamic_pillars import in_rows

        plain = in_rows(plain)
    return parse(ModelConfig, plain, file=file, at=("model",), error=ConfigError, remedy=_REMEDY)


def parse_spec(values: object, file: str) -> SpecRecord:
    """A stored specification, typed.

    Raises:
        ConfigError: a value is of a wrong type or out of range.
    """
    return parse(SpecRecord, values, file=file, error=ConfigError, remedy="Export the model again.")


def _plain(value: Any) -> Any:
    """A config's value of plain types: numpy's numbers and arrays, which a config may compute with, are taken apart."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return value.tolist()
    return value
