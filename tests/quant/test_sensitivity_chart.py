"""Charts of profiles: what they show, and that equal profiles give equal bytes."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from base.errors import ConfigError
from quant.sensitivity import Effect, LayerSensitivity, SensitivityProfile, write_sensitivity_chart
from quant.sensitivity.profile import AnalysisCost

LAYERS = {
    "pts_backbone.blocks.0.3": 0.01,
    "pts_neck.deblocks.1.0": 0.002,
    "pts_bbox_head.shared_conv.conv": 0.03,
    "pts_bbox_head.task_heads.0.rot.0.conv": 0.0,
}


def profile(undefined: bool = False) -> SensitivityProfile:
    def effect(difference: float, sqnr: float, rest: float = math.inf) -> Effect:
        low, high = (math.nan, math.nan) if undefined else (difference - 0.004, difference + 0.001)
        return Effect({"heatmap": sqnr, "rot": rest}, 0.7 + difference, difference, low, high, "worse")

    layers = tuple(
        LayerSensitivity(name, (name,), 100, effect(-loss, 20.0 + 1e3 * loss), effect(loss, 16.0, 14.0))
        for name, loss in LAYERS.items()
    )
    cost = AnalysisCost(400, 4000, 10)
    return SensitivityProfile(
        "toy", "0", "layer", ("heatmap", "rot"), 0.74, effect(-0.04, 15.0, 12.0), layers, 9, 9, 0.95, 1000, "1", cost
    )


def comments(path: Path) -> str:
    """Matplotlib draws text as paths and leaves each string in a comment."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    root = ElementTree.parse(path, parser).getroot()
    return "\n".join(str(item.text).strip() for item in root.iter() if item.tag == ElementTree.Comment)  # type: ignore[comparison-overlap]


def test_svg_names_layers_by_stake_and_both_directions(tmp_path: Path) -> None:
    path = tmp_path / "chart.svg"
    write_sensitivity_chart(profile(), path)
    text = comments(path).splitlines()
    rows = [line for line in text if line in ("blocks.0.3", "deblocks.1.0", "shared_conv", "rot.0")]
    assert rows == ["shared_conv", "blocks.0.3", "deblocks.1.0", "rot.0"]
    for expected in (
        "only this layer quantized: lost",
        "all but this layer quantized: won back",
        "heatmap",
        "toy: mAP 74.00 in floating point, 66.00 with every layer quantized (-4.00, interval -4.40 to -3.90); "
        "9 frames, 95 % intervals",
    ):
        assert expected in text, expected


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_equal_bytes(tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    write_sensitivity_chart(profile(), first)
    write_sensitivity_chart(profile(), second)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes()[:4] in (b"\x89PNG", b"<?xm")


def test_undefined_intervals_are_left_out(tmp_path: Path) -> None:
    """A profile of frames without objects, and outputs that no layer touches, are drawn all the same."""
    for name, drawn in (("with", profile()), ("without", profile(undefined=True))):
        write_sensitivity_chart(drawn, tmp_path / f"{name}.svg")
    whisker = 'style="fill: none; stroke: #1b2430"'
    lines = [(tmp_path / f"{name}.svg").read_text().count(whisker) for name in ("with", "without")]
    assert lines == [2 * len(LAYERS), 0]
    assert "; 9 frames, too few objects for intervals" in comments(tmp_path / "without.svg")


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be written to '.*chart\.pdf'; its name ends in \.svg or \.png"):
        write_sensitivity_chart(profile(), tmp_path / "chart.pdf")
