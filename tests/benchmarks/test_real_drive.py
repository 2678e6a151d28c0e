"""A real drive in miniature: what becomes of scans and labels, headings, intervals and agreement by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.boxes import Boxes3D
from base.errors import ConfigError, DataError
from benchmarks.int8_accuracy_results import StoredRun
from benchmarks.real_drive import _claim, main, one_sweep, summary
from benchmarks.real_drive import _parser as score_parser
from benchmarks.real_drive_data import INFO_FILE, convert_scans, drive_scans, read_scan_npz
from benchmarks.real_drive_scores import agreement, frames_in_view, heading_errors, intervals, tables
from datasets.frames import open_frames
from eval.metrics import FrameResult
from models.config import load_model_config
from tests.benchmarks.small_drive import CLASSES, CONFIG, boxes


def test_scans_come_as_the_model_takes_them(drive: Path, tmp_path: Path) -> None:
    out = convert_scans(drive, tmp_path / "own", CLASSES)
    frames = open_frames(one_sweep(load_model_config(CONFIG)), "val", str(out), INFO_FILE)
    with np.load(drive / "lidar" / "1.npz") as stored:
        xyz, percent = stored["xyz_mm"] / 1000.0, stored["intensity_percent"]
    frame = frames[1]
    assert [frames[0].token, frame.token] == ["drive-000007", "drive-000008"]
    assert len(frame.points) == len(xyz)  # once, not padded by copies of itself
    np.testing.assert_allclose(frame.points[:, :3], xyz + np.array([0.0, 0.0, 1.73]), atol=1e-5)
    np.testing.assert_allclose(frame.points[:, 3], 2.55 * percent, rtol=1e-5)
    assert not frame.points[:, 4].any()
    assert frame.ground_truth.labels.tolist() == [0]
    np.testing.assert_allclose(frame.ground_truth.boxes[0, :7], [12.0, 1.9, 1.0, 4.2, 1.9, 2.0, 0.0], atol=1e-5)
    assert frame.ground_truth.num_points is not None
    assert frame.ground_truth.num_points.tolist() == [400]


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04broken"])
def test_broken_scans_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz' is no scan"):
        read_scan_npz(tmp_path / "a.npz")


def test_any_broken_byte_is_named(tmp_path: Path) -> None:
    """Nothing but a DataError comes of a file with some bytes spoilt or its end cut off."""
    xyz = np.random.default_rng(0).integers(-50_000, 50_000, (500, 3)).astype(np.int32)
    np.savez_compressed(tmp_path / "a.npz", xyz_mm=xyz, intensity_percent=np.full(500, 7, np.uint8))
    whole = (tmp_path / "a.npz").read_bytes()
    broken = 0
    for start in range(0, len(whole), 97):
        for content in (whole[:start], whole[:start] + bytes(40) + whole[start + 40 :]):
            (tmp_path / "b.npz").write_bytes(content)
            try:
                read_scan_npz(tmp_path / "b.npz")
            except DataError:
                broken += 1
    assert broken > 60
    with pytest.raises(DataError, match=r"Scan '.*c\.npz' does not exist"):
        read_scan_npz(tmp_path / "c.npz")


@pytest.mark.parametrize(
    ("xyz", "percent", "message"),
    [
        (np.zeros((4, 3), np.complex64), np.zeros(4, np.uint8), "xyz_mm of type complex64; it must hold numbers"),
        (np.zeros((4, 3), "U3"), np.zeros(4, np.uint8), "it must hold numbers"),
        (np.zeros((4, 3), np.int32), np.full(4, 252, np.uint8), "from 252 to 252; it is the reflectance times 100"),
        (np.zeros((4, 3), np.int32), np.full(4, np.nan, np.float32), "it is the reflectance times 100, 0 to 100"),
    ],
)
def test_arrays_of_something_else_are_refused(tmp_path: Path, xyz: Any, percent: Any, message: str) -> None:
    np.savez(tmp_path / "a.npz", xyz_mm=xyz, intensity_percent=percent)
    with pytest.raises(DataError, match=message):
        read_scan_npz(tmp_path / "a.npz")


def test_wrong_labels_are_told_before_a_model_is_read(
    drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads((drive / "labels.json").read_text())

    def told(change: Any) -> str:
        changed = json.loads(json.dumps(rows))
        change(changed)
        (drive / "labels.json").write_text(json.dumps(changed))
        options = ["--data", str(drive), "--checkpoint", "nowhere.pth", "--output", str(tmp_path / "out")]
        assert main(options) == 2
        err = capsys.readouterr().err
        assert "Traceback" not in err
        assert "nowhere.pth" not in err
        return err

    assert "[0].objects[0].type is 'van', but must be one of Car, Van, " in told(
        lambda changed: changed[0]["objects"][0].update(type="van")
    )
    assert "[0].objects[0].box[4] is -1.9, but must be a size above 0" in told(
        lambda changed: changed[0]["objects"][0]["box"].__setitem__(4, -1.9)
    )
    assert "[1].frame is 7, but must not be that of [0] too" in told(lambda changed: changed[1].update(frame=7))
    assert "[1].lidar is 'lidar/0.npz', but must not be" in told(lambda changed: changed[1].update(lidar="lidar/0.npz"))
    assert "[1].lidar is 'lidar/2.npz', but no such file is there" in told(
        lambda changed: changed[1].update(lidar="lidar/2.npz")
    )
    assert "it is [], but must name at least one frame" in told(lambda changed: changed.clear())
    (drive / "labels.json").unlink()
    for file in (drive / "lidar").iterdir():
        file.rename(drive / file.name)
    assert main(["--data", str(drive), "--output", str(tmp_path / "out")]) == 2
    assert "has no labels.json, without which nothing can be scored" in capsys.readouterr().err
    assert main(["--data", str(tmp_path / "nothing"), "--output", str(tmp_path / "out")]) == 2
    assert "nothing' does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_scans_without_labels_stand_as_their_numbers_count(drive: Path) -> None:
    (drive / "labels.json").unlink()
    for name in ("10", "9", "2"):
        (drive / f"{name}.npz").write_bytes((drive / "lidar" / "0.npz").read_bytes())
    scans, frames = drive_scans(drive)
    assert ([path.name for path in scans], frames) == (["2.npz", "9.npz", "10.npz"], [])


def test_results_of_other_frames_are_not_taken_for_these(drive: Path, tmp_path: Path) -> None:
    """A folder keeps what was made; other labels, scans or calibration frames under the same path are others."""
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    (scans / "a.npz").write_bytes((drive / "lidar" / "0.npz").read_bytes())
    out.mkdir()
    checkpoint = tmp_path / "a.pth"
    checkpoint.write_text("weights")
    options = ["--data", str(drive), "--config", str(CONFIG), "--checkpoint", str(checkpoint)]
    args = score_parser().parse_args(options)

    def claim(**sources: Path) -> None:
        _claim(out, args, sources)

    claim()
    claim(real=scans)
    claim(more=drive)
    claim(real=scans)
    with pytest.raises(ConfigError, match="frames of --calibration real differ"):
        claim(real=drive)
    (scans / "b.npz").write_bytes((drive / "lidar" / "1.npz").read_bytes())
    with pytest.raises(ConfigError, match="frames of --calibration real differ"):
        claim(real=scans)
    rows = json.loads((drive / "labels.json").read_text())
    (drive / "labels.json").write_text(json.dumps(rows[:1]))
    with pytest.raises(ConfigError, match="data_sha256 differ"):
        claim()


def test_nothing_in_view_is_said(tmp_path: Path) -> None:
    run = StoredRun(tmp_path)
    truth = [boxes([(-10, 0, 0.0), (60, 0, 0.0)], [0, 0]) for _ in range(4)]
    run.save_frames([FrameResult(str(i), Boxes3D.empty(), item) for i, item in enumerate(truth)], ["drive"] * 4)
    run.save_detections("fp16", truth)
    results = summary({"the labelled frames": run}, ["fp16"], CLASSES, 40.0, 1, 100)
    assert results["objects"] == results["variants"]["fp16"]["ap"] == {}, "behind, and beyond 50 m"
    assert "no object in view: there is nothing to find" in tables(results)


def test_few_blocks_are_told_beside_their_intervals(tmp_path: Path) -> None:
    run = StoredRun(tmp_path)
    truth = [boxes([(10, 0, 0.0)], [0]) for _ in range(12)]
    run.save_frames([FrameResult(str(i), Boxes3D.empty(), item) for i, item in enumerate(truth)], ["drive"] * 12)
    run.save_detections("fp16", truth)
    runs = {"the labelled frames": run}
    assert "Intervals over 3 blocks of frames are too narrow" in tables(summary(runs, ["fp16"], CLASSES, 40.0, 5, 100))
    assert "too narrow" not in tables(summary(runs, ["fp16"], CLASSES, 40.0, 5, 0))
    alone = summary(runs, ["fp16"], CLASSES, 40.0, 12, 100)
    assert alone["variants"]["fp16"]["ap"]["car"] == {"value": 100.0, "low": None, "high": None}
    assert "| fp16 | 100.0 | 12 |" in tables(alone)


def test_scans_of_other_shapes_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", xyz_mm=np.zeros((4, 2), np.int32), intensity_percent=np.zeros(4, np.uint8))
    with pytest.raises(DataError, match=r"must be \(N, 3\)"):
        read_scan_npz(tmp_path / "a.npz")


def test_a_folder_without_scans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"neither labels\.json nor \.npz"):
        convert_scans(tmp_path / "empty", tmp_path / "out", CLASSES)
    arguments = ["--data", str(tmp_path), "--calibration", "generated", "--output", str(tmp_path / "x")]
    assert main(arguments) == 2
    assert "give NAME=DIR" in capsys.readouterr().err


def test_the_view_is_an_angle() -> None:
    all_around = boxes([(10, 0, 0), (10, 8.3, 0), (10, 8.5, 0), (-10, 0, 0), (0, 5, 0)], [0] * 5)
    (frame,) = frames_in_view([FrameResult("f", all_around, all_around)], 40.0)  # tan 40° = 0.839
    assert frame.detections.boxes[:, 1].tolist() == pytest.approx([0.0, 8.3])
    assert len(frame.ground_truth) == 2


def test_headings_by_hand() -> None:
    truth = boxes([(10, 0, 0.0), (20, 0, math.pi - 0.05), (30, 0, 0.0), (15, 5, 0.0)], [0, 0, 0, 3])
    found = boxes(
        [(10.5, 0, 0.2), (10.1, 0, 3.0), (20, 1, -math.pi + 0.05), (30, 2.5, 0.0), (15, 5, 3.0)],
        [0, 0, 0, 0, 3],
        [0.9, 0.2, 0.8, 0.9, 0.4],
    )
    # The nearest of enough score: 0.2 rad; across ±π: 0.1 rad; 2.5 m is too far; the cyclist rides backwards.
    errors = heading_errors([FrameResult("f", found, truth)], CLASSES)
    assert errors["car"]["matched"] == 2
    assert errors["car"]["median_rad"] == pytest.approx(0.15, abs=1e-5)
    assert errors["bicycle"]["beyond_90_deg"] == 1.0
    assert errors["all"]["beyond_90_deg"] == pytest.approx(1 / 3)
    assert "pedestrian" not in errors


def test_agreement_by_hand() -> None:
    before = boxes([(10, 0, 0.0), (20, 0, 0.0), (30, 0, 0.0), (40, 0, 0.0)], [0] * 4, [0.9, 0.8, 0.5, 0.1])
    after = boxes([(10, 0.05, 0.0), (20, 0.3, 3.1), (35, 0, 0.0), (40, 0, 0.0)], [0] * 4, [0.8, 0.9, 0.6, 0.2])
    row = agreement([FrameResult("f", before, before)], [FrameResult("f", after, before)])
    assert (row["boxes"], row["matched"], row["moved"], row["lost"], row["gained"]) == (3, 1, 1, 1, 1)
    assert row["turned"] == 1
    assert row["mean_score_shift"] == pytest.approx(0.0, abs=1e-6)
    assert row["mean_abs_score_shift"] == pytest.approx(0.1, abs=1e-6)


def test_intervals_hold_the_value() -> None:
    truth = [boxes([(10, 0, 0.0)], [0]) for _ in range(40)]
    half = [FrameResult(str(i), t if i % 2 else Boxes3D.empty(), t) for i, t in enumerate(truth)]
    whole = [FrameResult(str(i), t, t) for i, t in enumerate(truth)]
    (cell,) = intervals(None, half, CLASSES, 1, 200).values()  # of the one class that there is
    assert cell["low"] < cell["value"] < cell["high"]
    assert 0.0 < cell["low"] < cell["high"] < 100.0
    assert intervals(None, whole, CLASSES, 2, 200)["car"] == {"value": 100.0, "low": 100.0, "high": 100.0}
    assert intervals(whole, half, CLASSES, 1, 200)["car"]["value"] == pytest.approx(cell["value"] - 100.0)


def test_the_tables_hold_every_variant(tmp_path: Path) -> None:
    run = StoredRun(tmp_path)
    truth = [boxes([(10, 0, 0.0), (-10, 0, 0.0)], [0, 0]) for _ in range(40)]
    frames = [FrameResult(str(index), Boxes3D.empty(), item) for index, item in enumerate(truth)]
    run.save_frames(frames, ["drive"] * 40)
    run.save_detections("fp16", truth)
    run.save_detections("mse (real)", [boxes([(10, 0, 3.0)], [0], [0.7]) for _ in truth])
    results = summary({"the labelled frames": run}, ["fp16", "mse (real)"], CLASSES, 40.0, 1, 100)
    assert results["objects"] == {"car": 40}  # the one behind is not in view
    assert results["variants"]["mse (real)"]["headings"]["all"]["beyond_90_deg"] == 1.0
    assert results["agreement"]["the labelled frames"]["mse (real)"]["lost"] == 40
    text = tables(results)
    assert "| mse (real) | 100.0 [100.0, 100.0] | 40 | 3.00 rad | 100% |" in text
    assert "| mse (real) | +0.0 [+0.0, +0.0] |" in text
