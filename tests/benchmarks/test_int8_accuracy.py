"""Results of an INT8 comparison: kept whole, compared with FP16, refused where they are another run's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from base.boxes import Boxes3D
from base.errors import ConfigError
from benchmarks.int8_accuracy import main
from benchmarks.int8_accuracy_results import StoredRun, write_results
from benchmarks.int8_accuracy_variants import Variant, parse_variant, variant_and_backend
from eval.metrics import FrameResult

CLASSES = ("car", "pedestrian")


def boxes(xy: list[tuple[float, float]], labels: list[int], scores: list[float] | None = None) -> Boxes3D:
    values = np.zeros((len(xy), 9), np.float32)
    values[:, :2] = xy
    values[:, 3:6] = (4.0, 2.0, 1.5)
    return Boxes3D(values, np.array(scores or [1.0] * len(xy), np.float32), np.array(labels, np.int64))


def stored(folder: Path, times: int) -> StoredRun:
    """Two frames, so often; fp16 finds all, half loses the far car, empty nothing."""
    truth = [boxes([(5, 0), (40, 0)], [0, 0]), boxes([(10, 0), (25, 3)], [1, 0])]
    run = StoredRun(folder)
    frames = [FrameResult(f"f{i}", Boxes3D.empty(), item) for i, item in enumerate(times * truth)]
    run.save_frames(frames, list("abcd")[: 2 * times])
    perfect = [boxes([(5, 0), (40, 0)], [0, 0], [0.9, 0.7]), boxes([(10, 0), (25, 3)], [1, 0], [0.8, 0.6])]
    run.save_detections("fp16", times * perfect)
    run.save_detections("same", times * perfect)
    run.save_detections("half", times * [perfect[0].select(np.array([True, False])), perfect[1]])
    run.save_detections("empty", times * [Boxes3D.empty(), Boxes3D.empty()])
    return run


@pytest.fixture
def run(tmp_path: Path) -> StoredRun:
    return stored(tmp_path, 1)


def test_detections_come_back(run: StoredRun) -> None:
    first, second = run.frames("half")
    assert [frame.token for frame in (first, second)] == ["f0", "f1"]
    assert first.detections.boxes[:, 0].tolist() == [5.0]
    assert second.detections.labels.tolist() == [1, 0]
    assert second.ground_truth.boxes[1, :2].tolist() == [25.0, 3.0]
    assert run.has("half")
    assert not run.has("other")
    assert run.scenes() == ["a", "b"]


def test_differences(run: StoredRun) -> None:
    text = write_results(run, ["fp16", "same", "half", "empty"], CLASSES, 100)
    results = json.loads((run.folder / "results.json").read_text())
    rows = {row["method"]: row for row in results["variants"]}
    assert rows["fp16"]["map"]["total"] == pytest.approx(100.0)
    assert rows["same"]["difference"]["total"]["difference"] == 0.0
    assert rows["same"]["goal_met"]
    # One of three cars lost: in its range the AP of cars falls from 100 to 0.
    assert rows["half"]["worst_cell"]["class"] == "car"
    assert rows["half"]["worst_cell"]["range"] == "35-51 m"
    assert rows["half"]["worst_cell"]["difference"] == pytest.approx(-100.0)
    assert not rows["half"]["goal_met"]
    assert rows["empty"]["map"]["total"] == 0.0
    # With the first frame's far car gone, the weakest car left has score 0.6 still.
    assert rows["half"]["best_score_shift"]["car"] == pytest.approx(0.0)
    assert "| half |" in text
    assert (run.folder / "results.md").read_text() == text


def test_cells_of_one_scene_have_no_chance_to_tell(run: StoredRun) -> None:
    write_results(run, ["fp16", "same"], CLASSES, 100)
    (_, same) = json.loads((run.folder / "results.json").read_text())["variants"]
    assert (same["cells_summary"]["cells"], same["cells_summary"]["equal_model_misses"]) == (4, None)
    assert same["cells"]["35-51 m"]["car"]["low"] is None


def test_cells_and_pairs(tmp_path: Path) -> None:
    run = stored(tmp_path, 2)
    text = write_results(run, ["fp16", "same", "half"], CLASSES, 100, [("half", "same")], workers=2)
    results = json.loads((run.folder / "results.json").read_text())
    rows = {row["method"]: row for row in results["variants"]}
    # Cars in three ranges and pedestrians in the first: the others hold no object.
    assert rows["half"]["cells_summary"]["cells"] == 4
    assert rows["half"]["cells_summary"]["worse_than_goal"] == 1
    assert rows["half"]["cells"]["35-51 m"]["car"]["difference"] == pytest.approx(-100.0)
    assert rows["half"]["cells"]["20-35 m"]["pedestrian"]["difference"] is None
    # Equal detections leave nothing to chance.
    assert rows["same"]["cells_summary"]["equal_model_misses"] == 0.0
    (pair,) = results["pairs"]
    assert pair["method"] == "same against half"
    assert pair["worst_cell"]["difference"] == 0.0
    assert pair["cells"]["35-51 m"]["car"]["difference"] == pytest.approx(100.0)
    assert "| same against half |" in text


def test_chance_of_missing_the_goal(run: StoredRun) -> None:
    """One cell with a standard error of 0.5 points: below -0.5 in 15.9 % of all cases."""
    from benchmarks.int8_accuracy_results import _cells_summary
    from eval.statistics import Difference

    half_width = 1.959964 * 0.005
    cell = Difference("0-20 m", "car", 0.9, 0.9, 0.0, -half_width, half_width, "indistinguishable")
    found = _cells_summary([cell])
    assert found["equal_model_misses"] == pytest.approx(0.1587, abs=1e-4)
    assert found["median_standard_error"] == pytest.approx(0.5, abs=1e-3)
    assert _cells_summary([cell, cell])["equal_model_misses"] == pytest.approx(1 - 0.8413**2, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("fp16", Variant("fp16")),
        ("percentile", Variant("percentile", "percentile")),
        ("mixed-percentile-odd", Variant("percentile", "percentile", mixed=True, half="odd")),
        ("lidar_ptq", Variant("lidar_ptq", "mse")),
        ("mixed-lidar_ptq-percentile", Variant("lidar_ptq", "percentile", mixed=True)),
    ],
)
def test_names_of_variants(name: str, variant: Variant) -> None:
    assert parse_variant(name) == variant


@pytest.mark.parametrize("name", ["percentil", "mixed-fp16", "qat-odd", "percentile-mse", "lidar_ptq-mse-even-odd", ""])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ConfigError, match="Unknown variant"):
        parse_variant(name)
    if name == "percentil":
        with pytest.raises(ConfigError, match="Did you mean percentile"):
            parse_variant(name)


def test_a_backend_of_its_own() -> None:
    assert variant_and_backend("mse", "onnx") == ("mse", "onnx")
    assert variant_and_backend("mixed-mse@openvino", "onnx") == ("mixed-mse", "openvino")
    with pytest.raises(ConfigError, match="Unknown backend 'onnxx' in 'mse@onnxx'"):
        variant_and_backend("mse@onnxx", "onnx")


def test_stages_and_processes_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from datasets.synthetic.dataset_writer import DatasetConfig, generate

    data = tmp_path / "t4"
    generate(DatasetConfig({"train": 1, "val": 2}, frames_per_scene=1, seed=5, sweeps=1), data, workers=1)
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"chosen": {"skip_layers": ["pts_backbone.blocks.0.0"]}}))
    name, other = "mixed-percentile", "mixed-percentile@openvino"
    options = ["--data-root", str(data), "--calibrate-batches", "1", "--resamples", "100", "--plan", str(plan)]
    options += ["--methods", name, other, "--pair", name, other]
    together, apart = tmp_path / "together", tmp_path / "apart"
    assert main([*options, "--workers", "1", "--output", str(together)]) == 0
    assert main([*options, "--stages", "prepare", "--output", str(apart)]) == 0
    assert main([*options, "--stages", "score", "report", "--workers", "2", "--output", str(apart)]) == 0
    assert (together / "results.json").read_bytes() == (apart / "results.json").read_bytes()
    # One set of files for both backends, and a pair between them.
    assert sorted(path.name for path in (together / "models").glob("[!.]*")) == ["fp16", name]
    (pair,) = json.loads((together / "results.json").read_text())["pairs"]
    assert pair["method"] == f"{other} against {name}"
    one, two = (folder / "models" / name / "pts_backbone_neck_head.onnx" for folder in (together, apart))
    assert one.read_bytes() == two.read_bytes()
    # What is in a folder was made of one plan and of one set of calibration frames.
    plan.write_text(json.dumps({"chosen": {"skip_layers": ["pts_backbone.blocks.0.1"]}}))
    assert main([*options, "--output", str(together)]) == 2
    assert "layers of --plan differ" in capsys.readouterr().err
    plan.write_text(json.dumps({"chosen": {"skip_layers": ["pts_backbone.blocks.0.0"]}}))
    more = tmp_path / "more"
    generate(DatasetConfig({"train": 1}, frames_per_scene=1, seed=6, sweeps=1), more, workers=1)
    assert main([*options, "--calibration-data-root", str(more), "--output", str(together)]) == 2
    assert "calibration frames differ" in capsys.readouterr().err
    assert main([*options, "--frames", "3", "--output", str(tmp_path / "third")]) == 2
    assert "--frames is 3; " in capsys.readouterr().err
    assert not (tmp_path / "third" / "models").exists(), "told before anything is calibrated"


def test_variants_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--data-root", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main([*out, "--methods", "qot"]) == 2
    assert "Did you mean qat" in capsys.readouterr().err
    assert main([*out, "--methods", "mse", "--pair", "mse", "max"]) == 2
    assert "--pair names max" in capsys.readouterr().err
    for options, message in (
        (("--methods", "mse", "--judged", "max"), "--judged names max, which --methods does not"),
        (("--methods", "mse", "--each-layer", "percntile"), "Did you mean percentile"),
        (("--methods", "mixed-mse"), "A mixed variant needs --plan"),
        (("--methods", "qat"), "needs --qat-checkpoint"),
    ):
        assert main([*out, *options, "--checkpoint", "nowhere.pth"]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert "nowhere.pth" not in err, "told before a model is read"


def test_a_folder_of_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--data-root", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")])
    assert code == 2
    assert "nowhere" in capsys.readouterr().err
