"""Bundles as the node would meet them at start-up: what they hold, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from autoware.bundle import write_bundle
from autoware.contract import check_bundle
from autoware.reading import decode_params_of_bundle
from base.errors import ConfigError, ExportError
from deploy.autoware_bundle import main
from export.onnx_export import export_components
from export.onnx_graph import metadata
from models.spec import ModelSpec
from runtime.autoware_params import AutowareDecodeParams
from runtime.autoware_postprocess import decode_autoware
from tests.autoware.bundle_files import ENCODER, HEAD, PACKAGE, REMAPPER, SCORES, change, parameters, settings


def test_a_bundle_keeps_the_contract_and_holds_what_the_model_says(
    good: Path, tiny: tuple[nn.Module, ModelSpec]
) -> None:
    assert check_bundle(good) == ()
    assert sorted(path.name for path in good.iterdir()) == sorted([ENCODER, HEAD, PACKAGE, REMAPPER, "README.md"])
    values, spec = parameters(good), tiny[1]
    assert values["version"] == "v4.1"
    assert values["trt_precision"] == "fp16"
    assert values["model_params"] == {
        "class_names": ["CAR", "TRUCK", "BUS", "BICYCLE", "PEDESTRIAN"],
        "has_twist": True,
        "point_feature_size": 5,
        "has_variance": False,
        "max_voxel_size": 48,
        "point_cloud_range": [-5.12, -5.12, -3.0, 5.12, 5.12, 5.0],
        "voxel_size": [0.32, 0.32, 8.0],
        "downsample_factor": 2,
        "encoder_in_feature_size": spec.encoder_in_features,
        "yaw_norm_thresholds": [0.3, 0.3, 0.3, 0.3, 0.0],
        "detection_score_thresholds": {
            "distance_bin_upper_limits": [50.0, 90.0, 121.0, 200.0],
            "min_confidence_scores": dict.fromkeys(["CAR", "TRUCK", "BUS", "BICYCLE", "PEDESTRIAN"], [0.35] * 4),
        },
    }
    remapper = parameters(good, REMAPPER)
    assert [len(remapper[key]) for key in sorted(remapper)] == [64, 64, 64]
    car, truck, trailer = 1, 2, 4
    assert remapper["allow_remapping_by_area_matrix"][8 * car + truck] == 1
    assert remapper["min_area_matrix"][8 * car + truck] == 12.1
    assert remapper["max_area_matrix"][8 * car + truck] == 36.0
    assert remapper["min_area_matrix"][8 * truck + trailer] == 36.0
    assert sum(remapper["allow_remapping_by_area_matrix"]) == 4


def test_the_graphs_are_static_fp32_outside_and_in_order(good: Path) -> None:
    expected = {
        ENCODER: ([[48, 32, 11]], [[48, 1, 32]]),
        HEAD: ([[1, 32, 32, 32]], [[1, c, 16, 16] for c in (5, 2, 1, 3, 2, 2)]),
    }
    for name, (inputs, outputs) in expected.items():
        model = onnx.load(good / name)
        for values, shapes in ((model.graph.input, inputs), (model.graph.output, outputs)):
            assert [[d.dim_value for d in value.type.tensor_type.shape.dim] for value in values] == shapes
            assert {value.type.tensor_type.elem_type for value in values} == {onnx.TensorProto.FLOAT}


def test_boxes_of_the_bundle_are_those_of_the_unfolded_model(
    good: Path, tiny: tuple[nn.Module, ModelSpec], tiny_onnx: Path, run_onnx: Callable[..., list[Any]]
) -> None:
    """The folded FP16 graph as the node reads it, against the FP32 graph in the training framework's convention."""
    spec = tiny[1]
    canvas = np.random.default_rng(0).random(spec.canvas_shape, np.float32)
    names = [head.name for head in spec.heads]
    plain = dict(zip(names, run_onnx(tiny_onnx / HEAD, {"spatial_features": canvas}), strict=True))
    folded = dict(zip(names, run_onnx(good / HEAD, {"spatial_features": canvas}), strict=True))
    threshold = 1 / (1 + math.exp(-float(np.quantile(plain["heatmap"].max(axis=1), 0.9))))
    loose = AutowareDecodeParams.from_spec(spec, dict.fromkeys(spec.class_names, (threshold,) * 4))
    loose = dataclasses.replace(loose, yaw_norm_thresholds=(0.0,) * 5)
    expected = decode_autoware(plain, spec, loose)
    node_spec = ModelSpec.from_dict(json.loads(metadata(onnx.load(good / HEAD))["spec"]))
    found = decode_autoware(folded, node_spec, loose)
    assert node_spec.rot_y_axis_reference
    assert len(expected) >= 3
    # FP16 may move a score across the threshold: pairs by place.
    gap = np.abs(expected.boxes[:, None, :2] - found.boxes[None, :, :2]).max(axis=2)
    near = gap.argmin(axis=1)
    paired = gap.min(axis=1) < 0.02
    assert paired.mean() > 0.8
    theirs, ours = expected.boxes[paired], found.boxes[near[paired]]
    np.testing.assert_allclose(ours[:, 3:6], theirs[:, 3:6], rtol=0.01)
    turn = np.abs(np.sin((ours[:, 6] - theirs[:, 6]) / 2))
    assert np.median(turn) < 0.02


def test_equal_input_gives_equal_bytes(autoware_onnx: Path, good: Path, tmp_path: Path) -> None:
    again = write_bundle(autoware_onnx, tmp_path / "again")
    for path in good.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_an_int8_bundle_is_strongly_typed(tiny: tuple[nn.Module, ModelSpec], tiny_int8: Any, tmp_path: Path) -> None:
    from export.quantized_model import planned_layers

    chosen = settings(tiny[1], precision="int8", opset_version=19, quantized_layers=planned_layers(tiny_int8.structure))
    export_components(tiny_int8.model, tiny[1], tmp_path / "onnx", chosen)
    bundle = write_bundle(tmp_path / "onnx", tmp_path / "bundle")
    assert parameters(bundle)["trt_precision"] == "strongly-typed"
    assert check_bundle(bundle) == ()
    change(bundle, "trt_precision", "fp16")
    (violation,) = check_bundle(bundle)
    assert "is quantized (Q/DQ), but 'trt_precision' is 'fp16'" in str(violation)


def test_classes_are_left_out_of_an_int8_model(
    tiny: tuple[nn.Module, ModelSpec], tiny_int8: Any, tiny_canvases: list[torch.Tensor]
) -> None:
    """All that is left keeps its numbers, to the bit."""
    from export.class_selection import without_classes
    from models.components import BackboneNeckHead

    names = tiny[1].class_names
    model, spec = without_classes(tiny_int8.model, tiny[1], [names[1]])
    assert spec.class_names == (names[0], *names[2:])
    with torch.no_grad():
        whole = BackboneNeckHead(tiny_int8.model, tiny[1]).eval()(tiny_canvases[0])
        rest = BackboneNeckHead(model, spec).eval()(tiny_canvases[0])
    kept = [index for index in range(len(names)) if index != 1]
    assert torch.equal(rest[0], whole[0][:, kept])
    for other, expected in zip(rest[1:], whole[1:], strict=True):
        assert torch.equal(other, expected)


def test_components_of_two_exports_are_refused(
    tiny: tuple[nn.Module, ModelSpec], autoware_onnx: Path, tmp_path: Path
) -> None:
    mixed = Path(shutil.copytree(autoware_onnx, tmp_path / "mixed"))
    export_components(*tiny, tmp_path / "x", settings(tiny[1], provenance={"weights": "sha256 " + "1" * 64}))
    shutil.copy(tmp_path / "x" / HEAD, mixed / HEAD)
    with pytest.raises(ExportError, match="do not belong together: weights of pts_voxel_encoder"):
        write_bundle(mixed, tmp_path / "out")


def test_files_of_unknown_origin_are_refused(tiny_onnx: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["--onnx-dir", str(tiny_onnx), "--out", str(tmp_path / "out")]) == 2
    assert "does not say what it is (no weights in its metadata)" in capsys.readouterr().err


def test_the_command_exports_and_bundles(
    tiny: tuple[nn.Module, ModelSpec], tiny_config_path: Path, tmp_path: Path
) -> None:
    import torch

    checkpoint = tmp_path / "weights.pth"
    torch.save({"state_dict": tiny[0].state_dict()}, checkpoint)
    out = tmp_path / "bundle"
    given = ["--model-config", str(tiny_config_path), "--checkpoint", str(checkpoint), "--out", str(out)]
    assert main(given) == 0
    assert main(["--check", str(out)]) == 0
    readme = (out / "README.md").read_text()
    assert "tiny_centerpoint.py, sha256 " in readme
    assert "torch " in readme
    assert str(tmp_path) not in readme


def test_what_is_no_folder_is_no_broken_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "absent"):
        assert main(["--check", str(tmp_path / name)]) == 2
        assert f"{name}', which is no folder" in capsys.readouterr().err


def test_a_bundle_s_parameters_are_what_the_node_decodes_with(
    good: Path, bundle: Path, tiny: tuple[nn.Module, ModelSpec]
) -> None:
    spec = tiny[1]
    assert decode_params_of_bundle(good, spec) == AutowareDecodeParams.from_spec(spec)
    change(bundle, f"{SCORES}.CAR", [0.5, 0.25, 0.35, 0.35])
    assert decode_params_of_bundle(bundle, spec).score_thresholds[0] == (0.5, 0.25, 0.35, 0.35)
    with pytest.raises(ConfigError, match="is of classes"):
        decode_params_of_bundle(bundle, spec.changed(class_names=("a", "b", "c", "d", "e")))
    change(bundle, "version", "v3.0")
    with pytest.raises(ExportError, match="is no bundle"):
        decode_params_of_bundle(bundle, spec)
