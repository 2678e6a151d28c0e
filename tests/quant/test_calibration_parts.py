"""Calibration in parts: the scales of one run to the bit, for every method, and parts that do not belong together."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from base.errors import ConfigError, DataError
from base.parts import write_part
from base.shares import WHOLE, Share
from quant.calibration.batches import CalibrationFrame
from quant.calibration.calibrator import CalibrationManager
from quant.calibration.parts import merge_calibration_parts, write_calibration_part
from quant.centerpoint_quantization import main
from quant.ptq import write_ptq_part
from quant.replace import quant_model
from quant.settings import ACTIVATION_METHODS, PtqSettings

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"skip_layers": ["a"]}
FRAMES = 7


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
    return quantized(model)


def quantized(model: nn.Sequential) -> nn.Sequential:
    quant_model(model, include=["0", "2"] if len(model) > 1 else ["0"], example_inputs=(torch.zeros(1, 3, 8, 8),))
    return model


@pytest.fixture(scope="module")
def frames() -> list[CalibrationFrame]:
    """Of magnitudes that differ by thousands, so that histograms fold; one canvas is empty, of others most is."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for index in range(FRAMES):
        canvas = torch.randn(1, 3, 8, 8, generator=generator) * 10.0 ** (index % 4 - 2)
        occupied = torch.rand(1, 1, 8, 8, generator=generator) < (0.0 if index == 3 else 0.3)
        found.append(CalibrationFrame(f"frame {index}", canvas * occupied))
    return found


def parts_of(model: nn.Module, frames: Sequence[Any], of: int, folder: Path, **settings: Any) -> list[Path]:
    paths = []
    for number in range(1, of + 1):
        manager = CalibrationManager(copy.deepcopy(model))
        path = folder / f"{number}.json"
        share = Share(number, of)
        count = write_calibration_part(
            manager, frames, FRAMES, share, path, settings=settings or SETTINGS, workers=1, progress=False
        )
        assert count == len(share.indices(FRAMES))
        paths.append(path)
    return paths


@pytest.mark.parametrize("of", [1, 2, 3, FRAMES])
def test_every_method_chooses_the_scales_of_one_run(
    network: nn.Module, frames: list[CalibrationFrame], of: int, tmp_path: Path
) -> None:
    one, merged = CalibrationManager(copy.deepcopy(network)), CalibrationManager(copy.deepcopy(network))
    seen = one.observe(frames, FRAMES, progress=False, workers=1)
    paths = parts_of(network, frames, of, tmp_path)
    random.Random(of).shuffle(paths)
    together = merge_calibration_parts(merged, frames, FRAMES, paths, settings=SETTINGS)
    assert together.tokens_sha256 == seen.tokens_sha256
    for method in ACTIVATION_METHODS:
        one.set_scales(seen, method)
        merged.set_scales(together, method)
        one.save_calib_cache(tmp_path / "one")
        merged.save_calib_cache(tmp_path / "merged")
        assert (tmp_path / "merged").read_bytes() == (tmp_path / "one").read_bytes(), method
    assert all(
        torch.equal(mine, other)
        for mine, other in zip(one.model.state_dict().values(), merged.model.state_dict().values(), strict=True)
    )


def test_parts_of_something_else(network: nn.Module, frames: list[CalibrationFrame], tmp_path: Path) -> None:
    paths = parts_of(network, frames, 3, tmp_path)
    heavier = copy.deepcopy(network)
    with torch.no_grad():
        next(heavier.parameters()).mul_(1.001)
    wider = quantized(nn.Sequential(nn.Conv2d(3, 5, 1)))

    def refused(model: nn.Module, batches: Any, number: int, settings: dict[str, Any], message: str) -> None:
        with pytest.raises((DataError, ConfigError), match=message):
            merge_calibration_parts(CalibrationManager(copy.deepcopy(model)), batches, number, paths, settings=settings)

    refused(network, frames, FRAMES, {"skip_layers": []}, r"its skip_layers is \['a'\], that of this command is \[\]")
    refused(heavier, frames, FRAMES, SETTINGS, "its weights_sha256 is ")
    refused(wider, frames, FRAMES, SETTINGS, "its architecture is ")
    refused(network, frames, 5, SETTINGS, "its frames is 7, that of this command is 5")
    refused(network, iter(frames), FRAMES, SETTINGS, "can only be read one after the other and cannot be cut")
    with pytest.raises(DataError, match="3/3 is missing"):
        merge_calibration_parts(CalibrationManager(network), frames, FRAMES, paths[:2], settings=SETTINGS)


def test_frames_of_another_dataset(network: nn.Module, frames: list[CalibrationFrame], tmp_path: Path) -> None:
    class Dataset(list[CalibrationFrame]):
        info_sha256 = "a"

    class Another(list[CalibrationFrame]):
        info_sha256 = "b"

    paths = parts_of(network, Dataset(frames), 2, tmp_path)
    with pytest.raises(DataError, match="its info_sha256 is 'a', that of this command is 'b'"):
        merge_calibration_parts(CalibrationManager(network), Another(frames), FRAMES, paths, settings=SETTINGS)


def test_histograms_that_no_run_makes(network: nn.Module, frames: list[CalibrationFrame], tmp_path: Path) -> None:
    """With a right checksum: bins that do not belong to the largest value would move every count."""
    (path,) = parts_of(network, frames, 1, tmp_path)
    good = json.loads(path.read_text())
    name = next(iter(good["content"]["quantizers"]))

    def refused(message: str, **change: Any) -> None:
        content = copy.deepcopy(good["content"])
        content["quantizers"][name]["all"] |= change
        write_part(path, "calibration", WHOLE, good["work"], content)
        with pytest.raises(DataError, match=message):
            merge_calibration_parts(CalibrationManager(network), frames, FRAMES, [path], settings=SETTINGS)

    refused("bins up to that of the largest value", exponent=good["content"]["quantizers"][name]["all"]["exponent"] + 1)
    refused("bins up to that of the largest value", exponent=None)
    refused("bins up to that of the largest value", max=1e6)
    refused("bins up to that of the largest value", max=0.0)
    refused("bins up to that of the largest value", counts=[1])
    refused(r"exponent is 5000", exponent=5000)
    refused(r"counts\[0\] is -1", counts=[-1])
    refused(r"zeros is True", zeros=True)
    content = copy.deepcopy(good["content"])
    del content["quantizers"][name]
    write_part(path, "calibration", WHOLE, good["work"], content)
    with pytest.raises(DataError, match=f"the model has .*{name}"):
        merge_calibration_parts(CalibrationManager(network), frames, FRAMES, [path], settings=SETTINGS)
    write_part(path, "calibration", WHOLE, good["work"], {**good["content"], "tokens": ["a"]})
    with pytest.raises(DataError, match="part 1/1 of 7 frames has 7"):
        merge_calibration_parts(CalibrationManager(network), frames, FRAMES, [path], settings=SETTINGS)


def test_what_cannot_be_cut(network: nn.Module, frames: list[CalibrationFrame], tmp_path: Path) -> None:
    manager = CalibrationManager(network)
    with pytest.raises(ConfigError, match="There is no part 8/9 of 7 frames; cut them into fewer parts"):
        write_calibration_part(manager, frames, FRAMES, Share(8, 9), tmp_path / "a", settings={}, progress=False)
    settings = PtqSettings(num_batches=FRAMES, method="lidar_ptq")
    for chosen in (settings, dataclasses.replace(settings, method="calibrate", equalize=True)):
        with pytest.raises(ConfigError, match="that equalizes channels cannot be cut into parts"):
            write_ptq_part(nn.Conv2d(1, 1, 1), frames, chosen, Share(1, 2), tmp_path / "a")
    cached = PtqSettings(num_batches=FRAMES, calib_cache=tmp_path / "cache")
    with pytest.raises(ConfigError, match="A calibration cache holds the scales of all frames"):
        write_ptq_part(nn.Conv2d(1, 1, 1), frames, cached, Share(1, 2), tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_in_parts(four_frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = {
        "--config": ROOT / "configs" / "model" / "centerpoint_t4_demo.py",
        "--checkpoint": ROOT / "models" / "zoo" / "centerpoint_t4_demo" / "checkpoint.pth",
        "--data-root": four_frames,
        "--calibrate-batches": 2,
        "--workers": 1,
        "--amax-method": "max",
    }
    arguments = ["ptq", *(str(word) for pair in known.items() for word in pair)]
    paths = [str(tmp_path / f"{number}.json") for number in (1, 2)]
    for number, path in enumerate(paths, 1):
        assert main([*arguments, "--part", f"{number}/2", "--output", path]) == 0
    assert "part 2/2 of the calibration, 1 of 2 frames" in capsys.readouterr().out
    assert main([*arguments, "--output", str(tmp_path / "one.pth")]) == 0
    assert main([*arguments, "--merge", *reversed(paths), "--output", str(tmp_path / "merged.pth")]) == 0
    assert (tmp_path / "merged.pth").read_bytes() == (tmp_path / "one.pth").read_bytes()
    capsys.readouterr()
    for wrong, message in (
        (["--part", "1/2", "--output", str(tmp_path / "a.pth")], "a.pth'; with --part; give a file name that ends in"),
        (["--merge", *paths, "--equalize", "--output", str(tmp_path / "a.pth")], "equalizes channels cannot be cut"),
    ):
        assert main([*arguments, *wrong]) == 2
        assert message in capsys.readouterr().err
