"""Point clouds to boxes, pictures and recordings, and one backend against another:
`python -m deploy.predict --points scan.bin --out DIR [--compare onnx] [--record out.rrd]`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from base.arguments import DEFAULT_POINTS, number
from base.command import EXIT_FAILED, EXIT_PASSED, run_command, run_main
from base.errors import ConfigError
from base.files import user_path
from base.messages import plain_lines
from base.ownership import owned_folder
from datasets.scan import FORMATS, ScanFormat, columns_option
from deploy import cli
from deploy.config.names import BACKENDS, ONNX_BACKENDS
from deploy.config.paths import input_path
from deploy.input_scans import DEFAULT_RATE_HZ
from deploy.work_dir import marks_of

if TYPE_CHECKING:
    from deploy.prediction import ScanPrediction
    from deploy.recording.contract import RecordedFrame, Recorder
    from models.spec import ModelSpec

__all__ = ["main"]

DEFAULT_FORMAT = "t4"
DEFAULT_CHECKPOINT = "models/zoo/centerpoint_t4_demo/checkpoint.pth"
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
        description="Run LiDAR scans through preprocessing, network and decoding. Of one scan: detections.json and "
        "detections.png; of several a line each in detections.jsonl. With --record, a recording to look at; with "
        "--compare, a second backend held against the first.",
        epilog="Exit code: 0 all that was asked for was done and passed; 1 the comparison failed or nothing could "
        "run; 2 wrong input or configuration.",
    )
    parser.add_argument(
        "--points",
        nargs="+",
        metavar="FILE|DIR",
        help="scans: little-endian float32 records without a header, or PCD; of a folder its .bin or .pcd files",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of everything the command writes")
    cli.add_record(parser)
    frames = parser.add_argument_group("frames of a dataset in place of --points, with their ground truth")
    frames.add_argument("--data-root", metavar="DIR", help="the dataset; without it, the model config's")
    frames.add_argument("--info-file", metavar="PKL", help="info file of its frames, relative to it")
    scan = parser.add_argument_group("the scan; the model expects base_link (ground at z = 0) and intensity 0 to 255")
    scan.add_argument("--format", choices=tuple(FORMATS), help=f"defaults of the following ({DEFAULT_FORMAT})")
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
    scan.add_argument(
        "--rate",
        type=number(0.01, 1e4),
        metavar="HZ",
        help=f"scans a second, for time lines ({DEFAULT_RATE_HZ:g})",
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
    run.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="of ONNX files exported here; int8 of PyTorch, too (%(default)s)",
    )
    run.add_argument("--calibration-data-root", metavar="DIR", help="T4 dataset to calibrate an INT8 network on")
    run.add_argument("--calibration-info-file", metavar="PKL", help="info file of that dataset, relative to it")
    cli.add_common_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.compare == args.backend:
        parser.error(f"--compare={args.compare} is the backend itself; choose another one")
    if bool(args.points) == bool(args.data_root or args.info_file):
        parser.error("give either --points, or frames of a dataset by --data-root or --info-file")
    return run_command(lambda: _predict(args), args.log_level, args.accept)


def scan_format(args: argparse.Namespace) -> ScanFormat:
    """The format with the options that were given.

    Raises:
        ConfigError: a value is out of its range.
    """
    given = {field: getattr(args, option) for option, field in _FORMAT_OPTIONS.items()}
    return dataclasses.replace(
        FORMATS[args.format or DEFAULT_FORMAT], **{k: v for k, v in given.items() if v is not None}
    )


def _require_effect(args: argparse.Namespace) -> None:
    """That no option was given which the others leave without effect: a user would think that it had one.

    Raises:
        ConfigError: one was.
    """
    backends = {args.backend, args.compare} - {None}
    reads_onnx, reads_engines = bool(backends & set(ONNX_BACKENDS)), "tensorrt" in backends
    exports = not args.onnx_dir and (reads_onnx or (reads_engines and not args.engine_dir))
    running = " and ".join(sorted(backends))
    of_files = "says how the files of --points are; frames of a dataset are as its info file says"
    rules = [(option, bool(args.points), of_files) for option in ("format", *_FORMAT_OPTIONS, "rate")]
    calibrates = (args.precision == "int8", f"is for --precision=int8; it is {args.precision}")
    rules += [(option, *calibrates) for option in ("calibration_data_root", "calibration_info_file")]
    rules += [
        ("onnx_dir", reads_onnx or reads_engines, f"is for backends that read ONNX files; {running} reads none"),
        ("engine_dir", reads_engines, f"is for the backend tensorrt; {running} reads no engine"),
    ]
    for option, has_effect, why in rules:
        if getattr(args, option) is not None and not has_effect:
            raise ConfigError(f"--{option.replace('_', '-')} {why}. Leave it out.")
    if args.precision == "fp16" and not exports:
        raise ConfigError(
            f"--precision=fp16 is of ONNX files that this command exports; {running} runs what there is. Choose a "
            "backend that reads ONNX files, without --onnx-dir and --engine-dir, or leave it out."
        )


def _predict(args: argparse.Namespace) -> int:
    from deploy.prediction import PredictionRequest, predict
    from deploy.prediction_output import PredictionOutput

    _require_effect(args)
    out = user_path(args.out)
    record = cli.recording_of(args)
    request = PredictionRequest(
        points=tuple(user_path(path) for path in args.points or ()),
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
        data_root=user_path(args.data_root) if args.data_root else None,
        info_file=args.info_file,
        rate_hz=args.rate or DEFAULT_RATE_HZ,
        calibration_data_root=user_path(args.calibration_data_root) if args.calibration_data_root else None,
        calibration_info_file=args.calibration_info_file,
    )
    marks = marks_of("detections.json", "detections.jsonl", "detections.png")
    with owned_folder(out, "--out", marks=marks), contextlib.ExitStack() as stack:
        written = PredictionOutput(out, request.form if request.points else None)
        stack.callback(written.close)
        recorder: Recorder | None = None

        def take(scan: ScanPrediction, spec: ModelSpec, num_scans: int) -> None:
            nonlocal recorder
            if record is not None and recorder is None:
                recorder = stack.enter_context(_recording(record, spec))
            written.add(scan, spec, is_alone=num_scans == 1)
            if recorder is not None:
                recorder.write(_recorded(scan))

        prediction = predict(request, take)
        written.finish(prediction)
    print(plain_lines(f"\n{written.summary(prediction, record)}"))  # noqa: T201 - what the command is for
    failed = prediction.verification is not None and not prediction.verification.passed
    if failed or len(prediction.skipped) == len(request.backends) or args.backend in prediction.skipped:
        return EXIT_FAILED
    return EXIT_FAILED if args.strict and prediction.skipped else EXIT_PASSED


def _recording(path: Path, spec: ModelSpec) -> AbstractContextManager[Recorder]:
    from deploy.recording.contract import RecordingFacts, recording

    return recording(path, RecordingFacts(spec.name, spec.class_names, spec.point_columns))


def _recorded(scan: ScanPrediction) -> RecordedFrame:
    from deploy.recording.contract import RecordedFrame

    source = scan.scan
    found = {result.label: result.detections for result in scan.results}
    return RecordedFrame(source.index, source.name, source.time_s, source.points, found, source.ground_truth)


if __name__ == "__main__":
    run_main(main)
