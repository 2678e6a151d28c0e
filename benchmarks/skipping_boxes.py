"""Skipping empty tiles changes no box of a dataset.

    python -m benchmarks.skipping_boxes --onnx-dir DIR --data-root DIR [--frames N] [--out JSON]

The detector `cuda` twice on the same frames, computing all tiles and those that pillars reach: boxes, scores and labels
of every frame bit for bit, and both mAPs to the last digit. Exit code: 0 if all are equal, 1 otherwise, 2 where it
cannot run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from base.arguments import whole_number
from base.command import EXIT_FAILED, EXIT_PASSED, add_log_level, run_command, run_main
from base.files import user_path, write_json

if TYPE_CHECKING:
    from base.boxes import Boxes3D
    from eval.frames import FramesLike
    from runtime.detector import Detector

__all__ = ["SkippingBoxes", "compare", "main"]

_MODEL_CONFIG = "configs/model/centerpoint_t4_demo.py"


@dataclass(frozen=True)
class SkippingBoxes:
    """One dataset through both detectors.

    Attributes:
        frames: Compared.
        boxes: Of all frames, of the detector that computes all tiles.
        differing: Indices of the frames whose boxes, scores or labels differ in a bit.
        map_all, map_skipping: mAP of both.
    """

    frames: int
    boxes: int
    differing: tuple[int, ...]
    map_all: float
    map_skipping: float

    @property
    def equal(self) -> bool:
        """Every bit, and mAP to the last digit."""
        return not self.differing and self.map_all == self.map_skipping


def compare(
    opener: Callable[[bool], Detector], frames: FramesLike, *, num_frames: int, precision: str
) -> SkippingBoxes:
    """Runs and scores both.

    Args:
        opener: Opens the detector; told whether it skips.
        frames: Where the frames come from; the first `num_frames` are used.
        num_frames: -1 uses all.
        precision: Of the detector, for the results.
    """
    from eval.evaluator import evaluate

    found = []
    for skips in (False, True):
        with opener(skips) as detector:
            found.append(evaluate(detector, frames, num_samples=num_frames, warmup=0, precision=precision))
    every, skipping = found
    pairs = list(zip(every.frames, skipping.frames, strict=True))
    return SkippingBoxes(
        frames=len(pairs),
        boxes=sum(len(one.detections) for one, _ in pairs),
        differing=tuple(i for i, (one, other) in enumerate(pairs) if not _same(one.detections, other.detections)),
        map_all=every.metrics.mean_ap,
        map_skipping=skipping.metrics.mean_ap,
    )


def _same(one: Boxes3D, other: Boxes3D) -> bool:
    columns = ("boxes", "scores", "labels")
    return all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in columns)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.skipping_boxes", description=__doc__)
    parser.add_argument("--onnx-dir", required=True, metavar="DIR", help="both ONNX files")
    parser.add_argument("--data-root", required=True, metavar="DIR", help="T4 dataset")
    parser.add_argument("--model-config", default=_MODEL_CONFIG, help="default %(default)s")
    parser.add_argument("--device", default="cuda:0", help="default %(default)s")
    parser.add_argument("--frames", type=whole_number(1, 10**6), help="frames compared, default all")
    parser.add_argument("--out", metavar="JSON", help="where to write the result")
    add_log_level(parser)
    args = parser.parse_args(argv)
    return run_command(lambda: _run(args), args.log_level)


def _run(args: argparse.Namespace) -> int:
    from datasets.frames import open_frames
    from deploy.config.paths import input_path
    from eval.codec import to_json
    from export.existing import check_onnx_dir
    from models.config import load_model_config
    from models.spec import ModelSpec
    from runtime.opening import open_detector

    cfg = load_model_config(input_path(args.model_config))
    spec = ModelSpec.from_config(cfg)
    frames = open_frames(cfg, "val", str(user_path(args.data_root)))
    onnx_dir = user_path(args.onnx_dir)
    precision = check_onnx_dir(onnx_dir, spec, None, "--onnx-dir")

    def opener(skips: bool) -> Detector:
        options: dict[str, Any] = {"device": args.device, "onnx_dir": onnx_dir, "skips_empty": skips}
        return open_detector("cuda", spec=spec, **options)

    found = compare(opener, frames, num_frames=args.frames or -1, precision=precision)
    print(  # noqa: T201 - the command's result
        f"{precision}: {found.frames} frames, {found.boxes} boxes, {len(found.differing)} frames differ; "
        f"mAP {found.map_all!r} of all tiles, {found.map_skipping!r} skipping"
    )
    if args.out:
        write_json(user_path(args.out), to_json(found))
    return EXIT_PASSED if found.equal else EXIT_FAILED


if __name__ == "__main__":
    run_main(main)
