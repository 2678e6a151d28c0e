"""The files of a bundle in tests: their names, how they are exported, their parameters read and changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from export.onnx_export import OnnxExportSettings
from models.spec import ModelSpec

PACKAGE, REMAPPER = "ml_package.param.yaml", "detection_class_remapper.param.yaml"
ENCODER, HEAD = "pts_voxel_encoder.onnx", "pts_backbone_neck_head.onnx"
SCORES = "model_params.detection_score_thresholds.min_confidence_scores"
BINS = "model_params.detection_score_thresholds.distance_bin_upper_limits"


def settings(spec: ModelSpec, **changes: Any) -> OnnxExportSettings:
    given: dict[str, Any] = {
        "precision": "fp16",
        "static_voxels": spec.max_voxels,
        "rot_y_axis_reference": True,
        "provenance": {"weights": "sha256 " + "0" * 64},
    }
    return OnnxExportSettings(**(given | changes))


def parameters(folder: Path, file: str = PACKAGE) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((folder / file).read_text())["/**"]["ros__parameters"]
    return values


def change(folder: Path, key: str, value: Any, file: str = PACKAGE) -> None:
    """Sets a dotted key; `...` removes it."""
    values = parameters(folder, file)
    node, *rest = values, *key.split(".")
    for part in rest[:-1]:
        node = node.setdefault(part, {})
    if value is ...:
        del node[rest[-1]]
    else:
        node[rest[-1]] = value
    (folder / file).write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}))
