"""Bundles as the node would meet them at start-up: good ones, and ones broken in every way the contract knows."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from torch import nn

from autoware.bundle import write_bundle
from autoware.contract import check_bundle
from autoware.reading import decode_params_of_bundle
from autoware.thresholds import measure_thresholds, require_same_model
from base.boxes import Boxes3D
from base.errors import ConfigError, DataError, ExportError
from deploy.autoware_bundle import main
from export.manifest import build_manifest, write_manifest
from export.onnx_export import OnnxExportSettings, export_components
from export.onnx_graph import metadata
from models.spec import ModelSpec
from runtime.autoware_params import AutowareDecodeParams
from runtime.autoware_postprocess import decode_autoware

PACKAGE, REMAPPER = "ml_package.param.yaml", "detection_class_remapper.param.yaml"
ENCODER, HEAD = "pts_voxel_encoder.onnx", "pts_backbone_neck_head.onnx"
SCORES = "model_params.detection_score_thresholds.min_confidence_scores"
BINS = "model_params.detection_score_thresholds.distance_bin_upper_limits"


def settings(spec: ModelSpec, **changes: Any) -> OnnxExportSettings:
    given: dict[str, Any] = {
        "precision": "fp16",
        "static_voxels": spec.max_voxels,
        "rot_y_axis_reference": True,
        "provenance": {"weights": "sha256 " + "0" * 64},
    }
    return OnnxExportSettings(**(given | changes))


@pytest.fixture(scope="module")
def autoware_onnx(tiny: tuple[nn.Module, ModelSpec], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("autoware_onnx")
    export_components(*tiny, folder, settings(tiny[1]))
    return folder


@pytest.fixture(scope="module")
def good(autoware_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(autoware_onnx, tmp_path_factory.mktemp("bundles") / "good")


@pytest.fixture
def bundle(good: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(good, tmp_path / "bundle"))


def parameters(folder: Path, file: str = PACKAGE) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((folder / file).read_text())["/**"]["ros__parameters"]
    return values


def change(folder: Path, key: str, value: Any, file: str = PACKAGE) -> None:
    """Sets a dotted key; `...` removes it."""
    values = parameters(folder, file)
    node, *rest = values, *key.split(".")
    for part in rest[:-1]:
        node = node.setdefault(part, {})
    if value is ...:
        del node[rest[-1]]
    else:
        node[rest[-1]] = value
    (folder / file).write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}))


def name_with_a_quote(folder: Path) -> None:
    change(folder, "model_params.class_names", ["a'b", "TRUCK", "BUS", "BICYCLE", "PEDESTRIAN"])
    change(folder, f"{SCORES}.a'b", 5)


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
    "no head": (lambda b: (b / HEAD).unlink(), "the file does not exist, but 'head_onnx_path' names it"),
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


def boxes_of(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Boxes3D:
    return Boxes3D(np.array(boxes, np.float32), np.array(scores, np.float32), np.array(labels, np.int64))


def frames_file(path: Path, class_names: tuple[str, ...]) -> Path:
    """30 frames: a car found at 0.9, 0.8 or 0.6, one beyond the grid, clutter at 0.5; one pedestrian in all."""
    from eval.detections_file import write_detections
    from eval.metrics import FrameResult

    frames = []
    for index in range(30):
        car, clutter = [3.0, 0, 0, 4, 2, 1.5, 0, 0, 0], [-4.0, 0, 0, 4, 2, 1.5, 0, 0, 0]
        beyond = [6.0, *car[1:]]  # outside the grid: no model could find it
        truth = boxes_of([car, beyond], [1.0, 1.0], [0, 0])
        if index == 0:
            truth = boxes_of([car, beyond, [0.0, 4, 0, 1, 1, 1.5, 0, 0, 0]], [1.0] * 3, [0, 0, 4])
        found = boxes_of([[3.2, *car[1:]], clutter], [(0.9, 0.8, 0.6)[index % 3], 0.5], [0, 0])
        frames.append(FrameResult(f"f{index}", found, truth))
    write_detections(frames, class_names, path)
    return path


def test_thresholds_are_the_confidences_of_the_largest_f1(
    tiny: tuple[nn.Module, ModelSpec], autoware_onnx: Path, tmp_path: Path
) -> None:
    spec = tiny[1]
    detections = frames_file(tmp_path / "d.jsonl", spec.class_names)
    measured = measure_thresholds(detections, spec)
    car, pedestrian = measured.rows[0], measured.rows[4]
    # All hits lie above 0.6, all clutter at 0.5: F1 is 1 at 0.6. One pedestrian is too few.
    assert car[0].value == pytest.approx(0.6, abs=1e-4)
    assert (car[0].measured, car[0].max_f1, car[0].num_ground_truth) == (True, 1.0, 30)
    assert (pedestrian[0].measured, pedestrian[0].value, pedestrian[0].num_ground_truth) == (False, 0.35, 1)
    assert not any(item.measured for item in car[1:])
    out = tmp_path / "bundle"
    assert main(["--onnx-dir", str(autoware_onnx), "--out", str(out), "--detections", str(detections)]) == 0
    scores = parameters(out)["model_params"]["detection_score_thresholds"]["min_confidence_scores"]
    assert scores["CAR"] == [car[0].value, 0.35, 0.35, 0.35]
    # The detection that set the threshold passes it.
    assert np.float32(scores["CAR"][0]) <= np.float32(0.6)
    readme = (out / "README.md").read_text()
    assert "30 frames, d.jsonl, sha256 " in readme
    assert "usual threshold is 0.35" in readme


def test_a_bundle_s_parameters_are_what_the_node_decodes_with(
    good: Path, bundle: Path, tiny: tuple[nn.Module, ModelSpec]
) -> None:
    spec = tiny[1]
    assert decode_params_of_bundle(good, spec) == AutowareDecodeParams.from_spec(spec)
    change(bundle, f"{SCORES}.CAR", [0.5, 0.25, 0.35, 0.35])
    assert decode_params_of_bundle(bundle, spec).score_thresholds[0] == (0.5, 0.25, 0.35, 0.35)
    with pytest.raises(ConfigError, match="is of classes"):
        decode_params_of_bundle(bundle, dataclasses.replace(spec, class_names=("a", "b", "c", "d", "e")))
    change(bundle, "version", "v3.0")
    with pytest.raises(ExportError, match="is no bundle"):
        decode_params_of_bundle(bundle, spec)


def detected(path: Path, facts: dict[str, str], class_names: tuple[str, ...]) -> Path:
    """A folder as `deploy.detect` leaves it."""
    path.mkdir()
    frames_file(path / "detections.jsonl", class_names)
    info = path / "infos.pkl"
    info.write_bytes(b"infos")
    manifest = build_manifest(
        "detections", {"info_file": info}, {"detections.jsonl": path / "detections.jsonl"}, facts, ("onnxruntime",)
    )
    write_manifest(path / "manifest.json", manifest)
    return path


def test_thresholds_of_another_model_are_refused(
    tiny: tuple[nn.Module, ModelSpec], autoware_onnx: Path, tmp_path: Path
) -> None:
    facts = metadata(onnx.load(autoware_onnx / HEAD))
    same = {key: facts[key] for key in ("weights", "precision")}
    right = detected(tmp_path / "right", same, tiny[1].class_names)
    out = tmp_path / "bundle"
    given = ["--onnx-dir", str(autoware_onnx), "--out", str(out), "--detections"]
    assert main([*given, str(right)]) == 0
    readme = (out / "README.md").read_text()
    assert "the node's decode make of infos.pkl (sha256 " in readme
    require_same_model(right / "detections.jsonl", same)
    wrong = detected(tmp_path / "wrong", {**same, "precision": "int8"}, tiny[1].class_names)
    with pytest.raises(DataError, match="precision int8; the bundle's has fp16"):
        require_same_model(wrong, same)
    assert main([*given, str(wrong)]) == 2


def test_detections_of_other_classes_are_refused(tiny: tuple[nn.Module, ModelSpec], tmp_path: Path) -> None:
    detections = frames_file(tmp_path / "d.jsonl", ("tram", "b", "c", "d", "e"))
    with pytest.raises(DataError, match="classes are car, truck"):
        measure_thresholds(detections, tiny[1])
