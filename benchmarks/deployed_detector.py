"""Verification judges the detector that ships: it passes, and fails once the device's suppression is broken.

    python -m benchmarks.deployed_detector --onnx-dir DIR --data-root DIR [--frames 20] [--out JSON]

The detector is `cuda`, one CUDA graph from points to boxes; the reference is ONNX Runtime on the CPU with the same
files. Twice: as it ships, and with kernels that were compiled for twice the suppression radius, while all else is the
model's. Exit code: 0 if the first passes and the second fails, 1 otherwise, 2 where it cannot run.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from base.command import EXIT_FAILED, EXIT_PASSED, add_log_level, run_command, run_main
from base.files import user_path, write_json

if TYPE_CHECKING:
    from eval.frames import FramesLike
    from models.spec import ModelSpec
    from runtime.detector import Detector

__all__ = ["Judgement", "judge"]

_MODEL_CONFIG = "configs/model/centerpoint_t4_demo.py"


@dataclass(frozen=True)
class Judgement:
    """What verification says of a detector as it ships, and of the same one with a broken suppression.

    Attributes:
        shipped, broken: One line each.
        shipped_passed, broken_passed: The verdicts.
        reasons: Why each failed, the shipped one first.
    """

    shipped: str
    broken: str
    shipped_passed: bool
    broken_passed: bool
    reasons: tuple[tuple[str, ...], tuple[str, ...]]

    @property
    def is_right(self) -> bool:
        """The one passes, the other does not."""
        return self.shipped_passed and not self.broken_passed


def judge(
    reference: Detector,
    opener: Callable[[ModelSpec], Detector],
    frames: FramesLike,
    *,
    num_frames: int,
    precision: str,
    **options: Any,
) -> Judgement:
    """Verifies a detector twice.

    Args:
        reference: Taken as right.
        opener: Opens the detector for a specification.
        frames: Where the frames come from; the first `num_frames` are used.
        num_frames: -1 uses all.
        precision: Of the detector.
        options: Of `eval.verification.verify`.
    """
    from eval.verification import verify

    spec = reference.spec
    # The kernels compare squared distances.
    broken = spec.changed(nms_min_radius_m2=4 * spec.one_task("this check").nms_min_radius_m2)
    results = []
    for compiled_for in (spec, broken):
        with opener(compiled_for) as detector:
            # What it says of itself is the model: only its kernels know another radius.
            detector.spec = spec
            options |= {"num_frames": num_frames, "precision": precision, "equal_inputs": precision == "int8"}
            results.append(verify(reference, detector, frames, **options))
    shipped, wrong = results
    verdicts = (shipped.passed, wrong.passed)
    return Judgement(shipped.summary(), wrong.summary(), *verdicts, (shipped.reasons, wrong.reasons))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="deployed_detector", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--onnx-dir", required=True, metavar="DIR", help="both ONNX files")
    parser.add_argument("--data-root", required=True, metavar="DIR", help="T4 dataset")
    parser.add_argument("--model-config", default=_MODEL_CONFIG, help="default %(default)s")
    parser.add_argument("--rot-y-axis-reference", action="store_true", help="files in Autoware's convention")
    parser.add_argument("--device", default="cuda:0", help="default %(default)s")
    parser.add_argument("--frames", type=int, default=20, help="frames compared, default %(default)s")
    parser.add_argument("--out", metavar="JSON", help="where to write the verdicts")
    add_log_level(parser)
    args = parser.parse_args(argv)
    return run_command(lambda: _judge(args), args.log_level)


def _judge(args: argparse.Namespace) -> int:
    from datasets.frames import open_frames
    from deploy.config.paths import input_path
    from deploy.detectors import DetectorFiles, open_checked_detector
    from eval.codec import to_json
    from models.config import load_model_config
    from models.spec import ModelSpec
    from runtime.opening import open_detector

    cfg = load_model_config(input_path(args.model_config))
    spec = dataclasses.replace(ModelSpec.from_config(cfg), rot_y_axis_reference=args.rot_y_axis_reference)
    frames = open_frames(cfg, "val", str(user_path(args.data_root)))
    files = DetectorFiles(onnx_dir=user_path(args.onnx_dir))

    def opener(compiled_for: ModelSpec) -> Detector:
        # Files are checked against the model they were exported from; the broken one is not that.
        return open_detector("cuda", spec=compiled_for, device=args.device, onnx_dir=files.onnx_dir)

    reference, precision = open_checked_detector("onnx", files, spec=spec, device="cpu")
    with reference:
        found = judge(reference, opener, frames, num_frames=args.frames, precision=precision)
    print(f"as it ships: {found.shipped}")  # noqa: T201 - the command's result
    print(f"with twice the suppression radius: {found.broken}")  # noqa: T201 - the command's result
    for what, reasons in zip(("as it ships", "broken"), found.reasons, strict=True):
        for reason in reasons[:5]:
            print(f"  {what}: {reason}")  # noqa: T201 - the command's result
    if args.out:
        write_json(user_path(args.out), to_json(found))
    return EXIT_PASSED if found.is_right else EXIT_FAILED


if __name__ == "__main__":
    run_main(main)
