"""README.md of a bundle: what it is, what it was made of, which thresholds it has and why."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from autoware.yaml_file import CONTRACT_VERSION
from base.files import sha256_file
from base.manifests import read_manifest
from base.messages import printable
from runtime.autoware_params import DEFAULT_SCORE_THRESHOLD, NODE_CLASS_LABELS, node_class_names

if TYPE_CHECKING:
    from autoware.thresholds import MeasuredThreshold, ScoreThresholds
    from models.spec import ModelSpec

__all__ = ["bundle_readme"]


def bundle_readme(
    folder: Path,
    spec: ModelSpec,
    facts: Mapping[str, str],
    trt_precision: str,
    thresholds: ScoreThresholds,
    manifest: Path,
) -> str:
    """Text of the README; equal bundles have equal ones.

    Args:
        folder: The bundle so far; its files are listed with their checksums.
        spec: Of the model.
        facts: Metadata of its ONNX files.
        trt_precision: As in the parameter file.
        thresholds: As in the parameter file.
        manifest: Of the export; left out of the README where it does not exist.
    """
    sections = [
        _head(spec, facts, trt_precision),
        _files(folder),
        _provenance(spec, facts, manifest),
        _thresholds(spec, thresholds),
        _limits(spec, trt_precision),
    ]
    return "\n".join(sections)


def _head(spec: ModelSpec, facts: Mapping[str, str], trt_precision: str) -> str:
    text = f"""# {spec.name}, {facts["precision"].upper()}, for Autoware

A model for `autoware_lidar_centerpoint`, contract {CONTRACT_VERSION}.
Build the engines once on the vehicle's GPU, then start the node:

    ros2 launch autoware_lidar_centerpoint lidar_centerpoint.launch.xml model_path:=$PWD build_only:=true
    ros2 launch autoware_lidar_centerpoint lidar_centerpoint.launch.xml model_path:=$PWD

`trt_precision` is `{trt_precision}`.
"""
    if not facts["weights"].startswith("sha256"):
        text += f"\n**The weights are drawn ({facts['weights']}), not trained: for measuring time, not for driving.**\n"
    return text


def _files(folder: Path) -> str:
    rows = "".join(
        f"| {path.name} | {path.stat().st_size} | `{sha256_file(path)}` |\n" for path in sorted(folder.iterdir())
    )
    return f"## Files\n\n| file | bytes | sha256 |\n|---|---|---|\n{rows}"


def _provenance(spec: ModelSpec, facts: Mapping[str, str], manifest: Path) -> str:
    rows = [("weights", facts["weights"]), ("specification", f"sha256 {spec.fingerprint()}")]
    if manifest.is_file():
        content = read_manifest(manifest, "Export again, or remove it.")
        rows += [
            (printable(role.replace("_", " ")), f"{printable(entry.file)}, sha256 {entry.sha256}")
            for role, entry in sorted(content.inputs.items())
        ]
        made = {name: version for name, version in sorted(content.versions.items()) if version}
        versions = ", ".join(printable(f"{name} {version}") for name, version in made.items())
        rows.append(("exported with", versions))
    table = "".join(f"| {name} | {value} |\n" for name, value in rows)
    width, height = spec.grid_size
    return f"""## Made of

| | |
|---|---|
{table}
Grid {width} × {height}, heatmap {spec.head_size[0]} × {spec.head_size[1]},
at most {spec.max_voxels} pillars of {spec.max_points_per_voxel} points, {spec.encoder_in_features} features a point.
Yaw is clockwise from the y axis and sizes are width, length, height, folded into the last convolutions.
"""


def _thresholds(spec: ModelSpec, thresholds: ScoreThresholds) -> str:
    bins = thresholds.distance_bins_m
    edges = (0.0, *bins)
    titles = " | ".join(f"{low:g}–{high:g} m" for low, high in pairwise(edges))
    rows = "".join(
        f"| {name} | {' | '.join(_cell(item) for item in row)} | {DEFAULT_SCORE_THRESHOLD:g} |\n"
        for name, row in zip(node_class_names(spec.class_names), thresholds.rows, strict=True)
    )
    how = (
        f"Confidence with the largest F1, measured on {thresholds.source}; in brackets F1, precision, recall and the "
        f"number of objects. The node's usual threshold is {DEFAULT_SCORE_THRESHOLD}; it stands, in *italics*, where "
        "there were too few objects to measure."
        if thresholds.source
        else f"The node's usual threshold of {DEFAULT_SCORE_THRESHOLD} for everything: no detections were given to "
        "measure others."
    )
    return f"## Score thresholds\n\n{how}\n\n| class | {titles} | usual |\n|---|{'---|' * len(bins)}---|\n{rows}"


def _cell(item: MeasuredThreshold) -> str:
    if not item.measured:
        return f"*{item.value:g}*" + (f" ({item.num_ground_truth})" if item.num_ground_truth else "")
    return f"{item.value:.4f} ({item.max_f1:.2f}, {item.precision:.2f}, {item.recall:.2f}, {item.num_ground_truth})"


def _limits(spec: ModelSpec, trt_precision: str) -> str:
    lines = [
        "The node drops points at random where a pillar has more than 32, so that two runs may differ.",
        "It keeps one class a cell and has no limit on the number of boxes: mAP of the training framework is not "
        "what the vehicle sees. `runtime.autoware_postprocess` decodes as the node does.",
    ]
    if spec.encoder_in_features == 11:
        lines.append(
            "The model reads intensity: it must be scaled in the vehicle as it was in training (the node takes 0 to "
            "255)."
        )
    if trt_precision == "strongly-typed":
        lines.append(
            "`strongly-typed` needs an autoware_tensorrt_common of August 2026 or newer. Its schema file does not list "
            "the value yet; the node passes it on."
        )
    unknown = [name for name in node_class_names(spec.class_names) if name not in NODE_CLASS_LABELS]
    if unknown:
        lines.append(f"The node publishes {', '.join(unknown)} as UNKNOWN.")
    return "## Good to know\n\n" + "".join(f"* {line}\n" for line in lines)
