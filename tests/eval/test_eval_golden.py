"""Our scores against stored results of autoware_perception_evaluation 1.3.6 and nuscenes-devkit 1.1.9.

The command itself reads each file of tests/data/golden and writes its scores; every number in the file's results must
be there, equal to 1e-6 (the stored values are rounded to ten decimals).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eval.score import main

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"
CASES = sorted(path.stem for path in GOLDEN.glob("*.json"))
TOLERANCE = 1e-6
# What describes a stored result and is no part of it.
DESCRIPTIONS = {"versions", "config"}

Leaves = Iterator[tuple[str, float | None, Any]]


def load(case: str) -> dict[str, Any]:
    return dict(json.loads((GOLDEN / f"{case}.json").read_text()))


def scores(case: str, folder: Path, *options: str) -> dict[str, Any]:
    out = folder / "scores.json"
    assert main(["--frames", str(GOLDEN / f"{case}.json"), "--out", str(out), "--log-level", "ERROR", *options]) == 0
    return dict(json.loads(out.read_text()))


def leaves(expected: Any, got: Any, where: str) -> Leaves:
    """(path, stored number, our value) of every number of the stored results."""
    if isinstance(expected, dict):
        for key in expected.keys() - DESCRIPTIONS:
            assert key in got, f"{where}/{key} is missing"
            yield from leaves(expected[key], got[key], f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(expected) == len(got), where
        for index, item in enumerate(expected):
            yield from leaves(item, got[index], f"{where}[{index}]")
    else:
        yield where, expected, got


def assert_equal(expected: Any, got: Any, where: str) -> int:
    count = 0
    for path, stored, ours in leaves(expected, got, where):
        count += 1
        if stored is None or ours is None:
            assert stored is ours, f"{path}: {ours}, stored {stored}"
        else:
            assert ours == pytest.approx(stored, abs=TOLERANCE), path
    return count


@pytest.mark.parametrize("case", CASES)
def test_equals_the_references(case: str, tmp_path: Path) -> None:
    data, ours = load(case), scores(case, tmp_path)
    compared = assert_equal(data.get("results_stable", data["results"]), ours["results"], f"{case}/results")
    assert compared > 500
    assert assert_equal(data["nuscenes"], ours["nuscenes"], f"{case}/nuscenes") == 208
    assert assert_equal(data["tp_errors"], ours["tp_errors"], f"{case}/tp_errors") == 6 * 7 * 4


def test_every_kind_takes_part() -> None:
    assert len(CASES) == 16
    assert {name for case in CASES for name in load(case)["configs"]} == {
        *("base", "map", "xy", "points", "critical", "ring", "any", "group", "unknown", "agnostic", "merge"),
        "per_label",
    }


def test_a_difference_would_be_found(tmp_path: Path) -> None:
    data, ours = load("b_noisy"), scores("b_noisy", tmp_path)
    data["results"]["per_label"]["modes"]["IOU3D"]["labels"]["bus"]["mean_aph"] += 2e-6
    with pytest.raises(AssertionError, match="per_label/modes/IOU3D/labels/bus/mean_aph"):
        assert_equal(data["results"], ours["results"], "b_noisy")


def test_true_headings_differ_from_the_reference_in_base_link_alone(tmp_path: Path) -> None:
    compat, right = scores("m_yaw_wrap", tmp_path), scores("m_yaw_wrap", tmp_path, "--no-compat")
    modes = [item["results"]["base"]["modes"]["CENTERDISTANCEBEV"] for item in (compat, right)]
    assert modes[0]["mAP"] == modes[1]["mAP"]
    # Headings differ little there, but lie on both sides of π: without the sign of the turn they seem far apart.
    assert modes[1]["mAPH"] > modes[0]["mAPH"] + 0.2
    assert compat["results"]["map"]["modes"] == right["results"]["map"]["modes"]
    assert [item["results"]["base"]["policy"]["heading"] for item in (compat, right)] == ["unsigned", "signed"]
