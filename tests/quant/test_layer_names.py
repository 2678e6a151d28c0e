"""Names and patterns of layers."""

from __future__ import annotations

import pytest

from base.errors import ConfigError
from quant.layer_names import matches, select

PATHS = (
    "pts_backbone.blocks.0.0",
    "pts_backbone.blocks.0.01",
    "pts_backbone.blocks.0.10",
    "pts_backbone.blocks.1.0",
    "pts_bbox_head.task_heads.0.reg.0.conv",
    "pts_bbox_head.task_heads.0.reg.1",
)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("pts_backbone.blocks.0.0", [0]),
        ("pts_backbone.blocks.0", [0, 1, 2]),
        ("pts_backbone.blocks.0.*", [0, 1, 2]),
        ("pts_backbone.blocks.*.0", [0, 3]),
        ("pts_backbone.blocks.0.1?", [2]),
        ("pts_*", [0, 1, 2, 3, 4, 5]),
        ("pts_bbox_head.task_heads.*.*.*.conv", [4]),
        ("pts_bbox_head.task_heads.0.[qr]eg", [4, 5]),
        ("pts_backbone.block", []),
        ("PTS_backbone", []),
        ("blocks.0.0", []),
        ("pts_backbone*0.0", []),
        ("pts_backbone.blocks.0.0.conv", []),
    ],
)
def test_patterns(pattern: str, expected: list[int]) -> None:
    assert [i for i, path in enumerate(PATHS) if matches(pattern, path)] == expected


def test_select() -> None:
    assert select(["pts_backbone.blocks.1", "*.*.0.01"], PATHS, "x") == {PATHS[1], PATHS[3]}
    assert select([], PATHS, "x") == set()
    with pytest.raises(
        ConfigError, match=r"skip_names: 'pts_backbone.blocks.0.1' names no layer.*Nearest: pts_backbone"
    ):
        select(["pts_backbone.blocks.0.1"], PATHS, "skip_names")
    with pytest.raises(ConfigError, match=r"There are 6, such as pts_backbone.blocks.0.0,"):
        select(["zzz"], PATHS, "skip_names")
    with pytest.raises(ConfigError, match="must be a list of names, got the string 'pts_backbone'"):
        select("pts_backbone", PATHS, "skip_names")
