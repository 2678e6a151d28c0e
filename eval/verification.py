"""The detector that is deployed against its reference, on real frames: counts, pillars, raw outputs, boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.errors import DataError
from eval.box_comparison import BoxComparator, BoxComparison, BoxTolerance, default_box_tolerance
from eval.comparison import PRECISIONS, TensorComparator, TensorComparison, Tolerance, default_tolerances
from eval.frame_pair import FramePair
from eval.frames import FramesLike, first_frames
from eval.ranges import ranges_of
from models.spec import PILLAR_FEATURES

if TYPE_CHECKING:
    from eval.divergence.bisection import Divergence
    from runtime.detector import Detector

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
    reference: Detector,
    test: Detector,
    frames: FramesLike,
    *,
    num_frames: int = 5,
    precision: str = "fp32",
    absolute_tolerance: float | Mapping[str, float] | None = None,
    relative_l2: float | Mapping[str, float] | None = None,
    box_tolerance: BoxTolerance | None = None,
    equal_inputs: bool = False,
    scenario: str | None = None,
    show_progress: bool = True,
) -> VerificationResult:
    """Runs both detectors on the same frames and compares what lies between points and boxes, and the boxes.

    Of each frame: what became of its points (equal), the pillars' cells (equal), their features and the head outputs
    (within the tolerances), the tested detector's boxes against those that the host decodes of its own outputs (equal
    but for the last place), and the boxes of both (within theirs). A detector that shows nothing but its boxes is
    compared by counts and boxes alone.

    A quantized network rounds every activation to one of 255 codes. A difference of 1e-4 in front of it, such as a
    voxel encoder in FP16 makes, moves a few activations to the next code; each of those moves others, and after twenty
    layers the two sides have different rounding errors everywhere. They are as good as one another, and as far apart as
    either is from the float network: comparing them end to end would find no defect. With `equal_inputs` the
    reference's backbone starts from the tested detector's pillars, so that the codes of both sides agree.

    Args:
        reference: Taken as right.
        test: Judged: the detector that is deployed.
        frames: Where the frames come from; the first `num_frames` are used.
        num_frames: -1 uses all.
        precision: Of the tested detector; chooses the default tolerances.
        absolute_tolerance: Largest absolute differences in place of the defaults, for all outputs or by name.
        relative_l2: Limits on the relative L2 difference in place of that default, for all outputs or by name.
        box_tolerance: In place of the default of the precision.
        equal_inputs: Compare the networks behind the voxel encoder on equal inputs; the encoders with each other.
        scenario: Name in the result; made from both detectors otherwise.
        show_progress: Whether to show a progress bar.

    Raises:
        DataError: frames are missing or cannot be read.
        ConfigError: tolerances that fit neither the precision nor the outputs; detectors of different models, or such
            that cannot be compared on equal inputs.
    """
    name = scenario or f"{reference.name} ({reference.device}) vs {test.name} ({test.device})"
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
        pair = FramePair.of(reference, test, frame.points, equal_inputs=equal_inputs)
        reasons.extend(f"frame '{frame.token}': {problem}" for problem in pair.problems())
        if pair.is_empty:
            empty += 1
            continue
        compared += 1
        for output, (expected, got) in pair.tensors().items():
            if expected.shape != got.shape:
                reasons.append(
                    f"{output}: shape {got.shape} of the tested backend differs from {expected.shape} of the "
                    f"reference, in frame '{frame.token}'"
                )
                continue
            tensors[output].add(expected, got, frame.token)
        boxes.add(pair.reference.detections, pair.test.detections, frame.token)
    if compared == 0:
        reasons.append(f"no frame was compared ({empty} had no point in the model's range)")
        return VerificationResult(name, precision, False, 0, empty, (), None, judged, tuple(reasons))
    outputs = []
    shown = names if FramePair.shows(reference, test) else []
    for output in shown:
        comparison = tensors[output].result()
        violations = comparison.violations(tolerances[output])
        outputs.append(OutputVerdict(comparison, tolerances[output], not violations, violations))
        reasons.extend(violations)
    found = boxes.result()
    if judged is not None:
        reasons.extend(boxes.violations())
    if not shown and math.isnan(found.matched_share):
        reasons.append("neither detector shows raw outputs and no box has enough score: nothing was compared")
    return VerificationResult(
        name, precision, not reasons, compared, empty, tuple(outputs), found, judged, tuple(reasons)
    )
