"""Six tasks from the command line: exported, verified and scored in INT8; boxes of the float graph are mmdet3d's."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from deploy.export import main
from models.build import build_model, load_checkpoint
from models.config import load_model_config
from models.spec import BRANCH_ORDER, PILLAR_FEATURES, ModelSpec
from runtime.opening import open_detector
from tests.deploy.commands.in_process import config_file
from tests.runtime.shapely_overlaps import Overlaps

if TYPE_CHECKING:
    from tests.deploy.commands.conftest import Deployment

CONFIG = Path(__file__).parents[2] / "data" / "deploy" / "tiny_tasks.py"
SPEC = ModelSpec.from_config(load_model_config(CONFIG))
OUTPUTS = [f"{name}_{task}" for task in range(6) for name in BRANCH_ORDER]


@pytest.fixture(scope="module")
def data(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small dataset in ten classes, its frames as the training split too."""
    root = tmp_path_factory.mktemp("tasks") / "data"
    shutil.copytree(deployment.data_root, root)
    info = pickle.loads((root / "centerpoint_infos_val.pkl").read_bytes())
    info["metainfo"]["classes"] = list(SPEC.class_names)
    for split in ("val", "train"):
        (root / f"centerpoint_infos_{split}.pkl").write_bytes(pickle.dumps(info, protocol=4))
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model: Any = build_model(load_model_config(CONFIG), seed=5)
    with torch.no_grad():
        for task in model.pts_bbox_head.task_heads:
            task.heatmap[-1].bias.fill_(-2.0)
            task.heatmap[-1].weight.mul_(6.0)
    path = tmp_path_factory.mktemp("tasks") / "checkpoint.pth"
    torch.save({"state_dict": model.state_dict(), "meta": {"class_names": list(SPEC.class_names)}}, path)
    return path


def _run(folder: Path, checkpoint: Path, data_root: Path, *options: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BUILD_WORKING_DIRECTORY", str(folder))
        return main(
            [
                "--mode=onnx",
                f"--deploy-config={config_file(folder)}",
                f"--model-config={CONFIG}",
                f"--checkpoint={checkpoint}",
                f"--data-root={data_root}",
                "--num-samples=-1",
                "--num-verify-samples=1",
                f"--work-dir={folder / 'out'}",
                "--log-level=WARNING",
                *options,
            ]
        )


@pytest.fixture(scope="module")
def int8(checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    assert _run(folder, checkpoint, data, "--precision=int8") == 0
    return folder / "out"


@pytest.fixture(scope="module")
def fp32(checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fp32")
    (folder / "deploy_config.py").write_text("verification = dict(enabled=False)\nevaluation = dict(enabled=False)\n")
    assert _run(folder, checkpoint, data) == 0
    return folder / "out"


def test_int8_of_six_tasks_is_verified_by_every_output_and_scored_by_every_class(int8: Path) -> None:
    results = json.loads((int8 / "results.json").read_text())
    (verification,) = results["verifications"]
    assert verification["passed"]
    assert [item["comparison"]["name"] for item in verification["outputs"]] == [PILLAR_FEATURES, *OUTPUTS]
    assert all(item["comparison"]["relative_l2"] < 0.3 for item in verification["outputs"])
    scored = {item["backend"]: item for item in results["evaluations"]}
    assert {name: item["precision"] for name, item in scored.items()} == {"pytorch": "fp32", "onnx": "int8"}
    for item in scored.values():
        assert item["metrics"]["class_names"] == list(SPEC.class_names)
    manifest = json.loads((int8 / "manifest.json").read_text())
    layers = {item["path"]: item["quantized"] for item in manifest["settings"]["quantization_structure"]["layers"]}
    heads = {path: quantized for path, quantized in layers.items() if path.startswith("pts_bbox_head.task_heads.")}
    # All but the last convolution of each branch: one of two, two of three, none of one.
    chains = {"heatmap": 1, "reg": 1, "height": 2, "dim": 1, "rot": 1, "vel": 0, "iou": 1}
    assert sum(heads.values()) == 6 * sum(chains.values())
    for task in range(6):
        for name, number in chains.items():
            assert sum(q for path, q in heads.items() if f".{task}.{name}." in path) == number


def test_boxes_of_the_graph_are_mmdet3ds(
    fp32: Path, checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What mmdet3d's own `predict` makes of the same cloud, in its order: task by task."""
    model: Any = build_model(load_model_config(CONFIG))
    load_checkpoint(model, checkpoint)
    from mmdet3d.models.layers import box3d_nms
    from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes

    overlaps = Overlaps()
    monkeypatch.setattr(box3d_nms, "nms_rotated", overlaps)
    owner = np.repeat(np.arange(6), [len(task.class_names) for task in SPEC.tasks])
    with open_detector("onnx", spec=SPEC, onnx_dir=fp32 / "onnx") as detector:
        for path in sorted((data / "lidar").iterdir()):
            points = np.fromfile(path, np.float32).reshape(-1, 5)
            sample = Det3DDataSample(metainfo={"box_type_3d": LiDARInstance3DBoxes})
            batch = {"inputs": {"points": [torch.from_numpy(points)]}, "data_samples": [sample]}
            batch = model.data_preprocessor(batch, False)
            with torch.no_grad():
                expected = model.predict(batch["inputs"], batch["data_samples"])[0].pred_instances_3d
            found = detector.detect(points).detections
            found = found.select(np.argsort(owner[found.labels], kind="stable"))
            assert not overlaps.undecided
            assert len(found) == len(expected.scores_3d) > 30
            np.testing.assert_array_equal(found.labels, expected.labels_3d.numpy())
            assert len(set(owner[found.labels])) == 6
            boxes = expected.bboxes_3d.tensor.numpy().copy()
            boxes[:, 2] += boxes[:, 5] / 2
            np.testing.assert_allclose(found.boxes, boxes, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(found.scores, expected.scores_3d.numpy(), atol=1e-5)


def test_the_graph_says_its_tasks(fp32: Path) -> None:
    import onnx

    graph = onnx.load(fp32 / "onnx" / "pts_backbone_neck_head.onnx")
    assert [value.name for value in graph.graph.output] == OUTPUTS
    stored = {entry.key: entry.value for entry in graph.metadata_props}["centerpoint.spec"]
    assert ModelSpec.from_json(stored, "head") == SPEC
    kernels = {tuple(item.dims) for item in graph.graph.initializer if "heatmap.1" in item.name and len(item.dims) == 4}
    assert kernels == {(1, 64, 3, 3), (2, 64, 3, 3)}


def test_what_takes_one_task_says_so(
    fp32: Path, checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from deploy.autoware_bundle import main as bundle

    assert bundle([f"--onnx-dir={fp32 / 'onnx'}", f"--out={tmp_path / 'bundle'}"]) == 2
    assert "6 tasks with a head each; the node binds the 6 outputs of one head" in capsys.readouterr().err
    assert _run(tmp_path, checkpoint, data, "--decode=autoware") == 2
    message = capsys.readouterr().err
    assert "the node binds one head's 6 outputs and suppresses across all of its classes" in message
    assert "has 6 tasks with a head each" in message
    assert not (tmp_path / "out" / "onnx").exists()
