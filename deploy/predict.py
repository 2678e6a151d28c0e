"""One point-cloud file to boxes and a picture, and one backend against another:
`python -m deploy.predict --points scan.bin --out DIR [--compare onnx]`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.arguments import DEFAULT_POINTS, number
from base.checks import recorded
from base.command import EXIT_FAILED, EXIT_PASSED, run_command, run_main
from base.files import sha256_file, user_path, write_json
from base.messages import plain_lines
from base.ownership import owned_folder
from base.tables import text_table
from datasets.scan import FORMATS, ScanFormat, columns_option
from deploy import cli
from deploy.config.names import BACKENDS
from deploy.config.paths import input_path

if TYPE_CHECKING:
    from deploy.prediction import Prediction
    from eval.verification import VerificationResult

__all__ = ["main"]

DEFAULT_CHECKPOINT = "models/zoo/centerpoint_t4_demo/checkpoint.pth"
_MIN_SHOWN_SCORE = 0.3
# Option -> field of the format that it replaces.
_FORMAT_OPTIONS = {
    "columns": "columns",
    "intensity_scale": "intensity_scale",
    "lidar_height": "height_m",
    "lidar_yaw": "yaw_deg",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="predict",
        description="Run one LiDAR scan through preprocessing, network and decoding; write detections.json and "
        "detections.png. With --compare, hold a second backend against the first.",
        epilog="Exit code: 0 all that was asked for was done and passed; 1 the comparison failed or nothing could "
        "run; 2 wrong input or configuration.",
    )
    parser.add_argument(
        "--points", required=True, metavar="FILE", help="little-endian float32 records without a header"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of everything the command writes")
    scan = parser.add_argument_group("the scan; the model expects base_link (ground at z = 0) and intensity 0 to 255")
    scan.add_argument("--format", choices=tuple(FORMATS), default="t4", help="defaults of the following (%(default)s)")
    scan.add_argument(
        "--columns",
        type=columns_option,
        metavar="N|NAMES",
        help="numbers a point, the first four x, y, z, intensity; or their names: x,y,z,intensity,ring",
    )
    scan.add_argument(
        "--intensity-scale", type=number(0.0, 1e6), metavar="K", help="factor to 0..255; 255 where a file has 0..1"
    )
    scan.add_argument("--lidar-height", type=float, metavar="M", help="sensor above the ground, metres; added to z")
    scan.add_argument(
        "--lidar-yaw", type=number(-360.0, 360.0), metavar="DEG", help="turn of the sensor's x axis, counter-clockwise"
    )
    cli.add_max_points(scan)
    model = parser.add_argument_group("the model; without any of these, the shipped demo")
    model.add_argument("--model-config", default=cli.DEFAULT_MODEL_CONFIG, metavar="PY", help="default %(default)s")
    model.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, metavar="PTH", help="default %(default)s")
    run = parser.add_argument_group("backends")
    run.add_argument("--backend", choices=BACKENDS, default="pytorch", help="default %(default)s")
    run.add_argument("--compare", choices=BACKENDS, help="a second backend, judged against --backend")
    run.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    run.add_argument("--onnx-dir", metavar="DIR", help="existing ONNX files; else they are exported into --out")
    run.add_argument("--engine-dir", metavar="DIR", help="existing engines; else they are built into --out")
    run.add_argument("--precision", choices=("fp32", "fp16"), default="fp32", help="of ONNX files exported here")
    cli.add_common_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.compare == args.backend:
        parser.error(f"--compare={args.compare} is the backend itself; choose another one")
    return run_command(lambda: _predict(args), args.log_level, args.accept)


def scan_format(args: argparse.Namespace) -> ScanFormat:
    """The format with the options that were given.

    Raises:
        ConfigError: a value is out of its range.
    """
    given = {field: getattr(args, option) for option, field in _FORMAT_OPTIONS.items()}
    return dataclasses.replace(FORMATS[args.format], **{k: v for k, v in given.items() if v is not None})


def _predict(args: argparse.Namespace) -> int:
    from deploy.prediction import PredictionRequest, predict

    out = user_path(args.out)
    request = PredictionRequest(
        points=user_path(args.points),
        form=scan_format(args),
        model_config=input_path(args.model_config),
        checkpoint=input_path(args.checkpoint),
        out=out,
        backend=args.backend,
        compare=args.compare,
        device=args.device,
        onnx_dir=user_path(args.onnx_dir) if args.onnx_dir else None,
        engine_dir=user_path(args.engine_dir) if args.engine_dir else None,
        precision=args.precision,
        rot_y_axis_reference=args.rot_y_axis_reference,
        max_points=args.max_points or DEFAULT_POINTS,
    )
    with owned_folder(out, "--out"):
        prediction = predict(request)
        _write(prediction, request.form, out)
    print(plain_lines(f"\n{_summary(prediction, out)}"))  # noqa: T201 - what the command is for
    failed = prediction.verification is not None and not prediction.verification.passed
    if failed or not prediction.results or args.backend in prediction.skipped:
        return EXIT_FAILED
    return EXIT_FAILED if args.strict and prediction.skipped else EXIT_PASSED


def _write(prediction: Prediction, form: ScanFormat, out: Path) -> None:
    from deploy.scan_picture import save_scan_png
    from eval.codec import to_json

    scan, spec = prediction.scan, prediction.spec
    document: dict[str, Any] = {
        "scan": {
            "file": scan.path.name,
            "sha256": sha256_file(scan.path),
            "points": scan.num_in_file,
            "invalid_points": scan.num_invalid,
            "zero_points": scan.num_zeros,
            "format": {
                "columns": list(form.names),
                "intensity_scale": form.intensity_scale,
                "height_m": form.height_m,
                "yaw_deg": form.yaw_deg,
            },
        },
        "model": spec.name,
        "point_columns": list(spec.point_columns),
        "checkpoint_sha256": prediction.checkpoint_sha256,
        "checks": to_json(recorded()),
        "frame": "base_link: x forward, y left, z up from the ground; metres, radians, m/s",
        "backends": [
            {
                "backend": result.name,
                "device": result.device,
                "precision": result.precision,
                "pillars": result.counts.voxels,
                "dropped_pillars": result.counts.dropped_voxels,
                "points_out_of_range": result.counts.outside_points,
                "boxes_without_size": result.dropped.without_size,
                "boxes_not_finite": result.dropped.broken,
                "detections": _detections(result.detections, spec.class_names),
            }
            for result in prediction.results
        ],
        "skipped": dict(prediction.skipped),
        "verification": to_json(prediction.verification),
    }
    # The picture belongs to the numbers: an earlier one goes before new numbers come.
    (out / "detections.png").unlink(missing_ok=True)
    write_json(out / "detections.json", document)
    if not prediction.results:
        return
    found = [
        (result.label, result.detections.select(result.detections.scores >= _MIN_SHOWN_SCORE))
        for result in prediction.results
    ]
    extent = max(abs(limit) for limit in (*spec.point_cloud_range[:2], *spec.point_cloud_range[3:5]))
    title = f"{scan.path.name}: {scan.num_in_file} points, boxes with score ≥ {_MIN_SHOWN_SCORE:g}"
    save_scan_png(out / "detections.png", scan.points, found, spec.class_names, extent, title)


def _detections(boxes: Any, class_names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "class": class_names[int(label)],
            "score": round(float(score), 6),
            "center": _rounded(box[:3]),
            "size_length_width_height": _rounded(box[3:6]),
            "yaw": round(float(box[6]), 6),
            "velocity": _rounded(box[7:9]),
        }
        for box, score, label in zip(boxes.boxes, boxes.scores, boxes.labels, strict=True)
    ]


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]


def _summary(prediction: Prediction, out: Path) -> str:
    from runtime.counts import MAX_VOXELS_KEY

    scan, spec = prediction.scan, prediction.spec
    zeros = f", {scan.num_zeros} at (0, 0, 0)" if scan.num_zeros else ""
    parts = [f"{scan.path.name}: {scan.num_in_file} points, {scan.num_invalid} invalid{zeros}; model '{spec.name}'"]
    rows: list[tuple[str, ...]] = []
    for result in prediction.results:
        boxes = result.detections.select(result.detections.scores >= _MIN_SHOWN_SCORE)
        counts = [int((boxes.labels == index).sum()) for index in range(len(spec.class_names))]
        classes = ", ".join(f"{n} {name}" for n, name in zip(counts, spec.class_names, strict=True) if n) or "none"
        stages = ", ".join(f"{stage} {ms:.0f}" for stage, ms in result.stages_ms.items())
        rows.append((result.label, str(result.counts.voxels), str(result.counts.outside_points), classes, stages))
    if rows:
        boxes_of = f"boxes ≥ {_MIN_SHOWN_SCORE:g}"
        parts.append(text_table(("backend", "pillars", "points out of range", boxes_of, "milliseconds"), rows))
    for result in prediction.results:
        lost, kept = result.counts.dropped_voxels, result.counts.voxels
        if lost:
            share = f"{lost} of {lost + kept} ({lost / (lost + kept):.1%})"
            parts.append(f"{result.label}: pillars left out: {share}; raise {MAX_VOXELS_KEY}")
    parts += [f"{name} SKIPPED: {reason}" for name, reason in prediction.skipped.items()]
    if prediction.verification is not None:
        parts.append(_verification_table(prediction.verification))
    parts.append(str(out / "detections.json") + (f", {out / 'detections.png'}" if prediction.results else ""))
    return "\n\n".join(parts)


def _verification_table(result: VerificationResult) -> str:
    rows: list[tuple[str, ...]] = []
    for verdict in result.outputs:
        item = verdict.comparison
        limits = {
            "relative L2": verdict.tolerance.relative_l2,
            "of range": verdict.tolerance.max_abs_share,
            "score": verdict.tolerance.max_score_error,
            "max abs": verdict.tolerance.max_abs,
        }
        rows.append(
            (
                item.name,
                f"{item.max_abs:.3g}",
                f"{item.mean_abs:.3g}",
                f"{item.relative_l2:.3g}",
                f"{item.cosine:.9f}",
                str(item.nonfinite_reference + item.nonfinite_test),
                "PASSED" if verdict.passed else "FAILED",
                ", ".join(f"{name} ≤ {limit:g}" for name, limit in limits.items() if limit is not None),
            )
        )
    header = ("output", "max abs", "mean abs", "relative L2", "cosine", "not finite", "verdict", "limits")
    parts = [result.summary(), *result.reasons, text_table(header, rows)] if rows else [result.summary()]
    boxes = result.boxes
    if boxes is not None:
        floor = result.box_tolerance.min_score if result.box_tolerance else _MIN_SHOWN_SCORE
        counts = (boxes.matched, boxes.moved, boxes.lost, boxes.gained)
        errors = (
            f"{boxes.max_center_m * 1e3:.3g} mm",
            f"{boxes.max_size_m * 1e3:.3g} mm",
            f"{boxes.max_yaw_rad:.2g} rad",
            f"{boxes.max_velocity_mps:.2g} m/s",
            f"{boxes.max_score:.2g}",
        )
        names = (f"boxes ≥ {floor:g}: matched", "moved", "lost", "gained", "center", "size", "yaw", "velocity", "score")
        parts.append(text_table(names, [(*map(str, counts), *errors)]))
    return "\n".join(parts)


if __name__ == "__main__":
    run_main(main)
