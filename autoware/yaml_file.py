"""The two parameter files of a bundle for Autoware's lidar_centerpoint, contract v4.1."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from base.errors import ExportError
from models.spec import BACKBONE_NECK_HEAD, VOXEL_ENCODER
from runtime.autoware_params import AUTOWARE_LABELS, AreaRemapping, AutowareDecodeParams

if TYPE_CHECKING:
    from models.spec import ModelSpec

__all__ = ["CONTRACT_VERSION", "ML_PACKAGE", "REMAPPER", "ml_package_yaml", "remapper_yaml"]

CONTRACT_VERSION = "v4.1"
ML_PACKAGE = "ml_package.param.yaml"
REMAPPER = "detection_class_remapper.param.yaml"


def ml_package_yaml(spec: ModelSpec, params: AutowareDecodeParams, trt_precision: str) -> str:
    """Text of `ml_package.param.yaml`: everything that the node must know of the model.

    Args:
        spec: Of the exported model.
        params: Thresholds, by class and distance.
        trt_precision: "fp32", "fp16" or "strongly-typed".
    """
    scores = "".join(
        f"          {name}: {_floats(row)}\n"
        for name, row in zip(params.class_names, params.score_thresholds, strict=True)
    )
    return f"""/**:
  ros__parameters:
    version: {_text(CONTRACT_VERSION)}
    encoder_onnx_path: {_text(VOXEL_ENCODER + ".onnx")}
    encoder_engine_path: {_text(VOXEL_ENCODER + ".engine")}
    head_onnx_path: {_text(BACKBONE_NECK_HEAD + ".onnx")}
    head_engine_path: {_text(BACKBONE_NECK_HEAD + ".engine")}
    class_remapper_param_path: {_text(REMAPPER)}
    trt_precision: {_text(trt_precision)}
    model_params:
      class_names: [{", ".join(_text(name) for name in params.class_names)}]
      has_twist: {_boolean(params.has_twist)}
      point_feature_size: {spec.point_features}
      has_variance: false
      max_voxel_size: {spec.max_voxels}
      point_cloud_range: {_floats(spec.point_cloud_range)}
      voxel_size: {_floats(spec.voxel_size)}
      downsample_factor: {spec.out_size_factor}
      encoder_in_feature_size: {spec.encoder_in_features}
      yaw_norm_thresholds: {_floats(params.yaw_norm_thresholds)}
      detection_score_thresholds:
        distance_bin_upper_limits: {_floats(params.distance_bins_m)}
        min_confidence_scores:
{scores}"""


def remapper_yaml(remapping: AreaRemapping) -> str:
    """Text of `detection_class_remapper.param.yaml`: three square matrices, row by row."""
    matrices = (
        ("allow_remapping_by_area_matrix", [[str(value) for value in row] for row in remapping.allow]),
        ("min_area_matrix", [[_float(value) for value in row] for row in remapping.min_area_m2]),
        ("max_area_matrix", [[_float(value) for value in row] for row in remapping.max_area_m2]),
    )
    text = "/**:\n  ros__parameters:\n    # Rows: from; columns: to. " + ", ".join(AUTOWARE_LABELS) + ". Areas in m².\n"
    for name, rows in matrices:
        lines = [", ".join(row) for row in rows]
        body = "".join(
            f"       {line}{',' if index + 1 < len(lines) else ''}  # {AUTOWARE_LABELS[index]}\n"
            for index, line in enumerate(lines)
        )
        text += f"    {name}:\n      [\n{body}      ]\n"
    return text


def _text(value: str) -> str:
    return json.dumps(value)


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _floats(values: Sequence[float]) -> str:
    return "[" + ", ".join(_float(value) for value in values) + "]"


def _float(value: float) -> str:
    """With a decimal point: ROS refuses an integer where a parameter is declared a double."""
    text = f"{value:.10g}"
    if "e" in text or "n" in text:
        raise ExportError(f"{value} cannot be written as a parameter: it is too small, too large or not a number.")
    return text if "." in text else text + ".0"
