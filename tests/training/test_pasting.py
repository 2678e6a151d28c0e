"""Objects put into other frames: their points in their boxes, the frame's own ones gone there, nothing touched."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.on_device.frames import XYZ_STEP_M, PackedFrame
from training.on_device.pasting import Drawn, Looseness, ObjectBank

CPU = torch.device("cpu")
CAR, BICYCLE = 0, 3


def frame(boxes: list[tuple[float, float, float]], labels: list[int], seed: int, lagging: bool = True) -> PackedFrame:
    """Points everywhere from -20 to 20 m, half of them of an earlier sweep; boxes of 2 × 1 × 2 m at (x, y, yaw)."""
    rng = np.random.default_rng(seed)
    count = 40_000
    codes = np.zeros((count, 5), np.int16)
    codes[:, :2] = rng.uniform(-20.0, 20.0, (count, 2)) / XYZ_STEP_M
    codes[:, 2] = rng.uniform(-1.5, 1.5, count) / XYZ_STEP_M
    codes[:, 3] = seed  # tells which frame a point is from
    if lagging:
        codes[count // 2 :, 4] = 200
    rows = np.zeros((len(boxes), 9), np.float32)
    if boxes:
        rows[:, [0, 1, 6]] = boxes
    rows[:, 3:6] = (2.0, 1.0, 2.0)
    return PackedFrame(codes, rows, np.array(labels, np.int64))


def inside(codes: NDArray[np.int16], box: NDArray[np.float32], *, heights: bool = True) -> NDArray[np.bool_]:
    """By complex numbers: the points turned back by the box's heading."""
    place = (codes[:, 0] * XYZ_STEP_M - box[0]) + 1j * (codes[:, 1] * XYZ_STEP_M - box[1])
    turned = place * np.exp(-1j * box[6])
    flat = (abs(turned.real) <= box[3] / 2) & (abs(turned.imag) <= box[4] / 2)
    return np.asarray(flat & (abs(codes[:, 2] * XYZ_STEP_M - box[2]) <= box[5] / 2) if heights else flat)


@pytest.mark.parametrize("lagging", [False, True])
def test_objects_stand_where_they_stood(lagging: bool) -> None:
    source = frame([(10.0, 3.0, 0.7), (-8.0, 5.0, -2.0)], [BICYCLE, CAR], 1, lagging)
    target = frame([(0.0, 0.0, 0.0)], [CAR], 2, lagging)
    bank = ObjectBank([[source], [target]], {BICYCLE: 3}, CPU, 0)
    assert len(bank) == 1
    drawn = bank.add_to(Drawn.of(target, torch.from_numpy(target.points)), np.random.default_rng(0))
    # Drawn three times, put once: the second would stand on the first.
    np.testing.assert_array_equal(drawn.boxes, np.concatenate([target.boxes, source.boxes[:1]]))
    assert drawn.labels.tolist() == [CAR, BICYCLE]
    points, box = drawn.points.numpy(), source.boxes[0]
    own = source.points[inside(source.points, box)]
    pasted = points[points[:, 3] == 1]
    assert sorted(map(tuple, pasted.tolist())) == sorted(map(tuple, own.tolist()))
    assert len(pasted) > 25
    rest = points[points[:, 3] == 2]
    kept = target.points[~inside(target.points, box, heights=False)]
    np.testing.assert_array_equal(rest, kept)  # in their order
    is_late = points[:, 4] > 0
    assert drawn.of_last_sweep == len(points) - int(is_late.sum())
    assert not is_late[: drawn.of_last_sweep].any()


def test_what_would_touch_is_left_out() -> None:
    source = frame([(10.0, 3.0, 0.7)], [BICYCLE], 1)
    target = frame([(10.0 + math.sqrt(5.0) + 0.1, 3.0, 0.0)], [CAR], 2)
    stored = Drawn.of(target, torch.from_numpy(target.points))
    bank = ObjectBank([[source]], {BICYCLE: 5}, CPU, 0)
    assert bank.add_to(stored, np.random.default_rng(0)) is stored
    away = frame([(10.0 + math.sqrt(5.0) + 0.3, 3.0, 0.0)], [CAR], 2)
    assert len(bank.add_to(Drawn.of(away, torch.from_numpy(away.points)), np.random.default_rng(0)).boxes) == 2


def test_no_objects_of_a_class() -> None:
    sparse = frame([(10.0, 3.0, 0.7)], [BICYCLE], 1)
    sparse.points[:, 2] = 4000  # all points above the box
    stored = Drawn.of(sparse, torch.from_numpy(sparse.points))
    bank = ObjectBank([[sparse]], {BICYCLE: 5, CAR: 1}, CPU, 0)
    assert len(bank) == 0
    assert bank.add_to(stored, np.random.default_rng(0)) is stored


@pytest.mark.parametrize("entry", ["tram=1", "car", "car=0", "car=-1", "car=51", "car=1.5", "=1"])
def test_what_cannot_be_put(entry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from training.on_device.__main__ import main

    options = [
        "configs/model/centerpoint_t4_demo.py",
        "--data-root",
        str(tmp_path),
        "--output",
        str(tmp_path / "a.pth"),
    ]
    assert main([*options, "--device", "cpu", "--paste", entry]) == 2
    assert f"--paste has '{entry}'; give CLASS=N" in " ".join(capsys.readouterr().err.split())


def test_objects_turned_and_moved_hold_their_points() -> None:
    source = frame([(10.0, 3.0, 0.7)], [BICYCLE], 1)
    bank = ObjectBank([[source]], {BICYCLE: 1}, CPU, 0, looseness=Looseness(math.radians(30.0), 0.3))
    empty = frame([], [], 2)
    box = source.boxes[0]
    own = source.points[inside(source.points, box)]
    # Places in the object's own frame; it is the same object wherever it stands.
    before = (own[:, 0] * XYZ_STEP_M - box[0] + 1j * (own[:, 1] * XYZ_STEP_M - box[1])) * np.exp(-1j * box[6])
    turns, factors = [], []
    rng = np.random.default_rng(0)
    for _ in range(40):
        drawn = bank.add_to(Drawn.of(empty, torch.from_numpy(empty.points)), rng)
        moved = drawn.boxes[0]
        points = drawn.points.numpy()
        pasted = points[points[:, 3] == 1]
        place = pasted[:, 0] * XYZ_STEP_M - moved[0] + 1j * (pasted[:, 1] * XYZ_STEP_M - moved[1])
        np.testing.assert_allclose(place * np.exp(-1j * moved[6]), before, atol=XYZ_STEP_M)
        np.testing.assert_array_equal(pasted[:, 2:], own[:, 2:])
        np.testing.assert_array_equal(moved[2:6], box[2:6])
        assert math.atan2(moved[1], moved[0]) == pytest.approx(math.atan2(box[1], box[0]), abs=1e-5)
        assert not (inside(points[points[:, 3] == 2], moved, heights=False)).any()
        turns.append(math.degrees(moved[6] - box[6]))
        factors.append(np.hypot(moved[0], moved[1]) / np.hypot(box[0], box[1]))
    assert -30.0 <= min(turns) < -20.0
    assert 20.0 < max(turns) <= 30.0
    assert 0.7 <= min(factors) < 0.8
    assert 1.2 < max(factors) <= 1.3


def test_objects_are_drawn_by_the_shares_of_their_datasets() -> None:
    """One object against fifty: three of four draws are of the first dataset, where the shares say so."""
    one = frame([(10.0, 3.0, 0.7)], [BICYCLE], 1)
    many = [frame([(10.0, 3.0, 0.7)], [BICYCLE], 3) for _ in range(50)]
    without = frame([(10.0, 3.0, 0.7)], [CAR], 4)
    empty = frame([], [], 2)
    stored = Drawn.of(empty, torch.from_numpy(empty.points))

    def of_the_first(bank: ObjectBank) -> float:
        rng = np.random.default_rng(0)
        return float(np.mean([(bank.add_to(stored, rng).points[:, 3] == 1).any().item() for _ in range(400)]))

    parts = [[one], many, [without]]
    assert of_the_first(ObjectBank(parts, {BICYCLE: 1}, CPU, 0, shares=[3.0, 1.0, 50.0])) == pytest.approx(
        0.75, abs=0.07
    )
    assert of_the_first(ObjectBank(parts, {BICYCLE: 1}, CPU, 0)) == pytest.approx(1 / 51, abs=0.03)
