"""Latency and throughput of a model from points to boxes, on every backend that this machine can run.

    python -m benchmarks.latency --data-root data/t4dataset [--backends pytorch onnx tensorrt] [--out latency.json]

Points are read beforehand. Every backend runs `--warmup` frames that do not count, then `--frames` that do, the
dataset's frames over and over. Stages on a GPU are timed by events on its stream, the frame by the host's clock. The
state of the machine (clocks, power, load) is read right after each backend.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.command import EXIT_FAILED, EXIT_PASSED, add_log_level, run_command, run_main
from base.errors import BackendUnavailable, ConfigError, DataError, MissingDependencyError
from base.files import user_path, write_json
from base.progress import progress
from base.tables import text_table
from eval.codec import to_json
from eval.machine import MachineInfo, package_versions
from runtime.latency import LatencyRecorder, LatencyStats

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deploy.detectors import DetectorFiles
    from models.spec import ModelSpec
    from runtime.detector import Detector

__all__ = ["LatencyReport", "LatencyRun", "measure"]

_MODEL_CONFIG = "configs/model/centerpoint_t4_demo.py"
_CHECKPOINT = "models/zoo/centerpoint_t4_demo/checkpoint.pth"
_BACKENDS = ("pytorch", "onnx", "openvino", "tensorrt", "cuda")


@dataclass(frozen=True)
class LatencyRun:
    """One backend.

    Attributes:
        backend: "pytorch", "onnx", "openvino", "tensorrt" or "cuda".
        device: "cpu" or "cuda:N".
        frames: Frames that count.
        warmup: Frames before them.
        first_frame_ms: The very first frame, which pays for what is made on demand.
        stages: Stage -> milliseconds; "total" last.
        frames_per_second: Frames that count over the wall time they took together, one after the other.
        machine: Its state right after.
    """

    backend: str
    device: str
    frames: int
    warmup: int
    first_frame_ms: float
    stages: dict[str, LatencyStats]
    frames_per_second: float
    machine: MachineInfo

    def table(self) -> str:
        """Stages by row, milliseconds."""
        columns = ("mean", "std", "min", "p50", "p90", "p95", "p99", "max")
        rows = [(stage, *(f"{getattr(stats, name):.3f}" for name in columns)) for stage, stats in self.stages.items()]
        return (
            f"{self.backend} ({self.device}), {self.frames} frames after {self.warmup} of warm-up\n"
            f"{text_table(('stage', *columns), rows, right=range(1, 1 + len(columns)))}\n"
            f"{self.frames_per_second:.2f} frames/s; first frame {self.first_frame_ms:.1f} ms"
        )


@dataclass(frozen=True)
class LatencyReport:
    """All backends.

    Attributes:
        model: Name of the model.
        checkpoint: File of its weights.
        runs: In the order asked for.
        skipped: Backend -> why it could not run here.
        versions: Package -> version.
    """

    model: str
    checkpoint: str
    runs: tuple[LatencyRun, ...]
    skipped: dict[str, str]
    versions: dict[str, str]


def measure(detector: Detector, clouds: Sequence[NDArray[np.float32]], *, frames: int, warmup: int) -> LatencyRun:
    """Runs a detector over clouds again and again.

    Args:
        detector: Points to boxes.
        clouds: Points of at least one frame.
        frames: Frames that count, at least 1.
        warmup: Frames before them.

    Raises:
        ConfigError: no frames that count, or a negative warm-up.
        DataError: there are no clouds.
    """
    if frames < 1 or warmup < 0:
        raise ConfigError(f"frames is {frames} and warmup {warmup}; give at least 1 and 0")
    if not clouds:
        raise DataError("there are no frames to measure on")
    recorder, first, wall = LatencyRecorder(warmup), 0.0, 0.0
    for index in progress(range(warmup + frames), f"latency of {detector.name}"):
        begin = time.perf_counter()
        inference = detector(clouds[index % len(clouds)])
        seconds = time.perf_counter() - begin
        first = inference.total_ms if index == 0 else first
        wall += seconds if index >= warmup else 0.0
        recorder.add(inference.stages_ms, inference.total_ms)
    state = MachineInfo.current()
    return LatencyRun(detector.name, detector.device, frames, warmup, first, recorder.summary(), frames / wall, state)


def _files(args: argparse.Namespace, model: Any, spec: ModelSpec, scratch: Path) -> dict[str, DetectorFiles | None]:
    """Backend -> where its network comes from; None where that was not given. ONNX files are exported where needed."""
    from deploy.config.paths import input_path
    from deploy.detectors import DetectorFiles, Network
    from export.existing import check_engine_dir, check_onnx_dir

    onnx_dir = input_path(args.onnx_path) if args.onnx_path else scratch
    if not {"onnx", "openvino", "cuda"}.isdisjoint(args.backends) and not args.onnx_path:
        from export.onnx_export import export_components

        export_components(model, spec, onnx_dir)
    # Before anything is measured. The weights may be others: an INT8 export is of a quantized checkpoint.
    given_onnx = onnx_dir if args.onnx_path else None
    engine_dir = input_path(args.engine_path) if args.engine_path else None
    if given_onnx is not None:
        check_onnx_dir(given_onnx, spec, None, "--onnx-path")
    if engine_dir is not None:
        check_engine_dir(engine_dir, spec, given_onnx, "--engine-path")
    files = DetectorFiles(Network(model), onnx_dir, onnx_key="--onnx-path", engine_key="--engine-path")
    # With the encoder's file TensorRT goes from points to boxes on its device, as `cuda` does: a fair comparison.
    engines = dataclasses.replace(files, onnx_dir=given_onnx, engine_dir=engine_dir, from_points=given_onnx is not None)
    return {**dict.fromkeys(_BACKENDS, files), "tensorrt": engines if engine_dir is not None else None}


def _clouds(args: argparse.Namespace, model_cfg: Any) -> list[NDArray[np.float32]]:
    from datasets.frames import open_frames
    from deploy.config.paths import input_path, repository_root

    demo = os.environ.get("CENTERPOINT_DEMO_DATA")
    if args.data_root:
        root = input_path(args.data_root)
    elif demo:
        # Set by the build, relative to its own tree.
        root = repository_root() / demo
    else:
        raise DataError("no dataset was given; use --data-root")
    source = open_frames(model_cfg, "val", str(root))
    count = min(len(source), args.distinct_frames)
    return [source[index].points for index in progress(range(count), "reading frames")]


def run(args: argparse.Namespace) -> LatencyReport:
    """Measures every backend that was asked for and prints its table.

    Raises:
        UserError: wrong files or options.
    """
    from deploy.config.paths import input_path
    from deploy.config.schema import DeployConfig
    from deploy.detectors import open_checked_detector
    from deploy.devices import resolve_device
    from models.build import build_model, load_checkpoint
    from models.config import load_model_config
    from models.spec import ModelSpec

    model_cfg = load_model_config(input_path(args.model_config))
    spec = ModelSpec.from_config(model_cfg)
    model = build_model(model_cfg)
    load_checkpoint(model, input_path(args.checkpoint))
    clouds = _clouds(args, model_cfg)
    runs, skipped = [], {}
    with tempfile.TemporaryDirectory(prefix="latency-") as scratch:
        sources = _files(args, model, spec, Path(scratch))
        for name in args.backends:
            files = sources[name]
            if files is None:
                skipped[name] = "no engines were given; use --engine-path"
                continue
            try:
                device = resolve_device(args.device, name, DeployConfig())
                detector, _ = open_checked_detector(name, files, spec=spec, device=device)
                with detector:
                    result = measure(detector, clouds, frames=args.frames, warmup=args.warmup)
            except (BackendUnavailable, MissingDependencyError) as reason:
                skipped[name] = str(reason)
                continue
            runs.append(result)
            print(f"{result.table()}\n  {result.machine.describe()}\n")  # noqa: T201 - the command's result
    for name, why in skipped.items():
        print(f"{name}: SKIPPED, {why}")  # noqa: T201 - the command's result
    return LatencyReport(spec.name, Path(args.checkpoint).name, tuple(runs), skipped, package_versions())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="latency", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model-config", default=_MODEL_CONFIG, help="default %(default)s")
    parser.add_argument("--checkpoint", default=_CHECKPOINT, help="default %(default)s")
    parser.add_argument("--onnx-path", metavar="DIR", help="ONNX files; exported from the checkpoint where left out")
    parser.add_argument("--engine-path", metavar="DIR", help="engines of the tensorrt backend")
    parser.add_argument("--data-root", metavar="DIR", help="T4 dataset; under Bazel the demo dataset by default")
    parser.add_argument("--backends", nargs="+", choices=_BACKENDS, default=list(_BACKENDS), help="default: all")
    parser.add_argument("--device", default="auto", help="cpu, cuda:N, or auto: a GPU where the backend can use one")
    parser.add_argument("--frames", type=int, default=100, help="frames that count, default %(default)s")
    parser.add_argument("--warmup", type=int, default=10, help="frames before them, default %(default)s")
    parser.add_argument("--distinct-frames", type=int, default=20, help="frames read, default %(default)s")
    parser.add_argument("--out", metavar="JSON", help="where to write the results")
    add_log_level(parser)
    args = parser.parse_args(argv)
    return run_command(lambda: _measure_all(args), args.log_level)


def _measure_all(args: argparse.Namespace) -> int:
    report = run(args)
    if args.out:
        write_json(user_path(args.out), to_json(report))
    return EXIT_PASSED if report.runs else EXIT_FAILED


if __name__ == "__main__":
    run_main(main)
