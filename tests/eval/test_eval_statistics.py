"""The bootstrap's AP must be the metric's AP of the drawn frames, and its verdicts those that the data allow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.errors import ConfigError, DataError
from benchmarks.bootstrap_coverage import measure_coverage, simulate_population
from eval import statistics, weighted_precision
from eval.codec import from_json, to_json
from eval.metrics import (
    CENTER_DISTANCE_BEV,
    PERCEPTION_EVAL,
    ApPolicy,
    FrameResult,
    ObjectLimits,
    evaluate_detections,
)
from eval.statistics import BootstrapComparison, paired_bootstrap
from eval.weighted_precision import WeightedPrecision

CLASSES = ("car", "bus", "tram")
RANGES = ((0.0, 20.0), (20.0, 40.0))
THRESHOLDS = (0.5, 2.0)


def detector(num_frames: int, seed: int, recall: float = 0.8, noise_m: float = 0.4) -> list[FrameResult]:
    """Frames with the same truth for every seed; nothing is ever a tram."""
    frames = []
    for index in range(num_frames):
        common, own = np.random.default_rng([5, index]), np.random.default_rng([seed, index])
        count = int(common.integers(0, 7))
        truth = np.zeros((count, 9), np.float32)
        truth[:, :2] = common.uniform(-27, 27, (count, 2))
        truth[:, 3:6] = 2.0
        labels = common.integers(0, 2, count)
        found = own.random(count) < recall
        hits = truth[found].copy()
        hits[:, :2] += own.normal(0, noise_m, (len(hits), 2))
        false = np.zeros((int(own.integers(0, 5)), 9), np.float32)
        false[:, :2] = own.uniform(-27, 27, (len(false), 2))
        false[:, 3:6] = 2.0
        scores = np.concatenate([own.uniform(0.2, 1.0, len(hits)), own.uniform(0.05, 0.7, len(false))])
        detections = Boxes3D(
            np.concatenate([hits, false]),
            scores.astype(np.float32),
            np.concatenate([labels[found], own.integers(0, 2, len(false))]),
        )
        frames.append(FrameResult(f"f{index}", detections, Boxes3D(truth, np.ones(count, np.float32), labels)))
    return frames


def joined(first: Boxes3D, second: Boxes3D) -> Boxes3D:
    names = ("boxes", "scores", "labels")
    return Boxes3D(*(np.concatenate([getattr(first, name), getattr(second, name)]) for name in names))


def compare(a: list[FrameResult], b: list[FrameResult], **options: Any) -> BootstrapComparison:
    settings: dict[str, Any] = {"ranges_m": RANGES, "thresholds_m": THRESHOLDS, "num_resamples": 200, **options}
    return paired_bootstrap(a, b, CLASSES, **settings)


def expected_ap(frames: list[FrameResult], counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """The metric itself, on frames that are really repeated."""
    repeated = [
        FrameResult(f"{frame.token}#{copy}", frame.detections, frame.ground_truth)
        for frame, times in zip(frames, counts, strict=True)
        for copy in range(times)
    ]
    metrics = evaluate_detections(repeated, CLASSES, ranges_m=RANGES, thresholds_m=THRESHOLDS)
    return np.array([[part.mean_ap, *(item.mean_ap for item in part.classes)] for part in metrics.ranges])


@pytest.fixture(params=["all draws at once", "draw by draw"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few detections of a class are computed in one way, many in another."""
    monkeypatch.setattr(weighted_precision, "_FEW", -1 if request.param == "draw by draw" else 10**9)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("num_frames", [3, 40])
def test_weights_are_repetitions(num_frames: int) -> None:
    frames = detector(num_frames, seed=1)
    rng = np.random.default_rng(num_frames)
    counts = rng.multinomial(num_frames, np.full(num_frames, 1 / num_frames), size=30).astype(np.int32).T
    limits = [ObjectLimits(low, high) for low, high in (*RANGES, (0.0, 40.0))]
    result = WeightedPrecision(frames, len(CLASSES), THRESHOLDS, limits, CENTER_DISTANCE_BEV)
    got = result.average_precision(counts, PERCEPTION_EVAL)
    want = np.stack([expected_ap(frames, column) for column in counts.T], axis=-1)
    np.testing.assert_allclose(got, want, atol=1e-12)
    assert np.isnan(want[:, 3]).all()  # The class that never occurs.
    assert (want[0, 0] > 0.05).any()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("scores", [[0.9, 0.8, 0.7, 0.6], [0.5, 0.5, 0.5, 0.5], [0.6, 0.7, 0.8, 0.9]])
@pytest.mark.parametrize("pattern", range(16))
def test_every_order_of_hits_on_the_recall_grid(scores: list[float], pattern: int) -> None:
    # Ten ground truths put recalls exactly on points of the grid, where interpolation is most delicate.
    truth = np.zeros((10, 9), np.float32)
    truth[:, 0], truth[:, 3:6] = np.arange(10) * 2 + 1, 1.0
    found = truth[:4].copy()
    found[:, 1] = [0.0 if pattern >> index & 1 else 15.0 for index in range(4)]
    frame = FrameResult(
        "f",
        Boxes3D(found, np.array(scores, np.float32), np.zeros(4, np.int64)),
        Boxes3D(truth, np.ones(10, np.float32), np.zeros(10, np.int64)),
    )
    result = WeightedPrecision([frame], 3, THRESHOLDS, [ObjectLimits(0.0, 40.0)], CENTER_DISTANCE_BEV)
    got = result.average_precision(np.ones((1, 1), np.int32), PERCEPTION_EVAL)[0, :, 0]
    np.testing.assert_allclose(got, expected_ap([frame], np.ones(1, int))[2], atol=1e-12)


def test_draw_by_draw_on_every_recall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 200 ground truths drawn: recalls next to every point of the grid, on either side of what rounding makes."""
    frames = detector(60, seed=3)
    counts = np.random.default_rng(0).integers(0, 3, (60, 100)).astype(np.int32)
    counts[:, 0] = 0
    result = WeightedPrecision(frames, len(CLASSES), THRESHOLDS, [ObjectLimits(0.0, 40.0)], CENTER_DISTANCE_BEV)
    found = []
    for few in (-1, 10**9):
        monkeypatch.setattr(weighted_precision, "_FEW", few)
        found.append(result.average_precision(counts, PERCEPTION_EVAL))
    np.testing.assert_allclose(found[0], found[1], rtol=0.0, atol=1e-13)
    assert len(np.unique(found[0][0, 1])) > 50


def test_a_worse_detector_is_worse_and_the_other_way_round() -> None:
    good, bad = detector(80, 1), detector(80, 2, recall=0.5)
    found = compare(good, bad)
    total = found.total
    assert (total.verdict, total.class_name, total.range_name) == ("worse", None, "total")
    assert total.low < total.difference < total.high < 0
    metrics = [evaluate_detections(side, CLASSES, ranges_m=RANGES, thresholds_m=THRESHOLDS) for side in (good, bad)]
    assert (total.a, total.b) == (metrics[0].mean_ap, metrics[1].mean_ap)
    assert found.of("car", "0-20 m").b == metrics[1].range("0-20 m").of_class("car").mean_ap
    back = compare(bad, good)
    assert back.total.verdict == "better"
    assert back.total.high == pytest.approx(-total.low, abs=1e-12)


def test_equal_and_equally_good_detectors_are_indistinguishable() -> None:
    same = compare(detector(40, 1), detector(40, 1)).total
    assert (same.difference, same.low, same.high, same.verdict) == (0.0, 0.0, 0.0, "indistinguishable")
    other = compare(detector(40, 1), detector(40, 3)).total
    assert other.verdict == "indistinguishable"
    assert other.low < 0 < other.high


def test_a_class_without_objects_has_no_verdict() -> None:
    item = compare(detector(10, 1), detector(10, 2)).of("tram")
    assert item.verdict == "undefined"
    assert all(math.isnan(value) for value in (item.a, item.difference, item.low, item.high))


def test_all_ranges_and_classes_in_order() -> None:
    found = compare(detector(10, 1), detector(10, 2), label_a="x", label_b="y")
    names = [(item.range_name, item.class_name) for item in found.differences]
    assert names == [(r, c) for r in ("0-20 m", "20-40 m", "total") for c in (None, *CLASSES)]
    assert (found.label_a, found.label_b, found.num_frames, found.num_groups) == ("x", "y", 10, 10)
    with pytest.raises(KeyError, match="no difference for class 'tank' in range 'total'"):
        found.of("tank")


def test_the_interval_is_that_of_plain_resampling() -> None:
    a, b = detector(30, 1), detector(30, 2, recall=0.6)
    found = compare(a, b, num_resamples=150, seed=3, confidence=0.8).of("car", "0-20 m")
    rng = np.random.default_rng(3)
    counts = np.concatenate([rng.multinomial(30, np.full(30, 1 / 30), size=size) for size in (128, 22)])
    drawn = [expected_ap(b, row)[0, 1] - expected_ap(a, row)[0, 1] for row in counts]
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, (10, 90))), abs=1e-12)


def test_seed_decides_and_confidence_widens() -> None:
    a, b = detector(30, 1), detector(30, 2)
    first, again, other = (compare(a, b, seed=seed).total for seed in (0, 0, 1))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)
    wide = compare(a, b, confidence=0.98).total
    assert wide.low < first.low < first.high < wide.high


def test_groups_that_repeat_one_frame_count_once() -> None:
    # Ten copies of every frame hold no more evidence than one: by frame the interval shrinks, by group it must not.
    few = [detector(20, seed) for seed in (1, 2)]
    many = [
        [
            FrameResult(f"{frame.token}-{copy}", frame.detections, frame.ground_truth)
            for frame in side
            for copy in range(9)
        ]
        for side in few
    ]
    groups = [frame.token.split("-")[0] for frame in many[0]]
    alone = compare(*few, num_resamples=500).total
    grouped = compare(*many, groups=groups, num_resamples=500).total
    by_frame = compare(*many, num_resamples=500).total
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.05)
    assert by_frame.high - by_frame.low < 0.5 * (alone.high - alone.low)
    assert compare(*many, groups=groups).num_groups == 20


def test_coverage_of_a_small_simulation() -> None:
    # 95 % of 120 is 114; fewer than 104, or all 120, would happen about once in five hundred runs.
    population = simulate_population(600, 0)
    coverage = measure_coverage(population, trials=120, frames=40, resamples=100)
    assert coverage.truth < 0
    assert 104 / 120 <= coverage.covered < 1.0
    assert coverage.below + coverage.above == pytest.approx(1 - coverage.covered)
    half = measure_coverage(population, trials=60, frames=40, resamples=100, confidence=0.5)
    assert 0.3 <= half.covered <= 0.7
    assert "of 60 intervals of confidence 50% contain the truth" in str(half)


def test_few_frames_are_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(statistics._logger, "warning", lambda text, *values: warnings.append(text % values))
    compare(detector(30, 1), detector(30, 2))
    compare(detector(10, 1), detector(10, 2), num_resamples=0)
    assert warnings == []
    compare(detector(10, 1), detector(10, 2))
    compare(detector(30, 1), detector(30, 2), groups=["a", "b"] * 15)
    assert warnings == [
        "b against a: an interval over 10 frames is too narrow; evaluate at least 20",
        "b against a: an interval over 2 groups of frames is too narrow; evaluate at least 20",
    ]


def test_one_frame_or_group_has_no_interval() -> None:
    """Drawn again and again, one frame is always the same: an interval without width would claim certainty."""
    one = compare(detector(1, 1), detector(1, 2))
    same = compare(detector(30, 1), detector(30, 2), groups=["drive"] * 30)
    for found in (one, same):
        assert all(math.isnan(item.low) and math.isnan(item.high) for item in found.differences)
        assert {item.verdict for item in found.differences} == {"undefined"}
        assert not math.isnan(found.total.difference)


def test_objects_of_one_frame_give_no_verdict() -> None:
    """One bus, in one of forty frames, found by one side only: a difference, but nothing sure of buses."""
    bus = Boxes3D(np.array([[5, 5, 0, 2, 2, 2, 0, 0, 0]], np.float32), np.ones(1, np.float32), np.array([1]))
    a, b = detector(40, 1, recall=0.9), detector(40, 1, recall=0.9)
    for frames, found in ((a, True), (b, False)):
        for index, frame in enumerate(frames):
            cars = [part.select(part.labels == 0) for part in (frame.detections, frame.ground_truth)]
            if index == 7:
                cars[1] = joined(cars[1], bus)
                cars[0] = joined(cars[0], bus) if found else cars[0]
            frames[index] = FrameResult(frame.token, *cars)
    of_bus = compare(a, b).of("bus")
    assert [of_bus.a, of_bus.b, of_bus.difference] == pytest.approx([1.0, 0.0, -1.0])
    assert (math.isnan(of_bus.low), of_bus.verdict) == (True, "undefined")
    assert compare(a, b).of("car").verdict == "indistinguishable"


def test_json_round_trip() -> None:
    found = compare(detector(10, 1), detector(10, 2))
    again = from_json(BootstrapComparison, to_json(found))
    assert again.total == found.total
    assert to_json(again) == to_json(found)


def test_wrong_input_is_refused() -> None:
    a = detector(10, 1)
    with pytest.raises(DataError, match="x has 10 frames and y 9; a paired comparison needs the same"):
        compare(a, a[:9], label_a="x", label_b="y")
    with pytest.raises(DataError, match="frame 0 is 'f0' of a but 'f1' of b"):
        compare(a[:2], a[1::-1])
    moved = FrameResult("f3", a[3].detections, a[4].ground_truth)
    with pytest.raises(DataError, match="frame 'f3' has other ground truth in a than in b"):
        compare(a, [*a[:3], moved, *a[4:]])
    with pytest.raises(DataError, match="there are no frames to compare"):
        compare([], [])
    with pytest.raises(DataError, match="3 groups for 10 frames"):
        compare(a, a, groups=["x"] * 3)
    with pytest.raises(ConfigError, match=r"confidence is 95.0; give a share between 0 and 1"):
        compare(a, a, confidence=95.0)
    with pytest.raises(ConfigError, match=r"num_resamples is 20; intervals of confidence 0.95 need at least 40"):
        compare(a, a, num_resamples=20)
    with pytest.raises(ConfigError, match="'raw' has none"):
        compare(a, a, policy=ApPolicy("raw", envelope=False))
    with pytest.raises(ConfigError, match=r"range \(3.0, 1.0\) is empty"):
        compare(a, a, ranges_m=[(3.0, 1.0)])
