"""An autoware-ml model through the commands: from its YAML and its checkpoint to boxes, and to the vehicle's boxes.

What is right is what autoware-ml's own modules made of the same weights and clouds (`tests/models/test_autoware_ml.py`
says how).
"""

from __future__ import annotations

import dataclasses
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from base.errors import ExportError
from base.onnx_files import read_onnx
from deploy import autoware_bundle, export
from export.autoware_ml_onnx import adopt_their_files
from export.onnx_graph import metadata
from models.build import build_model, load_checkpoint
from models.components import extract_components
from models.config import load_model_config
from models.spec import ModelSpec
from runtime.autoware_params import AutowareDecodeParams
from runtime.autoware_postprocess import without_remapping
from runtime.opening import open_detector
from runtime.scatter import scatter
from tests.models.autoware_ml_files import small_cloud, write_checkpoint, write_configs

GOLDEN = Path(__file__).parents[2] / "data" / "autoware_ml" / "small.npz"
HEAD = "pts_backbone_neck_head"
NOTHING_ELSE = "evaluation = dict(enabled=False)\nverification = dict(enabled=False)\n"


@dataclasses.dataclass(frozen=True)
class Files:
    """What a person has who trained with autoware-ml."""

    config: Path
    checkpoint: Path
    deploy_config: Path

    def options(self) -> list[str]:
        """Of every command."""
        return ["--model-config", str(self.config), "--checkpoint", str(self.checkpoint), "--log-level", "WARNING"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    root = tmp_path_factory.mktemp("autoware_ml")
    (root / "deploy.py").write_text(NOTHING_ELSE)
    # As many pillars as a large model has: what is static in a bundle would be gigabytes if one axis were mistaken.
    config = write_configs(root / "configs", **{"max_voxels: 2000": "max_voxels: 96000"})
    return Files(config, write_checkpoint(root / "best.ckpt"), root / "deploy.py")


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[Any]]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def onnx_dir(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX files of `deploy.export`, in the model's own convention."""
    out = tmp_path_factory.mktemp("exported")
    given = ["--mode=onnx", "--deploy-config", str(files.deploy_config), "--work-dir", str(out / "run")]
    assert export.main([*given, *files.options()]) == 0
    return out / "run" / "onnx"


@pytest.fixture(scope="module")
def bundle(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vehicle") / "bundle"
    assert autoware_bundle.main(["--out", str(out), "--precision", "fp32", *files.options()]) == 0
    return out


def _spec(folder: Path) -> ModelSpec:
    return ModelSpec.from_json(metadata(read_onnx(folder / f"{HEAD}.onnx"))["spec"], HEAD)


@pytest.mark.parametrize("seed", [0, 1])
def test_boxes_of_the_exported_files_are_theirs(onnx_dir: Path, golden: dict[str, NDArray[Any]], seed: int) -> None:
    with open_detector("onnx", spec=_spec(onnx_dir), onnx_dir=onnx_dir) as detector:
        found = detector.detect(small_cloud(seed)).detections
    np.testing.assert_array_equal(found.labels, golden[f"labels_3d_{seed}"])
    np.testing.assert_allclose(found.scores, golden[f"scores_3d_{seed}"], rtol=0, atol=5e-5)
    np.testing.assert_allclose(found.boxes, golden[f"bboxes_3d_{seed}"], rtol=0, atol=5e-4)


def _outputs(folder: Path, golden: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """What a folder's head makes of the pillars of cloud 0."""
    canvas = scatter(golden["pillar_features"], golden["coords"].astype(np.int32), _spec(folder))
    session = onnxruntime.InferenceSession(folder / f"{HEAD}.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"spatial_features": canvas}), strict=True))


def _boxes_of_the_node(folder: Path, golden: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """What Autoware's node makes of the head's outputs where it drops and suppresses nothing: it asks no file for its
    convention, and takes width before length and a yaw clockwise from +y."""
    spec = dataclasses.replace(_spec(folder), rot_y_axis_reference=True)
    outputs = _outputs(folder, golden)
    params = dataclasses.replace(
        AutowareDecodeParams.from_spec(spec, {name: [0.1] * 4 for name in spec.class_names}),
        yaw_norm_thresholds=(0.0,) * 4,
        circle_nms_distance_m=1e-3,
        iou_nms_threshold=0.999,
    )
    return without_remapping(outputs, spec, params).boxes.boxes


def _differences(boxes: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each expected box, how far the nearest is in size and in the direction of its front."""
    nearest = np.linalg.norm(boxes[None, :, :3] - expected[:, None, :3], axis=2).argmin(axis=1)
    found = boxes[nearest]
    assert np.abs(found[:, :3] - expected[:, :3]).max() < 1e-3
    front = [np.stack([np.cos(yaw), np.sin(yaw)], axis=1) for yaw in (found[:, 6], expected[:, 6])]
    sizes = np.abs(found[:, 3:6] - expected[:, 3:6]).max(axis=1)
    worst: NDArray[np.float32] = np.maximum(sizes, np.linalg.norm(front[0] - front[1], axis=1))
    return worst


def test_the_node_reads_right_boxes_of_a_bundle(bundle: Path, golden: dict[str, NDArray[Any]]) -> None:
    expected = golden["bboxes_3d_0"]
    assert np.abs(expected[:, 3] - expected[:, 4]).max() > 0.1  # a length is no width
    assert _differences(_boxes_of_the_node(bundle, golden), expected).max() < 1e-3


def test_a_bundle_may_leave_classes_out(
    files: Files, bundle: Path, golden: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    """Those that the node does not know, for one; the other channels are the same."""
    given = ["--out", str(tmp_path / "bundle"), "--precision", "fp32", *files.options()]
    assert autoware_bundle.main([*given, "--leave-out", "truck"]) == 0
    spec = _spec(tmp_path / "bundle")
    assert spec.class_names == ("car", "bicycle", "pedestrian")
    whole, part = (_outputs(folder, golden) for folder in (bundle, tmp_path / "bundle"))
    np.testing.assert_array_equal(part.pop("heatmap"), whole.pop("heatmap")[:, [0, 2, 3]])
    for name, value in part.items():
        np.testing.assert_array_equal(value, whole[name])


def test_classes_that_cannot_be_left_out_are_named(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--out", str(tmp_path / "bundle"), *files.options()]
    for names in (["tram"], ["car", "truck", "bicycle", "pedestrian"]):
        assert autoware_bundle.main([*given, "--leave-out", *names]) == 2
        assert "cannot be left out of model 'voxel040_small'" in capsys.readouterr().err
    assert autoware_bundle.main(["--onnx-dir", str(tmp_path), "--out", str(tmp_path / "b"), "--leave-out", "car"]) == 2
    assert "--leave-out needs --model-config" in capsys.readouterr().err


def test_the_node_reads_wrong_boxes_of_a_head_as_it_was_trained(
    onnx_dir: Path, golden: dict[str, NDArray[Any]]
) -> None:
    """So does what autoware-ml's own exporter writes: the test above could fail."""
    assert np.median(_differences(_boxes_of_the_node(onnx_dir, golden), golden["bboxes_3d_0"])) > 0.5


def test_frames_that_cannot_be_read_are_told_before_any_work(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_configs(tmp_path, T4Detection3DDataModule="OwnDataModule")
    given = ["--mode=onnx", "--work-dir", str(tmp_path / "out"), "--model-config", str(config)]
    assert export.main([*given, "--checkpoint", str(files.checkpoint), "--data-root", str(tmp_path)]) == 2
    assert "has no val_dataloader with a dataset" in capsys.readouterr().err
    given += ["--deploy-config", str(files.deploy_config)]
    assert export.main([*given, "--checkpoint", str(files.checkpoint)]) == 0


def test_what_is_wrong_in_a_config_ends_the_command(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_configs(tmp_path, **{"use_velocity: true": "use_iou: true"})
    given = ["--mode=onnx", "--work-dir", str(tmp_path / "out"), "--model-config", str(config)]
    assert export.main([*given, "--checkpoint", str(files.checkpoint)]) == 2
    assert "use_iou" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def their_onnx(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files as autoware-ml's exporter writes them: its names, its open axes, its stamps, the trained convention."""
    folder = tmp_path_factory.mktemp("their_onnx")
    model = build_model(load_model_config(files.config))
    load_checkpoint(model, files.checkpoint)
    parts = extract_components(model, ModelSpec.from_config(load_model_config(files.config)))
    maps = ["heatmap", "reg", "height", "dim", "rot", "vel"]
    axes: dict[str, dict[int, str]] = {"input_features": {0: "num_voxels", 1: "num_max_points"}}
    axes["pillar_features"] = {0: "num_voxels"}
    axes |= {name: {0: "batch_size", 2: "H", 3: "W"} for name in ("spatial_features", *maps)}
    for name, inputs, outputs, sample in (
        ("pts_voxel_encoder", "input_features", ["pillar_features"], torch.rand(7, 32, 11)),
        (HEAD, "spatial_features", maps, torch.rand(1, 32, 32, 32)),
    ):
        path = folder / f"{name}_centerpoint.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                parts[name],
                (sample,),
                str(path),
                input_names=[inputs],
                output_names=outputs,
                dynamic_axes={tensor: axes[tensor] for tensor in (inputs, *outputs)},
                opset_version=17,
                do_constant_folding=False,
                dynamo=False,
            )
        stamped = onnx.load(path)
        stamped.producer_name, stamped.producer_version, stamped.model_version = "Autoware-ML", "be5b967", 1
        stamped.domain = "jp.tier4.autoware-ml"
        stamped.metadata_props.add(key="release", value="v0.0.1")
        stamped.metadata_props.add(key="point_cloud_range", value="-6.4,-6.4,-3.0,6.4,6.4,5.0")
        onnx.save(stamped, path)
    return folder


def test_their_onnx_files_become_engines(
    files: Files, their_onnx: Path, golden: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    """In the vehicle's convention, which the graph is brought into; what the files said of themselves is kept."""
    given = [
        "--mode=trt",
        "--onnx-path",
        str(their_onnx),
        "--rot-y-axis-reference",
        "--work-dir",
        str(tmp_path / "out"),
    ]
    assert export.main([*given, "--deploy-config", str(files.deploy_config), *files.options()]) == 0
    adopted = tmp_path / "out" / "onnx"
    assert _differences(_boxes_of_the_node(adopted, golden), golden["bboxes_3d_0"]).max() < 1e-3
    said = metadata(read_onnx(adopted / f"{HEAD}.onnx"))
    assert said["autoware_ml.release"] == "v0.0.1"
    assert said["autoware_ml.producer"] == "Autoware-ML be5b967"
    assert said["autoware_ml.point_cloud_range"] == "-6.4,-6.4,-3.0,6.4,6.4,5.0"
    assert said["rot_convention"] == "y_axis_clockwise"
    assert len(list((tmp_path / "out" / "tensorrt").glob("*.engine"))) == 2


def test_a_bundle_of_their_onnx_files_gives_their_boxes(
    files: Files, their_onnx: Path, bundle: Path, golden: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    """Without a checkpoint: the node reads the model's boxes, by the parameters of a bundle of the checkpoint."""
    out = tmp_path / "bundle"
    given = ["--model-config", str(files.config), "--onnx-path", str(their_onnx)]
    assert autoware_bundle.main([*given, "--out", str(out)]) == 0
    assert autoware_bundle.main(["--check", str(out)]) == 0
    assert _differences(_boxes_of_the_node(out, golden), golden["bboxes_3d_0"]).max() < 1e-3
    for name in ("ml_package.param.yaml", "detection_class_remapper.param.yaml"):
        assert (out / name).read_text() == (bundle / name).read_text()
    assert "not trained" not in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--onnx-dir", "x", "--onnx-path", "theirs"], "--onnx-path needs --model-config"),
        (["--model-config", "config", "--onnx-path", "theirs", "--leave-out", "car"], "--leave-out needs"),
        (["--model-config", "config", "--onnx-path", "theirs", "--precision", "fp16"], "stay in theirs"),
        (["--model-config", "config", "--onnx-path", "none"], "does not hold pts_voxel_encoder_centerpoint.onnx"),
    ],
)
def test_what_their_onnx_files_cannot_be_given_with(
    files: Files,
    their_onnx: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    message: str,
) -> None:
    paths = {"config": str(files.config), "theirs": str(their_onnx), "none": str(tmp_path)}
    assert autoware_bundle.main([*(paths.get(item, item) for item in given), "--out", str(tmp_path / "out")]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def _swap_classes(folder: Path) -> None:
    """Shapes stay what they are."""
    path = folder / f"{HEAD}_centerpoint.onnx"
    model = onnx.load(path)
    model.metadata_props.add(key="class_names", value="truck,car,bicycle,pedestrian")
    onnx.save(model, path)


def _turn_off_constants(folder: Path) -> None:
    """The weights of `dim` come from a node, so that nothing can be rearranged."""
    path = folder / f"{HEAD}_centerpoint.onnx"
    model = onnx.load(path)
    node = next(node for node in model.graph.node if "dim" in node.output)
    model.graph.node.insert(0, onnx.helper.make_node("Neg", [node.input[1]], ["turned"], name="turn"))
    next(node for node in model.graph.node if "dim" in node.output).input[1] = "turned"
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("replace", "change", "message"),
    [
        ({"class_names: [car, truck,": "class_names: [car,", "num_classes: 4": "num_classes: 3"}, None, "this model"),
        ({}, _swap_classes, "its class_names is 'truck', 'car', .*; the model config has car, truck"),
        ({}, _turn_off_constants, "not from a convolution with constant weights"),
        ({}, lambda folder: (folder / f"{HEAD}_centerpoint.onnx").write_bytes(b"none"), "not a whole ONNX file"),
    ],
)
def test_their_onnx_files_that_cannot_be_taken_are_named(
    their_onnx: Path, tmp_path: Path, replace: dict[str, str], change: Any, message: str
) -> None:
    folder = Path(shutil.copytree(their_onnx, tmp_path / "onnx"))
    if change is not None:
        change(folder)
    spec = ModelSpec.from_config(load_model_config(write_configs(tmp_path / "configs", **replace)))
    with pytest.raises(ExportError, match=message):
        adopt_their_files(folder, dataclasses.replace(spec, rot_y_axis_reference=True), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_say_what_they_are_as_autoware_mls_do(onnx_dir: Path) -> None:
    entries = {entry.key: entry.value for entry in read_onnx(onnx_dir / f"{HEAD}.onnx").metadata_props}
    assert {key: value for key, value in entries.items() if not key.startswith("centerpoint.")} == {
        "config_name": "detection3d/centerpoint/voxel040_small",
        "task": "detection3d",
        "model_name": "centerpoint",
        "module": f"{HEAD}_centerpoint",
        "release": "unversioned",
        "has_twist": "true",
        "class_names": "car,truck,bicycle,pedestrian",
        "voxel_size": "0.4,0.4,8.0",
    }
