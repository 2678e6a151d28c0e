"""The engine of the metrics: perception_eval where it is installed, and clear words where it is not."""

from __future__ import annotations

import importlib.util
import math
import sys
from typing import Any

import numpy as np
import pytest

from base.boxes import Boxes3D
from base.errors import ConfigError, MissingDependencyError
from eval.metrics import PERCEPTION_EVAL_COMPAT, FrameResult, MatchingMode, MatchingRules, evaluate_detections
from eval.metrics.engine import ENGINE_NAMES, evaluate_with_engine
from eval.metrics.modes import MATCHING_MODES

CLASSES = ("car", "truck", "bus", "bicycle", "pedestrian")
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("perception_eval") is None,
    reason="autoware_perception_evaluation is not installed; it is on no package index",
)


def make_frames(count: int) -> list[FrameResult]:
    rng = np.random.default_rng(11)
    frames = []
    for index in range(count):
        number = 8
        labels = rng.integers(0, len(CLASSES), number)
        boxes = np.column_stack(
            [
                rng.uniform(-60, 60, (number, 2)),
                rng.normal(0, 0.5, number),
                rng.uniform([3, 1.5, 1.4], [9, 2.6, 3.2], (number, 3)),
                rng.uniform(-3.1, 3.1, number),
                rng.normal(0, 3, (number, 2)),
            ]
        ).astype(np.float32)
        moved = boxes + rng.normal(0, 0.3, boxes.shape).astype(np.float32)
        scores = (rng.permutation(1000)[:number].astype(np.float32) / 1000 + index / 1e5).astype(np.float32)
        truth = Boxes3D(boxes, np.ones(number, np.float32), labels, rng.integers(0, 9, number))
        frames.append(FrameResult(f"f{index}", Boxes3D(moved[:6], scores[:6], labels[:6]), truth))
    return frames


def same(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or a == pytest.approx(b, abs=1e-6)


@needs_package
@pytest.mark.parametrize("mode", MATCHING_MODES.values(), ids=lambda mode: mode.name)
def test_engines_agree(mode: MatchingMode) -> None:
    options: dict[str, Any] = {
        "thresholds_m": (0.3, 0.5) if mode.larger_is_better else (1.0, 2.0),
        "ranges_m": ((0.0, 30.0), (30.0, 80.0)),
        "min_score": 0.1,
        "min_num_points": 2,
        "mode": mode,
    }
    frames = make_frames(3)
    native = evaluate_with_engine("native", frames, CLASSES, **options)
    theirs = evaluate_with_engine("perception_eval", frames, CLASSES, **options)
    assert native.engine == "native"
    assert theirs.engine.startswith("perception_eval 1.")
    assert same(native.mean_ap, theirs.mean_ap)
    del options["mode"]
    compat = evaluate_detections(frames, CLASSES, rules=MatchingRules(mode, PERCEPTION_EVAL_COMPAT), **options)
    assert compat.policy == theirs.policy
    for name in [item.name for item in compat.ranges]:
        assert same(compat.range(name).mean_aph, theirs.range(name).mean_aph)
    matched = 0
    for ours, other in zip(native.ranges, theirs.ranges, strict=True):
        for left, right in zip(ours.classes, other.classes, strict=True):
            for a, b in zip(left.thresholds, right.thresholds, strict=True):
                counts = [(x.num_ground_truth, x.num_detections, x.num_true_positives) for x in (a, b)]
                assert counts[0] == counts[1]
                matched += a.num_true_positives
                for name in ("threshold", "ap", "max_f1", "best_score", "best_precision", "best_recall"):
                    assert same(getattr(a, name), getattr(b, name)), name
                assert same(a.match_mean, b.match_mean)
                assert same(a.match_std, b.match_std)
                assert a.curve == pytest.approx(b.curve, abs=1e-6)
    assert matched > 20


@needs_package
def test_a_class_that_the_package_takes_for_another() -> None:
    frames = [FrameResult("a", Boxes3D.empty(), Boxes3D.empty())]
    with pytest.raises(ConfigError, match="takes class 'trailer' for 'truck'"):
        evaluate_with_engine("perception_eval", frames, ["car", "trailer"])


def test_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "perception_eval", None)
    frames = [FrameResult("a", Boxes3D.empty(), Boxes3D.empty())]
    with pytest.raises(MissingDependencyError, match=r"pip install git\+https.*or set metrics.engine = 'native'"):
        evaluate_with_engine("perception_eval", frames, ["car"])


def test_unknown_engine() -> None:
    assert ENGINE_NAMES == ("native", "perception_eval")
    with pytest.raises(ConfigError, match=r"metrics\.engine is 'magic'; it must be one of native, perception_eval"):
        evaluate_with_engine("magic", [], ["car"])
