"""A folder that Autoware's lidar_centerpoint loads; `deploy.autoware_bundle` is the command.

Two ONNX files, two parameter files and a README. Everything in them follows from the ONNX files, which carry their
model's specification, and from measured detections where they are given: the same input gives the same bytes.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from autoware.contract import require_bundle
from autoware.graphs import NODE_ENCODER_CHANNELS, NODE_POINTS_PER_VOXEL, node_grid
from autoware.readme import bundle_readme
from autoware.thresholds import (
    ScoreThresholds,
    default_thresholds,
)
from autoware.yaml_file import ML_PACKAGE, REMAPPER, ml_package_yaml, remapper_yaml
from base.errors import ExportError
from base.files import atomic_dir
from base.manifests import require_as_made
from base.onnx_files import read_onnx
from export.onnx_graph import metadata
from models.point_columns import NODE_COLUMNS
from models.spec import BACKBONE_NECK_HEAD, HEAD_ORDER, VOXEL_ENCODER, ModelSpec
from runtime.autoware_params import AutowareDecodeParams

if TYPE_CHECKING:
    import onnx

__all__ = ["require_runnable", "write_bundle"]

# Columns of a point and dimensions of the pillar centre that the node's kernels assemble: 9, 10 and 11 features.
_NODE_FEATURES = ((NODE_COLUMNS[0], 2), (NODE_COLUMNS[0], 3), (NODE_COLUMNS[1], 3))
_PRECISION = {"fp32": "fp32", "fp16": "fp16", "int8": "strongly-typed"}
_COMPONENTS = (VOXEL_ENCODER, BACKBONE_NECK_HEAD)


def write_bundle(
    onnx_dir: str | Path,
    out: str | Path,
    thresholds: ScoreThresholds | None = None,
    trt_precision: str | None = None,
) -> Path:
    """Writes a bundle of exported components and holds it against the contract.

    Args:
        onnx_dir: Folder with both components, exported with `rot_y_axis_reference` and `static_voxels`.
        out: The bundle; an earlier one is replaced as a whole, or untouched where anything fails.
        thresholds: Score thresholds; the node's default where left out.
        trt_precision: What the node builds engines with; follows from the graphs where left out.

    Returns:
        `out`.

    Raises:
        ConfigError: at `out` is what must not be replaced (`base.folders`).
        ExportError: an ONNX file is missing or not this project's, the node cannot run such a model, or the bundle
            breaks the contract.
    """
    source, out = Path(onnx_dir), Path(out)
    models = {name: read_onnx(source / f"{name}.onnx") for name in _COMPONENTS}
    spec, facts = _facts(models, source)
    remedy = "Export both components again."
    require_as_made(source, [f"{name}.onnx" for name in _COMPONENTS], "onnx", remedy)
    require_runnable(spec, source)
    thresholds = thresholds or default_thresholds(spec)
    params = AutowareDecodeParams.from_spec(spec, thresholds.values, thresholds.distance_bins_m)
    precision = trt_precision or _PRECISION.get(facts["precision"], facts["precision"])
    with atomic_dir(out, [source]) as folder:
        for name in _COMPONENTS:
            shutil.copyfile(source / f"{name}.onnx", folder / f"{name}.onnx")
        (folder / ML_PACKAGE).write_text(ml_package_yaml(spec, params, precision), encoding="utf-8")
        (folder / REMAPPER).write_text(remapper_yaml(params.remapping), encoding="utf-8")
        readme = bundle_readme(folder, spec, facts, precision, thresholds, source / "manifest.json")
        (folder / "README.md").write_text(readme, encoding="utf-8")
        require_bundle(folder)
    return out


def _facts(models: dict[str, onnx.ModelProto], source: Path) -> tuple[ModelSpec, dict[str, str]]:
    """The specification that both files agree on, and the head's metadata."""
    entries = {name: metadata(model) for name, model in models.items()}
    for name, entry in entries.items():
        missing = sorted({"spec", "precision", "weights"} - set(entry))
        if missing:
            raise ExportError(
                f"'{source / name}.onnx' does not say what it is (no {', '.join(missing)} in its metadata); export it "
                "with export.tools.export_onnx."
            )
    encoder, head = (entries[name] for name in _COMPONENTS)
    for key in ("spec_sha256", "weights", "quantized_weights", "precision", "float_precision"):
        if encoder.get(key) != head.get(key):
            raise ExportError(
                f"The components in '{source}' do not belong together: {key} of {VOXEL_ENCODER} is "
                f"{encoder.get(key)}, of {BACKBONE_NECK_HEAD} {head.get(key)}. Export both at once."
            )
    return ModelSpec.from_json(head["spec"], f"{source / BACKBONE_NECK_HEAD}.onnx"), head


def require_runnable(spec: ModelSpec, source: Path) -> None:
    """What the node has built in, before anything is written.

    Args:
        spec: Of the exported model.
        source: Its folder of ONNX files, or its config, for messages.

    Raises:
        ExportError: the node cannot run such a model; the message says why.
    """
    problems = []
    if not spec.rot_y_axis_reference:
        problems.append("yaw counter-clockwise from x; export with --rot-y-axis-reference")
    if spec.max_points_per_voxel != NODE_POINTS_PER_VOXEL:
        problems.append(f"{spec.max_points_per_voxel} points a pillar; the node has {NODE_POINTS_PER_VOXEL} built in")
    if spec.encoder_channels != NODE_ENCODER_CHANNELS:
        problems.append(f"{spec.encoder_channels} encoder channels; the node has {NODE_ENCODER_CHANNELS} built in")
    if not spec.has_usual_decoration:
        problems.append(f"an encoder of {spec.decoration}; the node feeds points with both offsets")
    elif (spec.point_columns, spec.voxel_center_dims) not in _NODE_FEATURES:
        problems.append(
            f"{spec.point_features} point columns ({', '.join(spec.point_columns)}) with {spec.voxel_center_dims} "
            f"centre offsets; the node feeds {', '.join(NODE_COLUMNS[0])} with 2 or 3 of them, and "
            f"{', '.join(NODE_COLUMNS[1])} with 3"
        )
    heads = tuple(head.name for head in spec.heads)
    if len(spec.tasks) != 1:
        problems.append(
            f"{len(spec.tasks)} tasks with a head each; the node binds the {len(HEAD_ORDER)} outputs of one head by "
            "position, and suppresses across all of its classes"
        )
    elif heads != HEAD_ORDER:
        problems.append(f"outputs {list(heads)}; the node binds {list(HEAD_ORDER)}")
    if not spec.norm_bbox:
        problems.append("sizes in metres (norm_bbox=False); the node takes them for logarithms")
    grid = node_grid(list(spec.point_cloud_range), list(spec.voxel_size))
    if grid != spec.grid_size:
        problems.append(f"a grid of {spec.grid_size}; the node counts {grid} in float32 and cuts the fraction off")
    if problems:
        raise ExportError(
            f"Autoware's lidar_centerpoint cannot run model '{spec.name}' of '{source}': it has "
            f"{'; it has '.join(problems)}."
        )
