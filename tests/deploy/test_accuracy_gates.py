"""Gates on real evaluations: which step fails, against which reference, and what is recorded."""

from __future__ import annotations

import numpy as np
import pytest

from base.boxes import Boxes3D
from deploy.accuracy import judge_accuracy
from deploy.config.schema import EvaluationConfig, GatesConfig, StatisticsConfig
from deploy.steps import Step
from eval.evaluator import BackendEvaluation, EvaluationSummary
from eval.frame_run import InputCounts
from eval.gates import GateResult
from eval.machine import MachineInfo
from eval.metrics import FrameResult, evaluate_detections
from eval.statistics import BootstrapComparison

CLASSES = ("car", "bus")
MACHINE = MachineInfo.current()


def evaluation(backend: str, num_missed: int, num_frames: int = 40) -> BackendEvaluation:
    """One car a frame, found everywhere but in the first `num_missed` frames."""
    frames = []
    for index in range(num_frames):
        truth = np.array([[10.0 + index / 4, 2.0, 0.0, 4.0, 2.0, 1.5, 0.0, 0.0, 0.0]], np.float32)
        found = truth[: 0 if index < num_missed else 1]
        frames.append(
            FrameResult(
                f"f{index}",
                Boxes3D(found, np.full(len(found), 0.9, np.float32), np.zeros(len(found), np.int64)),
                Boxes3D(truth, np.ones(1, np.float32), np.zeros(1, np.int64)),
            )
        )
    metrics = evaluate_detections(frames, CLASSES, ranges_m=[(0.0, 15.0), (15.0, 30.0)])
    counts = InputCounts(1.0, 0, 0, 0, 0, 0)
    summary = EvaluationSummary(backend, "cpu", "fp32", num_frames, 0, metrics, {}, (), counts, MACHINE)
    scenes = tuple(f"scene-{index // 4}" for index in range(num_frames))
    return BackendEvaluation(summary, tuple(frames), scenes)


def judge(
    config: EvaluationConfig, **missed: int
) -> tuple[dict[str, Step], tuple[BootstrapComparison, ...], tuple[GateResult, ...]]:
    pairs = [(Step(f"evaluate {name}", "PASSED"), evaluation(name, number)) for name, number in missed.items()]
    comparisons, gates = judge_accuracy(pairs, config)
    return {item.summary.backend: step for step, item in pairs}, comparisons, gates


def test_the_backend_that_loses_fails_and_says_why() -> None:
    config = EvaluationConfig(gates=GatesConfig(max_drop=0.05))
    steps, comparisons, gates = judge(config, pytorch=0, onnx=0, tensorrt=20)
    assert [step.status for step in steps.values()] == ["PASSED", "PASSED", "FAILED"]
    # Half of the recalls 0.11 ... 1.00 less: 40 of 90 remain.
    assert steps["tensorrt"].reason == (
        "mAP 0.4444 is 0.5556 below pytorch fp32 (cpu); evaluation.gates.max_drop is 0.05"
    )
    assert [(item.label_a[:4], item.label_b[:4]) for item in comparisons] == [
        ("pyto", "onnx"),
        ("pyto", "tens"),
        ("onnx", "tens"),
    ]
    assert [item.total.verdict for item in comparisons] == ["indistinguishable", "worse", "worse"]
    assert [gate.status for gate in gates] == ["PASSED", "FAILED"]


def test_reference_that_ran_later() -> None:
    config = EvaluationConfig(gates=GatesConfig(reference="onnx", max_drop=0.05))
    steps, _, gates = judge(config, pytorch=20, onnx=0)
    assert (steps["pytorch"].status, steps["onnx"].status) == ("FAILED", "PASSED")
    assert [(gate.backend, gate.reference) for gate in gates] == [("pytorch fp32 (cpu)", "onnx fp32 (cpu)")]
    assert gates[0].value == pytest.approx(0.5556, abs=1e-4)


def test_nothing_passes_without_its_reference() -> None:
    steps, _, gates = judge(EvaluationConfig(gates=GatesConfig(max_drop=0.5)), onnx=0)
    assert steps["onnx"].status == "FAILED"
    assert steps["onnx"].reason == "evaluation.gates could not be judged: pytorch was not evaluated"
    assert gates == ()


def test_by_range_and_without_intervals() -> None:
    gates = GatesConfig(max_drop_per_range={"15-30 m": 0.01})
    config = EvaluationConfig(gates=gates, statistics=StatisticsConfig(num_resamples=0))
    steps, comparisons, found = judge(config, pytorch=0, onnx=20)
    # The frames without a detection are those of the near range.
    assert steps["onnx"].status == "PASSED"
    assert found[0].subject == "mAP 15-30 m"
    assert comparisons[0].total.verdict == "undefined"
    assert np.isnan(comparisons[0].total.low)
    assert comparisons[0].total.difference == pytest.approx(-0.5556, abs=1e-4)


def test_scenes_are_drawn_where_asked_for() -> None:
    by_frame = judge(EvaluationConfig(), pytorch=0, onnx=20)[1][0]
    by_scene = judge(EvaluationConfig(statistics=StatisticsConfig(group_by="scene")), pytorch=0, onnx=20)[1][0]
    assert (by_frame.num_groups, by_scene.num_groups) == (40, 10)
    # Whole scenes are lost or kept here: they hold less evidence than forty single frames would.
    assert by_scene.total.high - by_scene.total.low > 1.5 * (by_frame.total.high - by_frame.total.low)


def test_limits_on_map_itself() -> None:
    steps, _, gates = judge(EvaluationConfig(min_map=0.9, max_map_drop=0.1), pytorch=0, onnx=20)
    assert steps["pytorch"].status == "PASSED"
    assert steps["onnx"].reason == (
        "mAP 0.4444 is below evaluation.min_map = 0.9; "
        "mAP 0.4444 is 0.5556 below PyTorch's, evaluation.max_map_drop is 0.1"
    )
    assert [(gate.key, gate.status) for gate in gates] == [
        ("evaluation.min_map", "PASSED"),
        ("evaluation.min_map", "FAILED"),
        ("evaluation.max_map_drop", "FAILED"),
    ]
