"""MLPerf's scenarios on any backend: single stream, constant rate, offline.

    python -m benchmarks.scenarios --backend cuda --onnx-path DIR --model-config … [--out JSON] [--page MD]
    python -m benchmarks.scenarios --backend cuda --drawn released        # drawn weights, no files
    python -m benchmarks.scenarios … --scenarios single-stream --frames 72000

Every scenario runs a drive: clouds that differ from frame to frame, in memory that the detector reads by itself where
it has such. Memory, clocks, garbage collection, page faults and other processes are recorded, so that a tail has a
name.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from base.arguments import POINTS, SEED, number, whole_number
from base.command import EXIT_PASSED, add_log_level, run_command, run_main
from base.errors import ConfigError
from base.files import atomic_path, user_path, write_json
from benchmarks.drawn_networks import DRAWN, drawn_detector, drawn_spec
from benchmarks.scenarios.drive import Drive, made_places
from benchmarks.scenarios.page import markdown
from benchmarks.scenarios.streams import (
    ConstantRate,
    Offline,
    SingleStream,
    constant_rate,
    offline,
    offline_ahead,
    single_stream,
)
from benchmarks.scenarios.watch import Watch
from eval.codec import to_json
from eval.machine import MachineInfo, package_versions

if TYPE_CHECKING:
    from models.spec import ModelSpec
    from runtime.detector import Detector

__all__ = ["ScenarioReport", "main"]

_MODEL_CONFIG = "configs/model/centerpoint_t4_demo.py"
_BACKENDS = ("onnx", "openvino", "tensorrt", "cuda")
SCENARIOS = ("single-stream", "constant-rate", "offline")
"""In the order in which they run."""


@dataclass(frozen=True)
class ScenarioReport:
    """All of a run.

    Attributes:
        model, backend, device, precision: What ran.
        memory: Where the clouds lay: "the detector's" or "ordinary".
        collector: What Python's garbage collector was told: "on", "frozen" or "off".
        single_stream: Or None where it was not asked for.
        constant_rate, offline: One for each rate, and for each number of detectors.
        machine: Its state afterwards.
        versions: Package -> version.
    """

    model: str
    backend: str
    device: str
    precision: str
    memory: str
    collector: str
    single_stream: SingleStream | None
    constant_rate: tuple[ConstantRate, ...]
    offline: tuple[Offline, ...]
    machine: MachineInfo
    versions: dict[str, str]


class _Opener:
    """Opens the detector that was asked for, as often as wanted."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        if args.drawn:
            if args.backend != "cuda" or args.onnx_path or args.engine_path:
                raise ConfigError("--drawn is a network of the engine's own: give --backend cuda, and no files.")
            self.spec: ModelSpec = drawn_spec(args.drawn)
            self.precision = "int8"
            return
        from deploy.config.paths import input_path
        from models.config import load_model_config
        from models.spec import ModelSpec

        if not args.onnx_path and not args.engine_path:
            raise ConfigError(
                "Give --onnx-path (or --engine-path for tensorrt), or --drawn for a network without files."
            )
        self.spec = ModelSpec.from_config(load_model_config(input_path(args.model_config)))
        self.precision = "unknown"

    def open(self) -> Detector:
        args = self._args
        if args.drawn:
            return drawn_detector(args.drawn, _index(args.device), args.points)
        from deploy.config.paths import input_path
        from deploy.config.schema import DeployConfig
        from deploy.detectors import DetectorFiles, open_checked_detector
        from deploy.devices import resolve_device

        onnx_dir = input_path(args.onnx_path) if args.onnx_path else None
        engine_dir = input_path(args.engine_path) if args.engine_path else None
        files = DetectorFiles(
            None, onnx_dir, engine_dir, onnx_key="--onnx-path", engine_key="--engine-path",
            from_points=onnx_dir is not None,
        )  # fmt: skip
        device = resolve_device(args.device, args.backend, DeployConfig())
        detector, self.precision = open_checked_detector(
            args.backend, files, spec=self.spec, device=device, max_points=args.points
        )
        return detector


def _index(device: str) -> int:
    from runtime.backends.base import device_index

    index = device_index("cuda:0" if device == "auto" else device)
    if index is None:
        raise ConfigError("--drawn runs on a GPU: give --device cuda:N or auto.")
    return index


def run(args: argparse.Namespace) -> ScenarioReport:
    """Runs what was asked for.

    Raises:
        UserError: wrong files or options.
        BackendUnavailable: this machine cannot run the backend.
    """
    opener = _Opener(args)
    places = made_places(args.places, args.points, opener.spec.point_columns, args.seed)
    drive = Drive.through(places, args.frames, args.seed)
    stream: SingleStream | None = None
    rates: list[ConstantRate] = []
    together: list[Offline] = []
    with ExitStack() as stack:
        detector = stack.enter_context(opener.open())
        own = drive if args.memory == "ordinary" else drive.in_memory_of(detector)
        _settle(args.collector)
        device = None if detector.device == "cpu" else _index(detector.device)
        with Watch(args.sample_s, device) as watch:
            if "single-stream" in args.scenarios:
                stream = single_stream(
                    detector, own, frames=args.frames, warmup=args.warmup, watch=watch, minutes=args.minutes
                )
            if "constant-rate" in args.scenarios:
                rates = [
                    constant_rate(detector, own, rate_hz=rate, frames=args.rate_frames, warmup=args.warmup)
                    for rate in args.rates
                ]
        if "offline" in args.scenarios:
            together = _offline(args, opener, stack, detector, drive)
    return ScenarioReport(
        opener.spec.name, detector.name, detector.device, opener.precision, args.memory, args.collector, stream,
        tuple(rates), tuple(together), MachineInfo.current(), package_versions(),
    )  # fmt: skip


def _offline(
    args: argparse.Namespace, opener: _Opener, stack: ExitStack, detector: Detector, drive: Drive
) -> list[Offline]:
    from runtime.graphs.detector import GraphDetector

    detectors, found = [detector], list[Offline]()
    frames, warmup = args.offline_frames, args.warmup
    drives = [drive if args.memory == "ordinary" else drive.in_memory_of(detector)]
    if isinstance(detector, GraphDetector):
        found.append(offline_ahead(detector, drives[0], frames=frames, warmup=warmup))
    for number_of in sorted(args.networks):
        while len(detectors) < number_of:
            detectors.append(stack.enter_context(opener.open()))
            drives.append(drive if args.memory == "ordinary" else drive.in_memory_of(detectors[-1]))
        found.append(offline(detectors[:number_of], drives[:number_of], frames=frames, warmup=warmup))
    return found


def _settle(collector: str) -> None:
    """What was made until now is left alone by the garbage collector, or it is told to rest."""
    gc.collect()
    if collector != "on":
        gc.freeze()
    if collector == "off":
        gc.disable()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    count = whole_number(1, 10_000_000)
    parser = argparse.ArgumentParser(prog="scenarios", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--backend", required=True, choices=_BACKENDS)
    parser.add_argument("--model-config", default=_MODEL_CONFIG, help="default %(default)s")
    parser.add_argument("--onnx-path", metavar="DIR", help="ONNX files")
    parser.add_argument("--engine-path", metavar="DIR", help="engines of the tensorrt backend")
    parser.add_argument("--drawn", choices=DRAWN, help="backend cuda: a network of drawn weights in place of files")
    parser.add_argument("--device", default="auto", help="cpu, cuda:N, or auto: a GPU where the backend can use one")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), help="default: all")
    parser.add_argument("--frames", type=count, default=6636, help="of the single stream, default %(default)s")
    parser.add_argument("--minutes", type=number(0.01, 1440), help="run the single stream so long in place of --frames")
    parser.add_argument(
        "--rates", nargs="+", type=number(0.1, 1000), default=[10.0, 20.0, 40.0], help="Hz, default 10 20 40"
    )
    parser.add_argument("--rate-frames", type=count, default=600, help="that come at each rate, default %(default)s")
    parser.add_argument(
        "--networks", nargs="+", type=whole_number(1, 64), default=[1, 2, 4], help="offline, default 1 2 4"
    )
    parser.add_argument("--offline-frames", type=count, default=2000, help="default %(default)s")
    parser.add_argument("--warmup", type=whole_number(1, 10_000), default=50, help="frames before, default %(default)s")
    parser.add_argument("--points", type=POINTS, default=271_156, help="most of a cloud, default %(default)s")
    parser.add_argument(
        "--places", type=whole_number(1, 1000), default=12, help="clouds that are made, default %(default)s"
    )
    parser.add_argument("--seed", type=SEED, default=0, help="of the drive, default %(default)s")
    parser.add_argument(
        "--memory", choices=("detector", "ordinary"), default="detector", help="of clouds, default %(default)s"
    )
    parser.add_argument(
        "--collector", choices=("on", "frozen", "off"), default="frozen",
        help="Python's garbage collector: as it is, without what was made before the first frame, or off",
    )  # fmt: skip
    parser.add_argument("--sample-s", type=number(0.01, 3600), default=0.5, help="seconds from sample to sample")
    parser.add_argument("--out", metavar="JSON", help="where to write the results")
    parser.add_argument("--page", metavar="MD", help="where to write them as a page")
    add_log_level(parser)
    args = parser.parse_args(argv)
    return run_command(lambda: _run(args), args.log_level)


def _run(args: argparse.Namespace) -> int:
    report: dict[str, Any] = to_json(run(args))
    text = markdown(report)
    print(text)
    if args.out:
        write_json(user_path(args.out), report)
    if args.page:
        with atomic_path(user_path(args.page)) as path:
            path.write_text(text, encoding="utf-8")
    return EXIT_PASSED


if __name__ == "__main__":
    run_main(main)
