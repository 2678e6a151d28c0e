"""Bundles broken in every way that the contract knows, each caught."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from torch import nn

from autoware.bundle import write_bundle
from autoware.contract import check_bundle
from base.errors import ExportError
from deploy.autoware_bundle import main
from export.onnx_export import export_components
from models.spec import ModelSpec
from tests.autoware.bundle_files import BINS, ENCODER, HEAD, PACKAGE, REMAPPER, SCORES, change, settings


def name_with_a_quote(folder: Path) -> None:
    change(folder, "model_params.class_names", ["a'b", "TRUCK", "BUS", "BICYCLE", "PEDESTRIAN"])
    change(folder, f"{SCORES}.a'b", 5)


# Name -> (what is done to the bundle, what the message says)
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "version of another form": (
        lambda b: change(b, "version", "4.1.0"), r"'version' is '4.1.0'; it must look like 'v4.1' \(the node stops\)"
    ),
    "old version": (lambda b: change(b, "version", "v4.0"), "this node reads v4.1 and newer of version 4"),
    "next major version": (lambda b: change(b, "version", "v5.1"), "'version' is 'v5.1'"),
    "missing key": (
        lambda b: change(b, "model_params.has_twist", ...), "'model_params.has_twist' is missing; it must be a boolean"
    ),
    "misspelt key": (
        lambda b: change(b, "model_params.max_voxels", 1), "'model_params.max_voxels' is no parameter of the node"
    ),
    "integers for doubles": (
        lambda b: change(b, BINS, [50, 90, 121, 200]), "is a list of integers .* must be a list of doubles"
    ),
    "text for a boolean": (
        lambda b: change(b, "model_params.has_variance", "no"), r"is a string \('no'\); it must be a boolean"
    ),
    "yaw thresholds of another length": (
        lambda b: change(b, "model_params.yaw_norm_thresholds", [0.3, 0.3]), "has 2 numbers for 5 classes"
    ),
    "scores of another length": (
        lambda b: change(b, f"{SCORES}.BUS", [0.35, 0.4]), r"BUS' has 2 thresholds for 4 distance bins"
    ),
    "a class without scores": (lambda b: change(b, f"{SCORES}.CAR", ...), r"scores.CAR' is missing"),
    "a score of one": (
        lambda b: change(b, f"{SCORES}.CAR", [1.0] * 4), r"outside \[0, 1\) the node takes 0.*starts and misleads"
    ),
    "bins out of order": (lambda b: change(b, BINS, [90.0, 50.0, 121.0, 200.0]), "must be positive and ascending"),
    "bins that end too early": (
        lambda b: change(b, BINS, [1.0, 2.0, 3.0, 4.0]), "ends at 4 m, but the grid reaches 7.2 m: detections are lost"
    ),
    "a range of five numbers": (
        lambda b: change(b, "model_params.point_cloud_range", [0.0] * 5), "has 5 numbers, not 6; the node takes its own"
    ),
    "a class twice": (
        lambda b: change(b, "model_params.class_names", ["CAR", "CAR", "BUS", "BICYCLE", "PEDESTRIAN"]),
        "names a class twice",
    ),
    "points without intensity": (
        lambda b: change(b, "model_params.point_feature_size", 4), "an encoder of 11 features takes points of 5 columns"
    ),
    "more pillars than the graph": (
        lambda b: change(b, "model_params.max_voxel_size", 96),
        r"input 0 'input_features' has shape \[48, 32, 11\]; the parameters make the node expect \[96, 32, 11\]",
    ),
    "another grid": (
        lambda b: change(b, "model_params.voxel_size", [0.16, 0.16, 8.0]),
        r"'spatial_features' has shape \[1, 32, 32, 32\]; .* expect \[1, 32, 64, 64\]",
    ),
    "another downsample factor": (
        lambda b: change(b, "model_params.downsample_factor", 1),
        r"output 0 'heatmap' has shape \[1, 5, 16, 16\]; .* expect \[1, 5, 32, 32\]",
    ),
    "unknown precision": (lambda b: change(b, "trt_precision", "best"), "it must be one of fp32, fp16, strongly-typed"),
    "fp16 weights as fp32": (lambda b: change(b, "trt_precision", "fp32"), "has FP16 weights"),
    "no package file": (lambda b: (b / PACKAGE).unlink(), f"{PACKAGE}: the file .* does not exist"),
    "no remapper file": (lambda b: (b / REMAPPER).unlink(), f"{REMAPPER}: the file .* does not exist"),
    "no head": (
        lambda b: (b / HEAD).unlink(),
        "the file does not exist, but 'head_onnx_path' in ml_package.param.yaml names it",
    ),
    "half an encoder": (
        lambda b: (b / ENCODER).write_bytes((b / ENCODER).read_bytes()[:700]), "is not a whole ONNX file"
    ),
    "broken yaml": (lambda b: (b / PACKAGE).write_text("/**: [\n"), "is not YAML"),
    "an alias": (
        lambda b: (b / PACKAGE).write_text("/**: &a {ros__parameters: *a}\n"), "anchors and aliases are not read"
    ),
    "a tag": (lambda b: (b / PACKAGE).write_text("/**: !!python/name:os.system x\n"), "tag .* is not read"),
    "a list for a package": (lambda b: (b / PACKAGE).write_text("- 1\n"), "below '/\\*\\*': 'ros__parameters'"),
    "no text": (lambda b: (b / PACKAGE).write_bytes(b"\xff\xfe"), "is no UTF-8 text"),
    "a key twice": (
        lambda b: (b / PACKAGE).write_text((b / PACKAGE).read_text() + "    version: 'v4.1'\n"), "stands twice"
    ),
    "a file outside": (
        lambda b: change(b, "head_onnx_path", "../head.onnx"),
        r"'head_onnx_path' is '../head.onnx'; it must name a file of the bundle",
    ),
    "a file with a NUL": (
        lambda b: change(b, "class_remapper_param_path", "a\0b"), r"is 'a\\x00b'; it must name a file of the bundle"
    ),
    "a number of 100 bits": (
        lambda b: change(b, "model_params.max_voxel_size", 2**100), "'model_params.max_voxel_size' has a number of more"
    ),
    "a grid without end": (
        lambda b: change(b, "model_params.voxel_size", [1e-300, 0.32, 8.0]), "makes 1.024e.301 x 32 cells of the range"
    ),
    "a class with a quote": (
        name_with_a_quote,
        r"a'b' is a integer \(5\); it must be a list of doubles",
    ),
    "parameters elsewhere": (
        lambda b: (b / PACKAGE).write_text("version: v4.1\n"), "below '/\\*\\*': 'ros__parameters'"
    ),
    "a remapper of seven labels": (
        lambda b: change(b, "min_area_matrix", [0.0] * 49, REMAPPER),
        "'min_area_matrix' has 49 numbers; 8 labels need 64",
    ),
    "a remapper of doubles": (
        lambda b: change(b, "allow_remapping_by_area_matrix", [0.0] * 64, REMAPPER), "must be a list of integers"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_bundle_is_caught(bundle: Path, name: str) -> None:
    break_it, message = BROKEN[name]
    break_it(bundle)
    found = [str(violation) for violation in check_bundle(bundle)]
    assert any(re.search(message, line) for line in found), found
    assert main(["--check", str(bundle)]) == 1


def edit_head(folder: Path, edit: Callable[[onnx.ModelProto], Any], name: str = HEAD) -> list[str]:
    model = onnx.load(folder / name)
    edit(model)
    onnx.save(model, folder / name)
    return [str(violation) for violation in check_bundle(folder)]


def swap_outputs(model: onnx.ModelProto) -> None:
    outputs = list(model.graph.output)
    del model.graph.output[:]
    model.graph.output.extend([outputs[0], outputs[2], outputs[1], *outputs[3:]])


def test_outputs_in_another_order_are_caught_by_their_shapes(bundle: Path) -> None:
    found = edit_head(bundle, swap_outputs)
    assert any("output 1 'height' has shape [1, 1, 16, 16]" in line and "[1, 2, 16, 16]" in line for line in found)


def test_a_missing_output_is_caught(bundle: Path) -> None:
    found = edit_head(bundle, lambda model: model.graph.output.pop())
    assert any("has 5 outputs" in line and "binds 6 by position" in line for line in found)


def test_fp16_tensors_outside_are_caught(bundle: Path) -> None:
    def halve(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16

    assert any("is FLOAT16; the node's buffers are FLOAT" in line for line in edit_head(bundle, halve))


def test_the_other_yaw_convention_is_caught(tiny: tuple[nn.Module, ModelSpec], bundle: Path, tmp_path: Path) -> None:
    export_components(*tiny, tmp_path / "x", settings(tiny[1], rot_y_axis_reference=False))
    shutil.copy(tmp_path / "x" / HEAD, bundle / HEAD)
    (violation,) = check_bundle(bundle)
    assert "yaw is x_axis_counterclockwise" in str(violation)
    assert violation.effect == "the node starts and misleads"
    with pytest.raises(ExportError, match="export with --rot-y-axis-reference"):
        write_bundle(tmp_path / "x", tmp_path / "out")
    assert not (tmp_path / "out").exists()
