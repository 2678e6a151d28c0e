"""The analysis in parts: the profile of one run to the byte, and parts that do not belong together."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from base.errors import ConfigError, DataError
from base.parts import write_part
from base.shares import Share
from models.spec import ModelSpec
from quant.centerpoint_quantization import main
from quant.fusion import fuse_model_bn
from quant.replace import quant_model
from quant.sensitivity import Effect, LayerSensitivity, SensitivityProfile
from quant.sensitivity.analysis import network_of
from quant.sensitivity.layers import QuantizedLayers, units_of
from quant.sensitivity.parts import merge_sensitivity_parts, write_sensitivity_part
from quant.sensitivity.profile import AnalysisCost
from tests.quant.quantized_model import calibrate_by_max

HEADS = ("heatmap", "reg", "height", "dim", "rot", "vel")


@pytest.fixture(scope="module")
def spec(demo_cfg: Any) -> ModelSpec:
    return ModelSpec.from_config(demo_cfg)


@pytest.fixture(scope="module")
def model(trained_demo_model: nn.Module, canvas: torch.Tensor) -> nn.Module:
    quantized = copy.deepcopy(trained_demo_model)
    fuse_model_bn(quantized)
    quant_model(quantized)
    calibrate_by_max(quantized, canvas)
    return quantized


@pytest.fixture(scope="module")
def whole(model: nn.Module, spec: ModelSpec) -> SensitivityProfile:
    """Numbers with all their digits, unknown ones, and ratios without end in both directions."""
    numbers = random.Random(3)
    units = units_of(QuantizedLayers(network_of(model, spec)).paths, "stage")

    def effect(index: int) -> Effect:
        ratios = {head: numbers.uniform(-5, 60) for head in HEADS}
        ratios |= {"reg": math.inf, "vel": -math.inf} if index % 3 == 0 else {}
        score, difference, low, high = (math.nan if index % 4 == 1 else numbers.uniform(0, 1) for _ in range(4))
        return Effect(ratios, score, difference, low, high, "undefined" if index % 4 == 1 else "worse")

    layers = tuple(
        LayerSensitivity(unit.name, unit.layers, 100 + index, effect(index), effect(index + 1))
        for index, unit in enumerate(units)
    )
    cost = AnalysisCost(1000, 2000 + sum(10 + index for index in range(len(units))), 2 + 2 * len(units))
    common = ("stage", HEADS, numbers.uniform(0, 1), effect(2), layers, 7, 7, 0.95, 40, "f" * 64, cost)
    return SensitivityProfile(spec.name, spec.fingerprint(), *common)


def of_share(whole: SensitivityProfile, share: Share) -> SensitivityProfile:
    """What an analysis of a share finds: its layers, and what they cost."""
    indices = share.indices(len(whole.layers))
    cost = AnalysisCost(1000, 2000 + sum(10 + index for index in indices), 2 + 2 * len(indices))
    return dataclasses.replace(whole, layers=tuple(whole.layers[index] for index in indices), cost=cost)


@pytest.fixture
def parts(whole: SensitivityProfile, model: nn.Module, spec: ModelSpec, tmp_path: Path) -> list[Path]:
    paths = []
    for number in (1, 2, 3):
        paths.append(tmp_path / f"{number}.json")
        share = Share(number, 3)
        write_sensitivity_part(of_share(whole, share), model, 5, share, paths[-1], spec=spec)
    return paths


def files(profile: SensitivityProfile, folder: Path) -> tuple[bytes, bytes]:
    profile.write_json(folder / "profile")
    profile.write_csv(folder / "table")
    return (folder / "profile").read_bytes(), (folder / "table").read_bytes()


def test_merged_parts_are_the_profile_of_one_run(whole: SensitivityProfile, parts: list[Path], tmp_path: Path) -> None:
    merged = merge_sensitivity_parts([parts[2], parts[0], parts[1]])
    assert files(merged, tmp_path) == files(whole, tmp_path)
    assert merged.measured is None
    assert "-inf" in whole.to_csv()
    assert [layer.name for layer in merged.layers] == [layer.name for layer in whole.layers]


def test_one_part_that_is_everything(
    whole: SensitivityProfile, model: nn.Module, spec: ModelSpec, tmp_path: Path
) -> None:
    write_sensitivity_part(whole, model, 5, Share(), tmp_path / "part", spec=spec)
    assert files(merge_sensitivity_parts([tmp_path / "part"]), tmp_path) == files(whole, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_resamples": 41}, "its num_resamples is 41, that of"),
        ({"frames_sha256": "0" * 64}, "its frames_sha256 is '0000"),
        ({"float_map": 0.25}, "its float_map is 0.25, that of"),
    ],
)
def test_parts_of_another_analysis(
    whole: SensitivityProfile, model: nn.Module, spec: ModelSpec, parts: list[Path], change: Any, message: str
) -> None:
    other = dataclasses.replace(of_share(whole, Share(2, 3)), **change)
    write_sensitivity_part(other, model, 5, Share(2, 3), parts[1], spec=spec)
    with pytest.raises(DataError, match=message):
        merge_sensitivity_parts(parts)


def test_parts_of_another_model(
    whole: SensitivityProfile, model: nn.Module, spec: ModelSpec, parts: list[Path]
) -> None:
    """Other weights, other scales, another seed of the intervals."""
    share = Share(2, 3)

    def refused(message: str, other: nn.Module, seed: int = 5) -> None:
        write_sensitivity_part(of_share(whole, share), other, seed, share, parts[1], spec=spec)
        with pytest.raises(DataError, match=message):
            merge_sensitivity_parts(parts)

    heavier, coarser = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        next(heavier.parameters()).mul_(1.001)
    calibrate_by_max(coarser, torch.ones(1, 32, 64, 64))
    refused("its weights_sha256 is ", heavier)
    refused("its scales_sha256 is ", coarser)
    refused("its seed is 6, that of ", model, 6)


def test_a_part_twice_and_a_missing_one(parts: list[Path]) -> None:
    with pytest.raises(DataError, match="both part 2/3 of a sensitivity analysis"):
        merge_sensitivity_parts([*parts, parts[1]])
    with pytest.raises(DataError, match="1/3 is missing"):
        merge_sensitivity_parts(parts[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["layers"].pop(), "part 2/3 of the analysis has "),
        (lambda content: content["layers"].reverse(), "part 2/3 of the analysis has "),
        (lambda content: content["layers"][0].update(macs=-1), "macs is -1"),
        (lambda content: content["layers"][0]["alone"].update(verdict="good"), "verdict is 'good'"),
        (lambda content: content["layers"][0]["alone"]["sqnr_db"].update(reg="nan"), "reg"),
        (lambda content: content["layers"][0]["all_but"]["sqnr_db"].pop("reg"), "head_names are "),
        (lambda content: content["layers"][0]["all_but"].update(mean_ap=2.0), "mean_ap is 2.0"),
        (lambda content: content.update(more=1), "more"),
    ],
)
def test_content_that_no_analysis_writes(
    parts: list[Path], change: Callable[[dict[str, Any]], object], message: str
) -> None:
    value = json.loads(parts[1].read_text())
    change(value["content"])
    write_part(parts[1], "sensitivity analysis", Share(2, 3), value["work"], value["content"])
    with pytest.raises(DataError, match=message):
        merge_sensitivity_parts(parts)


def test_the_command_merges_without_a_model(
    whole: SensitivityProfile, parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merging = ["sensitivity", "--merge", *map(str, parts)]
    assert main([*merging, "--output", str(tmp_path / "out" / "report.csv")]) == 0
    assert (tmp_path / "out" / "report.csv").read_text() == whole.to_csv()
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".csv", ".json", ".png", ".svg"]
    assert "by time" not in capsys.readouterr().out
    for arguments, message in (
        ([*merging, "--output", "report.txt"], "give a file name that ends in '.csv'"),
        (
            ["sensitivity", "--part", "1/2", "--output", "report.csv"],
            "with --part; give a file name that ends in '.json'",
        ),
        (["sensitivity", "--output", str(tmp_path / "a.csv")], "The analysis needs --config and --checkpoint"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "a.csv").exists()


def test_more_parts_than_layers(model: nn.Module, spec: ModelSpec) -> None:
    from quant.sensitivity import build_sensitivity_profile

    with pytest.raises(ConfigError, match="There is no part 14/20 of 13 stages to measure"):
        build_sensitivity_profile(model, [], spec=spec, granularity="stage", share=Share(14, 20))
