"""The benchmarks measure what they say: the load, the sizes, real scores; no test looks at how long anything takes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import metrics, score_file
from benchmarks.scenes import CLASS_NAMES, make_frames
from eval.metrics import DetectionScorer, MatchingRules, ObjectLimits
from eval.score import main as score_main


def test_frames_have_the_load_of_the_reference() -> None:
    found, truth = make_frames(20, 60, seed=1)
    assert np.bincount(found.frame).tolist() == [60] * 20
    assert np.bincount(truth.frame).tolist() == [60] * 20
    scorer = DetectionScorer(
        CLASS_NAMES, [(2.0,)] * len(CLASS_NAMES), {"all": ObjectLimits(0.0, 121.0)}, MatchingRules()
    )
    scorer.add(found, truth, 20)
    at = [item.thresholds[0] for item in scorer.result()["all"]]
    hits, total = sum(item.num_true_positives for item in at), sum(item.num_ground_truth for item in at)
    # A detector that finds most: neither an empty matching nor a perfect one would be a fair load.
    assert 0.6 < hits / total < 0.9


def test_equal_seeds_give_equal_frames() -> None:
    for left, right in zip(make_frames(3, 10, seed=7), make_frames(3, 10, seed=7), strict=True):
        np.testing.assert_array_equal(left.center, right.center)
        np.testing.assert_array_equal(left.label, right.label)
    assert not np.array_equal(make_frames(3, 10, seed=7)[0].center, make_frames(3, 10, seed=8)[0].center)


@pytest.mark.parametrize("load", list(metrics.LOADS))
def test_every_load_is_measured(load: str) -> None:
    item = metrics.measure(load, 5)
    assert (item.load, item.frames) == (load, 5)
    assert item.seconds > 0
    assert item.frames_per_s == pytest.approx(5 / item.seconds)
    reference = metrics.REFERENCE_FRAMES_PER_S.get(load, math.nan)
    assert item.times_reference == pytest.approx(item.frames_per_s / reference, nan_ok=True)


def test_growth_is_the_exponent() -> None:
    def item(frames: int, seconds: float) -> metrics.Measurement:
        return metrics.Measurement("awml", frames, seconds, seconds, frames / seconds, 1.0, 50.0)

    assert metrics.growth_exponent([item(10, 1.0), item(100, 10.0)]) == pytest.approx(1.0)
    assert metrics.growth_exponent([item(10, 1.0), item(100, 100.0)]) == pytest.approx(2.0)
    assert math.isnan(metrics.growth_exponent([item(10, 1.0)]))


def test_command_prints_a_table_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "metrics.json"
    options = ["--frames", "3", "6", "--loads", "awml", "awml, four ranges", "--out", str(out)]
    assert metrics.main(options) == 0
    text = capsys.readouterr().out
    assert "time of 'awml' grows with frames to the power" in text
    written = json.loads(out.read_text())
    assert [(row["load"], row["frames"]) for row in written["measurements"]] == [
        *(("awml", 3), ("awml", 6), ("awml, four ranges", 3), ("awml, four ranges", 6)),
    ]
    assert written["measurements"][2]["times_reference"] is None
    assert written["machine"]["cpu_cores"] >= 1
    assert metrics.main(["--frames", "0"]) == 2


def test_frames_file_scores_like_the_tables(tmp_path: Path) -> None:
    path, out = tmp_path / "frames.jsonl", tmp_path / "scores.json"
    score_file.write_frames(path, 4)
    assert score_main(["--frames", str(path), "--out", str(out), "--log-level", "ERROR"]) == 0
    written = json.loads(out.read_text())["results"]["awml"]["modes"]["CENTERDISTANCEBEV"]["labels"]["car"][
        "thresholds"
    ]
    found, truth = make_frames(4, 60, seed=0)
    scorer = DetectionScorer(
        CLASS_NAMES, [(2.0,)] * len(CLASS_NAMES), {"all": ObjectLimits(0.0, 121.0)}, MatchingRules()
    )
    scorer.add(found, truth, 4)
    car = scorer.result()["all"][0].thresholds[0]
    assert written["2"]["num_tp"] == car.num_true_positives
    assert written["2"]["ap"] == pytest.approx(car.ap, abs=1e-6)


def test_file_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "file.json"
    assert score_file.main(["--frames", "4", "--out", str(out)]) == 0
    assert "frames/s" in capsys.readouterr().out
    (row,) = json.loads(out.read_text())["measurements"]
    assert row["frames"] == 4
    assert row["file_mb"] == pytest.approx(0.079, abs=0.01)
    assert row["peak_memory_mb"] > 10
    with pytest.raises(RuntimeError, match="there is no configuration 'nope'"):
        score_file.measure_file(1, "nope", tmp_path)
