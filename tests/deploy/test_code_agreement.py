"""The codes of an exported INT8 graph against PyTorch's, and what a wrong one looks like."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from base.errors import ExportError
from deploy.code_agreement import CodeAgreement, compare_codes, disagreements
from export.qdq.view import GraphView
from export.quantized_model import QuantizedModel
from models.spec import ModelSpec
from tests.export.tiny_centerpoint import BACKBONE, backbone_of, random_canvas


def test_layer_by_layer_the_codes_are_pytorch_s(
    tiny: tuple[Any, ModelSpec], tiny_int8: QuantizedModel, tiny_int8_onnx: Path
) -> None:
    spec = tiny[1]
    found = compare_codes(
        backbone_of(tiny_int8.model, spec),
        tiny_int8_onnx / f"{BACKBONE}.onnx",
        [random_canvas(spec).numpy()],
        threads=1,
    )
    assert disagreements(found) == ()
    # Every quantized tensor once; a tensor that several layers read counts once too.
    quantizers = GraphView.of(onnx.load(tiny_int8_onnx / f"{BACKBONE}.onnx")).nodes("QuantizeLinear")
    joined = 3  # the inputs of the concatenation are compared behind it
    assert sum(not item.is_output for item in found) == len(quantizers) - joined
    assert [item.name for item in found if item.is_output] == [head.name for head in spec.heads]


def test_a_wrong_scale_shows_in_the_layer_that_has_it(
    tiny: tuple[Any, ModelSpec], tiny_int8: QuantizedModel, tiny_int8_onnx: Path, tmp_path: Path
) -> None:
    model = onnx.load(tiny_int8_onnx / f"{BACKBONE}.onnx")
    wrong = "/pts_backbone/blocks.1/blocks.1.0/Conv.weight/DequantizeLinear.scale"
    (tensor,) = [item for item in model.graph.initializer if item.name == wrong]
    values = onnx.numpy_helper.to_array(tensor) * np.float32(1.25)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, wrong))
    onnx.save(model, tmp_path / "wrong.onnx")
    spec = tiny[1]
    found = compare_codes(
        backbone_of(tiny_int8.model, spec), tmp_path / "wrong.onnx", [random_canvas(spec).numpy()], threads=1
    )
    (message,) = disagreements(item for item in found if not item.is_output)
    # What blocks.1.0 computes is first seen in front of its reader.
    assert message.startswith("pts_backbone.blocks.1.3: ")
    free = compare_codes(
        backbone_of(tiny_int8.model, spec),
        tmp_path / "wrong.onnx",
        [random_canvas(spec).numpy()],
        layer_by_layer=False,
        threads=1,
    )
    assert len(disagreements(item for item in free if not item.is_output)) > 1


def test_nan_counts_as_disagreement() -> None:
    item = CodeAgreement("layer", 10, 1.0, float("nan"))
    assert disagreements([item])
    assert not disagreements([CodeAgreement("layer", 10, 1.0, 1.0)])


def test_comparing_with_another_network_is_refused(
    tiny: tuple[Any, ModelSpec], tiny_int8: QuantizedModel, tiny_int8_onnx: Path, tiny_onnx: Path
) -> None:
    spec, path = tiny[1], tiny_int8_onnx / f"{BACKBONE}.onnx"
    with pytest.raises(ExportError, match="has no quantized layer"):
        compare_codes(backbone_of(tiny_int8.model, spec), tiny_onnx / f"{BACKBONE}.onnx", [])
    with pytest.raises(ExportError, match=r"quantizes 'pts_backbone\.blocks\.0\.0', which is in floating point"):
        compare_codes(backbone_of(copy.deepcopy(tiny[0]), spec), path, [random_canvas(spec).numpy()])
