"""A bundle's parameter files as the values that the node decodes with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoware.contract import SCORES_KEY, read_parameters, require_bundle
from autoware.yaml_file import ML_PACKAGE
from base.errors import ConfigError, ExportError
from models.spec import ModelSpec
from runtime.autoware_params import AUTOWARE_LABELS, AreaRemapping, AutowareDecodeParams, node_class_names

__all__ = ["decode_params_of_bundle"]


def decode_params_of_bundle(folder: str | Path, spec: ModelSpec) -> AutowareDecodeParams:
    """Reads a bundle that keeps the contract.

    Args:
        folder: The bundle.
        spec: Of the model that is decoded; its classes must be the bundle's.

    Raises:
        ExportError: it is no bundle, or breaks the contract.
        ConfigError: it is of other classes than the model.
    """
    require_bundle(folder)
    values = _read(Path(folder), ML_PACKAGE)
    names = tuple(values["model_params.class_names"])
    expected = node_class_names(spec.class_names)
    if names != expected:
        raise ConfigError(f"Bundle '{folder}' is of classes {list(names)}; model '{spec.name}' has {list(expected)}.")
    remapper = _read(Path(folder), values["class_remapper_param_path"])
    matrices = (_square(remapper[f"{key}_matrix"]) for key in ("allow_remapping_by_area", "min_area", "max_area"))
    return AutowareDecodeParams(
        class_names=names,
        distance_bins_m=tuple(values["model_params.detection_score_thresholds.distance_bin_upper_limits"]),
        score_thresholds=tuple(tuple(values[f"{SCORES_KEY}.{name}"]) for name in names),
        yaw_norm_thresholds=tuple(values["model_params.yaw_norm_thresholds"]),
        has_twist=values["model_params.has_twist"],
        remapping=AreaRemapping(*matrices),
    )


def _read(folder: Path, name: str) -> dict[str, Any]:
    values, violations = read_parameters(folder, name)
    if values is None:
        raise ExportError(str(violations[0]))
    return values


def _square(values: list[Any]) -> tuple[tuple[Any, ...], ...]:
    size = len(AUTOWARE_LABELS)
    return tuple(tuple(values[row * size : (row + 1) * size]) for row in range(size))
