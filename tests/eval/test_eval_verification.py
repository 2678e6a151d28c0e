"""Verification must pass for equal backends and fail, naming the culprit, for each kind of difference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from base.boxes import Boxes3D
from base.errors import ConfigError, DataError
from eval.box_comparison import BoxComparator, BoxGroup, BoxTolerance, default_box_tolerance
from eval.comparison import PRECISIONS, TensorComparator, Tolerance, default_tolerances
from eval.verification import VerificationResult, verify
from tests.eval.toy_detector import Toy


def run(toy: Toy, test: dict[str, Any], **options: Any) -> VerificationResult:
    options.setdefault("num_frames", 3)
    return verify(toy.pipeline("pytorch"), toy.pipeline("onnx", **test), toy.frames(), show_progress=False, **options)


def test_equal_backends_pass(toy: Toy) -> None:
    result = run(toy, {})
    assert result.passed
    assert result.reasons == ()
    assert result.num_frames == 3
    assert result.scenario == "pytorch (cpu) vs onnx (cpu)"
    assert [item.comparison.name for item in result.outputs] == ["pillar_features", "heatmap", "reg"]
    assert all(item.comparison.max_abs == 0.0 for item in result.outputs)
    assert result.boxes is not None
    assert result.boxes.matched == 3
    assert result.summary().startswith("PASSED pytorch (cpu) vs onnx (cpu), fp32, 3 frames")


@pytest.mark.parametrize("output", ["pillar_features", "heatmap", "reg"])
def test_the_failing_output_is_named(toy: Toy, output: str) -> None:
    result = run(toy, {"noise": {output: 1e-3}})
    assert not result.passed
    assert [item.comparison.name for item in result.outputs if not item.passed] == [output]
    assert all(reason.startswith(f"{output}:") for reason in result.reasons)
    assert "relative L2 difference" in result.reasons[0]


def test_rounding_passes_and_precision_decides(toy: Toy) -> None:
    assert run(toy, {"noise": {"reg": 1e-6}}).passed
    assert not run(toy, {"noise": {"reg": 3e-3}}).passed
    assert run(toy, {"noise": {"reg": 3e-3}}, precision="fp16").passed
    assert not run(toy, {"noise": {"reg": 1e-1}}, precision="fp16").passed


def test_moved_boxes_fail_although_outputs_agree(toy: Toy) -> None:
    result = run(toy, {"shift_m": 0.02})
    assert not result.passed
    assert result.boxes is not None
    assert (result.boxes.matched, result.boxes.moved) == (0, 3)
    assert result.boxes.max_center_m == pytest.approx(0.02, abs=1e-5)
    assert "0.00% of the boxes with score >= 0.3 agree within 1 cm, 99% are needed" in result.reasons[0]
    assert run(toy, {"shift_m": 0.02}, precision="fp16").passed


def test_lost_boxes_fail(toy: Toy) -> None:
    result = run(toy, {"shift_m": 3.0})
    assert result.boxes is not None
    assert (result.boxes.lost, result.boxes.gained) == (3, 3)
    assert not result.passed


def test_nan_is_counted_and_fails(toy: Toy) -> None:
    result = run(toy, {"noise": {"heatmap": math.nan}})
    assert not result.passed
    heatmap = result.outputs[1].comparison
    assert (heatmap.nonfinite_test, heatmap.nonfinite_reference) == (3 * 2 * 40 * 40, 0)
    assert any("heatmap: 9600 values of the tested backend are NaN or infinite" in item for item in result.reasons)


def test_nothing_compared_is_a_failure(toy: Toy) -> None:
    frames = [toy.frame("empty", np.zeros((0, 5), np.float32), Boxes3D.empty())]
    result = verify(toy.pipeline("a"), toy.pipeline("b"), frames, num_frames=1, show_progress=False)
    assert not result.passed
    assert result.num_frames == 0
    assert result.reasons == ("no frame was compared (1 had no point in the model's range)",)


def test_relative_limits_take_the_place_of_the_defaults(toy: Toy) -> None:
    noisy = {"noise": {"reg": 3e-3}}
    assert run(toy, noisy, precision="fp16").passed
    result = run(toy, noisy, precision="fp16", relative_l2={"reg": 1e-3})
    assert [item.comparison.name for item in result.outputs if not item.passed] == ["reg"]
    assert result.outputs[2].tolerance == Tolerance(relative_l2=1e-3, max_abs_share=3e-2)
    assert result.outputs[1].tolerance.max_score_error == 3e-2
    with pytest.raises(ConfigError, match=r"relative_l2 names unknown outputs \['bbox'\]"):
        run(toy, {}, relative_l2={"bbox": 0.1})


def test_every_precision_has_defaults_that_grow_with_its_rounding() -> None:
    found = [default_tolerances(precision, ["reg"])["reg"].relative_l2 for precision in ("fp32", "fp16", "int8")]
    limits = [limit for limit in found if limit is not None]
    assert len(limits) == 3
    assert limits == sorted(limits)
    for precision in PRECISIONS:
        assert default_box_tolerance(precision).min_matched_share >= 0.95


def test_own_tolerances_take_the_place_of_the_defaults(toy: Toy) -> None:
    noisy = {"noise": {"reg": 1e-3}}
    assert run(toy, noisy, absolute_tolerance=0.1).passed
    assert not run(toy, noisy, absolute_tolerance={"heatmap": 0.1}).passed
    result = run(toy, noisy, absolute_tolerance={"reg": 1e-4})
    assert "reg: largest difference" in result.reasons[0]
    assert run(toy, {}, precision="int4", absolute_tolerance=0.1).passed


def test_wrong_tolerances_and_frames_are_refused(toy: Toy) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown outputs \['bbox'\]; the outputs are \['pillar_features', 'heatmap'"
    ):
        run(toy, {}, absolute_tolerance={"bbox": 0.1})
    with pytest.raises(ConfigError, match="no default tolerances for precision 'int4', only for fp32, fp32_tf32, fp16"):
        run(toy, {}, precision="int4")
    with pytest.raises(ConfigError, match=r"tolerance of output .reg. is 0.0; it must be above 0"):
        run(toy, {}, absolute_tolerance={"reg": 0.0})
    with pytest.raises(DataError, match="9 frames were asked for, but the dataset has 4"):
        run(toy, {}, num_frames=9)


def test_tensor_statistics_against_their_formulas() -> None:
    rng = np.random.default_rng(0)
    frames = [rng.normal(size=(2, 3, 8, 8)).astype(np.float32) for _ in range(2)]
    comparator = TensorComparator("heatmap")
    for index, (a, b) in enumerate(frames):
        comparator.add(a, b, f"f{index}")
    got = comparator.result()
    a, b = (np.concatenate([frame[side].ravel() for frame in frames]).astype(np.float64) for side in (0, 1))
    assert got.elements == a.size
    assert got.max_abs == pytest.approx(np.abs(a - b).max())
    assert got.mean_abs == pytest.approx(np.abs(a - b).mean())
    assert got.relative_l2 == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a))
    assert got.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert got.max_score_error == pytest.approx(np.abs(1 / (1 + np.exp(-a)) - 1 / (1 + np.exp(-b))).max())
    assert (got.reference_min, got.reference_max) == (a.min(), a.max())
    worst = max(range(2), key=lambda index: np.abs(frames[index][0] - frames[index][1]).max())
    assert got.worst_frame == f"f{worst}"


def test_zero_reference() -> None:
    zeros = np.zeros((1, 4), np.float32)
    same, other = TensorComparator("reg"), TensorComparator("reg")
    same.add(zeros, zeros, "f")
    other.add(zeros, zeros + 1, "f")
    limits = Tolerance(relative_l2=1e-5, max_abs_share=1e-4)
    assert same.result().violations(limits) == ()
    assert other.result().relative_l2 == math.inf
    assert len(other.result().violations(limits)) == 2
    assert TensorComparator("reg").result().violations(limits)[0] == "reg: no element was compared"


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"reg: shape \(1, 3\) of the tested backend differs from \(1, 4\)"):
        TensorComparator("reg").add(np.zeros((1, 4), np.float32), np.zeros((1, 3), np.float32), "f")


def test_a_heatmap_error_far_below_the_threshold_is_tolerated() -> None:
    reference = np.full((1, 1, 4, 4), -14.0, np.float32)
    reference[0, 0, 0, 0] = 3.0
    test = reference.copy()
    test[0, 0, 3, 3] += 0.05
    comparator = TensorComparator("heatmap")
    comparator.add(reference, test, "f")
    limits = default_tolerances("fp16", ["heatmap"])["heatmap"]
    assert comparator.result().violations(limits) == ()
    test[0, 0, 0, 0] = 0.0
    comparator.add(reference, test, "g")
    assert any("largest score difference" in item for item in comparator.result().violations(limits))


def boxes(rows: list[tuple[float, float, float, int]]) -> Boxes3D:
    """x, yaw, score, label."""
    values = np.zeros((len(rows), 9), np.float32)
    values[:, 0] = [row[0] for row in rows]
    values[:, 6] = [row[1] for row in rows]
    return Boxes3D(values, np.array([row[2] for row in rows], np.float32), np.array([row[3] for row in rows], np.int64))


def test_box_pairs() -> None:
    comparator = BoxComparator(BoxTolerance())
    comparator.add(
        boxes([(0.0, 3.1, 0.9, 0), (5.0, 0.0, 0.31, 0), (9.0, 0.0, 0.9, 0), (20.0, 0.0, 0.2, 0)]),
        # Turned across ±π; slightly below the score; another class; below the score on both sides.
        boxes([(0.005, -3.1, 0.8, 0), (5.0, 0.0, 0.29, 0), (9.0, 0.0, 0.9, 1), (20.0, 0.0, 0.2, 0)]),
    )
    result = comparator.result()
    assert (result.num_reference, result.num_test) == (3, 2)
    assert (result.matched, result.moved, result.lost, result.gained) == (2, 0, 1, 1)
    assert result.max_yaw_rad == pytest.approx(2 * np.pi - 6.2, abs=1e-5)
    assert result.max_score == pytest.approx(0.1, abs=1e-6)
    assert result.matched_share == pytest.approx(0.5)


def test_boxes_by_class_and_range() -> None:
    comparator = BoxComparator(BoxTolerance(), ["car", "bus"], [(0.0, 10.0), (10.0, 30.0)])
    comparator.add(
        boxes([(1.0, 0, 0.9, 0), (2.0, 0, 0.9, 1), (15.0, 0, 0.9, 0), (40.0, 0, 0.9, 1), (12.0, 0, 0.2, 1)]),
        # Matched; moved; lost with nothing near; matched beyond the ranges; gained across the border of two ranges.
        boxes([(1.0, 0, 0.9, 0), (2.1, 0, 0.9, 1), (40.0, 0, 0.9, 1), (9.9, 0, 0.9, 0)]),
    )
    result = comparator.result()
    assert (result.matched, result.moved, result.lost, result.gained) == (2, 1, 1, 1)
    assert result.groups == (
        BoxGroup("car", "0-10 m", 1, 0, 0, 1),
        BoxGroup("car", "10-30 m", 0, 0, 1, 0),
        BoxGroup("bus", "0-10 m", 0, 1, 0, 0),
        BoxGroup("bus", "beyond", 1, 0, 0, 0),
    )
    assert result.violations(BoxTolerance())[0].endswith("1 gained; most of them car at 0-10 m")


def test_each_box_has_one_partner() -> None:
    comparator = BoxComparator(BoxTolerance(max_center_m=0.3))
    comparator.add(boxes([(0.0, 0, 0.9, 0), (0.2, 0, 0.8, 0)]), boxes([(0.1, 0, 0.9, 0)]))
    assert (comparator.result().matched, comparator.result().lost) == (1, 1)


def test_no_boxes_is_no_verdict() -> None:
    comparator = BoxComparator(BoxTolerance())
    comparator.add(Boxes3D.empty(), Boxes3D.empty())
    assert math.isnan(comparator.result().matched_share)
    assert comparator.result().violations(BoxTolerance()) == ()
