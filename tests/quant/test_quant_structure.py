"""The structure's file form and the model's fingerprint."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from torch import nn

from base.errors import CheckpointError
from quant.fusion import fuse_model_bn
from quant.replace import quant_model
from quant.structure import LayerPlan, QuantizationStructure, model_fingerprint

STRUCTURE = QuantizationStructure(
    engine="modelopt",
    fuse_bn=True,
    layers=(LayerPlan("a.0", "conv2d", True), LayerPlan("a.1", "add", True), LayerPlan("b", "linear", False)),
    shared=(("a.0", "a.1.second_quantizer"),),
    model_fingerprint="12ab",
)


def test_round_trip() -> None:
    text = STRUCTURE.to_json()
    assert QuantizationStructure.from_json(text) == STRUCTURE
    assert QuantizationStructure.from_json(text).to_json() == text
    assert "\n" not in text
    assert STRUCTURE.quantized_paths() == ("a.0", "a.1")


def test_broken_files() -> None:
    values = json.loads(STRUCTURE.to_json())
    with pytest.raises(CheckpointError, match=r"f\.pth: broken quantization structure: JSONDecodeError"):
        QuantizationStructure.from_json("{", "f.pth")
    with pytest.raises(CheckpointError, match="broken quantization structure: KeyError"):
        QuantizationStructure.from_json("{}")
    with pytest.raises(CheckpointError, match="broken quantization structure"):
        QuantizationStructure.from_json("[]")
    with pytest.raises(CheckpointError, match="of version 2, this release reads 1"):
        QuantizationStructure.from_json(json.dumps({**values, "version": 2}))
    with pytest.raises(CheckpointError, match="unexpected keyword argument 'extra'"):
        QuantizationStructure.from_json(json.dumps({**values, "extra": 1}))
    for deep in ("[" * 100_000, '{"version": ' + "1" * 5000 + "}"):
        with pytest.raises(CheckpointError, match="broken quantization structure"):
            QuantizationStructure.from_json(deep)
    values["layers"][0]["kind"] = "lstm"
    with pytest.raises(CheckpointError, match=r"unknown kinds of layers \['lstm'\]; known: conv2d, "):
        QuantizationStructure.from_json(json.dumps(values))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": {}}, r"f\.pth: broken quantization structure: 'quantization': engine is \{\}, but must be text"),
        ({"fuse_bn": 1}, "fuse_bn is 1, but must be"),
        ({"shared": [[{"a": 1}]]}, r"shared\[0\]\[0\] is .* must be"),
        ({"shared": ["ab"]}, r"shared\[0\] is 'ab', but must be"),
        ({"layers": [{"path": 3, "kind": "add", "quantized": True}]}, r"layers\[0\]\.path is 3, but must be"),
        ({"layers": [{"path": "a", "kind": [], "quantized": True}]}, r"layers\[0\]\.kind is .* must be"),
        ({"layers": [{"path": "a.0", "kind": "conv2d", "quantized": True}] * 2}, r"layer 'a\.0' stands twice"),
        ({"shared": [["a.0", "b"], ["a.0", "a.1"]]}, r"'a\.0' stands twice among what shares a quantizer"),
        ({"shared": [[]]}, "a group of layers that share a quantizer is empty"),
        (
            {"shared": [["a.0.second_quantizer", "a.1"]]},
            r"'a\.0\.second_quantizer' .* is no second operand of an addition",
        ),
    ],
)
def test_values_of_another_type(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        QuantizationStructure.from_json(json.dumps({**json.loads(STRUCTURE.to_json()), **changes}), "f.pth")


def test_fingerprint_is_of_the_float_model(demo_model: Any) -> None:
    before = model_fingerprint(demo_model)
    assert len(before) == 64
    fuse_model_bn(demo_model)
    assert model_fingerprint(demo_model) == before
    quant_model(demo_model)
    assert model_fingerprint(demo_model) == before


def test_fingerprint_tells_models_apart(trained_demo_model: Any) -> None:
    other = copy.deepcopy(trained_demo_model)
    head = other.pts_bbox_head.task_heads[0]
    head.heatmap[1] = nn.Conv2d(64, 4, 1)
    assert model_fingerprint(other) != model_fingerprint(trained_demo_model)
    same_shapes = [nn.Sequential(nn.Conv2d(4, 4, 1)), nn.Sequential(nn.ConvTranspose2d(4, 4, 1)), nn.Conv2d(4, 4, 1)]
    assert len({model_fingerprint(model) for model in same_shapes}) == 3
