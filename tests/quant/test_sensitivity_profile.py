"""Profiles as files, and the choice of sensitive layers, on profiles written by hand."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from base.errors import ConfigError, DataError
from quant.sensitivity import Effect, LayerSensitivity, SensitivityProfile, get_sensitive_layers
from quant.sensitivity.layers import stages
from quant.sensitivity.profile import AnalysisCost
from quant.sensitivity.selection import predicted_drop, shares


def effect(difference: float, sqnr: float = 30.0, mean_ap: float = 0.7) -> Effect:
    return Effect(
        {"heatmap": sqnr, "reg": math.inf}, mean_ap, difference, difference - 0.01, difference + 0.01, "worse"
    )


def layer(name: str, lost_alone: float, gained_without: float, sqnr: float = 30.0, **changes: Any) -> LayerSensitivity:
    values = {"layers": (name,), "macs": 100, **changes}
    return LayerSensitivity(name, alone=effect(-lost_alone, sqnr), all_but=effect(gained_without), **values)


def profile(drop: float, *layers: LayerSensitivity) -> SensitivityProfile:
    return SensitivityProfile(
        model_name="toy",
        model_fingerprint="0" * 64,
        granularity="layer",
        head_names=("heatmap", "reg"),
        float_map=0.74,
        quantized=effect(-drop, mean_ap=0.74 - drop),
        layers=layers,
        num_frames=8,
        num_groups=4,
        confidence=0.95,
        num_resamples=1000,
        frames_sha256="1" * 64,
        cost=AnalysisCost(1000, 5500, 8),
    )


# Stakes 0.03, 0.01, 0 (a loss that is a gain) and 0: shares 3/4, 1/4, 0, 0 of a loss of 0.02.
EXAMPLE = profile(
    0.02,
    layer("a", 0.00, 0.02),
    layer("b", 0.04, 0.02),
    layer("c", -0.03, 0.01),
    layer("d", 0.0, 0.0),
)


def test_shares_and_predicted_drop() -> None:
    assert EXAMPLE.map_drop == pytest.approx(0.02)
    assert shares(EXAMPLE) == pytest.approx({"a": 0.25, "b": 0.75, "c": 0.0, "d": 0.0})
    assert predicted_drop(EXAMPLE, ["b"]) == pytest.approx(0.02 * 0.25)
    assert predicted_drop(EXAMPLE, ["c", "d"]) == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(0.05, ()), (0.02, ()), (0.019, ("b",)), (0.005, ("b",)), (0.0049, ("b", "a")), (0.0, ("b", "a"))],
)
def test_budget_decides_how_many_layers(budget: float, expected: tuple[str, ...]) -> None:
    assert get_sensitive_layers(EXAMPLE, budget) == expected


def test_a_network_that_loses_nothing_needs_no_layers() -> None:
    assert get_sensitive_layers(profile(-0.003, layer("a", 0.01, 0.0)), 0.0) == ()


def test_noise_decides_where_no_layer_alone_shows_a_loss() -> None:
    quiet, loud = layer("quiet", 0.0, 0.0, sqnr=40.0), layer("loud", -0.001, 0.0, sqnr=20.0)
    # 10^-4 and 10^-2 of the signal.
    measured = shares(profile(0.01, quiet, loud))
    assert measured["loud"] / measured["quiet"] == pytest.approx(100.0)
    assert get_sensitive_layers(profile(0.01, quiet, loud), 0.001) == ("loud",)


def test_noise_counts_in_both_directions() -> None:
    """10^-2 alone; without it the noise of the whole, 10^-3, is 0, the same, or 10^-1."""

    def shared_out(rest: float) -> float:
        other = layer("other", 0.0, 0.0, sqnr=20.0)
        some = LayerSensitivity("some", ("some",), 1, effect(0.0, 20.0), effect(0.0, rest))
        return shares(profile(0.01, some, other), "sqnr")["some"]

    assert shared_out(math.inf) == pytest.approx((0.01 + 0.001) / (0.01 + 0.001 + 0.01))
    assert shared_out(30.0) == pytest.approx(0.5)
    assert shared_out(10.0) == 0.0


def test_stage_gives_its_layers() -> None:
    stage = layer("blocks.0", 0.02, 0.02, layers=("blocks.0.0", "blocks.0.3"))
    assert get_sensitive_layers(profile(0.02, stage, layer("x", 0.0, 0.0)), 0.001) == ("blocks.0.0", "blocks.0.3")


@pytest.mark.parametrize("budget", [-0.001, math.nan])
def test_bad_budget(budget: float) -> None:
    with pytest.raises(ConfigError, match=r"max_map_drop is .*; give a loss of mAP from 0 to 1"):
        get_sensitive_layers(EXAMPLE, budget)


def test_profile_without_objects() -> None:
    with pytest.raises(ConfigError, match="its frames hold no object"):
        get_sensitive_layers(profile(math.nan, layer("a", math.nan, math.nan)), 0.1)


def test_json_round_trip_and_stable_bytes(tmp_path: Path) -> None:
    undefined = profile(math.nan, layer("a", math.nan, 0.01))
    for index, item in enumerate((EXAMPLE, undefined)):
        path = tmp_path / f"{index}.json"
        item.write_json(path)
        read = SensitivityProfile.read_json(path)
        read.write_json(tmp_path / "again.json")
        assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
        assert read.layers[0].alone.sqnr_db == {"heatmap": 30.0, "reg": math.inf}
    assert SensitivityProfile.read_json(tmp_path / "0.json") == EXAMPLE
    assert math.isnan(SensitivityProfile.read_json(tmp_path / "1.json").map_drop)
    assert "measured" not in (tmp_path / "0.json").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.pop("version"), "no sensitivity profile of version 1"),
        (lambda values: values.update(version=9), "no sensitivity profile of version 1"),
        (lambda values: values.pop("layers"), "damaged sensitivity profile"),
        (lambda values: values["layers"][0].pop("alone"), "damaged sensitivity profile"),
        (lambda values: values.update(surprise=1), "damaged sensitivity profile .*surprise"),
        (lambda values: values.update(num_frames="3"), "num_frames is '3', but must be a whole number"),
        (lambda values: values["cost"].update(network_macs=0), "network_macs is 0, but must be at least 1"),
        (lambda values: values["quantized"].update(mean_ap=55), "quantized.mean_ap is 55, but must be at most 1"),
        (lambda values: values["quantized"].update(verdict="good"), "verdict is 'good', but must be 'better'"),
        (lambda values: values["layers"][0]["alone"].update(sqnr_db={}), r"layers\[0\].alone.sqnr_db"),
        (lambda values: values["layers"][0]["alone"].update(sqnr_db={"x": 1.0}), "but head_names are"),
        (lambda values: values["layers"][0].update(layers="a"), r"layers\[0\].layers is 'a', but must be a list"),
    ],
)
def test_damaged_file(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "profile.json"
    EXAMPLE.write_json(path)
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=message):
        SensitivityProfile.read_json(path)


def test_csv_is_sorted_by_stake(tmp_path: Path) -> None:
    EXAMPLE.write_csv(tmp_path / "profile.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "profile.csv").read_text())))
    assert [row["layer"] for row in rows] == ["b", "a", "c", "d"]
    first = rows[0]
    assert float(first["stake_map"]) == pytest.approx(0.03)
    assert float(first["macs_share"]) == pytest.approx(0.1)
    assert float(first["alone_delta_map"]) == pytest.approx(-0.04)
    assert float(first["all_but_delta_map"]) == pytest.approx(0.02)
    assert (first["alone_sqnr_db_heatmap"], first["alone_sqnr_db_reg"]) == ("30.00", "inf")


def test_unknown_layer() -> None:
    with pytest.raises(KeyError, match="no layer 'e'; there are"):
        EXAMPLE.of("e")


def test_stages_of_paths() -> None:
    paths = (
        "pts_backbone.blocks.0.0",
        "pts_backbone.blocks.0.3",
        "pts_bbox_head.task_heads.0.reg.0.conv",
        "x.conv",
        "y",
    )
    assert [(unit.name, unit.layers) for unit in stages(paths)] == [
        ("pts_backbone.blocks.0", paths[:2]),
        ("pts_bbox_head.task_heads.0.reg", paths[2:3]),
        ("x", ("x.conv",)),
        ("y", ("y",)),
    ]
