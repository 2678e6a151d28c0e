"""What scans are like: tiles against torch's pooling, roughness and objects by formula, the command on small sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.real_scans import main
from benchmarks.scan_facts import Scan, active_tiles, layers_of, scan_facts
from benchmarks.scan_sets import generated_scans, real_scans
from benchmarks.scan_table import figures, spread, table
from models.config import load_model_config

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "model" / "centerpoint_t4_demo.py"
NOTHING = (np.zeros((0, 7)), (), np.zeros(0, np.int64))
RANGE = (-51.2, -51.2, -3.0, 51.2, 51.2, 5.0)


def test_tiles_are_what_convolutions_reach() -> None:
    model = load_model_config(CONFIG).model
    rng = np.random.default_rng(0)
    canvas = np.zeros((320, 320), bool)
    canvas[:70, 200:270] = rng.random((70, 70)) < 0.01
    shares = active_tiles(canvas, layers_of(model.pts_backbone, model.pts_neck))
    cells = torch.from_numpy(canvas)[None, None].float()
    expected, strides = {"canvas": _share(cells)}, (2, 2, 2)
    for block, (count, stride) in enumerate(zip((3, 5, 3), strides, strict=True)):
        for index in range(count + 1):
            # A convolution of ones: where its output is above 0 an occupied cell lies within reach.
            cells = (
                torch.nn.functional.conv2d(cells, torch.ones(1, 1, 3, 3), stride=stride if index == 0 else 1, padding=1)
                > 0
            ).float()
            expected[f"blocks.{block}.{index}"] = _share(cells)
        up = 2**block
        expected[f"deblocks.{block}"] = _share(
            torch.nn.functional.conv_transpose2d(cells, torch.ones(1, 1, up, up), stride=up)
        )
    assert shares == pytest.approx(expected)
    assert 0.0 < shares["canvas"] < shares["blocks.2.3"] < 1.0
    assert active_tiles(np.zeros((320, 320), bool), layers_of(model.pts_backbone, model.pts_neck))["blocks.2.3"] == 0.0


def _share(cells: torch.Tensor) -> float:
    return float((torch.nn.functional.max_pool2d(cells, (8, 16), ceil_mode=True) > 0).float().mean())


def test_facts_by_formula() -> None:
    rng = np.random.default_rng(1)
    ground = np.column_stack([rng.uniform(2, 9, 20_000), rng.uniform(-2, 2, 20_000), np.zeros(20_000)])
    ground[:, 2] = 0.02 * ground[:, 0] + rng.normal(0, 0.01, len(ground))  # a slope is no roughness
    behind = np.column_stack([np.full(500, -5.0), np.zeros(500), np.ones(500)])
    high = np.column_stack([np.full(20_000, 12.0), np.zeros(20_000), np.full(20_000, 2.5)])
    points = np.vstack([ground, behind, high])
    points = np.column_stack([points, np.full(len(points), 40.0)]).astype(np.float32)
    boxes = np.array(
        [[5, 0, 0, 4, 2, 1.5, 0], [7, 1, 0, 4, 2, 1.5, 0], [8, 0, 0, 4, 2, 1.5, 0], [-5, 0, 0, 4, 2, 1.5, 0]]
    )
    scan = Scan(points, 1.7, boxes.astype(float), ("car",) * 4, np.array([100, 300, 40, 9]))
    facts = scan_facts([scan], 90.0, RANGE, 0.32, [])
    assert facts["points"] == 40_000
    assert facts["points_by_range"] == [20_000.0, 20_000.0, 0.0, 0.0, 0.0]
    assert facts["pillars_by_range"][1] == 1.0
    assert facts["roughness_m"][0] == pytest.approx(0.01, rel=0.05)
    assert np.isnan(facts["roughness_m"][2])
    assert facts["height_shares"] == pytest.approx([0.0, 0.5, 0.0, 0.0, 0.5, 0.0], abs=1e-3)
    assert facts["intensity"] == [40.0] * 5
    (near, *_) = facts["objects"]["car"]
    assert (near["per_scan"], near["median"], near["mostly_hidden"]) == (3.0, 100.0, 0.0)


def test_lines_of_one_beam_are_no_roughness() -> None:
    angle = np.linspace(-0.5, 0.5, 2000)
    ring = np.column_stack([8 * np.cos(angle), 8 * np.sin(angle), np.zeros(2000), np.ones(2000)]).astype(np.float32)
    facts = scan_facts([Scan(ring, 1.7, *NOTHING)], 180.0, RANGE, 0.32, [])
    assert np.isnan(facts["roughness_m"]).all()


def test_the_command_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from datasets.synthetic import DatasetConfig, generate

    generate(DatasetConfig({"val": 1}, 1, sweeps=0, sensor="kitti"), tmp_path / "like", workers=1)
    real = tmp_path / "real"
    real.mkdir()
    rng = np.random.default_rng(0)
    xyz = np.column_stack([rng.uniform(3, 40, 5000), rng.uniform(-2, 2, 5000), rng.normal(-1.73, 0.01, 5000)])
    np.savez(real / "0.npz", xyz_mm=np.rint(1000 * xyz).astype(np.int32), intensity_percent=np.full(5000, 20, np.uint8))
    out = tmp_path / "out"
    arguments = ["--real", str(real), "--generated", str(tmp_path / "like"), "--view", "42", "--out", str(out)]
    assert main(arguments) == 0
    facts = json.loads((out / "scans.json").read_text())
    assert facts["real"]["points"] == 5000
    assert facts["real"]["intensity"] == pytest.approx([51.0] * 5)
    assert facts["generated"]["points"] > 10_000
    assert "| points a scan | 5,000 |" in capsys.readouterr().out
    assert (out / "scans.png").read_bytes().startswith(b"\x89PNG")
    assert main([*arguments[:1], str(tmp_path / "like" / "lidar"), *arguments[2:]]) == 2
    assert "neither labels.json nor .npz" in capsys.readouterr().err


def test_half_numbers_turned_are_the_same_scan(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    ahead_left = rng.integers(-60, 60, (400, 2)) / 2.0  # exact in float16
    z, intensity = rng.integers(-8, 40, 400) / 4.0, rng.integers(0, 256, 400).astype(float)
    right_ahead = np.column_stack([-ahead_left[:, 1], ahead_left[:, 0], z, intensity, np.zeros(400)])
    (tmp_path / "half.bin").write_bytes(right_ahead.astype("<f2").tobytes())
    (scan,) = real_scans(tmp_path / "half.bin", 1.84, 60, turned=True, half=True)
    far = np.hypot(*ahead_left.T) > 2.5  # the vehicle itself is left out
    np.testing.assert_array_equal(scan.points[:, :2], ahead_left[far])
    np.testing.assert_allclose(scan.points[:, 2], z[far] + 1.84, rtol=1e-6)
    np.testing.assert_array_equal(scan.points[:, 3], intensity[far])


def test_half_numbers_cut_off_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "half.bin").write_bytes(bytes(25))
    arguments = [
        "--real",
        str(tmp_path / "half.bin"),
        "--half",
        "--generated",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(arguments) == 2
    assert "25 bytes, not a multiple of 10" in capsys.readouterr().err


def test_joined_sweeps_lie_on_one_street(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Standing things are where the key frame has them: where sweeps are joined with poses that have a height."""
    from datasets.synthetic import DatasetConfig, generate

    generate(DatasetConfig({"val": 1}, 1, sweeps=2, sensor="kitti_full", seed=3), tmp_path / "like", workers=1)
    (one,) = generated_scans(tmp_path / "like", 1.73, 1)
    (three,) = generated_scans(tmp_path / "like", 1.73, 1, sweeps=2)
    assert len(three.points) > 2.8 * len(one.points)
    np.testing.assert_array_equal(three.points[: len(one.points)], one.points)
    facts = [scan_facts([scan], 180.0, RANGE, 0.32, []) for scan in (one, three)]
    assert facts[1]["roughness_m"][0] < 1.5 * facts[0]["roughness_m"][0]
    arguments = [
        "--real",
        str(tmp_path / "like" / "lidar" / "val_0000_00002.bin"),
        "--generated",
        str(tmp_path / "like"),
    ]
    assert main([*arguments, "--sweeps", "3", "--out", str(tmp_path / "out")]) == 2
    assert "lists 2 earlier sweeps, 3 are to be joined" in capsys.readouterr().err


def test_the_table_says_what_lies_inside() -> None:
    def facts(count: int) -> dict[str, Any]:
        points = np.column_stack([np.full(count, 5.0), np.zeros(count), np.zeros(count), np.full(count, 9.0)])
        return scan_facts([Scan(points.astype(np.float32), 1.7, *NOTHING)], 180.0, RANGE, 0.32, [])

    scans = [facts(count) for count in range(100, 201)]
    spreads = spread(scans)
    assert spreads["points a scan"] == pytest.approx((105.0, 195.0))
    assert spreads["intensity 50 %"] == (9.0, 9.0)
    assert "roughness of the ground, m, 0–10 m" not in spreads  # one place is no plane
    text = table(facts(104), facts(150), spreads).splitlines()
    assert "| points a scan | 104 | 150 | 1.44 | 105 to 195 | no |" in text
    assert any(line.startswith("| intensity 50 % | 9 | 9 | 1.00 |") and line.endswith("| yes |") for line in text)
    assert not any("75–100 m" in line for line in text)  # nobody has anything there
    assert figures(scans[0])["points, 0–10 m"] == 100.0


def test_options_of_a_file_beside_a_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--half", "--turned"):
        assert (
            main(["--real", str(tmp_path), "--generated", str(tmp_path), option, "--out", str(tmp_path / "out")]) == 2
        )
        assert "--turned and --half say how a .bin file is" in capsys.readouterr().err
