"""The command on generated scenes, from a float checkpoint to its files, and the search that follows it."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import pytest

from base.errors import CheckpointError, ConfigError, DataError
from datasets.synthetic.dataset_writer import DatasetConfig, generate
from quant import search
from quant.sensitivity import SensitivityProfile, command

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/model/centerpoint_t4_demo.py"
CHECKPOINT = ROOT / "models/zoo/centerpoint_t4_demo/checkpoint.pth"


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sensitivity") / "t4"
    generate(DatasetConfig({"train": 1, "val": 1}, frames_per_scene=2, seed=3, sweeps=2), root, workers=1)
    return root


def parsed(*arguments: str | Path, data_root: Path, output: Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    known = ["--config", CONFIG, "--checkpoint", CHECKPOINT, "--data-root", data_root, "--output", output]
    return parser.parse_args([str(item) for item in (*known, *arguments)])


SMALL = (
    "--calibrate-batches",
    "2",
    "--frames",
    "1",
    "--num-resamples",
    "40",
    "--granularity",
    "stage",
    "--workers",
    "1",
)


@pytest.mark.slow
def test_from_a_checkpoint_to_a_plan(data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out" / "report.csv"
    assert command.run(parsed(*SMALL, data_root=data_root, output=output)) == 0
    printed = capsys.readouterr().out
    assert "1 frames: mAP 0." in printed
    assert "28 runs cost 9.1 evaluations by MACs" in printed
    assert sorted(path.name for path in output.parent.iterdir()) == [
        "report.csv", "report.json", "report.png", "report.svg",
    ]  # fmt: skip
    profile = SensitivityProfile.read_json(output.with_suffix(".json"))
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert {row["layer"] for row in rows} == {layer.name for layer in profile.layers}
    assert len(rows) == 3 + 3 + 1 + 6
    assert 0.3 < profile.float_map <= 1.0
    # INT8 rounds; it does not break.
    assert all(5.0 < ratio < 60.0 for ratio in profile.quantized.sqnr_db.values())

    plan = tmp_path / "plan.json"
    arguments = ["--profile", output.with_suffix(".json"), "--budget", "1", "--config", CONFIG, "--output", plan]
    arguments += ["--checkpoint", CHECKPOINT, "--data-root", data_root, "--max-evaluations", "1", *SMALL[:4]]
    assert search.main([str(item) for item in arguments]) == 0
    found = json.loads(plan.read_text())
    assert found["chosen"]["skip_layers"] == []
    assert found["chosen"]["within_budget"] is True
    # All layers quantized on the profile's frame: the profile has measured just that.
    assert found["chosen"]["measured"]["mean_ap"] == pytest.approx(profile.quantized.mean_ap)
    # One frame has no interval: none is claimed, and nothing is judged by its end.
    assert "no interval: one frame holds all objects" in printed
    assert (found["chosen"]["measured"]["low"], found["chosen"]["measured"]["high"]) == (None, None)
    out = capsys.readouterr().out
    assert "<- chosen" in out
    assert "nan" not in out
    assert search.main([str(item) for item in (*arguments, "--criterion", "interval")]) == 2
    assert "The profile has no interval" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("--frames", "9"), ConfigError, "--frames is 9, but split 'val' has 2; -1 takes all"),
        (("--frames", "0"), ConfigError, "--frames is 0, but split 'val' has 2"),
        (("--calibrate-batches", "0"), DataError, "Zero calibration frames"),
        (("--output", "report.txt"), ConfigError, r"--output is 'report.txt'; give a file name that ends in '\.csv'"),
        (("--checkpoint", "nowhere.pth"), CheckpointError, "nowhere.pth"),
        (("--amax-method", "mean"), ConfigError, "amax_method is 'mean'|amax_method"),
        (("--skip-layers", "pts_backbone.blocks.0.1"), ConfigError, "pts_backbone.blocks.0"),
        (("--device", "cuda:0"), ConfigError, "torch finds no CUDA device"),
    ],
)
def test_bad_arguments(
    arguments: tuple[str, ...], error: type[Exception], message: str, data_root: Path, tmp_path: Path
) -> None:
    small = ("--calibrate-batches", "1", "--workers", "1")
    args = parsed(*small, *arguments, data_root=data_root, output=tmp_path / "report.csv")
    if "--device" in arguments:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this machine has a CUDA device")
    with pytest.raises(error, match=message):
        command.run(args)
    assert not list(tmp_path.iterdir())
