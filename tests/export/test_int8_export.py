"""A quantized CenterPoint from PyTorch to ONNX files: what is quantized, what it computes, what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from base.errors import CheckpointError, ConfigError, DataError, ExportError
from export.onnx_export import OnnxExportSettings, export_components
from export.precision import graph_precision
from export.qdq.precision_map import precision_map
from export.qdq.precision_picture import draw_precision_map
from export.qdq.rules import check_qdq
from export.quantized_model import (
    QuantizedModel,
    align_biases,
    float_twin,
    planned_layers,
    quantize_float_model,
    read_quantized_model,
    save_quantized_model,
)
from export.rotation import fold_rot_y_axis_reference
from models.build import build_model
from models.config import load_model_config
from models.spec import ModelSpec
from quant.settings import PtqSettings
from tests.export.tiny_centerpoint import BACKBONE, backbone_of, random_canvas


def test_what_is_quantized_and_what_stays(tiny_int8: QuantizedModel, tiny_int8_onnx: Path) -> None:
    model = onnx.load(tiny_int8_onnx / f"{BACKBONE}.onnx")
    layers = {layer.path: layer.precision for layer in precision_map(model).layers}
    last = {path for path, precision in layers.items() if precision != "int8"}
    assert last == {
        f"pts_bbox_head.task_heads.0.{head}.1" for head in ("heatmap", "reg", "height", "dim", "rot", "vel")
    }
    assert {layers[path] for path in last} == {"fp16"}
    assert check_qdq(model, planned_layers(tiny_int8.structure) | {"pts_voxel_encoder.x": False}) == ()
    assert graph_precision(onnx.load(tiny_int8_onnx / "pts_voxel_encoder.onnx")) == "fp16"
    assert {entry.key: entry.value for entry in model.metadata_props}["centerpoint.precision"] == "int8"


def test_aligned_biases_are_whole_steps_of_the_sums(tiny_int8: QuantizedModel) -> None:
    model: Any = tiny_int8.model
    layer = model.pts_backbone.blocks[0][0]
    step = layer.input_quantizer.scale.double() * layer.weight_quantizer.scale.double()
    steps = layer.bias.double() / step
    # FP32 holds the product to 24 bits.
    assert torch.all((steps - steps.round()).abs() <= steps.abs() * 2.0**-23)
    before = layer.bias.clone()
    align_biases(tiny_int8.model)
    assert torch.equal(layer.bias, before)


def test_export_is_the_same_bytes_twice(
    tiny: tuple[Any, ModelSpec], tiny_int8: QuantizedModel, tiny_int8_onnx: Path, tmp_path: Path
) -> None:
    settings = OnnxExportSettings(
        opset_version=19, precision="int8", quantized_layers=planned_layers(tiny_int8.structure)
    )
    for artifact in export_components(tiny_int8.model, tiny[1], tmp_path, settings):
        assert artifact.path.read_bytes() == (tiny_int8_onnx / artifact.path.name).read_bytes()


def test_both_engines_give_the_same_graph(
    tiny: tuple[Any, ModelSpec], tiny_canvases: list[Any], tiny_int8_onnx: Path, tmp_path: Path
) -> None:
    settings = PtqSettings(num_batches=2, engine="modelopt")
    other = quantize_float_model(copy.deepcopy(tiny[0]), tiny[1], tiny_canvases, settings)
    export = OnnxExportSettings(opset_version=19, precision="int8", quantized_layers=planned_layers(other.structure))
    for artifact in export_components(other.model, tiny[1], tmp_path, export):
        assert artifact.path.read_bytes() == (tiny_int8_onnx / artifact.path.name).read_bytes()


def test_bias_correction_changes_biases_alone(
    tiny: tuple[Any, ModelSpec], tiny_canvases: list[Any], tiny_int8: QuantizedModel
) -> None:
    settings = PtqSettings(num_batches=2, method="bias_correction")
    other = quantize_float_model(copy.deepcopy(tiny[0]), tiny[1], tiny_canvases, settings)
    assert other.facts["scales_sha256"] == tiny_int8.facts["scales_sha256"]
    ours, theirs = other.model.state_dict(), tiny_int8.model.state_dict()
    different = {key for key in ours if not torch.equal(ours[key], theirs[key])}
    assert different
    assert {key.rpartition(".")[2] for key in different} == {"bias"}


def test_the_checkpoint_brings_the_same_model_back(
    tiny: tuple[Any, ModelSpec], tiny_int8: QuantizedModel, tiny_config_path: Path, tmp_path: Path
) -> None:
    checkpoint, calibration = save_quantized_model(tiny_int8, tmp_path)
    again = read_quantized_model(build_model(load_model_config(tiny_config_path), seed=8), checkpoint)
    assert again.facts["scales_sha256"] == tiny_int8.facts["scales_sha256"]
    canvas, spec = random_canvas(tiny[1]), tiny[1]
    with torch.no_grad():
        for left, right in zip(*(backbone_of(item.model, spec)(canvas) for item in (again, tiny_int8)), strict=True):
            assert torch.equal(left, right)
    # And its scales alone, from the cache, on the float model.
    settings = PtqSettings(calib_cache=calibration, any_cache=True)
    cached = quantize_float_model(copy.deepcopy(tiny[0]), spec, None, settings)
    assert cached.facts["scales_sha256"] == tiny_int8.facts["scales_sha256"]


def test_the_float_twin_has_no_quantizer_and_is_near(tiny: tuple[Any, ModelSpec], tiny_int8: QuantizedModel) -> None:
    spec, canvas = tiny[1], random_canvas(tiny[1])
    twin = float_twin(tiny_int8.model)
    assert not any("quantizer" in name for name, _ in twin.named_modules())
    with torch.no_grad():
        for ours, trained in zip(*(backbone_of(item, spec)(canvas) for item in (twin, tiny[0])), strict=True):
            # Folded BatchNorm and aligned biases: rounding, no quantization.
            assert float((ours - trained).norm() / trained.norm()) < 1e-3


def test_refusals(tiny: tuple[Any, ModelSpec], tiny_int8: QuantizedModel, tmp_path: Path) -> None:
    model, spec = tiny
    with pytest.raises(ExportError, match=r"precision is 'fp16'\. Export it with precision 'int8'"):
        export_components(tiny_int8.model, spec, tmp_path, OnnxExportSettings(opset_version=19, precision="fp16"))
    with pytest.raises(ExportError, match="has no quantized layer, so it cannot be exported with precision 'int8'"):
        export_components(model, spec, tmp_path, OnnxExportSettings(opset_version=19, precision="int8"))
    with pytest.raises(ExportError, match="opset_version is 17; INT8 needs 19 or newer"):
        OnnxExportSettings(precision="int8")
    with pytest.raises(ExportError, match="float_precision is 'bf16'"):
        OnnxExportSettings(opset_version=19, precision="int8", float_precision="bf16")
    plan = planned_layers(tiny_int8.structure) | {"pts_neck.deblocks.0.0": False}
    settings = OnnxExportSettings(opset_version=19, precision="int8", quantized_layers=plan)
    with pytest.raises(ExportError, match=r"planned_layers: it is quantized, but 'pts_neck\.deblocks\.0\.0'"):
        export_components(tiny_int8.model, spec, tmp_path, settings)
    with pytest.raises(ConfigError, match="needs calibration frames"):
        quantize_float_model(copy.deepcopy(model), spec, None, PtqSettings())
    with pytest.raises(ConfigError, match=r"pts_backbone\.blocks\.0\.0"):
        quantize_float_model(copy.deepcopy(model), spec, [], PtqSettings(skip_layers=("pts_backbone.block.0.0",)))
    with pytest.raises(DataError):
        quantize_float_model(copy.deepcopy(model), spec, [], PtqSettings())
    torch.save({"state_dict": model.state_dict()}, tmp_path / "float.pth")
    with pytest.raises(CheckpointError, match="is a float checkpoint, and a quantized one was expected"):
        read_quantized_model(copy.deepcopy(model), tmp_path / "float.pth")
    assert not list(tmp_path.glob("*.onnx"))


def test_a_skipped_layer_stays_in_floating_point(tiny: tuple[Any, ModelSpec], tmp_path: Path) -> None:
    model, spec = tiny
    settings = PtqSettings(num_batches=1, skip_layers=("pts_backbone.blocks.1.*",))
    quantized = quantize_float_model(copy.deepcopy(model), spec, [random_canvas(spec)], settings)
    export = OnnxExportSettings(
        opset_version=19, precision="int8", quantized_layers=planned_layers(quantized.structure)
    )
    export_components(quantized.model, spec, tmp_path, export)
    layers = {item.path: item for item in precision_map(onnx.load(tmp_path / f"{BACKBONE}.onnx")).layers}
    assert {layers[f"pts_backbone.blocks.1.{index}"].precision for index in (0, 3)} == {"fp16"}
    assert layers["pts_backbone.blocks.0.3"].precision == "int8"


def test_the_yaw_convention_folds_into_quantized_layers(tiny: tuple[Any, ModelSpec]) -> None:
    """The last layers are quantized on request; their scales per output channel move with the channels."""
    from quant.calibration.calibrator import CalibrationManager
    from quant.fusion.bn_fusion import fuse_model_bn
    from quant.replace import quant_model

    model, spec = copy.deepcopy(tiny[0]), tiny[1]
    fuse_model_bn(model)
    quant_model(model, include=("pts_bbox_head",))
    canvas = random_canvas(spec)
    CalibrationManager(model, spec).calibrate([canvas], 1, method="max", weight_method="max", progress=False)
    folded, folded_spec = fold_rot_y_axis_reference(model, spec)
    names = [head.name for head in spec.heads]
    with torch.no_grad():
        before = dict(zip(names, backbone_of(model, spec)(canvas), strict=True))
        after = dict(zip(names, backbone_of(folded, folded_spec)(canvas), strict=True))
    assert torch.equal(after["dim"], before["dim"][:, [1, 0, 2]])
    assert torch.equal(after["rot"], -before["rot"][:, [1, 0]])


def test_the_picture_shows_every_layer(tiny_int8_onnx: Path) -> None:
    found = precision_map(onnx.load(tiny_int8_onnx / f"{BACKBONE}.onnx"))
    picture = draw_precision_map(found)
    assert picture.count("<title>") == len(found.layers)
    assert f"INT8: {100 * found.share_of_macs('int8'):.1f} % of multiplications" in picture
    # 3 x 3 from 32 to 16 channels at 16 x 16, in INT8.
    first = found.layers[0]
    assert (first.path, first.macs, first.weight_bytes) == (
        "pts_backbone.blocks.0.0",
        16 * 16 * 16 * 32 * 9,
        16 * 32 * 9,
    )
    assert (first.input_bytes, first.output_bytes) == (32 * 32 * 32, 16 * 16 * 16)
    assert found.total("macs") == sum(layer.macs for layer in found.layers)
