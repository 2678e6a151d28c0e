"""A backend against its reference, on real frames: raw outputs, then boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.errors import DataError
from eval.box_comparison import BoxComparator, BoxComparison, BoxTolerance, default_box_tolerance
from eval.comparison import PRECISIONS, TensorComparator, TensorComparison, Tolerance, default_tolerances
from eval.divergence.bisection import Divergence
from eval.evaluator import ranges_of
from eval.frames import FramesLike, first_frames
from models.spec import INPUT_FEATURES, PILLAR_FEATURES, VOXEL_ENCODER
from runtime.preprocess import preprocess

if TYPE_CHECKING:
    from runtime.pipeline import Pipeline

__all__ = ["OutputVerdict", "VerificationResult", "verify"]


@dataclass(frozen=True)
class OutputVerdict:
    """One output, judged.

    Attributes:
        comparison: What was measured.
        tolerance: What is allowed.
        passed: Whether it is.
        reasons: Why not.
    """

    comparison: TensorComparison
    tolerance: Tolerance
    passed: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class VerificationResult:
    """Outcome of one scenario.

    Attributes:
        scenario: "pytorch (cpu) vs onnx (cpu)".
        precision: Of the tested backend; it chose the tolerances.
        passed: All outputs and the boxes are within their tolerances, and frames were compared.
        num_frames: Frames compared.
        num_empty_frames: Frames on which neither side ran the network, since no point was in range.
        outputs: Pillar features, then the heads in graph order.
        boxes: Decoded boxes; None if no frame was compared.
        box_tolerance: What is allowed of the boxes; None leaves them unjudged.
        reasons: Everything that failed.
        divergences: Where the outputs begin to differ, if that was asked for.
    """

    scenario: str
    precision: str
    passed: bool
    num_frames: int
    num_empty_frames: int
    outputs: tuple[OutputVerdict, ...]
    boxes: BoxComparison | None
    box_tolerance: BoxTolerance | None
    reasons: tuple[str, ...]
    divergences: tuple[Divergence, ...] = ()

    def summary(self) -> str:
        """One line: verdict, worst output, boxes."""
        verdict = "PASSED" if self.passed else "FAILED"
        text = f"{verdict} {self.scenario}, {self.precision}, {self.num_frames} frames"
        if self.outputs:
            worst = max(
                self.outputs, key=lambda item: (math.isnan(item.comparison.relative_l2), item.comparison.relative_l2)
            )
            text += f": relative L2 at most {worst.comparison.relative_l2:.2g} ({worst.comparison.name})"
        if self.boxes is not None and not math.isnan(self.boxes.matched_share):
            total = self.boxes.matched + self.boxes.moved + self.boxes.lost + self.boxes.gained
            text += f", {self.boxes.matched} of {total} boxes agree"
        return text


def verify(
    reference: Pipeline,
    test: Pipeline,
    frames: FramesLike,
    *,
    num_frames: int = 5,
    precision: str = "fp32",
    absolute_tolerance: float | Mapping[str, float] | None = None,
    relative_l2: float | Mapping[str, float] | None = None,
    box_tolerance: BoxTolerance | None = None,
    scenario: str | None = None,
    show_progress: bool = True,
) -> VerificationResult:
    """Runs both pipelines on the same frames and compares pillar features, head outputs and boxes.

    Args:
        reference: Taken as right.
        test: Judged.
        frames: Where the frames come from; the first `num_frames` are used.
        num_frames: -1 uses all.
        precision: Of the tested backend; chooses the default tolerances.
        absolute_tolerance: Largest absolute differences in place of the defaults, for all outputs or by name.
        relative_l2: Limits on the relative L2 difference in place of that default, for all outputs or by name.
        box_tolerance: In place of the default of the precision.
        scenario: Name in the result; made from both backends otherwise.
        show_progress: Whether to show a progress bar.

    Raises:
        DataError: frames are missing or cannot be read.
        ConfigError: tolerances that fit neither the precision nor the outputs; pipelines of different models.
    """
    name = scenario or " vs ".join(f"{item.backend.name} ({item.backend.device})" for item in (reference, test))
    if reference.spec != test.spec:
        raise DataError(f"{name}: the pipelines run different models, '{reference.spec.name}' and '{test.spec.name}'")
    spec = reference.spec
    names = [PILLAR_FEATURES, *(head.name for head in spec.heads)]
    tolerances = default_tolerances(precision, names, absolute_tolerance, relative_l2)
    # A precision without default tolerances has been judged by the given ones; its boxes are measured only.
    judged = box_tolerance
    if judged is None and (absolute_tolerance is None or precision in PRECISIONS):
        judged = default_box_tolerance(precision)
    tensors = {output: TensorComparator(output) for output in names}
    boxes = BoxComparator(judged or BoxTolerance(), spec.class_names, ranges_of(spec))
    compared = empty = 0
    reasons: list[str] = []
    for frame in first_frames(frames, num_frames, f"verifying {name}", show_progress):
        expected, got = reference(frame.points), test(frame.points)
        if not expected.outputs and not got.outputs:
            empty += 1
            continue
        missing = [output for output in names[1:] if output not in expected.outputs or output not in got.outputs]
        if missing:
            reasons.append(f"frame '{frame.token}': output {missing[0]} is missing on one side")
            continue
        compared += 1
        features = {INPUT_FEATURES: preprocess(frame.points, spec).features}
        pillars = [item.backend.run(VOXEL_ENCODER, features)[PILLAR_FEATURES] for item in (reference, test)]
        for output, comparator in tensors.items():
            sides = pillars if output == PILLAR_FEATURES else [expected.outputs[output], got.outputs[output]]
            if sides[0].shape != sides[1].shape:
                reasons.append(
                    f"{output}: shape {sides[1].shape} of the tested backend differs from {sides[0].shape} of the "
                    f"reference, in frame '{frame.token}'"
                )
                continue
            comparator.add(sides[0], sides[1], frame.token)
        boxes.add(expected.detections, got.detections)
    if compared == 0:
        reasons.append(f"no frame was compared ({empty} had no point in the model's range)")
        return VerificationResult(name, precision, False, 0, empty, (), None, judged, tuple(reasons))
    outputs = []
    for output in names:
        comparison = tensors[output].result()
        violations = comparison.violations(tolerances[output])
        outputs.append(OutputVerdict(comparison, tolerances[output], not violations, violations))
        reasons.extend(violations)
    found = boxes.result()
    if judged is not None:
        reasons.extend(found.violations(judged))
    return VerificationResult(
        name, precision, not reasons, compared, empty, tuple(outputs), found, judged, tuple(reasons)
    )
