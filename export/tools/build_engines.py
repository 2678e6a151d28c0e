"""Builds engines from ONNX files: `python -m export.tools.build_engines --onnx-dir DIR --out DIR`.

With `tensorrt_rtx` no GPU is needed and equal inputs give equal bytes: a build action.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from base.arguments import whole_number
from base.command import add_log_level, run_command, run_main
from base.documents import read_json
from base.errors import DataError, EngineBuildError
from base.files import user_path
from base.ownership import owned_folder
from base.parsing import Items, NonEmptyStr, PositiveInt, Record, parse
from base.wholeness import MARKS
from export.engine.pipeline import CenterPointTensorRTExportPipeline, EngineSettings
from export.engine.request import DEFAULT_WORKSPACE_BYTES, PRECISION_POLICIES, ShapeProfile
from export.engine.selection import BUILDERS
from export.existing import engine_marks
from export.manifest import build_manifest, write_manifest

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="build_engines", description="Build TensorRT engines from ONNX files.")
    parser.add_argument("--onnx-dir", required=True, type=Path, help="folder with both components' ONNX files")
    parser.add_argument("--out", required=True, type=Path, help="folder for engines, logs and manifest.json")
    parser.add_argument("--builder", choices=BUILDERS, default="auto", help="engine builder (default auto)")
    parser.add_argument("--precision-policy", choices=PRECISION_POLICIES, default="auto")
    parser.add_argument(
        "--workspace",
        type=whole_number(1 << 20, 1 << 40),
        default=DEFAULT_WORKSPACE_BYTES,
        metavar="BYTES",
        help="GPU memory for tactics",
    )
    parser.add_argument(
        "--profiles", type=Path, help='JSON: {"input": {"min": [...], "opt": [...], "max": [...]}}; default: as implied'
    )
    parser.add_argument("--timing-cache", type=Path, help="file of measured tactics (tensorrt only)")
    parser.add_argument(
        "--compute-capability", action="append", default=[], metavar="X.Y", help="GPU to build for (tensorrt_rtx only)"
    )
    parser.add_argument("--optimization-level", type=whole_number(0, 5), help="0 to 5; default: the builder's own")
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 for wrong input or a machine that cannot build."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args), args.log_level)


def _run(args: argparse.Namespace) -> None:
    with owned_folder(user_path(args.out), "--out", marks={**MARKS, **engine_marks()}):
        _build(args)


def _build(args: argparse.Namespace) -> None:
    settings = EngineSettings(
        builder=args.builder,
        precision_policy=args.precision_policy,
        workspace_bytes=args.workspace,
        profiles=_read_profiles(user_path(args.profiles)) if args.profiles else {},
        timing_cache=user_path(args.timing_cache) if args.timing_cache else None,
        compute_capabilities=tuple(args.compute_capability),
        optimization_level=args.optimization_level,
    )
    out = user_path(args.out)
    results = CenterPointTensorRTExportPipeline(settings).run(user_path(args.onnx_dir), out)
    manifest = build_manifest(
        kind="engines",
        inputs={result.onnx_path.name: result.onnx_path for result in results},
        outputs={result.engine_path.name: result.engine_path for result in results},
        settings={
            "builder": results[0].builder,
            "builder_version": results[0].version,
            "compute_capabilities": settings.compute_capabilities,
            "optimization_level": settings.optimization_level,
            "precision_policy": settings.precision_policy,
            "profiles": settings.profiles,
            "workspace_bytes": settings.workspace_bytes,
        },
        packages=("onnx",),
    )
    write_manifest(out / "manifest.json", manifest)


class _Profile(Record):
    """Shapes of one input."""

    min: Items[PositiveInt]
    opt: Items[PositiveInt]
    max: Items[PositiveInt]


def _read_profiles(path: Path) -> dict[str, ShapeProfile]:
    values = read_json(path)
    try:
        rows = {name: {key: shapes[key] for key in ("min", "opt", "max")} for name, shapes in values.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(
            f"'{path}' is no profile file ({type(error).__name__}: {error}); expected "
            '{"input": {"min": [...], "opt": [...], "max": [...]}}.'
        ) from error
    read = parse(dict[NonEmptyStr, _Profile], rows, file=path)
    try:
        return {name: ShapeProfile(shapes.min, shapes.opt, shapes.max) for name, shapes in read.items()}
    except EngineBuildError as error:
        raise EngineBuildError(f"'{path}': {error}") from error


if __name__ == "__main__":
    run_main(main)
