"""What must agree in a model, and which sizes nobody can hold: checked before anything is allocated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.errors import ConfigError
from models.facts import CIRCLE, CLASS_PEAKS, ROTATE, ModelFacts, TaskSpec

if TYPE_CHECKING:
    from models.schema import ModelConfig

__all__ = ["check_config", "check_spec"]

_MAX_CELLS = 8192
_MAX_BYTES = 1 << 31
# Outputs that boxes are made of, with their channels; the heatmap has one for each class.
_CHANNELS = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2, "iou": 1}
_NEEDED = ("height", "dim", "rot")


def check_spec(spec: ModelFacts, file: str) -> None:
    """Ranges, sizes and outputs of a specification, whether it was read from a config or from an artifact.

    Raises:
        ConfigError: a range ends before it begins, a tensor would not fit into memory, or an output that boxes are
            made of is missing or of the wrong size.
    """
    _check_suppression(spec, file)
    for name in ("point_cloud_range", "post_center_range", "nms_center_range"):
        limits = getattr(spec, name)
        if limits is None:
            continue
        for axis, lower, upper in zip("xyz", limits[:3], limits[3:], strict=True):
            if not lower < upper:
                raise ConfigError(
                    f"{file}: {name} is {limits}, which has nothing between {lower:g} and {upper:g} along {axis}. "
                    "Give three lower limits, then three upper ones."
                )
    cells = spec.grid_size
    if not 1 <= min(cells) <= max(cells) <= _MAX_CELLS or max(spec.out_size_factor, 1) > min(cells):
        raise ConfigError(
            f"{file}: point_cloud_range {spec.point_cloud_range} and voxel_size {spec.voxel_size} make a grid of "
            f"{cells[0]} x {cells[1]} (x, y); each must lie in {max(spec.out_size_factor, 1)} (out_size_factor) to "
            f"{_MAX_CELLS}. Change the range or the size."
        )
    nx, ny = cells
    rows = {
        f"the canvas of {nx} x {ny} cells with {spec.encoder_channels} channels": nx * ny * spec.encoder_channels,
        f"{spec.max_voxels} pillars (max_voxels) of {spec.max_points_per_voxel} points (max_num_points) with "
        f"{spec.encoder_in_features} features": spec.max_voxels * spec.max_points_per_voxel * spec.encoder_in_features,
        f"heatmaps of {len(spec.class_names)} classes": len(spec.class_names) * nx * ny // spec.out_size_factor**2,
    }
    for what, elements in rows.items():
        if 4 * elements > _MAX_BYTES:
            raise ConfigError(
                f"{file}: {what} would take {4 * elements / 2**30:.1f} GB; {_MAX_BYTES >> 30} GB is the most that is "
                "allocated. Lower one of the numbers."
            )
    _check_outputs(spec, file)


def _check_suppression(spec: ModelFacts, file: str) -> None:
    if spec.nms_type not in (CIRCLE, ROTATE):
        raise ConfigError(f"{file}: test_cfg.pts.nms_type is '{spec.nms_type}'; known are '{CIRCLE}' and '{ROTATE}'.")
    if spec.nms_type == ROTATE and spec.nms_iou_threshold is None:
        raise ConfigError(
            f"{file}: test_cfg.pts.nms_type is '{ROTATE}', which suppresses by overlap, but there is no nms_thr "
            f"(nms_iou_threshold in a stored specification). Give it, 0 to 1, or set nms_type to '{CIRCLE}'."
        )
    if spec.decoding == CLASS_PEAKS and spec.nms_type != CIRCLE:
        raise ConfigError(
            f"{file}: test_cfg.pts.decoding is '{spec.decoding}' and nms_type '{spec.nms_type}'; peaks of classes are "
            f"suppressed by the distance of centres alone. Set nms_type to '{CIRCLE}'."
        )


def _check_outputs(spec: ModelFacts, file: str) -> None:
    if not spec.tasks:
        raise ConfigError(f"{file}: the head has no tasks; give it at least one.")
    if len(set(spec.class_names)) != len(spec.class_names):
        raise ConfigError(f"{file}: a class stands twice in class_names {list(spec.class_names)}; name each once.")
    for index, task in enumerate(spec.tasks):
        _check_task(task, "the head" if len(spec.tasks) == 1 else f"task {index} of the head", file)


def _check_task(task: TaskSpec, whose: str, file: str) -> None:
    found = {head.name: head.channels for head in task.heads}
    missing = [name for name in ("heatmap", *_NEEDED) if name not in found]
    if missing or len(found) != len(task.heads):
        raise ConfigError(
            f"{file}: {whose} has the outputs {[head.name for head in task.heads]}, but boxes are made of "
            f"{', '.join(_NEEDED)} (and reg and vel), each once. Complete common_heads."
        )
    for name, channels in found.items():
        wanted = _CHANNELS.get(name, len(task.class_names))
        if channels != wanted:
            raise ConfigError(
                f"{file}: output '{name}' of {whose} has {channels} channels, but boxes are made of {wanted}. "
                "Correct common_heads."
            )


def check_config(spec: ModelFacts, model: ModelConfig, file: str) -> None:
    """Values that mmdet3d reads from several places of the config must agree.

    Args:
        spec: What was read.
        model: The config.
        file: The config, for messages.

    Raises:
        ConfigError: names both places and both values.
    """
    check_spec(spec, file)
    nx, ny = spec.grid_size
    shape = model.pts_middle_encoder.output_shape
    if shape != (ny, nx):
        raise ConfigError(
            f"{file}: pts_middle_encoder.output_shape is {shape}, but point_cloud_range and voxel_size make a grid "
            f"of {ny} x {nx} (y, x). Change one of the three."
        )
    for name in ("point_cloud_range", "voxel_size"):
        here = getattr(model.pts_voxel_encoder, name)
        if here != getattr(spec, name):
            raise ConfigError(
                f"{file}: pts_voxel_encoder.{name} is {here}, data_preprocessor says {getattr(spec, name)}."
            )
    coder = model.pts_bbox_head.bbox_coder
    expected = (spec.point_cloud_range[:2], spec.voxel_size[:2])
    found = (coder.pc_range[:2], coder.voxel_size[:2])
    if found != expected:
        raise ConfigError(f"{file}: bbox_coder pc_range and voxel_size are {found}, data_preprocessor says {expected}.")
    _check_strides(spec, model, file)


def _check_strides(spec: ModelFacts, model: ModelConfig, file: str) -> None:
    """Every level that SECONDFPN joins must have the cells of the head."""
    backbone, neck = model.pts_backbone, model.pts_neck
    if (backbone.type, neck.type) != ("SECOND", "SECONDFPN"):
        return
    if len(backbone.layer_strides) != len(neck.upsample_strides):
        raise ConfigError(
            f"{file}: pts_backbone.layer_strides has {len(backbone.layer_strides)} levels, pts_neck.upsample_strides "
            f"{len(neck.upsample_strides)}. Give one for each level."
        )
    cells = spec.grid_size
    for level, (stride, upsample) in enumerate(zip(backbone.layer_strides, neck.upsample_strides, strict=True)):
        # A convolution of kernel 3, stride s and padding 1; then a transposed one, or one of kernel and stride 1/u.
        cells = ((cells[0] - 1) // stride + 1, (cells[1] - 1) // stride + 1)
        joined = tuple(int(n * upsample) if upsample >= 1 else n // round(1 / upsample) for n in cells)
        if joined != spec.head_size:
            raise ConfigError(
                f"{file}: of a grid of {spec.grid_size[0]} x {spec.grid_size[1]} (x, y), level {level} of the neck has "
                f"{joined[0]} x {joined[1]} cells, but out_size_factor {spec.out_size_factor} makes a heatmap of "
                f"{spec.head_size[0]} x {spec.head_size[1]}. The grid must be divisible by pts_backbone.layer_strides "
                f"{list(backbone.layer_strides)}; pts_neck.upsample_strides {list(neck.upsample_strides)} undo them."
            )
