"""Configs of autoware-ml (TIER IV's training framework on Lightning and Hydra), in the terms of mmdet3d.

Its CenterPoint is that of mmdet3d with other names: the same encoder, backbone and neck, branches of their own
(`models.autoware_ml_head`), one task, and another way from a heatmap to boxes (`ModelFacts.decoding`). Nothing of it is
imported: a `_target_` is a name, and one that is not known here is an error.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from base.composed_yaml import compose_yaml
from base.errors import ConfigError
from base.interpolation import References
from base.lazy import require
from base.messages import shown
from base.parsing import Items, NonEmptyStr, NonNegativeFloat, Record, Share, parse
from models.autoware_ml_data import UNSET_FOLDER, data_settings
from models.autoware_ml_stamps import onnx_stamps
from models.facts import CLASS_PEAKS
from models.schema import Box, Cells, Channels, Few, Many, Side, Stride, Upsampling

__all__ = ["DATA_VARIABLE", "load_autoware_ml_config"]

DATA_VARIABLE = "AUTOWARE_ML_DATA_PATH"
"""Environment variable from which its configs take the folder of all datasets."""

_PACKAGE = "autoware_ml."
_NORM = {"eps": 1e-3, "momentum": 0.01}
# Its decode has no limits on centres.
_ANYWHERE = (-1e6, -1e6, -1e6, 1e6, 1e6, 1e6)
_REMEDY = "Correct it in the config."
_logger = logging.getLogger(__name__)


class _Part(Record):
    """Arguments of one of its classes; another argument is an error, since it may change the network."""


class _PillarFeatureNet(_Part):
    in_channels: Annotated[int, Field(ge=3, le=64)]
    feat_channels: Annotated[Items[Channels], Field(min_length=1, max_length=16)]
    voxel_size: Side
    point_cloud_range: Box
    with_distance: bool = False
    with_cluster_center: bool = True
    with_voxel_center: bool = True


class _PointPillarsScatter(_Part):
    in_channels: Channels
    output_shape: Annotated[Items[Cells], Field(min_length=2, max_length=2)]


class _SECONDBackbone(_Part):
    in_channels: Channels
    out_channels: Annotated[Items[Channels], Field(min_length=1, max_length=16)]
    layer_nums: Annotated[Items[Annotated[int, Field(ge=0, le=64)]], Field(min_length=1, max_length=16)]
    layer_strides: Annotated[Items[Stride], Field(min_length=1, max_length=16)]


class _SECONDFPN(_Part):
    in_channels: Annotated[Items[Channels], Field(min_length=1, max_length=16)]
    out_channels: Annotated[Items[Channels], Field(min_length=1, max_length=16)]
    upsample_strides: Annotated[Items[Upsampling], Field(min_length=1, max_length=16)]


class _CenterHead(_Part):
    in_channels: Channels
    num_classes: Few
    class_names: Annotated[Items[NonEmptyStr], Field(min_length=1, max_length=256)]
    shared_channels: Channels
    point_cloud_range: Box
    voxel_size: Side
    out_size_factor: Stride
    score_threshold: Share
    post_max_size: Many
    nms_min_radius: NonNegativeFloat
    use_velocity: bool = True
    # What training alone reads.
    max_objs: Any = None
    min_radius: Any = None
    gaussian_overlap: Any = None
    loss_bbox_weight: Any = None
    heatmap_init_bias: Any = None


class _PointPillarPreprocessor(_Part):
    voxel_size: Side
    point_cloud_range: Box
    max_num_points: Few
    max_voxels: Many
    eval_max_voxels: Many | None = None


_PARTS: dict[str, type[_Part]] = {
    "pts_voxel_encoder": _PillarFeatureNet,
    "pts_middle_encoder": _PointPillarsScatter,
    "pts_backbone": _SECONDBackbone,
    "pts_neck": _SECONDFPN,
    "bbox_head": _CenterHead,
}
_MODEL = "CenterPointDetectionModel"


def load_autoware_ml_config(path: Path) -> Any:
    """Reads a config of autoware-ml: a file of its tree, or the `resolved.yaml` that its runs leave.

    Args:
        path: A YAML file.

    Returns:
        An `mmengine.Config` of the same network, decode and frames, as this project's own configs have them.

    Raises:
        ConfigError: a file is missing or broken (`base.composed_yaml`), it is of another model, a part or an argument
            is not known here, or parts contradict each other; names file, place and value.
    """
    composed = compose_yaml(path, "Model config")
    environment = {DATA_VARIABLE: os.environ.get(DATA_VARIABLE) or UNSET_FOLDER}
    references = References(composed.values, path, environment)
    _require_target(references, ("model",), _MODEL, path, "the model")
    parts = {name: _part(references, ("model", name), kind, path) for name, kind in _PARTS.items()}
    pillars = _preprocessor(references, path)
    head: Any = parts["bbox_head"]
    _check_agreement(parts, pillars, path)
    config = require("mmengine.config", "to hold a model config")
    values = {
        "name": path.stem,
        "default_scope": "mmdet3d",
        "model": _model(parts, pillars),
        "onnx_stamps": onnx_stamps(references, path),
        **data_settings(references, head.class_names, path),
    }
    _logger.info("%s is a config of autoware-ml, read from %d files", path, len(composed.files))
    return config.Config(values, filename=str(path))


def _require_target(references: References, place: Sequence[str | int], wanted: str, path: Path, what: str) -> None:
    target = references.value(*place, "_target_") if references.holds(*place, "_target_") else None
    if isinstance(target, str) and target.startswith(_PACKAGE) and target.rpartition(".")[2] == wanted:
        return
    where = ".".join(map(str, place))
    said = "is missing" if target is None else f"is {shown(target)}"
    raise ConfigError(
        f"{path}: {where}._target_ {said}; {what} must be a '{wanted}' of autoware_ml to be deployed: no other is "
        "known here, and no code of a config is run."
    )


def _part(references: References, place: Sequence[str | int], kind: type[_Part], path: Path) -> Any:
    _require_target(references, place, kind.__name__.removeprefix("_"), path, ".".join(map(str, place)))
    return parse(kind, _arguments(references.value(*place)), file=path, at=place, error=ConfigError, remedy=_REMEDY)


def _arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without Hydra's own (`_target_`, `_convert_`, …)."""
    return {key: value for key, value in values.items() if not (key.startswith("_") and key.endswith("_"))}


def _preprocessor(references: References, path: Path) -> Any:
    """The one step that makes pillars."""
    steps = references.value("data_preprocessing", "pipeline")
    if not isinstance(steps, list) or len(steps) != 1:
        raise ConfigError(
            f"{path}: data_preprocessing.pipeline is {shown(steps)}, but must be one PointPillarPreprocessor: other "
            "steps change what enters the network and are not known here."
        )
    return _part(references, ("data_preprocessing", "pipeline", 0), _PointPillarPreprocessor, path)


def _check_agreement(parts: Mapping[str, Any], pillars: _PointPillarPreprocessor, path: Path) -> None:
    """What its classes are each told for themselves; `models.validity` compares the rest."""
    head, encoder = parts["bbox_head"], parts["pts_voxel_encoder"]
    for name in ("voxel_size", "point_cloud_range"):
        said = {f"model.{part}": getattr(parts[part], name) for part in ("pts_voxel_encoder", "bbox_head")}
        for place, value in said.items():
            if value != getattr(pillars, name):
                raise ConfigError(
                    f"{path}: {place}.{name} is {list(value)}, but data_preprocessing says "
                    f"{list(getattr(pillars, name))}. Give both the same."
                )
    if head.num_classes != len(head.class_names):
        raise ConfigError(
            f"{path}: model.bbox_head.num_classes is {head.num_classes}, but class_names has {len(head.class_names)}: "
            f"{shown(list(head.class_names))}. Correct one of them."
        )
    flow = (
        ("pts_middle_encoder.in_channels", parts["pts_middle_encoder"].in_channels, encoder.feat_channels[-1]),
        ("pts_backbone.in_channels", parts["pts_backbone"].in_channels, encoder.feat_channels[-1]),
        ("pts_neck.in_channels", parts["pts_neck"].in_channels, parts["pts_backbone"].out_channels),
        ("bbox_head.in_channels", head.in_channels, sum(parts["pts_neck"].out_channels)),
    )
    uneven = [stride for stride in parts["pts_neck"].upsample_strides if stride >= 1 and not stride.is_integer()]
    if uneven:
        raise ConfigError(
            f"{path}: model.pts_neck.upsample_strides has {uneven[0]:g}; strides of 1 and more must be whole numbers."
        )
    for place, found, wanted in flow:
        if found != wanted:
            raise ConfigError(f"{path}: model.{place} is {shown(found)}, but the part before it gives {shown(wanted)}.")


def _model(parts: Mapping[str, Any], pillars: _PointPillarPreprocessor) -> dict[str, Any]:
    """`model` of an mmdet3d config."""
    encoder, scatter, backbone, neck, head = (parts[name] for name in _PARTS)
    most = (pillars.max_voxels, pillars.eval_max_voxels or pillars.max_voxels)
    branches = {"reg": 2, "height": 1, "dim": 3, "rot": 2, **({"vel": 2} if head.use_velocity else {})}
    limits, size = list(head.point_cloud_range), list(head.voxel_size)
    return {
        "type": "CenterPoint",
        "data_preprocessor": {
            "type": "Det3DDataPreprocessor",
            "voxel": True,
            "voxel_layer": {
                "max_num_points": pillars.max_num_points,
                "point_cloud_range": list(pillars.point_cloud_range),
                "voxel_size": list(pillars.voxel_size),
                "max_voxels": most,
                "deterministic": True,
            },
        },
        "pts_voxel_encoder": {
            "type": "PillarFeatureNet",
            **_plain(encoder),
            "norm_cfg": {"type": "BN1d", **_NORM},
            "legacy": False,
        },
        "pts_middle_encoder": {"type": "PointPillarsScatter", **_plain(scatter)},
        "pts_backbone": {
            "type": "SECOND",
            **_plain(backbone),
            "norm_cfg": {"type": "BN", **_NORM},
            "conv_cfg": {"type": "Conv2d", "bias": False},
        },
        "pts_neck": {
            "type": "SECONDFPN",
            **_plain(neck),
            # They become sizes of kernels.
            "upsample_strides": [int(stride) if stride >= 1 else stride for stride in neck.upsample_strides],
            "norm_cfg": {"type": "BN", **_NORM},
            "upsample_cfg": {"type": "deconv", "bias": False},
            "use_conv_for_no_stride": False,
        },
        "pts_bbox_head": {
            "type": "CenterHead",
            "in_channels": head.in_channels,
            "tasks": [{"num_class": len(head.class_names), "class_names": list(head.class_names)}],
            "common_heads": {name: (channels, 2) for name, channels in branches.items()},
            "share_conv_channel": head.shared_channels,
            "bbox_coder": {
                "type": "CenterPointBBoxCoder",
                "pc_range": limits[:2],
                "out_size_factor": head.out_size_factor,
                "voxel_size": size[:2],
                "post_center_range": list(_ANYWHERE),
                "max_num": head.post_max_size,
                "score_threshold": head.score_threshold,
                "code_size": 9 if head.use_velocity else 7,
            },
            "separate_head": {
                "type": "WideSeparateHead",
                "head_conv": head.shared_channels,
                "init_bias": -2.19,
                "norm_cfg": {"type": "BN2d", **_NORM},
            },
            "norm_cfg": {"type": "BN2d", **_NORM},
            "norm_bbox": True,
        },
        "train_cfg": None,
        "test_cfg": {
            "pts": {
                "decoding": CLASS_PEAKS,
                "nms_type": "circle",
                # mmdet3d compares the squared distance.
                "min_radius": [head.nms_min_radius**2],
                "post_max_size": head.post_max_size,
                "score_threshold": head.score_threshold,
                "post_center_limit_range": list(_ANYWHERE),
                "max_per_img": head.post_max_size,
                "out_size_factor": head.out_size_factor,
                "voxel_size": size[:2],
            }
        },
    }


def _plain(part: _Part) -> dict[str, Any]:
    """Arguments of an mmdet3d module of the same names."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in part.model_dump().items()}
