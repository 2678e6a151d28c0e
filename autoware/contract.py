"""What Autoware's lidar_centerpoint asks of a bundle (contract v4.1), checked without ROS, TensorRT or a GPU.

The node checks little before it builds engines, and some mistakes it never notices. A violation says which of the two
would happen: the node stops, or it starts and sees something else than the model does.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoware.graphs import check_graphs
from autoware.yaml_file import ML_PACKAGE
from base.documents import read_yaml
from base.errors import DataError, ExportError
from base.messages import printable, shown
from base.parsing import RelativePath, parse
from runtime.autoware_params import AUTOWARE_LABELS, NODE_CLASS_LABELS

__all__ = ["SCORES_KEY", "Violation", "check_bundle", "read_parameters", "require_bundle"]

STOPS, MISLEADS = "the node stops", "the node starts and misleads"

# Key -> type, as the node declares it. ROS does not turn one into another, an integer into a double least of all.
_PACKAGE_KEYS = {
    "version": "string",
    "encoder_onnx_path": "string",
    "encoder_engine_path": "string",
    "head_onnx_path": "string",
    "head_engine_path": "string",
    "class_remapper_param_path": "string",
    "trt_precision": "string",
    "model_params.class_names": "list of strings",
    "model_params.has_twist": "boolean",
    "model_params.point_feature_size": "integer",
    "model_params.has_variance": "boolean",
    "model_params.max_voxel_size": "integer",
    "model_params.point_cloud_range": "list of doubles",
    "model_params.voxel_size": "list of doubles",
    "model_params.downsample_factor": "integer",
    "model_params.encoder_in_feature_size": "integer",
    "model_params.yaw_norm_thresholds": "list of doubles",
    "model_params.detection_score_thresholds.distance_bin_upper_limits": "list of doubles",
}
SCORES_KEY = "model_params.detection_score_thresholds.min_confidence_scores"
_REMAPPER_KEYS = {
    "allow_remapping_by_area_matrix": "list of integers",
    "min_area_matrix": "list of doubles",
    "max_area_matrix": "list of doubles",
}
_VERSION = re.compile(r"v?([0-9]{1,9})\.([0-9]{1,9})")
_MAJOR, _MIN_MINOR = 4, 1
_MAX_INTEGER = 2**63 - 1
_MAX_CELLS = 1 << 14
# Parameters that name files, relative to the bundle.
_FILE_KEYS = (
    "encoder_onnx_path",
    "encoder_engine_path",
    "head_onnx_path",
    "head_engine_path",
    "class_remapper_param_path",
)
_PRECISIONS = ("fp32", "fp16", "strongly-typed")
# Width of the encoder's input -> columns of a point, as the node's kernels assemble it.
_POINT_COLUMNS = {9: 4, 10: 4, 11: 5}


@dataclass(frozen=True)
class Violation:
    """One thing that is wrong with a bundle.

    Attributes:
        file: Name within the bundle.
        problem: What is wrong, with the value, and what is right.
        effect: What the node would do about it.
        key: Of the parameter that it is about; empty for the file.
    """

    file: str
    problem: str
    effect: str = STOPS
    key: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.problem} ({self.effect})"


def check_bundle(folder: str | Path) -> tuple[Violation, ...]:
    """Everything that keeps the node from starting with a bundle, or lets it start wrongly; empty for a good one.

    Args:
        folder: What the node is given as `model_path`.
    """
    folder = Path(folder)
    values, found = read_parameters(folder, ML_PACKAGE)
    if values is None:
        return tuple(found)
    names = values.get("model_params.class_names")
    keys = dict(_PACKAGE_KEYS)
    if isinstance(names, list) and _type_of(names) == "list of strings":
        keys |= {f"{SCORES_KEY}.{name}": "list of doubles" for name in names}
    found += _check_types(values, keys, ML_PACKAGE)
    found += _check_names(folder, values)
    broken = {violation.key for violation in found}
    good = {key: value for key, value in values.items() if key in keys and key not in broken}
    found += _check_package(good)
    remapper = good.get("class_remapper_param_path")
    if remapper is not None:
        found += _check_remapper(folder, remapper)
    unusable = {violation.key for violation in found if violation.effect == STOPS}
    good = {key: value for key, value in good.items() if key not in unusable}
    found += [Violation(*item) for item in check_graphs(folder, good)]
    return tuple(found)


def read_parameters(folder: Path, name: str) -> tuple[dict[str, Any] | None, list[Violation]]:
    """Dotted key -> value of a ROS parameter file of a bundle; None, and why, where it has none."""
    if not (folder / name).is_file():
        return None, [Violation(name, f"the file '{name}' does not exist in {folder}")]
    try:
        document = read_yaml(folder / name)
    except DataError as error:
        return None, [Violation(name, f"the file '{name}' is not YAML that the node reads: {error}")]
    inner = document.get("/**") if isinstance(document, dict) else None
    parameters = inner.get("ros__parameters") if isinstance(inner, dict) else None
    if not isinstance(parameters, dict):
        return None, [Violation(name, f"the file '{name}' must hold its parameters below '/**': 'ros__parameters':")]
    return _flat(parameters), []


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _check_names(folder: Path, values: dict[str, Any]) -> list[Violation]:
    """Files that the parameters name lie in the bundle."""
    found = []
    for key in _FILE_KEYS:
        name = values.get(key)
        try:
            if isinstance(name, str):
                parse(RelativePath, name, file=ML_PACKAGE, at=(key,))
                os.stat(folder / name)
        except FileNotFoundError:
            pass  # which is said where the file is read
        except (DataError, OSError):
            problem = f"'{key}' is {shown(name)}; it must name a file of the bundle"
            found.append(Violation(ML_PACKAGE, problem, STOPS, key))
    return found


def _type_of(value: Any) -> str:
    if isinstance(value, list):
        inner = {_type_of(item) for item in value}
        return f"list of {inner.pop()}s" if len(inner) == 1 else "empty list" if not value else "mixed list"
    names = {bool: "boolean", int: "integer", float: "double", str: "string"}
    return names.get(type(value), type(value).__name__)


def _check_types(values: dict[str, Any], keys: dict[str, str], file: str) -> list[Violation]:
    found = [
        Violation(file, f"'{key}' is missing; it must be a {kind}", STOPS, key)
        for key, kind in keys.items()
        if key not in values
    ]
    for key, value in values.items():
        name, text = f"'{printable(key)}'", shown(value)
        if key not in keys:
            found.append(Violation(file, f"{name} is no parameter of the node, which ignores it", MISLEADS, key))
        elif _type_of(value) != keys[key]:
            found.append(
                Violation(file, f"{name} is a {_type_of(value)} ({text}); it must be a {keys[key]}", STOPS, key)
            )
        elif any(isinstance(item, float) and not math.isfinite(item) for item in _items(value)):
            found.append(Violation(file, f"{name} has a NaN or infinite number ({text})", MISLEADS, key))
        elif any(isinstance(item, int) and abs(item) > _MAX_INTEGER for item in _items(value)):
            found.append(Violation(file, f"{name} has a number of more than 64 bits ({text})", STOPS, key))
    return found


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_package(values: dict[str, Any]) -> list[Violation]:
    """Values of keys that are there with the right type."""
    found: list[Violation] = []

    def add(key: str, problem: str, effect: str = STOPS) -> None:
        found.append(Violation(ML_PACKAGE, f"'{key}' {problem}", effect, key))

    version = values.get("version")
    if version is not None:
        match = _VERSION.fullmatch(version)
        if match is None:
            add("version", f"is {shown(version)}; it must look like 'v4.1'")
        elif int(match[1]) != _MAJOR or int(match[2]) < _MIN_MINOR:
            add("version", f"is '{version}'; this node reads v{_MAJOR}.{_MIN_MINOR} and newer of version {_MAJOR}")
    precision = values.get("trt_precision")
    if precision is not None and precision not in _PRECISIONS:
        add("trt_precision", f"is {shown(precision)}; it must be one of {', '.join(_PRECISIONS)}")

    names = values.get("model_params.class_names")
    if names is not None:
        if len(set(names)) != len(names):
            add("model_params.class_names", f"names a class twice: {shown(names)}")
        unknown = [name for name in names if name not in NODE_CLASS_LABELS]
        if unknown:
            known = ", ".join(NODE_CLASS_LABELS)
            add("model_params.class_names", f"has {shown(unknown)}, published as UNKNOWN; known are {known}", MISLEADS)
    for key, length in (("point_cloud_range", 6), ("voxel_size", 3)):
        value = values.get(f"model_params.{key}")
        if value is not None and len(value) != length:
            add(
                f"model_params.{key}",
                f"has {len(value)} numbers, not {length}; the node takes its own default",
                MISLEADS,
            )
    for key in ("max_voxel_size", "downsample_factor"):
        value = values.get(f"model_params.{key}")
        if value is not None and value < 1:
            add(f"model_params.{key}", f"is {value}; it must be at least 1")
    limits, size = values.get("model_params.point_cloud_range"), values.get("model_params.voxel_size")
    if limits is not None and size is not None and (len(limits), len(size)) == (6, 3):
        cells = [(limits[axis + 3] - limits[axis]) / size[axis] if size[axis] else math.inf for axis in range(2)]
        if not all(1 <= count <= _MAX_CELLS for count in cells):
            add(
                "model_params.voxel_size",
                f"is {size}, which makes {cells[0]:g} x {cells[1]:g} cells of the range {limits}; each must be 1 to "
                f"{_MAX_CELLS}",
            )
    _check_features(values, add)
    _check_thresholds(values, names, add)
    return found


def _check_features(values: dict[str, Any], add: Any) -> None:
    columns = values.get("model_params.point_feature_size")
    width = values.get("model_params.encoder_in_feature_size")
    if width is not None and width not in _POINT_COLUMNS:
        add("model_params.encoder_in_feature_size", f"is {width}; the node makes 9, 10 or 11 features")
    elif width is not None and columns is not None and columns != _POINT_COLUMNS[width]:
        add(
            "model_params.point_feature_size",
            f"is {columns}, but an encoder of {width} features takes points of {_POINT_COLUMNS[width]} columns",
            MISLEADS,
        )
    if values.get("model_params.has_variance"):
        add("model_params.has_variance", "is true; this project's models have no variances to give")


def _check_thresholds(values: dict[str, Any], names: list[str] | None, add: Any) -> None:
    key = "model_params.yaw_norm_thresholds"
    yaw = values.get(key)
    if yaw is not None and names is not None and len(yaw) != len(names):
        add(key, f"has {len(yaw)} numbers for {len(names)} classes", MISLEADS)
    bins_key = "model_params.detection_score_thresholds.distance_bin_upper_limits"
    bins = values.get(bins_key)
    if bins is not None and any(not low < high for low, high in zip([0.0, *bins], bins, strict=False)):
        add(bins_key, f"is {bins}; limits must be positive and ascending", MISLEADS)
    limits = values.get("model_params.point_cloud_range")
    if bins and limits is not None and len(limits) == 6:
        corner = math.hypot(max(-limits[0], limits[3]), max(-limits[1], limits[4]))
        if bins[-1] < corner:
            add(bins_key, f"ends at {bins[-1]:g} m, but the grid reaches {corner:.1f} m: detections are lost", MISLEADS)
    for score_key, row in values.items():
        if not score_key.startswith(f"{SCORES_KEY}."):
            continue
        if bins is not None and len(row) != len(bins):
            add(score_key, f"has {len(row)} thresholds for {len(bins)} distance bins")
    rows = {key: yaw or []} | {name: row for name, row in values.items() if name.startswith(f"{SCORES_KEY}.")}
    for name, row in rows.items():
        wrong = [value for value in row if not 0.0 <= value < 1.0]
        if wrong:
            add(name, f"has {wrong[0]}; outside [0, 1) the node takes 0, which lets everything pass", MISLEADS)


def _check_remapper(folder: Path, name: str) -> list[Violation]:
    values, found = read_parameters(folder, name)
    if values is None:
        return found
    found += _check_types(values, _REMAPPER_KEYS, name)
    size = len(AUTOWARE_LABELS) ** 2
    for key in _REMAPPER_KEYS:
        value = values.get(key)
        if isinstance(value, list) and len(value) != size:
            found.append(
                Violation(name, f"'{key}' has {len(value)} numbers; {len(AUTOWARE_LABELS)} labels need {size}")
            )
    allow = values.get("allow_remapping_by_area_matrix")
    if _type_of(allow) == "list of integers" and isinstance(allow, list) and not set(allow) <= {0, 1}:
        found.append(
            Violation(
                name, f"'allow_remapping_by_area_matrix' holds {max(allow)}; only 0 and 1 mean something", MISLEADS
            )
        )
    return found


def require_bundle(folder: str | Path) -> None:
    """Raises an `ExportError` that lists every violation of a bundle."""
    found = check_bundle(folder)
    if found:
        raise ExportError(
            f"'{folder}' is no bundle that Autoware's lidar_centerpoint can use:\n"
            + "\n".join(f"  {violation}" for violation in found)
        )
