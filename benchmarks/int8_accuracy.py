"""What INT8 costs, by method: accuracy of one model in every precision, on one backend, with intervals.

Every frame's canvas is made once and given to every variant, so that they differ in the network behind it alone. A
variant
that is done stays in the output folder; a run that was stopped goes on where it was.

    python -m benchmarks.int8_accuracy --config configs/model/centerpoint_t4_demo.py --checkpoint best.pth \
        --data-root data/t4val --calibration-data-root data/t4train --frames 200 --output work_dirs/int8_accuracy
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.errors import ConfigError, DataError, UserError
from base.files import read_json, sha256_file, user_path, write_json
from base.progress import progress
from benchmarks.int8_accuracy_results import DEFAULT_RANGES_M, StoredRun, write_results
from benchmarks.int8_accuracy_variants import FP16, METHODS, Variants
from eval.metrics import FrameResult
from models.spec import BACKBONE_NECK_HEAD, ModelSpec
from runtime.decode import decode

if TYPE_CHECKING:
    from torch import nn

    from quant.stored_frames import StoredFrames

__all__ = ["main"]

_logger = logging.getLogger(__name__)

Network = Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="int8_accuracy", description="Accuracy of a model in INT8, by method.")
    parser.add_argument("--config", default="configs/model/centerpoint_t4_demo.py", metavar="PY")
    parser.add_argument("--checkpoint", default="models/zoo/centerpoint_t4_demo/checkpoint.pth", metavar="PTH")
    parser.add_argument("--data-root", required=True, metavar="DIR", help="T4 dataset to score on (its split val)")
    parser.add_argument("--calibration-data-root", metavar="DIR", help="to calibrate on (its split train)")
    parser.add_argument("--frames", type=int, default=-1, metavar="N", help="frames to score; -1 is all")
    parser.add_argument("--calibrate-batches", type=int, default=100, metavar="N", help="default %(default)s")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[m for m in METHODS if m != "qat"])
    parser.add_argument("--qat-checkpoint", type=Path, metavar="PTH", help="for the variant qat")
    parser.add_argument("--backend", choices=("onnx", "pytorch"), default="onnx", help="default %(default)s")
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="of the bootstrap")
    parser.add_argument("--output", type=Path, default=Path("work_dirs/int8_accuracy"), metavar="DIR")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 0 when done, 2 on wrong input."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level="INFO", format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    try:
        _run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _run(args: argparse.Namespace) -> None:
    from datasets.frames import open_frames
    from models.build import build_model, load_checkpoint
    from models.config import load_model_config
    from quant.calibration import calibration_batches
    from quant.stored_frames import StoredFrames

    out = user_path(args.output)
    cfg = load_model_config(user_path(args.config))
    spec = ModelSpec.from_config(cfg)
    model = build_model(cfg)
    load_checkpoint(model, user_path(args.checkpoint))
    frames = open_frames(cfg, "val", args.data_root)
    count = len(frames) if args.frames == -1 else args.frames
    if not 1 <= count <= len(frames):
        raise DataError(f"--frames is {args.frames}; '{args.data_root}' has {len(frames)}.")
    _claim(out, args, count)
    methods = [FP16, *(method for method in args.methods if method != FP16)]
    run = StoredRun(out)
    if any(not run.has(method) for method in methods):
        canvases = _kept(out / "canvases.pt", lambda: _scored_canvases(run, frames, count, model, spec))
        root = args.calibration_data_root or args.data_root
        wanted = args.calibrate_batches
        calibration = _kept(
            out / "calibration.pt",
            lambda: StoredFrames(calibration_batches(cfg, "train", root, wanted, model=model), wanted),
        )
        variants = Variants(model, spec, calibration, lambda: build_model(cfg), args.qat_checkpoint)
        for method in methods:
            if not run.has(method):
                network = _open(variants, method, args.backend, spec, out / "models" / method)
                run.save_detections(method, _detect(network, canvases, spec, method))
                _logger.info("%s done", method)
                write_results(run, [m for m in methods if run.has(m)], spec.class_names, args.resamples)
    print(write_results(run, methods, spec.class_names, args.resamples))  # noqa: T201 - what the command is for


def _claim(out: Path, args: argparse.Namespace, count: int) -> None:
    """The folder belongs to one run: what must be equal for its results to stand side by side."""
    mine = {
        "config": Path(args.config).name,
        "checkpoint_sha256": sha256_file(user_path(args.checkpoint)),
        "dataset_sha256": sha256_file(user_path(args.data_root) / "centerpoint_infos_val.pkl"),
        "frames": count,
        "calibrate_batches": args.calibrate_batches,
        "backend": args.backend,
        "ranges_m": [list(pair) for pair in DEFAULT_RANGES_M],
    }
    path = out / "run.json"
    if not path.exists():
        write_json(path, mine)
        return
    theirs = read_json(path)
    different = sorted(key for key in mine if theirs.get(key) != mine[key])
    if different:
        raise ConfigError(
            f"'{out}' holds results of another run: {', '.join(different)} differ. Give another --output, or remove it."
        )


def _kept(path: Path, make: Callable[[], StoredFrames]) -> StoredFrames:
    """Frames of an earlier start of this run, or new ones."""
    from quant.stored_frames import StoredFrames

    if not path.exists():
        make().save(path)
    return StoredFrames.load(path)


def _scored_canvases(run: StoredRun, frames: Any, count: int, model: nn.Module, spec: ModelSpec) -> StoredFrames:
    """Canvases of the frames to score; their ground truth and scenes go to the run's folder."""
    import torch

    from models.components import VoxelEncoder
    from quant.calibration import CalibrationFrame
    from quant.stored_frames import StoredFrames
    from runtime.preprocess import preprocess
    from runtime.scatter import scatter

    encoder = VoxelEncoder(model).eval()
    truth: list[FrameResult] = []
    scenes: list[str] = []

    def canvases() -> Iterable[Any]:
        for index in range(count):
            frame = frames[index]
            truth.append(FrameResult(frame.token, Boxes3D.empty(), frame.ground_truth))
            scenes.append(frame.scene)
            voxels = preprocess(frame.points, spec)
            with torch.no_grad():
                pillars = encoder(torch.from_numpy(voxels.features))
                yield CalibrationFrame(frame.token, scatter(pillars, torch.from_numpy(voxels.coords), spec))

    stored = StoredFrames(canvases(), count)
    run.save_frames(truth, scenes)
    return stored


def _open(variants: Variants, method: str, backend: str, spec: ModelSpec, folder: Path) -> Network:
    (component,) = (item for item in spec.components if item.name == BACKBONE_NECK_HEAD)
    names = [tensor.name for tensor in component.outputs]
    if backend == "pytorch":
        import torch

        network = variants.network(method).eval()

        def run(canvas: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
            with torch.inference_mode():
                return dict(zip(names, (head.numpy() for head in network(torch.from_numpy(canvas))), strict=True))

        return run
    from runtime.backends import open_backend

    variants.export(method, folder)
    opened = open_backend("onnx", spec=spec, onnx_dir=folder)
    (source,) = component.inputs
    return lambda canvas: opened.run(BACKBONE_NECK_HEAD, {source.name: canvas})


def _detect(network: Network, canvases: Any, spec: ModelSpec, label: str) -> list[Boxes3D]:
    return [decode(network(frame.canvas.numpy()), spec) for frame in progress(canvases, f"scoring {label}")]


if __name__ == "__main__":
    sys.exit(main())
