"""The picture of a drive in INT8: which rows it has, that it shows the numbers, and what it says without any."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.real_drive_chart import draw, main, rows_of

CELL = {"value": -0.2, "low": -1.0, "high": 0.5}
COUNTS = {"boxes": 100, "matched": 90, "moved": 5, "lost": 3, "gained": 2, "turned": 1}


def results(names: list[str]) -> dict[str, Any]:
    against = {name: {"car": dict(CELL), "pedestrian": dict(CELL)} for name in ("fp32", *names)}
    boxes = {name: dict(COUNTS) for name in ("fp32", *names)}
    return {
        "objects": {"car": 200, "pedestrian": 4},
        "against": against,
        "agreement": {"labelled": boxes, "unlabelled": copy.deepcopy(boxes)},
    }


NAMES = ["mse (generated)", "mixed-mse (generated)", "mse (real)"]


def pixels(path: Path) -> Any:
    from matplotlib import pyplot

    return pyplot.imread(path)


def test_a_method_has_its_calibrations_side_by_side() -> None:
    rows = [("mse", "generated"), ("mse", "real"), ("mixed-mse", "generated")]
    assert rows_of(results(NAMES)) == rows


def test_the_picture_shows_the_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(results(NAMES)))
    assert main([str(tmp_path / "a.json"), "--out", str(tmp_path / "a.png")]) == 0
    before = pixels(tmp_path / "a.png")
    middle = before.shape[1] // 2

    def halves_changed(change: Any) -> list[bool]:
        other = results(NAMES)
        change(other)
        draw(other, tmp_path / "b.png")
        differs = (pixels(tmp_path / "b.png") != before).any(axis=2)
        return [bool(differs[:, :middle].any()), bool(differs[:, middle:].any())]

    assert halves_changed(lambda r: r["against"]["mse (real)"]["car"].update(value=-0.6)) == [True, False]
    assert halves_changed(lambda r: r["agreement"]["unlabelled"]["mse (real)"].update(lost=4, matched=89)) == [
        False,
        True,
    ]
    # Four objects of a class say nothing, so they are not drawn.
    assert halves_changed(lambda r: r["against"]["mse (real)"]["pedestrian"].update(value=-0.6)) == [False, False]


def test_results_without_intervals_are_drawn(tmp_path: Path) -> None:
    bare = results(NAMES)
    for row in bare["against"].values():
        row["car"].update(low=None, high=None)
    draw(bare, tmp_path / "a.png")
    assert np.ptp(pixels(tmp_path / "a.png")) > 0


def test_floating_point_alone_has_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(results([])))
    assert main([str(tmp_path / "a.json"), "--out", str(tmp_path / "a.png")]) == 2
    assert "run benchmarks.real_drive with --calibration" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "a.png").exists()
