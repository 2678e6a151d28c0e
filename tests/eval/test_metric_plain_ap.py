"""The AP written out in docs/metrics.md, against the vectorised one and perception_eval's stored numbers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.boxes import Boxes3D
from eval.metrics import FrameResult, evaluate_detections

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "data" / "golden"
SECTION = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8").split("## AP, written out")[1].split("\n## ")[0]

Detection = tuple[float, float, float]
Frame = tuple[list[Detection], list[tuple[float, float]]]


def written_out() -> str:
    code = re.search(r"```python\n(.*?)```", SECTION, re.DOTALL)
    assert code is not None
    return code.group(1)


@pytest.fixture(scope="module")
def plain_ap() -> Callable[[list[Frame], float], float]:
    names: dict[str, Any] = {}
    exec(compile(written_out(), "metrics.md", "exec"), names)
    found: Callable[[list[Frame], float], float] = names["average_precision"]
    return found


def test_the_example_prints_what_the_page_promises(capsys: pytest.CaptureFixture[str]) -> None:
    promised = re.search(r"^prints `(.*?)`", SECTION, re.MULTILINE)
    assert promised is not None
    exec(compile(written_out(), "metrics.md", "exec"), {})
    assert capsys.readouterr().out.strip() == promised.group(1)
    assert len(written_out().splitlines()) <= 60


def vectorised(frames: list[Frame], threshold_m: float) -> float:
    def boxes(rows: list[tuple[float, float]], scores: list[float]) -> Boxes3D:
        table = np.zeros((len(rows), 9), np.float32)
        table[:, :2] = np.array(rows, np.float32).reshape(len(rows), 2)
        table[:, 3:6] = 1.0
        return Boxes3D(table, np.array(scores, np.float32), np.zeros(len(rows), np.int64))

    results = [
        FrameResult(
            f"frame-{index}",
            boxes([(x, y) for x, y, _ in detections], [score for _, _, score in detections]),
            boxes(truth, [1.0] * len(truth)),
        )
        for index, (detections, truth) in enumerate(frames)
    ]
    metrics = evaluate_detections(results, ["car"], thresholds_m=[threshold_m], ranges_m=[(0.0, 1e6)])
    return metrics.total.classes[0].at(threshold_m).ap


# A coarse grid and few scores on purpose: equal distances, distances at the threshold and equal scores.
PLACE = st.integers(1, 8).map(float)
SCORE = st.sampled_from([0.125, 0.25, 0.5, 0.75])
SCENES = st.lists(
    st.tuples(
        st.lists(st.tuples(PLACE, PLACE, SCORE), max_size=9),
        st.lists(st.tuples(PLACE, PLACE), max_size=9),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=300, deadline=None)
@given(frames=SCENES, threshold_m=st.sampled_from([0.5, 1.0, 1.5, 2.0, 4.0]))
def test_equals_the_vectorised_metric(
    plain_ap: Callable[[list[Frame], float], float], frames: list[Frame], threshold_m: float
) -> None:
    expected = plain_ap(frames, threshold_m)
    assert vectorised(frames, threshold_m) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_equals_the_vectorised_metric_on_many_objects(plain_ap: Callable[[list[Frame], float], float]) -> None:
    rng = np.random.default_rng(5)
    frames: list[Frame] = []
    for _ in range(30):
        truth = rng.uniform(-60, 60, (20, 2)).astype(np.float32).astype(float)
        near = truth + rng.normal(0, 0.5, truth.shape)
        found = np.vstack([near, rng.uniform(-60, 60, (10, 2))]).astype(np.float32).astype(float)
        scores = rng.uniform(0, 1, len(found)).astype(np.float32).astype(float)
        frames.append(
            (
                [(float(x), float(y), float(score)) for (x, y), score in zip(found, scores, strict=True)],
                [(float(x), float(y)) for x, y in truth],
            )
        )
    for threshold_m in (0.5, 1.0, 2.0, 4.0):
        value = plain_ap(frames, threshold_m)
        assert 0.01 < value < 0.98
        assert vectorised(frames, threshold_m) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("case", sorted(path.stem for path in GOLDEN.glob("*.json")))
def test_equals_the_stored_numbers_of_perception_eval(
    plain_ap: Callable[[list[Frame], float], float], case: str
) -> None:
    data = json.loads((GOLDEN / f"{case}.json").read_text())
    configs = data["configs"]
    plain = {"min_distance", "max_distance", "min_point_numbers"}  # what this test applies to the objects itself
    limit = configs["base"]["evaluation_config_dict"]
    assert {key for key in limit if key.startswith(("min_", "max_"))} <= plain
    assert limit["min_point_numbers"] == 0
    assert configs["base"]["critical"] is None

    def of_class(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
        distance = [math.hypot(row["x"], row["y"]) for row in rows]
        return [
            row
            for row, far in zip(rows, distance, strict=True)
            if row["label"] == name and limit["min_distance"] < far < limit["max_distance"]
        ]

    stored = data.get("results_stable", data["results"])["base"]["modes"]["CENTERDISTANCEBEV"]["labels"]
    compared = 0
    for name, results in stored.items():
        frames: list[Frame] = [
            (
                [(row["x"], row["y"], row["score"]) for row in of_class(frame["est"], name)],
                [(row["x"], row["y"]) for row in of_class(frame["gt"], name)],
            )
            for frame in data["frames"]
        ]
        for threshold, numbers in results["thresholds"].items():
            expected = math.nan if numbers["ap"] is None else numbers["ap"]
            assert plain_ap(frames, float(threshold)) == pytest.approx(expected, abs=1e-9, nan_ok=True), name
            compared += 1
    assert compared >= 16
