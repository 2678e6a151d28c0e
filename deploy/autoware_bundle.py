"""A folder that Autoware's lidar_centerpoint loads: `python -m deploy.autoware_bundle --onnx-dir DIR --out BUNDLE`.

Two ONNX files, two parameter files and a README. Everything in them follows from the ONNX files, which carry their
model's specification, and from measured detections where they are given: the same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from base.command import EXIT_FAILED, EXIT_PASSED, add_log_level, run_command, run_main
from base.errors import ConfigError, ExportError
from base.files import atomic_dir, user_path
from base.folders import require_replaceable
from base.manifests import require_as_made
from base.onnx_files import read_onnx
from base.ownership import owned_name
from deploy.autoware_contract import check_bundle, require_bundle
from deploy.autoware_graphs import NODE_ENCODER_CHANNELS, NODE_POINTS_PER_VOXEL, node_grid
from deploy.autoware_readme import bundle_readme
from deploy.autoware_thresholds import (
    ScoreThresholds,
    default_thresholds,
    detections_of_results,
    measure_thresholds,
    require_same_model,
)
from deploy.autoware_yaml import ML_PACKAGE, REMAPPER, ml_package_yaml, remapper_yaml
from deploy.onnx_graph import metadata
from models.spec import BACKBONE_NECK_HEAD, HEAD_ORDER, VOXEL_ENCODER, ModelSpec
from runtime.autoware_params import AutowareDecodeParams

if TYPE_CHECKING:
    import onnx

__all__ = ["main", "write_bundle"]

# Columns of a point, dimensions of the pillar centre -> what the node's kernels assemble.
_NODE_FEATURES = {(4, 2): 9, (4, 3): 10, (5, 3): 11}
_PRECISION = {"fp32": "fp32", "fp16": "fp16", "int8": "strongly-typed"}
_COMPONENTS = (VOXEL_ENCODER, BACKBONE_NECK_HEAD)

_logger = logging.getLogger(__name__)


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
    _check_spec(spec, source)
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
                "with deploy.tools.export_onnx."
            )
    encoder, head = (entries[name] for name in _COMPONENTS)
    for key in ("spec_sha256", "weights", "quantized_weights", "precision", "float_precision"):
        if encoder.get(key) != head.get(key):
            raise ExportError(
                f"The components in '{source}' do not belong together: {key} of {VOXEL_ENCODER} is "
                f"{encoder.get(key)}, of {BACKBONE_NECK_HEAD} {head.get(key)}. Export both at once."
            )
    return ModelSpec.from_json(head["spec"], f"{source / BACKBONE_NECK_HEAD}.onnx"), head


def _check_spec(spec: ModelSpec, source: Path) -> None:
    """What the node has built in, before anything is written."""
    problems = []
    if not spec.rot_y_axis_reference:
        problems.append("yaw counter-clockwise from x; export with --rot-y-axis-reference")
    if spec.max_points_per_voxel != NODE_POINTS_PER_VOXEL:
        problems.append(f"{spec.max_points_per_voxel} points a pillar; the node has {NODE_POINTS_PER_VOXEL} built in")
    if spec.encoder_channels != NODE_ENCODER_CHANNELS:
        problems.append(f"{spec.encoder_channels} encoder channels; the node has {NODE_ENCODER_CHANNELS} built in")
    if (spec.point_features, spec.voxel_center_dims) not in _NODE_FEATURES:
        problems.append(
            f"{spec.point_features} point columns with {spec.voxel_center_dims} centre offsets; the node assembles "
            "4 with 2 or 3, and 5 with 3"
        )
    heads = tuple(head.name for head in spec.heads)
    if heads != HEAD_ORDER:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="autoware_bundle", description="Write or check a bundle for Autoware's lidar_centerpoint (contract v4.1)."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--onnx-dir", type=Path, help="exported with --rot-y-axis-reference --static-voxels 0")
    what.add_argument("--model-config", type=Path, help="export this model first")
    what.add_argument("--check", type=Path, metavar="BUNDLE", help="only check a bundle; exit code 1 if it is broken")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", type=Path, help="trained weights, with --model-config")
    weights.add_argument("--quantized-checkpoint", type=Path, help="PTQ or QAT checkpoint, for an INT8 bundle")
    parser.add_argument(
        "--precision", choices=("fp32", "fp16"), default="fp16", help="of a float export (default fp16)"
    )
    parser.add_argument("--out", type=Path, help="folder of the bundle")
    measured = parser.add_mutually_exclusive_group()
    measured.add_argument("--detections", type=Path, help="detections (.jsonl, or a folder of deploy.tools.detect)")
    measured.add_argument("--results", type=Path, help="results.json of a run: the same from its detections")
    parser.add_argument("--label", help="which evaluation of --results")
    parser.add_argument("--trt-precision", choices=("fp32", "fp16", "strongly-typed"), help="follows from the graphs")
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; exit code 0, 1 for a broken bundle, 2 for wrong input."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _check(user_path(args.check)) if args.check else _write(args), args.log_level)


def _check(folder: Path) -> int:
    found = check_bundle(folder)
    for violation in found:
        _logger.error("%s", violation)
    if not found:
        _logger.info("%s keeps the contract.", folder)
    return EXIT_FAILED if found else EXIT_PASSED


def _write(args: argparse.Namespace) -> int:
    if args.out is None:
        raise ConfigError("--out is missing: name the folder of the bundle.")
    out = user_path(args.out)
    # Before the export and the thresholds, which take longer than the bundle.
    require_replaceable(out, _sources(args))
    with owned_name(out, "--out"):
        return _write_owned(args)


def _sources(args: argparse.Namespace) -> list[Path]:
    """What is read while the bundle is written."""
    given = (
        args.onnx_dir,
        args.model_config,
        args.checkpoint,
        args.quantized_checkpoint,
        args.detections,
        args.results,
    )
    return [user_path(path) for path in given if path is not None]


def _write_owned(args: argparse.Namespace) -> int:
    if args.onnx_dir is not None:
        _bundle(args, user_path(args.onnx_dir))
        return EXIT_PASSED
    with tempfile.TemporaryDirectory(prefix="autoware_bundle_") as folder:
        _export(args, Path(folder))
        _bundle(args, Path(folder))
    return EXIT_PASSED


def _export(args: argparse.Namespace, folder: Path) -> None:
    from deploy.tools import export_onnx

    if args.checkpoint is None and args.quantized_checkpoint is None:
        raise ConfigError(
            "--model-config needs --checkpoint or --quantized-checkpoint: a vehicle needs trained weights."
        )
    quantized = args.quantized_checkpoint is not None
    weights = (
        ["--quantized-checkpoint", str(args.quantized_checkpoint)]
        if quantized
        else ["--checkpoint", str(args.checkpoint)]
    )
    export_onnx.export(
        [
            *("--model-config", str(args.model_config)),
            *weights,
            *("--precision", "int8" if quantized else args.precision),
            *("--static-voxels", "0", "--rot-y-axis-reference", "--out", str(folder)),
        ]
    )


def _bundle(args: argparse.Namespace, onnx_dir: Path) -> None:
    detections = user_path(args.detections) if args.detections else None
    if args.results:
        detections = detections_of_results(user_path(args.results), args.label)
    thresholds = None
    if detections is not None:
        file = onnx_dir / f"{BACKBONE_NECK_HEAD}.onnx"
        head = metadata(read_onnx(file))
        require_same_model(detections, head)
        thresholds = measure_thresholds(detections, ModelSpec.from_json(head.get("spec", "{}"), str(file)))
    out = write_bundle(onnx_dir, user_path(args.out), thresholds, args.trt_precision)
    _logger.info("%s keeps the contract.", out)


if __name__ == "__main__":
    run_main(main)
